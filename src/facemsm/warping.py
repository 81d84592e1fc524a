"""Cutting a square image out of a photo: the one resampling that training and inference share."""

from __future__ import annotations

import cv2
import numpy as np

from facemsm.geometry import Matrix
from facemsm.typing import Image

BORDER_MODE: int = cv2.BORDER_CONSTANT
BORDER_VALUE = (0, 0, 0)
"""What a crop shows beyond the photo's edge. Training and inference must agree on it."""


def warp(image: Image, matrix: Matrix, size: int) -> Image:
    """The (size, size) crop of a photo, bilinear; shrinking more than twofold averages first, so nothing aliases.

    Args:
        image: (H, W, 3) uint8.
        matrix: (2, 3) from photo pixels to crop pixels, 0-based pixel centres.
        size: side of the crop.
    """
    (a, b), (c, d) = matrix[:, :2]
    step = int(1.0 / np.sqrt(max(abs(a * d - b * c), 1e-12)))
    if step >= 2:
        image, origin = _shrunk(image, matrix, size, step)
        # pixel u of the shrunk photo is centred at step * u + origin + (step - 1) / 2 of the photo
        offset = matrix[:, :2] @ (origin + (step - 1) / 2.0) + matrix[:, 2]
        matrix = np.column_stack([matrix[:, :2] * step, offset])
    crop = cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=BORDER_MODE, borderValue=BORDER_VALUE
    )
    return np.asarray(crop, np.uint8)


def _shrunk(image: Image, matrix: Matrix, size: int, step: int) -> tuple[Image, Matrix]:
    """The part of the photo a crop needs, averaged over ``step`` x ``step`` pixels, and its first pixel's place."""
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float64) - 0.5
    seen = np.linalg.solve(matrix[:, :2], (corners - matrix[:, 2]).T).T
    limit = np.array(image.shape[1::-1])
    low = np.clip(np.floor(seen.min(axis=0)).astype(int) - 2 * step, 0, limit - 1)
    high = np.clip(np.ceil(seen.max(axis=0)).astype(int) + 2 * step, low + 1, limit)
    cells = np.maximum((high - low) // step, 1)
    x0, y0 = low
    x1, y1 = np.minimum(low + cells * step, limit)
    part = cv2.resize(image[y0:y1, x0:x1], (int(cells[0]), int(cells[1])), interpolation=cv2.INTER_AREA)
    return np.asarray(part, np.uint8), low.astype(np.float64)
