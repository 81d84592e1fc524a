"""Training-time augmentation: photo, points and visibility move together.

One ``warpAffine`` takes the crop from the photo, geometric jitter included; what follows works on the small crop:
first things that stand in front of a face (:mod:`facemsm.data.occluders`), then what a camera does to all of it.
Every function takes its random generator: the same seed gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from facemsm.data.occluders import OCCLUDERS, hide, occlude
from facemsm.errors import FacemsmError
from facemsm.geometry import Matrix, apply_affine, compose, similarity
from facemsm.imaging.warping import warp
from facemsm.schemes import LandmarkScheme
from facemsm.typing import FloatArray, Image, IntArray

Range = tuple[float, float]

MOST_DEFORMED = 0.05
_PLACES = 6  # a side, of the grid that moves; those at the border stay


@dataclass(frozen=True)
class Augmentation:
    """How much of what. Fields without a range are a probability or a symmetric amount; 0 turns them off.

    Lengths are in crop pixels, drawn uniformly from their range.

    Attributes:
        flip: probability of mirroring.
        rotation: degrees either way.
        scale: relative change of size either way.
        shift: fraction of the crop's side, either way, in x and y.
        deform: how far parts of the face move against each other, as a fraction of the crop's side, either way in x and
            y (:func:`deformed`); stage 2 only, because a deformed face has no θ of its own.
        brightness, contrast, saturation: relative change either way.
        hue: degrees either way.
        grey: probability of no colour at all.
        gamma, gamma_range: probability; exponent.
        low_light, low_light_gain: probability of a dark photo; what is left of the light. Noise is always added to it.
        blur, blur_sigma: probability of an unfocused photo; standard deviation.
        motion, motion_length: probability of motion blur; length of the streak.
        noise, noise_sigma: probability of sensor noise; standard deviation in grey levels.
        jpeg, jpeg_quality: probability of compression; quality from 0 to 100.
        patch, hand, glasses, mask, hair, hat, scarf, cup, microphone, screen: probability of each occluder, independent
            of each other. A screen hides up to half of the face from one side.
        cut: probability that the photo ends within the face.
    """

    flip: float = 0.5
    rotation: float = 30.0
    scale: float = 0.1
    shift: float = 0.0
    deform: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 8.0
    grey: float = 0.0
    gamma: float = 0.0
    gamma_range: Range = (0.6, 1.7)
    low_light: float = 0.0
    low_light_gain: Range = (0.2, 0.6)
    blur: float = 0.0
    blur_sigma: Range = (0.5, 2.0)
    motion: float = 0.0
    motion_length: Range = (3.0, 9.0)
    noise: float = 0.0
    noise_sigma: Range = (2.0, 12.0)
    jpeg: float = 0.0
    jpeg_quality: Range = (20.0, 80.0)
    patch: float = 0.0
    hand: float = 0.0
    glasses: float = 0.0
    mask: float = 0.0
    hair: float = 0.0
    hat: float = 0.0
    scarf: float = 0.0
    cup: float = 0.0
    microphone: float = 0.0
    screen: float = 0.0
    cut: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _PROBABILITIES and not 0.0 <= value <= 1.0:
                raise FacemsmError(f"augmentation: {field.name} is {value}, expected a probability from 0 to 1")
            if field.name == "deform" and not 0.0 <= value <= MOST_DEFORMED:
                raise FacemsmError(
                    f"augmentation: deform is {value}, expected 0 to {MOST_DEFORMED}, beyond which faces fold"
                )
            if field.name in _RANGES and not (len(value) == 2 and 0.0 <= value[0] <= value[1]):
                raise FacemsmError(f"augmentation: {field.name} is {value}, expected [low, high], not negative")

    @staticmethod
    def paper() -> Augmentation:
        """The paper's setting (Section IV-C): flip, ±30°, ±10 % and colour jitter, whose amounts are not stated."""
        return Augmentation()

    @staticmethod
    def full() -> Augmentation:
        """Everything: stronger light and colour, camera faults, and an occluder on more than every second face."""
        return Augmentation(
            shift=0.03,
            brightness=0.25,
            contrast=0.25,
            saturation=0.4,
            hue=15.0,
            grey=0.1,
            gamma=0.2,
            low_light=0.1,
            blur=0.15,
            motion=0.1,
            noise=0.2,
            jpeg=0.2,
            patch=0.1,
            hand=0.12,
            glasses=0.08,
            mask=0.2,
            hair=0.08,
            hat=0.05,
            scarf=0.05,
            cup=0.04,
            microphone=0.04,
            screen=0.05,
            cut=0.05,
        )


