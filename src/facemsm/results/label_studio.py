"""Faces as Label Studio imports them, to be corrected there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from facemsm.schemes import LandmarkScheme

if TYPE_CHECKING:
    from facemsm.results.jsonl import PhotoResult

_LOCAL_FILES = "/data/local-files/?d="
_POINT_SIZE = 0.5  # % of the photo's width


def label_studio_tasks(photos: Iterable[PhotoResult], scheme: LandmarkScheme) -> list[dict[str, Any]]:
    """Tasks with predictions, ready for ``json.dump``: of each face a box and, as its children, the named points.

    They fit a labelling configuration with ``RectangleLabels`` called ``face`` and ``KeyPointLabels`` called ``point``
    on an image called ``image``. Photos are named as files of Label Studio's local storage. What is exported of the
    corrected tasks is read by :func:`facemsm.data.annotation_tools.read_label_studio`.

    Args:
        photos: ``image`` is their path within the folder that Label Studio serves.
        scheme: of the points.
    """
    names = scheme.names or tuple(str(i) for i in range(scheme.count))
    return [
        {
            "data": {"image": _LOCAL_FILES + quote(photo.image)},
            "predictions": [{"model_version": "facemsm", "score": _lowest(photo), "result": _regions(photo, names)}],
        }
        for photo in photos
    ]


def _lowest(photo: PhotoResult) -> float:
    """Score of a task: the lowest of its faces comes first where tasks are sorted by it."""
    return round(min((face.score for face in photo.faces), default=0.0), 3)


def _regions(photo: PhotoResult, names: tuple[str, ...]) -> list[dict[str, Any]]:
    regions: list[dict[str, Any]] = []

    def add(key: str, kind: str, name: str, value: dict[str, Any], **more: Any) -> None:
        size = {"original_width": photo.width, "original_height": photo.height, "image_rotation": 0}
        regions.append({"id": key, "type": kind, "from_name": name, "to_name": "image", **size, "value": value, **more})

    for number, face in enumerate(photo.faces, 1):
        x0, y0, x1, y1 = face.box.tolist()
        corner = {"x": 100 * x0 / photo.width, "y": 100 * y0 / photo.height}
        extent = {"width": 100 * (x1 - x0) / photo.width, "height": 100 * (y1 - y0) / photo.height, "rotation": 0}
        key = f"face{number}"
        add(key, "rectanglelabels", "face", {**corner, **extent, "rectanglelabels": ["face"]}, score=face.score)
        for i, (x, y) in enumerate(face.points.tolist()):
            place = {"x": 100 * x / photo.width, "y": 100 * y / photo.height, "width": _POINT_SIZE}
            value = {**place, "keypointlabels": [names[i]]}
            add(f"{key}_{i}", "keypointlabels", "point", value, parentID=key, score=float(face.scores[i]))
    return regions
