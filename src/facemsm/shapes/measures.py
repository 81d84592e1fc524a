"""Measures of faces: aligned crops for face recognition, eye and mouth openness, head pose.

Every function takes points (..., L, 2) in photo pixels, such as ``Face.points``. They may be of any scheme that says
where its points lie among the 68 (``LandmarkScheme.from_68``); the built-in ones are known by the number of points.
Hidden points count like the others: look at ``Face.occluded`` first where that matters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemsm.errors import FacemsmError, check_number
from facemsm.geometry import Matrix, fit_similarity, upright_anchors
from facemsm.imaging.io import as_image
from facemsm.imaging.warping import warp
from facemsm.schemes import SCHEME_68, LandmarkScheme, get_scheme, relation, scheme_of
from facemsm.typing import Array, Image

if TYPE_CHECKING:
    from facemsm.imaging.io import ImageSource

ARCFACE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
"""Where face recognition expects right eye, left eye, nose tip and the mouth's right and left corner, in pixels of a
112 px crop: the template of ArcFace (Deng et al., CVPR 2019)."""

HEAD = {
    **{8: (0, 113, 8), 30: (0, 38, -24), 33: (0, 47, -6)},  # chin, nose tip, nose base
    **{36: (-45, 0, 20), 39: (-17, 2, 8), 42: (17, 2, 8), 45: (45, 0, 20)},  # eye corners
    **{48: (-26, 68, 8), 54: (26, 68, 8)},  # mouth corners
}
"""A rigid average head: some of the 68 points in mm from the middle between the eyes; x to the person's left, y down, z
into the head. Rounded adult means of the lengths that anthropometry measures (outer eye corners 90, inner 34, mouth
52, eyes to chin 113); no single person's."""


def as_68(points: ArrayLike, scheme: LandmarkScheme | None = None) -> Array:
    """The 68 points among those of another scheme.

    Args:
        points: (..., L, 2), an array or lists.
        scheme: theirs; by default the built-in one with L points.

    Returns:
        (..., 68, 2) float64; NaN where none of the points is near, or one of those is NaN.

    Raises:
        FacemsmError: not points, no built-in scheme has L of them, or it says nothing of where they lie among the 68.
    """
    try:
        points = np.asarray(points, np.float64)
    except (TypeError, ValueError):
        points = np.empty(())
    if points.ndim < 2:
        raise FacemsmError("points are no numbers of the shape (..., L, 2); give those of a face, such as face.points")
    scheme = scheme or scheme_of(points.shape[-2])
    if scheme.built_in and not scheme.from_68:  # one of a model file
        scheme = get_scheme(scheme.name)
    if points.shape[-2:] != (scheme.count, 2):
        raise FacemsmError(f"points have the shape {points.shape}; scheme {scheme.name} has ({scheme.count}, 2)")
    weights = relation(scheme, SCHEME_68)
    labelled = np.isfinite(points)
    # A mean is known if all its points are; their weights add up to 1, or to 0 where none is near.
    return np.where(weights @ labelled > 0.999, weights @ np.where(labelled, points, 0.0), np.nan)


def recognition_crop(
    image: ImageSource, points: ArrayLike, size: int = 112, scheme: LandmarkScheme | None = None
) -> Image:
    """The face as face recognition wants it, by :func:`recognition_matrix`.

    Args:
        image: a path, bytes, a PIL picture or an array; see :func:`facemsm.imaging.io.as_image`.
        points: (L, 2).
        size: side of the crop; networks take 112.
        scheme: as for :func:`as_68`.

    Returns:
        (size, size, 3) uint8 RGB, black beyond the photo.

    Raises:
        FacemsmError: as :func:`as_68`, no such image or size, or no crop fits the points.
    """
    check_number("size", size, 1, 4096, whole=True)
    return warp(as_image(image), recognition_matrix(points, size, scheme), size)


def recognition_matrix(points: ArrayLike, size: int = 112, scheme: LandmarkScheme | None = None) -> Matrix:
    """The similarity (2, 3) from photo pixels to the crop that brings five points closest to ``ARCFACE``."""
    known = _one_face(points, scheme)
    five = np.stack([*upright_anchors(known, SCHEME_68)[:2], *known[[30, 48, 54]]])
    matrix = fit_similarity(five, (ARCFACE + 0.5) * (size / 112) - 0.5)
    if np.isfinite(five).all(axis=1).sum() < 2 or not np.isfinite(matrix).all():
        raise FacemsmError("no crop fits these points; are they those of a face?")
    return matrix