_PROBABILITIES = {"flip", "grey", "gamma", "low_light", "blur", "motion", "noise", "jpeg", "cut", *OCCLUDERS}
_RANGES = {"gamma_range", "low_light_gain", "blur_sigma", "motion_length", "noise_sigma", "jpeg_quality"}


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """What moves together.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        points: (L, 2) float32 crop pixels, 0-based pixel centres; NaN where unlabelled.
        visibility: (L,) int8 COCO values, or None where not known. An occluder that covers a point of a crop without
            visibility makes it known: every other labelled point then counts as visible.
    """

    image: Image
    points: FloatArray
    visibility: NDArray[np.int8] | None = None


def jitter_matrix(augmentation: Augmentation, rng: np.random.Generator, size: int) -> tuple[Matrix, bool]:
    """Random flip, rotation, scale and shift about the centre of a crop of side ``size``.

    Returns:
        (2, 3) float64 matrix from the un-jittered to the jittered crop's pixels, and whether it mirrors
        (``x`` becomes ``size - 1 - x`` before the rest).
    """
    flipped = bool(rng.random() < augmentation.flip)
    angle = np.deg2rad(augmentation.rotation * rng.uniform(-1.0, 1.0))
    scale = 1.0 + augmentation.scale * rng.uniform(-1.0, 1.0)
    shift = augmentation.shift * size * rng.uniform(-1.0, 1.0, 2)
    matrix = similarity(angle, scale, shift, centre=2 * [(size - 1) / 2])
    return (compose(matrix, np.array([[-1.0, 0.0, size - 1.0], [0.0, 1.0, 0.0]])) if flipped else matrix), flipped


def take_crop(
    image: Image,
    points: FloatArray,
    visibility: NDArray[np.int8] | None,
    matrix: Matrix,
    size: int,
    *,
    flip_table: IntArray | None = None,
    flipped: bool = False,
) -> Crop:
    """Crop a photo and move its points with it.

    Args:
        image: (H, W, 3) uint8 RGB.
        points: (L, 2) photo pixels, NaN where unlabelled.
        visibility: (L,) int8 COCO values, or None.
        matrix: (2, 3) from photo pixels to crop pixels, jitter included.
        size: side of the crop.
        flip_table: (L,) ``scheme.flip``, needed when ``flipped``.
        flipped: whether ``matrix`` mirrors: left and right points then change places.
    """
    moved = apply_affine(matrix, points).astype(np.float32)
    if flipped:
        if flip_table is None:
            raise ValueError("a mirrored crop needs the scheme's flip table")
        moved = moved[flip_table]
        visibility = None if visibility is None else visibility[flip_table]
    return Crop(warp(image, matrix, size), moved, visibility)


def deformed(crop: Crop, amount: float, rng: np.random.Generator) -> Crop:
    """Another face: parts of it move against each other, smoothly, and the crop's border stays.

    Args:
        crop: image, and points that move with it.
        amount: how far places that are a fifth of the side apart may move, either way in x and y, as a fraction of the
            side; at most ``MOST_DEFORMED``. 0 changes and draws nothing.
        rng: draws how each place moves.
    """
    if not amount:
        return crop
    size = crop.image.shape[0]
    places = np.zeros((_PLACES, _PLACES, 2), np.float32)
    places[1:-1, 1:-1] = amount * size * rng.uniform(-1.0, 1.0, (_PLACES - 2, _PLACES - 2, 2))
    per_pixel = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]) * (_PLACES - 1) / (size - 1)
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    # from a pixel of the result to its place in the crop
    moves = cv2.warpAffine(places, per_pixel, (size, size), flags=how, borderMode=cv2.BORDER_REPLICATE)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    image = cv2.remap(crop.image, x + moves[..., 0], y + moves[..., 1], cv2.INTER_LINEAR)
    known = np.isfinite(crop.points).all(axis=1)
    points = crop.points.copy()
    if known.any():
        start = found = crop.points[known][:, None]
        for _ in range(10):  # the way back: places near each other move alike, so this converges
            found = start - cv2.remap(moves, found[..., 0], found[..., 1], cv2.INTER_LINEAR)
        points[known] = found[:, 0]
    return replace(crop, image=np.asarray(image, np.uint8), points=points)


