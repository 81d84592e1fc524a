"""Stage 3 as a posterior over shapes: every point counts as much as its heatmap says, against a Gaussian shape prior.

The paper's form (:mod:`facemsm.shapes.reconstruction`) calls a point good or bad by its score, and rebuilds the bad
ones. Here a shape is ``s = mean + modes z + e`` with z ~ N(0, I) and e ~ N(0, residual), a probabilistic PCA (Tipping
and Bishop, 1999), and stage 2 observes each of its points with a 2 x 2 covariance of its own. The mean of s given the
observations leaves sure points nearly where they are and pulls the others to where the sure ones and the prior want
them. One reweighting by a Student t keeps a point that is surely wrong from pulling the others along.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facemsm.errors import FacemsmError
from facemsm.files import atomic_write, read_bytes
from facemsm.schemes import LandmarkScheme
from facemsm.shapes.dictionary import FARTHEST, LARGEST_FILE
from facemsm.typing import Array, BoolArray, FloatArray, PathLike

Noise = tuple[float, float, float]

POSES = 4
"""Modes of pose, the last of a prior."""

POSE = (10.0, 0.15)
"""Standard deviations of what stage 1 leaves: shift in px of a 128 px canonical image; turn in radians and growth."""

FRONTAL = 0.5  # head_turn of a face from the front
FREEDOM = 4.0  # degrees of freedom of the Student t
_TINY = 1e-12  # px²
EMPTY_VARIANCE = 1e3  # px², variance of a point whose heatmap is empty
SPREAD_FLOOR = 0.25  # px², added to the spread
_CHUNK = 8  # faces at once: bounds the memory, and a chunk stays in the processor's cache


@dataclass(frozen=True, eq=False)
class ShapePrior:
    """A Gaussian over canonical shapes.

    Attributes:
        mean: (L, 2) float32, canonical pixels.
        modes: (L, 2, K) float32, directions of change, each one standard deviation long; the last ``POSES`` are shifts,
            growth and turn, which stage 1 may have got wrong.
        residual: (L,) float32, variance of each coordinate that the modes leave, px².
    """

    mean: FloatArray
    modes: FloatArray
    residual: FloatArray

    @cached_property
    def exact(self) -> tuple[Array, Array, Array]:
        """Mean, modes and residual in float64, for computing with."""
        return self.mean.astype(np.float64), self.modes.astype(np.float64), self.residual.astype(np.float64)

    def save(self, path: Path) -> None:
        """Write a safetensors file, whole or not at all.

        Raises:
            FacemsmError: it cannot be written.
        """
        from safetensors.numpy import save

        content = save({"mean": self.mean, "modes": np.ascontiguousarray(self.modes), "residual": self.residual})
        with atomic_write(path) as partial:
            partial.write_bytes(content)

    @classmethod
    def load(cls, path: PathLike, count: int) -> ShapePrior:
        """Read what :meth:`save` wrote.

        Args:
            path: the file.
            count: number of points L that is expected.

        Raises:
            FacemsmError: it cannot be read, is something else, or has another number of points.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        content = read_bytes(Path(path), LARGEST_FILE)
        try:
            tensors = load(content)
            prior = cls(*(np.asarray(tensors[name], np.float32) for name in ("mean", "modes", "residual")))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise FacemsmError(f"{path}: not a shape prior, or a damaged one ({type(error).__name__})") from error
        shapes = (prior.mean.shape, prior.modes.shape[:2], prior.residual.shape)
        if shapes != ((count, 2), (count, 2), (count,)) or prior.modes.ndim != 3:
            raise FacemsmError(f"{path}: not a shape prior of {count} points; calibrate the model again")
        values = np.concatenate((prior.mean.ravel(), prior.modes.ravel(), prior.residual))
        if not (np.abs(values) < FARTHEST).all() or (prior.residual <= 0).any():  # NaN is not below either
            raise FacemsmError(f"{path}: has numbers that no shape has; calibrate the model again")
        return prior


class Posterior(NamedTuple):
    """The posterior of shapes, given stage 2's points.

    Attributes:
        points: (M, L, 2) float64 canonical pixels, the mean.
        variance: (M, L) px², of a coordinate, the mean of x and y.
        mahalanobis: (M, L), squared distance between what a point's heatmap says and what the shape says, in units of
            the variance that was expected.
    """

    points: Array
    variance: Array
    mahalanobis: Array


