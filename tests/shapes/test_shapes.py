from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facemsm.errors import FacemsmError
from facemsm.geometry import apply_affine, canonical_matrix, fit_similarity, similarity
from facemsm.schemes import SCHEME_68, LandmarkScheme
from facemsm.shapes.dictionary import ShapeDictionary, build_dictionary
from facemsm.shapes.reconstruction import Reconstruction, reconstruct, relative_scores, reliable_points
from facemsm.typing import FloatArray

PAPER = Reconstruction()
UNALIGNED = replace(PAPER, aligned=False)
SCHEME_4 = LandmarkScheme("4", 4, flip_pairs=((0, 1),), right_eye=(0,), left_eye=(1,), mouth=(2,), contour=(3,))
SIZE = 128


def mirrored(points: NDArray[np.floating], scheme: LandmarkScheme = SCHEME_68) -> FloatArray:
    return (points * [-1, 1] + [SIZE - 1, 0]).astype(np.float32)[:, scheme.flip]


def faces_68(count: int, seed: int = 0) -> FloatArray:
    """Face-like shapes, canonical pixels: a symmetric mean face that varies in 12 directions."""
    face = np.random.default_rng(99)
    angle = np.linspace(np.pi, 0, 17)
    contour = 63.5 + np.column_stack((50 * np.cos(angle), 50 * np.sin(angle)))
    places = [(42, 38), (85, 38), (63.5, 65), (45, 50), (82, 50), (63.5, 85)]  # brows, nose, eyes, mouth
    features = np.repeat(places, [5, 5, 9, 6, 6, 20], axis=0) + face.normal(0, 4, (51, 2))
    mean = np.concatenate((contour, features))
    mean = (mean + mirrored(mean[None])[0]) / 2
    modes = face.normal(size=(12, 68, 2)) * np.linspace(3, 0.5, 12)[:, None, None]
    weights = np.random.default_rng(seed).normal(size=(count, 12))
    return np.asarray(mean + np.einsum("nm,mlc->nlc", weights, modes), dtype=np.float32)


@pytest.fixture(scope="module")
def dictionary() -> ShapeDictionary:
    return ShapeDictionary(faces_68(300, seed=1), SCHEME_68)


def hidden(count: int, share: float = 0.25, seed: int = 0) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((count, 68)) < share


def scored(is_hidden: NDArray[np.bool_], seed: int = 0) -> FloatArray:
    """Scores above every threshold where visible, below every one where hidden."""
    rng = np.random.default_rng(seed)
    return np.where(is_hidden, rng.uniform(0.01, 0.2, is_hidden.shape), rng.uniform(0.9, 1, is_hidden.shape)).astype(
        np.float32
    )


# --- Settings, scores and V ------------------------------------------------------------------------------------------


def test_defaults_are_the_published_parameters() -> None:
    published = {"k": 100, "ridge": 60.0, "contour_threshold": 0.4, "feature_threshold": 0.6}
    ours = {"minimum_reliable": 0.2, "replace": "unreliable", "aligned": True}
    assert asdict(PAPER) == published | ours
    assert build_dictionary.__kwdefaults__ == {"count": 500, "mirror": True, "seed": 0, "size": 128}


@pytest.mark.parametrize(
    ("field", "value"),
    [("k", 0), ("ridge", -1.0), ("ridge", np.nan), ("contour_threshold", 1.1), ("minimum_reliable", -0.1)],
)
def test_settings_out_of_range(field: str, value: float) -> None:
    with pytest.raises(FacemsmError, match=field):
        replace(PAPER, **{field: value})  # type: ignore[arg-type]


def test_replace_must_be_known() -> None:
    with pytest.raises(FacemsmError, match="'some', use 'unreliable' or 'all'"):
        Reconstruction(replace="some")  # type: ignore[arg-type]