def augment_crop(crop: Crop, augmentation: Augmentation, rng: np.random.Generator, scheme: LandmarkScheme) -> Crop:
    """Occluders in front of the face, then light, colour and camera, and the photo's edge. Points stay where they are.

    Returns:
        A new crop. Visible points that an occluder covers, or beyond the edge, become ``OCCLUDED``.
    """
    odds = {name: getattr(augmentation, name) for name in OCCLUDERS}
    image, covered = occlude(crop.image, crop.points, scheme, odds, rng)
    image = camera(image, augmentation, rng)
    if rng.random() < augmentation.cut and np.isfinite(crop.points).all(axis=1).any():
        image, outside = _cut(image, crop.points, rng)
        covered |= outside
    visibility = hide(crop.points, crop.visibility, covered) if covered.any() else crop.visibility
    return replace(crop, image=image, visibility=visibility)


def _cut(image: Image, points: FloatArray, rng: np.random.Generator) -> tuple[Image, NDArray[np.bool_]]:
    """Black, as crops are beyond their photo, past a line that leaves three fifths of the face or more.

    Returns:
        The image, and (L,) bool: points past the line.
    """
    angle = rng.integers(4) * np.pi / 2 + rng.normal(0.0, 0.2)
    outwards = np.array([np.cos(angle), np.sin(angle)])
    along = points @ outwards
    low, high = np.nanmin(along), np.nanmax(along)
    edge = high - rng.uniform(-0.1, 0.4) * (high - low)
    x, y = np.arange(image.shape[1]) * outwards[0], np.arange(image.shape[0]) * outwards[1]
    return image * (y[:, None, None] + x[:, None] <= edge), along > edge


# Light and camera ---------------------------------------------------------------------------------------------------

_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_RGB = np.linalg.inv(_YIQ)


def camera(image: Image, a: Augmentation, rng: np.random.Generator) -> Image:
    """What a camera does to an image (H, W, 3), in the order of nature: light, colour, optics, sensor, compression."""
    image = _colour(image, a, rng)
    dark = rng.random() < a.low_light
    if dark or rng.random() < a.gamma:
        gain = rng.uniform(*a.low_light_gain) if dark else 1.0
        curve = np.linspace(0.0, 1.0, 256) ** rng.uniform(*a.gamma_range)
        image = np.asarray(cv2.LUT(image, (255.0 * gain * curve + 0.5).astype(np.uint8)), np.uint8)
    if rng.random() < a.blur:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(*a.blur_sigma)), np.uint8)
    if rng.random() < a.motion:
        streak = _streak(rng.uniform(*a.motion_length), rng.uniform(0.0, np.pi))
        image = np.asarray(cv2.filter2D(image, -1, streak), np.uint8)
    if dark or rng.random() < a.noise:
        image = _grain(image, rng.uniform(*a.noise_sigma), rng)
    if rng.random() < a.jpeg:
        image = _compressed(image, round(rng.uniform(*a.jpeg_quality)))
    return image


def _colour(image: Image, a: Augmentation, rng: np.random.Generator) -> Image:
    """Brightness, contrast about the mean, saturation and hue are one affine map of RGB."""
    brightness, contrast, saturation = 1.0 + np.array([a.brightness, a.contrast, a.saturation]) * rng.uniform(-1, 1, 3)
    hue = np.deg2rad(a.hue * rng.uniform(-1.0, 1.0))
    if rng.random() < a.grey:
        saturation = 0.0
    chroma = np.eye(3)
    chroma[1:, 1:] = saturation * np.array([[np.cos(hue), -np.sin(hue)], [np.sin(hue), np.cos(hue)]])
    mean = float(_YIQ[0] @ cv2.mean(image)[:3])
    offset = np.full(3, brightness * (1.0 - contrast) * mean)
    matrix = np.column_stack([brightness * contrast * (_RGB @ chroma @ _YIQ), offset])
    return np.asarray(cv2.transform(image, matrix), np.uint8)


def _streak(length: float, angle: float) -> FloatArray:
    """Kernel of a straight motion of ``length`` pixels."""
    side = 2 * int(np.ceil(length / 2)) + 1
    kernel = np.zeros((side, side), np.uint8)
    reach = 0.5 * (length - 1.0) * np.array([np.cos(angle), np.sin(angle)])
    ends = np.rint(16 * (side // 2 + np.array([-reach, reach]))).astype(int).tolist()
    cv2.line(kernel, ends[0], ends[1], 255, 1, cv2.LINE_AA, 4)
    return np.asarray(kernel / kernel.sum(), np.float32)


def _grain(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    # uniform noise of the same deviation: after rounding to bytes nobody can tell, and it is drawn 20 times faster
    noise = rng.integers(0, 256, image.shape, dtype=np.uint8)
    scale = sigma * np.sqrt(12.0) / 255.0
    return np.asarray(cv2.addWeighted(image, 1.0, noise, scale, -127.5 * scale), np.uint8)


def _compressed(image: Image, quality: int) -> Image:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), np.uint8)
