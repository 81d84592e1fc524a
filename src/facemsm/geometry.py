"""Boxes, affine maps and the canonical face.

One coordinate rule holds everywhere: pixel (x, y) is the centre of the pixel in column x and row y, counted from 0.
A map is a (..., 2, 3) float64 matrix that takes such points to such points. Normalised coordinates run from -1 to 1
between the *edges* of an image (``align_corners=False``): ``x_n = (2 x + 1) / W - 1``.

Three frames follow each other: *photo*, *crop* (the box, enlarged and squared; what stage 1 sees) and *canonical* (the
upright, centred face; what stage 2 sees). θ (Eq. 1, Eq. 2) takes canonical to crop in normalised coordinates.
"""

from __future__ import annotations

import warnings
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemsm.errors import FacemsmError
from facemsm.schemes import LandmarkScheme
from facemsm.typing import Array, FloatArray

Matrix = NDArray[np.float64]

CROP_ENLARGEMENT = 1.5
"""Side of stage 1's crop over the box's side: room for boxes that are shifted, small or rotated."""

CANONICAL_MARGIN = 1.2
"""Side of the canonical image over the larger side of the upright face in it."""


# --- Affine maps -----------------------------------------------------------------------------------------------------


def apply_affine(matrix: NDArray[np.floating], points: NDArray[np.floating]) -> Matrix:
    """Map points (..., L, 2) by ``matrix`` (..., 2, 3); NaN stays NaN. float64."""
    linear, shift = matrix[..., :2], matrix[..., None, :, 2]
    return np.asarray(points @ np.swapaxes(linear, -1, -2) + shift, dtype=np.float64)


def compose(outer: NDArray[np.floating], inner: NDArray[np.floating]) -> Matrix:
    """The map ``x -> outer(inner(x))``; (..., 2, 3) each."""
    linear = outer[..., :2] @ inner[..., :2]
    shift = outer[..., :2] @ inner[..., 2:] + outer[..., 2:]
    return np.concatenate((linear, shift), axis=-1, dtype=np.float64)


def invert(matrix: NDArray[np.floating]) -> Matrix:
    """The inverse map, (..., 2, 3).

    Raises:
        numpy.linalg.LinAlgError: the map is singular.
    """
    linear = np.linalg.inv(np.asarray(matrix[..., :2], dtype=np.float64))
    return np.concatenate((linear, -linear @ matrix[..., 2:]), axis=-1)


def similarity(angle: float = 0.0, scale: float = 1.0, shift: ArrayLike = (0, 0), centre: ArrayLike = (0, 0)) -> Matrix:
    """Rotate by ``angle`` radians (x towards y: clockwise in a photo) and scale about ``centre``, then shift."""
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]])
    c = np.asarray(centre, dtype=np.float64)
    return np.column_stack((linear, c - linear @ c + np.asarray(shift, dtype=np.float64)))


def fit_similarity(
    source: NDArray[np.floating], target: NDArray[np.floating], weights: NDArray[np.floating] | None = None
) -> Matrix:
    """Least-squares similarity (rotation, scale, shift; no mirror) that takes source to target.

    Args:
        source, target: (..., K, 2); points with NaN in either are left out.
        weights: (..., K), at least 0; all 1 by default.

    Returns:
        (..., 2, 3). Fewer than two distinct points leave rotation and scale at identity.
    """
    z, w = _complex(source), _complex(target)
    known = ~(np.isnan(z) | np.isnan(w))
    m = known if weights is None else np.where(known, weights, 0.0)
    z, w = np.where(known, z, 0), np.where(known, w, 0)
    total = np.maximum(m.sum(-1, keepdims=True), 1e-12)
    z_mean, w_mean = (m * z).sum(-1, keepdims=True) / total, (m * w).sum(-1, keepdims=True) / total
    spread = (m * np.abs(z - z_mean) ** 2).sum(-1)
    cross = (m * (w - w_mean) * np.conj(z - z_mean)).sum(-1)
    a = np.where(spread > 1e-12, cross / np.maximum(spread, 1e-12), 1.0)
    b = w_mean[..., 0] - a * z_mean[..., 0]
    rows = (np.stack((a.real, -a.imag, b.real), -1), np.stack((a.imag, a.real, b.imag), -1))
    return np.stack(rows, axis=-2)


