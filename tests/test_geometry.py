from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from facemsm.geometry import (
    CANONICAL_MARGIN,
    CROP_ENLARGEMENT,
    Matrix,
    apply_affine,
    box_scale,
    box_to_crop,
    canonical_matrix,
    compose,
    fit_similarity,
    invert,
    matrix_to_theta,
    normalised_to_pixels,
    perturb_box,
    pixels_to_normalised,
    shifted,
    similarity,
    theta_to_matrix,
    tight_box,
    upright_anchors,
)
from facemsm.schemes import LandmarkScheme, get_scheme

SIZE = 128
SCHEMES = [get_scheme(name) for name in ("29", "68", "98")]

angles = st.floats(-np.pi, np.pi)
scales = st.floats(0.1, 10)
shifts = st.tuples(st.floats(-1000, 1000), st.floats(-1000, 1000))
similarities = st.builds(similarity, angles, scales, shifts)
affine_maps = st.builds(  # turn, stretch one axis, shear by a second turn: any map of positive determinant
    lambda turn, stretch, rest: compose(compose(turn, np.array([[stretch, 0, 0], [0, 1, 0]])), rest),
    st.builds(similarity, angles),
    st.floats(0.2, 5),
    similarities,
)
seeds = st.integers(0, 2**32 - 1)


def points_of(seed: int, count: int = 7) -> Matrix:
    return np.random.default_rng(seed).uniform(-100, 100, (count, 2))


def face_of(scheme: LandmarkScheme, seed: int) -> Matrix:
    """A lopsided upright face: eyes, mouth and everything else near where they belong, in eye distances of 50 px."""
    rng = np.random.default_rng(seed)
    face = np.column_stack((rng.uniform(-1, 1, scheme.count), rng.uniform(-0.5, 1.8, scheme.count)))
    for group, centre in ((scheme.right_eye, (-0.5, 0)), (scheme.left_eye, (0.5, 0)), (scheme.mouth, (0, 1.1))):
        face[list(group)] = centre + rng.uniform(-0.15, 0.15, (len(group), 2))
    return face * 50 + 200


# --- Affine maps


@given(affine_maps, affine_maps, seeds)
def test_compose_applies_inner_first(outer: Matrix, inner: Matrix, seed: int) -> None:
    points = points_of(seed)
    expected = apply_affine(outer, apply_affine(inner, points))
    np.testing.assert_allclose(apply_affine(compose(outer, inner), points), expected, rtol=1e-9, atol=1e-6)


@given(affine_maps, seeds)
def test_invert_undoes(matrix: Matrix, seed: int) -> None:
    points = points_of(seed)
    np.testing.assert_allclose(apply_affine(invert(matrix), apply_affine(matrix, points)), points, atol=1e-6)
    np.testing.assert_allclose(invert(invert(matrix)), matrix, rtol=1e-8, atol=1e-6)


def test_a_singular_map_has_no_inverse() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        invert(np.zeros((2, 3)))


def test_maps_in_batches_equal_one_by_one() -> None:
    maps = np.stack([similarity(0.1 * i, 1 + i, (i, -i)) for i in range(4)])
    points = np.stack([points_of(i) for i in range(4)])
    one_by_one = np.stack([apply_affine(m, p) for m, p in zip(maps, points, strict=True)])
    np.testing.assert_allclose(apply_affine(maps, points), one_by_one)
    np.testing.assert_allclose(invert(maps), np.stack([invert(m) for m in maps]))
    np.testing.assert_allclose(compose(maps, maps[::-1]), np.stack([compose(maps[i], maps[3 - i]) for i in range(4)]))
    np.testing.assert_allclose(fit_similarity(points, one_by_one), maps, atol=1e-9)


def test_similarity_turns_x_towards_y_about_its_centre() -> None:
    quarter = similarity(np.pi / 2, 2.0, shift=(1, 0), centre=(10, 10))
    np.testing.assert_allclose(apply_affine(quarter, np.array([[10.0, 10.0], [11.0, 10.0]])), [[11, 10], [11, 12]])


