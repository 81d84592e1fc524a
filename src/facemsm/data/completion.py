"""98 points from 68: WFLW's scheme for faces that are labelled with 300-W's.

Sixty points are in both schemes. The other 38 (between the contour's points, the brows' lower edge, eyelids, pupils)
follow from the 68 closely enough to learn from: a linear rule learned on a few faces with 98 points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from facemsm.data.sample import FaceSample
from facemsm.errors import FacemsmError
from facemsm.geometry import apply_affine, canonical_matrix, invert
from facemsm.schemes import get_scheme
from facemsm.typing import FloatArray

SIZE = 128
RIDGE = 0.08
"""Variance, squared px of a 128 px canonical image, that every coordinate of the 68 points has besides what faces vary;
least error in five-fold cross-validation on 80 faces."""

# Points of scheme 98 at those of scheme 68. The four points of each pair of eyelids lie between two of WFLW's.
_SHARED = {
    **{i: 2 * i for i in range(17)},
    **{17 + i: 33 + i for i in range(5)},
    **{22 + i: 42 + i for i in range(5)},
    **{27 + i: 51 + i for i in range(9)},
    **{36: 60, 39: 64, 42: 68, 45: 72},
    **{48 + i: 76 + i for i in range(20)},
}
_EYELIDS = {
    eye + point: (ring + before, ring + (before + 1) % 8, weight)
    for eye, ring in ((36, 60), (42, 68))
    for point, before, weight in ((1, 1, 1 / 3), (2, 2, 2 / 3), (4, 5, 1 / 3), (5, 6, 2 / 3))
}
SHARED_68, SHARED_98 = (np.array(side) for side in zip(*_SHARED.items(), strict=True))
"""Indices of the shared points in either scheme."""
MISSING = np.setdiff1d(np.arange(98), SHARED_98)
"""Points of scheme 98 that scheme 68 has not."""


def to_68(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Scheme 98 to scheme 68: (..., 98, 2) to (..., 68, 2); the eyelids' points are interpolated."""
    result = np.empty((*points.shape[:-2], 68, 2), points.dtype)
    result[..., SHARED_68, :] = points[..., SHARED_98, :]
    for target, (before, after, weight) in _EYELIDS.items():
        result[..., target, :] = (1 - weight) * points[..., before, :] + weight * points[..., after, :]
    return result


@dataclass(frozen=True, eq=False)
class Completion:
    """A Gaussian over canonical faces, (68 points, the 38 others), from which the latter are inferred.

    Attributes:
        mean: (212,) canonical px.
        covariance: (212, 212).
        support: (38, 2) the two of the 68 points that each other point lies nearest to in the mean face; where one of
            them is unlabelled the point is so too.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    support: NDArray[np.int64]

    @classmethod
    def learn(cls, points: NDArray[np.floating]) -> Completion:
        """From faces with 98 points (N, 98, 2), photo pixels, and their mirror images.

        Raises:
            FacemsmError: fewer than 10 faces, or one lacks a point.
        """
        if len(points) < 10 or not np.isfinite(points).all():
            raise FacemsmError(f"{len(points)} faces to learn 98 points from: at least 10, with all points, are needed")
        points = np.asarray(points, np.float64)
        mirrored = points[:, get_scheme("98").flip] * (-1, 1)
        points = np.concatenate((points, mirrored))
        known = to_68(points)
        frame = canonical_matrix(known, get_scheme("68"), SIZE)
        known, others = apply_affine(frame, known), apply_affine(frame, points[:, MISSING])
        rows = np.concatenate((known, others), axis=1).reshape(len(points), -1)
        mean = rows.mean(0)
        centred = rows - mean
        shape = mean.reshape(-1, 2)
        distance = np.linalg.norm(shape[68:, None] - shape[:68], axis=2)
        return cls(mean, centred.T @ centred / len(rows), np.argsort(distance, axis=1)[:, :2])

    def __call__(self, points: NDArray[np.floating]) -> FloatArray:
        """98 points of one face.

        Args:
            points: (68, 2) photo pixels, NaN where unlabelled.

        Returns:
            (98, 2) float32; NaN where unlabelled, or where a neighbouring point is.
        """
        frame = canonical_matrix(points.astype(np.float64), get_scheme("68"), SIZE)
        canonical = apply_affine(frame, points.astype(np.float64)).ravel()
        known = np.flatnonzero(np.isfinite(canonical))
        prior = self.covariance[np.ix_(known, known)] + RIDGE * np.eye(len(known))
        gain = np.linalg.solve(prior, canonical[known] - self.mean[known])
        others = (self.mean[136:] + self.covariance[136:, known] @ gain).reshape(-1, 2)
        others[np.isnan(points[self.support]).any((1, 2))] = np.nan
        result = np.empty((98, 2), np.float32)
        result[SHARED_98] = points[SHARED_68]
        result[MISSING] = apply_affine(invert(frame), others)
        return result

    def face(self, face: FaceSample) -> FaceSample:
        """A face labelled with 68 points as one with 98. A new point is as visible as the worse of its neighbours."""
        visibility = None
        if face.visibility is not None:
            visibility = np.empty(98, np.int8)
            visibility[SHARED_98] = face.visibility[SHARED_68]
            visibility[MISSING] = face.visibility[self.support].min(1)
        return replace(face, points=self(face.points), visibility=visibility)
