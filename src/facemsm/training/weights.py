"""A network's weights as files: safetensors, which hold numbers and never code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from facemsm.errors import FacemsmError
from facemsm.files import atomic_write
from facemsm.schemes import LandmarkScheme, scheme_to_dict

_NOTES = "facemsm"


def save_weights(
    network: nn.Module,
    path: Path,
    scheme: LandmarkScheme | None = None,
    conventions: Mapping[str, list[float]] | None = None,
) -> None:
    """Write a network's weights as safetensors, whole or not at all, with the name of its landmark scheme (all of it,
    if it is one of one's own) and the shifts of its data sets' labels.

    Raises:
        FacemsmError: the file cannot be written.
    """
    notes: dict[str, Any] = {"scheme": scheme.name if scheme else None, "conventions": dict(conventions or {})}
    if scheme and not scheme.built_in:
        notes["own scheme"] = scheme_to_dict(scheme)
    write_tensors(path, network.state_dict(), notes)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Write safetensors, whole or not at all, with the ``notes`` that :func:`read_notes` reads.

    Raises:
        FacemsmError: the file cannot be written.
    """
    # one entry only: safetensors writes several in an order that differs from run to run
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {_NOTES: json.dumps(notes)})
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def read_notes(path: Path) -> dict[str, Any]:
    """What :func:`save_weights` wrote beside weights: ``scheme``, a name or None, ``conventions``, shifts by set, and
    of schemes that are not built in ``own scheme``, as :func:`facemsm.schemes.scheme_to_dict` gives it.

    Raises:
        FacemsmError: the file is missing or is not safetensors.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        notes = json.loads(metadata.get(_NOTES, "{}"))
        return {"scheme": metadata.get("scheme"), "conventions": {}, **notes}  # older files name the scheme alone
    except Exception as error:
        raise FacemsmError(f"{path}: cannot be read as weights ({type(error).__name__})") from error


def load_weights(network: nn.Module, path: Path) -> None:
    """Read what :func:`save_weights` wrote into a network of the same shape.

    Raises:
        FacemsmError: the file is missing, is not safetensors, or belongs to another network.
    """
    try:
        network.load_state_dict(load_file(path))
    except OSError as error:
        raise FacemsmError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        detail = (str(error) or type(error).__name__).splitlines()[-1].strip()[:200]
        raise FacemsmError(f"{path}: not this network's weights: {detail}") from error
