"""Stage 1's losses, Eq. 3 to 5, on logits; as printed, and in the forms that GANs are usually trained with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def theta_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """``‖θ̂ - θ*‖`` of Eq. 5, the Frobenius norm, mean over the batch; θ (N, 2, 3).

    Over the corners (±1, ±1) of the canonical image the mean squared distance between where θ̂ and θ* put them is this
    norm squared, so the six numbers need no weights of their own.
    """
    loss: Tensor = (predicted - truth).flatten(1).norm(dim=1).mean()
    return loss


def discriminator_loss(real_logit: Tensor, fake_logit: Tensor, real_label: float = 1.0) -> Tensor:
    """Negative of Eq. 3: what the discriminator minimises.

    Args:
        real_logit, fake_logit: (N,) of canonical and of generated faces.
        real_label: target of canonical faces; below 1 the discriminator may not become certain of them (one-sided label
            smoothing).
    """
    target = torch.full_like(real_logit, real_label)
    real = functional.binary_cross_entropy_with_logits(real_logit, target)
    return real + functional.softplus(fake_logit).mean()


def adversarial_loss(fake_logit: Tensor, *, saturating: bool = True) -> Tensor:
    """Eq. 4, ``E[log(1 - D(G(I)))]``, or its non-saturating form, ``-E[log D(G(I))]``.

    Eq. 4 as it is has no gradient once the discriminator wins, as it soon does with thirty times the generator's
    weights; the other form has the same optimum and a gradient.
    """
    return -functional.softplus(fake_logit).mean() if saturating else functional.softplus(-fake_logit).mean()


def corner_error(predicted: Tensor, truth: Tensor, size: int) -> Tensor:
    """Mean distance (N,) in crop pixels between the canonical image's corners placed by θ̂ and by θ*."""
    corners = truth.new_tensor([[-1, -1, 1], [1, -1, 1], [-1, 1, 1], [1, 1, 1]]).T
    distance: Tensor = ((predicted - truth) @ corners).norm(dim=1).mean(1)
    return distance * (size / 2)
