"""Training stage 2 (Section III-B, IV-C): the network, its targets on every stack, and its validation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from facemsm.data.augment import Augmentation
from facemsm.errors import FacemsmError, check_number
from facemsm.heatmaps import HeatmapCodec, Refinement
from facemsm.hourglass.losses import LOSSES, by_face, centres, distance, gaussians
from facemsm.hourglass.network import HEATMAP_SIZE, INPUT_SIZE, HourglassConfig, StackedHourglass
from facemsm.schemes import LandmarkScheme
from facemsm.training.config import Schedule, from_mapping, read_config
from facemsm.training.faces import Faces, to_consensus
from facemsm.training.landmarks import (
    LITE_AUGMENTATION,
    LITE_SCHEDULE,
    CanonicalExamples,
    LandmarkModule,
    canonical_errors,
    images_to_tensor,
)
from facemsm.training.weights import load_weights


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
        conventions: a model's name or folder: labels are moved to the consensus that it knows (see
            :func:`facemsm.training.faces.to_consensus`), and errors are those from there; none as in the paper.
        teacher: folder of the run of a hourglass to learn from besides the labels, such as a larger one, or the
            one that training starts from; it sees the same faces and their mirror images. Hinton et al., 2015, on
            heatmaps.
        distil: the teacher's part in the targets. Labels have the rest; where a point has none, the teacher has all.
        adapt: how fast each data set's convention is learned: the part of a step's mean offset between its labels and
            the network's points that its shift takes up; 0 is the paper's and leaves labels as they are. Label
            adaptation, after Wood et al., ICCV 2021.
    """

    network: HourglassConfig
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation = field(default_factory=Augmentation.paper)
    sigma: float = 1.5
    loss: str = "mse"
    coordinate: float = 0.0
    refinement: Refinement = "gaussian"
    occluded_peak: float = 1.0
    adapt: float = 0.0
    conventions: str = ""
    teacher: str = ""
    distil: float = 0.5

    def __post_init__(self) -> None:
        check_number("distil", self.distil, 0, 1)

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
                replace(LITE_SCHEDULE, clip=1.0),
                LITE_AUGMENTATION,
                loss="weighted",
                coordinate=0.1,
                refinement="mass",
                occluded_peak=0.4,
                adapt=0.01,
            )
        raise FacemsmError(f"no preset {name!r}: use paper or lite")


def load_hourglass(run: Path, landmarks: int) -> StackedHourglass:
    """The network of a run's folder with its best weights, for inference.

    Raises:
        FacemsmError: the folder holds no trained hourglass, or one of other landmarks.
    """
    network = StackedHourglass(from_mapping(HourglassConfig, read_config(run)["network"]))
    if network.config.landmarks != landmarks:
        raise FacemsmError(f"{run}: finds {network.config.landmarks} landmarks, expected {landmarks}")
    load_weights(network, run / "best.safetensors")
    return network.eval().requires_grad_(False)


