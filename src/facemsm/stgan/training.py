"""Training stage 1: Algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from facemsm.data.augment import Augmentation
from facemsm.errors import FacemsmError, check_number
from facemsm.geometry import CANONICAL_MARGIN, CROP_ENLARGEMENT
from facemsm.schemes import LandmarkScheme
from facemsm.stgan.examples import CropExamples
from facemsm.stgan.losses import adversarial_loss, corner_error, discriminator_loss, theta_loss
from facemsm.stgan.networks import Discriminator, Generator, warp_by_theta
from facemsm.training.config import Schedule
from facemsm.training.faces import Faces
from facemsm.training.landmarks import images_to_tensor
from facemsm.training.run import PICTURED, StageModule
from facemsm.typing import Image

CROP_SIZE = 128


@dataclass(frozen=True)
class STGANTraining:
    """All settings of a stage 1 run; defaults are the paper's.

    Attributes:
        schedule: its length and rate.
        augmentation: of the crops; jitter about the provided boxes.
        a, b: weights of the θ loss and of the adversarial loss (Eq. 5).
        alone: fraction of the run in which the generator learns from θ alone, before the discriminator joins. From the
            first step on, the discriminator would win before the generator's faces look canonical at all.
        discriminator_rate: the discriminator's learning rate over the generator's.
        real_label: what the discriminator is told of canonical faces; below 1 is label smoothing.
        saturating: whether the adversarial loss is Eq. 4 as printed, see :func:`facemsm.stgan.losses.adversarial_loss`.
        generator_steps: 2 is Algorithm 1, which optimises the generator by Eq. 5 (line 1) and, after the discriminator,
            by Eq. 6 (line 4); 1 leaves line 1 out and takes Eq. 5 for line 4.

    Raises:
        FacemsmError: a value is out of range.
    """

    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=1000, halve_every=400))
    augmentation: Augmentation = field(default_factory=Augmentation.paper)
    a: float = 1.0
    b: float = 0.5
    alone: float = 0.0
    discriminator_rate: float = 1.0
    real_label: float = 1.0
    saturating: bool = True
    generator_steps: int = 2

    def __post_init__(self) -> None:
        check_number("generator_steps", self.generator_steps, 1, 2, whole=True)
        for name in ("alone", "real_label"):
            check_number(name, getattr(self, name), 0, 1)
        for name in ("a", "b", "discriminator_rate"):
            check_number(name, getattr(self, name), 0, 1e3)
        if self.augmentation.deform:
            raise FacemsmError("augmentation.deform is for stage 2: leave it out, a deformed face has no θ of its own")

    @classmethod
    def preset(cls, name: str) -> STGANTraining:
        """``paper``: Section IV-C and Algorithm 1, with the deviations that docs/method.md lists. ``lite``: what a CPU
        trains and what ships.

        Raises:
            FacemsmError: no such preset.
        """
        if name == "paper":
            return cls()
        if name == "lite":
            schedule = Schedule(
                epochs=100, batch_size=32, learning_rate=2e-3, decay="cosine", warmup=200, ema=0.998, precision="auto"
            )
            # Boxes off by a fifth, a quarter too small or large, heads turned by 40°: wider than it will be asked for.
            return cls(
                schedule,
                replace(Augmentation.full(), rotation=40.0, scale=0.3, shift=0.14),
                b=0.01,
                alone=0.8,
                discriminator_rate=0.2,
                real_label=0.9,
                saturating=False,
                generator_steps=1,
            )
        raise FacemsmError(f"no preset {name!r}: use paper or lite")


class STGANModule(StageModule):
    """Stage 1 in training: Eq. 6, in which the generator minimises L_G of Eq. 5 and the discriminator maximises L_D."""

    def __init__(self, config: STGANTraining, scheme: LandmarkScheme, faces: Faces) -> None:
        still = Augmentation(
            flip=0,
            rotation=config.augmentation.rotation,
            scale=config.augmentation.scale,
            shift=config.augmentation.shift,
        )
        super().__init__(
            config.schedule,
            faces,
            CropExamples(scheme, CROP_SIZE, config.augmentation),
            CropExamples(scheme, CROP_SIZE, still, fixed=True),
        )
        self.automatic_optimization = False
        self.config = config
        # A box that fits its face needs no turn and no shift, only the two margins evened out.
        self.network = Generator(start_scale=CANONICAL_MARGIN / CROP_ENLARGEMENT)
        self.discriminator = Discriminator()
        self.steps_alone = round(config.alone * self.total_steps) if config.b else self.total_steps

    def configure_optimizers(self) -> Any:
        """One Adam for each network, both on the schedule's rate."""
        generator = self.optimiser(self.network)
        discriminator = self.optimiser(self.discriminator, self.config.discriminator_rate)
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(generator, self.rate),
            torch.optim.lr_scheduler.LambdaLR(discriminator, lambda step: self.rate(self.steps_alone + step)),
        ]
        return [generator, discriminator], schedules

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:  # noqa: ARG002
        """Algorithm 1 on one batch. Lines 2 and 3, the two terms of Eq. 3, are one step of the discriminator."""
        config = self.config
        generator_step, discriminator_step = self.optimizers()  # type: ignore[attr-defined]
        generator_schedule, discriminator_schedule = self.lr_schedulers()  # type: ignore[misc]
        image, truth = images_to_tensor(batch["image"]), batch["theta"]
        adversarial = self.batches_done >= self.steps_alone
        twice = adversarial and config.generator_steps == 2
        theta = self._theta(image)
        self.log("train/theta", theta_loss(theta.detach(), truth))
        if twice:  # line 1
            self._step_generator(generator_step, image, theta, truth, config.b)
        if adversarial:  # lines 2 and 3
            real_logit = self.discriminator(_warped(image, truth)).float()
            fake_logit = self.discriminator(_warped(image, theta.detach())).float()
            discriminator_step.zero_grad()
            self.manual_backward(discriminator_loss(real_logit, fake_logit, config.real_label))
            discriminator_step.step()
            discriminator_schedule.step()
            self.log("train/log D(real)", -torch.nn.functional.softplus(-real_logit).mean())
            self.log("train/log D(fake)", -torch.nn.functional.softplus(-fake_logit).mean())
        # line 4; of L_D in Eq. 6 the generator reaches the second term, which is L_A once more
        weight = config.b + twice if adversarial else 0.0
        self._step_generator(generator_step, image, self._theta(image) if twice else theta, truth, weight)
        generator_schedule.step()

    def _theta(self, image: Tensor) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):  # eight bits of mantissa are too few for θ
            theta: Tensor = self.network(image)
            return theta

    def _step_generator(self, optimiser: Any, image: Tensor, theta: Tensor, truth: Tensor, weight: float) -> None:
        """Eq. 5, the adversarial loss times ``weight``."""
        self.toggle_optimizer(optimiser)  # no gradients for the discriminator
        loss = self.config.a * theta_loss(theta, truth)
        if weight:
            fake_logit = self.discriminator(_warped(image, theta)).float()
            loss = loss + weight * adversarial_loss(fake_logit, saturating=self.config.saturating)
        optimiser.zero_grad()
        self.manual_backward(loss)
        optimiser.step()
        self.untoggle_optimizer(optimiser)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Corner error in crop pixels (deciding) and the norm of Eq. 5, on crops jittered the same way every time."""
        with torch.autocast(self.device.type, enabled=False):
            theta: Tensor = self.network(images_to_tensor(batch["image"]))
        norm = (theta - batch["theta"]).flatten(1).norm(dim=1)
        self.collect({"corners": corner_error(theta, batch["theta"], CROP_SIZE), "theta": norm})
        return theta

    def picture(self, batch: dict[str, Any], predicted: Tensor) -> Image:
        """Crops, and below each what θ̂ makes of it."""
        crops = images_to_tensor(batch["image"][:PICTURED])
        rows = torch.stack((crops, warp_by_theta(crops, predicted[:PICTURED].float())))  # (2, N, 3, S, S)
        pixels = rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
        picture: Image = (255 * pixels).round().byte().cpu().numpy()
        return picture


def _warped(image: Tensor, theta: Tensor) -> Tensor:
    with torch.autocast(image.device.type, enabled=False):
        return warp_by_theta(image, theta)
