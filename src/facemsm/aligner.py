"""The whole way of a face, photo to landmarks (Algorithm 2)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from facemsm.confidence.model import detail
from facemsm.detectors import FaceDetector, get_detector
from facemsm.errors import FacemsmError
from facemsm.face import Face
from facemsm.geometry import (
    CANONICAL_MARGIN,
    CROP_ENLARGEMENT,
    Matrix,
    apply_affine,
    box_to_crop,
    check_boxes,
    compose,
    invert,
    similarity,
    theta_to_matrix,
)
from facemsm.imaging.io import check_image, read_image
from facemsm.imaging.warping import warp
from facemsm.runtime.model import DICTIONARY, HOURGLASS, PRIOR, STGAN, Model, load_model
from facemsm.runtime.session import LANDMARKS, Network
from facemsm.schemes import LandmarkScheme
from facemsm.shapes.dictionary import ShapeDictionary
from facemsm.shapes.posterior import ShapePrior
from facemsm.shapes.reconstruction import Reconstruction, reconstruct
from facemsm.typing import FloatArray, Image, PathLike

BATCH = 32
"""Faces that a thread works on at once; bounds the memory."""

IDENTITY_THETA = CANONICAL_MARGIN / CROP_ENLARGEMENT * np.eye(2, 3)
"""θ without stage 1: the box as it is, its larger side where the face's would be."""

RETRY_BELOW, RETRY_MIN_GAIN = 0.65, 0.2
"""A face with a mean score (Eq. 9) below the first is looked at again, turned. A turn is believed if its mean score is
above that and higher by the second. Chosen on faces held out in training, bare and behind painted occluders, such that
of seven times 175 upright ones none was turned, with something to spare."""

RETRY_ROTATIONS = np.deg2rad([72, -72, 144, -144])
"""Stage 1 was trained on faces turned by up to 40° either way; with these it sees them from all around."""


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """One face on its way: its photo, its box, and the map from the photo to stage 1's crop."""

    image: Image
    box: FloatArray
    detection_score: float | None
    to_crop: Matrix


class StageOutputs(NamedTuple):
    """What stages 1 and 2 make of N faces.

    Attributes:
        theta: (N, 2, 3), Eq. 1.
        to_photo: (N, 2, 3), canonical to photo pixels.
        canonical: (N, S, S, 3) uint8, the upright faces.
        points: (N, L, 2) float32, canonical pixels.
        scores: (N, L) float32, Eq. 9 relative to a perfect heatmap, in [0, 1].
        spread: (N, L, 3) float32, of the heatmaps, see :class:`facemsm.heatmaps.Decoded`.
        heatmaps: (N, L, 64, 64) float32, if they are kept.
    """

    theta: Matrix
    to_photo: Matrix
    canonical: Image
    points: FloatArray
    scores: FloatArray
    spread: FloatArray
    heatmaps: FloatArray | None


