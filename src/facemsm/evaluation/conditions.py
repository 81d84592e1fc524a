"""Conditions that faces are evaluated under: perturbed boxes, painted occluders, poor photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from facemsm.data.augment import Augmentation, camera
from facemsm.data.occluders import OCCLUDERS, hide, occlude
from facemsm.data.sample import FaceSample, face_rng
from facemsm.errors import FacemsmError
from facemsm.geometry import Matrix, apply_affine, compose, perturb_box, similarity
from facemsm.imaging.warping import SAMPLING
from facemsm.schemes import LandmarkScheme
from facemsm.typing import BoolArray, FloatArray, Image


@dataclass(frozen=True)
class Perturbation:
    """Perturbs a face's box by uniform random amounts, the same for a face whatever method or part of the data is run.

    A box cannot be rotated, so the photo is, about the box's centre.

    Attributes:
        shift: at most, in box widths and heights.
        scale: the box grows or shrinks about its centre by a factor between ``1 - scale`` and ``1 + scale``.
        rotation: at most, in degrees, either way.
        seed: another seed gives other amounts.
    """

    shift: float
    scale: float
    rotation: float
    seed: int = 0

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> Perturbation:
        """Read ``shift,scale,rotation``, e.g. ``0.15,0.25,30``.

        Raises:
            FacemsmError: not three numbers, or out of range.
        """
        try:
            shift, scale, rotation = (float(word) for word in text.split(","))
        except ValueError:
            shift = scale = rotation = -1
        if not (0 <= shift < 1 and 0 <= scale < 1 and 0 <= rotation <= 180):
            raise FacemsmError(
                f"perturbation {text!r}: expected shift,scale,rotation such as 0.15,0.25,30: "
                "fractions of the box from 0 to below 1, and degrees up to 180"
            )
        return cls(shift, scale, rotation, seed)

    def apply(self, image: Image, box: FloatArray, name: str) -> tuple[Image, FloatArray, Matrix]:
        """Rotate a photo and perturb a box in it.

        Args:
            image: (H, W, 3) uint8.
            box: (4,) photo pixels.
            name: of the face; decides the amounts, together with the seed.

        Returns:
            The rotated photo, enlarged so that nothing is cut off; the box in it; the (2, 3) map from the photo to it.
        """
        rng = face_rng(name, self.seed)
        dx, dy, growth, angle = rng.uniform(-1, 1, 4) * (self.shift, self.shift, self.scale, np.deg2rad(self.rotation))
        centre = (box[:2] + box[2:]) / 2
        to_rotated = similarity(0.0)
        if angle:
            rotate = similarity(angle, centre=centre)
            height, width = image.shape[:2]
            corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) - 0.5
            rotated = apply_affine(rotate, corners)
            low = rotated.min(axis=0)
            size = np.ceil(rotated.max(axis=0) - low).astype(int)
            to_rotated = compose(similarity(shift=-low - 0.5), rotate)
            image = np.asarray(cv2.warpAffine(image, to_rotated, size.tolist(), **SAMPLING), np.uint8)
        moved = np.tile(apply_affine(to_rotated, centre[None])[0] - centre, 2)
        return image, perturb_box(box + moved, (dx, dy), 1 + growth), to_rotated


EVALUATED = ("mask", "hand", "glasses")
"""Occluders that faces are evaluated with."""


def painted(sample: FaceSample, scheme: LandmarkScheme, kinds: Sequence[str] = EVALUATED, seed: int = 0) -> FaceSample:
    """A face with one of the occluders ``kinds`` painted over it; a face's name and the seed decide which and how.

    A hand takes the place of an occluder that cannot be placed, such as glasses on a profile.

    Returns:
        The same face whose photo is painted when it is loaded. Points that were visible, or of which it was not known,
        are ``OCCLUDED`` where the occluder covers them.

    Raises:
        FacemsmError: the photo cannot be read.
    """
    _, covered = _paint(sample, scheme, kinds, seed)
    return _behind(sample, lambda: _paint(sample, scheme, kinds, seed)[0], covered)


def _behind(sample: FaceSample, load: Callable[[], Image], covered: BoolArray) -> FaceSample:
    return replace(sample, image=load, visibility=hide(sample.points, sample.visibility, covered))


COVERED_SHARE = (0.35, 0.9)
"""How much of a face is covered, from one side of its box to the other."""


def mostly_covered(sample: FaceSample, seed: int = 0) -> FaceSample:
    """A face of which a rectangle hides a large part; its name and the seed decide which, and how much.

    The rectangle is of one colour or full of noise: nothing can be seen there. Returns and visibility as for
    :func:`painted`.
    """
    rng = face_rng(sample.name, seed)
    corners = sample.box.astype(np.float64).reshape(2, 2)
    extent = corners[1] - corners[0]
    low, high = corners + np.array([[-0.15], [0.15]]) * extent
    end, axis = divmod(int(rng.integers(4)), 2)
    share, colour = rng.uniform(*COVERED_SHARE), rng.integers(0, 256, 3)
    (low if end else high)[axis] = corners[end, axis] + (-1 if end else 1) * share * extent[axis]
    low, high = np.round(low), np.round(high)
    noisy = rng.random() < 0.3

    def load() -> Image:
        photo: Image = sample.load().copy()
        x0, y0, x1, y1 = np.maximum((*low, *high), 0).astype(int)
        part = photo[y0:y1, x0:x1]
        part[:] = np.random.default_rng(seed).integers(0, 256, part.shape) if noisy else colour
        return photo

    return _behind(sample, load, ((sample.points > low - 0.5) & (sample.points < high - 0.5)).all(axis=1))


FAULTS = {
    "small": Augmentation(),
    "blur": Augmentation(blur=1, blur_sigma=(1, 8)),
    "dark": Augmentation(low_light=1, low_light_gain=(0.08, 0.5)),
    "jpeg": Augmentation(jpeg=1, jpeg_quality=(3, 25)),
}
"""What is wrong with a poor photo, in pixels of a face whose box has the last of ``SIDES``."""


SIDES = (10, 48, 107)
"""Pixels of the box's larger side: least and most in a small photo, and in others."""


