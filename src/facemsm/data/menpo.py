"""Shapes for the dictionary: Menpo's semi-frontal faces, and packed arrays of points. Photos are not needed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from facemsm.data.ibug import read_pts
from facemsm.data.reading import (
    DatasetItem,
    NoPhoto,
    Skipped,
    check_points,
    faces_below,
    ground_truth_box,
    photos_beside,
    read_npz,
    try_read,
)
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import FacemsmError
from facemsm.schemes import LandmarkScheme

PROFILE_POINTS = 39
"""Menpo annotates profile faces with these many points; they are no 68-point faces and are skipped."""


def read_menpo(root: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:  # noqa: ARG001
    """The semi-frontal faces among all ``.pts`` files in ``root`` and its folders, named after their path.

    Raises:
        AbsentError: there is no ``.pts`` file.
    """
    yield from faces_below(root, ".pts", partial(_face, count=scheme.count))


def read_shapes(root: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:  # noqa: ARG001
    """The faces in ``points`` (N, L, 2), 0-based pixels, of ``ROOT/SPLIT_L.npz`` (or of ROOT itself, if it is a file).

    Raises:
        AbsentError: no such file.
        FacemsmError: no such array in it.
    """
    count = scheme.count
    path = root if root.suffix == ".npz" else root / f"{split}_{count}.npz"
    arrays = read_npz(path, ["points"])
    if "points" not in arrays:
        raise FacemsmError(f"{path}: has no array 'points'")
    shapes = arrays["points"]
    if shapes.ndim != 3 or shapes.shape[1:] != (count, 2) or shapes.dtype.kind != "f":
        raise FacemsmError(f"{path}: 'points' is {shapes.dtype} {shapes.shape}, expected floats, (N, {count}, 2)")
    missing = NoPhoto(f"{path}: holds shapes only, no photos")
    for i, shape in enumerate(shapes):
        yield try_read(_shape, shape, f"{path}: points[{i}]", f"{split}/{i}", missing, count)


def _face(path: Path, name: str, count: int) -> FaceSample | Skipped:
    points = read_pts(path)
    if len(points) == PROFILE_POINTS:
        return Skipped(name, f"profile face with {PROFILE_POINTS} points")
    points = check_points(points, count, str(path))
    photo = next(iter(photos_beside(path)), None)
    return FaceSample(
        name, photo or NoPhoto(f"{path}: has no photo beside it"), ground_truth_box(points, str(path)), "gt", points
    )


def _shape(shape: np.ndarray, where: str, name: str, missing: NoPhoto, count: int) -> FaceSample:
    points = check_points(shape, count, where)
    return FaceSample(name, missing, ground_truth_box(points, where), "gt", points)
