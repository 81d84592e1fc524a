"""Results as tables: CSV files, ``.pts`` files, pandas."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from facemsm.errors import FacemsmError, printable
from facemsm.face import Face, rounded
from facemsm.files import atomic_write
from facemsm.shapes.measures import MEASURES, face_measures
from facemsm.typing import FloatArray

if TYPE_CHECKING:
    import pandas

    from facemsm.results.jsonl import PhotoResult
    from facemsm.schemes import LandmarkScheme


def to_dataframe(faces: Sequence[Face] | Face) -> pandas.DataFrame:
    """A pandas table of faces, one row per landmark.

    Args:
        faces: what :meth:`facemsm.Aligner.align` returns, or one of them.

    Returns:
        The columns ``face`` and ``landmark`` (both from 0), ``x``, ``y`` (photo pixels), ``score``, ``occluded``.

    Raises:
        FacemsmError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise FacemsmError("tables need pandas: pip install pandas") from error
    faces = [faces] if isinstance(faces, Face) else faces
    if not faces:
        return pandas.DataFrame(columns=["face", "landmark", "x", "y", "score", "occluded"])
    tables = [face.to_dataframe() for face in faces]
    return pandas.concat(tables, keys=range(len(tables)), names=["face"]).reset_index()


def write_csv(
    path: Path, results: Iterable[PhotoResult], count: int, *, measures: LandmarkScheme | None = None
) -> None:
    """Write ``results`` as CSV, one row per face with ``count`` points; the file appears whole or not at all.

    Columns: image, face (from 1), x_min, y_min, x_max, y_max, detection_score, score, those of ``MEASURES`` if the
    points' scheme is given for them, x_0 ..., y_0 ..., score_0 ..., occluded_0 ... (0 or 1). Photos without a face have
    no row.

    A row is one line, whatever a photo's name holds: control characters are escapes. No name is a formula of a
    spreadsheet: one that begins with ``=``, ``+``, ``-`` or ``@`` gets ``./`` before it, which names the same photo.

    Raises:
        FacemsmError: it cannot be written.
    """
    columns = [f"{name}_{i}" for name in ("x", "y", "score", "occluded") for i in range(count)]
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        named = ["image", "face", "x_min", "y_min", "x_max", "y_max", "detection_score", "score"]
        writer.writerow([*named, *(MEASURES if measures else ()), *columns])
        for result in results:
            image = f"./{result.image}" if result.image.startswith(("=", "+", "-", "@")) else result.image
            for i, face in enumerate(result.faces, 1):
                measured = face_measures(face.points, measures).values() if measures else ()
                before = (*rounded(face.box), face.detection_score, face.score, *measured)
                values = (face.points.T.ravel(), face.scores, face.occluded.astype(int))
                writer.writerow([printable(image), i, *map(cell, before), *(v for a in values for v in rounded(a))])


def cell(value: float | None) -> float | str:
    """A number as CSV has it, to 0.001; empty for one that is not known."""
    return "" if value is None else round(value, 3)


def write_pts(path: Path, points: FloatArray) -> None:
    """Write points (L, 2), 0-based, as an iBUG ``.pts`` file, 1-based; ``facemsm.data.ibug.read_pts`` reads it.

    Raises:
        FacemsmError: it cannot be written.
    """
    rows = "".join(f"{x:.3f} {y:.3f}\n" for x, y in (np.asarray(points, np.float64) + 1).tolist())
    with atomic_write(path) as temporary:
        temporary.write_bytes(f"version: 1\nn_points: {len(points)}\n{{\n{rows}}}\n".encode())