def test_relative_scores() -> None:
    scores = np.array([[0.2, 0.4, np.nan, 0.1], [0, 0, 0, 0]])
    assert np.allclose(relative_scores(scores), np.array([[0.5, 1, 0, 0.25], [0, 0, 0, 0]]))
    assert relative_scores(scores).dtype == np.float32
    assert np.allclose(relative_scores(7 * scores), relative_scores(scores))


def test_thresholds_are_per_group_and_strict() -> None:
    scores = np.array([[1.0, 0.61, 0.6, 0.41], [1.0, 0.5, 0.59, 0.4]])  # the last point is on the contour
    lenient = replace(PAPER, minimum_reliable=0.0)
    expected = [[True, True, False, True], [True, False, False, False]]
    assert reliable_points(scores, SCHEME_4, lenient).tolist() == expected
    assert reliable_points(scores[0], SCHEME_4, lenient).tolist() == expected[0]


def test_too_few_reliable_points_take_the_best() -> None:
    half = replace(PAPER, minimum_reliable=0.5)
    scores = np.array([[1.0, 0.3, 0.2, 0.1], [1.0, 0.3, 0.2, 0.3], [1, 0, 0, 0], [1, np.nan, np.nan, np.nan], [0] * 4])
    expected = [[1, 1, 0, 0], [1, 1, 0, 1], [1, 0, 0, 0], [1, 0, 0, 0], [0] * 4]  # equal scores count as one
    assert reliable_points(scores, SCHEME_4, half).astype(int).tolist() == expected


# --- Reconstruction --------------------------------------------------------------------------------------------------


def test_one_exemplar_by_hand() -> None:
    """With one exemplar d, Eq. 10 gives α = <V*S, V*d> / (|V*d|² + λ), about the image centre."""
    exemplar = np.array([[-10, 0], [10, 0], [0, 20], [0, 40]], dtype=np.float32)
    one = ShapeDictionary(exemplar[None] + 63.5, SCHEME_4, SIZE)
    face = np.array(
        [[-20, 0], [20, 0], [0, 40], [5, 5]], dtype=np.float32
    )  # twice the exemplar, but for the last point
    points, rebuilt = reconstruct(face[None] + 63.5, np.array([[1, 1, 1, 0.1]]), one, UNALIGNED)
    alpha = (20 * 10 + 20 * 10 + 40 * 20) / (10**2 + 10**2 + 20**2 + 60)
    assert rebuilt.tolist() == [[False, False, False, True]]
    assert np.allclose(points[0, 3], [63.5, 63.5 + 40 * alpha], atol=1e-4)
    assert np.array_equal(points[0, :3], face[:3] + 63.5)


def test_least_squares_on_two_exemplars_by_hand() -> None:
    wide = np.array([[-20, 0], [20, 0], [0, 0], [0, 30]])
    long = np.array([[0, -10], [0, -10], [0, 10], [0, 50]])
    both = ShapeDictionary(np.stack((wide, long)).astype(np.float32) + 63.5, SCHEME_4, SIZE)
    face = (0.5 * wide + 2 * long + 63.5).astype(np.float32)
    face[3] = np.nan
    points, _ = reconstruct(face[None], np.ones((1, 4)), both, replace(UNALIGNED, ridge=0.0))
    assert np.allclose(points[0, 3], [63.5, 63.5 + 0.5 * 30 + 2 * 50], atol=1e-4)


def test_the_nearest_exemplar_is_chosen_by_the_reliable_points(dictionary: ShapeDictionary) -> None:
    nearest = replace(PAPER, k=1)  # the mean of one exemplar is that exemplar
    is_hidden = hidden(300)
    noisy = np.where(is_hidden[..., None], 500.0, dictionary.shapes).astype(np.float32)
    points, _ = reconstruct(noisy, scored(is_hidden), dictionary, nearest)
    assert np.allclose(points, dictionary.shapes, atol=1e-4)