def yaw_proxy(points: NDArray[np.floating], scheme: LandmarkScheme) -> Array:
    """(M,) a proxy of the head's yaw: log of the tight box's side over the inter-ocular distance of points (M, L, 2),
    finite. About 0.5 for a frontal face, 3 at most."""
    right, left = (points[:, corner].mean(axis=1, dtype=np.float64) for corner in map(list, scheme.outer_eye_corners))
    (x, y), (width, height) = (right - left).T, np.ptp(points, axis=1).T
    return np.asarray(-np.log(np.clip(np.hypot(x, y) / np.sqrt(np.maximum(width * height, _TINY)), 0.05, 1)))


def observation_covariance(
    points: NDArray[np.floating],
    scores: NDArray[np.floating],
    spread: NDArray[np.floating],
    noise: Noise,
    scheme: LandmarkScheme,
) -> Array:
    """How far off stage 2's points are: the spread of their heatmaps, times ``exp(a + b (1 - score) - c turn)``.

    The last term leaves points of profiles nearer to where they were seen, as one Gaussian is no good prior for them.

    Args:
        points: (M, L, 2) of stage 2, any pixels.
        scores: (M, L) relative to a perfect heatmap, in [0, 1].
        spread: (M, L, 3) xx, xy, yy of :meth:`facemsm.heatmaps.HeatmapCodec.decode`, px².
        noise: a, b and c, fitted by ``facemsm calibrate``.
        scheme: the landmarks.

    Returns:
        (M, L, 3) xx, xy, yy in px².
    """
    a, b, c = noise
    turn = np.clip(yaw_proxy(points, scheme) - FRONTAL, 0, 0.5)
    gain = np.exp(a + b * (1 - scores.astype(np.float64)) - c * turn[:, None])[..., None]
    covariance = gain * (spread + np.array([SPREAD_FLOOR, 0, SPREAD_FLOOR]))
    return np.asarray(np.where((scores > 0)[..., None], covariance, (EMPTY_VARIANCE, 0, EMPTY_VARIANCE)))


