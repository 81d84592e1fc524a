"""The iBUG family: ``.pts`` files, 300-W, 300-W private and MERL-RAV.

300-W, as its authors publish it::

    ROOT/afw/*.jpg *.pts
    ROOT/helen/{trainset,testset}/*.jpg *.pts
    ROOT/lfpw/{trainset,testset}/*.png *.pts
    ROOT/ibug/*.jpg *.pts                                one name has a space: image_092 _01
    ROOT/bounding_boxes_{afw,helen_trainset,...}.mat     the challenge's face boxes; also in ROOT/Bounding Boxes/

MERL-RAV, as the script of its authors puts it together::

    ROOT/{frontal,left,lefthalf,right,righthalf}/{trainset,testset}/*.jpg *.pts

A ``.mat`` holds two boxes of each face, the detector's (``provided``) and the ground truth's (``gt``). Instead of it, a
``.csv`` of the same stem with columns image, x_min, y_min, x_max, y_max (0-based) will do for the provided ones.
Coordinates in ``.pts`` and ``.mat`` files are 1-based and become 0-based here.

In MERL-RAV's ``.pts`` files (-x, -y) is an occluded point at (x, y), and (-1, -1) one that is not located. In any other
folder of ``.pts`` files those are taken for MERL-RAV's that hold (-1, -1), or points that lie far from the rest of the
face unless their signs are changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemsm.data.matlab import load_mat5
from facemsm.data.reading import (
    APPLE_DOUBLE,
    NO_POINTS,
    DatasetItem,
    MissingPhoto,
    Skipped,
    check_box,
    files_below,
    ground_truth_box,
    is_apple_double,
    number,
    stem_of,
    try_read,
)
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import AbsentError, FacemsmError
from facemsm.files import read_rows, read_text
from facemsm.imaging.io import IMAGE_SUFFIXES
from facemsm.schemes import OCCLUDED, UNLABELLED, VISIBLE, LandmarkScheme
from facemsm.typing import Array, FloatArray

PARTS_300W: Mapping[str, tuple[str, ...]] = {
    "train": ("afw", "helen/trainset", "lfpw/trainset"),
    "common": ("helen/testset", "lfpw/testset"),
    "challenge": ("ibug",),
    "full": ("helen/testset", "lfpw/testset", "ibug"),
    **{part: (part,) for part in ("afw", "helen/trainset", "helen/testset", "lfpw/trainset", "lfpw/testset", "ibug")},
}
"""Folders of each split of 300-W; every folder is a split of its own as well."""

PARTS_PRIVATE: Mapping[str, tuple[str, ...]] = {
    "indoor": ("01_Indoor",),
    "outdoor": ("02_Outdoor",),
    "full": ("01_Indoor", "02_Outdoor"),
}
"""Folders of each split of 300-W private."""

_MERL_RAV_POSES = ("frontal", "left", "lefthalf", "right", "righthalf")

_BOX_COLUMNS = ["image", "x_min", "y_min", "x_max", "y_max"]
_MAT_FIELDS: Mapping[BoxSource, str] = {"provided": "bb_detector", "gt": "bb_ground_truth"}
_NamedBox = tuple[str, str, FloatArray]  # where it stands, photo, box
_Points = tuple[FloatArray, NDArray[np.int8] | None]
"""Points (L, 2), 0-based, and their visibility."""
_VERSION = re.compile(r"version:\s*1(\.0*)?")
_COUNT = re.compile(r"n_points:\s*(\d{1,6})", re.ASCII)


def read_pts(path: Path, count: int | None = None) -> FloatArray:
    """The points of a ``.pts`` file as they are, (L, 2) float32, 0-based.

    Args:
        path: the file.
        count: how many points it must have; any number when None.

    Raises:
        FacemsmError: anything but ``version: 1``, ``n_points: L``, ``{``, L lines of x and y, ``}``. Spaces and blank
            lines may be anywhere between them.
    """
    return (_parse_pts(path, count) - 1).astype(np.float32)


def read_300w(root: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:
    """The faces of a split of 300-W, as far as its folders are there; names are ``helen/testset/296814969_3``.

    Raises:
        AbsentError: none of the split's folders is there.
    """
    for item in _parts(root, PARTS_300W[split], box_source, scheme.count):
        if isinstance(item, FaceSample):
            item = replace(item, convention="300w/" + item.name.partition("/")[0])  # its parts differ in their labels
        yield item


def read_private(root: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:
    """The faces of a split of 300-W private; it comes without boxes.

    Raises:
        AbsentError: none of the split's folders is there.
    """
    for item in _parts(root, PARTS_PRIVATE[split], box_source, scheme.count):
        yield replace(item, convention="300w") if isinstance(item, FaceSample) else item


def read_merl_rav(root: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:  # noqa: ARG001
    """The faces of ``train`` or ``test`` of MERL-RAV; names are ``frontal/trainset/image00002``.

    Raises:
        AbsentError: none of the split's folders is there.
    """
    parts = [f"{pose}/{split}set" for pose in _MERL_RAV_POSES]
    for part in _present(root, parts):
        yield from read_pts_folder(root / part, part + "/", {}, "gt", _signed_points, scheme.count)


def read_pts_tree(root: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:  # noqa: ARG001
    """The faces of all ``.pts`` files in ``root`` and its folders, named after their path in it.

    Raises:
        AbsentError: there are none.
    """
    for folder in sorted({path.parent for path in files_below(root, ".pts")}):
        prefix = "" if folder == root else folder.relative_to(root).as_posix() + "/"
        yield from read_pts_folder(folder, prefix, {}, "gt", _any_points, scheme.count)


def read_pts_folder(
    folder: Path,
    prefix: str,
    boxes: Mapping[str, FloatArray],
    box_source: BoxSource,
    read: Callable[[Path, int], _Points],
    count: int,
) -> Iterator[DatasetItem]:
    """The faces of a folder of ``.pts`` files with photos of the same stem beside them, in order of their names.

    Args:
        folder: where they are; folders in it are not entered.
        prefix: put before each stem to make the face's name.
        boxes: the data set's boxes by stem.
        box_source: which boxes they are. A face without one is an error, but for ``gt``: its box is then tight around
            the points.
        read: gives points and visibility of a file.
        count: points per face.
    """

    def face(path: Path, photos: list[Path], name: str) -> FaceSample | Skipped:
        points, visibility = read(path, count)
        found = " and ".join(photo.name for photo in photos) or "none"
        fault = f"{path}: expected one photo of the same name beside it (.jpg, .png, ...), found {found}"
        if len(photos) > 1:
            raise FacemsmError(fault)
        box = boxes.get(stem_of(path))
        if box is None and box_source != "gt":
            raise FacemsmError(f"{path}: the file of provided boxes has none for {path.stem!r}")
        if np.isnan(points).all():
            return Skipped(name, NO_POINTS)
        tight = ground_truth_box(points, path)  # in any case: points without extent are a fault
        photo = photos[0] if photos else MissingPhoto(fault)
        return FaceSample(name, photo, tight if box is None else box, box_source, points, visibility)

    photos: dict[str, list[Path]] = {}
    annotations = []
    for path in sorted(folder.iterdir()):
        if is_apple_double(path):
            yield Skipped(prefix + path.name, APPLE_DOUBLE)
        elif path.suffix.lower() == ".pts":
            annotations.append(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            photos.setdefault(stem_of(path), []).append(path)
    for path in annotations:
        yield try_read(face, path, photos.get(stem_of(path), []), prefix + path.stem)
    for stem in photos.keys() - {stem_of(path) for path in annotations}:
        yield Skipped(prefix + stem, "photo without .pts file")


def read_300w_boxes(stem: Path, box_source: BoxSource) -> tuple[dict[str, FloatArray], list[FacemsmError]]:
    """Face boxes of a folder of 300-W, from ``stem``.mat (the official files) or, provided ones only, ``stem``.csv.

    Returns:
        Boxes by stem of their photo, and the faults of single boxes, such as a second one for a photo.

    Raises:
        AbsentError: no file with such boxes is there.
        FacemsmError: the file as a whole is broken.
    """
    for folder in (stem.parent, stem.parent / "Bounding Boxes"):
        path = folder / f"{stem.name}.mat"
        if path.is_file():
            return _by_stem(_boxes_mat(path, _MAT_FIELDS[box_source]))
        path = path.with_suffix(".csv")
        if path.is_file() and box_source == "provided":
            return _by_stem(_boxes_csv(path))
    raise AbsentError(f"{stem}.mat: no such file (nor .csv); add the provided boxes, or use boxes 'gt'")


def _parse_pts(path: Path, count: int | None) -> Array:
    """The numbers of a ``.pts`` file, (L, 2). Raises as :func:`read_pts`."""
    lines = [(n, line.strip()) for n, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
    lines += [(lines[-1][0] + 1 if lines else 1, "")] * (3 - len(lines))
    (first, version), (second, n_points), (third, opening), *body = lines
    if not _VERSION.fullmatch(version):
        raise FacemsmError(f"{path}:{first}: {version[:40]!r}, expected 'version: 1'")
    declared = _COUNT.fullmatch(n_points)
    if not declared or (count is not None and int(declared[1]) != count):
        raise FacemsmError(f"{path}:{second}: {n_points[:40]!r}, expected 'n_points: {count or 'NUMBER'}'")
    if opening != "{":
        raise FacemsmError(f"{path}:{third}: {opening[:40]!r}, expected '{{'")
    if not body or body[-1][1] != "}":
        raise FacemsmError(f"{path}:{lines[-1][0]}: {lines[-1][1][:40]!r}, expected '}}' after the last point")
    if len(body) - 1 != int(declared[1]):
        raise FacemsmError(f"{path}:{body[-1][0]}: {len(body) - 1} points, expected the {declared[1]} of line {second}")
    points = np.empty((len(body) - 1, 2))
    for i, (n, line) in enumerate(body[:-1]):
        tokens = line.split()
        if len(tokens) != 2:
            raise FacemsmError(f"{path}:{n}: {line[:40]!r}, expected two numbers, x and y")
        points[i] = number(tokens[0], f"{path}:{n}"), number(tokens[1], f"{path}:{n}")
    return points


def _plain_points(path: Path, count: int) -> _Points:
    return read_pts(path, count), None


def _signed_points(path: Path, count: int) -> _Points:
    return _by_sign(_parse_pts(path, count))


def _any_points(path: Path, count: int) -> _Points:
    points = _parse_pts(path, count)
    return _by_sign(points) if _is_signed(points) else ((points - 1).astype(np.float32), None)


def _by_sign(points: Array) -> _Points:
    negative = np.all(points < 0, axis=1)
    visibility = np.where(negative, OCCLUDED, VISIBLE).astype(np.int8)
    visibility[(points == -1).all(axis=1)] = UNLABELLED
    located = np.where(negative[:, None], -points, points) - 1
    return np.where((visibility == UNLABELLED)[:, None], np.nan, located).astype(np.float32), visibility


def _is_signed(points: Array) -> bool:
    """Whether negative points (in both coordinates) are MERL-RAV's occluded ones rather than outside the photo."""
    negative = np.all(points < 0, axis=1)
    if not negative.any() or (points == -1).all(axis=1).any():
        return bool(np.any(negative))
    rest, negated = points[~negative], -points[negative]
    if len(rest) < 2:
        return True
    low, high = rest.min(axis=0), rest.max(axis=0)
    beyond = high - low

    def far(points: Array) -> bool:
        return bool(np.any((points < low - beyond) | (points > high + beyond)))

    return far(-negated) and not far(negated)


