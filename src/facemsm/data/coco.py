"""Annotated faces in COCO keypoints, read and written, for any landmark scheme.

Photos are named relative to the folder of the JSON file, or lie in ``images/`` in it or beside it. Coordinates are
0-based; ``bbox`` is x, y, width, height; ``keypoints`` is x, y, v for each point with v = 2 visible, 1 occluded but
located, 0 unlabelled (x and y are then ignored). Each photo may show several faces. What annotation tools add is no
fault: other fields, attributes of any kind, annotations without keypoints (counted as skipped).

mmpose's files of 300-W, WFLW and others have ``center`` and ``scale`` and v = 1 everywhere: they do not say which
points are occluded. Such a file is read without visibility; its 68 points of 300-W are 1-based and become 0-based.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facemsm.data.reading import (
    NO_POINTS,
    DatasetItem,
    Skipped,
    check_box,
    check_points,
    find_photo,
    ground_truth_box,
    label_indices,
    reject_duplicate,
    try_read,
)
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import FacemsmError
from facemsm.files import atomic_write
from facemsm.imaging.io import write_image
from facemsm.results.coco import CocoRecord, coco_document, read_document
from facemsm.schemes import OCCLUDED, UNLABELLED, VISIBLE, LandmarkScheme, coco_annotation
from facemsm.typing import Image


def read_coco(path: Path, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:
    """The faces of a COCO keypoints file, in the order of its annotations.

    A face is named after its photo's ``file_name``, followed by ``#`` and the annotation's id where the photo shows
    several. Faces without a labelled point are skipped. Where the file's category has the keypoints in another order
    than the scheme, by the scheme's names or by numbers, the scheme's holds.

    Raises:
        FacemsmError: not JSON, or no lists ``images`` and ``annotations`` in it.
    """
    document = read_document(path)
    yield from document.faults
    shown = Counter(
        photo for entry in document.annotations if isinstance(photo := try_read(document.photo, entry), str)
    )
    indices = label_indices(document.keypoints, scheme)
    places = {indices[label]: place for place, label in enumerate(document.keypoints) if label in indices}
    named = len(places) == len(document.keypoints) == scheme.count
    order = [places[i] for i in range(scheme.count)] if named else range(scheme.count)
    mmpose = _is_mmpose(document.annotations)
    shift = float(mmpose and scheme.count == 68)  # its 300-W is 1-based, as the .pts files it is made of
    folder, above = path.parent, path.parent.parent  # annotations/faces.json beside images/
    ids: set[str] = set()

    def face(entry: CocoRecord) -> FaceSample | Skipped:
        key, photo = entry.key("id"), document.photo(entry)
        if key in ids:
            raise FacemsmError(f"{entry}: id {key} is taken by another face, expected distinct ids")
        ids.add(key)
        name = photo if shown[photo] == 1 else f"{photo}#{key}"
        if not entry.get("keypoints") and isinstance(entry.content, dict):
            return Skipped(name, "annotation without keypoints")
        keypoints = entry.numbers("keypoints", 3 * scheme.count).reshape(-1, 3)[order]
        if not np.isin(keypoints[:, 2], (0, 1, 2)).all():
            raise FacemsmError(f"{entry}: a visibility is not 0, 1 or 2")
        visibility = keypoints[:, 2].astype(np.int8)
        points = np.where(visibility[:, None] == UNLABELLED, np.nan, keypoints[:, :2]).astype(np.float32)
        file = find_photo(photo, entry, folder, folder / "images", above / "images", above)
        if np.all(visibility == UNLABELLED):
            return Skipped(name, NO_POINTS)
        points -= shift
        given = check_box(entry.box() - shift, entry) if box_source == "provided" else None
        box = ground_truth_box(points, entry) if given is None else given
        points, known = check_points(points, scheme.count, entry), None if mmpose else visibility
        return FaceSample(name, file, box, box_source, points, known, _attributes(entry))

    seen: dict[tuple[str, bytes], object] = {}
    for entry in document.annotations:
        yield reject_duplicate(try_read(face, entry), entry, seen)


def _is_mmpose(annotations: Sequence[CocoRecord]) -> bool:
    labelled = [entry for entry in annotations if isinstance(entry.get("keypoints"), list) and entry.get("keypoints")]
    return bool(labelled) and all(
        entry.get("center") and entry.get("scale") and all(v == OCCLUDED for v in entry.get("keypoints")[2::3])
        for entry in labelled
    )


def _attributes(entry: CocoRecord) -> dict[str, bool | int | float | str]:
    """Flags, numbers and text as they are, lists and objects as JSON; none where a tool writes null or []."""
    attributes = entry.get("attributes") or {}
    if not isinstance(attributes, dict):
        raise FacemsmError(f"{entry}: 'attributes' is no object of names and values")
    simple = (bool, int, float, str)
    given = {name: value for name, value in attributes.items() if value is not None}
    return {name: value if isinstance(value, simple) else json.dumps(value) for name, value in given.items()}


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
    content = coco_document(list(images.values()), annotations, scheme)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


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
    annotation = coco_annotation(key, photo, sample.points, visibility, sample.box)
    return {**annotation, "attributes": dict(sample.attributes)}
