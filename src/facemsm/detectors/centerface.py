"""CenterFace on ONNX Runtime, the default detector.

Xu, Yan, Yang, Ma, Zhang, Gao: CenterFace: Joint Face Detection and Alignment Using Face as Point, 2020. The network
gives, on a grid of every fourth pixel, the probability of a face centre, its sub-cell offset and the log of its size.
The weights are the authors', MIT licence, slimmed by :mod:`facemsm.detectors.convert`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from facemsm.detectors.boxes import pack, shrink, suppress
from facemsm.runtime.session import Session
from facemsm.typing import FloatArray, Image, Provider

_STRIDE = 4
_MULTIPLE = 32  # the coarsest level of the network; sides must divide by it
_OVERLAP = 0.3


class CenterFace:
    """CenterFace, weights included.

    Args:
        size: longest side in pixels at which the network sees a photo; larger photos are shrunk.
        threshold: least confidence of a face.
        threads: CPU threads of one :meth:`detect`.
        providers: as for :func:`facemsm.runtime.providers.execution_providers`; none for the CPU.
    """

    name = "centerface"

    def __init__(
        self, *, size: int = 576, threshold: float = 0.4, threads: int = 1, providers: Sequence[Provider] = ()
    ) -> None:
        self._session = Session(Path(str(files("facemsm.weights") / "centerface.onnx")), threads, providers)
        self._size = size
        self._threshold = threshold

    def detect(self, image: Image) -> FloatArray:
        """See :meth:`facemsm.detectors.FaceDetector.detect`. Boxes run from brow to chin, about ear to ear."""
        small, scale = shrink(image, self._size)
        height, width = small.shape[:2]
        batch = np.zeros((1, 3, -height % _MULTIPLE + height, -width % _MULTIPLE + width), np.float32)
        batch[0, :, :height, :width] = small.transpose(2, 0, 1)
        heatmap, log_size, offset = (output[0] for output in self._session.run(None, {"image": batch}))
        cells = np.stack(np.nonzero(heatmap[0] >= self._threshold))  # (2, N): row, column, as in the outputs
        centre = (cells + offset[:, cells[0], cells[1]] + 0.5) * _STRIDE
        half = np.exp(log_size[:, cells[0], cells[1]]) * (_STRIDE / 2)
        corners = np.concatenate([centre - half, centre + half])[[1, 0, 3, 2]].T
        return suppress(pack(corners, heatmap[0, cells[0], cells[1]], scale), _OVERLAP)
