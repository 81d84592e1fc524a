"""What annotation tools write in formats of their own: labelme, CVAT (XML), Label Studio.

Points are labelled with the scheme's names or with their numbers, from 0 or from 1
(:func:`facemsm.data.reading.label_indices`). Points of one group (labelme's ``group_id``, CVAT's skeleton or
``group_id``, Label Studio's ``parentID``) are a face; those without a group are one face of their photo. Coordinates
stay as the tools write them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree.ElementTree import Element

import numpy as np

from facemsm.data.reading import (
    APPLE_DOUBLE,
    NO_POINTS,
    DatasetItem,
    LabelledPoint,
    MissingPhoto,
    Skipped,
    files_below,
    find_photo,
    gather_points,
    ground_truth_box,
    is_apple_double,
    label_indices,
    number,
    parse_xml,
    reject_duplicate,
    try_read,
    xml_attribute,
)
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import FacemsmError
from facemsm.files import read_text
from facemsm.imaging.io import IMAGE_SUFFIXES
from facemsm.results.coco import parse_json
from facemsm.schemes import OCCLUDED, UNLABELLED, VISIBLE, LandmarkScheme

_MOST_PIXELS = 1e6  # of a side of a photo


@dataclass
class _Photo:
    """The labelled points of one photo, by group."""

    where: str
    names: tuple[str, ...]  # under which the photo may be found; the first is the face's name
    folders: tuple[Path, ...]
    groups: Mapping[Hashable, list[LabelledPoint]]
    attributes: Mapping[Hashable, Mapping[str, str]] = field(default_factory=dict)


def read_labelme(root: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:  # noqa: ARG001
    """The faces of labelme's ``.json`` files, one per photo, in a folder and the folders in it, or of one such file.

    A point with the flag ``occluded`` is occluded.

    Raises:
        AbsentError: there is no ``.json`` file.
        FacemsmError: the one file is none of labelme's.
    """
    if not root.is_dir():
        yield from _faces([_labelme_photo(root)], scheme)
        return
    paths = files_below(root, ".json")
    doubles = [path for path in paths if is_apple_double(path)]
    yield from (Skipped(path.name, APPLE_DOUBLE) for path in doubles)
    yield from _faces([try_read(_labelme_photo, path) for path in paths if path not in doubles], scheme)


def read_cvat(path: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:  # noqa: ARG001
    """The faces of an ``annotations.xml``, CVAT for images 1.1: its skeletons, and its points elements.

    A points element of as many points as the scheme has is a face. Photos lie beside the file or in ``images/``.

    Raises:
        FacemsmError: unreadable, not XML, or CVAT for video.
    """
    root = parse_xml(path, "annotations")
    if root.find("track") is not None:
        raise FacemsmError(f"{path}: is CVAT for video (<track>); export the task as 'CVAT for images 1.1'")
    declared = [label.findtext("name", "") for label in root.iter("label")]
    photos = [try_read(_cvat_photo, path, i, image, scheme.count) for i, image in enumerate(root.iter("image"), 1)]
    yield from _faces(photos, scheme, declared)


def read_label_studio(path: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:  # noqa: ARG001
    """The faces of Label Studio's export JSON: its keypoint labels, of each task the last annotation not cancelled.

    Photos lie beside the file or in ``images/``, with or without the eight characters put before an uploaded name.

    Raises:
        FacemsmError: unreadable, not JSON, or no list of tasks.
    """
    tasks = parse_json(read_text(path), path)
    if not isinstance(tasks, list):
        raise FacemsmError(f"{path}:1: expected a list of tasks, Label Studio's export JSON")
    yield from _faces([try_read(_label_studio_photo, path, i, task) for i, task in enumerate(tasks)], scheme)


def _faces(
    photos: Iterable[_Photo | FacemsmError], scheme: LandmarkScheme, declared: Iterable[str] = ()
) -> Iterator[DatasetItem]:
    photos = list(photos)
    sound = [photo for photo in photos if isinstance(photo, _Photo)]
    used = (point[0] for photo in sound for points in photo.groups.values() for point in points)
    indices = label_indices([*declared, *(label for label in used if isinstance(label, str))], scheme)
    seen: dict[tuple[str, bytes], object] = {}
    for photo in photos:
        if isinstance(photo, FacemsmError):
            yield photo
            continue
        if not photo.groups:
            yield Skipped(photo.names[0], "photo without points")
        for n, group in enumerate(photo.groups, 1):
            several = len(photo.groups) > 1
            name, where = (f"{text}#{n}" if several else text for text in (photo.names[0], photo.where))
            face = try_read(_face, photo, group, name, where, indices, scheme)
            yield reject_duplicate(face, where, seen)


def _face(
    photo: _Photo, group: Hashable, name: str, where: str, indices: Mapping[str, int], scheme: LandmarkScheme
) -> FaceSample | Skipped:
    points, visibility = gather_points(photo.groups[group], indices, scheme, where)
    path = _find(photo)
    if np.isnan(points).all():
        return Skipped(name, NO_POINTS)
    box = ground_truth_box(points, where)
    return FaceSample(name, path, box, "gt", points, visibility, photo.attributes.get(group, {}))


def _find(photo: _Photo) -> Path | MissingPhoto:
    for name in photo.names[1:]:
        if isinstance(found := find_photo(name, photo.where, *photo.folders), Path):
            return found
    return find_photo(photo.names[0], photo.where, *photo.folders)


def _labelme_photo(path: Path) -> _Photo:
    content = parse_json(read_text(path), path)
    match content:
        case {"shapes": list(shapes), "imagePath": str(image)}:
            pass
        case _:
            raise FacemsmError(f"{path}:1: expected 'shapes' and 'imagePath', a file of labelme")
    groups: dict[Hashable, list[LabelledPoint]] = defaultdict(list)
    for i, shape in enumerate(shapes):
        match shape:
            case {"shape_type": "point", "label": str(label), "points": [[x, y]]}:
                flags = shape.get("flags")
                occluded = isinstance(flags, dict) and flags.get("occluded") is True
                at = f"{path}: shapes[{i}]"
                groups[str(shape.get("group_id"))].append(
                    (label, _coordinate(x, at), _coordinate(y, at), OCCLUDED if occluded else VISIBLE)
                )
            case {"shape_type": str(kind)} if kind != "point":  # rectangles, outlines: not landmarks
                pass
            case _:
                raise FacemsmError(f"{path}: shapes[{i}]: expected a shape_type, and label and one x and y of a point")
    return _Photo(str(path), (image, Path(image.replace("\\", "/")).name), (path.parent,), groups)


def _cvat_photo(path: Path, i: int, image: Element, count: int) -> _Photo:
    name = xml_attribute(image, "name", f"{path}: image {i}")
    where = f"{path}: image {i} ({name!r})"
    groups: dict[Hashable, list[LabelledPoint]] = defaultdict(list)
    attributes: dict[Hashable, Mapping[str, str]] = {}
    for n, shape in enumerate(image):
        if shape.tag == "skeleton":
            groups[n] = [point for part in shape.iter("points") for point in _cvat_points(part, where)]
        elif shape.tag == "points":
            points = _cvat_points(shape, where)
            if len(points) == count:
                groups[n] = [(k, *point[1:]) for k, point in enumerate(points)]
            else:
                groups[shape.get("group_id", "")].extend(points)
        if n in groups:
            attributes[n] = {entry.get("name", ""): entry.text or "" for entry in shape.findall("attribute")}
    return _Photo(where, (name,), (path.parent, path.parent / "images"), groups, attributes)


def _cvat_points(shape: Element, where: str) -> list[LabelledPoint]:
    label = xml_attribute(shape, "label", where)
    visibility = OCCLUDED if shape.get("occluded") == "1" else VISIBLE
    if shape.get("outside") == "1":
        visibility = UNLABELLED
    points: list[LabelledPoint] = []
    for pair in xml_attribute(shape, "points", where).split(";"):
        x, comma, y = pair.partition(",")
        if not comma:
            raise FacemsmError(f"{where}: points of {label!r} are {pair[:40]!r}, expected x,y")
        points.append((label, number(x, where), number(y, where), visibility))
    return points


def _label_studio_photo(path: Path, i: int, task: Any) -> _Photo:
    where = f"{path}: task {i + 1}"
    match task:
        case {"data": dict(data), "annotations": list(annotations)}:
            pass
        case _:
            raise FacemsmError(f"{where}: expected 'data' and 'annotations'; export as JSON, not as JSON-MIN")
    addresses = [value for value in data.values() if isinstance(value, str)]
    if not addresses:
        raise FacemsmError(f"{where}: its data names no photo")
    done = [a for a in annotations if isinstance(a, dict) and a.get("was_cancelled") is not True]
    results = done[-1].get("result") if done else []
    if not isinstance(results, list):
        raise FacemsmError(f"{where}: an annotation has no list 'result'")
    groups: dict[Hashable, list[LabelledPoint]] = defaultdict(list)
    for n, result in enumerate(results):
        match result:
            case {
                "type": "keypointlabels",
                "original_width": width,
                "original_height": height,
                "value": {"x": x, "y": y, "keypointlabels": [str(label)]},
            }:
                at = f"{where}: result {n + 1}"
                if result.get("image_rotation", 0) != 0:
                    raise FacemsmError(f"{at}: the photo was rotated in Label Studio; rotate it back there")
                x, y, width, height = (_coordinate(value, at) for value in (x, y, width, height))
                point = (label, x * width / 100, y * height / 100, VISIBLE)
                groups[str(result.get("parentID"))].append(point)
            case {"type": "keypointlabels"}:
                raise FacemsmError(
                    f"{where}: result {n + 1}: expected original_width, original_height, x, y and a label"
                )
    files = map(_file_of, addresses)  # a task may hold other text, too
    local = min(files, key=lambda file: not file.lower().endswith(IMAGE_SUFFIXES))
    name = Path(local).name
    plain = re.sub(r"^[0-9a-f]{8}-", "", name)
    names = (plain, name, local.lstrip("/"))
    return _Photo(where, names, (path.parent, path.parent / "images"), groups)


def _file_of(address: str) -> str:
    """The file that an address of Label Studio's names: ``/data/local-files/?d=folder/a.jpg``, ``s3://faces/a.jpg``."""
    try:
        parts = urlsplit(address)
    except ValueError:  # no address at all
        return address
    return unquote(parse_qs(parts.query).get("d", [parts.path])[0])


def _coordinate(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not abs(value) <= _MOST_PIXELS:
        raise FacemsmError(f"{where}: {str(value)[:40]!r} is not a number of pixels")
    return float(value)