def test_exemplars_are_aligned_as_a_similarity_fit_says(dictionary: ShapeDictionary) -> None:
    """The nearest of all exemplars, once each is where the reliable points say; then nothing is left to fit."""
    face, is_hidden = faces_68(10, seed=14) + np.float32(30), hidden(10, 0.5)
    points, _ = reconstruct(face, scored(is_hidden), dictionary, replace(PAPER, k=1))
    for found, one, lost in zip(points, face, is_hidden, strict=True):
        known = np.where(lost[:, None], np.nan, one)
        aligned = apply_affine(fit_similarity(dictionary.shapes, known[None]), dictionary.shapes)
        nearest = aligned[np.nansum((aligned - known) ** 2, axis=(1, 2)).argmin()]
        np.testing.assert_allclose(found[lost], nearest[lost], atol=1e-3)


def test_what_stage_1_leaves_does_not_count(dictionary: ShapeDictionary) -> None:
    face, scores = faces_68(20, seed=15), scored(hidden(20))
    off = similarity(0.2, shift=(7, -4), centre=(60, 70))
    turned = apply_affine(off, face).astype(np.float32)
    before, after = (
        [apply_affine(off, reconstruct(face, scores, dictionary, one)[0]) for one in (PAPER, UNALIGNED)],
        [reconstruct(turned, scores, dictionary, one)[0] for one in (PAPER, UNALIGNED)],
    )
    np.testing.assert_allclose(after[0], before[0], atol=1e-3)
    assert np.abs(after[1] - before[1]).max() > 1


def test_reliable_points_that_coincide_place_a_shape_by_its_shift_alone() -> None:
    shape = np.array([[-10, 0], [-10, 0], [0, 20], [0, 40]], dtype=np.float32)
    one = ShapeDictionary(shape[None] + 63.5, SCHEME_4, SIZE)
    face = np.array([[-5, 5], [-5, 5], [0, 0], [0, 0]], dtype=np.float32) + 63.5
    for scores in ([1.0, 1, 0, 0], [1.0, 0, 0, 0]):
        lenient = replace(PAPER, minimum_reliable=0.0)
        points, rebuilt = reconstruct(face[None], np.array([scores]), one, lenient)
        np.testing.assert_allclose(points[rebuilt], (shape + 63.5 + 5)[rebuilt[0]], atol=1e-4)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.slow
def test_a_shape_of_the_dictionary_is_recovered_without_ridge(dictionary: ShapeDictionary, aligned: bool) -> None:
    is_hidden = hidden(300)
    points, _ = reconstruct(
        np.where(is_hidden[..., None], 0.0, dictionary.shapes).astype(np.float32),
        scored(is_hidden),
        dictionary,
        replace(PAPER, ridge=0.0, aligned=aligned),
    )
    assert np.allclose(points, dictionary.shapes, atol=0.01)


def test_ridge_follows_the_size_of_the_canonical_image(dictionary: ShapeDictionary) -> None:
    face, scores = faces_68(5, seed=2), scored(hidden(5))
    double = ShapeDictionary(2 * dictionary.shapes + np.float32(0.5), SCHEME_68, 2 * SIZE)
    expected, _ = reconstruct(face, scores, dictionary, PAPER)
    points, _ = reconstruct(2 * face + np.float32(0.5), scores, double, PAPER)
    assert np.allclose((points - 0.5) / 2, expected, atol=1e-3)


def test_hidden_points_come_back_and_reliable_ones_stay(dictionary: ShapeDictionary) -> None:
    truth, is_hidden = faces_68(200, seed=3), hidden(200)
    noise = np.random.default_rng(4).normal(0, 10, truth.shape)
    face = np.where(is_hidden[..., None], truth + noise, truth).astype(np.float32)
    points, rebuilt = reconstruct(face, scored(is_hidden), dictionary, PAPER)
    assert np.array_equal(rebuilt, is_hidden)
    assert np.array_equal(points[~is_hidden], face[~is_hidden])
    error = np.linalg.norm(points - truth, axis=-1)[is_hidden].mean()
    assert error < 0.1 * np.linalg.norm(face - truth, axis=-1)[is_hidden].mean()


