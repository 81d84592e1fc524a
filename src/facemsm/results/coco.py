"""COCO keypoint documents of aligned faces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from facemsm.errors import FacemsmError
from facemsm.schemes import get_scheme

if TYPE_CHECKING:
    from facemsm.results.jsonl import PhotoResult


def to_coco(photos: Iterable[PhotoResult]) -> dict[str, Any]:
    """A COCO keypoint document, ready for ``json.dump``; annotation tools and :mod:`facemsm.data.coco` read it.

    Args:
        photos: of one scheme, a built-in one; :func:`facemsm.results.jsonl.read_results` reads those of earlier runs.

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
        "annotations": [face.to_coco(image, number) for number, (image, face) in enumerate(faces, 1)],
        "categories": [category],
    }
