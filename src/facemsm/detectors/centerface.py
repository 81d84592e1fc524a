"""CenterFace on ONNX Runtime, the default detector.

Xu, Yan, Yang, Ma, Zhang, Gao: CenterFace: Joint Face Detection and Alignment Using Face as Point, 2020. The network
gives, on a grid of every fourth pixel, the probability of a face centre, its sub-cell offset and the log of its size.
The weights are the authors', MIT licence, brought to 8 bits by ``tools/convert_centerface.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from facemsm.detectors.boxes import pack, shrink, suppress
from facemsm.runtime.session import Session
from facemsm.typing import FloatArray, Image, Provider

STRIDE = 4
MULTIPLE = 32  # the coarsest level of the network; sides must divide by it
OVERLAP = 0.3

SIZE = 576
"""Longest side in pixels at which the network sees a photo, unless told otherwise: the working size."""
THRESHOLD = 0.4
"""Least confidence of a face, unless told otherwise."""
GLANCE = 5 / 9
"""Size of a first look, of the working size. It is all if nothing in it is in doubt: there are faces, none below
``SMALLEST`` pixels there, and nothing that is face enough to be one at the working size."""
SMALLEST = 24
DOUBT = 3 / 8
"""Of the threshold: what scores above that may be a face."""
PAYS_FROM = 1.15
"""How many times as long as the first look the photo must be; at a smaller one the first look saves too little."""


class CenterFace:
    """CenterFace, weights included.

    Args:
        size: longest side in pixels at which the network sees a photo; larger photos are shrunk.
        threshold: least confidence of a face.
        providers: as for :func:`facemsm.runtime.providers.execution_providers`; none for the CPU.
    """

    name = "centerface"

    def __init__(self, *, size: int = SIZE, threshold: float = THRESHOLD, providers: Sequence[Provider] = ()) -> None:
        self._session = Session(Path(str(files("facemsm.weights") / "centerface.onnx")), providers=providers)
        self._size = size
        self._threshold = threshold

    def detect(self, image: Image) -> FloatArray:
        """See :meth:`facemsm.detectors.FaceDetector.detect`. Boxes run from brow to chin, about ear to ear."""
        photo, scale = shrink(image, self._size)
        glance = round(GLANCE * self._size)
        if max(photo.shape[:2]) > PAYS_FROM * glance:
            small, again = shrink(photo, glance)
            found = self._look(small, scale * again, DOUBT * self._threshold)
            sides = (found[:, 2:4] - found[:, :2]) * scale * again
            if len(found) and found[-1, 4] >= self._threshold and sides.prod(axis=1).min() >= SMALLEST**2:
                return found
        return self._look(photo, scale, self._threshold)

    def _look(self, photo: Image, scale: FloatArray, threshold: float) -> FloatArray:
        """The faces (N, 5) that the network sees, in pixels of the photo that was shrunk to this one by ``scale``."""
        height, width = photo.shape[:2]
        batch = np.zeros((1, -height % MULTIPLE + height, -width % MULTIPLE + width, 3), np.uint8)
        batch[0, :height, :width] = photo
        heatmap, log_size, offset = (output[0] for output in self._session.run(None, {"image": batch}))
        cells = np.stack(np.nonzero(heatmap[0] >= threshold))  # (2, N): row, column, as in the outputs
        centre = (cells + offset[:, cells[0], cells[1]] + 0.5) * STRIDE
        half = np.exp(log_size[:, cells[0], cells[1]]) * (STRIDE / 2)
        corners = np.concatenate([centre - half, centre + half])[[1, 0, 3, 2]].T
        return suppress(pack(corners, heatmap[0, cells[0], cells[1]], scale), OVERLAP)
