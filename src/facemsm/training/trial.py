"""Precision and threads of a run whose settings leave them open: the fastest on this machine, by a short trial."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, get_args

import torch
from torch import nn

from facemsm.training.config import Schedule
from facemsm.typing import T

Tried = Literal["32-true", "bf16-mixed"]

SECONDS = 0.5
"""Of each of the two trials."""

LEAST_GAIN = 1.1
"""How much faster less precision, or twice the threads, must be."""


def choose(schedule: Schedule, before: Mapping[str, Any] | None = None, *, alone: bool = True) -> tuple[Tried, int]:
    """Precision and CPU threads of a run; sets PyTorch's threads.

    Args:
        schedule: its ``precision`` and ``threads`` are kept where they name some.
        before: what was chosen when the run began, which is kept, so that a resumed run computes the same numbers.
        alone: whether the run has one process; if it has several, they must agree, and nothing is tried.

    Returns:
        The precision, and the threads or 0 for PyTorch's own choice.
    """
    precision, threads, before = schedule.precision, schedule.threads, before or {}
    elsewhere = torch.cuda.is_available() or torch.backends.mps.is_available()
    if precision != "auto":
        chosen: Tried = precision
    elif elsewhere:
        capable = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
        chosen = "bf16-mixed" if capable else "32-true"
    elif before.get("precision") in get_args(Tried):
        chosen = before["precision"]
    else:
        chosen = _precision() if alone else "32-true"
    if not threads and not elsewhere and alone:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        kept = before.get("threads")
        threads = kept if isinstance(kept, int) and 1 <= kept <= cores else _threads(cores, chosen)
    if threads:
        torch.set_num_threads(threads)
    return chosen, threads


@cache
def _precision() -> Tried:
    """By one thread, which is the least disturbed."""
    step = _step()
    seconds = _fastest(["32-true", "bf16-mixed"], lambda precision: step(precision, 1))
    return "bf16-mixed" if seconds["32-true"] > LEAST_GAIN * seconds["bf16-mixed"] else "32-true"


@cache
def _threads(cores: int, precision: Tried) -> int:
    """The least number that is nearly as fast as the best."""
    if cores == 1:
        return 1
    step = _step()
    counts = sorted({*(1 << i for i in range(cores.bit_length())), cores})
    seconds = _fastest(counts, lambda threads: step(precision, threads))
    return min(n for n in counts if seconds[n] <= LEAST_GAIN * min(seconds.values()))


def _step() -> Callable[[str, int], None]:
    """A training step of a few convolutions like those of stage 2."""
    with torch.random.fork_rng(devices=[]):
        layers = [(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()) for _ in range(3)]
        network = nn.Sequential(*(layer for three in layers for layer in three))
        images = torch.rand(2, 64, 32, 32).contiguous(memory_format=torch.channels_last)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def step(precision: str, threads: int) -> None:
        torch.set_num_threads(threads)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = network(images).float().square().mean()
        loss.backward()

    return step


def _fastest(candidates: Sequence[T], act: Callable[[T], object]) -> dict[T, float]:
    """Shortest time of each candidate, in seconds. They take turns, so that what else the machine does disturbs all."""
    seconds, end = dict.fromkeys(candidates, float("inf")), time.monotonic() + SECONDS
    rounds = 0
    while rounds < 2 or time.monotonic() < end:  # the first is slow
        for candidate in candidates:
            start = time.perf_counter()
            act(candidate)
            seconds[candidate] = min(seconds[candidate], time.perf_counter() - start)
        rounds += 1
    return seconds
