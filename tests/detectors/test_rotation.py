"""Faces in photos that lie on their side or head."""

from __future__ import annotations

import numpy as np
import pytest

from facemsm import Aligner
from facemsm.assets import SAMPLE
from facemsm.detectors.boxes import overlaps
from facemsm.detectors.rotation import detect_any_rotation, turns_of_boxes
from facemsm.geometry import apply_affine, box_to_crop, invert, theta_to_matrix
from facemsm.imaging.io import read_image
from facemsm.typing import Array, FloatArray, Image, Method


class BrightSpots:
    """Finds squares of 10 px around bright pixels, best first; their upper neighbours say how well they are upright."""

    name = "spots"

    def __init__(self) -> None:
        self.calls = 0

    def detect(self, image: Image) -> FloatArray:
        self.calls += 1
        rows, columns = np.nonzero(image[:, :, 0] == 255)
        boxes = np.stack([columns - 5, rows - 6, columns + 5, rows + 4, np.full(len(rows), 0.9)], axis=1)
        return boxes.astype(np.float32)


def mean_scores(image: Image, boxes: FloatArray) -> FloatArray:
    """0.9 for a spot with a grey neighbour above, 0.4 for another."""
    above = [image[int(y) + 5, int(x) + 5, 0] for x, y in boxes[:, :2]]
    return np.where(np.array(above) == 50, 0.9, 0.4).astype(np.float32)


def spots() -> Image:
    image = np.zeros((60, 90, 3), np.uint8)
    for x, y in ((20, 30), (50, 12)):
        image[y, x], image[y - 1, x] = 255, 50
    return image


def turned(points: Array | FloatArray, k: int, shape: tuple[int, ...]) -> Array:
    """Points of a photo in ``np.rot90(photo, k)``."""
    height, width = shape[:2]
    points = np.asarray(points, np.float64)
    for _ in range(k):
        points = np.stack([points[..., 1], width - 1 - points[..., 0]], axis=-1)
        height, width = width, height
    return points


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_boxes_are_those_of_the_photo_as_it_is(k: int) -> None:
    image = spots()
    detector = BrightSpots()
    detections, turns = detect_any_rotation(detector, np.rot90(image, k), mean_scores)
    assert (turns, detector.calls) == (-k % 4, 4 if k else 1)
    expected = turned(detector.detect(image)[:, :4].reshape(-1, 2, 2), k, image.shape)
    np.testing.assert_allclose(detections[:, :2], expected.min(1), atol=1e-4)
    np.testing.assert_allclose(detections[:, 2:4], expected.max(1), atol=1e-4)
    assert detections.dtype == np.float32


def test_a_photo_without_faces_stays_as_it_is() -> None:
    detector = BrightSpots()
    detections, turns = detect_any_rotation(detector, np.zeros((30, 40, 3), np.uint8), mean_scores)
    assert (detector.calls, turns, detections.shape) == (4, 0, (0, 5))


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_given_boxes_tell_how_a_photo_lies(k: int) -> None:
    lying = np.ascontiguousarray(np.rot90(spots(), k))
    rows, columns = np.nonzero(lying[:, :, 0] == 255)
    boxes = np.stack([columns - 5, rows - 5, columns + 5, rows + 5], axis=1).astype(np.float32)

    def by_centre(view: Image, there: FloatArray) -> FloatArray:
        return mean_scores(view, there - np.array([0, 1, 0, 1], np.float32))  # those of BrightSpots

    assert turns_of_boxes(lying, boxes, by_centre) == -k % 4


def test_without_a_face_no_orientation_is_told() -> None:
    assert Aligner.from_pretrained("68").quarter_turns(np.zeros((60, 80, 3), np.uint8)) is None


def test_with_low_scores_everywhere_it_stays_as_it_is() -> None:
    image = np.zeros((30, 40, 3), np.uint8)
    image[10, 20] = 255
    assert detect_any_rotation(BrightSpots(), image, mean_scores)[1] == 0


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("method", ["calibrated", "paper"])
def test_the_sample_is_aligned_however_it_lies(k: int, method: Method) -> None:
    photo = read_image(SAMPLE)
    aligner = Aligner.from_pretrained("68", method=method, any_rotation=True)
    (upright,) = aligner.align(photo)
    lying = np.ascontiguousarray(np.rot90(photo, k))
    (face,) = aligner.align(lying)
    assert aligner.quarter_turns(lying) == -k % 4
    (given,) = aligner.align(lying, [face.box])
    np.testing.assert_allclose(given.points, face.points, atol=1e-3)
    size = np.sqrt(np.prod(np.ptp(upright.points, axis=0)))
    assert np.linalg.norm(face.points - turned(upright.points, k, photo.shape), axis=1).mean() < 0.01 * size
    corners = turned(upright.box.reshape(2, 2), k, photo.shape)
    assert overlaps(face.box, np.concatenate([corners.min(0), corners.max(0)])[None].astype(np.float32))[0] > 0.9
    # θ runs from the canonical face to the crop of the box as the photo lies (Eq. 2)
    side = 128
    to_photo = invert(box_to_crop(face.box[None], side))[0] @ np.vstack([theta_to_matrix(face.theta, side), [0, 0, 1]])
    canonical = apply_affine(invert(to_photo), face.preliminary)
    assert (np.ptp(canonical, axis=0) > side / 3).all()
    assert canonical[8, 1] > canonical[27, 1] + side / 3  # the chin is below the bridge of the nose
