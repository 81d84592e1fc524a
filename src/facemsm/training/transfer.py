"""Starting a run from weights trained before, for the same landmarks or for those of another scheme."""

from __future__ import annotations

from collections.abc import Mapping
from operator import gt
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from facemsm.errors import FacemsmError
from facemsm.schemes import LandmarkScheme, get_scheme, relation, scheme_from_dict
from facemsm.training.config import read_config
from facemsm.training.weights import load_weights, read_notes


def start_from(network: nn.Module, path: Path, scheme: LandmarkScheme) -> str:
    """Take weights over into a network that may have been made for another landmark scheme.

    Layers that emit landmarks start as the mean of the related landmarks of the file's scheme (``from_68`` of both
    schemes), so that the network finds at once what it can find of the new scheme; landmarks without relatives keep
    their first weights. Layers that read landmarks start so that they pass on what they did. Hourglasses with fewer
    levels than the file's start without the innermost ones. Networks with more channels, for the same landmarks, start
    so that they compute what the file's network does (function-preserving widening, after Chen et al., Net2Net, ICLR
    2016): nothing reads the new channels yet.

    Args:
        network: changed in place.
        path: written by :func:`facemsm.training.weights.save_weights`. Where it is for another number of landmarks, it
            or the ``config.json`` of the run beside it must say for which scheme.
        scheme: of the network's landmarks.

    Returns:
        One line that says what was taken over.

    Raises:
        FacemsmError: the file is missing or of another network, or its scheme's landmarks cannot be related.
    """
    fresh, left_out = network.state_dict(), ""
    try:
        notes = read_notes(path)
        with safe_open(path, "pt") as file:
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        old = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in stored.items()}
    except Exception:
        notes, old = {}, {}
    if shallower := _shallower(old, fresh):
        left_out = f"; {len(old) - len(shallower)} of deeper levels left out"
        old = shallower
    if old.keys() != fresh.keys() or all(old[key].shape == fresh[key].shape for key in old):
        if left_out:
            network.load_state_dict(old)
        else:
            load_weights(network, path)  # says what is wrong, where something is
        return f"start: {path}, {len(fresh)} tensors, all as they are{left_out}"
    name = notes.get("scheme")
    if name == scheme.name and (wider := _widened(network, old)):
        network.load_state_dict(wider)
        return f"start: {path}, widened{left_out}"
    if own := notes.get("own scheme"):
        source = scheme_from_dict(own, str(path))
    else:
        source = get_scheme(name or _scheme_beside(path))
    try:
        weights = torch.from_numpy(relation(source, scheme))
    except FacemsmError as error:
        raise FacemsmError(f"{error}, or train without --init") from error
    network.load_state_dict({key: _related(key, old[key], fresh[key], weights, path) for key in fresh})
    mapped = sum(old[key].shape != fresh[key].shape for key in fresh)
    known = int(weights.any(1).sum())
    return (
        f"start: {path}, {len(fresh) - mapped} tensors as they are, {mapped} from {source.count} to {scheme.count} "
        f"landmarks, of which {known} have relatives and {scheme.count - known} start anew{left_out}"
    )


def _shallower(old: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of deeper hourglasses for shallower ones, whose innermost unit takes over from a level's skip
    connection; none if the networks differ otherwise."""
    wanted = {key: key if key in old else key.replace(".inner.branch.", ".inner.skip.branch.") for key in fresh}
    fits = any(key != name for key, name in wanted.items()) and all(name in old for name in wanted.values())
    return {key: old[name] for key, name in wanted.items()} if fits else {}


def _widened(network: nn.Module, old: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a network with more channels, the old ones first; none if the networks differ otherwise."""
    wider = {}
    transposed = {
        f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.ConvTranspose2d)
    }
    for key, fresh in network.state_dict().items():
        before, after = old[key].shape, fresh.shape
        if len(before) != len(after) or before[2:] != after[2:] or any(map(gt, before, after)):
            return {}
        tensor = fresh.clone()
        if len(after) > 1:
            read, written = (0, 1) if key in transposed else (1, 0)
            old_outputs = tensor.narrow(written, 0, before[written])
            old_outputs.narrow(read, before[read], after[read] - before[read]).zero_()  # they read nothing new
        tensor[tuple(slice(n) for n in before)] = old[key]
        wider[key] = tensor
    return wider


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
    """Name of the scheme of a run whose weights do not name it: the built-in one of as many landmarks."""
    try:
        return str(int(read_config(path.parent)["network"]["landmarks"]))
    except (FacemsmError, ValueError, KeyError, TypeError) as error:
        raise FacemsmError(
            f"{path}: does not say which landmarks it finds; put the config.json of its run beside it"
        ) from error
