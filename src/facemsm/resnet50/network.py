"""The baseline's network: ResNet-50 (He et al., CVPR 2016, Table 1) on 128 px, coordinates out.

Section IV-G makes the last pooling 4 × 4 for 128 px inputs and leaves the rest as published. The readings here: stages
halve the side in the 3 × 3 convolution of their first block, as later implementations do, which skips no pixel; the
last layer emits 2 L coordinates; weights start at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from facemsm.errors import FacemsmError

INPUT_SIZE = 128
BLOCKS = (3, 4, 6, 3)
EXPANSION = 4


@dataclass(frozen=True)
class ResNet50Config:
    """Shape of the network; defaults are the paper's.

    Attributes:
        landmarks: L, points to find.
        width: channels of the first convolution (64), which the stages' channels are multiples of.
    """

    landmarks: int
    width: int = 64

    def __post_init__(self) -> None:
        if min(self.landmarks, self.width) < 1:
            raise FacemsmError("resnet50 landmarks and width must be at least 1")


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3 and 1 × 1 convolutions, each with batch normalisation, beside a skip connection."""

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels_out = EXPANSION * width
        self.branch = nn.Sequential(
            *_normalised(nn.Conv2d(channels_in, width, 1, bias=False)),
            nn.ReLU(inplace=True),
            *_normalised(nn.Conv2d(width, width, 3, stride, padding=1, bias=False)),
            nn.ReLU(inplace=True),
            *_normalised(nn.Conv2d(width, channels_out, 1, bias=False)),
        )
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or channels_in != channels_out:
            self.skip = nn.Sequential(*_normalised(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, 4 width, H / stride, W / stride)."""
        return cast(Tensor, self.skip(x) + self.branch(x)).relu()


class ResNet50(nn.Module):
    """Canonical faces in, points out."""

    def __init__(self, config: ResNet50Config) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Sequential(
            *_normalised(nn.Conv2d(3, config.width, 7, 2, padding=3, bias=False)),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, padding=1),
        )
        self.stages = nn.Sequential()
        channels = config.width
        for stage, count in enumerate(BLOCKS):
            width = config.width << stage
            blocks = nn.Sequential()
            for block in range(count):
                blocks.append(Bottleneck(channels, width, 2 if stage and not block else 1))
                channels = EXPANSION * width
            self.stages.append(blocks)
        self.pool = nn.AvgPool2d(INPUT_SIZE // 32)
        self.points = nn.Linear(channels, 2 * config.landmarks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.points.weight, std=1e-3)  # all points near the middle
        nn.init.zeros_(self.points.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Points of faces.

        Args:
            image: (N, 3, 128, 128), values in [0, 1].

        Returns:
            (N, L, 2) float32 x, y in pixels of the image.
        """
        features = self.pool(self.stages(self.stem(image - 0.5))).flatten(1)
        with torch.autocast(image.device.type, enabled=False):  # eight bits of mantissa are half a pixel
            offsets = self.points(features.float()).unflatten(1, (self.config.landmarks, 2))
        return cast(Tensor, INPUT_SIZE * (offsets + 0.5) - 0.5)


def _normalised(convolution: nn.Conv2d) -> tuple[nn.Module, nn.Module]:
    return convolution, nn.BatchNorm2d(convolution.out_channels)
