"""Starting from weights trained before, for the same landmarks or for those of another scheme; the mean of several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from facemsm.errors import FacemsmError
from facemsm.images import replacing
from facemsm.schemes import LandmarkScheme, get_scheme, relation
from facemsm.training.run import load_weights


def start_from(network: nn.Module, path: Path, scheme: LandmarkScheme) -> str:
    """Take weights over into a network that may have been made for another landmark scheme.

    Layers that emit landmarks start as the mean of the related landmarks of the file's scheme (``from_68`` of both
    schemes), so that the network finds at once what it can find of the new scheme; landmarks without relatives keep
    their first weights. Layers that read landmarks start so that they pass on what they did.

    Args:
        network: changed in place.
        path: written by :func:`facemsm.training.run.save_weights`. Where it is for another number of landmarks, it or
            the ``config.json`` of the run beside it must say for which scheme.
        scheme: of the network's landmarks.

    Returns:
        One line that says what was taken over.

    Raises:
        FacemsmError: the file is missing or of another network, or its scheme's landmarks cannot be related.
    """
    fresh = network.state_dict()
    try:
        with safe_open(path, "pt") as file:
            name = (file.metadata() or {}).get("scheme")
            old = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception:
        old = {}
    if old.keys() != fresh.keys() or all(old[key].shape == fresh[key].shape for key in old):
        load_weights(network, path)  # says what is wrong, where something is
        return f"start: {path}, {len(fresh)} tensors, all as they are"
    source = get_scheme(name or _scheme_beside(path))
    weights = torch.from_numpy(relation(source, scheme))
    network.load_state_dict({key: _related(key, old[key], fresh[key], weights, path) for key in fresh})
    turned = sum(old[key].shape != fresh[key].shape for key in fresh)
    known = int(weights.any(1).sum())
    return (
        f"start: {path}, {len(fresh) - turned} tensors as they are, {turned} from {source.count} to {scheme.count} "
        f"landmarks, of which {known} have relatives and {scheme.count - known} start anew"
    )


def average(runs: Sequence[Path], folder: Path) -> None:
    """The mean of several runs' best weights, as a folder to export from.

    Runs that began from the same weights, or one from another's, end in the same valley of the loss; their mean often
    errs less than each of them, at no cost (Izmailov et al., Averaging Weights Leads to Wider Optima, UAI 2018).

    Args:
        runs: folders of runs of one network; the last one's ``config.json`` is taken over.
        folder: to be written; must not hold a run.

    Raises:
        FacemsmError: fewer than two runs, one without weights, or runs of different networks.
    """
    if len(runs) < 2:
        raise FacemsmError("name at least two runs to average")
    if (folder / "best.safetensors").exists():
        raise FacemsmError(f"{folder}: holds a run already; choose another --output")
    weights, metadata = [], {}
    for run in runs:
        path = run / "best.safetensors"
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
                weights.append({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
            config = (run / "config.json").read_bytes()
        except Exception as error:
            raise FacemsmError(f"{run}: not the folder of a run, with best.safetensors and config.json") from error
        if {k: v.shape for k, v in weights[0].items()} != {k: v.shape for k, v in weights[-1].items()}:
            raise FacemsmError(f"{path}: weights of another network than those of {runs[0]}")
    mean = {key: _mean([each[key] for each in weights]) for key in weights[0]}
    with replacing(folder / "config.json") as partial:
        partial.write_bytes(config)
    with replacing(folder / "best.safetensors") as partial:
        partial.write_bytes(save(mean, metadata))


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    if not tensors[-1].is_floating_point():
        return tensors[-1]  # batch normalisation's count of batches
    return torch.stack([tensor.double() for tensor in tensors]).mean(0).to(tensors[-1].dtype).contiguous()


def _related(key: str, old: Tensor, fresh: Tensor, weights: Tensor, path: Path) -> Tensor:
    """A tensor for the new landmarks, which may lie on its first axis (one or more rows each) or on its second."""
    landmarks, before = weights.shape
    if old.shape == fresh.shape:
        return old
    rows = len(old) // before
    if old.shape == (rows * before, *fresh.shape[1:]) and len(fresh) == rows * landmarks:
        mean = (weights @ old.reshape(before, -1)).view_as(fresh)
        known = weights.any(1).repeat_interleave(rows).view(-1, *[1] * (fresh.ndim - 1))
        return torch.where(known, mean, fresh)
    if old.shape[2:] == fresh.shape[2:] and old.shape[:2] == (len(fresh), before) and fresh.shape[1] == landmarks:
        passed: Tensor = torch.tensordot(old, torch.linalg.pinv(weights), dims=([1], [0]))  # undoes the means
        return passed.movedim(-1, 1).contiguous()
    raise FacemsmError(
        f"{path}: not this network's weights: {key} is {tuple(old.shape)}, expected {tuple(fresh.shape)}"
    )


def _scheme_beside(path: Path) -> str:
    """Name of the scheme of a run whose weights do not tell: the built-in one of as many landmarks."""
    config = path.with_name("config.json")
    try:
        return str(int(json.loads(config.read_text(encoding="utf-8"))["network"]["landmarks"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FacemsmError(
            f"{path}: does not say which landmarks it finds; put the config.json of its run beside it"
        ) from error
