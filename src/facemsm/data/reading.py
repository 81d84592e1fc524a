"""What the readers share: one kind of stream, and strict parsing.

A reader is a generator of :data:`Item`: a face, a face left out on purpose, or the error that stands in its place.
Reading strictly raises the first error; checking collects them all. Neither needs to know the format.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from facemsm.data.sample import FaceSample
from facemsm.errors import FacemsmError
from facemsm.typing import FloatArray, Image

_LARGEST = 1e6  # pixels; no photo is as large, and float32 still holds it to a tenth of a pixel

Floats = NDArray[np.floating[Any]]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Skipped:
    """A face or photo left out on purpose; ``reason`` is the same for all of a kind, so that they can be counted."""

    name: str
    reason: str


@dataclass(frozen=True)
class NoPhoto:
    """Stands for the photo of a face that has none on disk; loading it is an error."""

    why: str

    def __call__(self) -> Image:
        """Raise ``FacemsmError``, always."""
        raise FacemsmError(self.why)


Item = FaceSample | Skipped | FacemsmError


def try_read(read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | FacemsmError:
    """``read(...)``, or its error as a value, so that one broken face does not end the stream."""
    try:
        return read(*args, **kwargs)
    except FacemsmError as error:
        return error


def collect_errors(items: Iterable[Item]) -> Iterator[Item]:
    """The stream with an error raised by the reader itself as its last item, and one error for each name used twice."""
    seen: set[str] = set()
    try:
        for item in items:
            if isinstance(item, FaceSample):
                if item.name in seen:
                    yield FacemsmError(f"{_where(item)}: two faces are called {item.name!r}; names must be unique")
                    continue
                seen.add(item.name)
            yield item
    except FacemsmError as error:
        yield error


def faces(items: Iterable[Item]) -> list[FaceSample]:
    """The faces of a stream.

    Raises:
        FacemsmError: the first error in the stream.
    """
    found = []
    for item in collect_errors(items):
        if isinstance(item, FacemsmError):
            raise item
        if isinstance(item, FaceSample):
            found.append(item)
    return found


def reject_duplicate(item: T, where: object, first: dict[tuple[str, bytes], object]) -> T | FacemsmError:
    """``item``, or the error that it is a face seen before: the same points in the same photo.

    Args:
        item: a face, or anything else, which passes.
        where: the file and line it stands at.
        first: where each face stood that was seen before; ``item`` is added.
    """
    if isinstance(item, FaceSample):
        before = first.setdefault((str(item.image), item.points.tobytes()), where)
        if before != where:
            return FacemsmError(f"{where}: the same photo and points as at {before}, expected each face once")
    return item


def find_photo(name: str, where: object, *folders: Path) -> Path:
    """The photo called ``name`` in the first of ``folders`` that has it. ``where`` is what names it, for the error.

    Raises:
        FacemsmError: none has it.
    """
    try:
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
    except (OSError, ValueError):  # a name no file can have: too long, or with a NUL
        pass
    raise FacemsmError(f"{where}: there is no photo {name[:200]!r} in {' or '.join(map(str, folders))}")


def number(token: str, where: object) -> float:
    """A coordinate written as text. ``where`` is file and line.

    Raises:
        FacemsmError: not a finite decimal number of at most a million.
    """
    try:
        value = float(token)
    except ValueError:
        value = math.nan
    if not abs(value) <= _LARGEST or "_" in token:  # float() takes 1_0; so would no other program
        raise FacemsmError(f"{where}: {token[:40]!r} is not a pixel coordinate, expected a number such as 114.168")
    return value


def check_points(points: Floats, count: int, where: object) -> FloatArray:
    """``points`` as (count, 2) float32.

    Raises:
        FacemsmError: another shape, or a coordinate beyond any photo or without its partner. NaN is unlabelled.
    """
    if points.shape != (count, 2):
        raise FacemsmError(f"{where}: points have shape {points.shape}, expected ({count}, 2)")
    missing = np.isnan(points)
    if np.any(missing[:, 0] != missing[:, 1]):
        raise FacemsmError(f"{where}: a point has only one coordinate, expected x and y, or neither")
    if np.any(np.abs(points[~missing]) > _LARGEST):
        raise FacemsmError(f"{where}: a coordinate is beyond any photo, expected pixels")
    return points.astype(np.float32)


def check_box(box: Floats, where: object) -> FloatArray:
    """``box`` as (4,) float32.

    Raises:
        FacemsmError: not four finite numbers, or without width or height.
    """
    if box.shape != (4,) or not np.all(np.abs(box) <= _LARGEST):
        raise FacemsmError(f"{where}: the box is not x_min, y_min, x_max, y_max in pixels")
    if box[2] <= box[0] or box[3] <= box[1]:
        raise FacemsmError(
            f"{where}: the box {np.round(box, 2).tolist()} has no area, expected x_min < x_max, y_min < y_max"
        )
    return box.astype(np.float32)


def tight_box(points: Floats, where: object) -> FloatArray:
    """The ground-truth box, (4,) float32: the smallest box around the labelled points of ``points`` (L, 2).

    Raises:
        FacemsmError: fewer than two labelled points, or all on one line along an axis.
    """
    labelled = points[~np.isnan(points).any(axis=1)]
    if len(labelled) == 0:
        raise FacemsmError(f"{where}: no labelled point")
    return check_box(np.concatenate([labelled.min(axis=0), labelled.max(axis=0)]), where)


def _where(sample: FaceSample) -> str:
    return str(getattr(sample.image, "path", sample.image))
