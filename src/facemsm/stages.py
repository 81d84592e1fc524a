"""Stages 1 and 2 (Algorithm 2, lines 1 to 4) for any two networks, and the settings of the whole way.

The aligner runs them with networks in ONNX Runtime, the ablation with networks in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facemsm.errors import FacemsmError, short
from facemsm.geometry import (
    CANONICAL_MARGIN,
    CROP_ENLARGEMENT,
    Matrix,
    compose,
    invert,
    similarity,
    theta_to_matrix,
)
from facemsm.imaging.warping import warp
from facemsm.shapes.reconstruction import Reconstruction
from facemsm.typing import FloatArray, Image, Method

IDENTITY_THETA = CANONICAL_MARGIN / CROP_ENLARGEMENT * np.eye(2, 3)
"""θ without stage 1: the box as it is, its larger side where the face's would be."""

LEAST_SCALE, LARGEST_SCALE = 0.04, 4.0
"""Determinants of θ between which it is believed."""

RETRY_BELOW, RETRY_MIN_GAIN = 0.7, 0.15
"""A face with a mean score (Eq. 9) below the first is tried again at other rotations. A rotation is taken if its mean
score is above that and higher by the second. Chosen on the 289 faces held out in training: rotated at random, they are
turned upright most often so, and of the upright ones none is turned, bare or behind painted occluders, with something
to spare."""

RETRY_ROTATIONS = np.deg2rad([72, -72, 144, -144])
"""Stage 1 was trained on faces rotated by up to 40° either way; with these it sees them from all around."""


@dataclass(frozen=True)
class Settings:
    """What decides a face's points, scores and flags, besides the model.

    Attributes:
        method: ``paper`` is Algorithm 2: one try, scores by Eq. 9 relative to the face's best, exemplars by Eq. 10 and
            11, and ``occluded`` where a point was rebuilt. ``calibrated`` is ours: stage 3 as it measured better for
            the model, scores and occlusion as probabilities, faces with low scores retried at other rotations;
            it needs a calibrated model. By default ``calibrated`` if the model is, else ``paper``.
        stages: which run; 2 must be among them. Without 1 the box is taken as it is; without 3 no point is moved.
        reconstruction: the paper's stage 3, with its thresholds.
        retry: whether ``calibrated`` may retry.
        any_rotation: whether photos may lie on their side or head: faces are looked for in all four orientations
            unless landmarks show the photo to be upright, see :func:`facemsm.detectors.rotation.detect_any_rotation`;
            faces of given boxes are tried in them.
        convention: name of a training data set, such as ``300w``: points are where its labels would be, rather than
            where the consensus of all sets is.

    Raises:
        FacemsmError: an unknown method or stage, or a convention that is no name.
    """

    method: Method | None = None
    stages: Collection[int] = (1, 2, 3)
    reconstruction: Reconstruction = field(default_factory=Reconstruction)
    retry: bool = True
    any_rotation: bool = False
    convention: str | None = None

    def __post_init__(self) -> None:
        if self.method not in (None, "calibrated", "paper"):
            raise FacemsmError(f"method is {self.method!r}: use 'calibrated' or 'paper'")
        stages = self.stages if isinstance(self.stages, Collection) else ()
        if 2 not in list(stages) or not all(stage in (1, 2, 3) for stage in stages):
            raise FacemsmError(
                f"stages are {short(self.stages)}: give a list of 1, 2 and 3, and keep 2, which finds the points"
            )
        if self.convention is not None and not (isinstance(self.convention, str) and self.convention):
            raise FacemsmError(f"convention is {short(self.convention)}: give the name of a data set, or None")


class Located(NamedTuple):
    """What stage 2 says of N canonical faces.

    Attributes:
        points: (N, L, 2) float32, canonical pixels (Eq. 8).
        scores: (N, L) float32 in [0, 1], Eq. 9 as a share of a perfect heatmap's.
        spread: (N, L, 3) float32 px², of the heatmaps, see :class:`facemsm.heatmaps.Decoded`; None of a network
            without heatmaps.
        heatmaps: (N, L, 64, 64) float32, if they are kept.
    """

    points: FloatArray
    scores: FloatArray
    spread: FloatArray | None = None
    heatmaps: FloatArray | None = None


Rectify = Callable[[Image], FloatArray]
"""Stage 1: crops (N, S, S, 3) uint8 RGB to θ (N, 2, 3)."""

Locate = Callable[[Image], Located]
"""Stage 2: canonical faces (N, S, S, 3) uint8 RGB to their points."""


