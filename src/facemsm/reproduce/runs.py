"""The networks of the ablation: how each is trained, all with one budget, and how the trained ones are run.

``stgan``, ``hourglass`` and ``resnet50`` are the stages as ``facemsm train`` trains them: the latter two on canonical
faces. ``hourglass-box`` and ``resnet50-box`` never meet stage 1: they see crops by boxes, in the tests by the provided
ones. All but ``stgan`` are trained in arms, without and with painted occluders, which differ in nothing else; names of
runs have the arm's before them, see :func:`facemsm.reproduce.ablation.in_arm`. Needs the extra ``train``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from facemsm.data.augment import Augmentation
from facemsm.data.occluders import OCCLUDERS
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.data.sources import Source
from facemsm.errors import FacemsmError
from facemsm.files import atomic_write
from facemsm.geometry import CANONICAL_MARGIN, Matrix, box_to_crop
from facemsm.heatmaps import HeatmapCodec
from facemsm.hourglass.network import HourglassConfig, StackedHourglass
from facemsm.hourglass.training import HourglassModule, HourglassTraining
from facemsm.reproduce.ablation import RUN_KINDS, in_arm, run_kind
from facemsm.reproduce.outputs import SIZE
from facemsm.reproduce.paper import paper
from facemsm.resnet50.network import ResNet50, ResNet50Config
from facemsm.resnet50.training import ResNet50Module, ResNet50Training
from facemsm.schemes import LandmarkScheme
from facemsm.stages import Located, StageOutputs, run_stages
from facemsm.stgan.networks import Discriminator, Generator
from facemsm.stgan.training import STGANModule, STGANTraining
from facemsm.training.config import from_mapping, override
from facemsm.training.faces import Faces, load_faces
from facemsm.training.landmarks import CanonicalExamples, images_to_tensor
from facemsm.training.run import StageModule, fit, read_history
from facemsm.training.transfer import start_from
from facemsm.training.weights import load_weights
from facemsm.typing import FloatArray, Image

BEGUN, DONE = "begun.json", "done.json"
"""What a run is and was made from: as it begins, and with its end."""

PAPER_FACES = 3148
"""300-W's training faces (Section IV-A)."""


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
        init: ``KIND=RUN``, the run's folder or a file of weights that all runs of this kind start from.

    Raises:
        FacemsmError: there are no such weights to start from.
    """

    scheme: LandmarkScheme
    preset: str
    sources: tuple[Source, ...]
    budget: int = 0
    settings: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    init: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text in self.init:
            kind, _, place = text.partition("=")
            if kind not in RUN_KINDS or not place:
                raise FacemsmError(f"--init {text}: expected KIND=RUN with a KIND of {', '.join(RUN_KINDS)}")
            if not _weights(place).is_file():
                raise FacemsmError(f"--init {text}: no file {_weights(place)}")
        kinds = [text.partition("=")[0] for text in self.init]
        if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
            raise FacemsmError(
                f"--init {twice}=...: given more than once; all runs of a kind start from the same weights"
            )

    def start(self, name: str) -> Path | None:
        """File of the weights that a run starts from, None for random ones."""
        places = dict(text.split("=", 1) for text in self.init)
        return _weights(places[run_kind(name)]) if run_kind(name) in places else None

    def check_starts(self) -> None:
        """Start a network of each kind.

        Raises:
            FacemsmError: the weights are another network's; earlier than when the runs before have been trained.
        """
        for kind in RUN_KINDS:
            if start := self.start(kind):
                start_from(_network(kind, asdict(self.config(kind))), start, self.scheme)

    def config(self, name: str) -> Any:
        """All settings of one run."""
        count = self.scheme.count
        config: Any
        if name == "stgan":
            config = STGANTraining.preset(self.preset)
        elif run_kind(name) == "hourglass":
            config = HourglassTraining.preset(self.preset, count)
        else:
            config = ResNet50Training.preset(self.preset, count)
        config = _in_arm(config, name)
        if self.budget:
            schedule = config.schedule
            warmup = min(schedule.warmup, self.budget // 10)
            config = replace(config, schedule=replace(schedule, steps=self.budget, warmup=warmup))
        return override(config, self._settings(run_kind(name)))

    def _settings(self, kind: str) -> list[str]:
        """Those of all runs and those of this kind of run."""
        own = []
        for setting in self.settings:
            field, equals, value = setting.partition("=")
            only, _, field = field.rpartition(":")
            if only not in ("", *RUN_KINDS):
                raise FacemsmError(f"--set {setting}: no run is called {only!r}: use {', '.join(RUN_KINDS)}")
            own += [f"{field}{equals}{value}"] if only in ("", kind) else []
        return own

    def boxes(self, name: str) -> BoxSource:
        """Those that a run crops by.

        The paper crops stage 2's training faces by ground-truth boxes (Section IV-C), also where it is tested without
        stage 1. With preset ``lite`` such a run learns from the provided boxes that it is tested with; to cope with
        boxes of another kind would otherwise be what stage 1 is credited with.
        """
        return "provided" if name == "stgan" or (name.endswith("-box") and self.preset == "lite") else "gt"

    def faces(self, name: str) -> Faces:
        """Training and validation faces, with the boxes that the run crops by."""
        return load_faces(
            self.sources,
            box_source=self.boxes(name),
            scheme=self.scheme,
            exclude=self.exclude,
        )

    def module(self, name: str) -> tuple[StageModule, Any]:
        """One run's module and its settings."""
        config, faces = self.config(name), self.faces(name)
        if name == "stgan":
            return STGANModule(config, self.scheme, faces), config
        kind = HourglassModule if run_kind(name) == "hourglass" else ResNet50Module
        module: StageModule = kind(config, self.scheme, faces)
        if name.endswith("-box"):
            module._training, module._validation = _by_box(module._training), _by_box(module._validation)
        return module, config


