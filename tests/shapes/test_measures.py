from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemsm.errors import FacemsmError
from facemsm.geometry import apply_affine, similarity
from facemsm.schemes import SCHEME_29, SCHEME_68, SCHEME_98, LandmarkScheme, scheme_from_dict, scheme_to_dict
from facemsm.shapes.measures import (
    ARCFACE,
    DISTANCE,
    HEAD,
    HeadPose,
    as_68,
    eye_aspect_ratio,
    head_pose,
    mouth_openness,
    recognition_crop,
    recognition_matrix,
)
from facemsm.typing import Array
from synthetic_faces import mean_shape

SHAPE = (600, 800, 3)
PLACE = similarity(0.4, 70, (300, 250))


def as_98(points: Array) -> Array:
    """98 points whose 68 are the given ones."""
    return np.stack([points[list(near)].mean(axis=0) for near in SCHEME_98.from_68])


def turned(yaw: float, pitch: float, roll: float) -> Array:
    """The 68 points of HEAD, by a camera that looks at their middle from ``DISTANCE``; NaN for the others.

    The head is first rolled (right side down in the photo: clockwise), then raised by pitch, then turned by yaw.
    """
    y, p, r = np.deg2rad((yaw, pitch, roll))
    clockwise = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    up = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    right = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    head = np.array(list(HEAD.values()), float) @ (right @ up @ clockwise).T
    head += (0, 0, 1000)
    for _ in range(50):  # until the middle is in the camera's axis, and the face as large as from that distance
        seen = head[:, :2] / head[:, 2:]
        low, high = seen.min(axis=0), seen.max(axis=0)
        depth = head[:, 2].mean()
        head += (*(-(low + high) / 2 * depth), depth * (DISTANCE * (high - low).max() - 1))
    points = np.full((68, 2), np.nan)
    points[list(HEAD)] = head[:, :2] / head[:, 2:] * 2000 + (250, 120)
    return points


@pytest.mark.parametrize(
    ("pose", "moves"),
    [
        (HeadPose(30, 0, 0), (1, 0)),  # to the right side of the photo
        (HeadPose(0, 20, 0), (0, -1)),  # up
    ],
)
def test_signs_are_seen_in_the_photo(pose: HeadPose, moves: tuple[int, int]) -> None:
    points = turned(*pose)
    nose = points[30] - points[[36, 45]].mean(axis=0)
    straight = turned(0, 0, 0)
    assert (nose - (straight[30] - straight[[36, 45]].mean(axis=0))) @ moves > 5
    eyes = np.subtract(*turned(0, 0, 20)[[45, 36]])
    assert eyes[1] / eyes[0] == pytest.approx(np.tan(np.deg2rad(20)), abs=0.02)  # y grows towards the left eye


@given(st.floats(-85, 85), st.floats(-60, 60), st.floats(-170, 170))
def test_pose_of_a_projected_head(yaw: float, pitch: float, roll: float) -> None:
    np.testing.assert_allclose(head_pose(turned(yaw, pitch, roll)), (yaw, pitch, roll), atol=0.01)


def test_pose_is_steady_under_noise_and_with_other_schemes() -> None:
    rng = np.random.default_rng(0)
    for pose in itertools.product((-40, 0, 40), (-20, 0, 20), (-30, 0, 30)):
        points = turned(*pose)
        noisy = points + rng.normal(0, 0.5, points.shape)
        np.testing.assert_allclose(head_pose(noisy), pose, atol=8)
        np.testing.assert_allclose(head_pose(as_98(points)), pose, atol=0.01)
        few = np.stack([points[list(near)].mean(axis=0) for near in SCHEME_29.from_68])
        np.testing.assert_allclose(head_pose(few), pose, atol=0.5)  # without some points the middle is another


@given(st.floats(-60, 60), st.floats(-40, 40), st.floats(-40, 40))
def test_a_mirrored_face_has_the_mirrored_pose(yaw: float, pitch: float, roll: float) -> None:
    points = turned(yaw, pitch, roll)
    pose = head_pose(points)
    mirrored = head_pose((points * (-1, 1))[SCHEME_68.flip])
    np.testing.assert_allclose(mirrored, (-pose.yaw, pose.pitch, -pose.roll), atol=1e-3)


def test_where_a_face_is_in_the_photo_and_how_large_it_is_changes_nothing() -> None:
    points = turned(20, -10, 5)
    pose = head_pose(points)
    for place in (similarity(0, 0.1, (5, 900)), similarity(0, 3, (-300, 40))):
        np.testing.assert_allclose(head_pose(apply_affine(place, points)), pose, atol=1e-3)
    turn = head_pose(apply_affine(similarity(np.deg2rad(30), centre=(100, 100)), points))
    np.testing.assert_allclose(turn.roll, pose.roll + 30, atol=1)


def test_frontal_is_the_median_of_300w(data_root: Path) -> None:
    """Of 3148 training faces of 300-W, on whose labels the head was fitted, and of Menpo's, which it does not know."""
    for name, most in (("300w_train", 0.5), ("menpo_semifrontal", 4)):
        with np.load(data_root / f"shapes/{name}_68.npz") as shapes:
            poses = np.array([head_pose(points) for points in shapes["points"][::10].astype(float)])
        yaw, pitch, roll = np.median(poses, axis=0)
        assert abs(pitch) < most
        assert max(abs(yaw), abs(roll)) < 5


def test_points_without_a_face_have_no_pose() -> None:
    with pytest.raises(FacemsmError, match="no head pose"):
        head_pose(np.full((68, 2), np.nan))