def test_nan_stays_nan_and_alone() -> None:
    points = points_of(0)
    points[2] = np.nan
    mapped = apply_affine(similarity(1.0, 2.0, (3, 4)), points)
    assert np.isnan(mapped).any(-1).tolist() == [i == 2 for i in range(len(points))]


# --- Fits


@given(similarities, seeds)
def test_similarity_fit_recovers(matrix: Matrix, seed: int) -> None:
    source = points_of(seed)
    target = apply_affine(matrix, source)
    source[0], target[1] = np.nan, np.nan
    np.testing.assert_allclose(fit_similarity(source, target), matrix, rtol=1e-7, atol=1e-6)


@given(seeds)
def test_similarity_fit_is_the_least_squares_one(seed: int) -> None:
    source, target = points_of(seed), points_of(seed + 1)
    weights = np.random.default_rng(seed).uniform(0, 2, len(source))
    x, y = source.T
    one, zero = np.ones_like(x), np.zeros_like(x)
    design = np.concatenate((np.column_stack((x, -y, one, zero)), np.column_stack((y, x, zero, one))))
    root = np.sqrt(np.tile(weights, 2))
    a, b, u, v = np.linalg.lstsq(design * root[:, None], target.T.ravel() * root, rcond=None)[0]
    np.testing.assert_allclose(fit_similarity(source, target, weights), [[a, -b, u], [b, a, v]], atol=1e-6)


def test_points_of_weight_zero_are_left_out() -> None:
    matrix = similarity(0.3, 1.5, (5, -7))
    source = points_of(0)
    target = apply_affine(matrix, source)
    target[3] += 1000
    np.testing.assert_allclose(fit_similarity(source, target, np.arange(7) != 3), matrix, atol=1e-9)


def test_similarity_fit_never_mirrors() -> None:
    source = points_of(0)
    assert np.linalg.det(fit_similarity(source, source * (-1, 1))[:, :2]) >= 0


def test_similarity_fit_of_one_point_is_a_shift() -> None:
    source, target = np.full((3, 2), np.nan), np.zeros((3, 2))
    source[1], target[1] = (2, 3), (12, 33)
    np.testing.assert_allclose(fit_similarity(source, target), [[1, 0, 10], [0, 1, 30]])


# --- Pixels and normalised coordinates, θ


@given(st.integers(1, 5000), st.integers(1, 5000), seeds)
def test_pixels_to_normalised_and_back(width: int, height: int, seed: int) -> None:
    points = points_of(seed)
    back = apply_affine(normalised_to_pixels(width, height), apply_affine(pixels_to_normalised(width, height), points))
    np.testing.assert_allclose(back, points, atol=1e-6)


def test_minus_one_and_one_are_the_edges_of_the_image() -> None:
    edges = np.array([[-0.5, -0.5], [639.5, 479.5], [319.5, 239.5]])
    normalised = apply_affine(pixels_to_normalised(640, 480), edges)
    np.testing.assert_allclose(normalised, [[-1, -1], [1, 1], [0, 0]], atol=1e-12)


@given(affine_maps, st.integers(1, 1024))
def test_theta_both_directions(matrix: Matrix, size: int) -> None:
    np.testing.assert_allclose(theta_to_matrix(matrix_to_theta(matrix, size), size), matrix, rtol=1e-7, atol=1e-6)


def test_the_identity_is_the_identity_as_theta() -> None:
    np.testing.assert_allclose(matrix_to_theta(np.eye(2, 3), SIZE), np.eye(2, 3), atol=1e-12)


def blob(centre: tuple[float, float]) -> NDArray[np.float32]:
    """A crop with one soft spot."""
    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    distance = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
    return np.asarray(np.exp(-distance / (2 * 3.0**2)), dtype=np.float32)


def centroid(image: NDArray[np.floating]) -> Matrix:
    """Of an image (SIZE, SIZE), (2,) pixels."""
    weights, steps = np.asarray(image, dtype=np.float64), np.arange(SIZE)
    moments = np.array([weights.sum(0) @ steps, weights.sum(1) @ steps])
    return np.asarray(moments / weights.sum(), dtype=np.float64)