def _complex(points: NDArray[np.floating]) -> NDArray[np.complex128]:
    return np.asarray(points[..., 0] + 1j * points[..., 1], dtype=np.complex128)


# --- Pixels and normalised coordinates, θ ----------------------------------------------------------------------------


def normalised_to_pixels(width: int, height: int) -> Matrix:
    """(2, 3): normalised coordinates to pixels of a ``width`` × ``height`` image."""
    return np.array([[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2]])


def pixels_to_normalised(width: int, height: int) -> Matrix:
    """(2, 3): pixels of a ``width`` × ``height`` image to normalised coordinates."""
    return np.array([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1]])


def theta_to_matrix(theta: NDArray[np.floating], size: int) -> Matrix:
    """θ (..., 2, 3) as a map from canonical pixels to crop pixels, both images ``size`` px square (Eq. 2)."""
    return compose(normalised_to_pixels(size, size), compose(theta, pixels_to_normalised(size, size)))


def matrix_to_theta(matrix: NDArray[np.floating], size: int) -> Matrix:
    """Inverse of :func:`theta_to_matrix`."""
    return compose(pixels_to_normalised(size, size), compose(matrix, normalised_to_pixels(size, size)))


# --- Boxes -----------------------------------------------------------------------------------------------------------


def tight_box(points: NDArray[np.floating]) -> FloatArray:
    """Smallest boxes (..., 4) ``x_min, y_min, x_max, y_max`` around the labelled points (..., L, 2)."""
    low, high = np.nanmin(points, axis=-2), np.nanmax(points, axis=-2)
    return np.concatenate((low, high), axis=-1).astype(np.float32)


def box_to_crop(box: NDArray[np.floating], size: int, enlargement: float = CROP_ENLARGEMENT) -> Matrix:
    """Map photo pixels to the pixels of stage 1's crop.

    The crop is a square about the box's centre; its side is ``enlargement`` times the box's larger side. Boxes (..., 4)
    give maps (..., 2, 3).
    """
    box = np.asarray(box, dtype=np.float64)
    centre = (box[..., :2] + box[..., 2:]) / 2
    side = enlargement * np.maximum(np.max(box[..., 2:] - box[..., :2], axis=-1), 1e-6)
    return _zoom(centre, side, size)


def perturb_box(box: NDArray[np.floating], shift: ArrayLike = (0, 0), scale: float = 1.0) -> FloatArray:
    """A box moved by ``shift`` (in box widths and heights) and scaled about its centre."""
    box = np.asarray(box, dtype=np.float64)
    extent = box[2:] - box[:2]
    centre = (box[:2] + box[2:]) / 2 + np.asarray(shift) * extent
    return np.concatenate((centre - scale * extent / 2, centre + scale * extent / 2)).astype(np.float32)


MAX_COORDINATE = 1e6
"""Of a box, in pixels: no photo is as large, and float32 still holds it to a tenth of a pixel."""


