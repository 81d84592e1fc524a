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
    **{8: (0, 114.4, 4.6), 30: (0, 35.3, -35.1), 33: (0, 48, -21.8)},  # chin, nose tip, nose base
    **{36: (-45, -1.1, 2.2), 39: (-18.9, 1.1, -2.2), 42: (18.9, 1.1, -2.2), 45: (45, -1.1, 2.2)},  # eye corners
    **{48: (-28.1, 66.3, 3.5), 54: (28.1, 66.3, 3.5)},  # mouth corners
}
"""A rigid average head: some of the 68 points in mm from the middle between the eyes; x to the person's left, y down, z
into the head. Fitted to the labels of 300-W's training faces by ``tools/fit_head.py``; their median pitch is zero, and
outer eye corners are 90 mm apart."""

DISTANCE = 9.0
"""From the camera to a face, in sides of the tight box of ``HEAD``'s points: about a metre."""


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
    """Head pose in degrees, relative to the line from the camera to the face: all angles are 0 for a face that looks
    into the camera, wherever it is in the photo. In pitch that is the median of 300-W's training faces.

    Attributes:
        yaw: positive when the face points to the right side of the photo (the person's left).
        pitch: positive when it points up.
        roll: turn about the axis that the face points along, positive clockwise in the photo.
    """

    yaw: float
    pitch: float
    roll: float


def head_pose(points: ArrayLike, *, scheme: LandmarkScheme | None = None) -> HeadPose:
    """Head pose, by fitting ``HEAD`` to nine of the points or as many as there are.

    The camera is taken to look at the face from about a metre, so that shifting, cropping and scaling the photo change
    nothing. No face is the average one: the angles are estimates, and pitch is the least sure of them.

    Args:
        points: (L, 2).
        scheme: as for :func:`as_68`.

    Raises:
        FacemsmError: no head fits the points.
    """
    seen = _one_face(points, scheme)[list(HEAD)]
    known = np.isfinite(seen).all(axis=1)
    head, seen = np.array(list(HEAD.values()), np.float64)[known], seen[known]
    try:
        camera = camera_of(seen)
        found, rotation, shift = cv2.solvePnP(head, seen, camera, None, flags=cv2.SOLVEPNP_SQPNP)
    except (cv2.error, ValueError):  # too few points, or none
        found = False
    if not found:
        raise FacemsmError("no head pose fits these points; are they those of a face?")
    rotation, _ = cv2.solvePnPRefineLM(head, seen, camera, None, rotation, shift)
    return pose_of(np.asarray(cv2.Rodrigues(rotation)[0], np.float64))


def camera_of(points: NDArray[np.floating]) -> Array:
    """The camera matrix (3, 3) of a camera that looks at the middle of points (K, 2) from ``DISTANCE``."""
    low, high = points.min(axis=0), points.max(axis=0)
    focal, (x, y) = DISTANCE * max(*(high - low), 1e-6), (low + high) / 2
    return np.array([[focal, 0, x], [0, focal, y], [0, 0, 1]])


MEASURES = ("yaw", "pitch", "roll", "right_eye_openness", "left_eye_openness", "mouth_openness")
"""What :func:`face_measures` measures."""


def check_measured(scheme: LandmarkScheme) -> None:
    """Raise FacemsmError if :func:`face_measures` knows nothing of a scheme, as :func:`as_68` does."""
    as_68(np.zeros((scheme.count, 2)), scheme)


def face_measures(points: ArrayLike, scheme: LandmarkScheme | None = None) -> dict[str, float | None]:
    """``MEASURES`` of one face, by :func:`head_pose`, :func:`eye_aspect_ratio` and :func:`mouth_openness`.

    Args:
        points: (L, 2).
        scheme: as for :func:`as_68`.

    Returns:
        Degrees to 0.1, openness to 0.001; None for what these points do not tell.

    Raises:
        FacemsmError: as :func:`as_68`.
    """
    known = _one_face(points, scheme)
    try:
        pose: tuple[float, ...] = head_pose(known)
    except FacemsmError:
        pose = (np.nan,) * 3
    values = (*pose, *eye_aspect_ratio(known), mouth_openness(known))
    digits = (1, 1, 1, 3, 3, 3)
    return {
        name: round(float(value), places) + 0.0 if np.isfinite(value) else None  # 0.0 for -0.0
        for name, value, places in zip(MEASURES, values, digits, strict=True)
    }


def pose_of(rotation: NDArray[np.floating]) -> HeadPose:
    """The angles of a rotation (3, 3) from ``HEAD``'s frame to the camera's: x right, y down, z away from it."""
    ahead, down = -rotation[:, 2], rotation[:, 1]
    yaw, pitch = np.arctan2(ahead[0], -ahead[2]), np.arcsin(np.clip(-ahead[1], -1, 1))
    level = np.array([np.cos(yaw), 0, np.sin(yaw)])  # the person's left, were there no roll
    roll = np.arctan2(-(down @ level), rotation[:, 0] @ level)
    return HeadPose(*(float(angle) for angle in np.rad2deg((yaw, pitch, roll))))
