"""Faces in a CSV file, one per line, for converting anybody's own annotations.

The first line names the columns, in any order:

- ``image``: the photo, relative to the file's folder or to ``images/`` in it;
- ``x0,y0,x1,y1,...``: the points, 0-based pixels; both empty where a point is unlabelled;
- ``v0,v1,...`` (optional): visibility, 2 visible, 1 occluded but located, 0 unlabelled;
- ``x_min,y_min,x_max,y_max`` (optional): the provided box;
- any others: attributes of the face, kept as text.

HRNet's files for 300-W and WFLW (``face_landmarks_300w_train.csv``) have the columns ``image_name``, ``scale``,
``center_w``, ``center_h``, ``original_0_x``, ``original_0_y``, ...; those of 300-W are 1-based and become 0-based here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from facemsm.data.reading import (
    NO_POINTS,
    DatasetItem,
    Skipped,
    check_box,
    check_points,
    find_photo,
    ground_truth_box,
    number,
    reject_duplicate,
    try_read,
)
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import AbsentError, FacemsmError
from facemsm.files import Row, read_rows
from facemsm.schemes import UNLABELLED, LandmarkScheme

_BOX = ("x_min", "y_min", "x_max", "y_max")


def read_csv(path: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:  # noqa: ARG001
    """The faces of a CSV file, named after their photo, and ``#`` and the line where it shows several.

    Raises:
        FacemsmError: the file cannot be read or lacks a column.
    """
    header, rows = read_rows(path)
    count = scheme.count
    axes = [f"{axis}{i}" for i in range(count) for axis in "xy"]
    flags = [f"v{i}" for i in range(count)]
    flagged = "v0" in header
    needed = ["image", *axes, *(flags if flagged else ())]
    missing = [column for column in needed if column not in header]
    if missing:
        raise FacemsmError(
            f"{path}:1: no column {missing[0]!r}, expected {count} points and the columns {needed[0]}, {needed[1]}, ..."
        )
    if box_source == "provided" and not set(_BOX) <= set(header):
        raise AbsentError(f"{path}:1: has no columns {', '.join(_BOX)}; add them, or use boxes 'gt'")
    beyond = [column for column in (f"x{count}", f"v{count}") if column in header]
    if beyond:
        raise FacemsmError(f"{path}:1: has a column {beyond[0]!r}, expected {count} points, 0 to {count - 1}")
    extra = [column for column in header if column not in {"image", *axes, *flags, *_BOX}]

    def face(row: Mapping[str, str], where: str, name: str) -> FaceSample | Skipped:
        photo = find_photo(row["image"], where, path.parent, path.parent / "images")
        values = [number(row[axis], f"{where} ({axis})") if row[axis] else np.nan for axis in axes]
        points = check_points(np.array(values).reshape(-1, 2), count, where)
        visibility = None
        if flagged:
            if not {row[flag] for flag in flags} <= {"0", "1", "2"}:
                raise FacemsmError(f"{where}: a visibility is not 0, 1 or 2")
            visibility = np.array([row[flag] for flag in flags]).astype(np.int8)
            points[visibility == UNLABELLED] = np.nan
            if np.any(np.isnan(points).any(axis=1) & (visibility != UNLABELLED)):
                raise FacemsmError(f"{where}: a point without coordinates has another visibility than 0")
        if np.isnan(points).all():
            return Skipped(name, NO_POINTS)
        if box_source == "provided":
            box = check_box(np.array([number(row[column], f"{where} ({column})") for column in _BOX]), where)
        else:
            box = ground_truth_box(points, where)
        return FaceSample(name, photo, box, box_source, points, visibility, {column: row[column] for column in extra})

    yield from _faces(path, rows, "image", face)


def read_hrnet(path: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:  # noqa: ARG001
    """The faces of a CSV file of HRNet's, named after their photo, and ``#`` and the line where it shows several.

    Raises:
        FacemsmError: the file cannot be read or lacks a column.
    """
    header, rows = read_rows(path)
    axes = [f"original_{i}_{axis}" for i in range(scheme.count) for axis in "xy"]
    for column in ("image_name", *axes):
        if column not in header:
            raise FacemsmError(f"{path}:1: no column {column!r}, expected HRNet's and {scheme.count} points")
    if f"original_{scheme.count}_x" in header:
        raise FacemsmError(f"{path}:1: has more than the {scheme.count} points of scheme {scheme.name}")

    def face(row: Mapping[str, str], where: str, name: str) -> FaceSample:
        folder = path.parent
        photo = find_photo(row["image_name"], where, folder, folder / "images", folder.parent / "images")
        values = np.array([number(row[axis], f"{where} ({axis})") for axis in axes]).reshape(-1, 2)
        points = check_points(values - float(len(values) == 68), len(values), where)
        return FaceSample(name, photo, ground_truth_box(points, where), "gt", points)

    yield from _faces(path, rows, "image_name", face)


def _faces(
    path: Path, rows: list[Row | FacemsmError], photo: str, read: Callable[[Mapping[str, str], str, str], DatasetItem]
) -> Iterator[DatasetItem]:
    """What ``read`` makes of each row, of where it stands and of the face's name; ``photo`` is the photo's column."""
    shown = Counter(entry[1][photo] for entry in rows if not isinstance(entry, FacemsmError))
    seen: dict[tuple[str, bytes], object] = {}
    for entry in rows:
        if isinstance(entry, FacemsmError):
            yield entry
            continue
        n, row = entry
        where = f"{path}:{n}"
        name = row[photo] if shown[row[photo]] == 1 else f"{row[photo]}#{n}"
        yield reject_duplicate(try_read(read, row, where, name), where, seen)
