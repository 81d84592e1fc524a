"""Stage 2's network: stacked hourglasses with deconvolutions (Fig. 3, Fig. 4, Eq. 7).

The paper leaves open the widths of the first layers, the deconvolution's kernel and the form of the heads. The readings
here: the stem is 3 × 3 convolutions of 64, 64 and 128 kernels about one max pooling, deconvolutions are 4 × 4 with
stride 2, and each stack ends in a residual unit, a 1 × 1 convolution and the 1 × 1 convolution that emits L heatmaps;
features and heatmaps of a stack are mapped back and added to the next stack's input, as hourglass networks do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from facemsm.errors import FacemsmError


@dataclass(frozen=True)
class HourglassConfig:
    """Shape of the network; defaults are the paper's.

    Attributes:
        landmarks: L, heatmaps to emit.
        width: channels of the hourglass (256).
        stacks: hourglass modules (2), each supervised.
        depth: levels of down- and upsampling (4).
        stem: channels of the first convolutions (64).
        body_size: side of the hourglass's feature maps for a 128 px input: 64, the paper's, or 32, a quarter of the
            cost; then one more deconvolution brings the last stack's features to 64 × 64 and the stacks before it are
            supervised at 32 × 32.
        deconvolution: side of the deconvolutions' kernels, 4 or 2; 2 is a quarter of the cost. At 4 they cost more than
            the residual units they stand between.
    """

    landmarks: int
    width: int = 256
    stacks: int = 2
    depth: int = 4
    stem: int = 64
    body_size: int = 64
    deconvolution: int = 4

    def __post_init__(self) -> None:
        if self.body_size not in (32, 64):
            raise FacemsmError(f"hourglass body_size is {self.body_size}, must be 32 or 64")
        if self.deconvolution not in (2, 4):
            raise FacemsmError(f"hourglass deconvolution is {self.deconvolution}, must be 2 or 4")
        if self.width % 2 or self.width < 2 or min(self.landmarks, self.stacks, self.depth, self.stem) < 1:
            raise FacemsmError("hourglass width must be even, and landmarks, stacks, depth and stem at least 1")
        if self.body_size >> self.depth < 1:
            raise FacemsmError(f"hourglass depth {self.depth} halves {self.body_size} px to nothing")


INPUT_SIZE = 128
HEATMAP_SIZE = 64


class ResidualUnit(nn.Module):
    """Eq. 7 with the three layers of Fig. 4: batch normalisation, ReLU and convolution, 1 × 1, 3 × 3, 1 × 1."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        hidden = channels_out // 2
        self.branch = nn.Sequential(
            *_normalised(channels_in, nn.Conv2d(channels_in, hidden, 1, bias=False)),
            *_normalised(hidden, nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)),
            *_normalised(hidden, nn.Conv2d(hidden, channels_out, 1)),
        )
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels_out, H, W)."""
        return cast(Tensor, self.skip(x) + self.branch(x))


class Hourglass(nn.Module):
    """One hourglass of Fig. 3: ``depth`` levels, each a skip connection beside pooling, units and deconvolution."""

    def __init__(self, config: HourglassConfig, depth: int | None = None) -> None:
        super().__init__()
        depth = config.depth if depth is None else depth
        width = config.width
        self.skip = ResidualUnit(width, width)
        self.down = nn.Sequential(nn.MaxPool2d(2), ResidualUnit(width, width))
        self.inner = Hourglass(config, depth - 1) if depth > 1 else ResidualUnit(width, width)
        self.up = nn.Sequential(ResidualUnit(width, width), *_deconvolution(config))

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same shape."""
        return cast(Tensor, self.skip(x) + self.up(self.inner(self.down(x))))


class StackedHourglass(nn.Module):
    """The whole network: canonical faces in, a set of heatmaps from each stack out."""

    def __init__(self, config: HourglassConfig) -> None:
        super().__init__()
        self.config = config
        width, stem = config.width, config.stem
        stride = HEATMAP_SIZE // config.body_size
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, stride, padding=1),  # the one convolution without normalisation before it
            *_normalised(stem, nn.Conv2d(stem, stem, 3, padding=1, bias=False)),
            nn.MaxPool2d(2),
            *_normalised(stem, nn.Conv2d(stem, 2 * stem, 3, padding=1, bias=False)),
            ResidualUnit(2 * stem, width),
        )
        self.hourglasses = nn.ModuleList(Hourglass(config) for _ in range(config.stacks))
        self.features = nn.ModuleList(
            nn.Sequential(ResidualUnit(width, width), *_normalised(width, nn.Conv2d(width, width, 1)))
            for _ in range(config.stacks)
        )
        self.heads = nn.ModuleList(self._head(last=i == config.stacks - 1) for i in range(config.stacks))
        self.from_features = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(config.stacks - 1))
        self.from_heatmaps = nn.ModuleList(nn.Conv2d(config.landmarks, width, 1) for _ in range(config.stacks - 1))

    def _head(self, *, last: bool) -> nn.Module:
        config = self.config
        upsample = _deconvolution(config) if last and config.body_size < HEATMAP_SIZE else []
        emit = nn.Conv2d(config.width, config.landmarks, 1)
        nn.init.normal_(emit.weight, std=1e-3)  # nearly dark, as most of a target is
        nn.init.zeros_(cast(Tensor, emit.bias))
        return nn.Sequential(*upsample, *_normalised(config.width, emit))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Heatmaps of every stack, the last one's last.

        Args:
            image: (N, 3, 128, 128), values in [0, 1].

        Returns:
            One (N, L, 64, 64) a stack; (N, L, body_size, body_size) before the last.
        """
        x = self.stem(image - 0.5)
        outputs = []
        for i, (hourglass, features, head) in enumerate(zip(self.hourglasses, self.features, self.heads, strict=True)):
            y = features(hourglass(x))
            heatmaps = head(y)
            outputs.append(heatmaps)
            if i < len(self.from_features):
                x = x + self.from_features[i](y) + self.from_heatmaps[i](heatmaps)
        return outputs


def _normalised(channels: int, convolution: nn.Module) -> list[nn.Module]:
    """Batch normalisation and ReLU before a convolution (Section III-B)."""
    return [nn.BatchNorm2d(channels), nn.ReLU(inplace=True), convolution]


def _deconvolution(config: HourglassConfig) -> list[nn.Module]:
    """Doubles the side of a feature map."""
    kernel = config.deconvolution
    deconvolution = nn.ConvTranspose2d(config.width, config.width, kernel, 2, padding=kernel // 2 - 1, bias=False)
    return _normalised(config.width, deconvolution)