def _weights(place: str) -> Path:
    """Those of a run's folder, or the file itself."""
    path = Path(place)
    return path / "best.safetensors" if path.is_dir() else path


def _in_arm(config: Any, run: str) -> Any:
    """Settings as the arm that a run is of, if it is of one, has them.

    Both arms learn from the labels as they are (``adapt`` 0), by which they are tested: painted occluders are all that
    they differ in. The one that has them is told of them, as in preset ``lite``, by the heights of its target peaks.
    """
    if "/" not in run:
        return config
    painted = run.startswith(in_arm("", "painted"))
    full = Augmentation.full()
    odds = {name: getattr(full, name) if painted else 0.0 for name in (*OCCLUDERS, "cut")}
    config = replace(config, augmentation=replace(config.augmentation, **odds))
    if isinstance(config, HourglassTraining):
        lite = HourglassTraining.preset("lite", config.network.landmarks)
        config = replace(config, occluded_peak=lite.occluded_peak if painted else 1.0, adapt=0.0)
    return config


def _network(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """The network of a run whose ``config.json`` holds these settings."""
    if name == "stgan":
        return Generator()
    if run_kind(name) == "hourglass":
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
    before, file, start = state(folder), plan.start(name), None
    if file:
        start = about_weights(file)
    wanted = json.loads(json.dumps({**wanted, "init": start["weights"] if start else ""}))
    if before != "none":
        try:
            old = {"config": json.loads((folder / "config.json").read_text(encoding="utf-8"))}
            record = folder / (DONE if before == "done" else BEGUN)
            if before == "done" or record.is_file():  # earlier versions had none of half-finished runs
                old = json.loads(record.read_text(encoding="utf-8"))
            old = {"init": "", **old}
        except (OSError, TypeError, ValueError) as error:
            raise FacemsmError(f"{folder}: damaged; remove it and train again") from error
        if differences := _differences(old, {key: wanted[key] for key in old if key in wanted}):
            how = "trained" if before == "done" else "half-finished"
            raise FacemsmError(f"{folder}: {how} with other settings ({differences[0]}); give those or another -o")
    if before == "done":
        return
    resume = before == "half"
    if resume:
        start = old.get("start")
    elif file:
        print(start_from(module.network, file, plan.scheme), flush=True)
    begun = {**wanted, "start": start}
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / BEGUN, begun)
    begin = time.monotonic()
    try:
        best = fit(module, config, folder, resume=resume, progress=progress)
    except FacemsmError as error:
        raise FacemsmError(str(error).replace(" with --resume", "")) from error  # here the same command goes on
    done = {
        **begun,
        "steps": module.batches_done or module.total_steps,  # it may have stopped early
        "seconds of the last part": round(time.monotonic() - begin),
        "weights": hashlib.sha256(best.read_bytes()).hexdigest(),
    }
    _write(folder / DONE, done)


