"""Things that stand in front of faces, drawn on crops: patches, hands, dark glasses, masks, hair.

Each occluder is a layer of colour and opacity with soft edges. They are placed by the points of whatever landmark
scheme is in use; one whose points are not labelled (a profile without its second eye) is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from facemsm.schemes import OCCLUDED, UNLABELLED, VISIBLE, LandmarkScheme
from facemsm.typing import BoolArray, FloatArray, Image

Rng = np.random.Generator
Floats = NDArray[np.floating]

_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates
_HAIR_COLOURS = np.array([(24, 20, 18), (45, 32, 24), (78, 52, 34), (120, 84, 52), (186, 150, 98), (140, 136, 132)])


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """``colour`` (S, S, 3) uint8 seen through ``alpha`` (S, S) float32 in [0, 1]."""

    colour: Image
    alpha: FloatArray


@dataclass(frozen=True, eq=False)
class Scene:
    """A face as an occluder's maker sees it: crop, points (NaN where unlabelled) and what follows from them."""

    image: Image
    points: FloatArray
    scheme: LandmarkScheme

    @property
    def size(self) -> int:
        """Side of the crop in pixels."""
        return len(self.image)

    @cached_property
    def grey(self) -> bool:
        """Whether the photo has no colour; a coloured occluder would give itself away."""
        sparse = self.image[::8, ::8].astype(np.int16)
        return bool(np.ptp(sparse, axis=2).mean() < 4.0)

    @cached_property
    def labelled(self) -> FloatArray:
        """(N, 2) the points that are there."""
        return _known(self.points)

    @cached_property
    def frame(self) -> FloatArray | None:
        """(3, 2) rows: origin between the eyes, eye-to-eye vector, eyes-to-mouth vector; None where not labelled.

        A face-fixed affine frame: roll, yaw and pitch show in it, so what is drawn in it sits right.
        """
        scheme = self.scheme
        groups = [_known(self.points[list(group)]) for group in (scheme.right_eye, scheme.left_eye, scheme.mouth)]
        if any(len(group) == 0 for group in groups):
            return None
        right, left, mouth = (group.mean(axis=0) for group in groups)
        origin = (right + left) / 2
        across, down = left - right, mouth - origin
        # a flattened frame (full profile, or degenerate labels) places nothing sensibly
        if abs(across[0] * down[1] - across[1] * down[0]) < 0.25 * max(across @ across, down @ down, 16.0):
            return None
        return np.stack([origin, across, down])

    @cached_property
    def skin(self) -> FloatArray:
        """(3,) median colour half-way between the points and their middle: cheeks and nose, mostly."""
        at = _clamped((self.labelled + self.labelled.mean(axis=0)) / 2, self.size)
        return np.asarray(np.median(self.image[at[:, 1], at[:, 0]], axis=0), np.float32)


def occlude(
    image: Image, points: FloatArray, scheme: LandmarkScheme, odds: Mapping[str, float], rng: Rng
) -> tuple[Image, BoolArray]:
    """Draw each kind of occluder with its probability, nearest to the face first.

    Args:
        image: (S, S, 3) uint8, not changed.
        points: (L, 2) crop pixels, NaN where unlabelled.
        scheme: tells eyes, mouth and contour.
        odds: probability of each kind in ``OCCLUDERS``.
        rng: source of all randomness.

    Returns:
        The image, and (L,) bool: points whose pixel lies under an opacity above one half.
    """
    covered = np.zeros(len(points), np.bool_)
    scene = Scene(image, points, scheme)
    chosen = [name for name in OCCLUDERS if rng.random() < odds[name]]
    if not chosen or len(scene.labelled) < 3:
        return image, covered
    inside: BoolArray = np.all((points > -0.5) & (points < scene.size - 0.5), axis=1)  # False for NaN
    x, y = _clamped(np.where(inside[:, None], points, 0), scene.size).T
    for name in chosen:
        layer = OCCLUDERS[name](scene, rng)
        if layer is not None:
            image = _composite(image, layer, scene.grey, rng)
            covered |= inside & (layer.alpha[y, x] > 0.5)
    return image, covered


