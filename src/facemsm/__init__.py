"""facemsm: robust face alignment in three stages, after the paper "Multistage Model for Robust Face Alignment Using
Deep Neural Networks".

What ``__all__`` lists is public, and so is what the API pages of the documentation list; anything else may change. The
public names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facemsm.aligner import Aligner as Aligner
    from facemsm.batch.ray import align_dataset as align_dataset
    from facemsm.data.catalogue import load_dataset as load_dataset
    from facemsm.detectors import get_detector as get_detector
    from facemsm.errors import FacemsmError as FacemsmError
    from facemsm.evaluation.evaluate import evaluate as evaluate
    from facemsm.face import Face as Face
    from facemsm.heatmaps import HeatmapCodec as HeatmapCodec
    from facemsm.imaging.drawing import draw_faces as draw_faces
    from facemsm.imaging.io import read_image as read_image
    from facemsm.imaging.io import write_image as write_image
    from facemsm.results.coco import to_coco as to_coco
    from facemsm.results.jsonl import PhotoResult as PhotoResult
    from facemsm.results.jsonl import read_results as read_results
    from facemsm.results.tables import to_dataframe as to_dataframe
    from facemsm.runtime.model import list_models as list_models
    from facemsm.runtime.model import load_model as load_model
    from facemsm.schemes import LandmarkScheme as LandmarkScheme
    from facemsm.schemes import get_scheme as get_scheme
    from facemsm.shapes.measures import eye_aspect_ratio as eye_aspect_ratio
    from facemsm.shapes.measures import head_pose as head_pose
    from facemsm.shapes.measures import mouth_openness as mouth_openness
    from facemsm.shapes.measures import recognition_crop as recognition_crop
    from facemsm.stages import Settings as Settings
    from facemsm.video.tracking import Tracker as Tracker

# ONNX Runtime reports its use to Microsoft, and Ray to its makers, unless the environment says so before they are
# loaded. facemsm needs no network and uses none.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

__version__ = "0.1.0"

_HOME = {
    "Aligner": "facemsm.aligner",
    "Face": "facemsm.face",
    "FacemsmError": "facemsm.errors",
    "HeatmapCodec": "facemsm.heatmaps",
    "LandmarkScheme": "facemsm.schemes",
    "PhotoResult": "facemsm.results.jsonl",
    "Settings": "facemsm.stages",
    "Tracker": "facemsm.video.tracking",
    "align_dataset": "facemsm.batch.ray",
    "draw_faces": "facemsm.imaging.drawing",
    "evaluate": "facemsm.evaluation.evaluate",
    "eye_aspect_ratio": "facemsm.shapes.measures",
    "get_detector": "facemsm.detectors",
    "get_scheme": "facemsm.schemes",
    "head_pose": "facemsm.shapes.measures",
    "list_models": "facemsm.runtime.model",
    "load_dataset": "facemsm.data.catalogue",
    "load_model": "facemsm.runtime.model",
    "mouth_openness": "facemsm.shapes.measures",
    "read_image": "facemsm.imaging.io",
    "read_results": "facemsm.results.jsonl",
    "recognition_crop": "facemsm.shapes.measures",
    "to_coco": "facemsm.results.coco",
    "to_dataframe": "facemsm.results.tables",
    "write_image": "facemsm.imaging.io",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'facemsm' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
