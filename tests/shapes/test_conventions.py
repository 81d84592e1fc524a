from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file
from test_posterior import shapes

from facemsm.errors import FacemsmError
from facemsm.geometry import apply_affine, box_scale, similarity
from facemsm.schemes import SCHEME_68
from facemsm.shapes.conventions import (
    FEWEST_FACES,
    LEAST_FACES,
    Convention,
    fit_conventions,
    known_as,
    load_conventions,
    save_conventions,
)
from facemsm.shapes.posterior import POSES, ShapePrior, learn_prior

Points = NDArray[np.float64]


@pytest.fixture(scope="module")
def prior() -> ShapePrior:
    return learn_prior(shapes(300), SCHEME_68, rank=6)


def mirrored(points: Points) -> Points:
    return np.array((points * [-1, 1])[:, SCHEME_68.flip], np.float64)


def in_photos(points: Points, seed: int = 0) -> Points:
    """Canonical faces turned, enlarged and put somewhere."""
    rng = np.random.default_rng(seed)
    matrices = [similarity(rng.uniform(-1, 1), rng.uniform(0.5, 4), rng.uniform(0, 500, 2)) for _ in points]
    return np.asarray(apply_affine(np.array(matrices), points))


def lower_chin(points: Points) -> Points:
    """Another habit: of a wide face the chin is drawn lower, of a narrow one higher; eyebrows always higher."""
    width = np.ptp(points[..., 0], axis=1)
    labels: Points = np.array(points)
    labels[:, 6:11, 1] += 0.3 * (width - width.mean())[:, None]
    labels[:, 17:27, 1] -= 2
    return labels


@pytest.fixture(scope="module")
def fitted(prior: ShapePrior) -> dict[str, Convention]:
    one, other = shapes(400, seed=1), shapes(400, seed=2)
    found = np.concatenate((one, other))
    labels = np.concatenate((one, lower_chin(other)))
    labels[:400, 27:31] = np.nan  # the first set does not know the bridge of the nose
    sets = ["one"] * 400 + ["other"] * 400
    labels[400:] += 0.02 * box_scale(found[400:])[:, None, None] * np.array([1, 0])
    return fit_conventions(found, labels, sets, prior, SCHEME_68)


def test_what_depends_on_the_shape_is_learned_and_halved(fitted: dict[str, Convention]) -> None:
    """Between two sets with as many faces the consensus lies in the middle; the photo's shift stays with its set."""
    faces = shapes(80, seed=3)
    width = np.ptp(faces[..., 0], axis=1)
    faces = faces[np.abs(width - width.mean()) < 2 * width.std()]  # beyond, offsets are cut off
    between = fitted["other"].to_labels(faces) - fitted["one"].to_labels(faces)
    wanted = lower_chin(faces) - faces
    chin = np.polyfit(wanted[:, 6:11, 1].ravel(), between[:, 6:11, 1].ravel(), 1)
    assert 0.75 < chin[0] < 1  # the penalty shrinks it
    between -= 0.02 * box_scale(faces)[:, None, None] * np.array([1, 0])
    np.testing.assert_allclose(between[:, 17:27], wanted[:, 17:27], atol=0.25)
    np.testing.assert_allclose(between[:, 31:], wanted[:, 31:], atol=0.25)
    shiftless = [Convention((0, 0), fitted[name].prior, fitted[name].weights) for name in ("one", "other")]
    sides = [convention.to_labels(faces) - faces for convention in shiftless]
    known = np.r_[0:27, 31:68]
    np.testing.assert_allclose(sides[0][:, known], -sides[1][:, known], atol=0.4)


def test_labels_go_to_the_consensus_and_back(fitted: dict[str, Convention]) -> None:
    faces = in_photos(shapes(20, seed=4))
    labels = fitted["other"].to_labels(faces)
    labels[3, 5] = np.nan
    back = fitted["other"].to_consensus(labels, faces)
    assert np.isnan(back[3, 5]).all()
    back[3, 5] = faces[3, 5]
    np.testing.assert_allclose(back, faces, atol=1e-6)


def test_a_face_anywhere_in_the_photo_is_the_same_face(fitted: dict[str, Convention]) -> None:
    """But for the shift, which is one of the photo, a convention turns and grows with the face, and has no side."""
    convention = Convention((0.0, 0.0), fitted["other"].prior, fitted["other"].weights)
    faces = shapes(10, seed=5)
    matrix = similarity(0.7, 2.5, (30, -8))
    moved = convention.to_labels(apply_affine(matrix, faces))
    np.testing.assert_allclose(moved, apply_affine(matrix, convention.to_labels(faces)), atol=1e-6)
    np.testing.assert_allclose(convention.to_labels(mirrored(faces)), mirrored(convention.to_labels(faces)), atol=0.05)