def hide(points: FloatArray, visibility: NDArray[np.int8] | None, covered: BoolArray) -> NDArray[np.int8]:
    """Visibility (L,) of points (L, 2), those that were visible ``OCCLUDED`` where covered (L,).

    If nothing is known of it before, every labelled point counts as visible.
    """
    if visibility is None:
        visibility = np.where(np.isfinite(points).all(axis=1), VISIBLE, UNLABELLED)
    return np.where(covered & (visibility == VISIBLE), OCCLUDED, visibility).astype(np.int8)


# Occluders ----------------------------------------------------------------------------------------------------------


def patch(scene: Scene, rng: Rng) -> Layer:
    """A blob, card or band of cloth, noise or the photo's own margin (hair, clothes, background)."""
    size = scene.size
    spread = float(np.ptp(scene.labelled, axis=0).max())
    centre = scene.labelled[rng.integers(len(scene.labelled))] + rng.normal(0.0, 0.12 * spread, 2)
    angles = np.linspace(0.0, 2 * np.pi, 28, endpoint=False)
    extent = spread * rng.uniform(0.12, 0.3, 2)
    kind = rng.random()
    if kind < 0.45:  # a blob
        waves = np.array([[2], [3], [5]])
        ripple = rng.uniform(0, 0.3, (3, 1)) / waves * np.cos(waves * angles + rng.uniform(0, 2 * np.pi, (3, 1)))
        outline = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (1 + ripple.sum(axis=0))[:, None]
    else:  # a card with rounded corners, or a band that leaves the crop
        outline = _superellipse(angles, rng.uniform(4.0, 10.0))
        if kind > 0.8:
            extent = np.array([2.0 * size, spread * rng.uniform(0.08, 0.2)])
    outline = outline * extent @ _turn(rng.uniform(0.0, np.pi)) + centre
    alpha = _soft(_filled(size, outline), rng)
    colour = _margin(scene, rng) if rng.random() < 0.5 else _cloth(size, rng)
    return Layer(_shade(colour, _lighting(size, rng)), alpha)


def hand(scene: Scene, rng: Rng) -> Layer:
    """A hand that comes in from the side or below and rests on a point of the face."""
    size = scene.size
    low, high = scene.labelled.min(axis=0), scene.labelled.max(axis=0)
    palm = float(np.sqrt(np.prod(high - low))) * rng.uniform(0.36, 0.5)
    target = scene.labelled[rng.integers(len(scene.labelled))]
    outwards = 1.0 if target[0] > (low[0] + high[0]) / 2 else -1.0
    lean = outwards * rng.uniform(-0.3, 1.5)  # of the forearm, from straight below
    up = np.array([-np.sin(lean), -np.cos(lean)])
    across = np.array([-up[1], up[0]]) * rng.choice([-1.0, 1.0])  # left or right hand
    axes = palm * np.stack([across, up])
    knuckles = target - axes[1] * rng.uniform(-0.2, 0.9)

    curl, fan = rng.uniform(0.4, 1.0), rng.uniform(0.0, 0.35)
    base, length, width = np.array([(-0.37, 0.8, 0.24), (-0.12, 0.96, 0.25), (0.13, 0.9, 0.24), (0.36, 0.7, 0.21)]).T
    turn = (base + 0.02) / 0.37 * fan + rng.normal(0.0, 0.04, 4)
    reach = curl * length * rng.uniform(0.85, 1.05, 4)
    middle = np.stack([base + 0.5 * reach * np.sin(turn), 0.5 * reach * np.cos(turn)], axis=1)
    turn = turn * rng.uniform(0.0, 1.0)  # the joints bend the fingers back together
    tips = middle + 0.5 * reach[:, None] * np.stack([np.sin(turn), np.cos(turn)], axis=1)
    roots = np.stack([0.75 * base, np.full(4, -0.75)], axis=1)
    thumb = np.array([(-0.3, -0.7), (-0.62, -0.3), (-0.62 - 0.2 * (1 - curl), 0.05 + 0.25 * curl)])
    bones = [
        (np.array([(0.0, -4.0), (0.0, -0.95)]), 0.68),  # forearm
        *((np.array([root, (x, 0.0)]), 0.36) for root, x in zip(roots, base, strict=True)),  # palm
        (thumb[:2], 0.32),
        (thumb[1:], 0.25),
        *((np.array([(x, -0.1), joint]), w) for x, joint, w in zip(base, middle, width, strict=True)),
        *((np.array([joint, tip]), 0.88 * w) for joint, tip, w in zip(middle, tips, width, strict=True)),
    ]
    lines = [(_fixed(knuckles + bone @ axes).tolist(), w * palm) for bone, w in bones]
    alpha = np.zeros((size, size), np.uint8)
    height = np.zeros((size, size), np.float32)
    for (start, end), w in lines:
        cv2.line(alpha, start, end, 255, max(round(w), 1), cv2.LINE_AA, _SHIFT)
    for part in (1.0, 0.85, 0.6, 0.3):  # round bones as a map of heights, lowest first, which light then shapes
        for (start, end), w in lines:
            cv2.line(height, start, end, 0.5 * w * (1.05 - part**2) ** 0.5, max(round(part * w), 1), 8, _SHIFT)

    skin = scene.skin * rng.uniform(0.8, 1.15) * rng.uniform(0.96, 1.04, 3)
    tone = _plain(size, skin)
    if rng.random() < 0.5:  # a sleeve
        sleeve = np.zeros((size, size), np.uint8)
        start, end = _fixed(knuckles + np.array([(0.0, -4.5), (0.0, -rng.uniform(1.5, 2.2))]) @ axes).tolist()
        cv2.line(sleeve, start, end, 255, max(round(0.95 * palm), 1), cv2.LINE_AA, _SHIFT)
        cv2.copyTo(_cloth(size, rng), sleeve, tone)
        alpha = np.maximum(alpha, sleeve)
    return Layer(_shade(tone, _relief(height, 0.04 * palm, rng) * _lighting(size, rng)), _soft(alpha, rng))


