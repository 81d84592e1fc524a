"""ONNX Runtime, set up the one way that facemsm uses it.

Every network takes ``images`` (N, S, S, 3) uint8 RGB. Stage 1 emits ``theta`` (N, 2, 3). Stage 2 is any network that
emits ``points`` (N, L, 2) in canonical pixels, ``scores`` (N, L) of Eq. 9 and ``spread`` (N, L, 3), as in
:class:`facemsm.heatmaps.Decoded`. It may also emit ``heatmaps`` (N, k, k, L, side, side): entry ``[n, a, b, l, y, x]``
is cell ``(k y + a, k x + b)``. All are float32, but heatmaps may be uint8; the file's metadata ``heatmaps scale`` and
``heatmaps zero`` then say what they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from facemsm.errors import FacemsmError
from facemsm.typing import FloatArray, Image

CHUNK = 2
"""Images that go through a network at once. More take longer each, as feature maps leave the processor's cache."""

LANDMARKS = ("points", "scores", "spread")
"""What stage 2 emits."""


class Network:
    """A network on the CPU. A call takes one thread; several threads may call it at once.

    Args:
        path: an ONNX file.
        outputs: names of those it is asked for; the others stay in the runtime.

    Raises:
        FacemsmError: the file is not a network that ONNX Runtime can run, or it has no such output.
    """

    def __init__(self, path: Path, outputs: Sequence[str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise FacemsmError(f"{path}: not a network that ONNX Runtime can run ({_first_line(error)})") from error
        self._outputs = list(outputs)
        self._notes = self._session.get_modelmeta().custom_metadata_map
        there = {output.name for output in self._session.get_outputs()}
        if missing := [name for name in outputs if name not in there]:
            raise FacemsmError(f"{path}: has no output {missing[0]!r}; export the model again")

    def __call__(self, images: Image) -> list[FloatArray]:
        """The outputs for images (N, S, S, 3) uint8 RGB, in the order they were named."""
        chunks = [images[i : i + CHUNK] for i in range(0, max(len(images), 1), CHUNK)]
        found = zip(*(self._session.run(self._outputs, {"images": chunk}) for chunk in chunks), strict=True)
        values = [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in found]
        return [
            self._in_order(value) if name == "heatmaps" else value
            for name, value in zip(self._outputs, values, strict=True)
        ]

    def _in_order(self, parts: NDArray[Any]) -> FloatArray:
        """Heatmaps (N, L, S, S) of what the network emits."""
        faces, k, _, landmarks, side, _ = parts.shape
        heatmaps = parts.transpose(0, 3, 4, 1, 5, 2).reshape(faces, landmarks, k * side, k * side)
        if heatmaps.dtype == np.uint8:
            scale, zero = (np.float32(self._notes[f"heatmaps {what}"]) for what in ("scale", "zero"))
            heatmaps = (heatmaps - zero) * scale
        return np.asarray(heatmaps)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
