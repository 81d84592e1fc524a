"""Muon for convolutions (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024), AdamW for the
rest. PyTorch's own takes matrices alone and only half of a network's parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
RATE = 8.0
"""Times Adam's rate; an update's entries have a root mean square of 0.2 times that (Liu et al., 2025, match it so to
what Adam's have)."""

_ITERATIONS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's: singular values end between 0.7 and 1.2


class Muon(torch.optim.AdamW):
    """AdamW, but for hidden weights, whose momentum is orthogonalised before it is added.

    Args:
        parameters: all of the network's.
        hidden: those of them, (rows, ...), that Muon takes, each as a matrix.
        lr: of AdamW; hidden weights have ``RATE`` times that.
        weight_decay: decoupled from the gradient, times each group's rate.
    """

    def __init__(self, parameters: Iterable[Tensor], hidden: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        hidden = list(hidden)
        taken = {id(weight) for weight in hidden}
        rest = [parameter for parameter in parameters if id(parameter) not in taken]
        groups = [{"params": rest, "hidden": False}, {"params": hidden, "hidden": True, "lr": RATE * lr}]
        super().__init__(groups, lr=lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all weights that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["hidden"]]
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group["hidden"]:
                self._update(group)
        return loss

    def _update(self, group: dict[str, Any]) -> None:
        directions: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for weight in group["params"]:
            if weight.grad is not None:
                state = self.state[weight]
                if not state:  # AdamW, which loads it, expects a step
                    state |= {"step": torch.tensor(0.0), "momentum": torch.zeros_like(weight)}
                momentum = state["momentum"]
                momentum.lerp_(weight.grad, 1 - MOMENTUM)
                direction = weight.grad.lerp(momentum, MOMENTUM).flatten(1)  # Nesterov's
                directions.setdefault(direction.shape, []).append((weight, direction))
        for shape, members in directions.items():
            updates = orthogonalised(torch.stack([direction for _, direction in members])) * (0.2 * max(shape) ** 0.5)
            for (weight, _), update in zip(members, updates, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update.view_as(weight), alpha=group["lr"])


def orthogonalised(matrices: Tensor) -> Tensor:
    """The nearest matrices (N, rows, columns) whose singular values are one, roughly: by Newton and Schulz's iteration,
    which needs products alone. On GPUs in bfloat16, which is enough; on many a CPU that would take 20 times as long."""
    a, b, c = _COEFFICIENTS
    x = matrices if matrices.device.type == "cpu" else matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    nearest: Tensor = x.mT if tall else x
    return nearest.to(matrices.dtype)
