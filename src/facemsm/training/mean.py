"""The mean of runs' weights: one network of the same cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

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
            differ, an output that holds a run, or a file that cannot be read or written.
    """
    if len(runs) < 2:
        raise FacemsmError("name at least two runs, whose weights are to be averaged")
    shares = shares or [1] * len(runs)
    if len(shares) != len(runs):
        raise FacemsmError(f"{len(shares)} shares of {len(runs)} runs: give one for each, in the same order")
    if not all(0 < share < float("inf") for share in shares):
        raise FacemsmError("a share must be a number above 0")
    if any((output / name).exists() for name in ("best.safetensors", "last.ckpt")):
        raise FacemsmError(f"{output}: holds a run already; name another folder")
    config = read_settings(runs[0] / "config.json")
    first = _read(runs[0])
    notes = read_notes(runs[0] / "best.safetensors")
    # batch normalisation also counts its batches, in integers: those are the first run's
    means = {
        name: tensor.double() * (shares[0] / sum(shares))
        for name, tensor in first.items()
        if tensor.is_floating_point()
    }
    for run, share in zip(runs[1:], shares[1:], strict=True):
        other, tensors = read_settings(run / "config.json"), _read(run)
        for field in ("network", "sigma"):
            if other.get(field) != config.get(field):
                raise FacemsmError(f"{run}: another {field} than that of {runs[0]}")
        own = read_notes(run / "best.safetensors")
        if any(own.get(name) != notes.get(name) for name in ("scheme", "own scheme")):
            raise FacemsmError(f"{run}: of another landmark scheme than {runs[0]}")
        if {name: tensor.shape for name, tensor in tensors.items()} != {n: tensor.shape for n, tensor in first.items()}:
            raise FacemsmError(f"{run}: other tensors than those of {runs[0]}")
        for name, mean in means.items():
            mean += tensors[name].double() * (share / sum(shares))
    output.mkdir(parents=True, exist_ok=True)
    write_tensors(output / "best.safetensors", {**first, **{name: mean.float() for name, mean in means.items()}}, notes)
    with atomic_write(output / "config.json") as partial:
        partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    say(f"{output / 'best.safetensors'}: the mean of {len(runs)} runs")


def _read(run: Path) -> dict[str, Tensor]:
    path = run / "best.safetensors"
    read_notes(path)  # says so if it cannot be read
    return load_file(path)