def glasses(scene: Scene, rng: Rng) -> Layer | None:
    """Dark glasses: two rounded lenses, bridge and arms, partly see-through, with a highlight."""
    if scene.frame is None:
        return None
    size, frame = scene.size, scene.frame
    width, height = rng.uniform(0.36, 0.45), rng.uniform(0.26, 0.36)
    angles = np.linspace(0.0, 2 * np.pi, 28, endpoint=False)
    lens = _superellipse(angles, rng.uniform(2.0, 3.5)) * (width, height)
    lens[:, 0] *= 1.0 - rng.uniform(0.0, 0.2) * lens[:, 1] / height  # narrower below
    drop = rng.uniform(0.0, 0.1)
    lenses = [_in_face(lens * (mirror, 1) + (0.52 * mirror, drop), frame) for mirror in (-1, 1)]
    arms = [_in_face(np.array([[0.52 + width, drop - 0.1], [1.25, -0.05]]) * (m, 1), frame) for m in (-1, 1)]
    bridge = _in_face(np.array([[-0.55 + width, drop - 0.1], [0.0, drop - 0.16], [0.55 - width, drop - 0.1]]), frame)

    rim = rng.integers(10, 60) + rng.normal(0, 8, 3) if rng.random() < 0.75 else rng.uniform(20, 230, 3)
    colour = _plain(size, rng.uniform(5, 60, 3))
    alpha = _filled(size, *lenses).astype(np.float32) * (rng.uniform(0.65, 1.05) / 255)
    wire = np.zeros((size, size), np.uint8)
    thickness = max(round(rng.uniform(0.02, 0.07) * float(np.hypot(*frame[1]))), 1)
    glint = np.zeros((size, size), np.uint8)
    at, reach = rng.uniform(-0.2, 0.2), rng.uniform(0.02, 0.12)
    for mirror in (-1, 1):
        streak = np.array([[at - reach, drop - 0.15], [at + reach, drop - 0.15], [at, drop + 0.1], [at - 0.1, drop]])
        _fill(glint, _in_face(streak + np.array([0.52 * mirror, 0.0]), frame))
    shine = cv2.blur(glint, (5, 5))
    colour = np.asarray(
        cv2.addWeighted(colour, 1.0, cv2.merge((shine, shine, shine)), rng.uniform(0.0, 0.6), 0), np.uint8
    )
    for canvas, value in ((wire, 255.0), (colour, np.clip(rim, 0, 255).tolist())):
        cv2.polylines(canvas, [_fixed(p) for p in lenses], True, value, thickness, cv2.LINE_AA, _SHIFT)
        cv2.polylines(canvas, [_fixed(p) for p in (bridge, *arms)], False, value, thickness, cv2.LINE_AA, _SHIFT)
    alpha = np.maximum(np.minimum(alpha, 1.0), wire * np.float32(1 / 255))
    return Layer(colour, np.asarray(cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.4, 0.9)), np.float32))


