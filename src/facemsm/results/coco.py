"""COCO keypoint documents: whole ones of aligned faces, and the records of any file, each with its place in it.

A document has the lists ``images`` (id, file_name, width, height), ``annotations`` (id, image_id, bbox as x, y, width,
height, keypoints as x, y, v) and ``categories``. :mod:`facemsm.data.coco` makes annotated faces of the records,
:mod:`facemsm.results.boxes` boxes.
"""

from __future__ import annotations

import json
import re
from bisect import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facemsm.errors import FacemsmError
from facemsm.files import read_text
from facemsm.schemes import LandmarkScheme, coco_category, get_scheme
from facemsm.typing import Array, PathLike

if TYPE_CHECKING:
    from facemsm.face import Face
    from facemsm.results.jsonl import PhotoResult

_GAP = re.compile(r"[\s,:]*")  # between the values of a text that is known to be JSON


def to_coco(
    photos: Iterable[PhotoResult] | Iterable[Face] | PhotoResult | Face,
    scheme: LandmarkScheme | None = None,
    *,
    image: PathLike | None = None,
) -> dict[str, Any]:
    """A COCO keypoint document, ready for ``json.dump``; annotation tools and :mod:`facemsm.data.coco` read it.

    Args:
        photos: of one scheme; :func:`facemsm.results.jsonl.read_results` reads those of earlier runs. Or the faces of
            one photo. One alone will do.
        scheme: theirs; may be left out if it is a built-in one.
        image: the path of that photo.

    Raises:
        FacemsmError: there is no photo, or it cannot be read, or the schemes differ or are not known.
    """
    photos = _photos(list(photos) if isinstance(photos, Iterable) else [photos], image)
    schemes = {photo.scheme for photo in photos} - {scheme.name if scheme else None}
    if len(schemes) + bool(scheme) != 1:
        raise FacemsmError(f"a COCO document has one landmark scheme, these photos have {sorted(schemes) or 'none'}")
    images = [
        {"id": i, "file_name": photo.image, "width": photo.width, "height": photo.height}
        for i, photo in enumerate(photos, 1)
    ]
    faces = [(i, face) for i, photo in enumerate(photos, 1) for face in photo.faces]
    annotations = [face.to_coco(image, number) for number, (image, face) in enumerate(faces, 1)]
    return coco_document(images, annotations, scheme or get_scheme(schemes.pop()))


def _photos(given: list[Any], image: PathLike | None) -> list[PhotoResult]:
    """The photos that are given, or that of faces."""
    from facemsm.face import Face
    from facemsm.imaging.io import read_image
    from facemsm.results.jsonl import PhotoResult

    if not all(isinstance(entry, (Face, PhotoResult)) for entry in given):
        raise FacemsmError("a COCO document is made of facemsm.PhotoResult, or of the faces of a photo")
    faces = [entry for entry in given if isinstance(entry, Face)]
    if image is None and faces:
        raise FacemsmError('a COCO document of faces names their photo: to_coco(faces, image="photo.jpg")')
    if image is None:
        return given
    height, width = read_image(image).shape[:2]
    count = {str(len(face.points)) for face in faces} or {"68"}
    return [PhotoResult(Path(image).as_posix(), width, height, name, faces) for name in count]


def coco_document(
    images: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]], scheme: LandmarkScheme
) -> dict[str, Any]:
    """A document of images and of annotations by :func:`facemsm.schemes.coco_annotation`."""
    return {"images": list(images), "annotations": list(annotations), "categories": [coco_category(scheme)]}


