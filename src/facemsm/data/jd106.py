"""LaPa and JD-landmark: 106 points in a text file per face, of which the 68 of 300-W are read.

``ROOT/{train,val,test}/landmarks/a.txt`` beside ``images/a.jpg`` (LaPa), ``landmark/a.jpg.txt`` beside
``picture/a.jpg`` (JD-landmark), or a photo in the same folder. The first line is ``106``, each other one x and y,
0-based.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from facemsm.data.reading import (
    DatasetItem,
    MissingPhoto,
    check_points,
    faces_below,
    ground_truth_box,
    number,
    photos_beside,
)
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import FacemsmError
from facemsm.files import read_text
from facemsm.imaging.io import IMAGE_SUFFIXES
from facemsm.schemes import LandmarkScheme

COUNT = 106

POINTS_68 = (
    *range(0, 33, 2),  # contour
    *(*range(33, 38), *range(42, 47)),  # upper edges of the brows
    *(*range(51, 55), *range(58, 63)),  # nose
    *(66, 67, 69, 70, 71, 73, 75, 76, 78, 79, 80, 82),  # eyes
    *range(84, 104),  # mouth
)
"""The 68 points of 300-W among the 106, in 300-W's order."""


def read_lapa(root: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:
    """The faces of ``train``, ``val`` or ``test`` of LaPa, named after their file.

    Raises:
        AbsentError: the split's folder is not there or has no ``.txt`` file.
    """
    yield from read_jd106(root / split, "all", box_source, scheme)


def read_jd106(root: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:  # noqa: ARG001
    """The faces of all ``.txt`` files in ``root`` and its folders, named after their path.

    Raises:
        AbsentError: there is no ``.txt`` file.
    """
    yield from faces_below(root, ".txt", partial(_face, count=scheme.count))


def _face(path: Path, name: str, count: int) -> FaceSample:
    lines = [(n, line.split()) for n, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
    if not lines or lines[0][1] != [str(COUNT)] or len(lines) != COUNT + 1:
        raise FacemsmError(
            f"{path}:1: expected a line {COUNT} and then {COUNT} lines of x and y, found {len(lines)} lines"
        )
    points = np.empty((COUNT, 2))
    for i, (n, tokens) in enumerate(lines[1:]):
        if len(tokens) != 2:
            raise FacemsmError(f"{path}:{n}: {len(tokens)} values, expected two numbers, x and y")
        points[i] = [number(token, f"{path}:{n}") for token in tokens]
    stem = path.with_suffix("")  # of a.txt, or of a.jpg.txt
    pictured = stem if stem.suffix.lower() in IMAGE_SUFFIXES else path
    above = path.parent.parent
    photos = photos_beside(pictured, path.parent, above / "images", above / "picture")
    found = " and ".join(map(str, photos)) or "none"
    fault = f"{path}: expected one photo of the same name in images/, picture/ or beside it, found {found}"
    if len(photos) > 1:
        raise FacemsmError(fault)
    checked = check_points(points[list(POINTS_68)], count, path)
    return FaceSample(
        name, photos[0] if photos else MissingPhoto(fault), ground_truth_box(checked, path), "gt", checked
    )
