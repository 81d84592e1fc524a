"""The mean of runs' weights: one network of the same cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from facemsm.errors import FacemsmError
from facemsm.files import atomic_write
from facemsm.training.config import read_settings
from facemsm.training.weights import read_notes, write_tensors


def mean_of_runs(
    output: Path, runs: Sequence[Path], *, shares: Sequence[float] = (), say: Callable[[str], None] = print
) -> None:
    """Write a run's folder whose weights are the means of other runs' weights, tensor by tensor (Wortsman et al., Model
    soups, ICML 2022).

    It helps among runs that began from the same weights, or from each other; the mean of runs from different random
    weights finds nothing.

    Args:
        output: folder to write ``best.safetensors`` to, float32, and ``config.json``, the first run's; so are the
            landmark scheme and label conventions.
        runs: folders of at least two runs of one network.
        shares: each run's, above 0; equal ones if empty.
        say: takes the line at the end.

    Raises:
        FacemsmError: fewer than two runs, shares of another number or not above 0, networks or landmark schemes that
            differ, weights that are not finite, an output that holds a run, or a file that cannot be read or written.
    """
    if len(runs) < 2:
        raise FacemsmError("name at least two runs, whose weights are to be averaged")
    shares = shares or [1.0] * len(runs)
    if len(shares) != len(runs):
        raise FacemsmError(f"{len(runs)} runs have {len(shares)} shares: give one for each, in the same order, or none")
    if not all(0 < share < float("inf") for share in shares):
        raise FacemsmError("a share must be a number above 0")
    if any((output / name).exists() for name in ("best.safetensors", "last.ckpt")):
        raise FacemsmError(f"{output}: holds a run already; name another folder")
    largest = max(shares)
    weights = np.array([share / largest for share in shares])
    weights /= weights.sum()
    parts = [_read(run) for run in runs]
    config, notes, first = parts[0]
    # batch normalisation also counts its batches, in integers: those are the first run's
    means = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in first.items() if _averaged(tensor)}
    for run, weight, (other, own, tensors) in zip(runs, weights.tolist(), parts, strict=True):
        for field in ("network", "sigma"):
            if other.get(field) != config.get(field):
                raise FacemsmError(f"{run}: another {field} than that of {runs[0]}; their config.json say which")
        if any(own.get(name) != notes.get(name) for name in ("scheme", "own scheme")):
            raise FacemsmError(f"{run}: of another landmark scheme than {runs[0]}")
        if _kinds(tensors) != _kinds(first):
            raise FacemsmError(f"{run}: other tensors than those of {runs[0]}")
        for name, mean in means.items():
            if not tensors[name].isfinite().all():
                raise FacemsmError(f"{run}: has weights that are not finite, in {name}")
            mean += tensors[name].double() * weight
    with atomic_write(output / "config.json") as partial:
        partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_tensors(output / "best.safetensors", {**first, **{name: mean.float() for name, mean in means.items()}}, notes)
    say(f"{output / 'best.safetensors'}: the mean of {len(runs)} runs")


def _averaged(tensor: Tensor) -> bool:
    return tensor.is_floating_point()


def _kinds(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, bool]]:
    return {name: (tensor.shape, _averaged(tensor)) for name, tensor in tensors.items()}


def _read(run: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """A run's settings, what is noted beside its weights, and those."""
    path = run / "best.safetensors"
    if not path.is_file():
        raise FacemsmError(f"{path}: no such file; name the run's folder")
    return read_settings(run / "config.json"), read_notes(path), load_file(path)
