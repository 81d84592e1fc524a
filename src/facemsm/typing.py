"""Array types used throughout. Shapes are given where an array is used."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""(H, W, 3) uint8, RGB."""

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
PathLike = str | os.PathLike[str]
