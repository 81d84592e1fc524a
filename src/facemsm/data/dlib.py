"""dlib's XML, as its program imglab writes it.

So are the labels of ``ibug_300W_large_face_landmark_dataset``, ``labels_ibug_300W_train.xml``::

    <dataset> <images>
      <image file='helen/trainset/146827737_1.jpg' width='900' height='600'>
        <box top='224' left='208' width='180' height='180'>
          <part name='00' x='242' y='258'/> ...

A box is a face; parts are named by the number of their point or by the scheme's names, and those that are missing are
unlabelled. Coordinates are 0-based. Photos are named relative to the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from facemsm.data.reading import (
    NO_POINTS,
    DatasetItem,
    LabelledPoint,
    Skipped,
    check_box,
    find_photo,
    gather_points,
    ground_truth_box,
    label_indices,
    number,
    parse_xml,
    reject_duplicate,
    try_read,
    xml_attribute,
)
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import FacemsmError
from facemsm.schemes import VISIBLE, LandmarkScheme


def read_dlib(path: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:  # noqa: ARG001
    """The faces of a file, named after their photo, and ``#`` and their number in it where it shows several.

    Raises:
        FacemsmError: unreadable, not XML, or no ``<images>`` in it.
    """
    images = parse_xml(path, "dataset").find("images")
    if images is None:
        raise FacemsmError(f"{path}: has no <images> in its <dataset>, expected a file of dlib's imglab")
    labels = (part.get("name", "") for part in images.iter("part"))
    indices = label_indices(labels, scheme)

    def face(box: Element, file: str, name: str, where: str) -> FaceSample | Skipped:
        points, _ = gather_points((_point(part, where) for part in box.iter("part")), indices, scheme, where)
        photo = find_photo(file, where, path.parent)
        if np.isnan(points).all():
            return Skipped(name, NO_POINTS)
        if box_source == "provided":
            sides = ("left", "top", "width", "height")
            left, top, width, height = (number(xml_attribute(box, side, where), where) for side in sides)
            given = check_box(np.array([left, top, left + width, top + height]), where)
        else:
            given = ground_truth_box(points, where)
        return FaceSample(name, photo, given, box_source, points)

    named = Counter(image.get("file") for image in images.iter("image"))
    seen: dict[tuple[str, bytes], object] = {}
    for i, image in enumerate(images.iter("image"), 1):
        file = image.get("file", "")
        faces = [box for box in image.iter("box") if box.get("ignore") != "1"]
        again = f"#{i}" if named[file] > 1 else ""
        for n, box in enumerate(faces, 1):
            where = f"{path}: image {i} ({file!r}): box {n}"
            name = file + again + (f"#{n}" if len(faces) > 1 else "")
            yield reject_duplicate(try_read(face, box, file, name, where), where, seen)


def _point(part: Element, where: str) -> LabelledPoint:
    x, y = (number(xml_attribute(part, axis, where), where) for axis in "xy")
    return xml_attribute(part, "name", where), x, y, VISIBLE
