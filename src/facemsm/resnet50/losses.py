"""Losses between predicted and true points. All take (N, L, 2) px; the truth is NaN where a point is unlabelled."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import smooth_l1_loss


def squared_distance(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean squared distance, px²: L2, the usual loss of coordinate regression (the paper names none)."""
    return _mean((predicted - _known(truth, predicted)).square(), truth)


def smooth_distance(predicted: Tensor, truth: Tensor) -> Tensor:
    """Smooth L1 (Girshick, ICCV 2015): squared up to 1 px, linear beyond, summed over x and y."""
    return _mean(smooth_l1_loss(predicted, _known(truth, predicted), reduction="none"), truth)


def _known(truth: Tensor, predicted: Tensor) -> Tensor:
    return truth.where(~truth.isnan(), predicted.detach())


def _mean(error: Tensor, truth: Tensor) -> Tensor:
    return error.sum() / (~truth.isnan().any(-1)).sum().clamp(min=1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l2": squared_distance, "smooth_l1": smooth_distance}
