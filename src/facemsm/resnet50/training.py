"""Training the baseline on the canonical faces that stage 2 trains on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from facemsm.data.augment import Augmentation
from facemsm.errors import FacemsmError
from facemsm.resnet50.losses import LOSSES
from facemsm.resnet50.network import INPUT_SIZE, ResNet50, ResNet50Config
from facemsm.schemes import LandmarkScheme
from facemsm.training.config import Schedule
from facemsm.training.faces import Faces
from facemsm.training.landmarks import (
    LITE_AUGMENTATION,
    LITE_SCHEDULE,
    CanonicalExamples,
    LandmarkModule,
    canonical_errors,
    images_to_tensor,
)


@dataclass(frozen=True)
class ResNet50Training:
    """All settings of a run of the baseline; defaults are the paper's for stage 2, as it gives the baseline none.

    Attributes:
        network: its shape.
        schedule: its length and rate.
        augmentation: of the training faces.
        loss: a name in ``LOSSES``.
    """

    network: ResNet50Config
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation = field(default_factory=Augmentation.paper)
    loss: str = "l2"

    @classmethod
    def preset(cls, name: str, landmarks: int) -> ResNet50Training:
        """``paper``: Section IV-G, trained as Section IV-C trains stage 2. ``lite``: what a CPU trains.

        Raises:
            FacemsmError: no such preset.
        """
        if name == "paper":
            return cls(ResNet50Config(landmarks))
        if name == "lite":
            return cls(ResNet50Config(landmarks, width=24), LITE_SCHEDULE, LITE_AUGMENTATION, loss="smooth_l1")
        raise FacemsmError(f"no preset {name!r}: use paper or lite")


class ResNet50Module(LandmarkModule):
    """The baseline in training."""

    def __init__(self, config: ResNet50Training, scheme: LandmarkScheme, faces: Faces) -> None:
        if config.loss not in LOSSES:
            raise FacemsmError(f"no loss {config.loss!r}: use one of {', '.join(LOSSES)}")
        super().__init__(
            config.schedule,
            faces,
            CanonicalExamples(scheme, INPUT_SIZE, config.augmentation),
            CanonicalExamples(scheme, INPUT_SIZE, None),
        )
        self.config, self.scheme = config, scheme
        self.network = ResNet50(config.network)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Loss over the labelled points, those beyond the crop too."""
        loss = LOSSES[self.config.loss](self.network(images_to_tensor(batch["image"])), batch["points"])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Errors as stage 2's, in per cent of the tight box (deciding) and of the inter-ocular distance."""
        predicted: Tensor = self.network(images_to_tensor(batch["image"])).cpu()
        self.collect(canonical_errors(predicted.numpy(), batch["points"].cpu().numpy(), self.scheme))
        return predicted
