"""ONNX Runtime, set up the one way that facemsm uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime

from facemsm.errors import FacemsmError
from facemsm.typing import FloatArray, Image


class Network:
    """A network with one input and one output on the CPU.

    Args:
        path: an ONNX file.
        threads: CPU threads for one run.

    Raises:
        FacemsmError: the file is not a network that ONNX Runtime can run.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Dark heatmaps are full of vanishing numbers, which processors handle a hundred times slower.
        # NumPy looks up its float limits once; before the switch, or older ones warn that denormals are gone.
        np.finfo(np.float32), np.finfo(np.float64)
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise FacemsmError(f"{path}: not a network that ONNX Runtime can run ({_first_line(error)})") from error
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: Image) -> FloatArray:
        """The output for images (N, S, S, 3) uint8 RGB."""
        outputs: list[Any] = self._session.run(None, {self._input: images})
        return cast(FloatArray, np.asarray(outputs[0], dtype=np.float32))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
