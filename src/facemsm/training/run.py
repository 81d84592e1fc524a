"""One training run: Lightning does the work, this says what is kept and where.

A run lives in one folder: ``config.json``, ``best.safetensors`` (the weights that validated best), ``last.ckpt``
(everything needed to go on), ``history.csv`` (one line per validation) and the loggers' files. A run that was
stopped anywhere and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import re
import signal
import threading
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NoReturn

import lightning
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from facemsm.data.sample import BoxSource
from facemsm.data.sources import Source
from facemsm.errors import FacemsmError, short
from facemsm.files import atomic_write
from facemsm.schemes import LandmarkScheme, get_scheme, scheme_to_dict
from facemsm.training.config import Schedule, as_json
from facemsm.training.faces import Faces, load_faces
from facemsm.training.muon import Muon
from facemsm.training.stream import ExampleStream, FixedExamples, MakeExample, ResumableSampler, loader, stop_workers
from facemsm.training.transfer import start_from
from facemsm.training.trial import choose
from facemsm.training.weights import save_weights
from facemsm.typing import Image, PathLike

LoggerName = Literal["tensorboard", "csv", "wandb"]
"""Lightning's loggers that a run may have."""

_ERROR = "error"
"""What Lightning's callbacks know the deciding error by."""

PICTURED = 8
"""Validation faces that TensorBoard shows after each validation."""


