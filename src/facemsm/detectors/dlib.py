"""dlib's frontal face detector: histograms of oriented gradients and a linear classifier per view."""

from __future__ import annotations

import dlib
import numpy as np

from facemsm.detectors.boxes import pack, shrink
from facemsm.typing import FloatArray, Image


class DlibHog:
    """dlib's HOG detector (package ``dlib-bin``). Its windows are 80 px; faces below need ``upsample``.

    Args:
        size: longest side in pixels at which the detector sees a photo; larger photos are shrunk.
        upsample: how often the photo is doubled first.
        threshold: least score of a face.
    """

    name = "dlib"

    def __init__(self, *, size: int = 800, upsample: int = 1, threshold: float = 0.0) -> None:
        self._detector = dlib.get_frontal_face_detector()
        self._size = size
        self._upsample = upsample
        self._threshold = threshold

    def detect(self, image: Image) -> FloatArray:
        """See :meth:`facemsm.detectors.FaceDetector.detect`. Boxes are square, brow to chin."""
        small, scale = shrink(image, self._size)
        rectangles, scores, _ = self._detector.run(small, self._upsample, self._threshold)
        corners = [(r.left(), r.top(), r.right() + 1, r.bottom() + 1) for r in rectangles]
        return pack(np.array(corners, np.float32), scores, scale)
