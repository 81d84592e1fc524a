"""What the readers share: one kind of stream, and strict parsing.

A reader is a generator of :data:`DatasetItem`: a face, a face left out on purpose, or the error in its place.
Reading strictly raises the first error; checking collects them all. Neither needs to know the format.
"""

from __future__ import annotations

import math
import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, ParamSpec, TypeVar
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

import numpy as np
from numpy.typing import NDArray

from facemsm.data.sample import FaceSample
from facemsm.errors import AbsentError, FacemsmError
from facemsm.files import check_file, read_bytes, reading
from facemsm.geometry import tight_box
from facemsm.imaging.io import IMAGE_SUFFIXES
from facemsm.schemes import UNLABELLED, LandmarkScheme
from facemsm.typing import FloatArray, Image

_LARGEST = 1e6  # pixels; no photo is as large, and float32 still holds it to a tenth of a pixel
_LARGEST_NPZ = 1 << 34  # of which the arrays that are read are a part
_MOST_BYTES = 1 << 28  # of the arrays of a file: 150,000 faces of 68 points, with all that a method says of them

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


class MissingPhoto(NoPhoto):
    """Stands for a photo that should be there. To read a data set with its photos is an error then."""


DatasetItem = FaceSample | Skipped | FacemsmError


def try_read(read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | FacemsmError:
    """``read(...)``, or its error as a value, so that one broken face does not end the stream."""
    try:
        return read(*args, **kwargs)
    except FacemsmError as error:
        return error


def collect_errors(items: Iterable[DatasetItem]) -> Iterator[DatasetItem]:
    """The stream with an error raised by the reader itself as its last item, and one error for each name used twice."""
    seen: set[str] = set()
    try:
        for item in items:
            if isinstance(item, FaceSample):
                if item.name in seen:
                    where = getattr(item.image, "path", item.image)
                    yield FacemsmError(f"{where}: two faces are called {item.name!r}; names must be unique")
                    continue
                seen.add(item.name)
            yield item
    except FacemsmError as error:
        yield error


def faces(items: Iterable[DatasetItem]) -> list[FaceSample]:
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


def need_photos(items: Iterable[DatasetItem]) -> Iterator[DatasetItem]:
    """The stream with an error in the place of every face whose photo is missing."""
    for item in items:
        missing = isinstance(item, FaceSample) and isinstance(item.image, MissingPhoto)
        yield FacemsmError(item.image.why) if missing else item  # type: ignore[union-attr]


def find_photo(name: str, where: object, *folders: Path) -> Path | MissingPhoto:
    """The photo called ``name`` in the first of ``folders`` that has it. ``where`` is what names it, for the error.

    A name that no folder has is also looked for as other systems spell it: with ``\\`` between folders, letters in
    other case (Windows), accents composed or apart (macOS).
    """
    try:
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
        for folder in folders:
            found = _spelt_otherwise(folder, name)
            if found is not None and found.is_file():
                return found
    except (OSError, ValueError):  # a name no file can have: too long, or with a NUL
        pass
    return MissingPhoto(f"{where}: there is no photo {name[:200]!r} in {' or '.join(map(str, folders))}")


def _spelt_otherwise(folder: Path, name: str) -> Path | None:
    for part in PurePosixPath(name.replace("\\", "/")).parts:
        if not (folder / part).exists():
            if not folder.is_dir():
                return None
            part = _spellings(folder, folder.stat().st_mtime_ns).get(_spelling_key(part), part)
        folder /= part
    return folder


@lru_cache(maxsize=64)
def _spellings(folder: Path, changed: int) -> dict[str, str]:  # noqa: ARG001  (a changed folder is listed anew)
    """The names in a folder by their key; without those that only their spelling tells apart."""
    names = [path.name for path in folder.iterdir()]
    shared = Counter(map(_spelling_key, names))
    return {_spelling_key(name): name for name in names if shared[_spelling_key(name)] == 1}


def _spelling_key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def photos_beside(path: Path, *folders: Path) -> list[Path]:
    """The photos with the stem of ``path``, in its folder or in ``folders``, whatever the case of their suffix."""
    stems = {unicodedata.normalize(form, path.stem) for form in ("NFC", "NFD")} | {path.stem}
    names = [f"{stem}{cased}" for stem in sorted(stems) for s in IMAGE_SUFFIXES for cased in (s, s.upper())]
    return [folder / name for folder in folders or (path.parent,) for name in names if (folder / name).is_file()]


def stem_of(path: Path) -> str:
    """The stem of a file's name with composed accents, the same whichever way a system spells them."""
    return unicodedata.normalize("NFC", path.stem)


def files_below(root: Path, suffix: str) -> list[Path]:
    """The files of a suffix, in letters of any case, in a folder and the folders in it, in order of their paths.

    Raises:
        AbsentError: there are none.
    """
    paths = sorted(root.rglob("*." + "".join(f"[{letter}{letter.upper()}]" for letter in suffix.removeprefix("."))))
    if not paths:
        raise AbsentError(f"{root}: no {suffix} files in this folder")
    return paths


def faces_below(root: Path, suffix: str, read: Callable[[Path, str], FaceSample | Skipped]) -> Iterator[DatasetItem]:
    """What ``read`` makes of each of :func:`files_below` and its name, the path in ``root`` without suffix.

    Raises:
        AbsentError: as there.
    """
    for path in files_below(root, suffix):
        name = path.relative_to(root).with_suffix("").as_posix()
        yield Skipped(name, APPLE_DOUBLE) if is_apple_double(path) else try_read(read, path, name)


def is_apple_double(path: Path) -> bool:
    """Whether a file is one of those that macOS puts beside others, ``._a.pts`` beside ``a.pts``."""
    return path.name.startswith("._")


APPLE_DOUBLE = "file of macOS (._*)"
"""Why such a file is skipped."""

NO_POINTS = "face without a labelled point"
"""Why such a face is skipped."""


def label_indices(labels: Iterable[str], scheme: LandmarkScheme) -> dict[str, int]:
    """Which point each of an annotation tool's labels is: one of the scheme's names, or its number.

    Numbers count from 0, or from 1 where the last one is used and 0 is not. Labels that are neither are left out.
    """
    labels = set(labels)
    named = {name: i for i, name in enumerate(scheme.names)}
    numbers = {label: int(label) for label in labels if re.fullmatch(r"\d{1,6}", label, re.ASCII)}
    first = int(scheme.count in numbers.values() and 0 not in numbers.values())
    numbered = {label: n - first for label, n in numbers.items() if 0 <= n - first < scheme.count}
    return {**numbered, **{label: named[label] for label in labels & named.keys()}}


LabelledPoint = tuple[str | int, float, float, int]
"""Label, or index in the scheme, x, y and visibility of a point."""


def gather_points(
    points: Iterable[LabelledPoint], indices: Mapping[str, int], scheme: LandmarkScheme, where: object
) -> tuple[FloatArray, NDArray[np.int8]]:
    """Points (L, 2) float32 and visibility (L,) int8 of a face of which each point has a label.

    Args:
        points: those of the face; the others are unlabelled.
        indices: of :func:`label_indices`.
        scheme: the landmark scheme.
        where: names the face in errors.

    Raises:
        FacemsmError: a label is no point of the scheme or is used twice, or a coordinate is beyond any photo.
    """
    found = np.full((scheme.count, 2), np.nan)
    visibility = np.zeros(scheme.count, np.int8)
    seen: set[int] = set()
    for label, x, y, v in points:
        i = label if isinstance(label, int) else indices.get(label)
        if i is None:
            expected = f"one of the names of scheme {scheme.name} or 0 to {scheme.count - 1}"
            raise FacemsmError(f"{where}: a point is labelled {str(label)[:40]!r}, expected {expected}")
        if i in seen:
            raise FacemsmError(f"{where}: two points are labelled {str(label)[:40]!r}; faces of one photo need groups")
        seen.add(i)
        if v != UNLABELLED:
            found[i], visibility[i] = (x, y), v
    return check_points(found, scheme.count, where), visibility


def read_npz(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Those of the named arrays that an ``.npz`` file holds.

    Raises:
        AbsentError: no such file.
        FacemsmError: unreadable, damaged, or they take more than 256 MiB.
    """
    arrays = {}
    check_file(path, _LARGEST_NPZ)
    with reading(path):
        file = path.open("rb")
    try:
        with file, zipfile.ZipFile(file) as archive:
            there = set(archive.namelist())
            held = {name: archive.getinfo(f"{name}.npy") for name in names if f"{name}.npy" in there}
            size = sum(member.file_size for member in held.values())
            if size > _MOST_BYTES:
                raise ValueError(f"its arrays unpack to {size >> 20} MiB, more than {_MOST_BYTES >> 20}")
            for name, member in held.items():
                with archive.open(member) as content:
                    arrays[name] = np.lib.format.read_array(content, allow_pickle=False)
    except Exception as error:  # a damaged or hostile file makes zipfile and NumPy raise nearly anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise FacemsmError(f"{path}: not a readable .npz file ({reason})") from error
    return arrays


class _WithoutDoctype(TreeBuilder):
    """No entities that unpack to gigabytes."""

    def doctype(self, *_: str | None) -> None:
        raise ValueError("a DOCTYPE is not expected")


def parse_xml(path: Path, tag: str) -> Element:
    """The root of an XML file.

    Raises:
        AbsentError: no such file.
        FacemsmError: unreadable, not XML, with a DOCTYPE, or another root than ``tag``.
    """
    content = read_bytes(path)
    try:
        parser = XMLParser(target=_WithoutDoctype())
        parser.feed(content)
        root: Element = parser.close()
    except ParseError as error:
        raise FacemsmError(f"{path}:{error.position[0]}: not valid XML: {error}") from error
    except (ValueError, LookupError) as error:
        raise FacemsmError(f"{path}: not valid XML: {error}") from error
    if root.tag != tag:
        raise FacemsmError(f"{path}: its root is <{root.tag[:40]}>, expected <{tag}>")
    return root


def xml_attribute(element: Element, name: str, where: object) -> str:
    """An attribute of an element.

    Raises:
        FacemsmError: there is none.
    """
    value = element.get(name)
    if value is None:
        raise FacemsmError(f"{where}: <{element.tag}> has no {name}")
    return value


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


def ground_truth_box(points: Floats, where: object) -> FloatArray:
    """The ground-truth box, (4,) float32: the smallest box around the labelled points of ``points`` (L, 2).

    Raises:
        FacemsmError: fewer than two labelled points, or all on one line along an axis.
    """
    labelled = points[~np.isnan(points).any(axis=1)]
    if len(labelled) == 0:
        raise FacemsmError(f"{where}: no labelled point")
    return check_box(tight_box(labelled), where)