def mask(scene: Scene, rng: Rng) -> Layer | None:
    """A cloth or surgical mask from the bridge of the nose (or below it) over mouth and jaw."""
    if scene.frame is None:
        return None
    size, frame = scene.size, scene.frame
    top = rng.uniform(0.3, 0.5) if rng.random() < 0.8 else rng.uniform(0.7, 0.85)  # else the nose is left out
    jaw = _from_face(_known(scene.points[list(scene.scheme.contour)]), frame)
    jaw = jaw[jaw[:, 1] > top + 0.1]
    if len(jaw) < 5:  # no jaw line in this scheme or photo: an average one
        half = np.array([[0.95, 0.5], [0.92, 0.9], [0.8, 1.3], [0.55, 1.65], [0.2, 1.85]])
        jaw = np.concatenate([half, half * (-1, 1)])
    nose = np.array([[-0.12, top], [0.12, top]])
    place = cv2.convexHull(np.concatenate([nose, jaw * rng.uniform(1.0, 1.08)]).astype(np.float32))[:, 0]
    outline = _in_face(np.asarray(place, np.float32), frame)

    alpha = _filled(size, outline)
    corners = place[[place[:, 0].argmin(), place[:, 0].argmax()]]
    for corner in corners[np.abs(corners[:, 0]) > 0.7]:  # a side turned away shows no strap
        ear = corner * (rng.uniform(1.05, 1.2), 0) + (0, rng.uniform(-0.1, 0.1))
        cv2.polylines(alpha, [_fixed(_in_face(np.stack([corner, ear]), frame))], False, 255, 1, cv2.LINE_AA, _SHIFT)

    if rng.random() < 0.6:  # surgical: pale blue, green, white; or black
        shades = np.array([(150, 190, 215), (165, 205, 195), (225, 228, 230), (40, 40, 44)])
        colour = _plain(size, rng.choice(shades) + rng.normal(0, 8, 3))
    else:
        colour = _cloth(size, rng)
    pleats = np.full((size, size), 128, np.uint8)
    across = np.linspace(-1.1, 1.1, 9)
    for t in np.linspace(top + 0.3, 1.5, rng.integers(2, 5)):
        fold = np.stack([across, t + rng.uniform(0.1, 0.2) * (0.5 - across**2)], axis=1)
        for tone, gap in ((92, 0.0), (148, 0.06)):
            cv2.polylines(
                pleats, [_fixed(_in_face(fold + np.array([0.0, gap]), frame))], False, tone, 1, cv2.LINE_AA, _SHIFT
            )
    x, y = np.linalg.inv(frame[1:])[:, 0].astype(np.float32)  # towards the side of the face
    steps = np.arange(size, dtype=np.float32)
    round_face = 1.08 - 0.28 * ((y * (steps - frame[0, 1]))[:, None] + x * (steps - frame[0, 0])) ** 2
    gain = cv2.blur(pleats, (3, 3)) / np.float32(128) * np.clip(round_face, 0.45, 1.2)
    return Layer(_shade(colour, gain * _lighting(size, rng)), _soft(alpha, rng))


