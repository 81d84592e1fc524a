"""OpenCV 4's Haar cascades: frontal faces, and profiles of either side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facemsm.detectors.boxes import pack, shrink, suppress
from facemsm.errors import FacemsmError
from facemsm.typing import FloatArray, Image

SIZE, OVERLAP = 640, 0.3
"""Longest side in pixels at which the cascades see a photo, and IoU from which two boxes are one face's."""


class HaarCascades:
    """The frontal and profile cascades that come with OpenCV 4; OpenCV 5 dropped them.

    Raises:
        FacemsmError: OpenCV has no cascades.
    """

    name = "haar"

    def __init__(self) -> None:
        load = getattr(cv2, "CascadeClassifier", None)
        if load is None:
            raise FacemsmError(
                f'OpenCV {cv2.__version__} has no Haar cascades: pip install "opencv-python-headless<5", '
                "or choose another face detector"
            )
        folder = Path(cv2.__file__).parent / "data"
        self._frontal = load(str(folder / "haarcascade_frontalface_alt2.xml"))
        self._profile = load(str(folder / "haarcascade_profileface.xml"))

    def detect(self, image: Image) -> FloatArray:
        """See :meth:`facemsm.detectors.FaceDetector.detect`. Boxes are square, forehead to chin."""
        small, scale = shrink(image, SIZE)
        grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        frontal = self._run(self._frontal, grey)
        profile = self._run(self._profile, grey)
        mirrored = self._run(self._profile, np.ascontiguousarray(grey[:, ::-1]))
        mirrored[:, [0, 2]] = grey.shape[1] - mirrored[:, [2, 0]]
        found = np.concatenate([frontal, profile, mirrored])
        return suppress(pack(found[:, :4], found[:, 4], scale), OVERLAP)

    def _run(self, cascade: Any, grey: Any) -> FloatArray:
        rectangles, _, weights = cascade.detectMultiScale3(grey, 1.1, 3, minSize=(20, 20), outputRejectLevels=True)
        boxes = np.array(rectangles, np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return np.concatenate([boxes, np.array(weights, np.float32).reshape(-1, 1)], axis=1)
