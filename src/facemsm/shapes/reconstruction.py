"""Stage 3 (Section III-C, Algorithm 2): rebuild badly located points from the well located ones and exemplar shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from facemsm.errors import FacemsmError, check_number, short
from facemsm.schemes import LandmarkScheme
from facemsm.shapes.dictionary import ShapeDictionary
from facemsm.typing import Array, BoolArray, FloatArray

TINY = 1e-9  # px²
_CHUNK = 8  # faces at once: bounds the memory, and a chunk's matrices stay in the processor's cache


@dataclass(frozen=True)
class Reconstruction:
    """Settings of stage 3; the defaults are the paper's (Sections IV-C and IV-G) where it gives them.

    Attributes:
        k: number of nearest exemplars that a face is rebuilt from; all of a smaller dictionary.
        ridge: λ of Eq. 10, in squared pixels of a 128 px canonical image. 0 is least squares.
        contour_threshold: T of Algorithm 2 for points on the contour, on relative scores.
        feature_threshold: the same for all other points.
        minimum_reliable: share of points that are taken as reliable even if their scores are too low.
        replace: ``unreliable`` keeps the reliable points where they are, as Section III-C says; ``all`` replaces every
            point, as Algorithm 2 says in line 13.
        aligned: map every exemplar to the reliable points by a similarity first, so that what stage 1 left of shift,
            scale and turn does not count, and fit deviations from the mean of the k nearest. False is Eq. 10 and 11 as
            they are printed.

    Raises:
        FacemsmError: a value is out of range.
    """

    k: int = 100
    ridge: float = 60.0
    contour_threshold: float = 0.4
    feature_threshold: float = 0.6
    minimum_reliable: float = 0.2
    replace: Literal["unreliable", "all"] = "unreliable"
    aligned: bool = True

    def __post_init__(self) -> None:
        check_number("reconstruction: k", self.k, 1, whole=True)
        check_number("reconstruction: ridge", self.ridge, 0)
        for name in ("contour_threshold", "feature_threshold", "minimum_reliable"):
            check_number(f"reconstruction: {name}", getattr(self, name), 0, 1)
        if self.replace not in ("unreliable", "all"):
            raise FacemsmError(f"reconstruction: replace is {self.replace!r}, use 'unreliable' or 'all'")

    @classmethod
    def with_thresholds(cls, thresholds: Mapping[str, float], among: Reconstruction | None = None) -> Reconstruction:
        """Settings with other thresholds: ``contour`` and ``features``.

        Args:
            thresholds: the others.
            among: all other settings, and the threshold that is left out; the defaults if None.

        Raises:
            FacemsmError: another name, or out of range.
        """
        before = among or cls()
        if not isinstance(thresholds, Mapping) or not set(thresholds) <= {"contour", "features"}:
            raise FacemsmError(f"thresholds are {short(thresholds)}: choose from contour and features")
        return replace(
            before,
            contour_threshold=thresholds.get("contour", before.contour_threshold),
            feature_threshold=thresholds.get("features", before.feature_threshold),
        )


def relative_scores(scores: NDArray[np.floating]) -> FloatArray:
    """Scores as shares of the face's best score (Algorithm 2, line 6).

    The paper prints a product, ``w_i * max(w)``. A quotient must be meant: by the product even perfect heatmaps
    fall below a threshold of 0.6 when their peaks are narrow.

    Args:
        scores: (..., L), at least 0; NaN where a point is missing.

    Returns:
        (..., L) float32 in [0, 1]; 0 where the score is NaN, or everywhere if all scores are 0.
    """
    scores = np.nan_to_num(scores, nan=0.0)
    best = scores.max(axis=-1, keepdims=True)
    return np.asarray(scores / np.where(best > 0, best, 1), dtype=np.float32)


def reliable_points(scores: NDArray[np.floating], scheme: LandmarkScheme, settings: Reconstruction) -> BoolArray:
    """V of Algorithm 2: which points are located well enough to rebuild the others from.

    A point is reliable if its relative score is above the threshold of its group. If these are fewer than
    ``minimum_reliable`` of all points, then the points of the highest scores are reliable, so many of them and those of
    the same score. A score of 0 or NaN is never reliable.

    Args:
        scores: (..., L) of Eq. 9; NaN where a point is missing.
        scheme: says which points are on the contour.
        settings: the thresholds.

    Returns:
        (..., L).
    """
    relative = relative_scores(scores)
    thresholds = np.full(scheme.count, settings.feature_threshold, dtype=np.float32)
    thresholds[list(scheme.contour)] = settings.contour_threshold
    reliable = relative > thresholds
    minimum = int(np.ceil(settings.minimum_reliable * scheme.count))
    if minimum:
        too_few = reliable.sum(axis=-1, keepdims=True) < minimum
        last = np.sort(relative, axis=-1)[..., -minimum, None]
        reliable = np.where(too_few, (relative >= last) & (relative > 0), reliable)
    return np.asarray(reliable, dtype=np.bool_)


def reconstruct(
    points: FloatArray, scores: NDArray[np.floating], dictionary: ShapeDictionary, settings: Reconstruction
) -> tuple[FloatArray, BoolArray]:
    """Rebuild the unreliable points of faces (Algorithm 2, lines 5 to 13; Eq. 10, Eq. 11).

    Faces do not influence each other: many at once give the same numbers, to the last bit, as one by one.

    Args:
        points: (M, L, 2) canonical pixels, also outside the image; a point that is not finite is unreliable.
        scores: (M, L) of Eq. 9.
        dictionary: of the scheme and canonical size of the points.
        settings: see :class:`Reconstruction`.

    Returns:
        Points (M, L, 2) float32 canonical pixels, and (M, L) bool: which of them were rebuilt. A face without a
        reliable point stays as it is; so does, unless all points are to be replaced, a face of reliable points only.

    Raises:
        FacemsmError: points or scores are not of the dictionary's scheme.

    Example::

        >>> dictionary = facemsm.load_model("68").dictionary()
        >>> points, scores = dictionary.shapes[:1].copy(), np.ones((1, 68), np.float32)
        >>> points[0, 8], scores[0, 8] = 0, 0.1  # the chin, lost
        >>> found, rebuilt = reconstruct(points, scores, dictionary, Reconstruction())
        >>> np.flatnonzero(rebuilt).tolist(), bool(np.abs(found[0, 8] - dictionary.shapes[0, 8]).max() < 3)
        ([8], True)
    """
    points, scores = np.asarray(points, dtype=np.float32), np.asarray(scores)
    scheme = dictionary.scheme
    if points.ndim != 3 or points.shape[1:] != (scheme.count, 2) or scores.shape != points.shape[:2]:
        raise FacemsmError(
            f"points are {points.shape} and scores {scores.shape}: the shape dictionary is for scheme "
            f"{scheme.name!r}, so (M, {scheme.count}, 2) and (M, {scheme.count}) are needed"
        )
    known = np.isfinite(points).all(axis=-1)
    reliable = reliable_points(np.where(known, scores, np.nan), scheme, settings)
    rebuilt = reliable.any(axis=-1, keepdims=True) & (~reliable | (settings.replace == "all"))
    result = points.copy()
    faces = np.flatnonzero(rebuilt.any(axis=-1))
    for start in range(0, len(faces), _CHUNK):
        chunk = faces[start : start + _CHUNK]
        shapes = _nearest_shapes_fit(points[chunk], reliable[chunk], dictionary, settings)
        result[chunk] = np.where(rebuilt[chunk, :, None], shapes, points[chunk])
    return result, rebuilt


def _nearest_shapes_fit(
    points: FloatArray, reliable: BoolArray, dictionary: ShapeDictionary, settings: Reconstruction
) -> NDArray[np.float64]:
    """Shapes D_S α (C, L, 2) of Eq. 11, with the ridge of Eq. 10.

    Eq. 11 fits V*S by the k exemplars that are nearest to it on the reliable points; Eq. 10 adds λ |α|². Both
    together: α = (A Aᵀ + λ I)⁻¹ A V*S, where the k rows of A are those exemplars, 0 at the unreliable points; of all
    three the mean of the exemplars is taken off first if they are aligned.
    """
    visible = np.repeat(reliable, 2, axis=1).astype(np.float64)  # V*
    target = np.where(reliable[..., None], points - dictionary.centre, 0.0).reshape(visible.shape)  # V*S
    target = target.astype(np.float64)
    k = min(settings.k, len(dictionary.shapes))
    if settings.aligned:
        basis = _nearest_aligned(target, visible, dictionary, k)
        origin = basis.mean(axis=1, keepdims=True)
        basis -= origin
    else:
        basis = _nearest(target, visible, dictionary, k)
        origin = np.zeros((1, 1, basis.shape[2]))

    fitted = basis * visible[:, None]
    gram = fitted @ fitted.swapaxes(1, 2)
    diagonal = np.einsum("cii->ci", gram)
    # a ridge that rounding drowns is no ridge: the floor keeps the system regular, far below any effect on the points
    floor = 1e-10 * diagonal.mean(axis=1, keepdims=True) + 1e-10
    diagonal += np.maximum(settings.ridge * (dictionary.size / 128) ** 2, floor)
    alpha = np.linalg.solve(gram, fitted @ (target[:, None] - origin).swapaxes(1, 2))  # (C, k, 1)
    shapes = origin + alpha.swapaxes(1, 2) @ basis
    return np.asarray(shapes.reshape(points.shape) + dictionary.centre)


# One product a face in both: the sums of one matrix product for all faces would be rounded differently for different
# numbers of faces.


def _nearest(target: Array, visible: Array, dictionary: ShapeDictionary, k: int) -> Array:
    """The k exemplars (C, k, 2L) that are nearest to V*S, both (C, 2L), as they are."""
    rows = dictionary.rows
    # |V*(S - d)|² without |V*S|², the same for all d
    distance = (rows**2 @ visible[..., None] - 2 * (rows @ target[..., None]))[..., 0]
    return np.asarray(rows[np.argpartition(distance, k - 1, axis=1)[:, :k]])


def _nearest_aligned(target: Array, visible: Array, dictionary: ShapeDictionary, k: int) -> Array:
    """The k exemplars (C, k, 2L) that are nearest to V*S once a similarity has mapped each to it.

    With points as complex numbers the similarity is ``s -> a (s - mean) + mean of V*S``: a = <S, d> / <d, d> about the
    means over the reliable points, and |<S, d>|² / <d, d> is what it takes off |V*S|².
    """
    shapes, face = (values.view(np.complex128) for values in (dictionary.rows, target))  # (N, L), (C, L)
    count = visible.sum(axis=1, keepdims=True) / 2
    middle = face.sum(axis=1, keepdims=True) / count
    seen = visible[:, ::2]
    columns = np.stack((seen * (face - middle).conj(), seen / count), axis=-1)  # (C, L, 2)
    cross, mean = np.moveaxis(shapes @ columns, -1, 0)  # conj <S, d>, and the means of d
    square = (dictionary.rows**2 @ visible[..., None])[..., 0] - count * np.abs(mean) ** 2
    fits = square > TINY  # else the reliable points coincide, and say nothing of turn and scale
    a = np.where(fits, cross.conj() / np.where(fits, square, 1), 1)
    nearest = np.argpartition(-(np.abs(a) ** 2) * square, k - 1, axis=1)[:, :k]
    a, mean = (np.take_along_axis(values, nearest, axis=1)[..., None] for values in (a, mean))
    return np.asarray((a * (shapes[nearest] - mean) + middle[..., None]).view(np.float64))
