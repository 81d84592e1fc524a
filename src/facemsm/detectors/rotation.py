"""Photos that may lie on their side or head, such as a phone's whose orientation tag was lost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from facemsm.detectors import FaceDetector
from facemsm.geometry import apply_affine, similarity
from facemsm.typing import FloatArray, Image

UPRIGHT_SCORE = 0.8
"""Mean score of the landmarks, shares of a perfect heatmap's, from which a photo lies upright. A detector's confidence
does not tell: it may be as high for faces on their side."""

SCORED_FACES = 4
"""Faces of a photo whose landmarks say how it lies."""


MeanScores = Callable[[Image, FloatArray], FloatArray]
"""Mean scores (N,) of the landmarks of faces in a photo, by it and their boxes (N, 4), as if they were upright."""


def detect_any_rotation(detector: FaceDetector, image: Image, mean_scores: MeanScores) -> tuple[FloatArray, int]:
    """Detect faces in a photo and, unless it proves to be upright, in its other three orientations.

    The orientation in which the best faces' landmarks score highest in sum is taken for the whole photo.

    Args:
        detector: finds upright faces.
        image: (H, W, 3) uint8 RGB.
        mean_scores: gives the scores by which orientations are compared.

    Returns:
        (N, 5) as of :meth:`FaceDetector.detect`, in pixels of the photo as it is; and by how many quarter turns
        counter-clockwise it becomes upright.
    """
    found, turns = _most_upright(image, lambda view, _: detector.detect(view), mean_scores)
    return (turned_back(found, turns, image.shape) if turns else found), turns


def turns_of_boxes(image: Image, boxes: FloatArray, mean_scores: MeanScores) -> int:
    """By how many quarter turns counter-clockwise a photo becomes upright, by the boxes (N, 4) of its faces.

    The orientation in which the first faces' landmarks score highest in sum is taken; ``mean_scores`` is as above.
    """
    given = np.concatenate([boxes, np.ones((len(boxes), 1), np.float32)], axis=1)
    return _most_upright(image, lambda view, k: turned_back(given, -k % 4, view.shape), mean_scores)[1]


def _most_upright(
    image: Image, find: Callable[[Image, int], FloatArray], mean_scores: MeanScores
) -> tuple[FloatArray, int]:
    """What ``find`` finds in the orientation that scores best, by photo and quarter turns; and these turns."""
    best, found, turns = -1.0, np.zeros((0, 5), np.float32), 0
    for k in range(4):
        view = np.ascontiguousarray(np.rot90(image, k))
        detections = find(view, k)
        scores = mean_scores(view, detections[:SCORED_FACES, :4]) if len(detections) else np.zeros(0)
        if scores.sum() > best:
            best, found, turns = float(scores.sum()), detections, k
        if k == 0 and len(scores) and scores.mean() >= UPRIGHT_SCORE:
            break
    return found, turns


def turned_back(detections: FloatArray, turns: int, shape: tuple[int, ...]) -> FloatArray:
    """Detections (N, 5) of ``np.rot90(photo, turns)`` as those of the photo, whose shape is given."""
    middle = np.array([shape[1] - 1, shape[0] - 1]) / 2
    there = middle[:: -1 if turns % 2 else 1]
    corners = apply_affine(similarity(turns * np.pi / 2, shift=middle), detections[:, :4].reshape(-1, 2, 2) - there)
    return np.concatenate([corners.min(1), corners.max(1), detections[:, 4:]], axis=1).astype(np.float32)