def test_all_reliable_leaves_the_face_alone(dictionary: ShapeDictionary) -> None:
    face = faces_68(3, seed=5) + 200  # far outside the image
    before = face.copy()
    points, rebuilt = reconstruct(face, np.ones((3, 68)), dictionary, PAPER)
    assert np.array_equal(points, before)
    assert np.array_equal(face, before)
    assert points is not face
    assert not rebuilt.any()


def test_all_unreliable_rebuilds_from_the_best_scores(dictionary: ShapeDictionary) -> None:
    truth = faces_68(20, seed=6)
    scores = np.tile(np.linspace(0.2, 0.3, 68), (20, 1))
    scores[:, 0] = 1.0  # the only point above its threshold
    best = np.r_[0, 55:68]  # 14 of 68 points: 0.2 of them, rounded up
    face = np.full_like(truth, 300)
    face[:, best] = truth[:, best]
    points, rebuilt = reconstruct(face, scores, dictionary, PAPER)
    assert np.array_equal(np.flatnonzero(~rebuilt[0]), best)
    assert np.linalg.norm(points - truth, axis=-1).mean() < 3


def test_replace_all(dictionary: ShapeDictionary) -> None:
    face, scores = faces_68(4, seed=7), scored(hidden(4))
    scores[0] = 1.0  # Algorithm 2, line 13, makes no exception for a face of reliable points only
    some, is_rebuilt = reconstruct(face, scores, dictionary, PAPER)
    every, all_rebuilt = reconstruct(face, scores, dictionary, replace(PAPER, replace="all"))
    assert all_rebuilt.all()
    assert np.array_equal(some[is_rebuilt], every[is_rebuilt])
    assert (every[0] != face[0]).all()


def test_missing_points_are_rebuilt_and_lost_faces_stay(dictionary: ShapeDictionary) -> None:
    truth = faces_68(3, seed=8)
    face, scores = truth.copy(), np.ones((3, 68))
    face[0, :10], face[0, 10, 1], face[1] = np.nan, np.inf, np.nan
    scores[2] = 0.0
    points, rebuilt = reconstruct(face, scores, dictionary, PAPER)
    assert np.flatnonzero(rebuilt[0]).tolist() == list(range(11))
    assert np.linalg.norm(points[0] - truth[0], axis=-1).max() < 5
    assert np.isnan(points[1]).all()
    assert not rebuilt[1:].any()
    assert np.array_equal(points[2], truth[2])


@pytest.mark.parametrize("settings_", [PAPER, replace(UNALIGNED, replace="all")])
def test_many_faces_are_the_same_as_one_by_one(dictionary: ShapeDictionary, settings_: Reconstruction) -> None:
    face, scores = faces_68(50, seed=9), scored(hidden(50, 0.5))
    many, rebuilt = reconstruct(face, scores, dictionary, settings_)
    for i in range(50):
        one, one_rebuilt = reconstruct(face[i : i + 1], scores[i : i + 1], dictionary, settings_)
        assert np.array_equal(one[0], many[i])
        assert np.array_equal(one_rebuilt[0], rebuilt[i])


def test_no_face(dictionary: ShapeDictionary) -> None:
    points, rebuilt = reconstruct(np.zeros((0, 68, 2), np.float32), np.zeros((0, 68)), dictionary, PAPER)
    assert points.shape == (0, 68, 2)
    assert rebuilt.shape == (0, 68)


def test_mirrored_faces_give_mirrored_points(dictionary: ShapeDictionary) -> None:
    both = ShapeDictionary(np.concatenate((dictionary.shapes, mirrored(dictionary.shapes))), SCHEME_68)
    face, scores = faces_68(30, seed=10), scored(hidden(30))
    points, rebuilt = reconstruct(face, scores, both, PAPER)
    other, other_rebuilt = reconstruct(mirrored(face), scores[:, SCHEME_68.flip], both, PAPER)
    assert rebuilt.any()
    assert np.array_equal(other_rebuilt, rebuilt[:, SCHEME_68.flip])
    assert np.allclose(other, mirrored(points), atol=1e-3)


