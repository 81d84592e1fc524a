"""WFLW: 98 points and six attributes, in lists of 207 tokens per line.

``ROOT/WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{train,test}.txt``; photos in
``ROOT/WFLW_images``. A line is 98 x y pairs, x_min y_min x_max y_max, six flags of 0 or 1 (:data:`ATTRIBUTES`), and the
photo. Coordinates are 0-based and may lie outside the photo; a photo shows one face per line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from facemsm.data.reading import (
    DatasetItem,
    check_box,
    check_points,
    find_photo,
    ground_truth_box,
    number,
    reject_duplicate,
    try_read,
)
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import FacemsmError
from facemsm.files import read_text
from facemsm.schemes import LandmarkScheme

ATTRIBUTES = ("pose", "expression", "illumination", "makeup", "occlusion", "blur")
"""Flags of each face in the lists' order; each names the subset of the test split in which it is set."""


def read_wflw(root: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:
    """The faces of ``train``, ``test`` or one of the six subsets of ``test``.

    A face is named after its photo and its line: ``12--Group/12_Group_Group_12_Group_Group_12_228#17``.

    Raises:
        FacemsmError: the list cannot be read.
    """
    listed = "train" if split == "train" else "test"
    path = root / "WFLW_annotations" / "list_98pt_rect_attr_train_test" / f"list_98pt_rect_attr_{listed}.txt"
    seen: dict[tuple[str, bytes], object] = {}
    for n, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            where = f"{path}:{n}"
            item = reject_duplicate(
                try_read(_face, line, where, n, root / "WFLW_images", box_source, scheme.count), where, seen
            )
            if split not in ATTRIBUTES or isinstance(item, FacemsmError) or item.attributes[split]:
                yield item


def _face(line: str, where: str, n: int, folder: Path, box_source: BoxSource, count: int) -> FaceSample:
    tokens = line.split(maxsplit=2 * count + 10)  # the photo's name may have spaces
    if len(tokens) != 2 * count + 11:
        raise FacemsmError(
            f"{where}: {len(tokens)} tokens, expected {2 * count + 11}: {count} x y, box, 6 flags, photo"
        )
    *coordinates, photo = tokens
    photo = photo.rstrip()
    flags = coordinates[-6:]
    if not set(flags) <= {"0", "1"}:
        raise FacemsmError(f"{where}: attributes are {' '.join(flags)[:60]}, expected six flags of 0 or 1")
    values = np.array([number(token, where) for token in coordinates[:-6]])
    points = check_points(values[: 2 * count].reshape(count, 2), count, where)
    attributes: Mapping[str, bool] = {name: flag == "1" for name, flag in zip(ATTRIBUTES, flags, strict=True)}
    return FaceSample(
        name=f"{Path(photo).with_suffix('').as_posix()}#{n}",
        image=find_photo(photo, where, folder),
        box=check_box(values[2 * count :], where) if box_source == "provided" else ground_truth_box(points, where),
        box_source=box_source,
        points=points,
        attributes=attributes,
    )
