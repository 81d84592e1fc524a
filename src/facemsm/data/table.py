"""Faces in a CSV file, one a line, for converting anybody's own annotations.

The first line names the columns, in any order:

- ``image``: the photo, relative to the file's folder or to ``images/`` in it;
- ``x0,y0,x1,y1,...``: the points, 0-based pixels; both empty where a point is unlabelled;
- ``v0,v1,...`` (optional): visibility, 2 visible, 1 occluded but located, 0 unlabelled;
- ``x_min,y_min,x_max,y_max`` (optional): the provided box;
- any others: attributes of the face, kept as text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from facemsm.data.reading import (
    Item,
    Skipped,
    check_box,
    check_points,
    find_photo,
    number,
    reject_duplicate,
    tight_box,
    try_read,
)
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import AbsentError, FacemsmError
from facemsm.files import read_rows
from facemsm.schemes import UNLABELLED

_BOX = ("x_min", "y_min", "x_max", "y_max")


def read_csv(path: Path, split: str, box_source: BoxSource, count: int) -> Iterator[Item]:  # noqa: ARG001
    """The faces of a CSV file, named after their photo, and ``#`` and the line where it shows several.

    Raises:
        FacemsmError: the file cannot be read or lacks a column.
    """
    header, rows = read_rows(path)
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
    shown = Counter(entry[1]["image"] for entry in rows if not isinstance(entry, FacemsmError))
    seen: dict[tuple[str, bytes], object] = {}
    for entry in rows:
        if isinstance(entry, FacemsmError):
            yield entry
            continue
        n, row = entry
        where = f"{path}:{n}"
        name = row["image"] if shown[row["image"]] == 1 else f"{row['image']}#{n}"
        attributes = {column: row[column] for column in extra}
        face = try_read(_face, row, where, name, path.parent, box_source, axes, flags if flagged else [], attributes)
        yield reject_duplicate(face, where, seen)


def _face(
    row: Mapping[str, str],
    where: str,
    name: str,
    folder: Path,
    box_source: BoxSource,
    axes: list[str],
    flags: list[str],
    attributes: Mapping[str, str],
) -> FaceSample | Skipped:
    photo = find_photo(row["image"], where, folder, folder / "images")
    values = [number(row[axis], f"{where} ({axis})") if row[axis] else np.nan for axis in axes]
    points = check_points(np.array(values).reshape(-1, 2), len(axes) // 2, where)
    visibility = None
    if flags:
        if not {row[flag] for flag in flags} <= {"0", "1", "2"}:
            raise FacemsmError(f"{where}: a visibility is not 0, 1 or 2")
        visibility = np.array([row[flag] for flag in flags]).astype(np.int8)
        points[visibility == UNLABELLED] = np.nan
        if np.any(np.isnan(points).any(axis=1) & (visibility != UNLABELLED)):
            raise FacemsmError(f"{where}: a point without coordinates has another visibility than 0")
    if np.isnan(points).all():
        return Skipped(name, "face without a labelled point")
    if box_source == "provided":
        box = check_box(np.array([number(row[column], f"{where} ({column})") for column in _BOX]), where)
    else:
        box = tight_box(points, where)
    return FaceSample(name, photo, box, box_source, points, visibility, attributes)
