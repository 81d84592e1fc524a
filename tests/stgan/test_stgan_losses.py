"""The losses of stage 1, Eq. 3 to 5."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from facemsm.stgan.losses import adversarial_loss, corner_error, discriminator_loss, theta_loss

thetas = st.lists(st.floats(-2, 2), min_size=12, max_size=12).map(lambda v: torch.tensor(v).view(2, 1, 2, 3).double())


def gradient(loss: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(loss, at)[0]


@given(thetas)
def test_theta_loss_is_the_distance_of_the_corners(pair: Tensor) -> None:
    predicted, truth = pair
    corners = torch.tensor([[x, y, 1.0] for x in (-1, 1) for y in (-1, 1)]).double().T
    squared = (predicted @ corners - truth @ corners).square().sum(1).mean()
    assert theta_loss(predicted, truth).item() == pytest.approx(squared.sqrt().item(), abs=1e-9)


def test_theta_loss_is_a_mean_over_the_batch() -> None:
    truth = torch.zeros(4, 2, 3)
    predicted = truth.clone()
    predicted[1, 0, 2], predicted[2, 1, 1] = 3.0, 5.0
    assert theta_loss(predicted, truth).item() == pytest.approx(2.0)
    assert theta_loss(truth, truth).item() == 0


def test_corner_error_is_in_pixels() -> None:
    truth = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(3, 2, 3)
    predicted = truth.clone()
    predicted[1, 0, 2] += 2 * 3 / 128  # three pixels to the right
    predicted[2, 0, 0] += 2 * 5 / 128  # five pixels wider on either side
    torch.testing.assert_close(corner_error(predicted, truth, 128), torch.tensor([0.0, 3.0, 5.0]))


def test_an_undecided_discriminator_loses_twice_ln_2() -> None:
    assert discriminator_loss(torch.zeros(5), torch.zeros(5)).item() == pytest.approx(2 * math.log(2))


def test_the_discriminator_is_not_to_be_certain_of_real_faces() -> None:
    """Label smoothing; with Eq. 3 as it is, the discriminator may."""
    certain = math.log(0.9 / (1 - 0.9))
    for logit, direction in ((certain - 1, -1), (certain, 0), (certain + 1, 1)):
        real = torch.tensor([logit], requires_grad=True)
        slope = gradient(discriminator_loss(real, torch.zeros(1), 0.9), real).item()
        assert slope == pytest.approx(0, abs=1e-6) if direction == 0 else slope * direction > 0.01
    real = torch.tensor([certain + 5], requires_grad=True)
    assert gradient(discriminator_loss(real, torch.zeros(1)), real).item() < 0
    fake = torch.tensor([-5.0, 5.0], requires_grad=True)  # of fakes it may be as certain as it likes
    assert (gradient(discriminator_loss(torch.zeros(2), fake), fake) > 0).all()


def test_the_generator_learns_most_when_the_discriminator_has_won() -> None:
    """In the non-saturating form only: Eq. 4 as printed teaches nothing then."""
    lost = torch.tensor([-12.0], requires_grad=True)
    won = torch.tensor([12.0], requires_grad=True)
    for saturating, when_lost, when_won in ((False, -1, 0), (True, 0, -1)):
        for logit, slope in ((lost, when_lost), (won, when_won)):
            found = gradient(adversarial_loss(logit, saturating=saturating), logit).item()
            assert found == pytest.approx(slope, abs=1e-4)
    logit = torch.tensor([-1.0, 0.5])
    assert adversarial_loss(logit).item() == pytest.approx(torch.log(1 - torch.sigmoid(logit)).mean().item())
