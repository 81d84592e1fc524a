"""Stage 1's losses, Eq. 3 to 5, on logits, in the forms that keep training stable.

Eq. 4's ``log(1 - D(G))`` has no gradient once the discriminator wins, as it soon does with thirty times the generator's
weights; the generator minimises ``-log D(G)`` instead, which has the same optimum.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

REAL_LABEL = 0.9
"""One-sided label smoothing: the discriminator may not become certain of real faces."""


def theta_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """``‖θ̂ - θ*‖`` of Eq. 5, the Frobenius norm, mean over the batch; θ (N, 2, 3).

    Over the corners (±1, ±1) of the canonical image the mean squared distance between where θ̂ and θ* put them is this
    norm squared, so the six numbers need no weights of their own.
    """
    loss: Tensor = (predicted - truth).flatten(1).norm(dim=1).mean()
    return loss


def discriminator_loss(real_logit: Tensor, fake_logit: Tensor) -> Tensor:
    """Negative of Eq. 3: what the discriminator minimises."""
    target = real_logit.new_full(real_logit.shape, REAL_LABEL)
    real = functional.binary_cross_entropy_with_logits(real_logit, target)
    return real + functional.softplus(fake_logit).mean()


def adversarial_loss(fake_logit: Tensor) -> Tensor:
    """Eq. 4 in its non-saturating form: ``-E[log D(G(I))]``."""
    return functional.softplus(-fake_logit).mean()


def corner_error(predicted: Tensor, truth: Tensor, size: int) -> Tensor:
    """Mean distance (N,) in crop pixels between the canonical image's corners placed by θ̂ and by θ*."""
    corners = truth.new_tensor([[-1, -1, 1], [1, -1, 1], [-1, 1, 1], [1, 1, 1]]).T
    distance: Tensor = ((predicted - truth) @ corners).norm(dim=1).mean(1)
    return distance * (size / 2)
