"""Does the preparation of examples keep up with training? Prints Markdown.

    python benchmarks/feeding.py [--steps 20] [--preset lite]

Trains each stage for a few steps on synthetic JPEG photos, one loader process beside the training process, and measures
how long training waits for its next batch, with the photos kept in memory and with none kept. Processor time, unlike
the rest, does not depend on what else the machine does. Nothing is saved.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import torch
from synthetic import synthetic_faces
from torch import Tensor

from facemsm.hourglass.training import HourglassModule, HourglassTraining
from facemsm.provenance import commit, machine
from facemsm.schemes import SCHEME_68
from facemsm.stgan.losses import theta_loss
from facemsm.stgan.training import STGANModule, STGANTraining
from facemsm.training.landmarks import images_to_tensor
from facemsm.training.stream import PHOTO_MEMORY, ExampleStream, ResumableSampler, loader
from facemsm.training.trial import choose


def measure(
    module: HourglassModule | STGANModule, loss: Callable[[dict[str, Any]], Tensor], steps: int, memory: int
) -> str:
    """One row of the table; ``memory`` is what the stream may keep of photos."""
    schedule = module.schedule
    chosen, _ = choose(replace(schedule, threads=torch.get_num_threads()))
    precision = chosen == "bf16-mixed" and isinstance(module, HourglassModule)
    batch_size = schedule.batch_size
    total = batch_size * (steps + 3)
    stream = ExampleStream(module.faces, module._training, total=total, seed=0, memory=memory)
    batches = iter(loader(stream, batch=batch_size, workers=1, sampler=ResumableSampler(0, total, batch=batch_size)))
    optimiser = module.optimiser(module.network)
    module.network.train()
    waiting = working = busy = 0.0
    for step in range(steps + 3):  # the first three fill the loader's queue and PyTorch's caches
        start = time.perf_counter()
        batch = next(batches)
        ready, spent = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision):
            value = loss(batch)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        if step >= 3:
            waiting += ready - start
            working += time.perf_counter() - ready
            busy += time.process_time() - spent
    rate = steps * batch_size / (waiting + working)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    images = steps * batch_size
    for n in range(images):  # of the first epoch or so: fills the memory of this process's stream
        stream[n]
    start = time.process_time()
    for n in range(images):
        stream[n]
    preparing = time.process_time() - start
    return (
        f"| {rate:.1f} | {100 * waiting / (waiting + working):.1f} % | {1e3 * busy / images:.2f} "
        f"| {1e3 * preparing / images:.2f} | {peak:.0f} |"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="share of training that waits for data")
    parser.add_argument("--steps", type=int, default=20, help="steps of each stage")
    parser.add_argument("--preset", default="lite", help="lite or paper")
    parser.add_argument("--threads", type=int, default=1, help="threads of the training process")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(0)  # as in the loader's process
    torch.set_flush_denormal(True)
    print(f"Preset {args.preset}, {args.steps} steps a stage, {args.threads} training thread, one loader process,")
    print(f"400 px JPEG photos; {machine()}; PyTorch {torch.__version__}; commit {commit()}; {date.today()}.\n")
    print("| stage | images/s | waiting for data | processor ms/image, training | preparing | peak MB so far |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        faces = synthetic_faces(Path(folder), 8)
        generator = STGANModule(STGANTraining.preset(args.preset), SCHEME_68, faces)

        def theta(batch: dict[str, Any]) -> Tensor:
            return theta_loss(generator.network(images_to_tensor(batch["image"])), batch["theta"])

        for kept, memory in (("photos kept", PHOTO_MEMORY), ("none kept", 0)):
            print(f"| 1, generator alone, {kept}", measure(generator, theta, args.steps, memory), flush=True)
        config = HourglassTraining.preset(args.preset, 68)
        hourglass = HourglassModule(config, SCHEME_68, faces)

        def heatmap(batch: dict[str, Any]) -> Tensor:
            outputs: list[Tensor] = hourglass.network(images_to_tensor(batch["image"]))
            targets = [batch[key] for key in ("labelled", "points", "peak")]
            values = [hourglass._loss(heatmaps.float(), *targets) for heatmaps in outputs]
            return torch.stack(values).sum()

        print("| 2, hourglass", measure(hourglass, heatmap, args.steps, PHOTO_MEMORY), flush=True)


if __name__ == "__main__":
    main()
