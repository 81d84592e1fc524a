"""Occlusion flags and calibration of scores: pure functions on arrays.

All arrays may have any one shape, usually (N, L), faces by points. Leave out points whose truth is not known by
indexing with a mask first. ``scores`` say how likely a point is occluded: higher means more likely, so give
``1 - score`` for the scores of Eq. 9, which say how well a point is seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemsm.errors import FacemsmError
from facemsm.typing import Array, BoolArray

Bins = Literal["equal-width", "equal-mass"]


def precision_recall(flags: ArrayLike, occluded: ArrayLike) -> tuple[float, float]:
    """Precision and recall of yes-or-no occlusion flags over all points.

    Args:
        flags: bool or 0/1, flagged as occluded.
        occluded: bool or 0/1 of the same shape, occluded by the labels.

    Returns:
        precision, recall in [0, 1]. Precision is NaN when nothing is flagged, recall when nothing is occluded.

    Raises:
        FacemsmError: the shapes differ, or a value is not 0 or 1.
    """
    values, hidden = _pair(flags, occluded)
    flagged = _binary(values, "flags")
    hits = int((flagged & hidden).sum())
    return _ratio(hits, int(flagged.sum())), _ratio(hits, int(hidden.sum()))


def precision_recall_curve(scores: ArrayLike, occluded: ArrayLike) -> tuple[Array, Array, Array]:
    """Precision and recall of the flags ``scores >= threshold``, at every threshold that changes them.

    Points of equal score are flagged together, so ties cannot be ordered to one's advantage.

    Args:
        scores: finite, higher means more likely occluded.
        occluded: bool or 0/1 of the same shape, occluded by the labels.

    Returns:
        precision, recall, threshold: (T,) each, by falling threshold and so by rising recall; one per distinct score.

    Raises:
        FacemsmError: the shapes differ, a score is not finite, or no point is occluded.
    """
    ranked, hidden = _pair(scores, occluded)
    if not np.isfinite(ranked).all():
        raise FacemsmError("an occlusion score is not finite: leave such points out with a mask")
    if not hidden.any():
        raise FacemsmError("no point is occluded: precision and recall over thresholds need at least one")
    order = np.argsort(-ranked)
    ranked, hits = ranked[order], np.cumsum(hidden[order])
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # last point of every run of equal scores
    return hits[last] / (last + 1.0), hits[last] / hits[-1], ranked[last]


def average_precision(scores: ArrayLike, occluded: ArrayLike) -> float:
    """Area under the precision-recall curve, sum of (R_k - R_{k-1}) P_k: exact, without interpolation, ties together.

    Arguments and errors as :func:`precision_recall_curve`.
    """
    precision, recall, _ = precision_recall_curve(scores, occluded)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def recall_at_precision(scores: ArrayLike, occluded: ArrayLike, precision: float = 0.8) -> tuple[float, float]:
    """The highest recall that a threshold reaches with at least this precision: at 80 %, the usual figure on COFW.

    Only thresholds that exist count: nothing is interpolated, and points of equal score are flagged together. Precision
    may dip below the aim on the way. Other arguments and errors as :func:`precision_recall_curve`.

    Returns:
        recall in [0, 1], threshold: flag ``scores >= threshold``. (0, inf), which flags nothing, if none will do.
    """
    precisions, recalls, thresholds = precision_recall_curve(scores, occluded)
    reached = np.flatnonzero(precisions >= precision)
    return (float(recalls[reached[-1]]), float(thresholds[reached[-1]])) if len(reached) else (0.0, np.inf)


@dataclass(frozen=True)
class Reliability:
    """Bins of a reliability diagram, (B,) each: ``edges[i] <= confidence < edges[i + 1]``, the last one closed.

    Attributes:
        edges: (B + 1,) from 0 to 1.
        count: how many predictions fall into the bin.
        confidence: their mean confidence, NaN in an empty bin.
        accuracy: the share of them that was correct, NaN in an empty bin.
    """

    edges: Array
    count: NDArray[np.int64]
    confidence: Array
    accuracy: Array

    @property
    def expected_calibration_error(self) -> float:
        """Mean over predictions of their bin's ``|accuracy - confidence|``, in [0, 1] (Naeini et al., AAAI 2015)."""
        gap = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(self.count * gap) / self.count.sum())


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = 10, kind: Bins = "equal-width") -> Reliability:
    """Compare scores with the share of correct predictions, bin by bin.

    Args:
        confidence: in [0, 1], the stated chance of being correct.
        correct: bool or 0/1 of the same shape. What counts as correct (say, an error below 5 % of the inter-ocular
            distance, or a point occluded by the labels) is the caller's choice and belongs into the report.
        bins: how many.
        kind: ``equal-width``, or ``equal-mass``: edges at the quantiles of the confidences. Equal confidences are never
            split, so with ties there can be fewer bins and they can differ in mass.

    Raises:
        FacemsmError: shapes differ, nothing given, a confidence outside [0, 1], bins < 1 or an unknown kind.
    """
    stated, right = _pair(confidence, correct)
    if not len(stated) or not ((stated >= 0) & (stated <= 1)).all():
        raise FacemsmError("confidences must be numbers from 0 to 1, and at least one")
    if bins < 1:
        raise FacemsmError(f"bins is {bins}: at least 1 is needed")
    if kind not in ("equal-width", "equal-mass"):
        raise FacemsmError(f"unknown kind of bins {kind!r}: use equal-width or equal-mass")
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    if kind == "equal-mass":
        # "higher" takes a confidence that occurs: an interpolated one could cut a tie apart by rounding
        inner = np.unique(np.quantile(stated, inner, method="higher"))
    index = np.searchsorted(inner, stated, side="right")
    count = np.bincount(index, minlength=len(inner) + 1)
    total = np.where(count, count, np.nan)
    return Reliability(
        edges=np.concatenate([[0.0], inner, [1.0]]),
        count=count,
        confidence=np.bincount(index, stated, len(count)) / total,
        accuracy=np.bincount(index, right, len(count)) / total,
    )


def _pair(values: ArrayLike, truth: ArrayLike) -> tuple[Array, BoolArray]:
    """Both flat, (M,)."""
    v, t = np.asarray(values, float), np.asarray(truth)
    if v.shape != t.shape:
        raise FacemsmError(f"predictions are {v.shape} and truth is {t.shape}: both must have one shape")
    return v.ravel(), _binary(t.ravel(), "truth")


def _binary(values: NDArray[np.generic], name: str) -> BoolArray:
    if not np.isin(values, (0, 1)).all():
        raise FacemsmError(f"{name} must be true or false (1 or 0) everywhere: leave out what is unknown with a mask")
    return values.astype(bool)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