def check_boxes(boxes: ArrayLike, image_shape: tuple[int, ...], where: str = "image") -> FloatArray:
    """Boxes from outside as (N, 4) float32; an empty list gives (0, 4). A box may reach past the photo.

    Args:
        boxes: ``[[x_min, y_min, x_max, y_max], ...]`` in photo pixels.
        image_shape: (H, W, ...) of the photo.
        where: begins the message of an error, usually the photo's path.

    Warns:
        UserWarning: all numbers are from 0 to 1, as those of boxes in shares of the photo are.

    Raises:
        FacemsmError: not N rows of four numbers, or a box that is not finite, beyond ``MAX_COORDINATE``, without area,
            or outside the photo.
    """
    try:
        array = np.asarray(boxes, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.empty(())
    if array.size == 0 and array.ndim in (1, 2):
        return np.zeros((0, 4), np.float32)
    if array.ndim != 2 or array.shape[1] != 4:
        raise FacemsmError(f"{where}: boxes must be a list of [x_min, y_min, x_max, y_max], one for each face")
    if (array >= 0).all() and (array <= 1).all():
        warnings.warn(f"{where}: boxes from 0 to 1 look like shares of the photo; give pixels", stacklevel=3)
    height, width = image_shape[:2]
    low, high = array[:, :2], array[:, 2:]
    for wrong, reason in (
        (~np.isfinite(array).all(axis=1), "is not finite; give four numbers"),
        ((np.abs(array) > MAX_COORDINATE).any(axis=1), "is beyond any photo; give pixels"),
        ((high <= low).any(axis=1), "has no area; the order is x_min, y_min, x_max, y_max"),
        (
            ((high <= -0.5) | (low >= (width - 0.5, height - 0.5))).any(axis=1),
            f"lies outside the {width}x{height} photo",
        ),
    ):
        if wrong.any():
            i = int(wrong.argmax())
            box = ", ".join(f"{value:g}" for value in array[i])
            raise FacemsmError(f"{where}: box {i + 1} of {len(array)}, [{box}], {reason}")
    return array.astype(np.float32)


Normaliser = Literal["inter-pupil", "inter-ocular", "box", "face-size"]


NORMALISERS: tuple[Normaliser, ...] = get_args(Normaliser)


def normaliser(truth: ArrayLike, scheme: LandmarkScheme, kind: Normaliser) -> Array:
    """The length d_i of Eq. 12 that errors are divided by.

    - ``inter-pupil``: between the eye centres (the mean of an eye's points, or the pupil where the scheme has one).
    - ``inter-ocular``: between the outer eye corners.
    - ``box``: sqrt(w h) of the tight box of the labelled points.
    - ``face-size``: (w + h) / 2 of the same box.

    Args:
        truth: (N, L, 2) pixels, NaN where unlabelled.
        scheme: the landmark scheme of ``truth``.
        kind: one of the above.

    Returns:
        (N,) pixels, NaN where it cannot be computed: an eye point is unlabelled, or the length is 0.

    Raises:
        FacemsmError: unknown kind, or ``truth`` is not of the scheme's shape.
    """
    g = np.asarray(truth, float)
    if g.ndim != 3 or g.shape[1:] != (scheme.count, 2):
        raise FacemsmError(f"truth is {g.shape}: scheme {scheme.name!r} needs (faces, {scheme.count}, 2)")
    if kind in ("inter-pupil", "inter-ocular"):
        right, left = (scheme.right_eye, scheme.left_eye) if kind == "inter-pupil" else scheme.outer_eye_corners
        length = np.linalg.norm(g[:, list(right)].mean(axis=1) - g[:, list(left)].mean(axis=1), axis=-1)
    elif kind == "box":
        length = box_scale(g)
    elif kind == "face-size":
        length = _extent(g).mean(axis=-1)
    else:
        raise FacemsmError(f"unknown normaliser {kind!r}: use one of {', '.join(NORMALISERS)}")
    return np.where(length > 0, length, np.nan)


def face_scale(points: NDArray[np.floating], scheme: LandmarkScheme) -> Array:
    """(N,) px, what errors are compared with: the inter-ocular distance, and the root of the tight box's area where an
    eye corner is unlabelled, as in profiles. Points are (N, L, 2), NaN where unlabelled."""
    eyes = normaliser(points, scheme, "inter-ocular")
    return np.where(np.isfinite(eyes), eyes, normaliser(points, scheme, "box"))


# --- The canonical face ----------------------------------------------------------------------------------------------

UPRIGHT = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 1.1]])
"""Right eye, left eye and mouth centre of an upright face, in eye distances (300-W's training mean)."""