@pytest.mark.parametrize(("points", "scores"), [((2, 67, 2), (2, 67)), ((2, 68, 2), (1, 68)), ((68, 2), (68,))])
def test_points_of_another_scheme(
    dictionary: ShapeDictionary, points: tuple[int, ...], scores: tuple[int, ...]
) -> None:
    with pytest.raises(FacemsmError, match="scheme '68'"):
        reconstruct(np.ones(points, np.float32), np.ones(scores), dictionary, PAPER)


# --- Dictionary ------------------------------------------------------------------------------------------------------


def in_photos(shapes: FloatArray) -> FloatArray:
    """The same faces turned, scaled and shifted as in photos."""
    rng = np.random.default_rng(0)
    maps = [similarity(rng.uniform(-0.5, 0.5), rng.uniform(0.5, 5), rng.uniform(0, 900, 2)) for _ in shapes]
    return apply_affine(np.stack(maps), shapes).astype(np.float32)


def test_build_finds_the_clusters_whatever_the_photos() -> None:
    prototypes = faces_68(6, seed=11)
    rng = np.random.default_rng(12)
    members = np.repeat(np.arange(6), 10 * np.arange(6, 0, -1))
    photos = in_photos((prototypes[members] + rng.normal(0, 0.05, (len(members), 68, 2))).astype(np.float32))
    built = build_dictionary(photos, SCHEME_68, count=6, mirror=False)
    expected = apply_affine(canonical_matrix(prototypes, SCHEME_68, SIZE), prototypes)
    assert np.abs(built.shapes - expected).max() < 0.2  # largest cluster first
    assert built.size == SIZE
    assert built.scheme == SCHEME_68


def test_build_mirrors() -> None:
    prototype = faces_68(1, seed=13)
    built = build_dictionary(in_photos(prototype.repeat(3, 0)), SCHEME_68, count=2)
    assert np.allclose(mirrored(built.shapes)[::-1], built.shapes, atol=1e-3)
    assert np.abs(built.shapes[0] - built.shapes[1]).max() > 1


