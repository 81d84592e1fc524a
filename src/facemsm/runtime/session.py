"""ONNX Runtime, set up the one way that facemsm uses it.

Every network takes ``images`` (N, S, S, 3) uint8 RGB. Stage 1 emits ``theta`` (N, 2, 3). Stage 2 is any network that
emits ``points`` (N, L, 2) in canonical pixels, ``scores`` (N, L) of Eq. 9 and ``spread`` (N, L, 3), as in
:class:`facemsm.heatmaps.Decoded`. It may also emit ``heatmaps`` (N, k, k, L, side, side): entry ``[n, a, b, l, y, x]``
is cell ``(k y + a, k x + b)``. All are float32, but heatmaps may be uint8; the file's metadata ``heatmaps scale`` and
``heatmaps zero`` then say what they stand for. Files are whole: none keeps weights in another one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from facemsm.errors import FacemsmError, check_number, first_line, short
from facemsm.files import read_bytes
from facemsm.heatmaps import HeatmapCodec
from facemsm.runtime.network_file import LARGEST_FILE, check_network
from facemsm.runtime.providers import CPU, execution_providers
from facemsm.typing import FloatArray, Image, Provider
from facemsm.weights import WEIGHTS

CHUNK = 2
"""Images that the processor works on at once. More take longer each, as feature maps leave its cache."""

LANDMARKS = ("points", "scores", "spread")
"""What stage 2 emits."""

_LARGEST_VALUE = 1e6
"""Of points in px, scores and spreads in px²: far beyond any face, and small enough to be squared."""

MOST_MEMORY = (2 << 30) + (os.cpu_count() or 1) * (1 << 28)
"""Bytes that all networks of others hold together when they run, as many at once as there are cores. Bundled ones take
some 50 MB each; a file of a few bytes may ask for any number."""

_OF_PARENTS: list[Any] = []
"""Sessions of before a fork, whose threads are not here and whose locks may be held for ever: to end one would wait."""

Shape = Sequence[int | str | None]
"""None is any size; ONNX Runtime gives sizes that may vary a name."""


class Session:
    """A network in ONNX Runtime. It can be pickled, and opens its file anew there and after a fork.

    One that did not come with facemsm may hold anything: its file is looked through before it is loaded, and the memory
    that it takes of the processor's when it runs is bounded (``MOST_MEMORY``). To load it may take some 4 GB.

    Args:
        path: an ONNX file.
        threads: CPU threads of one :meth:`run`.
        providers: as for :func:`facemsm.runtime.providers.execution_providers`; none for the CPU.

    Raises:
        FacemsmError: the file is not a network that ONNX Runtime can run, or one that is refused (see
            :func:`facemsm.runtime.network_file.check_network`); a provider is not there or does not start.
    """

    def __init__(self, path: Path, threads: int = 1, providers: Sequence[Provider] = ()) -> None:
        self.path, self.threads, self.providers = path, threads, providers
        self._open()

    def _open(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3 if self.providers else 4  # errors are raised; providers only tell of theirs
        options.add_session_config_entry("session.load_model_format", "ONNX")
        content = read_bytes(self.path, LARGEST_FILE)
        chosen = execution_providers(self.providers) if self.providers else [(CPU, {})]
        try:
            if not self.path.is_relative_to(WEIGHTS):
                check_network(content)
                _bound_memory()
                options.add_session_config_entry("session.use_env_allocators", "1")
            self._session = onnxruntime.InferenceSession(content, options, providers=chosen, enable_fallback=0)
        except Exception as error:
            raise FacemsmError(f"{self.path}: not a network that ONNX Runtime can run ({first_line(error)})") from error
        started = self._session.get_providers()
        if missing := [name for name, _ in chosen if name not in started]:  # ONNX Runtime goes on without it
            raise FacemsmError(
                f"provider {missing[0]!r} does not start; ONNX Runtime says why above, its driver perhaps"
            )
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[Session], tuple[Path, int, Sequence[Provider]]]:
        return Session, (self.path, self.threads, self.providers)

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says of itself."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    @property
    def inputs(self) -> dict[str, tuple[str, Shape]]:
        """Type, such as ``tensor(float)``, and shape of each input."""
        return {value.name: (value.type, value.shape) for value in self._session.get_inputs()}

    @property
    def outputs(self) -> dict[str, tuple[str, Shape]]:
        """Type and shape of each output."""
        return {value.name: (value.type, value.shape) for value in self._session.get_outputs()}

    def run(self, outputs: Sequence[str] | None, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs, all if None. Several threads may call it at once.

        Raises:
            FacemsmError: ONNX Runtime cannot run the network on the inputs.
        """
        if self._process != os.getpid():
            _OF_PARENTS.append(self._session)
            self._open()
        try:
            values: list[NDArray[Any]] = self._session.run(outputs, inputs)
        except Exception as error:
            raise FacemsmError(f"{self.path}: cannot be run ({first_line(error)}); export the model again") from error
        return values


@lru_cache(1)
def _bound_memory() -> None:
    """Give this process an allocator of at most ``MOST_MEMORY``, for the sessions that ask for it."""
    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(MOST_MEMORY, -1, -1, -1))