def test_of_few_faces_only_a_shift_is_learned(prior: ShapePrior) -> None:
    counts = {"fewest": FEWEST_FACES - 1, "few": LEAST_FACES - 1, "many": LEAST_FACES}
    found = shapes(sum(counts.values()), seed=6)
    sets = np.repeat(list(counts), list(counts.values()))
    labels = found + (sets == "few")[:, None, None] * np.array([2.0, 1.0])
    learned = fit_conventions(found, labels, sets.tolist(), prior, SCHEME_68)
    assert sorted(learned) == ["few", "many"]
    assert learned["few"].weights is None
    assert learned["many"].weights is not None
    one, other = (learned[name].to_labels(found) - found for name in ("few", "many"))
    np.testing.assert_allclose((one - other).mean((0, 1)), [2, 1], atol=0.1)
    assert fit_conventions(found[:5], labels[:5], ["few"] * 5, prior, SCHEME_68) == {}


def test_parts_of_a_set_have_habits_of_their_own(prior: ShapePrior) -> None:
    """One part is labelled as the other set, one is not, and of one too few faces are known: it is as its set."""
    counts = {"one": 400, "two/plain": 200, "two/low": 200, "two/few": FEWEST_FACES - 1}
    found = shapes(sum(counts.values()), seed=9)
    sets = np.repeat(list(counts), list(counts.values()))
    low = sets == "two/low"
    labels = np.where(low[:, None, None], lower_chin(found) + np.array([1.5, 0]), found)
    learned = fit_conventions(found, labels, sets.tolist(), prior, SCHEME_68)
    assert set(learned) == {"one", "two", "two/plain", "two/low"}
    faces = shapes(40, seed=10)
    between = learned["two/low"].to_labels(faces) - learned["two/plain"].to_labels(faces)
    np.testing.assert_allclose(between[:, 17:27].mean((0, 1)), [1.5, -2], atol=0.1)
    errors = {
        name: np.abs(learned[name].to_labels(found[low]) - labels[low])[:, 17:27].mean() for name in ("two", "two/low")
    }
    assert errors["two/low"] < 0.7 * errors["two"]
    assert known_as("two/few", learned) == "two"
    assert known_as("two/low", learned) == "two/low"
    assert known_as("three/low", learned) is None


def test_what_is_common_is_the_models_error(prior: ShapePrior) -> None:
    found = shapes(2 * LEAST_FACES, seed=7)
    sets = ["one", "other"] * LEAST_FACES
    learned = fit_conventions(found, lower_chin(found) + np.array([0, 3]), sets, prior, SCHEME_68)
    np.testing.assert_allclose(learned["one"].to_labels(found), found, atol=0.4)


def test_a_face_that_was_missed_stays_missed(fitted: dict[str, Convention]) -> None:
    faces = shapes(2, seed=8)
    alone = fitted["other"].to_labels(faces)
    faces[1] = np.nan
    labels = fitted["other"].to_labels(faces)
    assert np.isnan(labels[1]).all()
    np.testing.assert_allclose(labels[0], alone[0])
    assert fitted["other"].to_labels(faces[:0]).shape == (0, 68, 2)


def test_weights_are_saved_and_read(fitted: dict[str, Convention], prior: ShapePrior, tmp_path: Path) -> None:
    path = tmp_path / "conventions.safetensors"
    assert save_conventions(path, {**fitted, "few": Convention((0.1, 0))})
    read = load_conventions(path, prior)
    assert sorted(read) == ["one", "other"]
    np.testing.assert_array_equal(read["other"], fitted["other"].weights)
    assert not save_conventions(path, {"few": Convention((0.1, 0))})
    assert not path.exists()


@pytest.mark.parametrize(
    "weights",
    [np.zeros((3, 68, 2), np.float32), np.full((7, 68, 2), np.nan, np.float32), np.zeros((7, 67, 2), np.float32)],
)
def test_weights_that_do_not_go_with_the_model_are_refused(
    weights: NDArray[np.float32], prior: ShapePrior, tmp_path: Path
) -> None:
    assert prior.modes.shape[-1] - POSES == 6
    path = tmp_path / "conventions.safetensors"
    save_file({"300w": weights}, path)
    with pytest.raises(FacemsmError, match=r"conventions\.safetensors: .*300w.* does not go with the model"):
        load_conventions(path, prior)
    path.write_bytes(b"{}")
    with pytest.raises(FacemsmError, match="not a file of conventions"):
        load_conventions(path, prior)
