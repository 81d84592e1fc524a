"""Things that stand in front of faces, drawn on crops: what is worn (masks, scarves, hats, dark glasses), hair, hands,
what is held (cups, phones, microphones), and patches of anything.

Each occluder is a layer of colour and opacity with soft edges. They are placed by the points of whatever landmark
scheme is in use. What is worn has its shape in space, on the average head, so that it turns with the face; hair and
glasses are placed by eyes and mouth. One whose points are not labelled is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from facemsm.errors import FacemsmError
from facemsm.imaging.drawing import SHIFT, fixed
from facemsm.schemes import OCCLUDED, SCHEME_68, UNLABELLED, VISIBLE, LandmarkScheme, relation
from facemsm.shapes.measures import HEAD, camera_of
from facemsm.typing import BoolArray, FloatArray, Image

Rng = np.random.Generator
Floats = NDArray[np.floating]

_HAIR_COLOURS = np.array([(24, 20, 18), (45, 32, 24), (78, 52, 34), (120, 84, 52), (186, 150, 98), (140, 136, 132)])


# Places on the head are in millimetres as those of HEAD: x to the person's left, y down, z into the head.
_HEAD = np.array(list(HEAD.values()), np.float64)
_EYES, _MOUTH = 64.0, 66.0  # from eye to eye, and from there down to the mouth
_RIDGE = np.array([(-10, -8), (20, -24), (38, -38), (66, -30), (114, -6), (160, 10), (260, 10)]).T  # y, z in the middle
_CHEEK = 45.0  # z of the sides of a mask


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """``colour`` (S, S, 3) uint8 seen through ``alpha`` (S, S) float32 in [0, 1]."""

    colour: Image
    alpha: FloatArray


@dataclass(frozen=True, eq=False)
class Camera:
    """Weak perspective of the head: ``origin`` (2,) is where that of ``HEAD`` is in the crop, ``axes`` (3, 2) are a
    millimetre along its x, y and z, in pixels."""

    origin: Floats
    axes: Floats

    def __call__(self, places: Floats) -> FloatArray:
        """Places (..., 3) on the head as crop pixels (..., 2)."""
        return np.asarray(self.origin + places @ self.axes)

    @cached_property
    def view(self) -> Floats:
        """(3,) unit direction of sight, on the head."""
        view = np.cross(self.axes[:, 0], self.axes[:, 1])
        return np.asarray(view / max(float(np.linalg.norm(view)), 1e-9))

    @cached_property
    def pixels(self) -> float:
        """Of a millimetre."""
        return float(np.linalg.norm(self.axes, axis=0).mean())


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
    def camera(self) -> Camera | None:
        """How the average head is seen, by as few as five points, so that profiles have it; None where none fits.

        Where a scheme says nothing of ``HEAD``'s points, the head is flat, in ``frame``.
        """
        try:
            weights = _to_head(self.scheme)
        except FacemsmError:  # nothing is known of where the scheme's points lie
            weights = np.zeros((len(HEAD), len(self.points)), np.float32)
        labelled = np.isfinite(self.points)
        known = (weights @ labelled > 0.999).all(axis=1)
        seen = weights @ np.where(labelled, self.points, 0.0)
        if known.sum() >= 5:
            lens = camera_of(seen[known])
            found, turn, shift = cv2.solvePnP(_HEAD[known], seen[known], lens, None, flags=cv2.SOLVEPNP_SQPNP)
            if not found or shift[2, 0] <= 0:
                return None
            scale = lens[0, 0] / shift[2, 0]
            camera = Camera(lens[:2, 2] + scale * shift[:2, 0], scale * cv2.Rodrigues(turn)[0][:2].T)
        elif self.frame is not None:
            origin, across, down = self.frame
            camera = Camera(origin, np.stack([across / _EYES, down / _MOUTH, 0 * origin]))
        else:
            return None
        sane = np.abs(camera.origin).max() < 8 * self.size and 4.0 < camera.pixels * _EYES < 8 * self.size
        return camera if sane else None  # nor where it is NaN

    @cached_property
    def light(self) -> float:
        """Gain of what is as bright as its colour: white is grey in a dark photo."""
        return float(np.clip(np.percentile(self.image[::8, ::8], 90) / 215, 0.3, 1.05))

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
    lines = [(fixed(knuckles + bone @ axes).tolist(), w * palm) for bone, w in bones]
    alpha = np.zeros((size, size), np.uint8)
    height = np.zeros((size, size), np.float32)
    for (start, end), w in lines:
        cv2.line(alpha, start, end, 255, max(round(w), 1), cv2.LINE_AA, SHIFT)
    for part in (1.0, 0.85, 0.6, 0.3):  # round bones as a map of heights, lowest first, which light then shapes
        for (start, end), w in lines:
            cv2.line(height, start, end, 0.5 * w * (1.05 - part**2) ** 0.5, max(round(part * w), 1), 8, SHIFT)

    skin = scene.skin * rng.uniform(0.8, 1.15) * rng.uniform(0.96, 1.04, 3)
    tone = _plain(size, skin)
    if rng.random() < 0.5:  # a sleeve
        sleeve = np.zeros((size, size), np.uint8)
        start, end = fixed(knuckles + np.array([(0.0, -4.5), (0.0, -rng.uniform(1.5, 2.2))]) @ axes).tolist()
        cv2.line(sleeve, start, end, 255, max(round(0.95 * palm), 1), cv2.LINE_AA, SHIFT)
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
        cv2.polylines(canvas, [fixed(p) for p in lenses], True, value, thickness, cv2.LINE_AA, SHIFT)
        cv2.polylines(canvas, [fixed(p) for p in (bridge, *arms)], False, value, thickness, cv2.LINE_AA, SHIFT)
    alpha = np.maximum(np.minimum(alpha, 1.0), wire * np.float32(1 / 255))
    return Layer(colour, np.asarray(cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.4, 0.9)), np.float32))


def mask(scene: Scene, rng: Rng) -> Layer | None:
    """A surgical mask, a respirator or one of cloth, over nose, mouth and chin, or worn below one of them."""
    if scene.camera is None:
        return None
    size = scene.size
    style = str(rng.choice(["surgical", "respirator", "cloth"], p=[0.4, 0.25, 0.35]))
    worn = rng.random()
    top = rng.uniform(6, 26) if worn < 0.86 else rng.uniform(42, 50) if worn < 0.96 else rng.uniform(72, 90)
    drop = rng.uniform(-12, 26) if rng.random() < 0.6 else rng.uniform(-4, 10)  # below the chin
    sides = {"surgical": (14, -22), "respirator": (24, -40), "cloth": (16, -30)}[style] + rng.normal(0, (5, 8))
    bottom = max(114 + drop, top + 40)
    edges = top, max(top + 6, 0.5 * top + 12 + sides[0]), bottom, max(bottom + sides[1], top + 25 + sides[0])
    bulge = rng.uniform(10, 28) if style == "respirator" else rng.uniform(0, 18)
    shell = _Shell(scene.camera, edges, rng.uniform(54, 74), bulge, rng.uniform(1.5, 2.6), rng.normal(-0.05, 0.08))
    alpha, gain = shell.drawn(size, rng)
    width = shell.camera.pixels * rng.uniform(1.0, 3.0)  # of loops, seams and edges

    white = rng.uniform(205, 245) + rng.normal(0, 5, 3)
    dark = rng.uniform(12, 60) + rng.normal(0, 3, 3)
    if style == "cloth" and rng.random() < 0.65:
        colour = _cloth(size, rng)
    elif style == "cloth" or rng.random() < 0.25:
        colour = _plain(size, dark)
    elif style == "respirator" or rng.random() < 0.3:
        colour = _plain(size, white)
    else:  # pale blue, green, pink or a full blue
        tints = np.array([(160, 200, 225), (125, 180, 215), (165, 210, 200), (230, 180, 195), (80, 130, 190)])
        colour = _plain(size, rng.choice(tints) + rng.normal(0, 10, 3))

    lines = np.full((size, size), 128, np.uint8)
    across, along = np.linspace(-0.97, 0.97, 11), np.linspace(0.0, 1.0, 7)
    if style == "surgical":
        for level in np.linspace(rng.uniform(0.15, 0.4), rng.uniform(0.6, 0.85), rng.integers(2, 5)):
            sag = level + rng.uniform(-0.08, 0.1) * (1 - across**2) + rng.normal(0, 0.01, 11)
            shell.line(lines, across, sag, rng.uniform(80, 118), width, rng.uniform(132, 158))
    seams = [(across, 0 * across + 0.06), (across, 0 * across + 0.95)]  # nose wire and hem
    if style != "surgical" and rng.random() < 0.6:
        seams += [(0 * along + rng.normal(0, 0.03), along)]  # down the middle
    elif style == "respirator":
        seams += [(across, 0.35 + 0.1 * across**2), (across, 0.7 - 0.1 * across**2)]  # folded in three
    for seam in seams:
        if rng.random() < 0.7:
            shell.line(lines, *seam, rng.uniform(70, 115) if rng.random() < 0.5 else rng.uniform(140, 165), width)
    gain = gain * cv2.blur(lines, (3, 3)) * np.float32(1 / 128)

    if rng.random() < {"surgical": 0.1, "respirator": 0.4, "cloth": 0.4}[style]:
        _print(shell, colour, rng)
    if style != "surgical" and rng.random() < 0.3:  # a valve
        centre, radius = np.array([rng.choice([-0.4, 0.0, 0.4]), rng.uniform(0.45, 0.65)]), rng.uniform(0.1, 0.18)
        tone = np.clip(colour.mean() * rng.uniform(0.5, 1.3) + rng.uniform(-15, 30, 3), 0, 255)
        for part, shade in ((1.25, 0.6), (1.0, 1.0), (0.5, 0.75)):
            shell.blots(colour, centre, part * radius, tone * shade)

    strap = dark if rng.random() < 0.3 else white
    around = rng.random() < 0.1  # the head instead of the ears
    for side in (-1, 1):
        if np.array([side * 0.85, 0.0, -0.5]) @ shell.camera.view > -0.15:  # turned away
            continue
        starts = shell.surface(np.full(2, side * 0.97), np.array([0.04, 0.96]))
        ends = np.array([(side * 74.0, -53.0 if around else -8.0, 80.0), (side * 74.0, 42.0, 80.0)])
        middles = (starts + ends) / 2 + (side * 5.0, 4.0, -6.0)
        loops = list(fixed(shell.camera(np.stack([starts, middles, ends], axis=1))))
        for canvas, value in ((alpha, 255), (colour, strap.tolist())):
            cv2.polylines(canvas, loops, False, value, max(round(0.7 * width), 1), cv2.LINE_AA, SHIFT)
    return Layer(_shade(colour, scene.light * gain * _lighting(size, rng)), _soft(alpha, rng))


def scarf(scene: Scene, rng: Rng) -> Layer | None:
    """A scarf, a high collar or a neck gaiter, from mouth, chin or nose down to the chest."""
    if scene.camera is None:
        return None
    size = scene.size
    top = rng.uniform(10, 40) if rng.random() < 0.25 else rng.uniform(50, 105)
    edges = top, top + rng.uniform(-25, 15), 250.0, 250.0
    shell = _Shell(
        scene.camera, edges, rng.uniform(66, 90), rng.uniform(5, 35), rng.uniform(1.5, 3.0), rng.uniform(0, 0.5)
    )
    alpha, gain = shell.drawn(size, rng)
    folds = np.full((size, size), 128, np.uint8)
    across = np.linspace(-1.0, 1.0, 9)
    for level in rng.uniform(0.02, 0.7, rng.integers(2, 8)):
        fold = level + rng.uniform(-0.25, 0.25) * across + rng.uniform(0, 0.15) * (1 - across**2)
        shell.line(
            folds, across, fold, rng.uniform(50, 110), rng.uniform(1, 6) * shell.camera.pixels, rng.uniform(135, 180)
        )
    gain = gain * cv2.blur(folds, (5, 5)) * np.float32(1 / 128)
    return Layer(_shade(_cloth(size, rng), scene.light * gain * _lighting(size, rng)), _soft(alpha, rng))


def hat(scene: Scene, rng: Rng) -> Layer | None:
    """A cap with its brim, a hat with one all around, or a woollen hat or hood down to the brows."""
    if scene.camera is None:
        return None
    size, camera = scene.size, scene.camera
    low, half, height = rng.uniform(-45, -10), rng.uniform(72, 86), rng.uniform(70, 130)
    angles = np.linspace(0, np.pi, 15)
    x, ahead = np.cos(angles), np.sin(angles)
    seen = angles - np.pi / 2 + np.arctan2(camera.view[2], -camera.view[0])  # the half of the head that the camera sees
    ring = np.stack([half * np.cos(seen), 0 * x + low, 80 - 95 * np.sin(seen)], axis=1)
    crown = ring * (0.9, 1, 0.8) - (0, height, -20)
    alpha, tones = np.zeros((size, size), np.uint8), np.full((size, size), 128, np.uint8)
    hull = cv2.convexHull(
        np.float32(camera(np.concatenate([ring, crown, ring.mean(axis=0, keepdims=True) - (0, 1.2 * height, 0)])))
    )[:, 0]
    _fill(alpha, hull)
    kind = rng.random()
    if kind < 0.7:  # a brim before the face, or all around
        deep, drop = rng.uniform(40, 90), rng.uniform(-10, 35)
        wide = half * (1.0 if kind < 0.5 else rng.uniform(1.2, 1.6))
        edge = np.stack([wide * x, low + drop * ahead, 80 - 95 * ahead - deep * ahead**0.7], axis=1)
        front = np.stack([half * x, 0 * x + low, 80 - 95 * ahead], axis=1)
        brim = camera(np.concatenate([edge, front[::-1]]))
        _fill(alpha, brim)
        _fill(tones, brim, int(rng.integers(60, 150)))
    else:  # a turned-up rim
        band = [fixed(camera(ring - (0, rng.uniform(5, 25), 0)))]
        cv2.polylines(tones, band, False, int(rng.integers(70, 110)), 2, cv2.LINE_AA, SHIFT)
    gain = cv2.blur(tones, (3, 3)) * np.float32(1 / 128)
    plain = _plain(size, rng.uniform(10, 120) + rng.normal(0, 15, 3))
    colour = plain if rng.random() < 0.5 else _cloth(size, rng)
    return Layer(_shade(colour, scene.light * gain * _lighting(size, rng)), _soft(alpha, rng))


def microphone(scene: Scene, rng: Rng) -> Layer | None:
    """A round head before mouth or chin on a handle from below, some with a cube on it."""
    if scene.camera is None:
        return None
    size, camera = scene.size, scene.camera
    radius = rng.uniform(14, 32) * camera.pixels
    centre = camera(np.array([rng.uniform(-30, 30), rng.uniform(70, 125), -50]))
    down = np.array([0.0, 1.0]) @ _turn(rng.uniform(-1.0, 1.0))
    alpha, height = np.zeros((size, size), np.uint8), np.zeros((size, size), np.float32)
    colour = _plain(size, rng.uniform(10, 60) + rng.normal(0, 4, 3))
    start, end = fixed(np.stack([centre, centre + 3 * size * down])).tolist()
    thick = radius * rng.uniform(0.6, 1.3)
    cv2.line(alpha, start, end, 255, max(round(thick), 1), cv2.LINE_AA, SHIFT)
    for part in (1.0, 0.75, 0.4):
        cv2.line(height, start, end, thick * (1.05 - part**2) ** 0.5 / 2, max(round(part * thick), 1), 8, SHIFT)
    ball = _superellipse(np.linspace(0, 2 * np.pi, 24, endpoint=False), rng.uniform(2, 3)) * (1, rng.uniform(1, 1.4))
    outline = centre + radius * ball @ _turn(rng.normal(0, 0.3))
    tone = rng.uniform(10, 90) + rng.normal(0, 4, 3) if rng.random() < 0.8 else rng.uniform(30, 200, 3)
    _fill(colour, outline, np.clip(tone, 0, 255))
    _fill(alpha, outline)
    for part in (1.0, 0.8, 0.55, 0.25):
        inner = fixed(centre + part * (outline - centre))
        cv2.fillPoly(height, [inner], radius * (1.05 - part**2) ** 0.5, 8, SHIFT)
    if rng.random() < 0.3:
        cube = centre + down * radius * 2 + radius * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        _fill(colour, cube, rng.uniform(0, 255, 3))
        cv2.fillPoly(height, [fixed(cube)], float(radius), 8, SHIFT)
        _fill(alpha, cube)
    grain = 1 + rng.uniform(-0.15, 0.15, (size // 2, size // 2)).astype(np.float32)
    relief = _relief(height, 0.15 * radius, rng) * cv2.resize(grain, (size, size), interpolation=cv2.INTER_NEAREST)
    return Layer(_shade(colour, scene.light * relief), _soft(alpha, rng))


def cup(scene: Scene, rng: Rng) -> Layer | None:
    """A cup, glass, can or phone before the lower face."""
    if scene.camera is None:
        return None
    size, camera = scene.size, scene.camera
    half = np.array([rng.uniform(32, 50), rng.uniform(40, 75)]) * camera.pixels
    centre = camera(np.array([rng.uniform(-25, 25), rng.uniform(75, 120), -60]))
    tilt = _turn(rng.normal(0, 0.35))
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    outline = _superellipse(angles, rng.uniform(6, 14))
    phone = rng.random() < 0.35
    taper = 0.0 if phone else rng.uniform(-0.02, 0.25)
    outline = outline * np.stack([1 - taper * outline[:, 1], np.ones(32)], axis=1) * half @ tilt + centre
    alpha = _filled(size, outline)
    clear = not phone and rng.random() < 0.15
    colour = _margin(scene, rng) if rng.random() < 0.1 else _cloth(size, rng)
    if phone and rng.random() < 0.7:
        colour = _plain(size, rng.uniform(10, 50) + rng.normal(0, 4, 3))
    if phone:
        lens = np.array([rng.choice([-0.6, 0.6]), -0.8]) * half @ tilt + centre
        cv2.circle(colour, fixed(lens).tolist(), int(fixed(0.12 * half[0])), (70, 70, 75), -1, cv2.LINE_AA, SHIFT)
    elif rng.random() < 0.6:  # a label or sleeve
        band = np.array([(-1.0, -0.3), (1.0, -0.3), (0.95, 0.5), (-0.95, 0.5)]) * half @ tilt + centre
        _fill(colour, band, rng.uniform(0, 255, 3))
    if not phone:  # the rim
        rim = (_superellipse(angles, 2.0) * (1 + taper, 0.15) - (0, 1)) * half @ tilt + centre
        _fill(colour, rim, rng.uniform(60, 255, 3))
        _fill(alpha, rim)
    x, y = (tilt[0] / half[0]).astype(np.float32)  # across it, from -1 to 1
    steps = np.arange(size, dtype=np.float32)
    bend = (x * (steps - centre[0]) + (y * (steps - centre[1]))[:, None]) * (not phone)
    gain = np.clip(1.1 - 0.45 * (bend - rng.uniform(-0.4, 0.4)) ** 2, 0.3, 1.3)
    opacity = np.float32(rng.uniform(0.3, 0.6) if clear else 1.0)
    return Layer(_shade(colour, scene.light * gain * _lighting(size, rng)), opacity * _soft(alpha, rng))


def screen(scene: Scene, rng: Rng) -> Layer:
    """Something large that hides up to half of the face from one side: a wall, a sheet, another's head or shoulder."""
    size = scene.size
    angle = rng.uniform(0, 2 * np.pi)
    outwards = np.array([np.cos(angle), np.sin(angle)])
    along = scene.labelled @ outwards
    low, high = float(along.min()), float(along.max())
    edge = high - rng.uniform(0.1, 0.5) * (high - low)
    t = np.linspace(-2.0, 2.0, 33)
    wave = rng.uniform(0, 0.12) * np.sin(rng.uniform(1, 8) * t + rng.uniform(0, 6)) - rng.uniform(-0.1, 0.3) * t**2
    depth = edge + (high - low) * wave * (rng.random() < 0.6)
    sideways = np.array([-outwards[1], outwards[0]])
    middle = float(scene.labelled.mean(axis=0) @ sideways)
    line = depth[:, None] * outwards + (middle + size * t)[:, None] * sideways
    outline = np.concatenate([line, line[[-1, 0]] + 4 * size * outwards])
    colour = _margin(scene, rng) if rng.random() < 0.6 else _cloth(size, rng)
    return Layer(_shade(colour, _lighting(size, rng)), _soft(_filled(size, outline), rng))


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
    curves = [np.ascontiguousarray(curve) for curve in fixed(_in_face(places, frame)).swapaxes(0, 1)]

    own = _clamped(_in_face(np.array([rng.uniform(-0.7, 0.7), -1.2]), frame), scene.size)
    base = scene.image[own[1], own[0]] if rng.random() < 0.4 else rng.choice(_HAIR_COLOURS) * rng.uniform(0.7, 1.2)
    colour = _plain(size, base * 0.8)
    alpha = np.zeros((size, size), np.uint8)
    thickness = 0.05 * float(np.hypot(*frame[1]))
    for stop, share in ((9, 0.3), (7, 0.7), (5, 1.2)):  # strands taper
        thick = max(round(share * thickness), 1)
        lines = np.zeros((size, size), np.uint8)
        cv2.polylines(lines, [curve[:stop] for curve in curves], False, 255, 1, cv2.LINE_AA, SHIFT)
        # OpenCV draws thick lines ten times slower than thin ones
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (thick, thick))
        alpha = np.maximum(alpha, cv2.dilate(lines, disc))
    for i, tone in enumerate((0.6, 0.8, 0.95, 1.1, 1.35)):
        shade = np.clip(base * tone, 0, 255).tolist()
        cv2.polylines(colour, curves[i::5], False, shade, 1, cv2.LINE_AA, SHIFT)
    if rng.random() < 0.5:
        colour = np.asarray(cv2.blur(colour, (3, 3)), np.uint8)
    return Layer(_shade(colour, _lighting(size, rng)), _soft(alpha, rng))


