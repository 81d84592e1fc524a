from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from facemsm.errors import FacemsmError
from facemsm.face import Face
from facemsm.geometry import apply_affine, similarity, tight_box
from facemsm.schemes import get_scheme
from facemsm.typing import FloatArray, Image
from facemsm.video.tracking import PATIENCE, Smoother, Tracker
from synthetic_faces import mean_shape

Array = NDArray[np.float64]
SHAPE = (mean_shape() - mean_shape().mean(axis=0)) * 100 / np.ptp(mean_shape(), axis=0).max() + (200, 150)
SEEN = np.full(68, 0.85, np.float32)
JITTER = 0.15  # px, what a face of 100 px has in a clear video


def smoothed(points: Array, scores: FloatArray) -> Array:
    smoother = Smoother()
    return np.stack([smoother(frame.astype(np.float32), scores[i]) for i, frame in enumerate(points)])


def jitter(frames: int, size: float = JITTER) -> Array:
    return np.random.default_rng(0).normal(0, size, (frames, 68, 2))


def moved(motion: Callable[[float], Array], frames: int) -> Array:
    return np.stack([apply_affine(motion(frame / 30), SHAPE) for frame in range(frames)])


def lag(found: Array, truth: Array) -> float:
    """Frames by which ``found`` follows ``truth``, by projecting its errors on the velocity."""
    velocity = np.gradient(truth, axis=0)
    return float(-np.sum((found - truth) * velocity) / np.sum(velocity**2))


# --- Smoothing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [JITTER / 2, JITTER, 2 * JITTER])
def test_the_jitter_of_a_still_face_is_halved(size: float) -> None:
    noisy = SHAPE + jitter(90, size)
    found = smoothed(noisy, np.tile(SEEN, (90, 1)))
    assert found[15:].std(axis=0).mean() < 0.5 * noisy[15:].std(axis=0).mean()
    assert np.diff(found[15:], axis=0).std() < 0.4 * np.diff(noisy[15:], axis=0).std()
    assert np.abs(found[30:].mean(axis=0) - SHAPE).max() < size


def sway(t: float) -> Array:
    shift = (60 * np.sin(np.pi * t), 20 * np.sin(1.4 * np.pi * t))
    return similarity(0.25 * np.sin(0.8 * np.pi * t), 1 + 0.15 * np.sin(0.6 * np.pi * t), shift, SHAPE.mean(axis=0))


def start_and_stop(t: float) -> Array:
    return similarity(shift=(100 * np.clip(t - 0.5, 0, 0.4), 0))


def drift(t: float) -> Array:
    return similarity(shift=(15 * t, 0))


@pytest.mark.parametrize("motion", [sway, start_and_stop, drift])
def test_a_moving_face_lags_by_far_less_than_a_frame(motion: Callable[[float], Array]) -> None:
    truth = moved(motion, 90)
    found = smoothed(truth + jitter(90), np.tile(SEEN, (90, 1)))
    assert abs(lag(found, truth)) < 0.3
    assert np.abs(found - truth).mean() < 2 * JITTER


def test_a_blink_is_followed_at_once() -> None:
    truth = np.tile(SHAPE, (90, 1, 1))
    lids = [37, 38, 43, 44]
    truth[:, lids, 1] += np.clip(1 - np.abs(np.arange(90) % 30 - 15) / 4, 0, 1)[:, None] * 5
    found = smoothed(truth + jitter(90), np.tile(SEEN, (90, 1)))
    assert lag(found[:, lids], truth[:, lids]) < 0.6


def test_a_hidden_point_leans_on_the_past_and_moves_with_the_face() -> None:
    truth = moved(sway, 60)
    noisy, scores = truth + jitter(60), np.tile(SEEN, (60, 1))
    hidden = slice(48, 60)
    noisy[30:, hidden] += (12, -8)  # something else is taken for the mouth
    believed = smoothed(noisy, scores)
    scores[30:, hidden] = 0.2
    found = smoothed(noisy, scores)
    error = np.linalg.norm(found - truth, axis=-1)[30:]
    assert error[:10, hidden].mean() < 2.5
    assert np.linalg.norm(believed - truth, axis=-1)[30:40, hidden].mean() > 10
    assert error[:, :48].mean() < 0.5, "points that are seen must not suffer"


def test_the_first_frame_and_a_scene_cut_are_taken_as_they_are() -> None:
    smoother = Smoother()
    first = SHAPE.astype(np.float32)
    np.testing.assert_array_equal(smoother(first, SEEN), first)
    other = (SHAPE[::-1] * 0.7 + 90).astype(np.float32)
    assert np.abs(smoother(other, SEEN) - other).max() < 1


def test_scores_of_zero_give_finite_points() -> None:
    found = smoothed(SHAPE + jitter(5), np.zeros((5, 68), np.float32))
    assert np.isfinite(found).all()


# --- Tracking --------------------------------------------------------------------------------------------------------

UNIT = (SHAPE - SHAPE.min(axis=0)) / np.ptp(SHAPE, axis=0)


