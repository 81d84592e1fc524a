"""How fast training is with each preset, and what makes it faster. Prints Markdown.

    python benchmarks/training.py [--quick] [--threads 1]

Trains for a few steps on synthetic 400 px JPEG photos and keeps nothing. Each preset runs in a process of its own, as
``facemsm train`` runs it. Options are compared in turns, round after round, so that whatever else the machine does hits
them all alike; the first round is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import lightning
import torch
from synthetic import synthetic_faces
from torch import Tensor

from facemsm.hourglass.losses import by_face
from facemsm.hourglass.network import HEATMAP_SIZE, INPUT_SIZE
from facemsm.hourglass.training import HourglassModule, HourglassTraining
from facemsm.provenance import commit, machine
from facemsm.schemes import SCHEME_68
from facemsm.stgan.losses import theta_loss
from facemsm.stgan.networks import Discriminator
from facemsm.stgan.training import STGANModule, STGANTraining
from facemsm.training.config import override
from facemsm.training.faces import Faces
from facemsm.training.landmarks import images_to_tensor
from facemsm.training.run import fit
from facemsm.training.stream import Example, ExampleStream, MakeExample, loader

PRESETS: tuple[tuple[str, str, list[str], int, int, int], ...] = (
    # stage, preset, settings, steps, steps if quick, and steps before that fill the loader's queue and PyTorch's caches
    ("1, generator and discriminator", "paper", [], 10, 3, 3),
    ("1, generator alone", "lite", ["alone=1"], 60, 5, 3),
    ("1, generator and discriminator", "lite", ["alone=0"], 8, 3, 3),
    ("2, hourglass", "paper", [], 2, 1, 1),
    ("2, hourglass", "lite", [], 12, 3, 2),
)


# --- Presets ---------------------------------------------------------------------------------------------------------


class Timed:
    """Stands before a module's loader and adds up how long training waits for batches.

    Attributes:
        marks: after each step, seconds of wall clock, of the processor, and waited for batches.
    """

    def __init__(self, module: Any) -> None:
        self.waited = 0.0
        self.marks: list[tuple[float, float, float]] = []
        original = module.train_dataloader

        def train_dataloader() -> Timed:
            self.batches = original()
            return self

        def on_train_batch_end(*_: Any) -> None:
            self.marks.append((time.perf_counter(), time.process_time(), self.waited))

        module.train_dataloader, module.on_train_batch_end = train_dataloader, on_train_batch_end

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.batches)
        for _ in range(len(self)):
            asked = time.perf_counter()
            batch = next(batches)
            self.waited += time.perf_counter() - asked
            yield batch


def preset_row(stage: str, preset: str, settings: list[str], steps: int, before: int, threads: int) -> str:
    """One row of the first table; for a process of its own."""
    schedule = [f"schedule.{s}" for s in (f"steps={before + steps}", f"threads={threads}", "validate_every=1000")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        faces = synthetic_faces(folder, 2)
        module: STGANModule | HourglassModule
        if stage.startswith("1"):
            stage_1 = override(STGANTraining.preset(preset), [*schedule, *settings])
            module = STGANModule(stage_1, SCHEME_68, faces)
        else:
            stage_2 = override(HourglassTraining.preset(preset, 68), [*schedule, *settings])
            module = HourglassModule(stage_2, SCHEME_68, faces)
        timed = Timed(module)
        with contextlib.redirect_stdout(io.StringIO()):
            fit(module, module.config, folder / "run", progress=False)
        timed.batches = None
        gc.collect()  # ends the loader process, which ignores the signal by which Python would end it at exit
    wall, busy, waited = (b - a for a, b in zip(timed.marks[before - 1], timed.marks[-1], strict=True))
    images = steps * module.schedule.batch_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return (
        f"| {stage} | {preset} | {module.schedule.batch_size} | {images / wall:.1f} "
        f"| {1000 * busy / images:.1f} | {100 * waited / wall:.1f} % | {peak:.0f} |"
    )


# --- Options ---------------------------------------------------------------------------------------------------------


def processor_seconds() -> float:
    """Of this process and those of its loader processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def compare(options: dict[str, Callable[[], None]], images: int, rounds: int) -> None:
    """Print a table: what each option takes for so many images, and how many times faster than the first one it is."""
    wall: dict[str, list[float]] = {name: [] for name in options}
    busy: dict[str, list[float]] = {name: [] for name in options}
    for _ in range(rounds + 1):
        for name, work in options.items():
            start, start_busy = time.perf_counter(), processor_seconds()
            work()
            wall[name].append(1000 * (time.perf_counter() - start) / images)
            busy[name].append(1000 * (processor_seconds() - start_busy) / images)
    print("| option | ms/image | times as fast | processor time, ms/image | times less |\n|---|---|---|---|---|")
    base = next(iter(options))
    for name in options:
        cells = []
        for times in (wall, busy):
            ratio = statistics.median(b / t for b, t in zip(times[base][1:], times[name][1:], strict=True))
            cells.append(f"{statistics.median(times[name][1:]):.1f} | {ratio:.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def quiet(module: Any) -> Any:
    """A module that trains without a trainer."""
    module.log = lambda *_: None
    return module.train()


def take_step(optimiser: torch.optim.Optimizer, loss: Callable[[], Tensor], *, bf16: bool) -> None:
    """One training step."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        value = loss()
    optimiser.zero_grad()
    value.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def network_options(faces: Faces, images: int, threads: int) -> dict[str, Callable[[], None]]:
    """One step of the paper's hourglass, and what may make it faster, on a batch that is there already."""
    paper = HourglassTraining.preset("paper", 68)
    smaller: dict[str, dict[str, int]] = {
        "deconvolution 4 → 2": {"deconvolution": 2},
        "body_size 64 → 32": {"body_size": 32},
        "stem 64 → 32": {"stem": 32},
        "width 256 → 128": {"width": 128},
    }

    def option(
        network: dict[str, int],
        *,
        channels_last: bool = False,
        bf16: bool = False,
        use: int = threads,
        side: int = INPUT_SIZE,
    ) -> Callable[[], None]:
        config = replace(paper, network=replace(paper.network, **network))
        module = quiet(HourglassModule(config, SCHEME_68, faces))
        if not channels_last:
            module.network.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
        examples: Any = module._training
        if side != INPUT_SIZE:
            examples = replace(examples, size=side)
        batch = next(iter(loader(ExampleStream(faces, examples, total=images, seed=0), batch=images, workers=0)))
        optimiser = module.optimiser(module.network)

        def work() -> None:
            torch.set_num_threads(use)
            take_step(optimiser, lambda: module.training_step(batch, 0), bf16=bf16)
            torch.set_num_threads(threads)

        return work

    everything = {name: value for change in smaller.values() for name, value in change.items()}
    return {
        "the paper's network": option({}),
        "channels-last": option({}, channels_last=True),
        "bf16": option({}, bf16=True),
        "channels-last, bf16": option({}, channels_last=True, bf16=True),
        **{name: option(change) for name, change in smaller.items()},
        "all of the above: the lite network": option(everything, channels_last=True, bf16=True),
        f"{2 * threads} threads": option({}, use=2 * threads),
        "half the resolution (64 px), as at the start of a staged run": option({}, side=INPUT_SIZE // 2),
    }


def pass_over(
    faces: Faces, make: MakeExample, batch_size: int, steps: int, workers: int, use: Callable[[Example], None]
) -> None:
    """So many steps with examples from loader processes."""
    stream = ExampleStream(faces, make, total=batch_size * steps, seed=0)
    for batch in loader(stream, batch=batch_size, workers=workers):
        use(batch)
    gc.collect()  # ends the loader processes, whose processor time counts from then on


def loss_options(faces: Faces) -> dict[str, Callable[[], None]]:
    """The ``lite`` hourglass's last loss with its gradient, on heatmaps that are there already."""
    config = HourglassTraining.preset("lite", 68)
    module, size = HourglassModule(config, SCHEME_68, faces), config.schedule.batch_size
    batch = next(iter(loader(ExampleStream(faces, module._training, total=size, seed=0), batch=size, workers=0)))
    targets = [batch[key] for key in ("labelled", "points", "peak")]
    heatmaps = torch.rand(size, 68, HEATMAP_SIZE, HEATMAP_SIZE).to(torch.bfloat16)  # as the network emits them
    heatmaps = heatmaps.to(memory_format=torch.channels_last).requires_grad_()

    def work(loss: Callable[..., Tensor]) -> None:
        torch.autograd.grad(loss(heatmaps, *targets), heatmaps)

    return {
        "over the whole batch": lambda: work(lambda maps, *rest: module._loss(maps.float(), *rest)),
        "face by face": lambda: work(partial(by_face, module._loss)),
    }


def discriminator_options(images: int) -> dict[str, Callable[[], None]]:
    """One step of stage 1's discriminator, by the order of its weights."""
    faces = torch.rand(images, 3, 128, 128)

    def option(order: torch.memory_format) -> Callable[[], None]:
        network = Discriminator().to(memory_format=order)  # type: ignore[call-overload]
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
        return lambda: take_step(optimiser, lambda: network(faces).float().mean(), bf16=True)

    return {"channels first": option(torch.contiguous_format), "channels last": option(torch.channels_last)}


def loader_options(faces: Faces, steps: int) -> dict[str, Callable[[], None]]:
    """Loader processes for stage 1's generator, which waits for them."""
    config = STGANTraining.preset("lite")
    module = STGANModule(config, SCHEME_68, faces)
    optimiser = module.optimiser(module.network)
    module.network.train()

    def use(batch: Example) -> None:
        def loss() -> Tensor:
            return theta_loss(module.network(images_to_tensor(batch["image"])), batch["theta"])

        take_step(optimiser, loss, bf16=False)

    def option(workers: int) -> Callable[[], None]:
        return lambda: pass_over(faces, module._training, config.schedule.batch_size, steps, workers, use)

    return {"1 loader process": option(1), "2 loader processes": option(2), "none: prepared between steps": option(0)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="training speed of the presets, and of options one by one")
    parser.add_argument("--quick", action="store_true", help="few steps and one round: to see that it runs")
    parser.add_argument("--threads", type=int, default=1, help="threads of the training process")
    args = parser.parse_args()
    quick, rounds = args.quick, 1 if args.quick else 3
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    print(f"{machine()}{load}; Python {platform.python_version()}, PyTorch {torch.__version__},")
    print(f"Lightning {lightning.__version__}, OpenCV {cv2.__version__}; commit {commit()}; {date.today()}.\n")

    print(f"Presets, {args.threads} training thread(s), one loader process, 400 px JPEG photos.\n")
    print("| stage | preset | batch | images/s | processor time, ms/image | waiting for data | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for stage, preset, settings, steps, few, before in PRESETS:
        with ProcessPoolExecutor(1, get_context("spawn")) as own:
            steps = few if quick else steps
            print(own.submit(preset_row, stage, preset, settings, steps, before, args.threads).result(), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        faces = synthetic_faces(Path(folder), 2)
        images = 1 if quick else 4
        print(f"\nStage 2, the paper's network with one thing changed; steps of {images}, median of {rounds} rounds.\n")
        compare(network_options(faces, images, args.threads), images, rounds)
        steps = 2 if quick else 4
        print(f"\nStage 2, `lite`: the last loss and its gradient, batches of 16; median of {rounds} rounds.\n")
        compare(loss_options(faces), 16, rounds)
        images = 4 if quick else 32
        print(f"\nStage 1, `lite`: the discriminator, batches of {images}; median of {rounds} rounds.\n")
        compare(discriminator_options(images), images, rounds)
        steps = 3 if quick else 20
        print(f"\nStage 1, `lite`, generator alone: loader processes; median of {rounds} rounds of {steps} steps.\n")
        compare(loader_options(faces, steps), steps * 32, rounds)


if __name__ == "__main__":
    main()