class StageModule(lightning.LightningModule):
    """What all stages' modules share: examples by step, learning rate by step, errors of a validation pass."""

    network: nn.Module
    """What is saved as the stage's weights."""

    def __init__(self, schedule: Schedule, faces: Faces, training: MakeExample, validation: MakeExample) -> None:
        super().__init__()
        torch.manual_seed(schedule.seed)  # the stage makes its networks next
        self.schedule, self.faces = schedule, faces
        self._training, self._validation = training, validation
        self.total_steps = schedule.total_steps(faces.epoch_size)
        self.batches_done = 0
        self.chosen: dict[str, Any] = {}
        self._errors: dict[str, list[Tensor]] = {}
        self._names: list[str] = []

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must have in common with a run that resumes it."""
        network, scheme = getattr(getattr(self, "config", None), "network", None), getattr(self, "scheme", None)
        sources = [f"{s.name}:{s.split}@{s.share:g}@{s.until:g}" for s in self.faces.sources]
        return {
            "stage": type(self).__name__,
            **({f"network.{name}": value for name, value in asdict(network).items()} if network else {}),
            "scheme": scheme_to_dict(replace(scheme, from_68=())) if scheme else None,
            "data": sources,
            "schedule.batch_size": self.schedule.batch_size,
            "schedule.seed": self.schedule.seed,
            "schedule.ema above 0": self.schedule.ema > 0,
            "schedule.optimiser": self.schedule.optimiser,
        }

    def hidden(self) -> list[Tensor]:
        """Weights that Muon takes; none where it is not for the stage."""
        return []

    def train_dataloader(self) -> Any:
        """Examples from the next step on, so that a resumed run sees what it would have seen."""
        schedule, world = self.schedule, self.trainer.world_size
        total = self.total_steps * schedule.batch_size
        stream = ExampleStream(self.faces, self._training, total=total, seed=schedule.seed)
        share = schedule.batch_size // world
        start = self.batches_done * schedule.batch_size
        sampler = ResumableSampler(start, total, batch=share, rank=self.trainer.global_rank, world=world)
        return loader(stream, batch=share, workers=schedule.workers, sampler=sampler)

    def val_dataloader(self) -> Any:
        """Every validation face once, in order."""
        dataset = FixedExamples(list(self.faces.validation), self._validation)
        return loader(dataset, batch=32, workers=min(1, self.schedule.workers))

    def rate(self, step: int) -> float:
        """Factor of the learning rate at a step."""
        schedule = self.schedule
        if schedule.decay == "halve":
            return float(0.5 ** (step // max(1, schedule.halve_every * (self.faces.epoch_size // schedule.batch_size))))
        if step < schedule.warmup:
            return (step + 1) / schedule.warmup
        progress = (step - schedule.warmup) / max(1, self.total_steps - schedule.warmup)
        return float(0.01 + 0.99 * 0.5 * (1 + torch.cos(torch.tensor(min(1.0, progress) * torch.pi))))

    def configure_optimizers(self) -> Any:
        """The schedule's optimiser for the network, its rate set step by step."""
        optimiser = self.optimiser(self.network)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self.rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimiser(self, network: nn.Module, factor: float = 1.0) -> torch.optim.Optimizer:
        """Of the schedule; ``factor`` multiplies the rate."""
        rate, decay = self.schedule.learning_rate * factor, self.schedule.weight_decay
        if self.schedule.optimiser == "muon":
            return Muon(network.parameters(), self.hidden(), rate, decay)
        return torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Keep the names of the faces, for errors."""
        self._names = batch["name"]

    def on_before_backward(self, loss: Tensor) -> None:
        """Stop before a loss that is not finite reaches the weights.

        Raises:
            FacemsmError: the loss is NaN or infinite; names the step and the faces.
        """
        finite = bool(loss.isfinite())
        if not self.trainer.strategy.reduce_boolean_decision(finite, all=True):
            if finite:
                raise SystemExit  # the failing rank reports the error
            raise FacemsmError(
                f"step {self.batches_done + 1}: the loss is {loss.item()} on the faces {', '.join(self._names)}; "
                "nothing of it was saved. Look at these faces, lower schedule.learning_rate or set schedule.clip"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the run's identity, how far the stream of examples has been read, and what was chosen for the machine.

        Raises:
            FacemsmError: weights are no longer finite; the checkpoint before stays the last.
        """
        for name, tensor in self.state_dict().items():
            if not tensor.isfinite().all():
                raise FacemsmError(
                    f"step {self.batches_done}: {name} is no longer finite and was not saved; "
                    "lower schedule.learning_rate or set schedule.clip"
                )
        checkpoint |= {"batches_done": self.batches_done, "identity": self.identity, "chosen": self.chosen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on where the stream was left."""
        self.batches_done = checkpoint["batches_done"]

    def collect(self, errors: Mapping[str, Tensor]) -> None:
        """Add a validation batch's per-face errors, the first of them being the one that decides."""
        for name, values in errors.items():
            self._errors.setdefault(name, []).append(values.detach().float().cpu())

    def take_errors(self) -> dict[str, float]:
        """Mean errors of the validation pass that has just ended; NaN values are left out."""
        means = {name: float(torch.cat(values).nanmean()) for name, values in self._errors.items()}
        self._errors = {}
        return means

    @abstractmethod
    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Call :meth:`collect` with the batch's errors and return what was predicted, a row for each face."""

    @abstractmethod
    def picture(self, batch: Any, predicted: Tensor) -> Image:
        """Predictions as a picture, for TensorBoard.

        Args:
            batch: the first validation batch.
            predicted: what :meth:`validation_step` returned for it.

        Returns:
            (height, width, 3) uint8 RGB, the first ``PICTURED`` faces side by side.
        """


class ValidationLog(Callback):
    """Counts batches, logs each validation and saves the best weights.

    Comes first: weight averaging, which follows it, puts the weights that were validated away again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best = float("inf")
        self._start = time.monotonic()

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        """Count the batch, and have the end of the run validated wherever it falls."""
        assert isinstance(pl_module, StageModule)
        pl_module.batches_done += 1
        if pl_module.batches_done == pl_module.total_steps:
            trainer.val_check_batch = pl_module.total_steps

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        *_: Any,
    ) -> None:
        """Show the first faces."""
        assert isinstance(pl_module, StageModule)
        if batch_idx or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                picture = pl_module.picture(batch, outputs)
                logger.experiment.add_image("val/faces", picture, pl_module.batches_done, dataformats="HWC")
            elif isinstance(logger, WandbLogger):
                logger.log_image("val/faces", [pl_module.picture(batch, outputs)])

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compare with the best so far."""
        assert isinstance(pl_module, StageModule)
        errors = pl_module.take_errors()
        if trainer.sanity_checking or not errors:
            return
        decisive = next(iter(errors.values()))
        pl_module.log_dict({_ERROR: decisive, "steps": float(pl_module.batches_done)}, logger=False)
        if not trainer.is_global_zero:
            return
        if decisive < self.best:
            self.best = decisive
            scheme = getattr(pl_module, "scheme", None)  # stage 1 finds no landmarks
            conventions = getattr(pl_module, "conventions", None)
            save_weights(pl_module.network, self.folder / "best.safetensors", scheme, conventions)
        row = {"step": pl_module.batches_done, "seconds": round(time.monotonic() - self._start), **errors}
        _append_row(self.folder / "history.csv", row)
        line = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
        if trainer.progress_bar_callback:
            trainer.progress_bar_callback.print(line)
        else:
            print(line, flush=True)
        for logger in trainer.loggers:
            logger.log_metrics({f"val/{k}": v for k, v in errors.items()}, pl_module.batches_done)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The best error so far."""
        self.best = state_dict["best"]


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar with the losses of the last step, and without what means nothing here."""

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:  # noqa: ARG002
        """What stands behind the bar."""
        logged = trainer.callback_metrics.items()
        return {name.removeprefix("train/"): float(v) for name, v in logged if name.startswith("train/")}

    def on_train_epoch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """A run is one epoch to Lightning, whatever its schedule calls one."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description("training")


class EarlyStopping(lightning_callbacks.EarlyStopping):  # of its name, by which checkpoints know its state
    """Lightning's, with the patience of the settings where a run is resumed: a checkpoint's would replace it."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """How long there was no lower error."""
        super().load_state_dict({**state_dict, "patience": self.patience})


class CheckpointCallback(Callback):
    """Saves ``last.ckpt`` after each validation, and when Ctrl-C or SIGTERM requests a stop.

    Comes last: what it saves includes what the other callbacks did after the batch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begun = False
        self._stop_requested = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Handle both signals; Lightning restores their handlers at the end."""
        self.begun = True
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._request_stop)

    def _request_stop(self, number: int, _: Any) -> None:
        self._stop_requested = True
        # A second Ctrl-C stops at once; a second SIGTERM may be torchrun's, which passes on what it was sent.
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_IGN)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        """Save and stop if requested, unless a validation comes first."""
        assert isinstance(pl_module, StageModule)
        if pl_module.batches_done % (trainer.val_check_batch or 1) and self._must_stop(trainer):
            trainer.save_checkpoint(self.path)
            self._stop(trainer, pl_module)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save, and stop if requested."""
        assert isinstance(pl_module, StageModule)
        trainer.save_checkpoint(self.path)
        if pl_module.batches_done < pl_module.total_steps and self._must_stop(trainer):
            self._stop(trainer, pl_module)

    def _must_stop(self, trainer: lightning.Trainer) -> bool:
        return bool(trainer.strategy.reduce_boolean_decision(self._stop_requested, all=False))  # on any rank

    def _stop(self, trainer: lightning.Trainer, module: StageModule) -> NoReturn:
        if not trainer.is_global_zero:
            raise SystemExit  # rank 0 reports
        done = f"stopped and saved after step {module.batches_done} of {module.total_steps}"
        raise FacemsmError(f"{self.path.parent}: {done}; the same command with --resume goes on")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all: an interrupted writer or a full disk leaves the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        """Write beside, then rename.

        Raises:
            FacemsmError: the file cannot be written.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with atomic_write(Path(path)) as partial:
            partial.write_bytes(content.getbuffer())

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read tensors and plain values, never code.

        Raises:
            FacemsmError: the file is not a checkpoint.
        """
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise FacemsmError(f"{path}: not a checkpoint of facemsm ({type(error).__name__}); train anew") from error
        return content


def train(
    stage: Callable[[Any, LandmarkScheme, Faces], StageModule],
    config: Any,
    folder: Path,
    sources: Sequence[Source],
    *,
    scheme: PathLike = "68",
    boxes: BoxSource = "gt",
    holdout: float = 0.1,
    exclude: Sequence[str] = (),
    complete: Source | None = None,
    init: Path | None = None,
    resume: bool = False,
    devices: int = 1,
    loggers: Sequence[LoggerName] = ("tensorboard",),
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> Path:
    """Train a stage on faces of data sets, as ``facemsm train`` does.

    Args:
        stage: its module's class.
        config: its settings.
        folder: of the run.
        sources, boxes, holdout, exclude, complete: the faces, see :func:`facemsm.training.faces.load_faces`.
        scheme: landmark scheme.
        init: weights to start from, see :func:`facemsm.training.transfer.start_from`.
        resume, devices, loggers, progress: as for :func:`fit`.
        say: takes the lines that say what is done.

    Returns:
        The best weights' file.

    Raises:
        FacemsmError: the network is for another number of landmarks, or as those functions.
    """
    say = rank_zero_only(say)
    landmarks = get_scheme(scheme)
    emitted = getattr(getattr(config, "network", None), "landmarks", landmarks.count)
    if emitted != landmarks.count:
        raise FacemsmError(
            f"network.landmarks is {emitted}, scheme {landmarks.name} has {landmarks.count}: leave it out"
        )
    faces = load_faces(sources, box_source=boxes, scheme=landmarks, holdout=holdout, exclude=exclude, complete=complete)
    module = stage(config, landmarks, faces)
    if init and not resume:
        say(start_from(module.network, init, landmarks))
    say(f"{len(faces.training)} training faces, {len(faces.validation)} held out, {module.total_steps} steps")
    best = fit(module, config, folder, resume=resume, devices=devices, loggers=loggers, progress=progress)
    say(f"best weights: {best}")
    return best


def fit(
    module: StageModule,
    config: Any,
    folder: Path,
    *,
    resume: bool = False,
    devices: int = 1,
    loggers: Sequence[LoggerName] = ("tensorboard",),
    progress: bool = True,
) -> Path:
    """Train ``module`` to the end of its schedule, in one process or several: ``devices``, or those of ``torchrun``.

    However many processes share the work, a step sees the same faces.

    Args:
        module: the stage.
        config: saved as ``config.json``.
        folder: where the run lives; made if needed.
        resume: go on from ``last.ckpt`` in it.
        devices: GPUs, or without any processes on the CPU, that Lightning shares the work among.
        loggers: which of Lightning's loggers are written, into the folder; ``wandb`` also to its server, as that
            library is set up.
        progress: show Lightning's progress bar.

    Returns:
        The best weights' file.

    Raises:
        FacemsmError: the folder holds a run already and ``resume`` is False, there is nothing that ``module`` could
            resume, no face to validate on, the stage has no weights for Muon, processes cannot share a batch, there is
            no such logger, a photo cannot be read, the loss is not finite, something cannot be written, or Ctrl-C or
            SIGTERM stopped the run.
    """
    last, best = folder / "last.ckpt", folder / "best.safetensors"
    if resume and not last.is_file():
        raise FacemsmError(f"{folder}: no last.ckpt to resume from")
    if not resume and last.exists():
        raise FacemsmError(f"{folder}: holds a run already; resume it with --resume or name another folder")
    if not module.faces.validation:
        raise FacemsmError("no faces are held out to validate on, so no weights could be the best; raise --holdout")
    if module.schedule.optimiser == "muon" and not module.hidden():
        raise FacemsmError("schedule.optimiser is muon, which is for the hourglass; leave it at adam")
    done, chosen = _resumable(last, module) if resume else (0, {})
    if resume and done >= module.total_steps:
        rank_zero_only(print)(f"ended before: all {module.total_steps} steps are done", flush=True)
        return best
    rank_zero_only(_truncate_history)(folder / "history.csv", done)
    schedule = module.schedule
    distributed = _distributed_arguments(module, devices)
    check_loggers(loggers)
    precision, threads = choose(schedule, chosen, alone="strategy" not in distributed)
    module.chosen = {"precision": precision, "threads": threads}
    if (precision, threads) != (schedule.precision, schedule.threads):
        rank_zero_only(print)(f"on this machine: {precision}, {threads or torch.get_num_threads()} threads", flush=True)
    callbacks: list[Callback] = [ValidationLog(folder)]
    if schedule.ema:
        callbacks.append(WeightAveraging(avg_fn=running_mean(schedule.ema)))
    if progress:
        callbacks.append(ProgressBar())
    if schedule.patience:
        callbacks.append(EarlyStopping(_ERROR, patience=schedule.patience))
    callbacks.append(saver := CheckpointCallback(last))
    if schedule.keep:
        kept: dict[str, Any] = {"save_top_k": schedule.keep, "auto_insert_metric_name": False}
        name = "step-{steps:.0f}-error-{error:.3f}"
        callbacks.append(ModelCheckpoint(folder / "checkpoints", name, monitor=_ERROR, **kept))
    with _lightning_silenced(), _single_line_errors(folder), _denormals_flushed():
        folder.mkdir(parents=True, exist_ok=True)
        rank_zero_only(_remove_partial_files)(folder)
        rank_zero_only((folder / "config.json").write_text)(as_json(config), encoding="utf-8")
        trainer = lightning.Trainer(
            **distributed,
            max_steps=-1,
            max_epochs=1,
            val_check_interval=min(schedule.validate_every, module.total_steps),
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            enable_checkpointing=schedule.keep > 0,
            logger=[_LOGGERS[name](folder) for name in loggers],
            precision=precision,
            gradient_clip_val=schedule.clip if module.automatic_optimization and schedule.clip else None,
            enable_progress_bar=progress,
            enable_model_summary=False,
            use_distributed_sampler=False,
            log_every_n_steps=min(50, module.total_steps),
        )
        try:
            trainer.fit(module, ckpt_path=last if resume else None)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            if not resume or saver.begun or isinstance(error, FacemsmError):
                raise
            raise FacemsmError(f"{last}: this run cannot go on from it ({type(error).__name__}); train anew") from error
        except SystemExit as error:
            if not isinstance(error.__context__, KeyboardInterrupt) or not trainer.is_global_zero:
                raise
            way = "the same command with --resume goes on from the last validation" if last.exists() else "train anew"
            raise FacemsmError(f"{folder}: stopped at once, after step {module.batches_done}; {way}") from error
        finally:
            for data in (trainer.train_dataloader, trainer.val_dataloaders):
                stop_workers(data)
    rank_zero_only(print)(_end(module), flush=True)
    return best


def _end(module: StageModule) -> str:
    """Why training has ended."""
    done, total, patience = module.batches_done, module.total_steps, module.schedule.patience
    if done == total:
        return f"ended: all {total} steps are done"
    early = f"ended early, after step {done} of {total}"
    if not math.isfinite(module.trainer.callback_metrics[_ERROR]):
        return f"{early}: the validation's error is no number; lower schedule.learning_rate or set schedule.clip"
    way = f"--resume --set schedule.patience={2 * patience} goes on"
    return f"{early}: no lower error in {patience} validations (schedule.patience); {way}"


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers that there are not.

    Raises:
        FacemsmError: an unknown name, or a library is missing.
    """
    for name in names:
        if name not in _LOGGERS:
            raise FacemsmError(f"no logger {name!r}: use {', '.join(_LOGGERS)}")
        if name == "wandb" and find_spec("wandb") is None:
            raise FacemsmError("the logger wandb needs the module 'wandb': pip install wandb")


_LOGGERS: Mapping[str, Callable[[Path], Logger]] = {
    "tensorboard": lambda folder: TensorBoardLogger(folder, name="", version="tensorboard"),
    "csv": lambda folder: CSVLogger(folder, name="csv"),  # a resumed run begins a new version in it
    "wandb": lambda folder: WandbLogger(folder.name, folder, project="facemsm"),
}


def _distributed_arguments(module: StageModule, devices: int) -> dict[str, Any]:
    """The trainer's arguments for one process, for several that it starts itself, or for those that ``torchrun`` has
    started."""
    gpus = torch.cuda.device_count()
    if TorchElasticEnvironment.detect():
        if devices > 1:
            raise FacemsmError("torchrun has started the processes already: leave --devices out")
        world, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    elif devices > 1:
        world = here = devices
        if gpus and devices > gpus:
            raise FacemsmError(f"--devices {devices}: there are {gpus} GPUs")
    else:
        return {"devices": 1}
    if module.schedule.batch_size % world:
        raise FacemsmError(
            f"schedule.batch_size {module.schedule.batch_size} cannot be shared by {world} processes; set a multiple"
        )
    if gpus and here > gpus:
        raise FacemsmError(f"{here} processes for {gpus} GPUs; start torchrun with --nproc-per-node {gpus}")
    return {
        "accelerator": "gpu" if gpus else "cpu",
        "devices": here,
        "num_nodes": world // here,
        # of stage 1's two networks each backward pass reaches one
        "strategy": DDPStrategy(find_unused_parameters=not module.automatic_optimization),
        "sync_batchnorm": bool(gpus),  # PyTorch has it for GPUs only
    }


def running_mean(decay: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Update of the weights' running mean: a short one at first, that soon forgets the weights of the start.

    Returns:
        A function of the mean, the latest weights and the count n of updates before, that keeps
        ``min(decay, (1 + n) / (10 + n))`` of the mean.
    """

    def update(mean: Tensor, latest: Tensor, count: Tensor) -> Tensor:
        kept = ((1 + count) / (10 + count)).clamp(max=decay)
        return kept * mean + (1 - kept) * latest

    return update


def _resumable(last: Path, module: StageModule) -> tuple[int, dict[str, Any]]:
    """Steps that a checkpoint has seen and what was chosen for the machine, if it is one of the module's run.

    Raises:
        FacemsmError: it is no checkpoint, or one of another network, scheme, data, batch size or seed.
    """
    checkpoint = AtomicCheckpointIO().load_checkpoint(last)
    kinds = {"state_dict": dict, "batches_done": int, "optimizer_states": list, "lr_schedulers": list, "loops": dict}
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(k), kind) for k, kind in kinds.items()):
        raise FacemsmError(f"{last}: not a checkpoint of facemsm; train anew")
    advice = f"resume with the settings in {last.parent / 'config.json'}, or name another folder"
    saved, wanted = checkpoint["state_dict"], module.state_dict()
    before, now = checkpoint.get("identity"), module.identity
    if isinstance(before, dict):  # checkpoints of earlier versions have none, or no optimiser in it
        before = {"schedule.optimiser": "adam", **before}
        for name in dict.fromkeys((*before, *now)):
            if before.get(name) != now.get(name):
                told = f"{name} is {short(before.get(name))} there and {short(now.get(name))} here"
                raise FacemsmError(f"{last}: holds another run, {told}; {advice}")
    if any(not isinstance(tensor, Tensor) for tensor in saved.values()) or (
        {name: t.shape for name, t in saved.items()} != {name: t.shape for name, t in wanted.items()}
    ):
        raise FacemsmError(f"{last}: holds another network; {advice}")
    optimisers = len(checkpoint["optimizer_states"]) == (1 if module.automatic_optimization else 2)  # stage 1 has two
    if not optimisers or checkpoint["batches_done"] < 0 or not all(t.isfinite().all() for t in saved.values()):
        raise FacemsmError(f"{last}: not a checkpoint of facemsm, or a damaged one; train anew")
    chosen = checkpoint.get("chosen")
    return checkpoint["batches_done"], chosen if isinstance(chosen, dict) else {}