def hair(scene: Scene, rng: Rng) -> Layer | None:
    """A strand or a whole fringe that falls from the top over a brow."""
    if scene.frame is None:
        return None
    size, frame = scene.size, scene.frame
    width = rng.uniform(0.2, 1.2)
    strands = int(50 + 60 * width)
    middle = rng.choice([-1.0, 1.0]) * rng.uniform(0.0, 0.9)
    part = rng.uniform(-1.0, 1.0)  # where on the head it grows
    t = np.linspace(0.0, 1.0, 9)[:, None]
    across = rng.normal(0.0, 0.5, strands)
    tip_y = rng.uniform(-0.3, 0.45) - rng.gamma(1.5, 0.2, strands) - rng.uniform(-0.3, 0.3) * across
    root_x, tip_x = part + 0.9 * width * across, middle + 0.6 * width * across + rng.normal(0, 0.1, strands)
    bend = rng.uniform(-0.2, 0.8) * (middle - part) + rng.normal(0, 0.12, strands)
    x = root_x + (tip_x - root_x) * t**1.5 + 2 * bend * t * (1 - t)
    y = -2.4 + (tip_y + 2.4) * t
    places = np.stack([x, y], axis=2)  # (9, strands, 2)
    curves = [np.ascontiguousarray(curve) for curve in _fixed(_in_face(places, frame)).swapaxes(0, 1)]

    own = _clamped(_in_face(np.array([rng.uniform(-0.7, 0.7), -1.2]), frame), scene.size)
    base = scene.image[own[1], own[0]] if rng.random() < 0.4 else rng.choice(_HAIR_COLOURS) * rng.uniform(0.7, 1.2)
    colour = _plain(size, base * 0.8)
    alpha = np.zeros((size, size), np.uint8)
    thickness = 0.05 * float(np.hypot(*frame[1]))
    for stop, share in ((9, 0.3), (7, 0.7), (5, 1.2)):  # strands taper
        thick = max(round(share * thickness), 1)
        lines = np.zeros((size, size), np.uint8)
        cv2.polylines(lines, [curve[:stop] for curve in curves], False, 255, 1, cv2.LINE_AA, _SHIFT)
        # OpenCV draws thick lines ten times slower than thin ones
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (thick, thick))
        alpha = np.maximum(alpha, cv2.dilate(lines, disc))
    for i, tone in enumerate((0.6, 0.8, 0.95, 1.1, 1.35)):
        shade = np.clip(base * tone, 0, 255).tolist()
        cv2.polylines(colour, curves[i::5], False, shade, 1, cv2.LINE_AA, _SHIFT)
    if rng.random() < 0.5:
        colour = np.asarray(cv2.blur(colour, (3, 3)), np.uint8)
    return Layer(_shade(colour, _lighting(size, rng)), _soft(alpha, rng))


OCCLUDERS: Mapping[str, Callable[[Scene, Rng], Layer | None]] = {
    "hair": hair,
    "glasses": glasses,
    "mask": mask,
    "hand": hand,
    "patch": patch,
}

# Drawing ------------------------------------------------------------------------------------------------------------


def _composite(image: Image, layer: Layer, grey: bool, rng: Rng) -> Image:
    """The layer over the image, with the soft shadow it casts; without colour in a photo that has none."""
    colour = layer.colour
    if grey:
        colour = np.asarray(cv2.cvtColor(cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)
    if rng.random() < 0.6:
        side = 2 * int(rng.integers(2, 6)) + 1
        dx, dy = rng.uniform(-3.0, 3.0), rng.uniform(-1.0, 4.0)
        moved = cv2.warpAffine(layer.alpha, np.array([[1, 0, dx], [0, 1, dy]]), layer.alpha.shape[::-1])
        image = _shade(image, 1.0 - rng.uniform(0.1, 0.45) * cv2.blur(moved, (side, side)))
    return np.asarray(cv2.blendLinear(colour, image, layer.alpha, 1.0 - layer.alpha), np.uint8)


def _shade(colour: Image, gain: Floats) -> Image:
    """``colour`` times ``gain`` (S, S) in [0, 2)."""
    bytes_ = cv2.convertScaleAbs(gain, alpha=128.0)
    return np.asarray(cv2.multiply(colour, cv2.merge((bytes_, bytes_, bytes_)), scale=1 / 128), np.uint8)


def _soft(alpha: Image, rng: Rng) -> FloatArray:
    """uint8 opacity with an edge as soft as a photo's: a hard one would give the occluder away."""
    return np.asarray(cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.5, 1.3)) * np.float32(1 / 255), np.float32)


def _lighting(size: int, rng: Rng) -> FloatArray:
    """(S, S) gain around 1 that changes slowly."""
    cubic = _cubic(size)
    return np.asarray(cubic @ rng.uniform(0.78, 1.2, (4, 4)).astype(np.float32) @ cubic.T, np.float32)


@cache
def _cubic(size: int) -> FloatArray:
    """(S, 4) weights that enlarge four values to ``size``: a product with them is six times faster than ``resize``."""
    return np.asarray(cv2.resize(np.eye(4, dtype=np.float32), (4, size), interpolation=cv2.INTER_CUBIC), np.float32)


