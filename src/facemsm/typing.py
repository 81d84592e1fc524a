"""Types used throughout. Shapes of arrays are given where an array is used."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""(H, W, 3) uint8, RGB."""

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
PathLike = str | os.PathLike[str]
Provider = str | tuple[str, Mapping[str, Any]]
"""Of :func:`facemsm.runtime.providers.execution_providers`."""

Method = Literal["calibrated", "paper"]
"""What follows stages 1 and 2, see :class:`facemsm.stages.Settings`."""

T = TypeVar("T")


class Progress(Protocol):
    """Hands items on one by one, and may show how many are done."""

    def __call__(self, items: Sequence[T], what: str) -> Iterable[T]:
        """``what`` names the items or what is done to them."""


def untracked(items: Sequence[T], what: str) -> Iterable[T]:  # noqa: ARG001
    """A :class:`Progress` that shows nothing."""
    return items