def test_build_is_reproducible() -> None:
    photos = in_photos(faces_68(120, seed=14))
    first, second, other = (build_dictionary(photos, SCHEME_68, count=10, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.shapes, second.shapes)
    assert not np.array_equal(first.shapes, other.shapes)


def test_build_refuses() -> None:
    photos = faces_68(5)
    with pytest.raises(FacemsmError, match="11 exemplars asked of 10 shapes"):
        build_dictionary(photos, SCHEME_68, count=11)
    with pytest.raises(FacemsmError, match="scheme '68' needs"):
        build_dictionary(photos[:, :29], SCHEME_68, count=2)
    photos[1, 3], photos[4, 0, 0] = np.nan, np.inf
    with pytest.raises(FacemsmError, match="2 of 5 shapes have unlabelled points"):
        build_dictionary(photos, SCHEME_68, count=2)


def test_shapes_must_fit_the_scheme() -> None:
    with pytest.raises(FacemsmError, match="needs \\(N, 4, 2\\)"):
        ShapeDictionary(faces_68(2), SCHEME_4)
    with pytest.raises(FacemsmError, match="needs \\(N, 68, 2\\)"):
        ShapeDictionary(faces_68(0), SCHEME_68)
    with pytest.raises(FacemsmError, match="finite"):
        ShapeDictionary(np.full((1, 4, 2), np.nan, np.float32), SCHEME_4)
    with pytest.raises(FacemsmError, match="size is 0"):
        ShapeDictionary(faces_68(1), SCHEME_68, 0)


def test_save_and_load(dictionary: ShapeDictionary, tmp_path: Path) -> None:
    for one in (dictionary, ShapeDictionary(np.ones((1, 4, 2), np.float32), SCHEME_4, 64)):
        one.save(tmp_path / "shapes.safetensors")
        again = ShapeDictionary.load(tmp_path / "shapes.safetensors")
        assert np.array_equal(again.shapes, one.shapes)
        assert again.shapes.dtype == np.float32
        assert (again.scheme, again.size) == (one.scheme, one.size)
        first = (tmp_path / "shapes.safetensors").read_bytes()
        again.save(tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == first


def _assert_refused(path: Path) -> None:
    with pytest.raises(FacemsmError) as caught:
        ShapeDictionary.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_used(dictionary: ShapeDictionary, tmp_path: Path) -> None:
    _assert_refused(tmp_path / "missing")
    _assert_refused(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FacemsmError, match="cannot be written"):
        dictionary.save(tmp_path / "file" / "dictionary.safetensors")

    from safetensors.numpy import save

    path, shapes = tmp_path / "file", np.ones((1, 4, 2), np.float32)
    for tensors, metadata in [
        ({"shapes": shapes}, None),  # another program's file
        ({"shapes": shapes}, "{"),
        ({"shapes": shapes}, "[1]"),
        ({"shapes": shapes}, '{"size": 128}'),
        ({"shapes": shapes}, '{"size": true, "scheme": {}}'),
        ({"shapes": shapes}, '{"size": 128, "scheme": {}}'),
        ({"shapes": shapes}, '{"size": 128, "scheme": [1]}'),
        ({"shapes": shapes}, '{"size": 128, "scheme": {"name": "x", "count": Infinity, "mouth": [0]}}'),
        ({"other": shapes}, '{"size": 128, "scheme": {}}'),
    ]:
        path.write_bytes(save(tensors, None if metadata is None else {"facemsm shape dictionary 1": metadata}))
        _assert_refused(path)


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "random"
    path.write_bytes(content)
    _assert_refused(path)


@given(st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_are_refused_or_whole(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "damaged"
    ShapeDictionary(np.ones((2, 4, 2), np.float32), SCHEME_4).save(path)
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    _assert_refused(path)
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(FacemsmError):  # a changed digit of a shape cannot be seen
        assert ShapeDictionary.load(path).scheme.count == 4


def test_reconstruction_loads_no_training_library() -> None:
    code = (
        "import sys, facemsm.shapes.dictionary, facemsm.shapes.reconstruction;"
        "print([m for m in ('torch', 'scipy', 'sklearn', 'safetensors') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# --- Real faces ------------------------------------------------------------------------------------------------------


def test_real_faces(data_root: Path) -> None:
    shapes = np.load(data_root / "shapes" / "300w_train_68.npz")["points"]
    known, unseen = shapes[:1000], shapes[-300:]
    built = build_dictionary(known, SCHEME_68, count=100)
    truth = apply_affine(canonical_matrix(unseen, SCHEME_68, SIZE), unseen)
    rng = np.random.default_rng(16)  # what stage 1 leaves
    off = [similarity(rng.normal(0, 0.05), rng.normal(1, 0.04), rng.normal(0, 2, 2), (63.5, 63.5)) for _ in truth]
    truth = apply_affine(np.stack(off), truth).astype(np.float32)
    is_hidden = np.zeros((300, 68), dtype=bool)
    is_hidden[:, :17] = True  # the whole contour
    lost = np.where(is_hidden[..., None], np.float32(np.nan), truth)
    points, _ = reconstruct(lost, scored(is_hidden), built, PAPER)
    error = np.linalg.norm(points - truth, axis=-1)[:, :17].mean()
    mean_shape = np.linalg.norm(built.shapes.mean(axis=0) - truth, axis=-1)[:, :17].mean()
    assert error < 0.8 * mean_shape