def test_points_may_be_lists_and_what_is_none_is_refused() -> None:
    shape = apply_affine(PLACE, mean_shape())
    np.testing.assert_array_equal(eye_aspect_ratio(shape.tolist()), eye_aspect_ratio(shape))
    for wrong in ("face", None, [1, 2], object()):
        with pytest.raises(FacemsmError, match="points are no numbers"):
            mouth_openness(wrong)  # type: ignore[arg-type]
    with pytest.raises(FacemsmError, match="several faces"):
        head_pose(shape[None])
    with pytest.raises(FacemsmError, match="several faces"):
        recognition_matrix(shape[None])
    with pytest.raises(FacemsmError, match="no crop fits"):
        recognition_matrix(np.full((68, 2), np.nan))
    photo = np.zeros((*SHAPE[:2], 1), np.uint8)
    assert recognition_crop(photo[..., 0], shape).shape == (112, 112, 3)
    for size in (0, -5, "112", 10**9):
        with pytest.raises(FacemsmError, match="size is"):
            recognition_crop(photo, shape, size)  # type: ignore[arg-type]


def test_68_among_98_and_29() -> None:
    shape = mean_shape().astype(float)
    np.testing.assert_allclose(as_68(as_98(shape)), shape, atol=1e-6)
    shape[40] = np.nan
    np.testing.assert_array_equal(as_68(shape), shape)
    found = as_68(np.stack([shape[list(near)].mean(axis=0) for near in SCHEME_29.from_68]))
    np.testing.assert_allclose(found[[30, 36, 48]], shape[[30, 36, 48]], atol=1e-6)
    assert np.isnan(found[0]).all()


def test_schemes_of_model_files_are_known_by_name_and_unknown_ones_refused() -> None:
    shape = mean_shape().astype(float)
    names = tuple(f"p{i}" for i in range(98))
    stored = scheme_from_dict(scheme_to_dict(replace(SCHEME_98, names=names)), "model")
    assert not stored.from_68
    np.testing.assert_array_equal(as_68(as_98(shape), stored), as_68(as_98(shape)))
    with pytest.raises(FacemsmError, match="no built-in landmark scheme has 5 points"):
        as_68(np.zeros((5, 2)))
    with pytest.raises(FacemsmError, match=r"\(98, 2\)"):
        as_68(shape, SCHEME_98)
    own = LandmarkScheme("5", 5, (), (0,), (1,), (3, 4), from_68=((36,), (45,), (30,), (48,), (54,)))
    for scheme in (own, scheme_from_dict(scheme_to_dict(own), "model")):  # as in the model's file
        assert recognition_matrix(shape[[36, 45, 30, 48, 54]], scheme=scheme).shape == (2, 3)
    with pytest.raises(FacemsmError, match="'5' does not say where its points lie among the 68: add from_68"):
        as_68(np.zeros((5, 2)), replace(own, from_68=()))


@pytest.mark.parametrize("size", [112, 224])
def test_crops_put_the_five_points_where_recognition_expects_them(size: int) -> None:
    template = (ARCFACE + 0.5) * (size / 112) - 0.5
    shape = np.zeros((68, 2))
    shape[36:42], shape[42:48], shape[[30, 48, 54]] = ARCFACE[0], ARCFACE[1], ARCFACE[2:]
    placed = apply_affine(similarity(0.5, 2.5, (200, 100)), shape)
    for points in (placed, as_98(placed)):
        five = apply_affine(recognition_matrix(points, size), placed)[[36, 42, 30, 48, 54]]
        np.testing.assert_allclose(five, template, atol=1e-6)


def test_crops_show_the_face() -> None:
    points = apply_affine(PLACE, mean_shape())
    photo = np.zeros(SHAPE, np.uint8)
    x, y = np.round(points[42:48].mean(axis=0)).astype(int)
    photo[y - 4 : y + 5, x - 4 : x + 5] = (255, 0, 0)
    crop = recognition_crop(photo, points)
    assert crop.shape == (112, 112, 3)
    rows, columns = crop[..., 0].nonzero()
    expected = apply_affine(recognition_matrix(points), points)[42:48].mean(axis=0)
    np.testing.assert_allclose((columns.mean(), rows.mean()), expected, atol=0.7)
    assert not crop[..., 1:].any()


def test_open_and_closed_eyes_and_mouth() -> None:
    shape = mean_shape().astype(float)
    shape[36:42] = [(0, 0), (1, -0.3), (2, -0.3), (3, 0), (2, 0.3), (1, 0.3)]  # 0.6 high, 3 wide
    shape[42:48] = shape[36:42] * (1, 0) + (5, 0)
    shape[60:68] = [(0, 0), (1, -1), (2, -2), (3, -1), (4, 0), (3, 1), (2, 2), (1, 1)]  # 2, 4 and 2 high, 4 wide
    for points in (apply_affine(PLACE, shape), as_98(apply_affine(PLACE, shape))):
        np.testing.assert_allclose(eye_aspect_ratio(points), (0.2, 0), atol=1e-6)
        assert mouth_openness(points) == pytest.approx(2 / 3)
    video = np.stack([shape, shape * 2 + 7])
    assert eye_aspect_ratio(video).shape == (2, 2)
    assert mouth_openness(video).shape == (2,)
    few = np.stack([shape[list(near)].mean(axis=0) for near in SCHEME_29.from_68])
    assert np.isnan(eye_aspect_ratio(few)).all()
