from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from facemsm.errors import FacemsmError
from facemsm.schemes import SCHEME_68
from facemsm.shapes.posterior import ShapePrior, learn_prior, observation_covariance, posterior, yaw_proxy
from synthetic_faces import mean_shape

NOISE = (-2.0, 8.0, 5.0)
FRONTAL = 40 * mean_shape().astype(np.float64) + (63.5, 40)
"""An upright face in canonical pixels."""


def shapes(count: int, seed: int = 0) -> NDArray[np.float64]:
    """Upright faces (N, 68, 2) that smile, open their mouth and are of different width, in canonical pixels."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(count, 3, 1))
    mouth = np.isin(np.arange(68), SCHEME_68.mouth)
    lower = np.isin(np.arange(68), [*range(55, 60), *range(65, 68), *range(4, 13)])
    faces = np.tile(FRONTAL, (count, 1, 1))
    centre = faces.mean(axis=(0, 1))
    faces[..., 0] = centre[0] + (faces[..., 0] - centre[0]) * (1 + 0.06 * weights[:, 0] + 0.1 * weights[:, 1] * mouth)
    faces[..., 1] += 3 * weights[:, 2] * lower
    return np.asarray(faces + rng.normal(0, 0.2, faces.shape))


@pytest.fixture(scope="module")
def prior() -> ShapePrior:
    return learn_prior(shapes(300), SCHEME_68, rank=6)


def isotropic(points: NDArray[np.float64], variance: float | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.broadcast_to(variance, points.shape[:2])[..., None] * np.array([1.0, 0.0, 1.0]))


def error(points: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(points - truth, axis=-1))


def test_sure_points_stay(prior: ShapePrior) -> None:
    seen = shapes(5, seed=1) + np.random.default_rng(0).normal(0, 2, (5, 68, 2))
    np.testing.assert_allclose(posterior(seen, isotropic(seen, 1e-9), prior).points, seen, atol=1e-4)


def test_unseen_points_come_back(prior: ShapePrior) -> None:
    truth = shapes(20, seed=2) + np.array([6.0, -4.0])  # stage 1 was off, too
    unseen = np.zeros(68, bool)
    unseen[48:60] = True
    seen = np.where(unseen[:, None], 64.0, truth)
    found = posterior(seen, isotropic(seen, np.where(unseen, 1e6, 0.01)), prior)
    assert error(seen, truth)[:, unseen].mean() > 15
    assert error(found.points, truth)[:, unseen].mean() < 1.5
    assert error(found.points, truth)[:, ~unseen].mean() < 0.2
    assert (found.variance[:, unseen] > found.variance[:, ~unseen].max()).all()


def test_noise_is_smoothed_along_the_direction_it_has(prior: ShapePrior) -> None:
    truth = shapes(50, seed=3)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=truth.shape) * (3.0, 0.3)
    along = np.broadcast_to(np.array([9.0, 0.0, 0.09]), (*truth.shape[:2], 3)).copy()
    knows = error(posterior(truth + noise, along, prior).points, truth).mean()
    assert knows < 0.5 * error(truth + noise, truth).mean()
    assert knows < error(posterior(truth + noise, isotropic(truth, 4.5), prior).points, truth).mean()


def test_the_mean_is_that_of_the_whole_gaussian(prior: ShapePrior) -> None:
    """Against the textbook formula on all 136 coordinates."""
    seen = prior.mean + np.zeros((1, 68, 2))
    seen[:, :, 0] += 0.5
    modes = prior.modes.reshape(136, -1).astype(float)
    whole = modes @ modes.T + np.diag(np.repeat(prior.residual, 2))
    noise = 2.0
    found = posterior(seen, isotropic(seen, noise), prior)
    weight = 6 / (4 + _mahalanobis(seen, prior, whole, modes, noise))
    gain = whole @ np.linalg.inv(whole + np.diag(np.repeat(noise / weight, 2)))
    expected = prior.mean.ravel() + gain @ (seen[0] - prior.mean).ravel()
    np.testing.assert_allclose(found.points[0].ravel(), expected, atol=1e-6)
    variance = np.diag(whole - gain @ whole).reshape(68, 2).mean(axis=1)
    np.testing.assert_allclose(found.variance[0], variance, rtol=1e-6)


def _mahalanobis(
    seen: NDArray[np.float64],
    prior: ShapePrior,
    whole: NDArray[np.float64],
    modes: NDArray[np.float64],
    noise: float,
) -> NDArray[np.float64]:
    off = (seen[0] - prior.mean).ravel()
    z = modes.T @ np.linalg.inv(whole + noise * np.eye(136)) @ off
    left = (off - modes @ z).reshape(68, 2)
    return np.asarray((left**2).sum(axis=1) / (noise + prior.residual))


def test_a_point_that_is_surely_wrong_pulls_less_than_its_distance(prior: ShapePrior) -> None:
    truth = shapes(1, seed=5)
    near, far = truth.copy(), truth.copy()
    near[0, 8, 1] += 10
    far[0, 8, 1] += 80
    moved = [error(posterior(p, isotropic(p, 1.0), prior).points, truth)[0, 7] for p in (near, far)]
    assert moved[1] < 3 * moved[0]


def test_many_faces_are_the_same_as_one_by_one(prior: ShapePrior) -> None:
    seen = shapes(19, seed=6)
    covariance = isotropic(seen, np.random.default_rng(0).uniform(0.1, 30, seen.shape[:2]))
    together = posterior(seen, covariance, prior)
    for i in range(len(seen)):
        alone = posterior(seen[i : i + 1], covariance[i : i + 1], prior)
        for many, one in zip(together, alone, strict=True):
            np.testing.assert_array_equal(many[i], one[0])
    assert [len(part) for part in posterior(seen[:0], covariance[:0], prior)] == [0, 0, 0]


def test_mirrored_faces_give_mirrored_points(prior: ShapePrior) -> None:
    seen = shapes(4, seed=7)
    covariance = isotropic(seen, np.random.default_rng(0).uniform(0.1, 30, seen.shape[:2]))
    mirrored = (seen * (-1, 1) + (127, 0))[:, SCHEME_68.flip]
    found = posterior(mirrored, covariance[:, SCHEME_68.flip], prior).points
    expected = (posterior(seen, covariance, prior).points * (-1, 1) + (127, 0))[:, SCHEME_68.flip]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_missing_points_teach_the_prior_what_is_there() -> None:
    """Heads held high and low, whole ones and many of which jaw and brows are seen: these tell where the rest is."""
    whole, half = (shapes(n, seed=n) + np.random.default_rng(n).normal(0, 4, (n, 1, 1)) * (0, 1) for n in (60, 400))
    half[:, :, 1] += 5
    half[:, 27:] = np.nan
    learnt = learn_prior(np.concatenate((whole, half)), SCHEME_68, rank=20)
    lower = np.concatenate((whole, half))[:, :27, 1].mean()
    assert learnt.mean[:27, 1].mean() == pytest.approx(lower, abs=0.01)
    assert learnt.mean[27:, 1].mean() > whole[:, 27:, 1].mean() + 3  # what the seen half says of the other
    assert np.isfinite(learnt.modes).all()
    with pytest.raises(FacemsmError, match="too few"):
        learn_prior(half, SCHEME_68)


def test_covariance_grows_with_doubt_and_spread() -> None:
    points = FRONTAL[None].repeat(2, axis=0)
    scores = np.full((2, 68), 0.9)
    scores[1] = 0.3
    scores[0, 0] = 0
    spread = np.broadcast_to(np.array([4.0, 1.0, 9.0]), (2, 68, 3))
    found = observation_covariance(points, scores, spread, NOISE, SCHEME_68)
    np.testing.assert_allclose(found[0, 1:, 0] / (4 + 0.25), np.exp(-2.0 + 0.8), rtol=1e-6)
    assert (found[1] > found[0, 1]).all()
    assert found[0, 0, 0] > 100  # an empty heatmap says nothing, however narrow it is
    profile = points * (0.3, 1) + (40, 0)
    assert yaw_proxy(profile, SCHEME_68)[0] > yaw_proxy(points, SCHEME_68)[0]
    assert (observation_covariance(profile, scores, spread, NOISE, SCHEME_68)[1] < found[1]).all()


def test_a_turn_is_a_number_for_any_points() -> None:
    assert yaw_proxy(np.zeros((1, 68, 2)), SCHEME_68) == pytest.approx(3, abs=0.01)


def test_save_and_load(prior: ShapePrior, tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    prior.save(path)
    loaded = ShapePrior.load(path, 68)
    for name in ("mean", "modes", "residual"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(prior, name))
    with pytest.raises(FacemsmError, match="not a shape prior of 98 points"):
        ShapePrior.load(path, 98)
    for content in (b"", path.read_bytes()[:-9]):
        path.write_bytes(content)
        with pytest.raises(FacemsmError, match="not a shape prior"):
            ShapePrior.load(path, 68)
    with pytest.raises(FacemsmError, match="no such file"):
        ShapePrior.load(tmp_path / "none", 68)


def test_points_of_another_scheme(prior: ShapePrior) -> None:
    with pytest.raises(FacemsmError, match="68 points are expected"):
        posterior(np.zeros((1, 29, 2)), np.ones((1, 29, 3)), prior)


def test_inference_loads_no_training_library() -> None:
    code = "import facemsm.confidence.model, sys; print({'torch', 'scipy', 'sklearn', 'matplotlib'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
