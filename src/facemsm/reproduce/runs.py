"""The networks of the ablation: how each is trained, all with one budget, and how the trained ones are run.

``stgan``, ``hourglass`` and ``resnet50`` are the stages as ``facemsm train`` trains them: the latter two on canonical
faces. ``hourglass-box`` and ``resnet50-box`` never meet stage 1: they see crops by the provided boxes, in training and
after it. Needs the extra ``train``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facemsm.data.sample import FaceSample
from facemsm.data.sources import Source
from facemsm.errors import FacemsmError
from facemsm.files import atomic_write
from facemsm.geometry import CANONICAL_MARGIN, Matrix, box_to_crop
from facemsm.heatmaps import HeatmapCodec
from facemsm.hourglass.network import HourglassConfig, StackedHourglass
from facemsm.hourglass.training import HourglassModule, HourglassTraining
from facemsm.reproduce.outputs import SIZE
from facemsm.resnet50.network import ResNet50, ResNet50Config
from facemsm.resnet50.training import ResNet50Module, ResNet50Training
from facemsm.schemes import LandmarkScheme
from facemsm.stages import Located, StageOutputs, run_stages
from facemsm.stgan.networks import Discriminator, Generator
from facemsm.stgan.training import STGANModule, STGANTraining
from facemsm.training.config import from_mapping, override
from facemsm.training.faces import Faces, load_faces
from facemsm.training.landmarks import CanonicalExamples, images_to_tensor
from facemsm.training.run import StageModule, fit, load_weights
from facemsm.training.trial import choose
from facemsm.typing import FloatArray, Image

RUNS = ("stgan", "hourglass", "hourglass-box", "resnet50", "resnet50-box")
DONE = "done.json"


@dataclass(frozen=True)
class Plan:
    """What all runs of a scheme have in common.

    Attributes:
        scheme: of the landmarks.
        preset: ``paper`` or ``lite``.
        sources: the training faces.
        budget: optimiser steps of every network; the preset's own length if 0.
        settings: ``FIELD=VALUE`` for all of them, ``KIND:FIELD=VALUE`` for stgan, hourglass or resnet50 alone.
        exclude: names of faces to leave out.
    """

    scheme: LandmarkScheme
    preset: str
    sources: tuple[Source, ...]
    budget: int = 0
    settings: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def config(self, name: str) -> Any:
        """All settings of one run."""
        count = self.scheme.count
        config: Any
        if name == "stgan":
            config = STGANTraining.preset(self.preset)
        elif name.startswith("hourglass"):
            config = HourglassTraining.preset(self.preset, count)
        else:
            config = ResNet50Training.preset(self.preset, count)
        if self.budget:
            schedule = config.schedule
            warmup = min(schedule.warmup, self.budget // 10)
            config = replace(config, schedule=replace(schedule, steps=self.budget, warmup=warmup))
        return override(config, self._settings(name.removesuffix("-box")))

    def _settings(self, kind: str) -> list[str]:
        """Those of all runs and those of this kind of run."""
        own = []
        for setting in self.settings:
            field, equals, value = setting.partition("=")
            only, _, field = field.rpartition(":")
            if only not in ("", "stgan", "hourglass", "resnet50"):
                raise FacemsmError(f"--set {setting}: no run is called {only!r}: use stgan, hourglass or resnet50")
            own += [f"{field}{equals}{value}"] if only in ("", kind) else []
        return own

    def faces(self, name: str) -> Faces:
        """Training and validation faces, with the boxes that the run crops by."""
        provided = name == "stgan" or name.endswith("-box")
        return load_faces(
            self.sources,
            box_source="provided" if provided else "gt",
            scheme=self.scheme.name,
            exclude=self.exclude,
        )

    def module(self, name: str) -> tuple[StageModule, Any]:
        """One run's module and its settings."""
        config, faces = self.config(name), self.faces(name)
        if name == "stgan":
            return STGANModule(config, self.scheme, faces), config
        kind = HourglassModule if name.startswith("hourglass") else ResNet50Module
        module: StageModule = kind(config, self.scheme, faces)
        if name.endswith("-box"):
            module._training, module._validation = _by_box(module._training), _by_box(module._validation)
        return module, config


