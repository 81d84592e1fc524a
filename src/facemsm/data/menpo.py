"""Shapes for the dictionary: Menpo's semi-frontal faces, and packed arrays of points. Photos are not needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facemsm.data.ibug import read_pts
from facemsm.data.reading import Item, NoPhoto, Skipped, check_points, tight_box, try_read
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import AbsentError, FacemsmError
from facemsm.imaging.io import IMAGE_SUFFIXES

PROFILE_POINTS = 39
"""Menpo annotates profile faces with these many points; they are no 68-point faces and are skipped."""


def read_menpo(root: Path, split: str, box_source: BoxSource, count: int = 68) -> Iterator[Item]:  # noqa: ARG001
    """The semi-frontal faces among all ``.pts`` files in ``root`` and its folders, named after their path.

    Raises:
        AbsentError: there is no ``.pts`` file.
    """
    paths = sorted(root.rglob("*.pts"))
    if not paths:
        raise AbsentError(f"{root}: no .pts files in this folder")
    for path in paths:
        yield try_read(_face, path, path.relative_to(root).with_suffix("").as_posix(), count)


def read_shapes(root: Path, split: str, box_source: BoxSource, count: int = 68) -> Iterator[Item]:  # noqa: ARG001
    """The faces in ``points`` (N, L, 2), 0-based pixels, of ``ROOT/SPLIT_L.npz`` (or of ROOT itself, if it is a file).

    Raises:
        AbsentError: no such file.
        FacemsmError: no such array in it.
    """
    path = root if root.suffix == ".npz" else root / f"{split}_{count}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            shapes = np.asarray(arrays["points"])
    except FileNotFoundError as error:
        raise AbsentError(f"{path}: no such file") from error
    except OSError as error:
        raise FacemsmError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise FacemsmError(f"{path}: has no array 'points'") from error
    except Exception as error:  # a damaged archive makes zipfile and NumPy raise nearly anything
        raise FacemsmError(f"{path}: not a readable .npz file ({' '.join(str(error).split())[:120]})") from error
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
    photos = (path.with_suffix(suffix) for suffix in IMAGE_SUFFIXES)
    photo = next((photo for photo in photos if photo.is_file()), None)
    return FaceSample(
        name, photo or NoPhoto(f"{path}: has no photo beside it"), tight_box(points, str(path)), "gt", points
    )


def _shape(shape: np.ndarray, where: str, name: str, missing: NoPhoto, count: int) -> FaceSample:
    points = check_points(shape, count, where)
    return FaceSample(name, missing, tight_box(points, where), "gt", points)
