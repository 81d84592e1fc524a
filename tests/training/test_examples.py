"""What the networks are shown: crops with θ*, canonical faces with heatmap profiles."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facemsm.data.augment import Augmentation, jitter_matrix, take_crop
from facemsm.data.sample import FaceSample
from facemsm.data.sources import Source
from facemsm.geometry import (
    apply_affine,
    box_to_crop,
    canonical_matrix,
    compose,
    invert,
    matrix_to_theta,
    similarity,
    tight_box,
    upright_anchors,
)
from facemsm.heatmaps import HeatmapCodec
from facemsm.schemes import OCCLUDED, UNLABELLED, VISIBLE, get_scheme
from facemsm.stgan.examples import CropExamples
from facemsm.stgan.networks import warp_by_theta
from facemsm.training.faces import Faces
from facemsm.training.landmarks import CanonicalExamples
from facemsm.training.stream import ExampleStream
from facemsm.typing import Image
from synthetic_faces import SIDE, mean_shape

SCHEME = get_scheme("68")
SIZE = 128
STILL = Augmentation(flip=0, rotation=0, scale=0, brightness=0, contrast=0, saturation=0, hue=0)
JITTER = replace(STILL, rotation=35.0, scale=0.2, shift=0.1)
CODECS = (HeatmapCodec(SIZE, 32, 0.75), HeatmapCodec(SIZE, 64, 1.5))


def marked_face(angle: float = 0.3) -> FaceSample:
    """Landmarks of a face; its photo is black but for a red disc on the person's right eye, green left, blue mouth."""
    points = apply_affine(similarity(angle, 28, (SIDE / 2, SIDE / 2 - 12)), mean_shape(0.1, 0.9)).astype(np.float32)
    photo: Image = np.zeros((SIDE, SIDE, 3), np.uint8)
    for centre, colour in zip(upright_anchors(points, SCHEME), ((255, 0, 0), (0, 255, 0), (0, 0, 255)), strict=True):
        cv2.circle(photo, np.round(centre * 16).astype(int).tolist(), 5 * 16, colour, cv2.FILLED, cv2.LINE_AA, 4)
    return FaceSample("marked", lambda: photo, tight_box(points), "gt", points)


def marks(image: NDArray[Any]) -> NDArray[np.float64]:
    """Centres of the red, green and blue discs, (3, 2)."""
    light = np.maximum(image.astype(float) - 20, 0)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([[(x * c).sum(), (y * c).sum()] / c.sum() for c in np.moveaxis(light, 2, 0)])


def mirrored(points: NDArray[Any]) -> NDArray[Any]:
    return (points * [-1, 1] + [SIDE - 1, 0])[SCHEME.flip]


def canonical_anchors(points: NDArray[Any]) -> NDArray[Any]:
    return apply_affine(canonical_matrix(points.astype(float), SCHEME, SIZE), upright_anchors(points, SCHEME))


@pytest.mark.parametrize(("flip", "seed"), list(itertools.product((0.0, 1.0), range(4))))
def test_theta_makes_the_crop_canonical(flip: float, seed: int) -> None:
    face = marked_face()
    example = CropExamples(SCHEME, SIZE, replace(JITTER, flip=flip), fixed=True)(face, np.random.default_rng(seed))
    assert example["image"].shape == (SIZE, SIZE, 3)
    assert example["image"].dtype == np.uint8
    assert example["theta"].dtype == np.float32
    assert example["name"] == "marked"
    crop = torch.from_numpy(example["image"]).permute(2, 0, 1)[None].float()
    canonical = warp_by_theta(crop, torch.from_numpy(example["theta"])[None])[0].permute(1, 2, 0).numpy()
    right, left, mouth = anchors = canonical_anchors(mirrored(face.points) if flip else face.points)
    # the photo's left eye is the mirrored face's right eye
    np.testing.assert_allclose(marks(canonical), anchors[[1, 0, 2]] if flip else anchors, atol=0.6)
    assert abs(right[1] - left[1]) < 0.5 < left[0] - right[0]  # upright
    assert mouth[1] > right[1]


@pytest.mark.parametrize("missing", [(), range(36, 42), range(42, 48), range(48, 68), range(17)])
def test_theta_is_that_of_the_crops_own_points(missing: range) -> None:
    face = marked_face()
    face.points[list(missing)] = np.nan
    make = CropExamples(SCHEME, SIZE, JITTER)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        jitter, flipped = jitter_matrix(JITTER, rng, SIZE)
        matrix = compose(jitter, box_to_crop(face.box, SIZE))
        crop = take_crop(face.load(), face.points, None, matrix, SIZE, flip_table=SCHEME.flip, flipped=flipped)
        canonical = canonical_matrix(crop.points.astype(float), SCHEME, SIZE)
        theta = make(face, np.random.default_rng(seed))["theta"]
        np.testing.assert_allclose(theta, matrix_to_theta(invert(canonical), SIZE), atol=1e-5)


def stream_of(count: int, decoded: list[int], memory: int) -> ExampleStream:
    def sample(i: int) -> FaceSample:
        face = marked_face(0.1 * i)

        def load() -> Image:
            decoded.append(i)
            return face.load()

        return replace(face, name=str(i), image=load)

    samples = [sample(i) for i in range(count)]
    faces = Faces(samples, samples[:1], np.zeros(count, np.int64), (Source("marked", "", ""),))
    make = CropExamples(SCHEME, SIZE, Augmentation.full())
    return ExampleStream(faces, make, total=4 * count, seed=5, memory=memory)


