"""The losses of stage 2."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from facemsm.heatmaps import HeatmapCodec
from facemsm.hourglass.losses import (
    FOREGROUND_WEIGHT,
    LOSSES,
    adaptive_wing,
    by_face,
    centres,
    distance,
    gaussians,
    mean_squared,
    weighted_squared,
)


def gradient(loss: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(loss, at)[0]


def test_targets_are_those_that_the_codec_draws() -> None:
    codec = HeatmapCodec(sigma=1.7)
    points = np.random.default_rng(0).uniform(-5, 133, (2, 6, 2)).astype(np.float32)
    points[0, 1] = np.nan
    drawn = gaussians(torch.from_numpy(codec.to_cells(points)).float(), codec.size, codec.sigma)
    np.testing.assert_allclose(drawn, codec.encode(points), atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_unlabelled_points_teach_nothing(name: str) -> None:
    torch.manual_seed(0)
    target = torch.rand(2, 3, 8, 8)
    predicted = torch.rand(2, 3, 8, 8, requires_grad=True)
    labelled = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    loss = LOSSES[name](predicted, target, labelled)
    per_map = gradient(loss, predicted).abs().sum((2, 3))
    assert torch.equal(per_map > 0, labelled > 0)
    # the mean is over labelled maps: as many more without a label change nothing
    doubled = LOSSES[name](predicted.repeat(2, 1, 1, 1), target.repeat(2, 1, 1, 1), torch.cat((labelled, 0 * labelled)))
    torch.testing.assert_close(loss, doubled)
    nothing = LOSSES[name](predicted, target, torch.zeros(2, 3))
    assert nothing.item() == 0
    assert gradient(nothing, predicted).abs().max() == 0


def test_weighted_counts_the_peak_more_and_the_dark_the_same() -> None:
    target = torch.zeros(1, 1, 8, 8)
    target[..., 4, 4] = 1
    labelled = torch.ones(1, 1)
    dark, peak = target.clone(), target.clone()
    dark[..., 0, 0] += 0.5
    peak[..., 4, 4] += 0.5
    assert mean_squared(dark, target, labelled) == mean_squared(peak, target, labelled) == 0.25 / 64
    assert weighted_squared(dark, target, labelled).item() == pytest.approx(0.25 / 64)
    assert weighted_squared(peak, target, labelled).item() == pytest.approx((1 + FOREGROUND_WEIGHT) * 0.25 / 64)
    assert weighted_squared(target, target, labelled) == 0


def published_wing(error: float, target: float) -> float:
    """Eq. 3 and 4 of Wang et al. with their A and C, for one cell."""
    alpha, omega, epsilon, theta = 2.1, 14, 1, 0.5
    power = alpha - target
    ratio = theta / epsilon
    A: float = omega * (1 / (1 + ratio**power)) * power * ratio ** (power - 1) * (1 / epsilon)
    C = theta * A - omega * math.log(1 + ratio**power)
    if abs(error) < theta:
        return omega * math.log(1 + abs(error / epsilon) ** power)
    return A * abs(error) - C


def one_cell(error: float, target: float, side: int = 1) -> tuple[Tensor, Tensor]:
    """Loss of one cell in a map of so many, and its gradient."""
    wanted = torch.zeros(1, 1, side, side, dtype=torch.float64)
    wanted[..., side // 2, side // 2] = target
    predicted = (wanted + (wanted == target) * error).requires_grad_()
    loss = adaptive_wing(predicted, wanted, torch.ones(1, 1))
    return loss.detach(), gradient(loss, predicted)[..., side // 2, side // 2].squeeze()


@pytest.mark.parametrize("target", [0.0, 0.1, 0.4, 1.0])
@pytest.mark.parametrize("error", [-0.9, -0.3, 0.05, 0.499, 0.501, 0.7])
def test_adaptive_wing_is_the_published_one(error: float, target: float) -> None:
    weight = 11 if target >= 0.2 else 1
    assert one_cell(error, target)[0].item() == pytest.approx(weight * published_wing(error, target))


def test_adaptive_wing_by_hand() -> None:
    assert one_cell(0.3, 0.1)[0].item() == pytest.approx(14 * math.log(1.09))  # power 2
    # power 2: 0.5 ** 2 = 0.25; A = 14 / 1.25 * 2 * 0.5 = 11.2; C = 5.6 - 14 ln 1.25
    assert one_cell(0.8, 0.1)[0].item() == pytest.approx(11.2 * 0.8 - 5.6 + 14 * math.log(1.25))


@pytest.mark.parametrize("target", [0.0, 0.4, 1.0])
def test_adaptive_wing_is_smooth_where_its_parts_meet(target: float) -> None:
    (below, slope_below), (above, slope_above) = (one_cell(0.5 + step, target) for step in (-1e-9, 1e-9))
    torch.testing.assert_close(below, above, rtol=0, atol=1e-6)
    torch.testing.assert_close(slope_below, slope_above, rtol=1e-6, atol=0)
    assert slope_above > 0
    assert one_cell(0.0, target)[1] == 0  # smooth at no error too


def test_adaptive_wing_counts_the_peak_and_the_cells_about_it() -> None:
    target = torch.zeros(1, 1, 8, 8)
    target[..., 4, 4], target[..., 0, 7] = 0.2, 0.19
    losses = torch.empty(8, 8)
    for y in range(8):
        for x in range(8):
            predicted = target.clone()
            predicted[..., y, x] += 0.1
            losses[y, x] = 64 * adaptive_wing(predicted, target, torch.ones(1, 1))
    dark = published_wing(0.1, 0)
    about = torch.zeros(8, 8)
    about[3:6, 3:6] = 1
    expected = dark * (1 + 10 * about)
    expected[4, 4], expected[0, 7] = 11 * published_wing(0.1, 0.2), published_wing(0.1, 0.19)
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)


def test_centres_are_where_the_codec_reads_them() -> None:
    heatmaps = torch.randn(3, 5, 64, 64, generator=torch.Generator().manual_seed(0))
    codec = HeatmapCodec(refinement="mass")
    expected = codec.decode(heatmaps.numpy()).points
    np.testing.assert_allclose(codec.to_pixels(centres(heatmaps).numpy()), expected, atol=1e-3)


def test_distance_counts_labelled_points_only() -> None:
    target = torch.tensor([[[3.0, 4.0], [torch.nan, torch.nan]]])
    predicted = torch.zeros(1, 2, 2, requires_grad=True)
    loss = distance(predicted, target, torch.tensor([[1.0, 0.0]]))
    assert loss.item() == pytest.approx(5, abs=1e-4)
    assert gradient(loss, predicted).tolist() == [[pytest.approx([-0.6, -0.8]), [0, 0]]]


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_face_by_face_is_that_of_the_batch_with_its_gradient(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    heatmaps = torch.randn(3, 2, 8, 8, generator=rng).to(memory_format=torch.channels_last).requires_grad_()
    target, labelled = torch.rand(3, 2, 8, 8, generator=rng), torch.tensor([[1.0, 0], [0, 0], [1, 1]])

    def loss(maps: Tensor, labelled: Tensor, target: Tensor) -> Tensor:
        return LOSSES[name](maps, target, labelled)

    whole, parts = loss(heatmaps, labelled, target), by_face(loss, heatmaps, labelled, target)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(gradient(2 * parts, heatmaps), gradient(2 * whole, heatmaps))