class Network:
    """A stage's network. A call takes one thread of the CPU; several threads may call it at once.

    Args:
        path: an ONNX file.
        outputs: names of those it is asked for; the others stay in the runtime.
        landmarks: L that it must emit; None takes any.
        codec: for the sides of images and heatmaps; None takes any.
        providers: as for :class:`Session`.

    Raises:
        FacemsmError: as :class:`Session`, or the network has no such output, or takes or emits something of another
            type or shape.
    """

    def __init__(
        self,
        path: Path,
        outputs: Sequence[str],
        *,
        landmarks: int | None = None,
        codec: HeatmapCodec | None = None,
        providers: Sequence[Provider] = (),
    ) -> None:
        self._session, self._outputs = Session(path, providers=providers), list(outputs)
        self._size = codec.size if codec else None
        there, side = self._session.outputs, codec.input_size if codec else None
        self._shapes: dict[str, Shape] = {
            "images": (None, side, side, 3),
            "theta": (None, 2, 3),
            "points": (None, landmarks, 2),
            "scores": (None, landmarks),
            "spread": (None, landmarks, 3),
            "heatmaps": (None, None, None, landmarks, None, None),
        }
        types = {"images": ["tensor(uint8)"], "heatmaps": ["tensor(float)", "tensor(uint8)"]}
        if missing := [name for name in outputs if name not in there]:
            raise FacemsmError(f"{path}: has no output {missing[0]!r}; export the model again")
        if list(self._session.inputs) != ["images"]:
            raise FacemsmError(f"{path}: takes {list(self._session.inputs)}, not 'images'; export the model again")
        for name, (kind, shape) in [*self._session.inputs.items(), *((name, there[name]) for name in outputs)]:
            if kind not in types.get(name, ["tensor(float)"]) or not _fits(shape, self._shapes[name]):
                raise self._unfit(name, f"{kind} {list(shape)}")
        self._scale, self._zero = np.float32(1), np.float32(0)
        if "heatmaps" in outputs and there["heatmaps"][0] == "tensor(uint8)":
            self._scale, self._zero = (self._number(f"heatmaps {what}") for what in ("scale", "zero"))

    def __call__(self, images: Image) -> list[FloatArray]:
        """The outputs for images (N, S, S, 3) uint8 RGB, in the order they were named.

        Raises:
            FacemsmError: the network cannot be run on them, or emits another shape than it says, or no numbers.
        """
        size = max(len(images), 1) if self._session.providers else CHUNK  # accelerators want many at once
        chunks = [images[i : i + size] for i in range(0, max(len(images), 1), size)]
        found = zip(*(self._checked(chunk) for chunk in chunks), strict=True)
        values = [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in found]
        return [
            self._in_order(value) if name == "heatmaps" else value
            for name, value in zip(self._outputs, values, strict=True)
        ]

    def _checked(self, images: Image) -> list[NDArray[Any]]:
        values = self._session.run(self._outputs, {"images": images})
        for name, value in zip(self._outputs, values, strict=True):
            if len(value) != len(images) or not _fits(value.shape, self._shapes[name]):
                raise self._unfit(name, f"{list(value.shape)} for {len(images)} images")
            if name in LANDMARKS and not (np.abs(value) < _LARGEST_VALUE).all():  # of theta Aligner thinks itself
                raise self._unfit(name, "no numbers, or numbers without bounds,")
        return values

    def _in_order(self, parts: NDArray[Any]) -> FloatArray:
        """Heatmaps (N, L, S, S) of what the network emits."""
        faces, down, across, landmarks, height, width = parts.shape
        heatmaps = parts.transpose(0, 3, 4, 1, 5, 2).reshape(faces, landmarks, down * height, across * width)
        if not _fits(heatmaps.shape, (None, None, self._size, self._size)):
            raise self._unfit("heatmaps", f"{list(parts.shape)} for {self._size} cells a side")
        if heatmaps.dtype == np.uint8:
            heatmaps = (heatmaps - self._zero) * self._scale
        return np.asarray(heatmaps)

    def _number(self, name: str) -> np.float32:
        """A number of the file's metadata."""
        text = self._session.metadata.get(name, "")
        try:
            check_number(name, float(text), -_LARGEST_VALUE, _LARGEST_VALUE)
        except ValueError as error:
            raise FacemsmError(f"{self._session.path}: {name!r} is {short(text)}; export the model again") from error
        value: np.float32 = np.float32(text)
        return value

    def _unfit(self, name: str, found: str) -> FacemsmError:
        wanted = [size or "any" for size in self._shapes.get(name, ())]
        return FacemsmError(
            f"{self._session.path}: {name!r} is {found} where {wanted} is needed; export the model again"
        )


def _fits(shape: Shape, expected: Shape) -> bool:
    """Whether sizes agree wherever both are known."""
    pairs = zip(shape, expected, strict=False)
    return len(shape) == len(expected) and all(a == b for a, b in pairs if isinstance(a, int) and b is not None)