def posterior(points: NDArray[np.floating], covariance: Array, prior: ShapePrior) -> Posterior:
    """Shapes given stage 2's points.

    Faces do not influence each other: many at once give the same numbers, to the last bit, as one by one.

    Args:
        points: (M, L, 2) canonical pixels, finite.
        covariance: (M, L, 3) xx, xy, yy of their errors, px².
        prior: over shapes of these landmarks.
    """
    count = len(prior.mean)
    if points.shape[1:] != (count, 2) or covariance.shape != (*points.shape[:2], 3):
        raise FacemsmError(f"points are {points.shape}, covariances {covariance.shape}: {count} points are expected")
    parts = [
        _posterior(points[i : i + _CHUNK], covariance[i : i + _CHUNK], prior)
        for i in range(0, max(len(points), 1), _CHUNK)
    ]
    return Posterior(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _posterior(points: NDArray[np.floating], covariance: Array, prior: ShapePrior) -> Posterior:
    mean, modes, residual = prior.exact
    flat = modes.reshape(-1, modes.shape[2])  # (2L, K), x and y of a point in turn
    observed = points - mean
    weights, precision = np.ones(points.shape[:2]), np.empty((*points.shape, 2))
    for _ in range(2):
        # precision of an observation given z: (noise / weight + residual)^-1
        xx, xy, yy = (covariance[..., i] / weights for i in range(3))
        xx, yy = xx + residual, yy + residual
        determinant = xx * yy - xy * xy
        precision[..., 0, 0], precision[..., 1, 1] = yy / determinant, xx / determinant
        precision[..., 0, 1] = precision[..., 1, 0] = -xy / determinant
        weighted = (precision @ modes).reshape(-1, *flat.shape)
        inverse = flat.T @ weighted + np.eye(flat.shape[1])  # of the covariance of z
        z = np.linalg.solve(inverse, flat.T @ (precision @ observed[..., None]).reshape(-1, len(flat), 1))
        off = observed - (flat @ z).reshape(points.shape)
        pull = (precision @ off[..., None])[..., 0]
        mahalanobis = (off * pull).sum(axis=-1)
        weights = (FREEDOM + 2) / (FREEDOM + mahalanobis)
    # s = mean + modes z + e, and e has seen the observation too
    found = points - off + residual[:, None] * pull
    kept = flat - np.repeat(residual, 2)[:, None] * weighted
    variance = np.einsum("mik,mik->mi", kept, kept @ np.linalg.inv(inverse)).reshape(points.shape).mean(axis=-1)
    variance += residual - residual**2 * (precision[..., 0, 0] + precision[..., 1, 1]) / 2
    return Posterior(found, variance, mahalanobis)


def learn_prior(shapes: NDArray[np.floating], scheme: LandmarkScheme, *, rank: int = 40, size: int = 128) -> ShapePrior:
    """Fit a prior to shapes, their mirror images included, some points of which may be missing.

    Missing points are filled in by expectation and maximisation, so that profiles, half of whose points nobody could
    label, shape the prior too.

    Args:
        shapes: (N, L, 2) canonical pixels, NaN where unlabelled.
        scheme: their landmarks.
        rank: number of modes besides the four of pose.
        size: side of the canonical image.

    Raises:
        FacemsmError: fewer than ten shapes have no gap.
    """
    flat = np.asarray(shapes, np.float64).reshape(len(shapes), -1) - (size - 1) / 2
    flat = flat[np.isfinite(flat).any(axis=1)]
    known: BoolArray = np.isfinite(flat)
    if (whole := int(known.all(axis=1).sum())) < 10:
        raise FacemsmError(f"{whole} shapes without gaps are too few for a prior: at least ten are needed")
    mean, covariance = _gaussian(flat, known, _mirror(scheme))
    values, vectors = np.linalg.eigh(covariance)
    rank = min(rank, len(values))
    modes = vectors[:, -rank:] * np.sqrt(values[-rank:])
    residual = (np.diag(covariance) - (modes**2).sum(axis=1)).reshape(-1, 2).mean(axis=1)

    centred = mean.reshape(-1, 2) - mean.reshape(-1, 2).mean(axis=0)
    turned = centred[:, ::-1] * (-1, 1)
    shift, growth = POSE[0] * size / 128, POSE[1]
    ones = np.ones(len(centred))
    pose = (np.outer(ones, (shift, 0)), np.outer(ones, (0, shift)), growth * centred, growth * turned)
    modes = np.concatenate((modes.reshape(-1, 2, rank), np.stack(pose, axis=-1)), axis=-1)
    return ShapePrior(
        (mean.reshape(-1, 2) + (size - 1) / 2).astype(np.float32),
        modes.astype(np.float32),
        np.maximum(residual, 1e-3).astype(np.float32),
    )


def _mirror(scheme: LandmarkScheme) -> Array:
    """(2L, 2L): the mirror image of a flat shape whose origin is the image's centre."""
    return np.asarray(np.kron(np.eye(scheme.count)[scheme.flip], np.diag([-1.0, 1.0])))


def _gaussian(
    flat: Array, known: BoolArray, mirror: Array, *, rounds: int = 8, ridge: float = 0.02
) -> tuple[Array, Array]:
    """Mean and covariance, px, of shapes (N, 2L) and their mirror images, with gaps."""
    patterns, of = np.unique(known, axis=0, return_inverse=True)
    members = [np.flatnonzero(of.ravel() == i) for i in range(len(patterns))]
    whole = flat[known.all(axis=1)]
    mean, covariance = whole.mean(axis=0), np.cov(whole.T, bias=True) + ridge * np.eye(flat.shape[1])
    for _ in range(rounds):
        total, square = np.zeros_like(mean), np.zeros_like(covariance)
        for there, rows in zip(patterns, members, strict=True):
            block = covariance[there]
            fill = np.linalg.solve(block[:, there], block)  # what the points that are there say of all
            shapes = (flat[np.ix_(rows, np.flatnonzero(there))] - mean[there]) @ fill
            total += shapes.sum(axis=0)
            square += shapes.T @ shapes + len(rows) * (covariance - fill.T @ block)
        step, second = total / len(flat), square / len(flat)
        second += np.outer(mean, step) + np.outer(step, mean) + np.outer(mean, mean)  # about the origin
        mean = mean + step
        mean, second = (mean + mirror @ mean) / 2, (second + mirror @ second @ mirror.T) / 2
        covariance = second - np.outer(mean, mean) + ridge * np.eye(len(mean))
    return mean, covariance
