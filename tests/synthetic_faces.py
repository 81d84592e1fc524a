"""Drawn faces with exact landmarks, for tests of training: what is where is known to a fraction of a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from facemsm.data.coco import write_coco
from facemsm.data.sample import FaceSample
from facemsm.geometry import Matrix, apply_affine, perturb_box, similarity, tight_box
from facemsm.imaging.io import write_image
from facemsm.schemes import get_scheme
from facemsm.typing import FloatArray, Image

SIDE = 160


def _arc(centre: tuple[float, float], radii: tuple[float, float], degrees: Sequence[float]) -> FloatArray:
    turn = np.deg2rad(degrees)
    return np.asarray(np.stack((np.cos(turn), np.sin(turn)), axis=1) * radii + centre, np.float32)


def mean_shape(smile: float = 0.0, length: float = 1.0) -> FloatArray:
    """A symmetric 68-point face about the middle between its eyes, in eye distances; (68, 2)."""
    contour = _arc((0, 0), (1.15, 1.75 * length), np.linspace(180, 0, 17).tolist())
    brows = [_arc((side * 0.55, -0.2), (0.42, 0.25), [200, 235, 270, 305, 340]) for side in (-1, 1)]
    bridge = np.column_stack((np.zeros(4), np.linspace(0, 0.55, 4)))
    base = np.column_stack((np.linspace(-0.25, 0.25, 5), 0.68 + 0.05 * np.array([0, 1, 1.5, 1, 0])))
    eye = [180, 240, 300, 0, 60, 120]  # y points down: 240 and 300 degrees are the upper lid
    eyes = [_arc((side * 0.5, 0), (0.24, 0.11), eye) for side in (-1, 1)]
    mouth = (0, 1.15 * length)
    outer = _arc(mouth, (0.45 + smile, 0.18), [180, 210, 240, 270, 300, 330, 0, 30, 60, 90, 120, 150])
    inner = _arc(mouth, (0.35 + smile, 0.07), [180, 225, 270, 315, 0, 45, 90, 135])
    return np.concatenate([contour, *brows, bridge, base, *eyes, outer, inner]).astype(np.float32)


def draw_face(shape: FloatArray, placement: Matrix, tone: int = 0) -> tuple[Image, FloatArray]:
    """A photo of ``shape`` moved by ``placement``, and its points in photo pixels."""
    points = apply_affine(placement, shape).astype(np.float32)
    y, x = np.mgrid[:SIDE, :SIDE]
    image = np.stack((x / 2 + 30, y / 2 + 60 - tone, (x + y) / 4 + 40 + tone), axis=-1).astype(np.uint8)

    def fixed(group: FloatArray) -> FloatArray:
        return np.round(group * 16).astype(np.int32)

    forehead = apply_affine(placement, _arc((0, 0), (1.15, 0.9), np.linspace(0, -180, 17).tolist()))
    outline = np.concatenate((points[:17], forehead.astype(np.float32)))
    polygons = (
        (outline, (225 - tone, 180, 150)),
        (points[36:42], (250, 250, 250)),
        (points[42:48], (250, 250, 250)),
        (points[48:60], (170, 40, 60 + tone)),
        (points[60:68], (60, 10, 10)),
        (points[31:36], (120, 80, 60)),
    )
    for group, colour in polygons:
        cv2.fillPoly(image, [fixed(group)], colour, cv2.LINE_AA, 4)
    for first, last in ((17, 22), (22, 27), (27, 31)):
        cv2.polylines(image, [fixed(points[first:last])], False, (70, 50, 40), 2, cv2.LINE_AA, 4)
    for eye in (points[36:42], points[42:48]):
        cv2.circle(image, fixed(eye.mean(axis=0)).tolist(), 2 * 16, (20, 30, 60), cv2.FILLED, cv2.LINE_AA, 4)
    return image, points


def write_faces(folder: Path, count: int) -> list[FaceSample]:
    """Different faces as photos and ``train.json`` in ``folder``; every face of a fixed seed.

    The provided boxes (``box``) are off a little, as a detector's are.
    """
    rng = np.random.default_rng(5)
    samples = []
    for i in range(count):
        shape = mean_shape(rng.uniform(-0.15, 0.15), rng.uniform(0.85, 1.1))
        centre = SIDE / 2 + rng.uniform(-6, 6, 2) - (0, 12)
        placement = similarity(rng.uniform(-0.35, 0.35), rng.uniform(26, 34), centre)
        image, points = draw_face(shape, placement, int(rng.integers(0, 40)))
        path = folder / "images" / f"face_{i}.png"
        write_image(path, image)
        box = perturb_box(tight_box(points), rng.uniform(-0.06, 0.06, 2), rng.uniform(0.95, 1.15))
        samples.append(FaceSample(path.name, path, box, "provided", points))
    write_coco(samples, folder / "train.json", get_scheme("68"))
    return samples