def upright_anchors(points: NDArray[np.floating], scheme: LandmarkScheme) -> Matrix:
    """Right eye, left eye and mouth centre (..., 3, 2): means of the labelled points of each; NaN where none is."""
    groups = (scheme.right_eye, scheme.left_eye, scheme.mouth)
    return np.stack([_mean_of_labelled(points[..., list(group), :]) for group in groups], axis=-2)


def box_scale(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """sqrt(w h) of the tight boxes of points (..., L, 2), NaN where unlabelled."""
    return np.asarray(np.sqrt(_extent(points).prod(axis=-1)))


def shifted(points: NDArray[np.floating], convention: tuple[float, float]) -> Array:
    """Points (..., L, 2) moved by x, y in shares of :func:`box_scale`: from the consensus of all data sets to the
    convention of one, or back with the signs reversed."""
    return np.asarray(points + np.asarray(convention) * box_scale(points)[..., None, None])


def _extent(points: NDArray[np.floating]) -> Array:
    """Width and height (..., 2) of the labelled points' tight boxes."""
    # fmin and fmax pass over NaN without NumPy's warning for a face that has nothing else
    return np.asarray(np.fmax.reduce(points, axis=-2) - np.fmin.reduce(points, axis=-2))


def canonical_matrix(points: NDArray[np.floating], scheme: LandmarkScheme, size: int) -> Matrix:
    """Map photo pixels to the canonical image of a face with known points.

    The paper makes shapes canonical "with the coordinates of the pupil and the midpoint" and then converts them "to a
    128 × 128 space" (Section IV-C). Here the first step turns the face upright: the least-squares similarity of both
    eye centres and the mouth centre onto an upright face gives the angle. The second centres the upright face's tight
    box in the image, its larger side filling ``1 / CANONICAL_MARGIN`` of it. A full profile, whose eyes almost meet,
    keeps the resolution of a frontal face in this way; scaling by the eye distance would shrink every other face to
    make room for profiles. On a face that shows one eye only, that eye stands for the middle of both.

    Args:
        points: (..., L, 2), NaN where unlabelled.
        size: side of the canonical image in pixels.

    Returns:
        (..., 2, 3), a similarity.
    """
    anchors = upright_anchors(points, scheme)
    target = np.broadcast_to(UPRIGHT, anchors.shape).copy()
    one_eye = np.isnan(anchors[..., :2, 0]).any(-1, keepdims=True)
    target[..., :2, 0] = np.where(one_eye, 0.0, target[..., :2, 0])
    linear = fit_similarity(anchors, target)[..., :2]
    angle = np.arctan2(linear[..., 1, 0], linear[..., 0, 0])
    rotation = np.zeros((*angle.shape, 2, 3))
    rotation[..., 0, 0] = rotation[..., 1, 1] = np.cos(angle)
    rotation[..., 1, 0], rotation[..., 0, 1] = np.sin(angle), -np.sin(angle)
    upright = apply_affine(rotation, points)
    low, high = np.nanmin(upright, axis=-2), np.nanmax(upright, axis=-2)
    side = CANONICAL_MARGIN * np.maximum(np.max(high - low, axis=-1), 1e-6)
    return compose(_zoom((low + high) / 2, side, size), rotation)


def _zoom(centre: NDArray[np.floating], side: NDArray[np.floating], size: int) -> Matrix:
    """Map that takes the square of a given centre and side onto a ``size`` px image."""
    scale = size / np.asarray(side)
    matrix = np.zeros((*scale.shape, 2, 3))
    matrix[..., 0, 0] = matrix[..., 1, 1] = scale
    matrix[..., 2] = (size - 1) / 2 - scale[..., None] * centre
    return matrix


def _mean_of_labelled(points: NDArray[np.floating]) -> Matrix:
    known = ~np.isnan(points).any(axis=-1, keepdims=True)
    count = known.sum(axis=-2)
    total = np.where(known, points, 0.0).sum(axis=-2)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
