"""COFW with 29 points and occlusion flags: the two MATLAB 7.3 files of its authors.

ROOT holds ``COFW_train_color.mat`` (IsTr, phisTr, bboxesTr; 1345 faces) and ``COFW_test_color.mat`` (IsT, phisT,
bboxesT; 507), or the grey ones without ``_color``. Seen through HDF5 every array is transposed: ``phis`` is (87, N),
29 x, 29 y, 29 flags (1 = occluded); ``bboxes`` is (4, N), x y width height; ``Is`` refers to one photo per face,
(3, W, H) or (W, H). Coordinates are 1-based in the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facemsm.data.matlab import open_mat73, read_array
from facemsm.data.reading import DatasetItem, check_box, check_points, ground_truth_box, try_read
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import AbsentError, FacemsmError
from facemsm.schemes import OCCLUDED, VISIBLE, LandmarkScheme
from facemsm.typing import Image

_VARIABLES = {"train": ("IsTr", "phisTr", "bboxesTr"), "test": ("IsT", "phisT", "bboxesT")}


@dataclass(frozen=True)
class PackedPhoto:
    """A photo inside a COFW file.

    The file is opened anew by each call, so that samples may go to worker processes, forked or spawned.
    """

    path: Path
    variable: str
    index: int

    def __call__(self) -> Image:
        """The photo, (H, W, 3) uint8 RGB; grey ones three times the same.

        Raises:
            FacemsmError: the file is gone or damaged, or holds no photo there.
        """
        with open_mat73(self.path) as file:
            photo = read_array(file[read_array(file[self.variable]).reshape(-1)[self.index]])
        if photo.dtype != np.uint8 or photo.ndim not in (2, 3) or (photo.ndim == 3 and photo.shape[0] != 3):
            where = f"{self.path}: {self.variable}{{{self.index + 1}}}"
            raise FacemsmError(f"{where} is {photo.dtype} {photo.shape}, expected a photo, uint8")
        photo = photo.T if photo.ndim == 3 else np.repeat(photo.T[:, :, None], 3, axis=2)
        return np.ascontiguousarray(photo)


def read_cofw(root: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:
    """The faces of ``train`` or ``test``; names are ``train/1`` to ``train/1345`` and ``test/1`` to ``test/507``.

    Raises:
        AbsentError: no such file.
        FacemsmError: the wrong version of MATLAB's format, or its variables are not COFW's.
    """
    path, count = cofw_file(root, split), scheme.count
    photos, phis_name, boxes_name = _VARIABLES[split]
    with open_mat73(path) as file:
        total = file[photos].size
        phis, boxes = (_matrix(file, name, path) for name in (phis_name, boxes_name))
    for name, array, rows in ((phis_name, phis, 3 * count), (boxes_name, boxes, 4)):
        if array.shape != (rows, total):
            raise FacemsmError(f"{path}: {name} is {array.shape[::-1]}, expected {total} photos x {rows} numbers")
    for i in range(total):
        yield try_read(_face, path, split, i, phis[:, i].reshape(3, count), boxes[:, i], box_source)


def cofw_file(root: Path, split: str) -> Path:
    """The ``.mat`` file of a split.

    Raises:
        AbsentError: there is none in ``root``.
    """
    names = (f"COFW_{split}_color.mat", f"COFW_{split}.mat")
    for name in names:
        if (root / name).is_file():
            return root / name
    raise AbsentError(f"{root / names[0]}: no such file; give the folder that holds COFW's .mat files")


def _matrix(file: Any, name: str, path: Path) -> Any:
    array = read_array(file[name])
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise FacemsmError(f"{path}: {name} is {array.dtype} {array.shape}, expected a matrix of numbers")
    return array.astype(np.float64)


def _face(path: Path, split: str, i: int, phis: Any, box: Any, box_source: BoxSource) -> FaceSample:
    where = f"{path}: face {i + 1}"
    if not np.all(np.isin(phis[2], (0, 1))) or np.isnan(phis).any():
        raise FacemsmError(f"{where}: expected x, y and an occlusion flag of 0 or 1 for each point")
    points = check_points(phis[:2].T - 1, phis.shape[1], where)
    x, y, width, height = box
    box = (
        check_box(np.array([x - 1, y - 1, x - 1 + width, y - 1 + height]), where) if box_source == "provided" else None
    )
    return FaceSample(
        name=f"{split}/{i + 1}",
        image=PackedPhoto(path, _VARIABLES[split][0], i),
        box=ground_truth_box(points, where) if box is None else box,
        box_source=box_source,
        points=points,
        visibility=np.where(phis[2] == 1, OCCLUDED, VISIBLE).astype(np.int8),
    )