def test_photos_stay_in_memory_while_there_is_room() -> None:
    size = marked_face().load().nbytes
    decoded: dict[int, list[int]] = {0: [], 2 * size: [], 5 * size: []}
    streams = [stream_of(5, log, memory) for memory, log in decoded.items()]
    for n in range(20):
        first, *others = (stream[n] for stream in streams)
        for other in others:
            np.testing.assert_array_equal(first["image"], other["image"])
            np.testing.assert_array_equal(first["theta"], other["theta"])
    assert [len(log) for log in decoded.values()] == [4 * 5, 2 + 4 * 3, 5]
    assert set(decoded[5 * size]) == set(range(5))


def test_jitter_stays_within_what_is_set() -> None:
    face = marked_face(angle=0.0)
    make = CropExamples(SCHEME, SIZE, replace(STILL, rotation=20.0, shift=0.05), fixed=True)
    thetas = np.stack([make(face, np.random.default_rng(i))["theta"] for i in range(60)])
    angles = np.rad2deg(np.arctan2(thetas[:, 1, 0], thetas[:, 0, 0]))
    still = CropExamples(SCHEME, SIZE, STILL, fixed=True)(face, np.random.default_rng(0))["theta"]
    assert 15 < np.abs(angles).max() <= 20.01
    assert 0.05 < np.abs(thetas - still)[:, :, 2].max() < 0.25
    np.testing.assert_allclose(np.linalg.norm(thetas[:, :, 0], axis=1), np.linalg.norm(still[:, 0]), rtol=1e-4)


@pytest.mark.parametrize(("flip", "seed"), list(itertools.product((0.0, 1.0), range(3))))
def test_points_move_with_the_picture(flip: float, seed: int) -> None:
    face = marked_face()
    augmentation = replace(JITTER, flip=flip, rotation=20.0)
    example = CanonicalExamples(SCHEME, SIZE, augmentation)(face, np.random.default_rng(seed))
    anchors = upright_anchors(example["points"].astype(float), SCHEME)
    np.testing.assert_allclose(marks(example["image"]), anchors[[1, 0, 2]] if flip else anchors, atol=0.6)


def test_validation_faces_are_canonical() -> None:
    face = marked_face()
    example = CanonicalExamples(SCHEME, SIZE, None)(face, np.random.default_rng(0))
    expected = apply_affine(canonical_matrix(face.points.astype(float), SCHEME, SIZE), face.points)
    np.testing.assert_allclose(example["points"], expected, atol=1e-3)
    assert example["labelled"].tolist() == [1.0] * 68


def test_hidden_points_have_lower_peaks() -> None:
    visibility = np.full(68, VISIBLE, np.int8)
    visibility[[3, 30]] = OCCLUDED
    face = replace(marked_face(), visibility=visibility)
    for peak in (1.0, 0.4):
        example = CanonicalExamples(SCHEME, SIZE, None, peak)(face, np.random.default_rng(0))
        assert example["labelled"].all()  # located all the same
        np.testing.assert_allclose(example["peak"][[3, 30]], peak)
        np.testing.assert_allclose(np.delete(example["peak"], [3, 30]), 1.0)


def test_a_flip_takes_visibility_along() -> None:
    visibility = np.full(68, VISIBLE, np.int8)
    visibility[36] = OCCLUDED
    make = CanonicalExamples(SCHEME, SIZE, replace(STILL, flip=1.0), 0.4)
    example = make(replace(marked_face(), visibility=visibility), np.random.default_rng(0))
    assert example["peak"][45] == np.float32(0.4)
    assert np.delete(example["peak"], 45).min() == 1


def test_points_without_label_or_out_of_frame_are_left_out() -> None:
    face = marked_face()
    points = face.points.copy()
    points[[0, 60]] = np.nan
    visibility = np.where(np.isnan(points[:, 0]), UNLABELLED, VISIBLE).astype(np.int8)
    make = CanonicalExamples(SCHEME, SIZE, replace(STILL, shift=0.5))
    example = make(replace(face, points=points, visibility=visibility), np.random.default_rng(4))
    moved, labelled = example["points"], example["labelled"]
    outside = ~((moved > -0.5) & (moved < SIZE - 0.5)).all(axis=1)
    assert 2 < outside.sum() < 60
    assert labelled.tolist() == (~outside).astype(float).tolist()
    assert np.isnan(moved[[0, 60]]).all()


@pytest.mark.parametrize(
    "make",
    [
        CropExamples(SCHEME, SIZE, Augmentation.full()),
        CanonicalExamples(SCHEME, SIZE, Augmentation.full(), 0.4),
    ],
)
def test_the_same_chance_gives_the_same_example(make: CropExamples | CanonicalExamples) -> None:
    face = marked_face()
    first, again, other = (make(face, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert first.keys() == again.keys()
    for name in first.keys() - {"name"}:
        np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first["image"], other["image"])


def test_validation_does_not_depend_on_chance_but_for_the_jitter() -> None:
    still = CropExamples(SCHEME, SIZE, STILL, fixed=True)
    a, b = (still(marked_face(), np.random.default_rng(seed)) for seed in (1, 2))
    np.testing.assert_array_equal(a["image"], b["image"])
    np.testing.assert_array_equal(a["theta"], b["theta"])


def test_theta_of_a_perfect_box_is_the_margins() -> None:
    """An upright face in its tight box: θ* has no turn and no shear, and undoing it places the tight box."""
    face = marked_face(angle=0.0)
    theta = CropExamples(SCHEME, SIZE, STILL, fixed=True)(face, np.random.default_rng(0))["theta"]
    np.testing.assert_allclose(theta, np.array([[0.8, 0, 0], [0, 0.8, 0]]), atol=1e-5)
    corners = apply_affine(invert(theta.astype(float)), np.array([[-0.8, -0.8], [0.8, 0.8]]))
    np.testing.assert_allclose(corners, [[-1, -1], [1, 1]], atol=1e-4)