def _truncate_history(history: Path, step: int) -> None:
    """Drop validations after a step, which the run does (again), and lines that a full disk tore."""
    if history.is_file():
        _write_rows(history, [row for row in read_history(history) if int(row["step"]) <= step])


def _append_row(history: Path, row: Mapping[str, Any]) -> None:
    """Add a validation; the file has it whole or not at all."""
    _write_rows(history, [*read_history(history), row])


def read_history(history: Path) -> list[dict[str, str]]:
    """The whole lines of a run's ``history.csv``, a dictionary for each validation; none where there is no file.

    Raises:
        FacemsmError: it is another file.
    """
    try:
        content = history.read_bytes()
    except FileNotFoundError:
        return []
    whole = content[: content.rfind(b"\n") + 1].decode(errors="replace")
    try:
        rows = list(csv.DictReader(io.StringIO(whole, newline="")))
    except csv.Error as error:
        raise FacemsmError(f"{history}: not the history of a run ({error}); move it away") from error
    if rows and "step" not in rows[0]:
        raise FacemsmError(f"{history}: not the history of a run, it has no column 'step'; move it away")
    return [row for row in rows if None not in row and None not in row.values() and row["step"].isdecimal()]


def _write_rows(history: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with atomic_write(history) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, dict.fromkeys(name for row in rows for name in row), restval="")
        if rows:
            writer.writeheader()
        writer.writerows(rows)