THETAS = [  # canonical -> crop: turned, small, shifted, sheared
    np.eye(2, 3),
    similarity(0.4, 0.8, (0.1, -0.05)),
    similarity(-1.0, 1.3, (-0.1, 0.2)),
    np.array([[0.9, 0.3, 0.05], [-0.1, 0.7, -0.1]]),
]


@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("place", [(64.0, 63.0), (88.3, 51.6), (45.2, 80.9)])
def test_theta_means_what_torch_and_opencv_mean(theta: Matrix, place: tuple[float, float]) -> None:
    torch = pytest.importorskip("torch")
    matrix = theta_to_matrix(theta, SIZE)
    crop = blob(place)
    expected = apply_affine(invert(matrix), np.array([place]))[0]

    grid = torch.nn.functional.affine_grid(
        torch.tensor(theta[None], dtype=torch.float32), [1, 1, SIZE, SIZE], align_corners=False
    )
    warped = torch.nn.functional.grid_sample(torch.tensor(crop)[None, None], grid, align_corners=False)
    np.testing.assert_allclose(centroid(warped[0, 0].numpy()), expected, atol=0.02)

    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    opencv = cv2.warpAffine(crop, matrix, (SIZE, SIZE), flags=flags)
    np.testing.assert_allclose(centroid(np.asarray(opencv, dtype=np.float32)), expected, atol=0.02)


# --- Boxes


def test_tight_box_leaves_out_unlabelled_points() -> None:
    points = np.array([[1, 5], [np.nan, np.nan], [3, 2]], dtype=np.float32)
    box = tight_box(points)
    assert box.dtype == np.float32
    assert box.tolist() == [1, 2, 3, 5]
    assert tight_box(np.stack((points, points + 1))).tolist() == [[1, 2, 3, 5], [2, 3, 4, 6]]


@pytest.mark.parametrize("box", [[10, 20, 110, 70], [-40, 5, -10, 65]])
def test_box_to_crop_is_an_enlarged_square_about_the_centre(box: list[float]) -> None:
    low, high = np.array(box[:2]), np.array(box[2:])
    centre, half = (low + high) / 2, CROP_ENLARGEMENT * (high - low).max() / 2
    matrix = box_to_crop(np.array(box), SIZE)
    corners = apply_affine(matrix, np.stack((centre - half, centre, centre + half)))
    np.testing.assert_allclose(corners, [[-0.5, -0.5], [(SIZE - 1) / 2] * 2, [SIZE - 0.5] * 2])


def test_box_to_crop_in_batches() -> None:
    boxes = np.array([[0, 0, 10, 20], [5, 5, 50, 30]], dtype=np.float32)
    np.testing.assert_allclose(box_to_crop(boxes, 64, 2.0), np.stack([box_to_crop(box, 64, 2.0) for box in boxes]))


def test_an_empty_box_gives_a_finite_crop() -> None:
    assert np.isfinite(box_to_crop(np.array([5, 5, 5, 5]), SIZE)).all()


def test_perturb_box() -> None:
    box = np.array([10, 20, 30, 60], dtype=np.float32)
    assert perturb_box(box).tolist() == box.tolist()
    assert perturb_box(box, shift=(0.5, -0.25)).tolist() == [20, 10, 40, 50]
    assert perturb_box(box, scale=2).tolist() == [0, 0, 40, 80]
    assert perturb_box(box, shift=(1, 0), scale=0.5).tolist() == [35, 30, 45, 50]