class HourglassModule(LandmarkModule):
    """Stage 2 in training."""

    def __init__(self, config: HourglassTraining, scheme: LandmarkScheme, faces: Faces) -> None:
        if config.loss not in LOSSES:
            raise FacemsmError(f"no loss {config.loss!r}: use one of {', '.join(LOSSES)}")
        final = HeatmapCodec(INPUT_SIZE, HEATMAP_SIZE, config.sigma, refinement=config.refinement)
        if config.conventions:
            faces = to_consensus(faces, config.conventions, scheme)
        known = faces.conventions
        super().__init__(
            config.schedule,
            faces,
            CanonicalExamples(scheme, INPUT_SIZE, config.augmentation, config.occluded_peak, known),
            CanonicalExamples(scheme, INPUT_SIZE, None, conventions=known),
        )
        self.config, self.codec, self.scheme = config, final, scheme
        # in a list, which keeps it out of what is saved
        self._teachers = [load_hourglass(Path(config.teacher), scheme.count)] if config.teacher else []
        self.network = StackedHourglass(config.network)
        self.shifts: Tensor
        self.register_buffer("shifts", torch.zeros(len(known), 2))
        seen = np.zeros(len(known))
        for face, source in zip(faces.training, faces.source, strict=True):
            seen[known.index(face.data_set)] += faces.sources[source].share
        self._share = torch.tensor(seen / seen.sum(), dtype=torch.float32)

    def hidden(self) -> list[Tensor]:
        """Weights of the convolutions between features: all that neither see the image nor emit or read heatmaps."""
        network = cast(StackedHourglass, self.network)
        ends = {network.stem[0], *network.from_heatmaps, *(cast(nn.Sequential, head)[-1] for head in network.heads)}
        inner = (module for module in network.modules() if module not in ends)
        return [module.weight for module in inner if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]

    @property
    def conventions(self) -> dict[str, list[float]]:
        """How far each data set's labels lie from the consensus: x, y in the photo, as a share of the root of the tight
        box's area; 0 where ``adapt`` is 0."""
        return {
            name: [round(x, 5) for x in shift.tolist()]
            for name, shift in zip(self.faces.conventions, self.shifts, strict=True)
        }

    def _consensus(self, batch: dict[str, Any]) -> Tensor:
        """The labels (N, L, 2) in canonical px without their data sets' shifts."""
        points: Tensor = batch["points"]
        shifts: Tensor = batch["shift"] @ self.shifts[batch["convention"], :, None]  # (N, 2, 1)
        return points - shifts.transpose(1, 2)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Sum of the losses of all stacks (intermediate supervision)."""
        loss = torch.zeros((), device=self.device)
        points, heatmaps = self._consensus(batch), loss
        images = images_to_tensor(batch["image"])
        taught = self._taught(images)
        for heatmaps in self.network(images):
            targets = [taught[size] for size in taught if size == heatmaps.shape[-1]]
            loss = loss + by_face(self._loss, heatmaps, batch["labelled"], points, batch["peak"], *targets)
        if self.config.adapt:
            self._adapt(batch, points, heatmaps.detach().float())
        self.log("train/loss", loss)
        return loss

    @torch.no_grad()
    def _taught(self, images: Tensor) -> dict[int, Tensor]:
        """The teacher's heatmaps by their side, the mean of those of the faces and of their mirror images."""
        taught = {}
        for teacher in self._teachers:
            views = [teacher.to(images.device)(view) for view in (images, images.flip(3))]
            for maps, mirrored in zip(*views, strict=True):
                both = (maps.float() + mirrored.float()[:, self.scheme.flip.tolist()].flip(3)) / 2
                taught[maps.shape[-1]] = both.clamp(min=0)
        return taught

    def _adapt(self, batch: dict[str, Any], points: Tensor, heatmaps: Tensor) -> None:
        """Let each data set's shift follow the offset between its labels and the points of the last stack.

        What all sets have in common is no convention. A network that learns from mirrored faces cannot follow it in x;
        in y it could, so the sets' shifts, weighed by how many faces they have, are kept at a mean of 0.
        """
        found = (centres(heatmaps) + 0.5) * (INPUT_SIZE / heatmaps.shape[-1]) - 0.5
        seen = (batch["labelled"] * (batch["peak"] == 1))[..., None]
        counts = seen.sum(1)
        offset = torch.where(seen > 0, points - found, 0).sum(1) / counts.clamp(min=1)
        offset = torch.linalg.solve(batch["shift"], offset[..., None])[..., 0]
        for i in range(len(self.shifts)):
            own = (batch["convention"] == i) & (counts[:, 0] > 0)
            if own.any():
                self.shifts[i] += self.config.adapt * offset[own].mean(0)
        self.shifts[:, 1] -= self._share.to(self.shifts) @ self.shifts[:, 1]

    def _loss(
        self, heatmaps: Tensor, labelled: Tensor, points: Tensor, peak: Tensor, taught: Tensor | None = None
    ) -> Tensor:
        """Of one stack's heatmaps (n, L, H, W); points (n, L, 2) in canonical px, heights of peaks (n, L), and the
        teacher's heatmaps (n, L, H, W)."""
        size = heatmaps.shape[-1]
        cells = (points + 0.5) * (size / INPUT_SIZE) - 0.5
        target = peak[..., None, None] * gaussians(cells, size, self.config.sigma * size / HEATMAP_SIZE)
        counted = labelled
        if taught is not None:
            part = 1 + (self.config.distil - 1) * labelled  # the teacher's alone where there is no label
            target = target.lerp(taught, part[..., None, None])
            cells = cells.lerp(centres(taught), self.config.distil)
            counted = labelled.clamp(min=self.config.distil)
        loss = LOSSES[self.config.loss](heatmaps, target, counted)
        if self.config.coordinate:
            loss = loss + self.config.coordinate / heatmaps.shape[-1] * distance(centres(heatmaps), cells, labelled)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Errors on canonical faces, in per cent of the tight box (deciding) and of the inter-ocular distance."""
        heatmaps = self.network(images_to_tensor(batch["image"]))[-1].float().cpu().numpy()
        predicted = self.codec.decode(heatmaps).points
        plain = canonical_errors(predicted, batch["points"].cpu().numpy(), self.scheme)
        if self.config.adapt:
            own = canonical_errors(predicted, self._consensus(batch).cpu().numpy(), self.scheme)
            plain = {f"{kind}, own convention": values for kind, values in own.items()} | plain
        self.collect(plain)
        return torch.from_numpy(predicted)
