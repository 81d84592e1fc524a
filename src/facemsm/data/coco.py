"""COCO keypoint JSON, read and written, for any landmark scheme.

Photos are named relative to the folder of the JSON file, or lie in ``images/`` beside it. Coordinates are 0-based;
``bbox`` is x, y, width, height; ``keypoints`` is x, y, v for each point with v = 2 visible, 1 occluded but located,
0 unlabelled (x and y are then ignored). Each photo may show several faces.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from facemsm.data.reading import (
    Item,
    Skipped,
    check_box,
    check_points,
    find_photo,
    reject_duplicate,
    tight_box,
    try_read,
)
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import FacemsmError
from facemsm.files import atomic_write, read_text
from facemsm.imaging.io import write_image
from facemsm.schemes import UNLABELLED, VISIBLE, LandmarkScheme
from facemsm.typing import Image

_GAP = re.compile(r"[\s,:]*")  # between the values of a text that is known to be JSON


@dataclass(frozen=True, eq=False)
class _Element:
    """Names an element of one of a file's lists in an error; only then its line is looked for."""

    path: Path
    lines: Callable[[], Mapping[str, list[int]]]
    name: str
    index: int

    def __str__(self) -> str:
        return f"{self.path}:{self.lines()[self.name][self.index]}: {self.name}[{self.index}]"


def read_coco(path: Path, box_source: BoxSource, count: int) -> Iterator[Item]:
    """The faces of a COCO keypoints file, in the order of its annotations.

    A face is named after its photo's ``file_name``, followed by ``#`` and the annotation's id where the photo shows
    several. Faces without a labelled point are skipped.

    Raises:
        FacemsmError: not JSON, or no lists ``images`` and ``annotations`` in it.
    """
    text = read_text(path)
    content = _parse(text, path)
    lines = cache(lambda: _element_lines(text))
    photos: dict[int | str, str] = {}
    for i, entry in enumerate(_list(content, "images", path)):
        where = _Element(path, lines, "images", i)
        fault = try_read(_add_photo, entry, where, photos)
        if fault:
            yield fault
    annotations = _list(content, "annotations", path)
    shown_ids = (entry.get("image_id") for entry in annotations if isinstance(entry, dict))
    shown = Counter(photos.get(key) for key in shown_ids if isinstance(key, (int, str)))
    ids: set[str] = set()
    seen: dict[tuple[str, bytes], object] = {}
    for i, entry in enumerate(annotations):
        where = _Element(path, lines, "annotations", i)
        face = try_read(_face, entry, where, path.parent, photos, shown, ids, box_source, count)
        yield reject_duplicate(face, where, seen)