def _one_face(points: ArrayLike, scheme: LandmarkScheme | None) -> Array:
    known = as_68(points, scheme)
    if known.ndim != 2:
        raise FacemsmError(f"points of shape {known.shape} are several faces'; give those of one")
    return known


def eye_aspect_ratio(points: ArrayLike, scheme: LandmarkScheme | None = None) -> Array:
    """How far each eye is open, (..., 2): the person's right eye, the left one. Near 0 when closed, 0.2 to 0.4 open.

    Mean height over width, of six points (Soukupová and Čech, Real-Time Eye Blink Detection using Facial Landmarks,
    CVWW 2016, Eq. 1). NaN where a scheme lacks one of them, as the 29 points do.
    """
    known = as_68(points, scheme)
    right, left = ((37, 41), (38, 40), (36, 39)), ((43, 47), (44, 46), (42, 45))
    return np.stack([_openness(known, right), _openness(known, left)], axis=-1)


def mouth_openness(points: ArrayLike, scheme: LandmarkScheme | None = None) -> Array:
    """How far the mouth is open, (...): the same ratio for the eight points of the inner lips. 0 when closed."""
    return _openness(as_68(points, scheme), ((61, 67), (62, 66), (63, 65), (60, 64)))


def _openness(known: Array, pairs: tuple[tuple[int, int], ...]) -> Array:
    """Mean length of all pairs but the last, over that one's."""
    first, second = np.array(pairs).T
    lengths = np.linalg.norm(known[..., first, :] - known[..., second, :], axis=-1)
    return np.asarray(lengths[..., :-1].mean(axis=-1) / np.maximum(lengths[..., -1], 1e-9))


class HeadPose(NamedTuple):
    """Head pose in degrees; all angles are 0 for a face that looks straight along the camera's axis.

    Attributes:
        yaw: positive when the face points to the right side of the photo (the person's left).
        pitch: positive when it points up.
        roll: turn about the axis that the face points along, positive clockwise in the photo.
    """

    yaw: float
    pitch: float
    roll: float


def head_pose(points: ArrayLike, image_shape: tuple[int, ...], scheme: LandmarkScheme | None = None) -> HeadPose:
    """Head pose, by fitting ``HEAD`` to nine of the points or as many as there are.

    The camera is taken to have no distortion, its centre in the photo's, and a focal length of the photo's width (a
    field of view of 53°). No face is the average one: the angles are estimates, and pitch is the least sure of them.

    Args:
        points: (L, 2).
        image_shape: (H, W, ...) of the photo that the points are in.
        scheme: as for :func:`as_68`.

    Raises:
        FacemsmError: no head fits the points.
    """
    seen = _one_face(points, scheme)[list(HEAD)]
    known = np.isfinite(seen).all(axis=1)
    height, width = image_shape[:2]
    camera = np.array([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1]])
    head = np.array(list(HEAD.values()), np.float64)
    try:
        found, rotation, shift = cv2.solvePnP(head[known], seen[known], camera, None, flags=cv2.SOLVEPNP_SQPNP)
    except cv2.error:
        found = False
    if not found:
        raise FacemsmError("no head pose fits these points; are they those of a face?")
    rotation, _ = cv2.solvePnPRefineLM(head[known], seen[known], camera, None, rotation, shift)
    return pose_of(np.asarray(cv2.Rodrigues(rotation)[0], np.float64))


def pose_of(rotation: NDArray[np.floating]) -> HeadPose:
    """The angles of a rotation (3, 3) from ``HEAD``'s frame to the camera's: x right, y down, z away from it."""
    ahead, down = -rotation[:, 2], rotation[:, 1]
    yaw, pitch = np.arctan2(ahead[0], -ahead[2]), np.arcsin(np.clip(-ahead[1], -1, 1))
    level = np.array([np.cos(yaw), 0, np.sin(yaw)])  # the person's left, were there no roll
    roll = np.arctan2(-(down @ level), rotation[:, 0] @ level)
    return HeadPose(*(float(angle) for angle in np.rad2deg((yaw, pitch, roll))))
