"""What runs the networks: the processor or, through an execution provider of ONNX Runtime, an accelerator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from facemsm.errors import FacemsmError, short
from facemsm.typing import Provider

CPU = "CPUExecutionProvider"

PROVIDERS = {
    "cpu": CPU,
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""Short names, and ONNX Runtime's."""

_INSTEAD = "pip uninstall onnxruntime, then pip install"  # all packages bring the one module onnxruntime
_REMEDIES = {
    "CUDAExecutionProvider": f"{_INSTEAD} onnxruntime-gpu",
    "CoreMLExecutionProvider": "pip install onnxruntime on macOS",
    "DmlExecutionProvider": f"{_INSTEAD} onnxruntime-directml",
    "OpenVINOExecutionProvider": f"{_INSTEAD} onnxruntime-openvino",
}

MAX_THREADS = 1024
"""More than any machine has cores; each is started at once, and millions would bring it down."""


def execution_providers(wanted: Sequence[Provider]) -> list[tuple[str, dict[str, Any]]]:
    """Names and options as ONNX Runtime takes them, in the same order, the processor last: it runs what others cannot.

    Args:
        wanted: short names or ONNX Runtime's own, alone or with options: ``("cuda", {"device_id": 1})``.

    Raises:
        FacemsmError: the installed ONNX Runtime has no such provider, or it is no name, nor one with options.
    """
    import onnxruntime

    chosen: dict[str, dict[str, Any]] = {}
    there = onnxruntime.get_available_providers()
    for entry in [wanted] if isinstance(wanted, str) else wanted:
        try:
            given, options = (entry, {}) if isinstance(entry, str) else (str(entry[0]), dict(entry[1]))
        except (TypeError, ValueError, IndexError) as error:
            raise FacemsmError(f'provider {short(entry)}: give a name, or ("cuda", {{"device_id": 1}})') from error
        name = PROVIDERS.get(given.lower(), given)
        if name not in there:
            remedy = _REMEDIES.get(name, f"choose from {', '.join(PROVIDERS)}")
            raise FacemsmError(f"provider {given!r}: the installed ONNX Runtime has only {', '.join(there)}; {remedy}")
        chosen[name] = options
    processor = chosen.pop(CPU, {})
    return [*chosen.items(), (CPU, processor)]
