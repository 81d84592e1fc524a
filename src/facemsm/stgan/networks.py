"""Stage 1's two networks, layer by layer as Tables I and II, and the sampler of Eq. 2.

Where the tables contradict themselves the output column is followed: Conv6 and Conv8 of Table I must have 64 and 128
kernels, not 16, for the next layer's input to fit. The tables give no normalisation or activation; batch normalisation
and ReLU in the generator, LeakyReLU (0.2) in the discriminator and no normalisation in its first and last layer are the
usual choice for such networks.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

GENERATOR_LAYERS = ((8, 2), (16, 2), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1))
"""Table I, Conv1 to Conv9: kernels and stride; all 3 × 3."""

DISCRIMINATOR_WIDTHS = (32, 64, 128, 256, 512, 1024)
"""Table II, Conv1 to Conv6: kernels; all 4 × 4 with stride 2."""


class Generator(nn.Module):
    """GDNN, the localisation network of Table I: a crop in, θ out (Eq. 1).

    Args:
        start_scale: the untrained network answers ``θ = start_scale * identity`` for every crop.
    """

    def __init__(self, start_scale: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for kernels, stride in GENERATOR_LAYERS:
            layers += [
                nn.Conv2d(width, kernels, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(kernels),
                nn.ReLU(inplace=True),
            ]
            width = kernels
        layers += [nn.Conv2d(width, 32, 4), nn.ReLU(inplace=True)]  # Conv10: 4 × 4, no padding
        self.features = nn.Sequential(*layers)
        self.theta = nn.Conv2d(32, 6, 1)  # Conv11
        nn.init.zeros_(self.theta.weight)
        with torch.no_grad():
            cast(Tensor, self.theta.bias).copy_(start_scale * torch.tensor([1.0, 0, 0, 0, 1, 0]))

    def forward(self, crop: Tensor) -> Tensor:
        """θ (N, 2, 3) of crops (N, 3, 128, 128), values in [0, 1]."""
        return cast(Tensor, self.theta(self.features(crop - 0.5))).view(-1, 2, 3)


class Discriminator(nn.Module):
    """DDNN of Table II: is this image a canonical face?

    The table ends in two values, the text in one "scalar"; one logit is what Eq. 3 and 4 need.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for index, kernels in enumerate(DISCRIMINATOR_WIDTHS):
            layers.append(nn.Conv2d(width, kernels, 4, 2, padding=1, bias=index == 0))
            if index > 0:
                layers.append(nn.BatchNorm2d(kernels))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            width = kernels
        self.features = nn.Sequential(*layers)
        self.logit = nn.Conv2d(width, 1, 2)  # Conv7
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # CPUs train it faster so

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N,) of images (N, 3, 128, 128), values in [0, 1]: positive says canonical."""
        return cast(Tensor, self.logit(self.features(image - 0.5))).flatten()


def warp_by_theta(image: Tensor, theta: Tensor) -> Tensor:
    """Grid generator and bilinear sampler (Eq. 2): the image (N, 3, S, S) as θ (N, 2, 3) sees it; 0 outside."""
    grid = functional.affine_grid(theta, list(image.shape), align_corners=False)
    return functional.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