def _present(root: Path, parts: Sequence[str]) -> list[str]:
    present = [part for part in parts if (root / part).is_dir()]
    if not present:
        raise AbsentError(f"{root}: has none of the folders {', '.join(parts)}; give the folder that holds them")
    return present


def _parts(root: Path, parts: tuple[str, ...], box_source: BoxSource, count: int) -> Iterator[DatasetItem]:
    for part in _present(root, parts):
        found = try_read(read_300w_boxes, root / f"bounding_boxes_{part.replace('/', '_')}", box_source)
        if isinstance(found, FacemsmError):
            if box_source == "provided" or not isinstance(found, AbsentError):
                yield found
            if box_source == "provided":
                continue
            found = {}, []
        boxes, faults = found
        yield from faults
        yield from read_pts_folder(root / part, part + "/", boxes, box_source, _plain_points, count)


def _by_stem(entries: Iterable[_NamedBox | FacemsmError]) -> tuple[dict[str, FloatArray], list[FacemsmError]]:
    boxes: dict[str, FloatArray] = {}
    faults = []
    for entry in entries:
        if isinstance(entry, FacemsmError):
            faults.append(entry)
            continue
        where, name, box = entry
        stem = stem_of(Path(name))
        if stem in boxes:
            faults.append(FacemsmError(f"{where}: a second box for {name!r}, expected one for each photo"))
        boxes.setdefault(stem, box)
    return boxes, faults


