"""Fitting confidence on faces that no stage was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemsm.confidence.model import Logistic
from facemsm.geometry import apply_affine, invert
from facemsm.schemes import VISIBLE, LandmarkScheme
from facemsm.shapes.posterior import Noise, ShapePrior, observation_covariance, posterior
from facemsm.typing import Array, BoolArray, FloatArray

FITTING_CONDITIONS = ("as they are", "behind painted occluders", "in poor photos", "mostly covered")
"""Conditions that held-out faces are shown under."""


HARM = 5.0
"""How much more a loss at visible points counts than a gain anywhere, when the noise is fitted."""


FOLDS = 5
"""Parts of the faces; each is scored by what was fitted on the others."""


BEYOND = 1.0
"""Per cent of the observations, at either end, whose features count as the values where that end begins."""


@dataclass(frozen=True, eq=False)
class Observations:
    """What stages 1 and 2 made of M faces with known truth; the same face may be there several times.

    Attributes:
        points, scores, spread, details: as for :meth:`Calibration.predict`.
        to_photo: (M, 2, 3), canonical to photo pixels.
        truth: (M, L, 2) photo pixels, NaN where unlabelled.
        visibility: (M, L) int8, as in ``FaceSample``.
        kind: (M,) of ``FITTING_CONDITIONS``.
        fold: (M,) from 0 to ``FOLDS`` - 1, the same for all observations of a face.
        source: (M,) name of the data set, or of the part of it.
    """

    points: FloatArray
    scores: FloatArray
    spread: FloatArray
    details: Array
    to_photo: Array
    truth: FloatArray
    visibility: NDArray[np.int8]
    kind: NDArray[np.int64]
    fold: NDArray[np.int64]
    source: NDArray[np.str_]

    def take(self, which: NDArray[Any]) -> Observations:
        """Some of them, by mask or index."""
        return Observations(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def fit_noise(seen: Observations, prior: ShapePrior, scheme: LandmarkScheme) -> Noise:
    """The noise whose posterior comes nearest to the truth, in canonical pixels. Needs SciPy.

    Points that are there to be seen are not to become worse: what they lose counts ``HARM`` times.
    """
    from scipy.optimize import minimize

    truth = apply_affine(invert(seen.to_photo), seen.truth)
    before = np.linalg.norm(seen.points - truth, axis=-1)
    clear = (seen.visibility == VISIBLE) & np.isfinite(before)

    def error(noise: Array) -> float:
        a, b, c = noise.tolist()
        covariance = observation_covariance(seen.points, seen.scores, seen.spread, (a, b, c), scheme)
        off = np.linalg.norm(posterior(seen.points, covariance, prior).points - truth, axis=-1)
        harm = float((off - before)[clear].mean()) if clear.any() else 0.0
        return float(np.nanmean(off)) + HARM * max(harm, 0.0)

    corners = np.array([(-4.5, 8.0, 6.0), (-3.5, 8.0, 6.0), (-4.5, 11.0, 6.0), (-4.5, 8.0, 12.0)])
    limits = [(-12.0, 6.0), (0.0, 30.0), (0.0, 30.0)]
    best = minimize(
        error,
        corners[0],
        method="Nelder-Mead",
        bounds=limits,
        options={"initial_simplex": corners, "maxfev": 70, "xatol": 0.05, "fatol": 1e-4},
    )
    a, b, c = best.x.tolist()
    return a, b, c


def fit_logistic(features: Array, right: BoolArray, known: BoolArray, scheme: LandmarkScheme) -> Logistic:
    """Logistic regression with shrunken weights, and biases that mirrored landmarks share, by Newton's method.

    Features are limited to what all but ``BEYOND`` per cent of the observations have.

    Args:
        features: (M, L, F).
        right: (M, L) what is to be predicted.
        known: (M, L) where that is known.
        scheme: which landmarks are each other's mirror images.
    """
    _, group = np.unique(np.minimum(np.arange(scheme.count), scheme.flip), return_inverse=True)
    groups, count = group.max() + 1, features.shape[-1]
    x, y = features[known], right[known].astype(np.float64)
    limits = np.percentile(x, (BEYOND, 100 - BEYOND), axis=0)
    x = np.clip(x, *limits)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    deviation[deviation < 1e-6] = 1.0  # a feature that is always the same: the ridge keeps its weight at 0
    bias = np.eye(groups)[np.broadcast_to(group, known.shape)[known]]
    design = np.concatenate((np.ones((len(x), 1)), (x - mean) / deviation, bias), axis=1)
    ridge = np.concatenate(([1e-3], np.full(count, 1.0), np.full(groups, 20.0)))
    theta = np.zeros(design.shape[1])
    for _ in range(10):
        p = 1 / (1 + np.exp(-np.clip(design @ theta, -30, 30)))
        gradient = design.T @ (y - p) - ridge * theta
        curvature = (design * (p * (1 - p))[:, None]).T @ design + np.diag(ridge)
        theta = theta + np.linalg.solve(curvature, gradient)
    weights = theta[1 : 1 + count] / deviation
    return Logistic(weights, theta[0] - weights @ mean + theta[1 + count :][group], limits)
