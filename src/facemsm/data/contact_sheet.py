"""Many annotated faces in one picture, to see whether the points sit right."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from facemsm.data.sample import FaceSample, evenly_chosen
from facemsm.imaging.drawing import SHIFT, fixed
from facemsm.schemes import OCCLUDED, LandmarkScheme
from facemsm.typing import BoolArray, Image

_VISIBLE_COLOUR, _OCCLUDED_COLOUR, _BOX_COLOUR = (60, 255, 60), (255, 60, 60), (255, 220, 0)
_MARGIN = 0.25  # of the longer side of box and points, on each side


def contact_sheet(
    samples: Sequence[FaceSample], scheme: LandmarkScheme, columns: int = 6, rows: int = 5, tile: int = 224
) -> Image:
    """A grid of faces, evenly chosen, enlarged, with box (yellow), visible (green) and occluded points (red).

    Args:
        samples: at least one face; their photos are read.
        scheme: names the lines of the skeleton.
        columns: faces in a row.
        rows: rows at most; fewer if there are not as many faces.
        tile: side of one face in pixels.

    Returns:
        (rows * tile, columns * tile, 3) uint8 RGB.

    Raises:
        FacemsmError: a photo cannot be read.
    """
    return in_rows([draw_sample(sample, scheme, tile) for sample in evenly_chosen(samples, columns * rows)], columns)


def in_rows(tiles: Sequence[Image], columns: int) -> Image:
    """Pictures of one size side by side, ``columns`` in a row; the last row is filled with black."""
    tiles = [*tiles, *[np.zeros_like(tiles[0])] * (-len(tiles) % columns)]
    return np.concatenate([np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)])


def draw_sample(sample: FaceSample, scheme: LandmarkScheme, size: int) -> Image:
    """One face with its box and points, (size, size, 3) uint8 RGB.

    Raises:
        FacemsmError: the photo cannot be read.
    """
    labelled: BoolArray = np.asarray(np.isfinite(sample.points).all(axis=1))
    corners = np.concatenate([sample.points[labelled], sample.box.reshape(2, 2)])
    low, high = corners.min(axis=0), corners.max(axis=0)
    scale = size / ((1 + 2 * _MARGIN) * float((high - low).max()))
    # photo pixel p is drawn at scale * (p - centre) + middle, both counted from pixel centres
    offset = (size - 1) / 2 - scale * (low + high) / 2
    matrix = np.column_stack([np.eye(2) * scale, offset])
    interpolation = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    canvas = np.asarray(cv2.warpAffine(sample.load(), matrix, (size, size), flags=interpolation), np.uint8)

    box = fixed(sample.box.reshape(2, 2) * scale + offset).tolist()
    cv2.rectangle(canvas, box[0], box[1], _BOX_COLOUR, 1, cv2.LINE_AA, SHIFT)
    points = fixed(np.where(labelled[:, None], sample.points, 0) * scale + offset)
    drawn = np.array([edge for edge in scheme.edges if labelled[list(edge)].all()], np.int64).reshape(-1, 2)
    cv2.polylines(canvas, list(points[drawn]), False, (200, 200, 200), 1, cv2.LINE_AA, SHIFT)
    occluded = np.zeros(len(points), bool) if sample.visibility is None else sample.visibility == OCCLUDED
    for centre, hidden in zip(points[labelled].tolist(), occluded[labelled], strict=True):
        cv2.circle(canvas, centre, 24, _OCCLUDED_COLOUR if hidden else _VISIBLE_COLOUR, cv2.FILLED, cv2.LINE_AA, SHIFT)
    return canvas
