"""Result files of the COFW-68 benchmark, in which methods publish their predictions (Ghiasi and Fowlkes, 2015).

A record is four lines: the image's number, then 68 x, 68 y and 68 occlusion flags. Records come in any order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facemsm.errors import FacemsmError
from facemsm.files import read_text
from facemsm.typing import BoolArray, FloatArray, IntArray, PathLike

_POINTS = 68


@dataclass(frozen=True)
class Cofw68Results:
    """Predictions of one method, sorted by image number.

    Attributes:
        numbers: (N,) int64, distinct; number n belongs to the annotation ``n_points.mat``, so they start at 1.
        points: (N, 68, 2) float32, 0-based photo pixels (the file is 1-based).
        occluded: (N, 68) bool; all False for methods that do not predict occlusion.
    """

    numbers: IntArray
    points: FloatArray
    occluded: BoolArray


def read_cofw68_results(path: PathLike) -> Cofw68Results:
    """Read a result file. It need not hold every image of the benchmark.

    Raises:
        FacemsmError: the file cannot be read or is empty, a line has the wrong number of values or a value that is not
            a number, a flag is not 0 or 1, a record is cut short, or an image has two records.
    """
    text = read_text(Path(path))
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise FacemsmError(f"{path}: is empty; a record of 4 lines is expected for each image")
    if len(lines) % 4:
        raise FacemsmError(
            f"{path}, line {lines[-1][0]}: the last record is cut short; each has 4 lines (number, x, y, flags)"
        )
    records = [_record(path, lines[start : start + 4]) for start in range(0, len(lines), 4)]

    numbers = np.array([number for number, _ in records])
    first_line: dict[int, int] = {}
    for (number, _), (line, _) in zip(records, lines[::4], strict=True):
        if number in first_line:
            raise FacemsmError(
                f"{path}, line {line}: image {number} has a record already, in line {first_line[number]}"
            )
        first_line[number] = line
    order = np.argsort(numbers)
    x, y, occluded = np.stack([values for _, values in records])[order].swapaxes(0, 1)
    return Cofw68Results(
        numbers=numbers[order],
        points=(np.stack([x, y], axis=-1) - 1).astype(np.float32),
        occluded=occluded.astype(bool),
    )


def _record(path: PathLike, lines: list[tuple[int, list[str]]]) -> tuple[int, NDArray[np.float64]]:
    """Image number and (3, 68) x, y, flags."""
    (first, head), *rows = lines
    if not re.fullmatch(r"[1-9][0-9]{0,8}", " ".join(head)):
        raise FacemsmError(f"{path}, line {first}: expected an image number (1, 2, ...), found {_shown(head)}")
    values = []
    for name, (line, row) in zip(("x", "y", "flag"), rows, strict=True):
        if len(row) != _POINTS:
            raise FacemsmError(f"{path}, line {line}: expected {_POINTS} {name} values, found {len(row)}")
        try:
            numbers = np.array([float(word) for word in row])
        except ValueError:
            raise FacemsmError(f"{path}, line {line}: expected numbers, found {_shown(row)}") from None
        if not (np.abs(numbers) < 1e6).all():  # nor where NaN
            raise FacemsmError(
                f"{path}, line {line}: a {name} value is no pixel; leave the record of a missed face out"
            )
        values.append(numbers)
    if not np.isin(values[2], (0, 1)).all():
        raise FacemsmError(f"{path}, line {rows[2][0]}: occlusion flags must be 0 or 1")
    return int(head[0]), np.stack(values)


def _shown(words: list[str]) -> str:
    text = " ".join(words)
    return repr(text if len(text) <= 40 else text[:37] + "...")
