"""dlib's frontal face detector: histograms of oriented gradients and a linear classifier per view."""

from __future__ import annotations

import dlib
import numpy as np

from facemsm.detectors.boxes import pack, shrink
from facemsm.typing import FloatArray, Image

SIZE, UPSAMPLE, THRESHOLD = 800, 1, 0.0
"""Longest side in pixels at which it sees a photo, how often that is doubled, as its windows are 80 px, and least score
of a face."""


class DlibHog:
    """dlib's HOG detector (package ``dlib-bin``)."""

    name = "dlib"

    def __init__(self) -> None:
        self._detector = dlib.get_frontal_face_detector()

    def detect(self, image: Image) -> FloatArray:
        """See :meth:`facemsm.detectors.FaceDetector.detect`. Boxes are square, brow to chin."""
        small, scale = shrink(image, SIZE)
        rectangles, scores, _ = self._detector.run(small, UPSAMPLE, THRESHOLD)
        corners = [(r.left(), r.top(), r.right() + 1, r.bottom() + 1) for r in rectangles]
        return pack(np.array(corners, np.float32), scores, scale)
