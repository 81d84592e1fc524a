"""300W-LP and AFLW2000-3D: a ``.mat`` beside each photo, with the 68 points of a 3D model fitted to it.

AFLW2000-3D's files hold ``pt3d_68`` (3 x 68, of which x and y are read), 300W-LP's ``pt2d`` (2 x 68). Coordinates are
1-based, as MATLAB counts, and become 0-based here. The contour is that of the model: where the face turns away it
lies behind the cheek, not on the outline that 300-W's labels follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from facemsm.data.matlab import load_mat5_numbers
from facemsm.data.reading import DatasetItem, Skipped, check_points, faces_below, ground_truth_box, photos_beside
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import FacemsmError
from facemsm.schemes import LandmarkScheme


def read_3d(root: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:  # noqa: ARG001
    """The faces of all ``.mat`` files with a photo beside them in ``root`` and its folders, named after their path.

    Raises:
        AbsentError: there is no ``.mat`` file.
    """
    yield from faces_below(root, ".mat", partial(_face, count=scheme.count))


def _face(path: Path, name: str, count: int) -> FaceSample | Skipped:
    photos = photos_beside(path)
    if not photos:
        return Skipped(name, ".mat file without a photo beside it")
    if len(photos) > 1:
        raise FacemsmError(f"{path}: expected one photo of the same name, found {' and '.join(p.name for p in photos)}")
    try:
        points = load_mat5_numbers(path, "pt3d_68")
    except FacemsmError:
        points = load_mat5_numbers(path, "pt2d")
    if points.ndim != 2 or points.shape[0] not in (2, 3) or points.shape[1] != count:
        raise FacemsmError(f"{path}: has {points.shape} points, expected pt3d_68 (3, {count}) or pt2d (2, {count})")
    checked = check_points(points[:2].T - 1, count, path)
    return FaceSample(name, photos[0], ground_truth_box(checked, path), "gt", checked)