def _boxes_csv(path: Path) -> Iterator[_NamedBox | FacemsmError]:
    header, rows = read_rows(path)
    if header != _BOX_COLUMNS:
        raise FacemsmError(f"{path}:1: columns are {','.join(header)[:80]!r}, expected {','.join(_BOX_COLUMNS)}")
    for row in rows:
        yield row if isinstance(row, FacemsmError) else try_read(_csv_entry, row[1], f"{path}:{row[0]}")


def _csv_entry(row: Mapping[str, str], where: str) -> _NamedBox:
    box = np.array([number(row[column], where) for column in _BOX_COLUMNS[1:]])
    return where, row["image"], check_box(box, where)


def _boxes_mat(path: Path, field: str) -> Iterator[_NamedBox | FacemsmError]:
    """``bounding_boxes``: 1xN cell of structs imgName, bb_detector, bb_ground_truth; boxes are 1-based."""
    for i, cell in enumerate(load_mat5(path, "bounding_boxes"), 1):
        yield try_read(_mat_entry, cell, field, f"{path}: bounding_boxes{{{i}}}")


def _mat_entry(cell: Any, field: str, where: str) -> _NamedBox:
    struct = cell[0] if isinstance(cell, list) and len(cell) == 1 else cell  # in a cell, as published, or an array
    match struct:
        case {"imgName": str(name)} if isinstance(box := struct.get(field), np.ndarray):
            return where, name, check_box(box.reshape(-1) - 1, f"{where}.{field}")
    raise FacemsmError(f"{where}: expected a struct with imgName (text) and {field} (4 numbers)")
