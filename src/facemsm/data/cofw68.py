"""COFW-68: the 68-point re-annotation of COFW's 507 test photos.

``ROOT/COFW68_Data/test_annotations/{1..507}_points.mat`` (MATLAB 5: Points 68x2, Occ 1x68 with 1 = occluded) and
``ROOT/COFW68_Data/cofw68_test_bboxes.mat`` (bboxes 507x4, x y width height). Photos come from
``ROOT/COFW_test_color.mat``, or from ``ROOT/images/{1..507}.jpg`` (``.png``), or there are none: then points can be
scored but ``load`` is an error. Coordinates are 1-based in the files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from facemsm.data.cofw import PackedPhoto, cofw_file
from facemsm.data.matlab import load_mat5_numbers
from facemsm.data.reading import (
    DatasetItem,
    NoPhoto,
    check_box,
    check_points,
    ground_truth_box,
    photos_beside,
    try_read,
)
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import AbsentError, FacemsmError
from facemsm.schemes import OCCLUDED, VISIBLE, LandmarkScheme
from facemsm.typing import FloatArray, Image


def read_cofw68(root: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:
    """The faces of ``test``, in the benchmark's order; the name of each is its number, ``1`` to ``507``.

    Raises:
        AbsentError: no annotations.
        FacemsmError: no or wrong boxes where they are asked for.
    """
    folder = root / "COFW68_Data"
    numbered = {}
    for path in (folder / "test_annotations").glob("*_points.mat"):
        if re.fullmatch(r"[1-9]\d{0,5}_points.mat", path.name, re.ASCII):
            numbered[int(path.name.split("_")[0])] = path
    if not numbered:
        raise AbsentError(
            f"{folder / 'test_annotations'}: no 1_points.mat there; give the folder that holds COFW68_Data"
        )
    boxes = _boxes(folder / "cofw68_test_bboxes.mat", max(numbered)) if box_source == "provided" else None
    photo = _photos(root, split)
    for n in sorted(numbered):
        yield try_read(_face, numbered[n], n, photo, boxes, scheme.count)


def _boxes(path: Path, least: int) -> FloatArray:
    boxes = load_mat5_numbers(path, "bboxes")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) < least:
        raise FacemsmError(f"{path}: bboxes is {boxes.shape}, expected {least} x 4")
    x, y, width, height = boxes.T
    return np.stack([x - 1, y - 1, x - 1 + width, y - 1 + height], axis=1)


def _photos(root: Path, split: str) -> Callable[[int], Path | Callable[[], Image]]:
    """Where photo n is. A folder of photos must have them all; without file and folder there are none."""
    folder = root / "images"

    def in_folder(n: int) -> Path:
        for photo in photos_beside(folder / f"{n}.jpg"):
            return photo
        raise FacemsmError(f"{folder / str(n)}.jpg: no such photo (nor another kind of photo)")

    if folder.is_dir():
        return in_folder
    try:
        path = cofw_file(root, split)
    except FacemsmError as error:
        missing = NoPhoto(f"{error}, or add a folder 'images' with 1.jpg, 2.jpg, ...")
        return lambda _: missing
    return lambda n: PackedPhoto(path, "IsT", n - 1)


def _face(
    path: Path, n: int, photo: Callable[[int], Path | Callable[[], Image]], boxes: FloatArray | None, count: int
) -> FaceSample:
    points = check_points(load_mat5_numbers(path, "Points") - 1, count, f"{path}: Points")
    occluded = load_mat5_numbers(path, "Occ").reshape(-1)
    if occluded.shape != (count,) or not np.isin(occluded, (0, 1)).all() or np.isnan(points).any():
        raise FacemsmError(f"{path}: expected Points without gaps, and Occ with {count} flags of 0 or 1")
    return FaceSample(
        name=str(n),
        image=photo(n),
        box=ground_truth_box(points, str(path)) if boxes is None else check_box(boxes[n - 1], f"{path}: box {n}"),
        box_source="gt" if boxes is None else "provided",
        points=points,
        visibility=np.where(occluded == 1, OCCLUDED, VISIBLE).astype(np.int8),
    )
