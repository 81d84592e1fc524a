"""Published error distributions of other methods on the 300-W private test set.

MenpoBenchmark (https://github.com/jiankangdeng/MenpoBenchmark) has the curves of the 300-W challenges' best entries,
which the paper's Fig. 9 shows, in ``Evaluation/300W/300W_test_all.mat``: ``x``, inter-ocular errors as fractions;
``y``, for each method a column of the share of faces with that error or less; ``methods``, their names.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facemsm.data.matlab import load_mat5, load_mat5_numbers
from facemsm.errors import FacemsmError
from facemsm.typing import Array

Curve = tuple[Array, Array]
"""Errors (M,) as fractions of the normaliser, ascending, and the shares (M,) of faces with that error or less."""


def read_curves(path: Path) -> dict[str, Curve]:
    """The curves of a file of MenpoBenchmark by the names of their methods.

    Raises:
        AbsentError: no such file.
        FacemsmError: it cannot be read, or holds something else.
    """
    x, y = (load_mat5_numbers(path, name) for name in ("x", "y"))
    cells = load_mat5(path, "methods")
    methods = [cell[0] if isinstance(cell, list) and len(cell) == 1 else cell for cell in cells]
    x = x.reshape(-1)
    y = y.T if y.shape == (len(methods), len(x)) != (len(x), len(methods)) else y
    if y.shape != (len(x), len(methods)) or not all(isinstance(method, str) for method in methods):
        raise FacemsmError(f"{path}: y is {y.shape}, expected a column for each of {len(methods)} names in methods")
    if not (np.diff(x) > 0).all() or not (np.diff(y, axis=0) >= 0).all() or y.min() < 0 or y.max() > 1:
        raise FacemsmError(f"{path}: expected ascending errors x, and shares y from 0 to 1 that do not fall")
    return {method: (x, y[:, i]) for i, method in enumerate(methods)}
