"""Training stage 2 (Section III-B, IV-C): the network, its targets on every stack, and what it is judged by."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from facemsm.data.augment import Augmentation
from facemsm.errors import FacemsmError
from facemsm.heatmaps import HeatmapCodec, Refinement
from facemsm.hourglass.examples import HourglassExamples
from facemsm.hourglass.losses import LOSSES, by_face, centres, distance
from facemsm.hourglass.network import HEATMAP_SIZE, INPUT_SIZE, HourglassConfig, StackedHourglass
from facemsm.schemes import LandmarkScheme
from facemsm.training.config import Schedule
from facemsm.training.faces import Faces
from facemsm.training.run import PICTURED, StageModule
from facemsm.typing import Image


@dataclass(frozen=True)
class HourglassTraining:
    """All settings of a stage 2 run; defaults are the paper's.

    Attributes:
        network: its shape.
        schedule: its length and rate.
        augmentation: of the training faces.
        sigma: of the target Gaussians, cells of the 64 × 64 heatmap (1.5 where the paper says nothing).
        loss: a name in ``LOSSES``.
        coordinate: weight of the mean distance between true points and the heatmaps' centres of mass, as a fraction of
            the heatmap's side; 0 is the paper's. It teaches the maps to be right where they are read.
        refinement: how points are read from heatmaps, see :class:`facemsm.heatmaps.HeatmapCodec`.
        occluded_peak: height of the target peak of points known to be hidden; 1 is the paper's.
    """

    network: HourglassConfig
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation = field(default_factory=Augmentation.paper)
    sigma: float = 1.5
    loss: str = "mse"
    coordinate: float = 0.0
    refinement: Refinement = "gaussian"
    occluded_peak: float = 1.0

    @classmethod
    def preset(cls, name: str, landmarks: int) -> HourglassTraining:
        """``paper``: Section IV-C to the letter. ``lite``: what a CPU trains and what ships.

        Raises:
            FacemsmError: no such preset.
        """
        if name == "paper":
            return cls(HourglassConfig(landmarks))
        if name == "lite":
            return cls(
                HourglassConfig(landmarks, width=128, body_size=32, stem=32, deconvolution=2),
                Schedule(
                    epochs=60,
                    learning_rate=1e-3,
                    decay="cosine",
                    warmup=200,
                    weight_decay=0.01,
                    ema=0.999,
                    clip=1.0,
                    precision="bf16-mixed",
                ),
                replace(Augmentation.full(), scale=0.15, shift=0.05),
                loss="weighted",
                coordinate=0.1,
                refinement="mass",
                occluded_peak=0.4,
            )
        raise FacemsmError(f"no preset {name!r}: use paper or lite")


class HourglassModule(StageModule):
    """Stage 2 in training."""

    def __init__(self, config: HourglassTraining, scheme: LandmarkScheme, faces: Faces) -> None:
        if config.loss not in LOSSES:
            raise FacemsmError(f"no loss {config.loss!r}: use one of {', '.join(LOSSES)}")
        body = config.network.body_size
        final = HeatmapCodec(INPUT_SIZE, HEATMAP_SIZE, config.sigma, refinement=config.refinement)
        earlier = HeatmapCodec(INPUT_SIZE, body, config.sigma * body / HEATMAP_SIZE)
        codecs = (earlier,) * (config.network.stacks - 1) + (final,)
        super().__init__(
            config.schedule,
            faces,
            HourglassExamples(scheme, codecs, config.augmentation, config.occluded_peak),
            HourglassExamples(scheme, codecs, None),
        )
        self.config, self.codec, self.scheme = config, final, scheme
        self.network = StackedHourglass(config.network)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Sum of the losses of all stacks (intermediate supervision)."""
        loss = torch.zeros((), device=self.device)
        for i, heatmaps in enumerate(self.network(images_to_tensor(batch["image"]))):
            profiles = batch[f"columns_{i}"], batch[f"rows_{i}"]
            loss = loss + by_face(self._loss, heatmaps, batch["labelled"], batch["points"], *profiles)
        self.log("train/loss", loss)
        return loss

    def _loss(self, heatmaps: Tensor, labelled: Tensor, points: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
        """Of one stack's heatmaps (n, L, H, W); points (n, L, 2) in canonical px, profiles (n, L, W) and (n, L, H)."""
        target = rows[..., :, None] * columns[..., None, :]
        loss = LOSSES[self.config.loss](heatmaps, target, labelled)
        if self.config.coordinate:
            cells = (points + 0.5) * (heatmaps.shape[-1] / INPUT_SIZE) - 0.5
            loss = loss + self.config.coordinate / heatmaps.shape[-1] * distance(centres(heatmaps), cells, labelled)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Errors on canonical faces, in per cent of the tight box (deciding) and of the inter-ocular distance."""
        heatmaps = self.network(images_to_tensor(batch["image"]))[-1].float().cpu().numpy()
        predicted = self.codec.decode(heatmaps).points
        self.collect(canonical_errors(predicted, batch["points"].cpu().numpy(), self.scheme))
        return torch.from_numpy(predicted)

    def picture(self, batch: dict[str, Any], predicted: Tensor) -> Image:
        """Canonical faces at twice their size: true points green, predicted ones red."""
        zoom, shift = 2, 4  # OpenCV draws at 1/16 pixel
        tiles = []
        for image, *both in list(zip(batch["image"], batch["points"], predicted, strict=True))[:PICTURED]:
            tile = cv2.resize(image.cpu().numpy(), None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
            for points, colour, size in zip(both, ((0, 255, 0), (255, 0, 0)), (5, 3), strict=True):
                known = points[~points.isnan().any(1)].cpu().numpy()
                centres = np.round((zoom * (known + 0.5) - 0.5) * 2**shift).astype(np.int32)
                cv2.polylines(tile, list(centres[:, None]), True, colour, size, cv2.LINE_AA, shift)  # dots
            tiles.append(tile)
        return np.concatenate(tiles, axis=1)


def images_to_tensor(images: Tensor) -> Tensor:
    """(N, S, S, 3) uint8 to (N, 3, S, S) float32 in [0, 1], in channels-last order, which CPUs convolve faster."""
    return images.permute(0, 3, 1, 2).float() / 255


def canonical_errors(
    predicted: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], scheme: LandmarkScheme
) -> dict[str, Tensor]:
    """Per-face errors in per cent: ``box`` and ``inter-ocular``; NaN where a face has no such normaliser."""
    from facemsm.evaluation.metrics import nme

    kinds: tuple[Any, ...] = ("box", "inter-ocular")
    return {kind: torch.from_numpy(100 * nme(predicted, truth, scheme, kind)) for kind in kinds}
