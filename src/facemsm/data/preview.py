"""Faces as training sees them, in one picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from facemsm.data.augment import Augmentation, Crop, augment_crop, deformed, jitter_matrix, take_crop
from facemsm.data.contact_sheet import in_rows
from facemsm.data.sample import FaceSample
from facemsm.geometry import apply_affine, box_to_crop, canonical_matrix, compose, invert
from facemsm.imaging.drawing import SHIFT, fixed
from facemsm.schemes import OCCLUDED, LandmarkScheme
from facemsm.typing import Image


def preview(
    samples: Sequence[FaceSample],
    scheme: LandmarkScheme,
    augmentation: Augmentation,
    *,
    columns: int = 8,
    size: int = 128,
    seed: int = 0,
    count: int = 40,
) -> Image:
    """Augmented faces, chosen at random, drawn by :func:`draw_crop`.

    Args:
        samples: at least one face; those chosen are read.
        scheme: of their points.
        augmentation: how faces are varied.
        columns: faces in a row.
        size: side of a crop, px; it is drawn twice as large.
        seed: another one shows other faces, augmented differently.
        count: how many faces at most.

    Returns:
        (H, columns * 2 * size, 3) uint8 RGB.

    Raises:
        FacemsmError: a photo cannot be read.
    """
    rng = np.random.default_rng(seed)
    tiles = []
    for i in rng.permutation(len(samples))[:count]:
        sample = samples[i]
        jitter, flipped = jitter_matrix(augmentation, rng, size)
        matrix = compose(jitter, box_to_crop(sample.box, size))
        crop = take_crop(
            sample.load(), sample.points, sample.visibility, matrix, size, flip_table=scheme.flip, flipped=flipped
        )
        crop = deformed(crop, augmentation.deform, rng)
        tiles.append(draw_crop(augment_crop(crop, augmentation, rng, scheme), scheme))
    return in_rows(tiles, columns)


def draw_crop(crop: Crop, scheme: LandmarkScheme, zoom: int = 2) -> Image:
    """A crop, ``zoom`` times as large, with its points and the outline of its canonical image.

    Returns:
        (zoom * S, zoom * S, 3) uint8 RGB.
    """
    size = len(crop.image)
    canvas = np.asarray(cv2.resize(crop.image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC), np.uint8)
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * size - 0.5
    outline = apply_affine(invert(canonical_matrix(crop.points, scheme, size)), corners)
    labelled = np.isfinite(crop.points).all(axis=1)
    places = np.concatenate([crop.points[labelled], outline])
    drawn = fixed(zoom * places + (zoom - 1) / 2)  # where the centres of the crop's pixels are on the canvas
    cv2.polylines(canvas, [drawn[-4:]], True, (255, 255, 255), 1, cv2.LINE_AA, SHIFT)
    hidden = np.zeros(labelled.sum(), bool) if crop.visibility is None else crop.visibility[labelled] == OCCLUDED
    for centre, ring in zip(drawn[:-4].tolist(), hidden, strict=True):
        if ring:
            cv2.circle(canvas, centre, 40, (255, 50, 50), 1, cv2.LINE_AA, SHIFT)
        else:
            cv2.circle(canvas, centre, 20, (60, 255, 60), cv2.FILLED, cv2.LINE_AA, SHIFT)
    return canvas
