"""Cutting a square image out of a photo: the one resampling that training and inference share."""

from __future__ import annotations

from math import ceil, floor, sqrt
from typing import Any

import cv2
import numpy as np

from facemsm.geometry import Matrix, box_to_crop, compose, perturb_box, similarity
from facemsm.typing import FloatArray, Image

SAMPLING: dict[str, Any] = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_CONSTANT, "borderValue": (0, 0, 0)}
"""What a crop shows beyond the photo's edge. Training and inference must agree on it."""


def warp(image: Image, matrix: Matrix, size: int) -> Image:
    """The (size, size) crop of a photo, bilinear; shrinking more than twofold averages first, so nothing aliases.

    Args:
        image: (H, W, 3) uint8.
        matrix: (2, 3) from photo pixels to crop pixels, 0-based pixel centres.
        size: side of the crop.
    """
    (a, b, _), (c, d, _) = matrix.tolist()
    step = int(1.0 / sqrt(max(abs(a * d - b * c), 1e-12)))
    if step >= 2:
        image, matrix = _shrunk(image, matrix, size, step)
    return np.asarray(cv2.warpAffine(image, matrix, (size, size), **SAMPLING), np.uint8)


def jittered_crop(
    image: Image,
    box: FloatArray,
    size: int,
    rng: np.random.Generator,
    *,
    shift: float,
    scale: tuple[float, float],
    turn: float,
) -> Image:
    """What stage 1 sees, (size, size, 3), of a face whose box and photo are perturbed by uniform random amounts.

    Args:
        image: (H, W, 3) uint8.
        box: (4,) photo pixels.
        size: side of the crop.
        rng: decides the amounts.
        shift: at most, in box widths and heights, either way.
        scale: least and most.
        turn: at most, in radians, either way.
    """
    moved = perturb_box(box, rng.uniform(-shift, shift, 2), rng.uniform(*scale))
    turned = similarity(rng.uniform(-turn, turn), centre=2 * [(size - 1) / 2])
    return warp(image, compose(turned, box_to_crop(moved, size)), size)


def _shrunk(image: Image, matrix: Matrix, size: int, step: int) -> tuple[Image, Matrix]:
    """The part of the photo a crop needs, averaged over ``step`` x ``step`` pixels, and the map from it to the crop."""
    (a, b, shift_x), (c, d, shift_y) = matrix.tolist()
    # the crop's middle in the photo, and how far about it the photo is seen
    determinant = a * d - b * c
    u, v = (size - 1) / 2 - shift_x, (size - 1) / 2 - shift_y
    middle = (d * u - b * v) / determinant, (a * v - c * u) / determinant
    reach = size * (abs(b) + abs(d)) / 2 / abs(determinant), size * (abs(a) + abs(c)) / 2 / abs(determinant)
    (x0, x1), (y0, y1) = (
        _whole_cells(floor(at - half) - 2 * step, ceil(at + half) + 2 * step, step, limit)
        for at, half, limit in zip(middle, reach, image.shape[1::-1], strict=True)
    )
    cells = max((x1 - x0) // step, 1), max((y1 - y0) // step, 1)
    part = cv2.resize(image[y0:y1, x0:x1], cells, interpolation=cv2.INTER_AREA)
    # pixel u of the shrunk photo is centred at step * u + x0 + (step - 1) / 2 of the photo
    x, y = x0 + (step - 1) / 2, y0 + (step - 1) / 2
    to_crop = [[a * step, b * step, a * x + b * y + shift_x], [c * step, d * step, c * x + d * y + shift_y]]
    return np.asarray(part, np.uint8), np.array(to_crop)


def _whole_cells(low: int, high: int, step: int, limit: int) -> tuple[int, int]:
    """What of low to high lies in the photo, in cells of ``step`` pixels, but at least one pixel."""
    low = min(max(low, 0), limit - 1)
    high = min(max(high, low + 1), limit)
    return low, min(low + max((high - low) // step, 1) * step, limit)
