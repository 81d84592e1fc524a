"""Faces as other tools take them: pandas tables, COCO documents, sketches for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from facemsm.data.sample import OCCLUDED, VISIBLE
from facemsm.errors import FacemsmError
from facemsm.schemes import get_scheme

if TYPE_CHECKING:
    import pandas

    from facemsm.face import Face
    from facemsm.results import PhotoResult


def to_dataframe(faces: Sequence[Face]) -> pandas.DataFrame:
    """A pandas table of faces, one row a landmark.

    Args:
        faces: what :meth:`facemsm.Aligner.align` returns.

    Returns:
        The columns ``face`` and ``landmark`` (both from 0), ``x``, ``y`` (photo pixels), ``score``, ``occluded``.

    Raises:
        FacemsmError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise FacemsmError("tables need pandas: pip install pandas") from error
    tables = [
        pandas.DataFrame(
            {
                "face": i,
                "landmark": np.arange(len(face.points)),
                "x": face.points[:, 0],
                "y": face.points[:, 1],
                "score": face.scores,
                "occluded": face.occluded,
            }
        )
        for i, face in enumerate(faces)
    ]
    columns = ["face", "landmark", "x", "y", "score", "occluded"]
    return pandas.concat(tables, ignore_index=True) if tables else pandas.DataFrame(columns=columns)


def to_coco(photos: Iterable[PhotoResult]) -> dict[str, Any]:
    """A COCO keypoint document, ready for ``json.dump``; annotation tools and :mod:`facemsm.data.coco` read it.

    Args:
        photos: of one scheme, a built-in one; :func:`facemsm.results.read_results` reads those of earlier runs.

    Raises:
        FacemsmError: there is no photo, or their schemes differ or are not built in.
    """
    photos = list(photos)
    schemes = {photo.scheme for photo in photos}
    if len(schemes) != 1:
        raise FacemsmError(f"a COCO document has one landmark scheme, these photos have {sorted(schemes) or 'none'}")
    scheme = get_scheme(schemes.pop())
    images = [
        {"id": i, "file_name": photo.image, "width": photo.width, "height": photo.height}
        for i, photo in enumerate(photos, 1)
    ]
    faces = [(i, face) for i, photo in enumerate(photos, 1) for face in photo.faces]
    category = {
        "id": 1,
        "name": "face",
        "keypoints": list(scheme.names) or [str(i) for i in range(scheme.count)],
        "skeleton": [[a + 1, b + 1] for a, b in scheme.edges],  # COCO counts keypoints from 1 here
    }
    return {
        "images": images,
        "annotations": [annotation(face, image, number) for number, (image, face) in enumerate(faces, 1)],
        "categories": [category],
    }


def annotation(face: Face, image_id: int, annotation_id: int) -> dict[str, Any]:
    """COCO's record of one face: visibility 1 where a point is occluded, 2 elsewhere; ``score`` is their mean."""
    visibility = np.where(face.occluded, OCCLUDED, VISIBLE)
    x_min, y_min, x_max, y_max = face.box.astype(np.float64)
    box = np.round([x_min, y_min, x_max - x_min, y_max - y_min], 3)
    keypoints = np.column_stack([face.points.astype(np.float64), visibility])
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": box.tolist(),
        "area": round(float(box[2] * box[3]), 3),
        "num_keypoints": len(visibility),
        "keypoints": keypoints.round(3).ravel().tolist(),
        "score": round(float(face.scores.mean()), 3),
    }


def sketch(face: Face) -> str:
    """HTML with the points as SVG: discs are seen, rings hidden, colours are scores. Hover for number and score."""
    from facemsm.drawing import score_colours

    low = face.points.min(axis=0)
    points = (face.points - low) * (200 / max(1e-6, float(np.ptp(face.points, axis=0).max()))) + 10
    width, height = points.max(axis=0) + 10
    try:
        edges = get_scheme(str(len(points))).edges
    except FacemsmError:  # a scheme of one's own: its lines are not known here
        edges = ()
    ends = points[np.array(edges, np.int64).reshape(-1, 2)].tolist()
    lines = [f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}"/>' for (x0, y0), (x1, y1) in ends]
    marks = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" stroke="{colour}" fill="{"none" if hidden else colour}">'
        f"<title>{i}: {score:.2f}{', hidden' if hidden else ''}</title></circle>"
        for i, ((x, y), colour, score, hidden) in enumerate(
            zip(points.tolist(), map(_hex, score_colours(face.scores)), face.scores, face.occluded, strict=True)
        )
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" style="background:#222">'
        f'<g stroke="#777">{"".join(lines)}</g><g pointer-events="all">{"".join(marks)}</g></svg>'
        f"<div><code>{escape(repr(face))}</code></div>"
    )


def _hex(colour: Any) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