OCCLUDERS: Mapping[str, Callable[[Scene, Rng], Layer | None]] = {
    "glasses": glasses,
    "mask": mask,
    "hair": hair,
    "hat": hat,
    "scarf": scarf,
    "cup": cup,
    "microphone": microphone,
    "hand": hand,
    "patch": patch,
    "screen": screen,
}

# What is worn -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Shell:
    """Cloth around the lower face, in places u from -1 (the person's right) to 1 and v from 0 (upper edge) to 1.

    Attributes:
        camera: of the scene.
        edges: y in mm of the upper edge in the middle and at the sides, and of the lower one.
        half: of the width, mm.
        bulge: how far it stands off the face.
        round_: power by which it falls back towards the cheeks; larger is flatter in front.
        flare: how much wider it is below than above.
    """

    camera: Camera
    edges: tuple[float, float, float, float]
    half: float
    bulge: float
    round_: float
    flare: float

    def surface(self, u: Floats, v: Floats) -> FloatArray:
        """(..., 3) on the head."""
        top, side_top, bottom, side_bottom = self.edges
        side = np.hypot(u, 0.15) - 0.15
        upper = top + (side_top - top) * (1 - (1 - side) ** 2)  # it peaks on the nose
        lower = bottom + (side_bottom - bottom) * side**2.5
        front = np.interp(top + v * (bottom - top), *_RIDGE) - self.bulge * np.sin(np.pi * np.clip(v, 0.0, 1.0))
        z = front + (_CHEEK - front) * side**self.round_
        return np.stack([self.half * u * (1 + self.flare * v), upper + v * (lower - upper), z], axis=-1)

    def drawn(self, size: int, rng: Rng) -> tuple[Image, Floats]:
        """Opacity (S, S) uint8 and gain (S, S) of what the camera sees of it."""
        u, v = np.meshgrid(np.linspace(-1, 1, 11), np.linspace(0, 1, 6))
        places = self.surface(u, v)
        corners = places[:-1, :-1], places[:-1, 1:], places[1:, 1:], places[1:, :-1]
        quads = np.stack(corners, axis=2).reshape(-1, 4, 3)
        inwards = np.cross(quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1])
        inwards /= np.maximum(np.linalg.norm(inwards, axis=1, keepdims=True), 1e-9)
        facing = inwards @ self.camera.view
        light = 0.62 + 0.45 * facing + inwards @ np.array([rng.normal(0, 0.15), rng.uniform(0.0, 0.3), 0.0])
        seen = np.flatnonzero(facing > 0)
        far = quads[seen].mean(axis=1) @ self.camera.view
        pixels = fixed(self.camera(quads))
        alpha, gain = np.zeros((size, size), np.uint8), np.full((size, size), 128, np.uint8)
        tones = np.clip(128 * light, 20, 250).tolist()
        for i in seen[np.argsort(-far)].tolist():
            cv2.fillConvexPoly(alpha, pixels[i], 255, 8, SHIFT)
            cv2.fillConvexPoly(gain, pixels[i], tones[i], 8, SHIFT)
        side = max(round(0.2 * self.half * self.camera.pixels), 1)
        return alpha, cv2.blur(gain, (side, side)) * np.float32(1 / 128)

    def line(self, canvas: Image, u: Floats, v: Floats, tone: float, width: float, below: float | None = None) -> None:
        """A line along places (N,), as wide as many pixels, where the shell does not turn away.

        Args:
            below: tone of a second line just below it, where a fold catches the light.
        """
        places = self.surface(u, v)
        forwards = places @ self.camera.view
        curve = self.camera(places[forwards < forwards.min() + self.half])
        for value, drop in ((tone, 0.0), (below, 2.5)):
            if value is not None:
                line = fixed(curve + drop * self.camera.axes[1])
                cv2.polylines(canvas, [line], False, int(value), max(round(width), 1), cv2.LINE_AA, SHIFT)

    def blots(self, canvas: Image, centres: Floats, radii: Floats | float, colour: Floats) -> None:
        """Ellipses at places (K, 2), of radii (K, 2) in shares of half the width, where it does not turn away."""
        angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        tall = (self.edges[2] - self.edges[0]) / self.half
        centres = np.atleast_2d(centres)
        rx, ry = np.broadcast_to(radii, centres.shape).T[..., None]
        u, v = centres.T[..., None]
        outlines = self.camera(self.surface(u + rx * np.cos(angles), v + ry / tall * np.sin(angles)))
        x, y = np.moveaxis(outlines, 2, 0)
        turn = (x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1)).sum(axis=1)  # clockwise as seen from outside
        cv2.fillPoly(canvas, list(fixed(outlines[turn > 0])), np.clip(colour, 0, 255).tolist(), cv2.LINE_AA, SHIFT)


