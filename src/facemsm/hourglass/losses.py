"""Losses between predicted and target heatmaps. All take (N, L, H, W) and a mask (N, L) of labelled points."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

FOREGROUND_WEIGHT = 10.0


def mean_squared(predicted: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
    """Mean squared error over the maps of labelled points; heatmap regression's usual loss (the paper names none)."""
    error = (predicted - target).square().mean((2, 3))
    return (error * labelled).sum() / labelled.sum().clamp(min=1)


def weighted_squared(predicted: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
    """Squared error in which a cell counts ``1 + FOREGROUND_WEIGHT * target`` times.

    A peak covers some twenty of 4096 cells; with equal weights a network first learns that all is dark.
    """
    error = ((predicted - target).square() * (1 + FOREGROUND_WEIGHT * target)).mean((2, 3))
    return (error * labelled).sum() / labelled.sum().clamp(min=1)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"mse": mean_squared, "weighted": weighted_squared}
