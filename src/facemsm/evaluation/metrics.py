"""Error measures of face alignment: pure functions on arrays.

Conventions, the same in every function:

- N faces, L points. Points are in pixels, errors are fractions of the normaliser, so thresholds are too: failure above
  8 % is ``failure_rate(errors, 0.08)``. Only :func:`summarise` reports percentages.
- A point without truth (NaN) is not counted. A point with truth but without a prediction (NaN or infinite, as for a
  face that was not found) has an infinite error: it is a failure, not a gap.
- A face whose error is NaN cannot be scored: it has no labelled point, or its normaliser cannot be computed. Such faces
  are left out of every statistic, and :func:`summarise` says how many they are.

Example::

    errors = nme(predicted, truth, get_scheme("68"), "inter-ocular")
    errors.mean(), failure_rate(errors, 0.10), auc(errors, 0.10)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from facemsm.errors import FacemsmError
from facemsm.geometry import Normaliser, normaliser
from facemsm.schemes import LandmarkScheme
from facemsm.typing import Array


def point_errors(predicted: ArrayLike, truth: ArrayLike) -> Array:
    """Distance of every predicted point from the truth.

    Args:
        predicted: (N, L, 2) pixels.
        truth: (N, L, 2) pixels, NaN where unlabelled.

    Returns:
        (N, L) pixels: NaN where there is no truth, infinite where there is truth but no finite prediction.

    Raises:
        FacemsmError: the two are not of one (N, L, 2) shape.
    """
    p, g = np.asarray(predicted, float), np.asarray(truth, float)
    if p.shape != g.shape or g.ndim != 3 or g.shape[-1] != 2:
        raise FacemsmError(f"predicted is {p.shape} and truth is {g.shape}: both must be the same (faces, points, 2)")
    p = np.where(np.isfinite(p), p, np.inf)
    return np.asarray(np.linalg.norm(p - g, axis=-1))


def normalised_errors(predicted: ArrayLike, truth: ArrayLike, scheme: LandmarkScheme, kind: Normaliser) -> Array:
    """(N, L) :func:`point_errors` as fractions of each face's :func:`normaliser`. Arguments as there."""
    return point_errors(predicted, truth) / normaliser(truth, scheme, kind)[:, None]


def nme(
    predicted: ArrayLike,
    truth: ArrayLike,
    scheme: LandmarkScheme,
    kind: Normaliser,
    counted: ArrayLike | None = None,
) -> Array:
    """Normalised mean error of every face: the inner mean of Eq. 12, which the paper calls NRMSE.

    Args:
        predicted: (N, L, 2) pixels.
        truth: (N, L, 2) pixels, NaN where unlabelled.
        scheme: the landmark scheme of both.
        kind: what to divide by, see :func:`normaliser`.
        counted: (N, L) or (L,) bool, the points to count; all by default. ``~occluded`` scores visible points only.

    Returns:
        (N,) fractions of the normaliser, NaN for a face that cannot be scored. The mean of them is Eq. 12.

    Raises:
        FacemsmError: as :func:`point_errors` and :func:`normaliser`.
    """
    errors = normalised_errors(predicted, truth, scheme, kind)
    return _mean(errors if counted is None else np.where(np.asarray(counted, bool), errors, np.nan), axis=1)


def per_landmark(errors: Array) -> Array:
    """(L,) mean over faces of :func:`normalised_errors` (N, L): NaN for a point no face has, infinite if missed."""
    return _mean(errors, axis=0)


def per_group(errors: Array, scheme: LandmarkScheme, occluded: ArrayLike | None = None) -> dict[str, float]:
    """Mean error of groups of points, over all points of a group in all faces: a face with more of them weighs more.

    Args:
        errors: (N, L) from :func:`normalised_errors`.
        scheme: names the groups ``contour`` and ``features``.
        occluded: (N, L) bool, true occlusion; adds the groups ``visible`` and ``occluded``.

    Returns:
        group -> fraction of the normaliser: NaN for a group without a counted point, infinite if one was missed.
    """
    contour = np.isin(np.arange(scheme.count), scheme.contour)
    groups = {"contour": contour, "features": ~contour}
    if occluded is not None:
        hidden = np.asarray(occluded, bool)
        groups |= {"visible": ~hidden, "occluded": hidden}
    return {name: float(_mean(np.where(group, errors, np.nan))) for name, group in groups.items()}


def failure_rate(errors: ArrayLike, threshold: float) -> float:
    """Share of faces whose error is ``threshold`` or greater (Section IV-B), in [0, 1].

    Args:
        errors: (N,) from :func:`nme`.
        threshold: in the unit of the errors.

    Raises:
        FacemsmError: no face can be scored.
    """
    return float((_scored(errors) >= threshold).mean())