class Aligner:
    """Finds the landmarks of faces. Loads its networks once; use one for many photos.

    Args:
        model: a checked model.
        detector: finds the faces where no boxes are given; the bundled one by default.
        stages: which stages run; 2 must be among them. Without 1 the box is taken as it is; without 3 no point is
            moved, and without a calibration ``occluded`` is then False everywhere.
        reconstruction: settings of stage 3; by default the paper's form or the posterior, whichever measured better
            when the model was calibrated, and the paper's for a model without calibration.
        keep: ``"heatmaps"`` and ``"canonical"`` are kept in every ``Face``, at 1.1 MB a face.
        threads: CPU threads, which share the faces of one call.
        look_again: whether a doubtful face is looked at once more from every side; the paper does not.

    Raises:
        FacemsmError: unknown stages or names to keep, or a posterior by a model without calibration.
    """

    def __init__(
        self,
        model: Model,
        *,
        detector: FaceDetector | None = None,
        stages: Collection[int] = (1, 2, 3),
        reconstruction: Reconstruction | None = None,
        keep: Collection[str] = (),
        threads: int = 1,
        look_again: bool = True,
    ) -> None:
        if 2 not in stages or not set(stages) <= {1, 2, 3}:
            raise FacemsmError(
                f"stages are {sorted(stages)}: choose from 1, 2 and 3, and keep 2, which finds the points"
            )
        if not set(keep) <= {"heatmaps", "canonical"}:
            raise FacemsmError(f"keep is {sorted(keep)}: choose from heatmaps and canonical")
        if threads < 1:
            raise FacemsmError(f"threads is {threads}: at least 1 is needed")
        self.model, self.stages, self.keep = model, frozenset(stages), frozenset(keep)
        calibration = model.calibration
        self.reconstruction = reconstruction or Reconstruction(calibration.method if calibration else "exemplars")
        if self.reconstruction.method == "posterior" and not calibration:
            raise FacemsmError(f"{model.folder}: has no calibration for the posterior; run 'facemsm calibrate' on it")
        self._threads, self._look_again = threads, look_again and 1 in stages
        self._given_detector = detector
        self._generator = Network(model.path(STGAN), ["theta"]) if 1 in stages else None
        kept = ["heatmaps"] if "heatmaps" in keep else []
        self._hourglass = Network(model.path(HOURGLASS), [*LANDMARKS, *kept])
        self._dictionary = ShapeDictionary.load(model.path(DICTIONARY)) if 3 in stages else None
        self._prior = ShapePrior.load(model.path(PRIOR), model.scheme.count) if calibration else None

    @classmethod
    def from_pretrained(
        cls,
        name: PathLike = "68",
        *,
        detector: FaceDetector | None = None,
        stages: Collection[int] = (1, 2, 3),
        stage3: Literal["exemplars", "posterior"] | None = None,
        thresholds: Mapping[str, float] | None = None,
        keep: Collection[str] = (),
        threads: int = 1,
    ) -> Aligner:
        """An aligner with bundled weights, offline, or with those in a model folder.

        Args:
            name: a bundled model's name or a folder's path.
            detector, stages, keep, threads: as for :class:`Aligner`.
            stage3: ``"exemplars"``, the paper's form, or ``"posterior"``; by default as for :class:`Aligner`.
            thresholds: scores (Eq. 9) below which the paper's form rebuilds a point: ``"contour"`` and ``"features"``.
                They ask for that form.

        Raises:
            FacemsmError: no such model, a damaged one, or an unknown option.
        """
        chosen = dict(thresholds or {})
        if not set(chosen) <= {"contour", "features"}:
            raise FacemsmError(f"thresholds are {sorted(chosen)}: choose from contour and features")
        if chosen and stage3 == "posterior":
            raise FacemsmError("thresholds are for stage 3 by exemplars: the posterior has none")
        settings = None
        if chosen or stage3:
            settings = Reconstruction(stage3 or "exemplars")
            settings = replace(
                settings,
                contour_threshold=chosen.get("contour", settings.contour_threshold),
                feature_threshold=chosen.get("features", settings.feature_threshold),
            )
        model = load_model(name)
        return cls(model, detector=detector, stages=stages, reconstruction=settings, keep=keep, threads=threads)

    @property
    def scheme(self) -> LandmarkScheme:
        """The landmarks that are found."""
        return self.model.scheme

    @property
    def description(self) -> dict[str, Any]:
        """What a report must say about the weights."""
        return {
            "weights": self.model.name,
            "checksum": self.model.checksum,
            "stages": sorted(self.stages),
            "reconstruction": asdict(self.reconstruction) if 3 in self.stages else None,
            **self.model.provenance,
        }

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        # Faces are shared out, not the work on one: the networks' layers are too small to be worth splitting.
        return ThreadPoolExecutor(self._threads)

    @cached_property
    def detector(self) -> FaceDetector:
        """The face detector, loaded when it is first needed."""
        return self._given_detector or get_detector()

    def align(self, image: PathLike | Image, boxes: ArrayLike | None = None) -> list[Face]:
        """Landmarks of the faces in one photo.

        Args:
            image: a path, or (H, W, 3) uint8 RGB.
            boxes: (N, 4) ``[x_min, y_min, x_max, y_max]`` in photo pixels, tight around the landmarks or a usual
                detector's. The detector finds them if None.

        Returns:
            A face for each box, in their order; the detector's, best first.

        Raises:
            FacemsmError: the photo cannot be read, or a box is not one.
        """
        return self.align_batch([image], [boxes])[0]

    def align_batch(
        self, images: Sequence[PathLike | Image], boxes: Sequence[ArrayLike | None] | None = None
    ) -> list[list[Face]]:
        """Landmarks of the faces in several photos, the same numbers as one by one.

        Args:
            images: as for :meth:`align`.
            boxes: one entry a photo, as for :meth:`align`; None for the detector everywhere.

        Raises:
            FacemsmError: as :meth:`align`, or ``boxes`` has not as many entries as there are photos.
        """
        if boxes is None:
            boxes = [None] * len(images)
        if len(boxes) != len(images):
            raise FacemsmError(f"boxes for {len(boxes)} photos, but there are {len(images)} photos")
        jobs: list[_Job] = []
        counts: list[int] = []
        for index, (image, given) in enumerate(zip(images, boxes, strict=True)):
            where = f"image {index}" if isinstance(image, np.ndarray) else str(image)
            found = self._jobs(image, given, where)
            jobs += found
            counts.append(len(found))
        share = min(BATCH, max(1, -(-len(jobs) // self._threads)))
        parts = [jobs[i : i + share] for i in range(0, len(jobs), share)]
        work = self._pool.map if len(parts) > 1 and self._threads > 1 else map
        faces = [face for found in work(self._align_jobs, parts) for face in found]
        ends = np.cumsum(counts, dtype=int)
        return [faces[end - count : end] for end, count in zip(ends, counts, strict=True)]

    def _jobs(self, image: PathLike | Image, boxes: ArrayLike | None, where: str) -> list[_Job]:
        photo = check_image(image, where) if isinstance(image, np.ndarray) else read_image(Path(image))
        if boxes is None:
            detections = self.detector.detect(photo)
            checked = detections[:, :4]
            scores: list[float | None] = [float(score) for score in detections[:, 4]]
        else:
            checked = check_boxes(boxes, photo.shape, where)
            scores = [None] * len(checked)
        size = self.model.codec.input_size
        return [
            _Job(photo, box, score, to_crop)
            for box, score, to_crop in zip(checked, scores, box_to_crop(checked, size), strict=True)
        ]

    def observe(self, image: PathLike | Image, boxes: ArrayLike) -> StageOutputs:
        """Stages 1 and 2 alone, for up to ``BATCH`` boxes in a photo; arguments and errors as for :meth:`align`."""
        return self._observe(self._jobs(image, boxes, "image"))

    def _observe(self, jobs: Sequence[_Job]) -> StageOutputs:
        """Algorithm 2 to line 4, for up to BATCH faces; doubtful ones from all sides."""
        seen = self._look(jobs)
        doubtful = np.flatnonzero(seen.scores.mean(1) < RETRY_BELOW).tolist() if self._look_again else []
        least = np.maximum(RETRY_BELOW, seen.scores[doubtful].mean(1) + RETRY_MIN_GAIN)
        for angle in RETRY_ROTATIONS if doubtful else ():
            turn = similarity(angle, centre=2 * [(self.model.codec.input_size - 1) / 2])
            again = self._look([replace(jobs[i], to_crop=compose(turn, jobs[i].to_crop)) for i in doubtful])
            again = again._replace(theta=compose(similarity(-angle), again.theta))  # to the crop as it was
            mean = again.scores.mean(1)
            better = np.flatnonzero(mean > least)
            least[better] = mean[better]
            rows = np.array(doubtful)[better]
            for kept, new in zip(seen, again, strict=True):
                if kept is not None and new is not None:
                    kept[rows] = new[better]
        return seen

    def _look(self, jobs: Sequence[_Job]) -> StageOutputs:
        """Stages 1 and 2, once."""
        codec = self.model.codec
        size = codec.input_size
        to_crop = np.stack([job.to_crop for job in jobs])
        # Stage 1: where in the crop the canonical face is.
        theta = np.tile(IDENTITY_THETA, (len(jobs), 1, 1))
        if self._generator:
            crops = np.stack([warp(job.image, job.to_crop, size) for job in jobs])
            theta = sanitize_theta(self._generator(crops)[0].astype(np.float64))
        # The canonical face is cut from the photo itself: sampling the crop once more would blur it.
        to_canonical = compose(invert(theta_to_matrix(theta, size)), to_crop)
        canonical = np.stack([warp(job.image, matrix, size) for job, matrix in zip(jobs, to_canonical, strict=True)])
        # Stage 2: a heatmap a point; it is bright at the point (Eq. 8), the mean about its peak is the score (Eq. 9).
        points, intensity, spread, *heatmaps = self._hourglass(canonical)
        scores = np.clip(intensity / codec.ideal_score, 0, 1).astype(np.float32)
        kept = heatmaps[0] if heatmaps else None
        return StageOutputs(theta, invert(to_canonical), canonical, points, scores, spread, kept)

    def _align_jobs(self, jobs: Sequence[_Job]) -> list[Face]:
        """Algorithm 2 for up to BATCH faces."""
        seen = self._observe(jobs)
        points, scores, occlusion = seen.points, seen.scores, None
        occluded, rebuilt = np.zeros(scores.shape, dtype=bool), None
        # Stage 3, the paper's: points with low scores, from the others and similar shapes (Eq. 10, Eq. 11).
        if self._dictionary and self.reconstruction.method == "exemplars":
            points, rebuilt = reconstruct(seen.points, seen.scores, self._dictionary, self.reconstruction)
            occluded = rebuilt
        # Or all points, from what their heatmaps say and how faces are shaped; and what that tells of each.
        if self.model.calibration and self._prior:
            judged = self.model.calibration.judge(
                seen.points, seen.scores, seen.spread, detail(seen.canonical), self._prior, self.scheme
            )
            scores, occlusion = judged.scores, judged.occlusion
            occluded = occlusion >= self.model.calibration.threshold
            if self._dictionary and self.reconstruction.method == "posterior":
                points = judged.points
        # Line 14: back to the photo. θ runs from canonical to crop, so it is θ and not its inverse that is applied.
        points = apply_affine(seen.to_photo, points).astype(np.float32)
        preliminary = apply_affine(seen.to_photo, seen.points).astype(np.float32)
        return [
            Face(
                points=points[i],
                scores=scores[i],
                occluded=occluded[i],
                box=job.box,
                theta=seen.theta[i].astype(np.float32),
                preliminary=preliminary[i],
                detection_score=job.detection_score,
                heatmaps=None if seen.heatmaps is None else seen.heatmaps[i],
                canonical=seen.canonical[i] if "canonical" in self.keep else None,
                occlusion=None if occlusion is None else occlusion[i],
                intensity=seen.scores[i],
                rebuilt=None if rebuilt is None else rebuilt[i],
            )
            for i, job in enumerate(jobs)
        ]


def sanitize_theta(theta: Matrix) -> Matrix:
    """θ as the generator gave it, or no turn where it would show next to nothing, mirror the face or is no number."""
    scale = np.linalg.det(theta[..., :2])
    good = np.isfinite(theta).all((1, 2)) & (scale > 0.04) & (scale < 4.0)
    return np.where(good[:, None, None], theta, IDENTITY_THETA)
