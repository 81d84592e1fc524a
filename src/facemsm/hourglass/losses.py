"""Losses between predicted and target heatmaps. All take (N, L, H, W) and a mask (N, L) of labelled points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from facemsm.heatmaps import MASS_FLOOR

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


def adaptive_wing(predicted: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
    """Adaptive Wing loss with its weight map (Wang, Bo and Li, ICCV 2019, Eq. 3 to 5), with the authors' constants.

    Steep for small errors, the more so the brighter the target: |error| to the power ``alpha - target`` inside a
    logarithm up to ``theta``, linear with the same value and slope beyond. Cells within one of a target above 0.2 count
    ``1 + FOREGROUND_WEIGHT`` times.
    """
    alpha, omega, epsilon, theta = 2.1, 14.0, 1.0, 0.5
    error = (predicted - target).abs()
    power = alpha - target
    edge = (theta / epsilon) ** power
    slope = omega * power * edge / (theta * (1 + edge))
    near = omega * torch.log1p((error / epsilon) ** power)
    beyond = slope * (error - theta) + omega * torch.log1p(edge)
    foreground = (max_pool2d(target, 3, stride=1, padding=1) >= 0.2).to(error.dtype)
    cell = torch.where(error < theta, near, beyond) * (1 + FOREGROUND_WEIGHT * foreground)
    return (cell.mean((2, 3)) * labelled).sum() / labelled.sum().clamp(min=1)


def gaussians(cells: Tensor, size: int, sigma: float) -> Tensor:
    """Target heatmaps (N, L, size, size) of points (N, L, 2) in cells, as :meth:`HeatmapCodec.encode` draws them;
    dark where a point is NaN."""
    distance = torch.arange(size, device=cells.device, dtype=cells.dtype) - cells[..., None]
    profiles = (-0.5 * (distance / sigma) ** 2).exp().nan_to_num()
    return profiles[..., 1, :, None] * profiles[..., 0, None, :]


def centres(heatmaps: Tensor) -> Tensor:
    """Where :meth:`facemsm.heatmaps.HeatmapCodec.decode` sees the points, such that it can be learned.

    Args:
        heatmaps: (N, L, H, W).

    Returns:
        (N, L, 2) x, y in cells; gradients do not flow through the floor.
    """
    floor = MASS_FLOOR * heatmaps.detach().amax((2, 3), keepdim=True).clamp(min=0)
    mass = (heatmaps - floor).relu().square()
    total = mass.sum((2, 3)).clamp(min=1e-9)
    columns, rows = (torch.arange(n, device=mass.device, dtype=mass.dtype) for n in (mass.shape[3], mass.shape[2]))
    return torch.stack((mass.sum(2) @ columns, mass.sum(3) @ rows), -1) / total[..., None]


def distance(predicted: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
    """Mean distance between points (N, L, 2) of labelled (N, L) landmarks, in the points' unit: what NME measures."""
    error = (predicted - torch.where(labelled[..., None] > 0, target, predicted.detach())).square().sum(-1)
    return ((error + 1e-6).sqrt() * labelled).sum() / labelled.sum().clamp(min=1)


def by_face(loss: Callable[..., Tensor], heatmaps: Tensor, labelled: Tensor, *targets: Tensor) -> Tensor:
    """``loss(heatmaps, labelled, *targets)``, a mean over labelled points, computed face by face.

    A loss takes a dozen passes over the heatmaps. Those of one face stay in a processor's cache between two of them,
    those of a batch do not; the gradient is therefore computed at once, and no intermediate outlives its face.

    Args:
        loss: of float32 maps (n, L, H, W), labels (n, L) and targets (n, ...), all of the same faces.
        heatmaps: (N, L, H, W) of any precision.
        labelled: (N, L), 1 where a point counts.
        targets: (N, ...) each.
    """
    if heatmaps.device.type != "cpu":
        return loss(heatmaps.float(), labelled, *targets)
    return cast(Tensor, _ByFace.apply(heatmaps, loss, labelled, *targets))  # type: ignore[no-untyped-call]


class _ByFace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heatmaps: Tensor, loss: Callable[..., Tensor], labelled: Tensor, *targets: Tensor) -> Tensor:
        gradient, value = torch.empty_like(heatmaps), labelled.new_zeros(())
        total = labelled.sum().clamp(min=1)
        for i in range(len(heatmaps)):
            face = slice(i, i + 1)
            with torch.enable_grad():
                maps = heatmaps[face].detach().float().contiguous().requires_grad_()
                part = labelled[face].sum() / total * loss(maps, labelled[face], *(t[face] for t in targets))
            (gradient[face],) = torch.autograd.grad(part, maps)
            value += part.detach()
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return upstream[0] * gradient, *[None] * (len(ctx.needs_input_grad) - 1)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mse": mean_squared,
    "weighted": weighted_squared,
    "awing": adaptive_wing,
}