def in_poor_photo(sample: FaceSample, seed: int = 0) -> FaceSample:
    """A face whose photo is small, out of focus, dark or compressed; its name and the seed decide which, and how much.

    The photo keeps its size in pixels, so that box and points stay where they are.
    """
    return replace(sample, image=lambda: _degraded(sample, seed))


def _degraded(sample: FaceSample, seed: int) -> Image:
    photo, box = sample.load(), sample.box
    rng = face_rng(sample.name, seed)
    fault = str(rng.choice(list(FAULTS)))
    least, most, usual = SIDES
    side = np.exp(rng.uniform(np.log(least), np.log(most))) if fault == "small" else usual
    size = np.array(photo.shape[1::-1])
    fewer = np.maximum(np.round(size * min(1.0, side / max(box[2] - box[0], box[3] - box[1]))), 1).astype(int)
    shrunk = np.asarray(cv2.resize(photo, fewer.tolist(), interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(camera(shrunk, FAULTS[fault], rng), size.tolist()), np.uint8)


def _paint(sample: FaceSample, scheme: LandmarkScheme, kinds: Sequence[str], seed: int) -> tuple[Image, BoolArray]:
    """The painted photo, and which points (L,) are covered."""
    photo = sample.load()
    height, width = photo.shape[:2]
    side = max(height, width)
    square = np.pad(photo, ((0, side - height), (0, side - width), (0, 0)), mode="edge")
    rng = face_rng(sample.name, seed)
    for kind in (str(rng.choice(list(kinds))), "hand"):
        image, covered = occlude(square, sample.points, scheme, {name: float(name == kind) for name in OCCLUDERS}, rng)
        if covered.any():
            break
    return np.ascontiguousarray(image[:height, :width]), covered