def _relief(height: FloatArray, smooth: float, rng: Rng) -> FloatArray:
    """(S, S) gain of a surface of the given height, in pixels, lit from above by a soft light."""
    smoothed = cv2.GaussianBlur(height, (0, 0), max(smooth, 0.6))
    slope_x, slope_y = (cv2.Sobel(smoothed, cv2.CV_32F, dx, 1 - dx, scale=1 / 8) for dx in (1, 0))
    side = rng.uniform(-0.5, 0.5)
    facing = (1.0 - side * slope_x + rng.uniform(0.2, 0.6) * slope_y) / np.sqrt(1.0 + slope_x**2 + slope_y**2)
    return np.asarray(np.clip(0.35 + 0.65 * facing, 0.2, 1.3), np.float32)


def _plain(size: int, colour: Floats) -> Image:
    row = np.tile(np.clip(colour, 0, 255).astype(np.uint8), size)
    return np.tile(row, (size, 1)).reshape(size, size, 3)  # long rows: six times faster than np.full


def _cloth(size: int, rng: Rng) -> Image:
    """Plain, striped, checked or mottled stuff of any colour."""
    x, y = np.arange(size, dtype=np.float32) * np.float32(rng.uniform(0.08, 1.0)), np.zeros(size, np.float32)
    kind = rng.random()
    amount = rng.uniform(0.05, 0.6)
    if kind < 0.4:
        x *= 0
    elif kind < 0.7:
        y = x * np.float32(rng.uniform(-1, 1))
    else:
        y, x = np.sin(x) * np.float32(np.pi / 2), np.sin(x) * np.float32(np.pi / 2)
    pattern = np.sin(x[None] + y[:, None]) * np.float32(0.5 * amount)
    mottle = cv2.resize(rng.uniform(-0.12, 0.12, (size // 3, size // 3)).astype(np.float32), (size, size))
    colour = _plain(size, rng.uniform(10, 235, 3) * 0.5 + rng.uniform(5, 120))
    return _shade(colour, 1.0 + pattern + mottle)


def _margin(scene: Scene, rng: Rng) -> Image:
    """The photo's own texture, taken enlarged and turned from its margin, where no features lie."""
    size = scene.size
    along, depth = rng.uniform(0.0, 1.0), rng.uniform(0.03, 0.12)
    source = size * np.array([[along, depth], [along, 1 - depth], [depth, along], [1 - depth, along]])[rng.integers(4)]
    linear = rng.uniform(1.5, 3.0) * _turn(rng.uniform(0.0, 2 * np.pi))
    matrix = np.column_stack([linear, scene.labelled.mean(axis=0) - linear @ source])
    return np.asarray(cv2.warpAffine(scene.image, matrix, (size, size), borderMode=cv2.BORDER_REFLECT_101), np.uint8)


def _filled(size: int, *outlines: Floats) -> Image:
    canvas = np.zeros((size, size), np.uint8)
    for outline in outlines:
        _fill(canvas, outline)
    return canvas


def _fill(canvas: Image, outline: Floats) -> None:
    cv2.fillPoly(canvas, [_fixed(outline)], 255, cv2.LINE_AA, _SHIFT)


def _fixed(points: Floats) -> NDArray[np.int32]:
    """Crop pixels as OpenCV's fixed-point drawing coordinates."""
    return np.rint(points * (1 << _SHIFT)).astype(np.int32)


def _superellipse(angles: Floats, power: float) -> Floats:
    """(N, 2) unit outline between a circle (2) and a square (large)."""
    unit = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.asarray(np.sign(unit) * np.abs(unit) ** (2.0 / power))


def _turn(angle: float) -> Floats:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _known(points: FloatArray) -> FloatArray:
    """The labelled ones of points."""
    return points[np.isfinite(points).all(axis=1)]


def _clamped(points: Floats, size: int) -> NDArray[np.intp]:
    """The pixels nearest to points, inside the crop."""
    return np.clip(np.rint(points), 0, size - 1).astype(np.intp)


def _in_face(places: Floats, frame: Floats) -> Floats:
    """Places in the face's frame (eye distance and eyes-to-mouth distance are 1) as crop pixels."""
    return np.asarray(frame[0] + places @ frame[1:])


def _from_face(points: Floats, frame: Floats) -> Floats:
    """The inverse of :func:`_in_face`."""
    return np.asarray((points - frame[0]) @ np.linalg.inv(frame[1:]))