# --- The canonical face


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@given(turn=similarities, seed=seeds)
def test_canonical_face_is_upright_centred_and_fills_the_image(scheme: LandmarkScheme, turn: Matrix, seed: int) -> None:
    face = face_of(scheme, seed)
    face[list(scheme.right_eye + scheme.left_eye), 1] = 200  # level eyes, mouth below their middle
    face[list(scheme.mouth), 0] += (
        face[list(scheme.right_eye), 0].mean() / 2
        + face[list(scheme.left_eye), 0].mean() / 2
        - face[list(scheme.mouth), 0].mean()
    )
    photo = apply_affine(turn, face)
    matrix = canonical_matrix(photo, scheme, SIZE)
    canonical = apply_affine(matrix, photo)

    right, left, mouth = upright_anchors(canonical, scheme)
    assert right[1] == pytest.approx(left[1], abs=1e-4)
    assert right[0] < left[0]
    assert mouth[0] == pytest.approx((right[0] + left[0]) / 2, abs=1e-4)
    assert mouth[1] > right[1]
    low, high = canonical.min(axis=0), canonical.max(axis=0)
    np.testing.assert_allclose((low + high) / 2, (SIZE - 1) / 2, atol=1e-4)
    assert (high - low).max() == pytest.approx(SIZE / CANONICAL_MARGIN, abs=1e-4)
    (a, minus_b), (b, a_too) = matrix[:, :2]
    assert (a, b) == pytest.approx((a_too, -minus_b))


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@given(turn=similarities, seed=seeds)
def test_canonical_face_does_not_depend_on_the_photo(scheme: LandmarkScheme, turn: Matrix, seed: int) -> None:
    face = face_of(scheme, seed)
    photo = apply_affine(turn, face)
    canonical = apply_affine(canonical_matrix(face, scheme, SIZE), face)
    np.testing.assert_allclose(apply_affine(canonical_matrix(photo, scheme, SIZE), photo), canonical, atol=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@given(seed=seeds)
def test_canonical_face_of_the_mirrored_photo_is_the_mirrored_one(scheme: LandmarkScheme, seed: int) -> None:
    def mirror(points: Matrix, width: int) -> Matrix:
        return (points * (-1, 1) + (width - 1, 0))[scheme.flip]

    face = face_of(scheme, seed)
    mirrored = mirror(face, 640)
    canonical = apply_affine(canonical_matrix(face, scheme, SIZE), face)
    other = apply_affine(canonical_matrix(mirrored, scheme, SIZE), mirrored)
    np.testing.assert_allclose(other, mirror(canonical, SIZE), atol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("side", ["right_eye", "left_eye"])
@given(turn=similarities, seed=seeds)
def test_a_face_with_one_eye_stands_with_it_above_the_mouth(
    scheme: LandmarkScheme, side: str, turn: Matrix, seed: int
) -> None:
    face = face_of(scheme, seed)
    face[list(getattr(scheme, side))] = np.nan
    photo = apply_affine(turn, face)
    canonical = apply_affine(canonical_matrix(photo, scheme, SIZE), photo)
    right, left, mouth = upright_anchors(canonical, scheme)
    hidden, eye = (right, left) if side == "right_eye" else (left, right)
    assert np.isnan(hidden).all()
    assert eye[0] == pytest.approx(mouth[0], abs=1e-4)
    assert eye[1] < mouth[1]
    extent = np.nanmax(canonical, axis=0) - np.nanmin(canonical, axis=0)
    assert extent.max() == pytest.approx(SIZE / CANONICAL_MARGIN, abs=1e-4)


def test_canonical_matrices_in_batches() -> None:
    scheme = get_scheme("68")
    faces = np.stack([apply_affine(similarity(0.5 * i, 1 + i), face_of(scheme, i)) for i in range(3)])
    faces[1, list(scheme.left_eye)] = np.nan
    one_by_one = np.stack([canonical_matrix(face, scheme, SIZE) for face in faces])
    np.testing.assert_allclose(canonical_matrix(faces, scheme, SIZE), one_by_one)


def test_an_eye_is_the_mean_of_its_labelled_points() -> None:
    scheme = get_scheme("68")
    face = face_of(scheme, 0)
    face[37:42] = np.nan
    np.testing.assert_allclose(upright_anchors(face, scheme)[0], face[36])


def test_a_convention_is_a_share_of_the_box_there_and_back() -> None:
    points = np.array([[10.0, 20.0], [110.0, 45.0], [60.0, np.nan]])  # 100 x 25: the root of the area is 50
    moved = shifted(points, (0.02, -0.01))
    np.testing.assert_allclose(moved, points + np.array((1.0, -0.5)))
    np.testing.assert_allclose(shifted(moved, (-0.02, 0.01)), points)
    np.testing.assert_allclose(box_scale(np.stack((points, 2 * points))), [50, 100])