def _print(shell: _Shell, canvas: Image, rng: Rng) -> None:
    """What is printed on a mask: lines of small type, a logo, dots, a mouth or the face of an animal."""
    bright = canvas.mean() > 110
    ink = rng.uniform(0, 110, 3) if bright else rng.uniform(150, 255, 3)
    kind = rng.choice(["type", "logo", "dots", "mouth", "animal"])
    x, y = rng.uniform(-0.4, 0.4), rng.uniform(0.35, 0.7)
    if kind == "type":
        rows, letters = rng.integers(1, 4), rng.integers(3, 8)
        places = np.stack(np.meshgrid(x + 0.07 * np.arange(letters), y + 0.06 * np.arange(rows)), axis=2).reshape(-1, 2)
        shell.blots(canvas, places, rng.uniform((0.015, 0.012), (0.04, 0.03), places.shape), ink)
    elif kind == "logo":
        shell.blots(canvas, np.array([x, y]), rng.uniform(0.06, 0.3, 2), ink)
        shell.blots(canvas, np.array([x, y]), rng.uniform(0.03, 0.12, 2), rng.uniform(0, 255, 3))
    elif kind == "dots":
        places = rng.uniform((-0.9, 0.05), (0.9, 0.95), (rng.integers(15, 50), 2))
        shell.blots(canvas, places, rng.uniform(0.015, 0.05, (len(places), 1)), ink)
    elif kind == "mouth":
        wide, teeth = rng.uniform(0.2, 0.6), rng.integers(2, 8)
        lips = rng.choice([(190, 40, 50), (30, 20, 25)])
        shell.blots(canvas, np.array([0, y]), wide * np.array([1, rng.uniform(0.3, 0.8)]), lips)
        places = np.stack([np.linspace(-0.6 * wide, 0.6 * wide, teeth), np.full(teeth, y)], axis=1)
        shell.blots(canvas, places, wide * np.array([0.1, 0.2]), np.full(3, 240.0))
    else:
        shell.blots(canvas, np.array([0, y + 0.1]), rng.uniform(0.25, 0.6, 2), ink)
        eyes_nose = np.array([(-0.2, y - 0.05), (0.2, y - 0.05), (0, y + 0.08)])
        shell.blots(canvas, eyes_nose, np.array([[0.07], [0.07], [0.1]]), 255 - ink)


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


def _fill(canvas: Image, outline: Floats, colour: Floats | float = 255.0) -> None:
    cv2.fillPoly(canvas, [fixed(outline)], np.asarray(colour).tolist(), cv2.LINE_AA, SHIFT)


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


@cache
def _to_head(scheme: LandmarkScheme) -> FloatArray:
    """(9, L) weights of a scheme's points, of which each of ``HEAD``'s is the mean."""
    return relation(scheme, SCHEME_68)[list(HEAD)]
