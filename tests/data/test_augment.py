from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facemsm.data.augment import MOST_DEFORMED, Augmentation, Crop, augment_crop, deformed, jitter_matrix, take_crop
from facemsm.data.occluders import OCCLUDERS, occlude
from facemsm.errors import FacemsmError
from facemsm.geometry import Matrix, apply_affine, similarity
from facemsm.imaging.warping import warp
from facemsm.schemes import OCCLUDED, SCHEME_29, SCHEME_68, SCHEME_98, UNLABELLED, VISIBLE, LandmarkScheme
from facemsm.shapes.measures import HEAD
from facemsm.typing import Image

SIZE = 128
STILL = Augmentation(flip=0, rotation=0, scale=0, shift=0, brightness=0, contrast=0, saturation=0, hue=0)
IDENTITY = np.eye(2, 3)
SCHEMES = [SCHEME_29, SCHEME_68, SCHEME_98]


def face(scheme: LandmarkScheme = SCHEME_68, visibility: NDArray[np.int8] | None = None, seed: int = 0) -> Crop:
    """A mottled crop with points where an upright face has them."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(60, 220, (16, 16, 3), dtype=np.uint8), (SIZE, SIZE))
    points = rng.uniform(40, 90, (scheme.count, 2))
    for group, centre in ((scheme.right_eye, (45, 50)), (scheme.left_eye, (83, 50)), (scheme.mouth, (64, 90))):
        points[list(group)] = centre + rng.uniform(-3, 3, (len(group), 2))
    angles = np.linspace(np.pi, 0, len(scheme.contour))
    points[list(scheme.contour)] = np.stack([64 + 42 * np.cos(angles), 55 + 55 * np.sin(angles)], axis=1)
    for i, near in enumerate(scheme.from_68):
        if len(near) == 1 and near[0] in HEAD:
            points[i] = (64, 50) + 0.6 * np.array(HEAD[near[0]][:2])
    return Crop(np.asarray(image, np.uint8), points.astype(np.float32), visibility)


def same(a: Crop, b: Crop) -> bool:
    return bool(np.array_equal(a.image, b.image) and np.array_equal(a.points, b.points, equal_nan=True)) and (
        np.array_equal(a.visibility, b.visibility)
        if a.visibility is not None and b.visibility is not None
        else a.visibility is b.visibility
    )


def only(**amounts: Any) -> Augmentation:
    return replace(STILL, **amounts)


# Geometry -----------------------------------------------------------------------------------------------------------


@st.composite
def matrices(draw: st.DrawFn) -> Matrix:
    """Similarities and mirrors about the middle of a 400 px photo, from a sixth to double size."""
    angle = draw(st.floats(-np.pi, np.pi))
    scale = draw(st.floats(0.17, 2.0))
    mirror = draw(st.sampled_from([-1.0, 1.0]))
    shift = draw(st.tuples(st.floats(-20, 20), st.floats(-20, 20)))
    linear = similarity(angle, scale)[:, :2] @ np.diag([mirror, 1.0])
    return np.column_stack([linear, 63.5 + np.array(shift) - linear @ np.array([200.0, 200.0])])


@given(matrices(), st.floats(-60, 60), st.floats(-60, 60))
@settings(deadline=None, max_examples=150)
def test_points_move_with_the_image(matrix: Matrix, dx: float, dy: float) -> None:
    at = np.array([[200.0 + dx, 200.0 + dy]], np.float32)
    y, x = np.mgrid[:400, :400]
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    spread = 2.0 / min(scale, 1.0)  # wide enough to be seen in the crop
    dot = 250 * np.exp(-((x - at[0, 0]) ** 2 + (y - at[0, 1]) ** 2) / (2 * spread**2))
    photo = np.repeat(dot.astype(np.uint8)[..., None], 3, axis=2)
    crop = take_crop(photo, at, None, matrix, SIZE)
    margin = 4 * spread * scale
    if not ((crop.points > margin) & (crop.points < SIZE - 1 - margin)).all():
        return  # the dot is cut off
    mass = crop.image[..., 0].astype(float)
    v, u = np.mgrid[:SIZE, :SIZE]
    centroid = np.array([(u * mass).sum(), (v * mass).sum()]) / mass.sum()
    assert np.abs(centroid - crop.points[0]).max() < 0.3


@given(st.floats(25, 100), st.floats(25, 100), st.floats(0.01, MOST_DEFORMED), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=100)
def test_points_move_with_a_deformed_image(x: float, y: float, amount: float, seed: int) -> None:
    v, u = np.mgrid[:SIZE, :SIZE]
    dot = 250 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * 2**2))
    start = Crop(
        np.repeat(dot.astype(np.uint8)[..., None], 3, axis=2), np.array([[x, y], [np.nan, np.nan]], np.float32)
    )
    crop = deformed(start, amount, np.random.default_rng(seed))
    peak = np.unravel_index(cv2.GaussianBlur(crop.image[..., 0].astype(np.float32), (0, 0), 1).argmax(), (SIZE, SIZE))
    assert np.abs(crop.points[0] - peak[::-1]).max() < 1.5
    assert np.isnan(crop.points[1]).all()
    assert same(crop, deformed(start, amount, np.random.default_rng(seed)))
    border = np.ones((SIZE, SIZE), bool)
    border[1:-1, 1:-1] = False
    np.testing.assert_array_equal(crop.image[border], start.image[border])


def test_deforming_moves_parts_of_a_face_against_each_other() -> None:
    start = face()
    moves = np.stack([deformed(start, 0.03, np.random.default_rng(i)).points - start.points for i in range(50)])
    assert np.abs(moves).max() < 0.05 * SIZE
    assert moves.std(axis=0).min() > 0.2  # every point, px
    assert moves.std(axis=1).mean() > 0.8  # unlike its face's others
    assert np.abs(moves.mean(axis=(0, 1))).max() < 0.3
    rng = np.random.default_rng(0)
    assert same(deformed(start, 0.0, rng), start)
    assert rng.random() == np.random.default_rng(0).random()
    nothing = replace(start, points=np.full_like(start.points, np.nan))
    assert np.isnan(deformed(nothing, 0.03, rng).points).all()


@pytest.mark.parametrize("size", [64, 128, 129])
def test_jitter_keeps_the_centre_and_its_ranges(size: int) -> None:
    rng = np.random.default_rng(0)
    centre = np.full((1, 2), (size - 1) / 2)
    flips = 0
    for _ in range(300):
        matrix, flipped = jitter_matrix(Augmentation.paper(), rng, size)
        assert matrix.shape == (2, 3)
        assert matrix.dtype == np.float64
        assert np.allclose(apply_affine(matrix, centre), centre)
        det = np.linalg.det(matrix[:, :2])
        assert (det < 0) == flipped
        assert 0.9 <= np.sqrt(abs(det)) <= 1.1
        angle = np.rad2deg(np.arctan2(matrix[1, 1], -matrix[0, 1]) - np.pi / 2)
        assert abs(angle) <= 30
        flips += flipped
    assert 110 < flips < 190


def test_pure_flip_is_exact_and_an_involution() -> None:
    rng = np.random.default_rng(0)
    matrix, flipped = jitter_matrix(only(flip=1), rng, SIZE)
    assert flipped
    start = face(visibility=np.arange(68, dtype=np.int8) % 3)
    once = take_crop(start.image, start.points, start.visibility, matrix, SIZE, flip_table=SCHEME_68.flip, flipped=True)
    assert np.array_equal(once.image, start.image[:, ::-1])
    assert np.allclose(once.points[16], [SIZE - 1 - start.points[0, 0], start.points[0, 1]])
    twice = take_crop(
        once.image,
        once.points,
        once.visibility,
        matrix,
        SIZE,
        flip_table=SCHEME_68.flip,
        flipped=True,
    )
    assert np.array_equal(twice.image, start.image)
    assert np.allclose(twice.points, start.points, atol=1e-4)
    assert np.array_equal(twice.visibility, start.visibility)  # type: ignore[arg-type]


def test_flip_needs_its_table() -> None:
    start = face()
    with pytest.raises(ValueError, match="flip table"):
        take_crop(start.image, start.points, None, IDENTITY, SIZE, flipped=True)


def test_shrinking_does_not_alias() -> None:
    y, x = np.mgrid[:800, :800]
    checks = np.repeat((255 * ((x + y) % 2)).astype(np.uint8)[..., None], 3, axis=2)
    crop = warp(checks, similarity(0.2, 0.15, shift=(-336, -336), centre=(400, 400)), SIZE)  # 400 to 64
    inner = crop[30:98, 30:98]
    assert np.abs(inner.astype(int) - 127).max() <= 3


def test_outside_the_photo_is_black() -> None:
    white = np.full((50, 50, 3), 255, np.uint8)
    for scale in (0.1, 1.0):
        crop = warp(white, np.array([[scale, 0, 60], [0, scale, 60]]), SIZE)
        assert crop.dtype == np.uint8
        assert crop[:50].max() == 0
        assert crop[61, 61].min() == 255
    assert warp(white, np.array([[0.1, 0, 500], [0, 0.1, 500]]), SIZE).max() == 0  # nothing of it is seen


@given(matrices(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_nan_stays_nan_and_types_hold(matrix: Matrix, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (400, 400, 3), dtype=np.uint8)
    points = rng.uniform(150, 250, (68, 2)).astype(np.float32)
    missing = rng.random(68) < rng.random()
    points[missing] = np.nan
    visibility = np.where(missing, UNLABELLED, VISIBLE).astype(np.int8)
    crop = take_crop(image, points, visibility, matrix, SIZE)
    every: dict[str, Any] = {**dict.fromkeys(OCCLUDERS, 1.0), "cut": 1.0}
    out = augment_crop(crop, replace(Augmentation.full(), **every), rng, SCHEME_68)
    for result in (crop, out):
        assert result.image.shape == (SIZE, SIZE, 3)
        assert result.image.dtype == np.uint8
        assert result.image.flags.c_contiguous
        assert result.points.shape == (68, 2)
        assert result.points.dtype == np.float32
        assert np.array_equal(np.isnan(result.points).all(axis=1), missing)
        assert result.visibility is not None
        assert result.visibility.dtype == np.int8
        assert np.array_equal(result.visibility == UNLABELLED, missing)
    assert np.array_equal(out.points, crop.points, equal_nan=True)


# Light and camera ---------------------------------------------------------------------------------------------------


def test_nothing_on_changes_nothing() -> None:
    start = face()
    matrix, flipped = jitter_matrix(STILL, np.random.default_rng(0), SIZE)
    assert np.array_equal(matrix, IDENTITY)
    assert not flipped
    assert same(augment_crop(start, STILL, np.random.default_rng(0), SCHEME_68), start)


@pytest.mark.parametrize(
    "amounts",
    [
        {"brightness": 0.5},
        {"contrast": 0.5},
        {"saturation": 0.5},
        {"hue": 20.0},
        *({name: 1.0} for name in ("grey", "gamma", "low_light", "blur", "motion", "noise", "jpeg")),
    ],
    ids=lambda amounts: next(iter(amounts)),
)
def test_each_camera_fault_changes_the_image_alone(amounts: dict[str, float]) -> None:
    start = face(visibility=np.full(68, VISIBLE, np.int8))
    before = start.image.copy()
    out = augment_crop(start, only(**amounts), np.random.default_rng(1), SCHEME_68)
    assert np.array_equal(start.image, before)
    assert not np.array_equal(out.image, before)
    assert np.array_equal(out.points, start.points)
    assert out.visibility is start.visibility


def test_colour_means_what_it_says() -> None:
    start = face()
    grey = augment_crop(start, only(grey=1.0), np.random.default_rng(0), SCHEME_68).image.astype(int)
    assert np.ptp(grey, axis=2).max() <= 1
    assert np.abs(grey[..., 0] - cv2.cvtColor(start.image, cv2.COLOR_RGB2GRAY)).max() <= 1
    for seed in range(5):
        dark = augment_crop(start, only(low_light=1.0), np.random.default_rng(seed), SCHEME_68).image
        assert dark.mean() < 0.75 * start.image.mean()
        contrast = augment_crop(start, only(contrast=0.3), np.random.default_rng(seed), SCHEME_68).image
        luma = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (contrast, start.image)]
        assert abs(luma[0].mean() - luma[1].mean()) < 1.5
        noisy = augment_crop(start, only(noise=1.0, noise_sigma=(6, 6)), np.random.default_rng(seed), SCHEME_68).image
        assert 5.5 < (noisy.astype(int) - start.image).std() < 6.5


def test_blurs_keep_the_light() -> None:
    flat = replace(face(), image=np.full((SIZE, SIZE, 3), 130, np.uint8))
    for name in ("blur", "motion"):
        for seed in range(10):
            out = augment_crop(flat, only(**{name: 1.0}), np.random.default_rng(seed), SCHEME_68)
            assert np.abs(out.image.astype(int) - 130).max() <= 1


# Occluders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OCCLUDERS)
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_occluders_hide_the_points_they_cover(name: str, scheme: LandmarkScheme) -> None:
    total = 0
    for seed in range(12):
        start = face(scheme, np.full(scheme.count, VISIBLE, np.int8), seed)
        out = augment_crop(start, only(**{name: 1.0}), np.random.default_rng(seed), scheme)
        assert out.visibility is not None
        assert set(out.visibility) <= {VISIBLE, OCCLUDED}
        hidden = out.visibility == OCCLUDED
        if hidden.any():
            x, y = np.rint(start.points[hidden]).astype(int).T
            changed = np.abs(out.image[y, x].astype(int) - start.image[y, x]).max(axis=1)
            assert changed.mean() > 8
        total += int(hidden.sum())
    assert total > 0


def covered(scheme: LandmarkScheme, name: str, seed: int) -> set[int]:
    start = face(scheme)
    odds = {kind: float(kind == name) for kind in OCCLUDERS}
    return set(np.flatnonzero(occlude(start.image, start.points, scheme, odds, np.random.default_rng(seed))[1]))


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_glasses_hide_eyes_and_masks_hide_mouths(scheme: LandmarkScheme) -> None:
    eyes, mouth = {*scheme.right_eye, *scheme.left_eye}, set(scheme.mouth)
    masked = 0
    for seed in range(20):
        assert eyes <= covered(scheme, "glasses", seed)
        assert not mouth & covered(scheme, "glasses", seed)
        assert not eyes & covered(scheme, "mask", seed)
        masked += mouth <= covered(scheme, "mask", seed)
    assert masked > 14  # a few are worn below the mouth


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("hat", -0.1, 0.55), ("scarf", 0.1, 1.3), ("cup", 0.1, 1.3), ("microphone", 0.4, 1.3), ("screen", -0.5, 1.5)],
)
def test_occluders_stay_in_their_part_of_the_face(name: str, low: float, high: float) -> None:
    start = face()
    height = (start.points[:, 1] - 40) / 70  # from brows to chin
    shares = []
    for seed in range(30):
        hidden = list(covered(SCHEME_68, name, seed))
        shares.append(len(hidden) / 68)
        assert all(low < height[point] < high for point in hidden)
    assert 0.03 < np.mean(shares) < 0.5
    assert np.ptp(shares) > 0.15


def profile() -> Crop:
    """A head turned by 80°, without what it hides itself: the left eye, most of the mouth and half of the contour."""
    start = face()
    turn = np.deg2rad(80)
    head = np.array(list(HEAD.values()))
    seen = np.stack([head[:, 0] * np.cos(turn) - head[:, 2] * np.sin(turn), head[:, 1]], axis=1)
    points = np.full((68, 2), np.nan, np.float32)
    points[list(HEAD)] = (60, 45) + 0.6 * seen
    points[[42, 45, 54]] = np.nan
    return replace(start, points=points)


@pytest.mark.parametrize("name", ["mask", "scarf", "cup", "microphone"])
def test_profiles_are_occluded_in_front(name: str) -> None:
    """The face looks to the right: what is worn or held sits on that side, behind the ear is nothing."""
    start = profile()
    assert start.points[30, 0] > start.points[36, 0] > 40
    changed = np.zeros((SIZE, SIZE))
    for seed in range(20):
        out = augment_crop(start, only(**{name: 1.0}), np.random.default_rng(seed), SCHEME_68)
        changed += np.abs(out.image.astype(int) - start.image).max(axis=2) > 8
        if out.visibility is not None:
            assert set(np.flatnonzero(out.visibility == OCCLUDED)) <= {30, 33, 48, 8}
    assert changed[:, 35:].sum() > 1.5 * changed[:, :35].sum()
    assert changed[90:, 60:].max() >= 6


@pytest.mark.parametrize("name", ["mask", "scarf", "cup", "microphone", "hat"])
def test_schemes_of_their_own_are_occluded_too(name: str) -> None:
    own = replace(SCHEME_68, name="own", from_68=())
    assert any(covered(own, name, seed) for seed in range(10))


def test_covered_is_opacity_above_one_half(monkeypatch: pytest.MonkeyPatch) -> None:
    from facemsm.data import occluders

    alpha = np.zeros((SIZE, SIZE), np.float32)
    alpha[:, 40:] = 0.5
    alpha[:, 60:] = 0.51
    layer = occluders.Layer(np.zeros((SIZE, SIZE, 3), np.uint8), alpha)
    monkeypatch.setattr(occluders, "OCCLUDERS", {"patch": lambda _scene, _rng: layer})
    points = np.array([[10, 5], [50, 5], [59.4, 5], [59.6, 5], [127.4, 5], [127.6, 5], [np.nan, np.nan]], np.float32)
    image = np.full((SIZE, SIZE, 3), 200, np.uint8)
    out, hidden = occlude(image, points, SCHEME_68, {"patch": 1.0}, np.random.default_rng(3))
    assert hidden.tolist() == [False, False, False, True, True, False, False]
    assert np.array_equal(out[:, :20], image[:, :20])
    assert np.abs(out[5, 100].astype(int) - 98).max() <= 1 or out[5, 100].max() < 98  # darker still in its shadow


def test_visibility_keeps_what_was_hidden_and_stays_unknown_if_nothing_is_covered() -> None:
    before = (np.arange(68) % 2 + 1).astype(np.int8)
    for seed in range(8):
        out = augment_crop(face(visibility=before), only(hand=1.0), np.random.default_rng(seed), SCHEME_68)
        assert out.visibility is not None
        assert (out.visibility[before == OCCLUDED] == OCCLUDED).all()
    assert augment_crop(face(), Augmentation.paper(), np.random.default_rng(0), SCHEME_68).visibility is None
    start = face()
    start.points[3] = np.nan
    known = augment_crop(start, only(mask=1.0), np.random.default_rng(0), SCHEME_68).visibility
    assert known is not None
    assert known[3] == UNLABELLED
    assert (known[list(SCHEME_68.mouth)] == OCCLUDED).all()
    assert (known[list(SCHEME_68.left_eye)] == VISIBLE).all()


@pytest.mark.parametrize("name", ["hair", "glasses"])
def test_occluders_without_their_points_are_left_out(name: str) -> None:
    start = face()
    start.points[list(SCHEME_68.left_eye)] = np.nan
    out = augment_crop(start, only(**{name: 1.0}), np.random.default_rng(0), SCHEME_68)
    assert same(out, start)


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_nearly_no_points(kept: int) -> None:
    start = face()
    start.points[kept:] = np.nan
    out = augment_crop(start, only(**dict.fromkeys(OCCLUDERS, 1.0)), np.random.default_rng(0), SCHEME_68)
    if kept < 3:
        assert same(out, start)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 30.0]), st.sampled_from(SCHEMES))
@settings(deadline=None, max_examples=60)
def test_any_shape_can_be_occluded(seed: int, spread: float, scheme: LandmarkScheme) -> None:
    rng = np.random.default_rng(seed)
    points = (64 + spread * rng.normal(0, 10, (scheme.count, 2))).astype(np.float32)
    start = Crop(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8), points)
    out = augment_crop(start, only(**dict.fromkeys(OCCLUDERS, 1.0)), rng, scheme)
    assert out.image.shape == start.image.shape


@pytest.mark.parametrize("seed", range(8))
def test_a_photo_may_end_within_the_face(seed: int) -> None:
    start = face()
    start.points[3] = np.nan
    out = augment_crop(start, only(cut=1.0), np.random.default_rng(seed), SCHEME_68)
    black = out.image.max(axis=2) == 0
    assert np.array_equal(out.image[~black], start.image[~black])
    whole = cv2.morphologyEx(black.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    assert cv2.connectedComponents(whole)[0] <= 2  # one region, at an edge
    known = np.flatnonzero(np.isfinite(start.points[:, 0]))
    x, y = np.rint(start.points[known]).astype(int).T
    gone = np.zeros(68, np.bool_) if out.visibility is None else out.visibility == OCCLUDED
    assert not gone[3]
    assert np.mean(gone[known] == black[y, x]) > 0.95  # but for points on the edge itself
    (left, top), (right, bottom) = np.nanmin(start.points, axis=0), np.nanmax(start.points, axis=0)
    assert black[int(top) : int(bottom), int(left) : int(right)].mean() < 0.5  # three fifths of the face stay, or more


def test_some_photos_end_within_the_face() -> None:
    outs = [augment_crop(face(), only(cut=0.5), np.random.default_rng(seed), SCHEME_68) for seed in range(40)]
    hidden = [0.0 if out.visibility is None else float(np.mean(out.visibility == OCCLUDED)) for out in outs]
    assert 5 < np.count_nonzero(hidden) < 25
    assert max(hidden) > 0.2


def test_grey_photos_get_grey_occluders() -> None:
    grey: Image = np.repeat(face().image[..., :1], 3, axis=2)
    start = replace(face(), image=np.ascontiguousarray(grey))
    for seed in range(5):
        out = augment_crop(start, only(**dict.fromkeys(OCCLUDERS, 1.0)), np.random.default_rng(seed), SCHEME_68)
        assert np.ptp(out.image.astype(int), axis=2).max() <= 2


# Settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", [Augmentation.paper(), Augmentation.full()], ids=["paper", "full"])
def test_same_seed_same_bytes(setting: Augmentation) -> None:
    def run(seed: int) -> list[Crop]:
        rng = np.random.default_rng(seed)
        crops = []
        for _ in range(30):
            start = face()
            matrix, flipped = jitter_matrix(setting, rng, SIZE)
            crop = take_crop(start.image, start.points, None, matrix, SIZE, flip_table=SCHEME_68.flip, flipped=flipped)
            crops.append(augment_crop(crop, setting, rng, SCHEME_68))
        return crops

    first, again, other = run(1), run(1), run(2)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not any(same(a, b) for a, b in zip(first, other, strict=True))
    hidden = [crop.visibility is not None for crop in first]
    assert any(hidden) == (setting == Augmentation.full())
    assert not all(hidden)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("flip", 1.5),
        ("hand", -0.1),
        ("deform", 0.1),
        ("deform", -0.01),
        ("blur_sigma", (2.0, 1.0)),
        ("jpeg_quality", (-1.0, 5.0)),
    ],
)
def test_settings_that_cannot_be_are_refused(field: str, value: Any) -> None:
    with pytest.raises(FacemsmError, match=f"augmentation: {field} is"):
        Augmentation(**{field: value})


def test_stage_1_refuses_deformed_faces() -> None:
    pytest.importorskip("torch")
    from facemsm.stgan.training import STGANTraining

    with pytest.raises(FacemsmError, match="deform is for stage 2"):
        STGANTraining(augmentation=replace(STILL, deform=0.01))
