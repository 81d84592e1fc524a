"""facemsm: robust face alignment in three stages, after the paper "Multistage Model for Robust Face Alignment Using
Deep Neural Networks".

The public names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facemsm.aligner import Aligner
    from facemsm.errors import FacemsmError
    from facemsm.face import Face
    from facemsm.results.coco import to_coco
    from facemsm.results.tables import to_dataframe
    from facemsm.schemes import LandmarkScheme, get_scheme

__all__ = ["Aligner", "Face", "FacemsmError", "LandmarkScheme", "get_scheme", "to_coco", "to_dataframe"]

_HOME = {
    "Aligner": "facemsm.aligner",
    "Face": "facemsm.face",
    "FacemsmError": "facemsm.errors",
    "LandmarkScheme": "facemsm.schemes",
    "get_scheme": "facemsm.schemes",
    "to_coco": "facemsm.results.coco",
    "to_dataframe": "facemsm.results.tables",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'facemsm' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
