"""YuNet through OpenCV (4.8 or later, 5 included), with a model file that the user names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from facemsm.detectors.boxes import pack, shrink
from facemsm.errors import FacemsmError
from facemsm.typing import FloatArray, Image, PathLike

_OVERLAP = 0.3
_MOST = 5000


class YuNet:
    """YuNet (Wu, Peng, Yu: YuNet: A Tiny Millisecond-level Face Detector, 2023) from its ONNX file.

    Args:
        model: ``face_detection_yunet_2023mar.onnx`` or a later one of the OpenCV model zoo.
        size: longest side in pixels at which the network sees a photo; larger photos are shrunk.
        threshold: least confidence of a face.

    Raises:
        FacemsmError: OpenCV cannot read the file, or it is no YuNet.
    """

    name = "yunet"

    def __init__(self, model: PathLike, *, size: int = 640, threshold: float = 0.6) -> None:
        if not Path(model).is_file():
            raise FacemsmError(f"{model}: no such file; give the path of a YuNet model (face_detection_yunet_*.onnx)")
        self._model = str(model)
        self._size = size
        try:
            self._network = cv2.FaceDetectorYN.create(self._model, "", (32, 32), threshold, _OVERLAP, _MOST)
            self.detect(np.zeros((32, 32, 3), np.uint8))
        except cv2.error as error:
            raise FacemsmError(f"{model}: not a YuNet model that OpenCV {cv2.__version__} can run") from error

    def detect(self, image: Image) -> FloatArray:
        """See :meth:`facemsm.detectors.FaceDetector.detect`."""
        small, scale = shrink(image, self._size)
        self._network.setInputSize((small.shape[1], small.shape[0]))
        _, found = self._network.detect(np.ascontiguousarray(small[:, :, ::-1]))
        rows = np.zeros((0, 15), np.float32) if found is None else np.asarray(found, np.float32)
        return pack(np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1), rows[:, 14], scale)