def _write(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def about_weights(file: Path) -> dict[str, Any]:
    """What a report says of weights that runs start from.

    Returns:
        ``name``, ``weights`` (their checksum) and, if the history of their run lies beside them, ``steps`` and
        ``errors`` (as the history has them: stage 2's in per cent) of the validation that they were the best in.

    Raises:
        FacemsmError: the history is damaged.
    """
    best_of_run = file.name == "best.safetensors"
    about: dict[str, Any] = {
        "name": file.resolve().parent.name if best_of_run else file.stem,
        "weights": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    history = file.with_name("history.csv")
    rows = read_history(history) if best_of_run else []
    kinds = [kind for kind in (rows[0] if rows else ()) if kind not in ("step", "seconds")]
    if kinds:
        try:
            best = min(rows, key=lambda row: float(row[kinds[0]]))
            errors = {kind: round(float(best[kind]), 3) for kind in kinds if best[kind]}
        except ValueError as error:
            raise FacemsmError(f"{history}: damaged ({error}); mend it or move it away") from error
        about |= {"steps": int(best["step"]), "errors": errors}
    return about


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], within: str = "") -> list[str]:
    """Relevant differences, as ``schedule.steps was 600, is 700``; threads, workers, an open precision and settings
    that the version before did not have are none."""
    found = []
    for key, value in new.items():
        if key not in old:
            continue
        before = old[key]
        if isinstance(value, dict) and isinstance(before, dict):
            found += _differences(before, value, "" if key == "config" else f"{within}{key}.")
        elif before != value and key not in ("threads", "workers") and "auto" not in (before, value):
            other = {"listing": "other training faces", "init": "other weights to start from"}
            found.append(other.get(key, f"{within}{key} was {before}, is {value}"))
    return found


@dataclass(frozen=True)
class Cost:
    """What training a network takes.

    Attributes:
        operations: floating point operations of an optimiser step.
        memory: bytes for weights, their gradients, Adam's state and what the backward pass needs.
    """

    operations: float
    memory: float


def cost(name: str, config: Any) -> Cost:
    """Of a run, counted on one face.

    A backward pass counts as two forward ones. Of stage 1 the mean over the run: the discriminator joins late.
    """
    batch, passes = config.schedule.batch_size, [3.0]
    counted = [_count(name, _shape(config))]
    if name == "stgan":
        steps, joined = config.generator_steps, 1 - config.alone if config.b else 0.0
        # the discriminator sees true faces and the generator's; for the generator's loss its weights get no gradient
        passes = [3.0 * (1 + (steps - 1) * joined), joined * (2 * 3 + 2 * steps)]
        counted.append(_count("discriminator", None))
    operations = batch * sum(n * one.operations for n, one in zip(passes, counted, strict=True))
    return Cost(operations, sum(4 * (4 * one.weights + batch * one.activations) for one in counted))


def seconds_per_face(name: str, config: Any) -> float:
    """Of a network on this machine, counted as :func:`cost` is."""
    return _count(name, _shape(config)).operations / operations_per_second()


def _shape(config: Any) -> Any:
    """What a network depends on of the settings of its run; nothing in stage 1."""
    return getattr(config, "network", None)


class _Counts(NamedTuple):
    operations: int
    weights: int
    activations: int


@cache
def _count(name: str, shape: Any) -> _Counts:
    """Of a forward pass of one face, with fake tensors: these have shapes but no values, so nothing is computed."""
    settings = {"network": asdict(shape)} if shape else {}
    network = (Discriminator() if name == "discriminator" else _network(name, settings)).eval()
    activations = []
    for module in network.modules():
        if not any(module.children()):
            module.register_forward_hook(lambda _, __, output: activations.append(output.numel()))
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, SIZE, SIZE))
    weights = sum(tensor.numel() for tensor in network.parameters())
    return _Counts(int(counter.get_total_flops()), weights, sum(activations))


@cache
def operations_per_second_on_gpu(kind: str) -> float:
    """How fast the paper's GTX 1080 trained: all operations of its 1000 epochs of stage 1 in 8 hours, for ``stgan``, or
    of its 300 epochs of stage 2 in 6 (Section IV-C)."""
    config: Any = STGANTraining.preset("paper")
    if kind != "stgan":
        kind, config = "hourglass", HourglassTraining.preset("paper", 68)
    operations: float = cost(kind, config).operations * config.schedule.total_steps(PAPER_FACES)
    return operations / (3600 * float(paper().text[f"hours of training stage {1 if kind == 'stgan' else 2}"]))


@cache
def operations_per_second() -> float:
    """How fast this machine's processor trains, by a convolution as wide as the networks'; a fifth of a second."""
    layer = nn.Conv2d(64, 64, 3, padding=1)
    images = torch.rand(4, 64, 64, 64)
    operations = 3 * 2 * images.numel() * 64 * 9
    best, end = float("inf"), time.monotonic() + 0.2
    while time.monotonic() < end or best == float("inf"):
        start = time.perf_counter()
        layer(images).square().mean().backward()
        best = min(best, time.perf_counter() - start)
    return operations / best


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
        if run_kind(name) == "hourglass":
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