def mirrored(locate: Locate, flip: Sequence[int] | NDArray[np.integer], size: int) -> Locate:
    """Stage 2 that looks at the mirror image of each face, too; not in the paper.

    Points and scores are the means of both. What the two disagree about adds to the spread, as of a mixture of two
    equal parts; heatmaps are those of the face as it is.

    Args:
        locate: stage 2.
        flip: of the landmark scheme.
        size: S, side of the canonical faces, px.
    """
    order = np.asarray(flip)

    def both(canonical: Image) -> Located:
        found = locate(np.concatenate((canonical, canonical[:, :, ::-1])))
        (points, other), (scores, others), spread = *(np.split(value, 2) for value in found[:2]), found.spread
        other = np.stack((size - 1 - other[:, order, 0], other[:, order, 1]), axis=-1)
        if spread is not None:
            x, y = np.moveaxis(points - other, -1, 0) / 2
            direct, reflected = np.split(spread, 2)
            reflected = np.where([True, False, True], 1, -1) * reflected[:, order]
            spread = _float32((direct + reflected) / 2 + np.stack((x * x, x * y, y * y), axis=-1))
        heatmaps = None if found.heatmaps is None else found.heatmaps[: len(canonical)]
        return Located(_float32((points + other) / 2), _float32((scores + others[:, order]) / 2), spread, heatmaps)

    return both


def _float32(values: NDArray[np.floating]) -> FloatArray:
    return np.asarray(values, np.float32)


class StageOutputs(NamedTuple):
    """What stages 1 and 2 make of N faces.

    Attributes:
        theta: (N, 2, 3), Eq. 1.
        to_photo: (N, 2, 3), canonical to photo pixels.
        canonical: (N, S, S, 3) uint8, the canonical faces.
        points, scores, spread, heatmaps: as in :class:`Located`.
    """

    theta: Matrix
    to_photo: Matrix
    canonical: Image
    points: FloatArray
    scores: FloatArray
    spread: FloatArray | None = None
    heatmaps: FloatArray | None = None


def run_stages(
    photos: Sequence[Image], to_crop: Matrix, rectify: Rectify | None, locate: Locate, size: int
) -> StageOutputs:
    """Lines 1 to 4 of Algorithm 2.

    Args:
        photos: of N faces, (H, W, 3) uint8 RGB each.
        to_crop: (N, 2, 3), photo pixels to those of stage 1's crop.
        rectify: stage 1; None takes the crop as it is.
        locate: stage 2.
        size: S, side of crops and canonical faces, px.
    """
    theta = np.tile(IDENTITY_THETA, (len(photos), 1, 1))
    if rectify:
        theta = sanitize_theta(rectify(crop(photos, to_crop, size)).astype(np.float64))  # lines 1 and 2
    # The canonical face is cut from the photo itself: sampling the crop once more would blur it.
    to_canonical = compose(invert(theta_to_matrix(theta, size)), to_crop)
    canonical = crop(photos, to_canonical, size)
    return StageOutputs(theta, invert(to_canonical), canonical, *locate(canonical))  # lines 3 and 4


def crop(photos: Sequence[Image], matrices: Matrix, size: int) -> Image:
    """(N, size, size, 3) uint8, each cut from its photo by a map (N, 2, 3) from photo to crop pixels."""
    return np.stack([warp(photo, matrix, size) for photo, matrix in zip(photos, matrices, strict=True)])


def sanitize_theta(theta: Matrix) -> Matrix:
    """θ (N, 2, 3), or ``IDENTITY_THETA`` where it is not finite, mirrors the face, or shows next to nothing of it."""
    scale = np.linalg.det(theta[..., :2])
    good = np.isfinite(theta).all((1, 2)) & (scale > LEAST_SCALE) & (scale < LARGEST_SCALE)
    return np.where(good[:, None, None], theta, IDENTITY_THETA)


def retry_rotated(
    outputs: StageOutputs,
    photos: Sequence[Image],
    to_crop: Matrix,
    rectify: Rectify,
    locate: Locate,
    size: int,
) -> StageOutputs:
    """Try faces with a low mean score again at ``RETRY_ROTATIONS``, and keep the best; not in the paper.

    Args:
        outputs: of the first try; changed in place.
        photos, to_crop, rectify, locate, size: as for :func:`run_stages`.
    """
    low = np.flatnonzero(outputs.scores.mean(1) < RETRY_BELOW)
    least = np.maximum(RETRY_BELOW, outputs.scores[low].mean(1) + RETRY_MIN_GAIN)
    for angle in RETRY_ROTATIONS if len(low) else ():
        rotation = similarity(angle, centre=2 * [(size - 1) / 2])
        rotated = np.stack([compose(rotation, to_crop[i]) for i in low])
        again = run_stages([photos[i] for i in low.tolist()], rotated, rectify, locate, size)
        again = again._replace(theta=compose(similarity(-angle), again.theta))  # to the crop as it was
        mean = again.scores.mean(1)
        better = np.flatnonzero(mean > least)
        least[better] = mean[better]
        for kept, new in zip(outputs, again, strict=True):
            if kept is not None and new is not None:
                kept[low[better]] = new[better]
    return outputs
