"""What every adapter does around its library: bound the photo, suppress doubles, map boxes back."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike

from facemsm.errors import FacemsmError
from facemsm.typing import FloatArray, Image


def shrink(image: Image, longest: int) -> tuple[Image, FloatArray]:
    """Return the photo with no side above ``longest`` pixels (never enlarged), and its (x, y) scale.

    Raises:
        FacemsmError: ``image`` is not (H, W, 3) uint8 with at least one pixel.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise FacemsmError(f"a photo is an (H, W, 3) uint8 array, not {image.shape} {image.dtype}: convert it to RGB")
    height, width = image.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1:
        return np.ascontiguousarray(image), np.ones(2, np.float32)
    across, down = max(1, round(width * factor)), max(1, round(height * factor))
    small = np.asarray(cv2.resize(image, (across, down), interpolation=cv2.INTER_AREA), np.uint8)
    return small, np.array([across / width, down / height], np.float32)


def pack(corners: ArrayLike, scores: ArrayLike, scale: FloatArray) -> FloatArray:
    """Return (N, 5) detections in photo pixels, best first.

    Args:
        corners: (N, 4) x_min, y_min, x_max, y_max on the shrunk photo, counted from the outer edge of its first pixel
            as libraries do; half a pixel less is our pixel centre.
        scores: (N,) confidences.
        scale: (2,) of :func:`shrink`.
    """
    boxes = np.asarray(corners, np.float32).reshape(-1, 4) / np.tile(scale, 2) - 0.5
    confidences = np.asarray(scores, np.float32).reshape(-1)
    order = np.argsort(-confidences, kind="stable")
    return np.concatenate([boxes, confidences[:, None]], axis=1)[order].astype(np.float32)


def overlaps(box: FloatArray, boxes: FloatArray) -> FloatArray:
    """Return the intersection over union (N,) of one box (4,) with each of ``boxes`` (N, 4)."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - common
    ratio: FloatArray = common / np.maximum(union, np.finfo(np.float32).tiny)
    return ratio


def suppress(detections: FloatArray, overlap: float) -> FloatArray:
    """Return the (N, 5) detections, best first, without those that overlap a better one by more than that IoU."""
    kept = [detections[:0]]
    while len(detections):
        kept.append(detections[:1])
        rest = detections[1:]
        detections = rest[overlaps(detections[0, :4], rest[:, :4]) <= overlap]
    return np.concatenate(kept)