@dataclass(frozen=True, eq=False)
class CocoRecord:
    """An element of one of a file's lists. As text it is its place, ``faces.json:12: annotations[3]``."""

    path: Path
    lines: Callable[[], Mapping[str, list[int]]]
    list_name: str
    index: int
    content: Any

    def __str__(self) -> str:
        return f"{self.path}:{self.lines()[self.list_name][self.index]}: {self.list_name}[{self.index}]"

    def get(self, name: str) -> Any:
        """The value of a field, None where it is missing."""
        return self.content.get(name) if isinstance(self.content, dict) else None

    def text(self, name: str) -> str:
        """The value of a field that must be text.

        Raises:
            FacemsmError: it is missing or something else.
        """
        value = self.get(name)
        if not isinstance(value, str):
            raise FacemsmError(f"{self}: {name!r} is missing or no text")
        return value

    def key(self, name: str) -> str:
        """An id as text. Tools write 7, "7" or 7.0 for the same one.

        Raises:
            FacemsmError: it is missing, or neither a whole number nor text.
        """
        value = self.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, (int, str)) or isinstance(value, bool):
            raise FacemsmError(f"{self}: {name!r} is missing, or neither a whole number nor text")
        return str(value)

    def numbers(self, name: str, count: int) -> Array:
        """A list of so many numbers, (count,) float64.

        Raises:
            FacemsmError: it is missing or no list, has another length, or holds anything but numbers up to a million.
        """
        values = self.get(name)
        if not isinstance(values, list):
            raise FacemsmError(f"{self}: {name!r} is missing or no list")
        if len(values) != count:
            raise FacemsmError(f"{self}: {name!r} has {len(values)} numbers, expected {count}")
        if not all(type(value) in (int, float) and abs(value) <= 1e6 for value in values):  # NaN is not
            raise FacemsmError(f"{self}: {name!r} must hold numbers only, of at most a million")
        return np.array(values, dtype=np.float64)

    def box(self) -> Array:
        """``bbox`` as x_min, y_min, x_max, y_max, (4,) float64.

        Raises:
            FacemsmError: it is missing, or not four numbers.
        """
        x, y, width, height = self.numbers("bbox", 4)
        return np.array([x, y, x + width, y + height])


@dataclass(frozen=True, eq=False)
class CocoDocument:
    """What :func:`read_document` found.

    Attributes:
        photos: ``file_name`` of each image by its id.
        annotations: the records of the annotations, unchecked.
        keypoints: names of the keypoints by the only category that has some; empty where there are none, or several.
        faults: one error for each image without an id or a name of its own.
    """

    photos: Mapping[str, str]
    annotations: Sequence[CocoRecord]
    keypoints: Sequence[str]
    faults: Sequence[FacemsmError]

    def photo(self, annotation: CocoRecord) -> str:
        """The ``file_name`` of an annotation's photo.

        Raises:
            FacemsmError: there is no such image.
        """
        key = annotation.key("image_id")
        if key not in self.photos:
            raise FacemsmError(f"{annotation}: image_id {key} is not among the images")
        return self.photos[key]


def read_document(path: Path, text: str | None = None) -> CocoDocument:
    """A COCO file; fields that nobody asks for may hold anything.

    Args:
        path: the file.
        text: its content, if that was read before.

    Raises:
        FacemsmError: unreadable, not JSON, or no lists ``images`` and ``annotations`` in it.
    """
    text = read_text(path) if text is None else text
    content = parse_json(text, path)
    if not isinstance(content, dict):
        raise FacemsmError(f"{path}:1: expected a COCO keypoints file, a JSON object with images and annotations")
    lines = cache(lambda: _element_lines(text))

    def records(name: str) -> list[CocoRecord]:
        values = content.get(name)
        if not isinstance(values, list):
            raise FacemsmError(f"{path}:1: {name!r} is missing or not a list, expected a COCO keypoints file")
        return [CocoRecord(path, lines, name, i, value) for i, value in enumerate(values)]

    photos: dict[str, str] = {}
    faults = []
    for image in records("images"):
        try:
            key, name = image.key("id"), image.text("file_name")
            if key in photos:
                raise FacemsmError(f"{image}: id {key} is taken by another photo, expected distinct ids")
            photos[key] = name
        except FacemsmError as error:  # noqa: PERF203  (each is one line of its own)
            faults.append(error)
    return CocoDocument(photos, records("annotations"), _keypoint_names(content.get("categories")), faults)


def parse_json(text: str, path: Path) -> Any:
    """The content of a JSON text.

    Raises:
        FacemsmError: it is not JSON, nested too deeply, or has a number of thousands of digits; named with its line.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise FacemsmError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise FacemsmError(f"{path}: not valid JSON: {' '.join(str(error).split())}") from error


def _keypoint_names(categories: Any) -> list[str]:
    if not isinstance(categories, list):
        return []
    named = [names for entry in categories if isinstance(entry, dict) and (names := entry.get("keypoints"))]
    return [str(name) for name in named[0]] if len(named) == 1 and isinstance(named[0], list) else []


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
