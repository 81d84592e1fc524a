"""Faces from frame to frame: identities, and landmarks with neither jitter nor lag.

The landmarks of one frame give the boxes of the next, so the detector runs only now and then. Constants are per
frame and were chosen at 30 frames per second; ``benchmarks/video.py`` measures what they do.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike

from facemsm.detectors import FaceDetector
from facemsm.detectors.boxes import overlaps
from facemsm.errors import check_number
from facemsm.face import Face
from facemsm.geometry import apply_affine, fit_similarity, tight_box
from facemsm.imaging.io import check_image
from facemsm.typing import Array, FloatArray, Image

NOISE = 0.0015
"""Standard deviation of a point with score 1 about the truth, in face sizes (root of the tight box's area)."""

NOISE_EXPONENT = 4
"""The standard deviation grows with this power of 1 / score: at 0.4 it is 40 times as large, so it says little."""

COMMON_NOISE = 0.15
"""Share of a point's variance that all points have in common, which averaging does not remove."""

PROCESS_NOISE = 0.0003
"""Standard deviation of a still face's motion from one frame to the next, in face sizes."""

MOTION = 3.0
"""A squared deviation this many times the expected one is motion, not noise."""

MATCH_IOU = 0.3
"""IoU from which a box of the detector and one around landmarks are the same face's; they are cut differently."""

DUPLICATE_IOU = 0.6
"""IoU of two tight boxes from which both tracks follow one face: if two tracks overlap, keep the older."""

MIN_SCORE = 0.4
"""Score of a face below which there is none."""

SCENE_CUT_CORRELATION = 0.3
"""Correlation of the brightness of two frames, seen very coarsely, below which there is a scene cut."""

PATIENCE = 10
"""Frames for which a lost face keeps its identity; until then the detector runs in each."""


class Smoother:
    """Smooths one face's landmarks, frame by frame, with the scores as weights.

    The past is carried along by the similarity (weighted by the scores) that takes it to the new points: turning,
    moving and coming closer cost no lag, and a hidden point moves with the face. Then two Kalman filters weigh the
    past against the new: one the pose as a whole, one each point. Measurement noise comes from the score; a deviation
    that noise does not explain raises the variance of the past, so that a seen point follows at once.
    """

    def __init__(self) -> None:
        self._points: Array | None = None
        self._variance: Array = np.zeros(0)
        self._pose_variance: Array = np.zeros(())

    def __call__(self, points: FloatArray, scores: FloatArray) -> FloatArray:
        """The smoothed points (L, 2) float32 of this frame, by its points (L, 2) and scores (L,); pixels."""
        size = np.sqrt(np.prod(np.ptp(points, axis=0) + 1.0))
        noise = (NOISE * size / np.maximum(scores.astype(np.float64), 0.05) ** NOISE_EXPONENT) ** 2
        pose_noise = np.asarray(COMMON_NOISE / np.mean(1 / noise))
        past = self._points
        if past is None:
            self._points, self._variance, self._pose_variance = points.astype(np.float64), noise, pose_noise
            return points
        carried = apply_affine(fit_similarity(past, points, 1 / noise), past)
        moved, rest = carried - past, points - carried
        drift = (PROCESS_NOISE * size) ** 2
        pose_gain, self._pose_variance = _update(self._pose_variance + drift, pose_noise, np.asarray(np.mean(moved**2)))
        gain, self._variance = _update(self._variance + drift, noise, np.mean(rest**2, axis=1))
        self._points = past + pose_gain * moved + gain[:, None] * rest
        return self._points.astype(np.float32)


def _update(variance: Array, noise: Array, deviation: Array) -> tuple[Array, Array]:
    """Kalman gain and the variance after it; the variance before rises to meet a squared deviation that is motion."""
    variance = variance + np.maximum(deviation - MOTION * (variance + noise), 0)
    gain = variance / (variance + noise)
    return gain, (1 - gain) * variance


class FaceAligner(Protocol):
    """What a tracker needs of :class:`facemsm.Aligner`."""

    @property
    def detector(self) -> FaceDetector: ...  # noqa: D102

    def align(self, image: Any, boxes: ArrayLike | None = None) -> list[Face]: ...  # noqa: D102


class TrackedFace(NamedTuple):
    """A face of one frame.

    Attributes:
        id: the same in all frames, from 1 in the order of appearance; never given twice.
        face: its ``points`` are smoothed; ``preliminary`` is stage 2's, of this frame alone.
    """

    id: int
    face: Face


@dataclass(slots=True)
class _Track:
    id: int
    box: FloatArray
    smoother: Smoother = field(default_factory=Smoother)
    missed: int = 0


class Tracker:
    """Follows the faces of a video, frame by frame.

    The detector runs in the first frame, then in every ``detect_every``-th and in each in which a face is missing: its
    score is below ``min_score``, or it left the picture. A detected box that overlaps no known face is a new
    face. After a scene cut all faces are new.

    Attributes:
        detections: how often the detector ran.
    """

    def __init__(
        self, aligner: FaceAligner, *, detect_every: int = 15, smooth: bool = True, min_score: float = MIN_SCORE
    ) -> None:
        """Start without faces.

        Raises:
            FacemsmError: ``detect_every`` is below 1.
        """
        check_number("detect_every", detect_every, 1, whole=True)
        self._aligner, self._detect_every, self._smooth = aligner, detect_every, smooth
        self._min_score = min_score
        self._tracks: list[_Track] = []
        self._view: Array | None = None
        self._ids = 0
        self._until_detection = 0
        self.detections = 0

    def __call__(self, image: Image) -> list[TrackedFace]:
        """The faces of the next frame, (H, W, 3) uint8 RGB, by identity. Errors as :meth:`facemsm.Aligner.align`."""
        image = check_image(image, "frame")
        before, self._view = self._view, _coarse(image)
        if before is not None and _is_scene_cut(before, self._view):
            self._tracks, self._until_detection = [], 0
        found = self._follow(image)
        if self._until_detection <= 0 or any(track.missed for track in self._tracks):
            found |= self._detect(image, found)
            self._until_detection = self._detect_every
        self._until_detection -= 1
        self._tracks = [track for track in self._tracks if track.missed <= PATIENCE]
        return [TrackedFace(key, found[key]) for key in sorted(found)]

    def _follow(self, image: Image) -> dict[int, Face]:
        """Faces that are still where they were; the others are counted as missed."""
        height, width = image.shape[:2]
        seen = [track for track in self._tracks if not track.missed and _inside(track.box, width, height)]
        seen.sort(key=lambda track: track.id)  # if two tracks overlap, keep the older
        faces = self._aligner.align(image, [track.box for track in seen]) if seen else []
        for track in self._tracks:
            track.missed += 1
        return self._accept(seen, faces)

    def _detect(self, image: Image, found: dict[int, Face]) -> dict[int, Face]:
        """Faces that are new or seen again, by the detector."""
        self.detections += 1
        tracks: list[_Track] = []
        known = list(self._tracks)
        for box in self._aligner.detector.detect(image)[:, :4]:
            shared = overlaps(box, np.reshape([track.box for track in known], (-1, 4)).astype(np.float32))
            if len(shared) and shared.max() >= MATCH_IOU:
                track = known.pop(int(shared.argmax()))
                if track.id not in found:
                    tracks.append(_Track(track.id, box))
            else:
                tracks.append(_Track(0, box))
        faces = self._aligner.align(image, [track.box for track in tracks]) if tracks else []
        return self._accept(tracks, faces)

    def _accept(self, tracks: list[_Track], faces: list[Face]) -> dict[int, Face]:
        """Smoothed faces by identity, of those that are faces and are not followed already."""
        accepted = {}
        for track, face in zip(tracks, faces, strict=True):
            box = tight_box(face.points)
            others = [other.box for other in self._tracks if other.missed == 0 and other.id != track.id]
            double = overlaps(box, np.reshape(others, (-1, 4)).astype(np.float32)).max(initial=0) > DUPLICATE_IOU
            if double or face.score < self._min_score:
                continue
            if not track.id:
                self._ids += 1
                track.id = self._ids
            points = track.smoother(face.points, face.scores) if self._smooth else face.points
            track.box, track.missed = tight_box(points), 0
            self._tracks = [other for other in self._tracks if other.id != track.id] + [track]
            accepted[track.id] = replace(face, points=points)
        return accepted


def _coarse(image: Image) -> Array:
    """The brightness of 16 x 16 parts of a picture, its mean taken away, its length 1; zeros for an even picture."""
    grey = cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA).mean(axis=2)
    view = np.asarray(grey - grey.mean(), np.float64)
    return view / np.linalg.norm(view) if view.std() > 1 else 0 * view


def _is_scene_cut(before: Array, view: Array) -> bool:
    """Whether two frames show different things; even pictures, such as black ones, tell nothing."""
    return bool(before.any() and view.any() and np.sum(before * view) < SCENE_CUT_CORRELATION)


def _inside(box: FloatArray, width: int, height: int) -> bool:
    """Whether a box has its centre in the picture; beyond, too little of the face is left."""
    x, y = (box[:2] + box[2:]) / 2
    return bool(0 <= x < width and 0 <= y < height)
