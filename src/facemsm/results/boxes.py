"""Face boxes from files, and which photo each belongs to."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from facemsm.errors import FacemsmError, printable
from facemsm.files import is_open_file, read_table, read_text
from facemsm.results.coco import read_document
from facemsm.results.jsonl import read_results
from facemsm.typing import FloatArray


def read_boxes(path: Path) -> dict[str, FloatArray]:
    """The boxes of a file, (N, 4) float32 for each photo it names; they are not checked against the photos.

    Names have forward slashes and no ``.`` or ``..`` that can be left out; two spellings of one are one photo.

    ``.csv``: a header with the columns image, x_min, y_min, x_max, y_max (others are ignored), one row per face.
    ``.json``: COCO, with ``images`` (id, file_name) and ``annotations`` (image_id, bbox as x, y, width, height).
    ``.jsonl``: results of an earlier run.
    What comes through a pipe is any of these, by its content.

    Raises:
        FacemsmError: the file cannot be read or is none of these; the message names file and line or field.
    """
    readers = {".csv": _boxes_of_csv, ".json": _boxes_of_coco, ".jsonl": _boxes_of_results}
    piped = path.is_fifo() or is_open_file(path)
    suffix = path.suffix.lower()
    if suffix not in readers and not piped:
        raise FacemsmError(f"{path}: boxes are read from .csv, .json (COCO) or .jsonl (earlier results) files")
    text = None
    if piped:
        text = read_text(path, named=True)
        suffix = _suffix_of(text)
    boxes: dict[str, list[list[float]]] = {}
    for name, rows in readers[suffix](path, text).items():
        boxes.setdefault(_normal(name), []).extend(rows)
    with np.errstate(over="ignore"):  # what is beyond float32 is not finite, and said so beside the photo
        return {name: np.asarray(rows, np.float32).reshape(-1, 4) for name, rows in boxes.items()}


def match_boxes(boxes: Mapping[str, FloatArray], photos: Sequence[Path], path: Path) -> dict[Path, FloatArray]:
    """The boxes of each photo. A name fits the photo whose path ends with it, the longest name first.

    Accents may be composed in one and apart in the other, as macOS and zip files have them.

    Args:
        boxes: by name, of :func:`read_boxes`.
        photos: the photos to find boxes for; those without are not in the answer.
        path: of the boxes file, for messages.

    Raises:
        FacemsmError: a name fits two photos, or no photo has boxes.
    """
    exact = {_parts(name): name for name in boxes}
    by_parts = {_composed(parts): name for parts, name in exact.items()} | exact
    owner: dict[str, Path] = {}
    for photo in photos:
        # resolve() would follow links to another name
        parts = _parts(os.path.abspath(photo))  # noqa: PTH100
        ends = [spelt[i:] for spelt in (parts, _composed(parts)) for i in range(len(parts))]
        name = next((by_parts[end] for end in ends if end in by_parts), None)
        if name is None:
            continue
        if name in owner:
            raise FacemsmError(f"{path}: image {name!r} fits both {owner[name]} and {photo}; name its folder too")
        owner[name] = photo
    if photos and not owner:
        example = f", such as {next(iter(boxes))!r}," if boxes else ""
        raise FacemsmError(
            f"{path}: none of its images{example} is among the photos; names must be ends of their paths"
        )
    return {photo: boxes[name] for name, photo in owner.items()}


def boxes_checksum(boxes: Mapping[str, FloatArray]) -> str:
    """What tells boxes from others, whatever file they come from."""
    digest = hashlib.blake2b(digest_size=8)
    for name, rows in sorted(boxes.items()):
        digest.update(json.dumps([name, rows.tolist()]).encode())
    return digest.hexdigest()


def _suffix_of(text: str) -> str:
    """That of a file with such a content."""
    if not text.lstrip().startswith("{"):
        return ".csv"
    try:
        first = json.loads(text.lstrip().partition("\n")[0])
    except (ValueError, RecursionError):
        return ".json"
    return ".jsonl" if "image" in first else ".json"


def _boxes_of_csv(path: Path, text: str | None) -> dict[str, list[list[float]]]:
    header, rows = read_table(path, text)
    columns = ["x_min", "y_min", "x_max", "y_max"]
    if missing := [column for column in ["image", *columns] if column not in header]:
        raise FacemsmError(f"{path}:1: has no column {missing[0]!r}; the header is image,x_min,y_min,x_max,y_max")
    boxes: dict[str, list[list[float]]] = {}
    for line, row in rows:
        if not row["image"]:
            raise FacemsmError(f"{path}:{line}: image is empty; name a photo")
        boxes.setdefault(row["image"], []).append(_floats([row[column] for column in columns], f"{path}:{line}"))
    return boxes


def _boxes_of_coco(path: Path, text: str | None) -> dict[str, list[list[float]]]:
    document = read_document(path, text)
    for fault in document.faults:
        raise fault
    boxes: dict[str, list[list[float]]] = {name: [] for name in document.photos.values()}
    for annotation in document.annotations:
        boxes[document.photo(annotation)].append(annotation.box().tolist())
    return boxes


def _boxes_of_results(path: Path, text: str | None) -> dict[str, list[list[float]]]:
    content = None if text is None else text.encode()
    # a photo that was done twice has one line that counts, not the faces of both
    return {
        _normal(result.image): [face.box.tolist() for face in result.faces] for result in read_results(path, content)
    }


def _normal(name: str) -> str:
    return posixpath.normpath(name.replace("\\", "/"))


def _parts(name: str) -> tuple[str, ...]:
    return PurePath(_normal(printable(name))).parts  # printable, as CSV files have them


def _composed(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(unicodedata.normalize("NFC", part) for part in parts)


def _floats(values: Any, where: str) -> list[float]:
    try:
        a, b, c, d = map(float, values)
    except (TypeError, ValueError, OverflowError) as error:
        raise FacemsmError(f"{where}: a box is four numbers, not {repr(values)[:100]}") from error
    return [a, b, c, d]