@contextmanager
def _lightning_silenced() -> Iterator[None]:
    """Without Lightning's tips and warnings: they are about what is decided here, not by the user."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", "Grad strides do not match")  # DDP; of 1 × 1 convolutions, costs nothing
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """With vanishing gradients, as of dark heatmaps, at 0: computing with denormals is many times slower."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def _single_line_errors(folder: Path) -> Iterator[None]:
    """A loader process wraps its error in a traceback; take the error out again. Name what the system refused."""
    try:
        yield
    except FacemsmError as error:
        line = re.split(rf"{FacemsmError.__module__}\.\w+: ", str(error))[-1]  # the last of a traceback
        raise type(error)(line.strip().removesuffix(r"\n")) from error
    except OSError as error:
        raise FacemsmError(f"{error.filename or folder}: {error.strerror or error}") from error
    except RuntimeError as error:
        if not re.search("(closed|reset) by peer|remote process exited", str(error)):  # gloo; NCCL
            raise
        raise FacemsmError(f"{folder}: another rank of the run has failed; it reports the error") from error


def _remove_partial_files(folder: Path) -> None:
    """Remove what a writer that was killed left behind."""
    for partial in (*folder.glob(".*.part"), *folder.glob("checkpoints/.*.part")):
        partial.unlink(missing_ok=True)
