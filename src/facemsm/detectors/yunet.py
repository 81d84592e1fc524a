"""YuNet through OpenCV (4.8 or later, 5 included), with a model file that the user names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from facemsm.detectors.boxes import pack, shrink
from facemsm.errors import FacemsmError
from facemsm.typing import FloatArray, Image, PathLike

SIZE, THRESHOLD = 640, 0.6
"""Longest side in pixels at which the network sees a photo, and least confidence of a face."""
_OVERLAP = 0.3
_MOST = 5000


class YuNet:
    """YuNet (Wu, Peng, Yu: YuNet: A Tiny Millisecond-level Face Detector, 2023) from its ONNX file.

    Args:
        model: ``face_detection_yunet_2023mar.onnx`` or a later one of the OpenCV model zoo.

    Raises:
        FacemsmError: OpenCV cannot read the file, or it is no YuNet.
    """

    name = "yunet"

    def __init__(self, model: PathLike) -> None:
        if not Path(model).is_file():
            raise FacemsmError(f"{model}: no such file; give the path of a YuNet model (face_detection_yunet_*.onnx)")
        try:
            self._network = cv2.FaceDetectorYN.create(str(model), "", (32, 32), THRESHOLD, _OVERLAP, _MOST)
            self.detect(np.zeros((32, 32, 3), np.uint8))
        except cv2.error as error:
            raise FacemsmError(f"{model}: not a YuNet model that OpenCV {cv2.__version__} can run") from error

    def detect(self, image: Image) -> FloatArray:
        """See :meth:`facemsm.detectors.FaceDetector.detect`."""
        small, scale = shrink(image, SIZE)
        self._network.setInputSize((small.shape[1], small.shape[0]))
        _, found = self._network.detect(np.ascontiguousarray(small[:, :, ::-1]))
        rows = np.zeros((0, 15), np.float32) if found is None else np.asarray(found, np.float32)
        return pack(np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1), rows[:, 14], scale)