def auc(errors: ArrayLike, threshold: float) -> float:
    """Area under the :func:`ced` curve from 0 to ``threshold``, divided by ``threshold``: in [0, 1], exact, no grid.

    Args:
        errors: (N,) from :func:`nme`.
        threshold: > 0, in the unit of the errors.

    Raises:
        FacemsmError: no face can be scored, or the threshold is not positive.
    """
    if not threshold > 0:
        raise FacemsmError(f"AUC threshold is {threshold}: it must be greater than 0")
    return float(np.maximum(0.0, threshold - _scored(errors)).mean() / threshold)


def ced(errors: ArrayLike) -> tuple[Array, Array]:
    """Cumulative error distribution, the exact step curve.

    Args:
        errors: (N,) from :func:`nme`.

    Returns:
        error (M,), share (M,): ``share[i]`` of the faces have an error of ``error[i]`` or less, and it stays so up to
        ``error[i + 1]``. Starts at error 0; ends below 1 where faces were missed.

    Raises:
        FacemsmError: no face can be scored.
    """
    scored = np.sort(_scored(errors))
    steps = np.unique(np.append(scored[np.isfinite(scored)], 0.0))
    return steps, np.searchsorted(scored, steps, side="right") / len(scored)


def bootstrap_interval(
    errors: ArrayLike,
    statistic: Callable[..., Any] = np.mean,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic over faces.

    Args:
        errors: (N,) finite, from :func:`nme`; NaN are left out.
        statistic: called with an array (R, N) and ``axis=1``, as ``np.mean`` and ``np.median`` are.
        level: confidence level in (0, 1).
        seed: the same seed gives the same interval.
        resamples: how many samples of N faces to draw with replacement.

    Returns:
        low, high: in the unit of the statistic.

    Raises:
        FacemsmError: no face can be scored, or the level is not in (0, 1).
    """
    if not 0 < level < 1:
        raise FacemsmError(f"confidence level is {level}: it must be between 0 and 1")
    scored = _scored(errors)
    rng = np.random.default_rng(seed)
    rows = max(1, 2**20 // len(scored))  # resamples drawn at once: bounds the memory
    blocks = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    values = [statistic(scored[rng.integers(len(scored), size=(block, len(scored)))], axis=1) for block in blocks]
    low, high = np.quantile(np.concatenate(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summarise(errors: ArrayLike, thresholds: Sequence[float] = (8, 10), level: float = 0.95) -> dict[str, float]:
    """The figures that reports show, in their order.

    Args:
        errors: (N,) from :func:`nme`.
        thresholds: of failure rate and AUC, in per cent; each is part of its figures' names.
        level: confidence level of the interval of the NME.

    Returns:
        - ``faces``, ``unscored``, ``missed``: faces scored; left out because they cannot be scored; scored, but with a
          prediction missing (these are failures, yet cannot be part of a mean).
        - ``nme``, ``nme low``, ``nme high``, ``median``: of the faces with a prediction, in per cent of the normaliser.
        - ``fr@8``...: failure rate in per cent. ``auc@8``...: in [0, 1].

    Raises:
        FacemsmError: no face can be scored.
    """
    scored = _scored(errors)
    found = scored[np.isfinite(scored)] * 100
    low, high = bootstrap_interval(found, level=level) if len(found) else (np.nan, np.nan)
    return {
        "faces": len(scored),
        "unscored": np.size(errors) - len(scored),
        "missed": len(scored) - len(found),
        "nme": float(_mean(found)),
        "nme low": low,
        "nme high": high,
        "median": float(np.median(found)) if len(found) else np.nan,
        **{f"fr@{t:g}": failure_rate(scored, t / 100) * 100 for t in thresholds},
        **{f"auc@{t:g}": auc(scored, t / 100) for t in thresholds},
    }


def _scored(errors: ArrayLike) -> Array:
    """The errors that are not NaN, (M,)."""
    values: Array = np.asarray(errors, float)
    if values.ndim != 1:
        raise FacemsmError(f"errors are {values.shape}: one number per face is needed, as nme() gives")
    values = values[~np.isnan(values)]
    if not len(values):
        raise FacemsmError("no face can be scored: every error is NaN (no labelled points, or no normaliser)")
    return values


def _mean(values: Array, axis: int | None = None) -> Array:
    """Mean of what is not NaN; NaN, without numpy's warning, where nothing is left."""
    count = (~np.isnan(values)).sum(axis=axis)
    mean: Array = np.nansum(values, axis=axis) / np.where(count, count, np.nan)
    return mean