def write_coco(
    samples: Iterable[FaceSample], path: Path, scheme: LandmarkScheme, *, photo_root: Path | None = None
) -> None:
    """Write faces as COCO keypoints. Reading them back gives the same points, boxes, visibility and attributes.

    A visibility that the data set does not give is written as 2, visible.

    Args:
        samples: the faces; their photos are opened one by one for their size.
        path: the JSON file to write.
        scheme: the landmark scheme of all of them.
        photo_root: a folder that holds all photos; they are then copied to ``images/`` beside the file, at the same
            relative paths. When None they stay where they are and are named relative to the file. Photos that the data
            set packs in one file are written to ``images/`` as PNG either way.

    Raises:
        FacemsmError: a photo cannot be read, a face has another number of points, or something cannot be written.
    """
    images: dict[Any, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    for sample in samples:
        if sample.points.shape != (scheme.count, 2):
            raise FacemsmError(
                f"{sample.name}: {len(sample.points)} points, expected the {scheme.count} of {scheme.name}"
            )
        if sample.image not in images:
            photo = sample.load()
            name = _place_photo(sample, photo, path.parent, photo_root)
            size = {"width": photo.shape[1], "height": photo.shape[0]}
            images[sample.image] = {"id": len(images) + 1, "file_name": name, **size}
        annotations.append(_annotation(sample, len(annotations) + 1, images[sample.image]["id"]))
    category = {
        "id": 1,
        "name": "face",
        "keypoints": list(scheme.names) or [str(i) for i in range(scheme.count)],
        "skeleton": [[a + 1, b + 1] for a, b in scheme.edges],  # COCO counts keypoints from 1 here
    }
    content = {"images": list(images.values()), "annotations": annotations, "categories": [category]}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def _parse(text: str, path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise FacemsmError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise FacemsmError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise FacemsmError(f"{path}:1: expected a JSON object with images and annotations")
    return content


def _element_lines(text: str) -> dict[str, list[int]]:
    """The lines on which the elements of each list in an object begin. ``text`` is the object's JSON."""

    def skip(at: int) -> int:
        return _GAP.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too

    decode = json.JSONDecoder().raw_decode
    ends = [match.start() for match in re.finditer("\n", text)]
    found: dict[str, list[int]] = {}
    at = skip(text.index("{") + 1)
    while text[at] != "}":
        name, at = decode(text, at)
        at = skip(at)
        if text[at] == "[":
            starts = []
            at = skip(at + 1)
            while text[at] != "]":
                starts.append(at)
                at = skip(decode(text, at)[1])
            at = skip(at + 1)
            found[name] = [bisect(ends, start) + 1 for start in starts]
        else:
            at = skip(decode(text, at)[1])
    return found


def _list(content: Mapping[str, Any], name: str, path: Path) -> list[Any]:
    value = content.get(name)
    if not isinstance(value, list):
        raise FacemsmError(f"{path}:1: {name!r} is missing or not a list, expected a COCO keypoints file")
    return value


def _field(entry: Any, name: str, kinds: tuple[type, ...], where: object) -> Any:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise FacemsmError(f"{where}: {name!r} is missing or not {' or '.join(kind.__name__ for kind in kinds)}")
    return value


def _numbers(entry: Any, name: str, count: int, where: object) -> Any:
    values = _field(entry, name, (list,), where)
    if len(values) != count:
        raise FacemsmError(f"{where}: {name!r} has {len(values)} numbers, expected {count}")
    if not all(isinstance(value, (int, float)) and abs(value) <= 1e6 for value in values):
        raise FacemsmError(f"{where}: {name!r} must hold numbers only, of at most a million")
    return np.array(values, dtype=np.float64)


def _add_photo(entry: Any, where: object, photos: dict[int | str, str]) -> None:
    key, name = _field(entry, "id", (int, str), where), _field(entry, "file_name", (str,), where)
    if key in photos:
        raise FacemsmError(f"{where}: id {key!r} is taken by another photo, expected distinct ids")
    photos[key] = name


def _face(
    entry: Any,
    where: object,
    folder: Path,
    photos: Mapping[int | str, str],
    shown: Mapping[str | None, int],
    ids: set[str],
    box_source: BoxSource,
    count: int,
) -> FaceSample | Skipped:
    key, photo = _field(entry, "id", (int, str), where), _field(entry, "image_id", (int, str), where)
    if str(key) in ids:
        raise FacemsmError(f"{where}: id {key!r} is taken by another face, expected distinct ids")
    ids.add(str(key))
    if photo not in photos:
        raise FacemsmError(f"{where}: image_id {photo!r} is not among the images")
    name = photos[photo] if shown[photos[photo]] == 1 else f"{photos[photo]}#{key}"
    keypoints = _numbers(entry, "keypoints", 3 * count, where).reshape(count, 3)
    if not np.isin(keypoints[:, 2], (0, 1, 2)).all():
        raise FacemsmError(f"{where}: a visibility is not 0, 1 or 2")
    visibility = keypoints[:, 2].astype(np.int8)
    points = np.where(visibility[:, None] == UNLABELLED, np.nan, keypoints[:, :2]).astype(np.float32)
    path = find_photo(photos[photo], where, folder, folder / "images")
    if np.all(visibility == UNLABELLED):
        return Skipped(name, "face without a labelled point")
    if box_source == "provided":
        x, y, width, height = _numbers(entry, "bbox", 4, where)
        box = check_box(np.array([x, y, x + width, y + height]), where)
    else:
        box = tight_box(points, where)
    attributes = entry.get("attributes", {})
    if not isinstance(attributes, dict) or not all(isinstance(value, (bool, str)) for value in attributes.values()):
        raise FacemsmError(f"{where}: 'attributes' must map names to true, false or text")
    return FaceSample(name, path, box, box_source, check_points(points, count, where), visibility, attributes)


def _place_photo(sample: FaceSample, photo: Image, folder: Path, photo_root: Path | None) -> str:
    """The ``file_name`` of a photo, having put it in ``folder``/images if it is packed or to be copied."""
    if not isinstance(sample.image, Path):
        write_image(folder / "images" / f"{sample.name}.png", photo)
        return f"{sample.name}.png"
    if photo_root is None:
        return Path(os.path.relpath(sample.image, folder)).as_posix()
    name = Path(os.path.relpath(sample.image, photo_root))
    if ".." in name.parts:
        raise FacemsmError(
            f"{sample.image}: lies outside {photo_root} and cannot be copied; leave the photos where they are"
        )
    with atomic_write(folder / "images" / name) as temporary:
        shutil.copyfile(sample.image, temporary)
    return name.as_posix()


def _annotation(sample: FaceSample, key: int, photo: int) -> dict[str, Any]:
    labelled = np.isfinite(sample.points).all(axis=1)
    visibility = np.full(len(sample.points), VISIBLE) if sample.visibility is None else sample.visibility
    visibility = np.where(labelled, visibility, UNLABELLED)
    points = np.where(visibility[:, None] == UNLABELLED, 0, sample.points)
    x_min, y_min, x_max, y_max = sample.box.astype(np.float64)
    width, height = x_max - x_min, y_max - y_min
    return {
        "id": key,
        "image_id": photo,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [round(float(value), 4) for value in (x_min, y_min, width, height)],
        "area": round(float(width * height), 4),
        "num_keypoints": int(np.count_nonzero(visibility)),
        "keypoints": [round(value, 4) for value in np.column_stack([points, visibility]).ravel().tolist()],
        "attributes": dict(sample.attributes),
    }