class Scene:
    """Stands in for aligner and detector. Faces are squares of 80 px; the frame's number is its first pixel."""

    name = "scene"
    scheme = get_scheme("68")

    def __init__(self, *faces: Callable[[int], tuple[float, float] | None]) -> None:
        self.faces = faces
        self.given = 0

    @property
    def detector(self) -> Scene:
        return self

    def boxes(self, image: Image) -> FloatArray:
        corners = [corner for face in self.faces if (corner := face(int(image[0, 0, 0]))) is not None]
        return np.array([[x, y, x + 80, y + 80] for x, y in corners], np.float32).reshape(-1, 4)

    def detect(self, image: Image) -> FloatArray:
        return np.column_stack([self.boxes(image), np.ones(len(self.boxes(image)), np.float32)])

    def align(self, image: Image, boxes: ArrayLike | None = None) -> list[Face]:
        """Snaps to the nearest face; where none is near, scores are low."""
        faces = []
        for box in np.asarray(boxes, np.float32):
            self.given += 1
            distance = np.abs(self.boxes(image)[:, :2] - box[:2]).max(axis=1, initial=0)
            near = len(distance) > 0 and distance.min() < 30
            corner = self.boxes(image)[distance.argmin(), :2] if near else box[:2]
            points = (corner + UNIT * 80).astype(np.float32)
            scores = np.full(68, 0.9 if near else 0.1, np.float32)
            faces.append(Face(points, scores, scores < 0.5, box, np.eye(2, 3, dtype=np.float32), points))
        return faces


def frame(number: int) -> Image:
    return np.full((300, 600, 3), number, np.uint8)


def follow(scene: Scene, frames: int, **options: Any) -> tuple[list[dict[int, FloatArray]], Tracker]:
    tracker = Tracker(scene, **options)
    return [{t.id: tight_box(t.face.points) for t in tracker(frame(n))} for n in range(frames)], tracker


def test_identities_stay_while_faces_move_and_the_detector_rests() -> None:
    scene = Scene(lambda n: (20 + 8 * n, 30), lambda n: (500 - 8 * n, 180))
    found, tracker = follow(scene, 45, detect_every=15)
    assert [sorted(faces) for faces in found] == [[1, 2]] * 45
    assert tracker.detections == 3
    assert scene.given == 2 * 45, "faces that are followed are not aligned twice"
    np.testing.assert_allclose(found[-1][1], [372, 30, 452, 110], atol=1)


def test_a_new_face_gets_a_new_identity() -> None:
    found, _ = follow(Scene(lambda _: (50, 50), lambda n: (300, 50) if n >= 7 else None), 20, detect_every=5)
    assert [sorted(faces) for faces in found] == [[1]] * 10 + [[1, 2]] * 10


def test_a_face_seen_again_soon_keeps_its_identity_and_later_does_not() -> None:
    for gap, identity in ((PATIENCE - 2, 1), (PATIENCE + 20, 2)):
        found, tracker = follow(Scene(lambda n, gap=gap: None if 5 <= n < 5 + gap else (50, 50)), 60, detect_every=15)  # type: ignore[misc]
        assert [sorted(faces) for faces in found[:5]] == [[1]] * 5
        assert not any(found[5 : 5 + gap])
        assert list(found[-1]) == [identity]
        assert tracker.detections < 25


def textured(number: int, seed: int, gain: float = 1.0) -> Image:
    coarse = np.random.default_rng(seed).integers(40, 200, (12, 24, 3)).astype(np.uint8)
    image = gain * cv2.resize(coarse, (600, 300), interpolation=cv2.INTER_CUBIC).astype(np.float64)
    image[0, 0, 0] = number
    return np.asarray(image.round().clip(0, 255), np.uint8)


def test_after_a_scene_cut_the_faces_are_new() -> None:
    takes = [textured(n, seed=n // 5) for n in range(15)]
    tracker = Tracker(Scene(lambda _: (50, 50)), detect_every=100)
    assert [[t.id for t in tracker(image)] for image in takes] == [[1]] * 5 + [[2]] * 5 + [[3]] * 5


def test_a_pan_a_flash_and_a_dark_frame_are_no_scene_cut() -> None:
    pan = [np.roll(textured(n, 0), 9 * n, axis=1) for n in range(20)]
    flash = [textured(20 + n, 0, gain) for n, gain in enumerate((1.0, 0.3, 1.25, 0.0, 1.0))]
    for takes in (pan, flash):
        tracker = Tracker(Scene(lambda _: (50, 50)), detect_every=100)
        assert [[t.id for t in tracker(image)] for image in takes] == [[1]] * len(takes)


def test_two_tracks_never_share_a_face() -> None:
    found, _ = follow(Scene(lambda n: (100 + 4 * n, 50), lambda n: (220, 50) if n < 25 else None), 40)
    assert all(len(faces) == 1 for faces in found[-5:])
    assert all(len(faces) <= 2 for faces in found)


def test_a_face_that_leaves_the_picture_ends() -> None:
    found, _ = follow(Scene(lambda n: (400 + 15 * n, 50) if n < 13 else None), 30)
    assert list(found[0]) == [1]
    assert not any(found[14:])


def test_without_smoothing_points_are_those_of_the_frame() -> None:
    scene = Scene(lambda n: (50 + 0.1 * (n % 2), 50))
    raw = [faces[1][0] for faces in follow(scene, 20, smooth=False)[0]]
    steady = [faces[1][0] for faces in follow(scene, 20)[0]]
    assert np.ptp(raw) == pytest.approx(0.1, abs=1e-4)
    assert np.ptp(steady[10:]) < 0.05


def test_no_face_at_all() -> None:
    found, tracker = follow(Scene(), 31, detect_every=10)
    assert not any(found)
    assert tracker.detections == 4
    with pytest.raises(FacemsmError, match="detect_every is 0"):
        Tracker(Scene(), detect_every=0)
    assert tracker(np.zeros((90, 120), np.uint8)) == []  # grey
    with pytest.raises(FacemsmError, match="frame: is None"):
        tracker(None)  # type: ignore[arg-type]