def _network(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """The network of a run whose ``config.json`` holds these settings."""
    if name == "stgan":
        return Generator()
    if name.startswith("hourglass"):
        return StackedHourglass(from_mapping(HourglassConfig, settings["network"]))
    return ResNet50(from_mapping(ResNet50Config, settings["network"]))


class BoxExamples(CanonicalExamples):
    """Examples without stage 1: the crop is the box, put where the canonical face would be."""

    def frame(self, face: FaceSample) -> Matrix:
        """Photo pixels to those of the crop before it is jittered."""
        return box_to_crop(face.box, SIZE, CANONICAL_MARGIN)


def _by_box(examples: Any) -> BoxExamples:
    return BoxExamples(**{field.name: getattr(examples, field.name) for field in fields(examples)})


# --- Training --------------------------------------------------------------------------------------------------------


def state(folder: Path) -> str:
    """``done``, ``half`` or ``none``: how far the run in a folder is."""
    if (folder / DONE).is_file():
        return "done"
    return "half" if (folder / "last.ckpt").is_file() else "none"


def train(plan: Plan, name: str, folder: Path, *, progress: bool = True) -> None:
    """Train one network, or go on with it; a finished one is left as it is.

    Raises:
        FacemsmError: the folder holds a run of other settings, or as :func:`facemsm.training.run.fit`.
    """
    module, config = plan.module(name)
    listing = hashlib.sha256("\n".join(face.name for face in module.faces.training).encode()).hexdigest()
    wanted = {"config": asdict(config), "faces": len(module.faces.training), "listing": listing}
    wanted = json.loads(json.dumps(wanted))
    before = state(folder)
    if before != "none":
        try:
            old = {"config": json.loads((folder / "config.json").read_text(encoding="utf-8"))}
            if before == "done":
                old = json.loads((folder / DONE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FacemsmError(f"{folder}: damaged; remove it and train again") from error
        if differences := _differences(old, {key: wanted[key] for key in old if key in wanted}):
            how = "trained" if before == "done" else "half-finished"
            raise FacemsmError(f"{folder}: {how} with other settings ({differences[0]}); give those or another -o")
    if before == "done":
        return
    resume = before == "half"
    start = time.monotonic()
    try:
        best = fit(module, config, folder, resume=resume, progress=progress)
    except FacemsmError as error:
        raise FacemsmError(str(error).replace(" with --resume", "")) from error  # here the same command goes on
    done = {
        **wanted,
        "steps": module.total_steps,
        "seconds of the last part": round(time.monotonic() - start),
        "weights": hashlib.sha256(best.read_bytes()).hexdigest(),
    }
    with atomic_write(folder / DONE) as temporary:
        temporary.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], within: str = "") -> list[str]:
    """Relevant differences, as ``schedule.steps was 600, is 700``; threads, workers and an open precision are none."""
    found = []
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            found += _differences(before, value, "" if key == "config" else f"{within}{key}.")
        elif before != value and key not in ("threads", "workers") and "auto" not in (before, value):
            is_now = "other training faces" if key == "listing" else f"{within}{key} was {before}, is {value}"
            found.append(is_now)
    return found


def seconds_per_step(name: str, config: Any) -> float:
    """Time of an optimiser step on this machine: the networks forwards and backwards on a batch, the better of two.

    Of stage 1 the mean over the run: the discriminator joins late.
    """
    schedule = config.schedule
    precision, _ = choose(schedule)
    networks: list[tuple[nn.Module, float]] = [(_network(name, asdict(config)), 1.0)]
    if name == "stgan":
        networks.append((Discriminator(), 3 * (1 - config.alone)))  # true faces, the generator's, and for its loss
    images = torch.rand(schedule.batch_size, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    total = 0.0
    for network, share in networks:
        seconds = float("inf")
        for _ in range(2):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                output = network(images)
                outputs = output if isinstance(output, list) else [output]
                loss = torch.stack([one.float().square().mean() for one in outputs]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            seconds = min(seconds, time.perf_counter() - start)
        total += share * seconds
    return total


# --- Running ---------------------------------------------------------------------------------------------------------


class TrainedStages:
    """Stages 1 and 2 in PyTorch; see :class:`facemsm.reproduce.outputs.StageRunner`.

    Args:
        scheme: of the landmarks.
        settings: run -> its settings, as in ``config.json``: the run that finds the points and, if the faces are to go
            through stage 1, ``stgan``.
        folder: of the runs; None leaves the networks untrained, to see how long a face takes.
        keep: keep heatmaps.

    Raises:
        FacemsmError: weights cannot be read.
    """

    def __init__(
        self,
        scheme: LandmarkScheme,
        settings: Mapping[str, Mapping[str, Any]],
        folder: Path | None,
        *,
        keep: bool = False,
    ) -> None:
        self.scheme, self.keep = scheme, keep
        networks = {name: _network(name, own) for name, own in settings.items()}
        for name, network in networks.items():
            if folder:
                load_weights(network, folder / name / "best.safetensors")
            network.eval()
        self._generator = networks.pop("stgan", None)
        ((name, self._network),) = networks.items()
        self._codec: HeatmapCodec | None = None
        if name.startswith("hourglass"):
            self._codec = HeatmapCodec(sigma=settings[name]["sigma"], refinement=settings[name]["refinement"])

    def run_stages(self, photos: Sequence[Image], boxes: FloatArray) -> StageOutputs:
        """As :meth:`facemsm.Aligner.run_stages`."""
        return run_stages(
            photos, box_to_crop(boxes, SIZE), self._rectify if self._generator else None, self._locate, SIZE
        )

    def _rectify(self, crops: Image) -> FloatArray:
        assert self._generator is not None
        return np.asarray(self._run(self._generator, crops))

    def _locate(self, canonical: Image) -> Located:
        output = np.asarray(self._run(self._network, canonical))
        if self._codec is None:  # coordinates, without a score
            return Located(output, np.ones(output.shape[:2], np.float32))
        points, intensity, spread = self._codec.decode(output)
        scores = np.clip(intensity / self._codec.ideal_score, 0, 1)
        return Located(points, scores, spread, output if self.keep else None)

    def _run(self, network: nn.Module, images: Image) -> Tensor:
        with torch.inference_mode():
            output = network(images_to_tensor(torch.from_numpy(images)))
        last: Tensor = output[-1] if isinstance(output, list) else output
        return last.float()
