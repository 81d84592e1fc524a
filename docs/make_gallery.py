#!/usr/bin/env python3
"""Make the gallery's pictures from the free photos in docs/pictures/gallery: python docs/make_gallery.py.

``docs/gallery.md`` says whose they are, and why they may be shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Pictures

from facemsm import Aligner, draw_faces
from facemsm.assets import SAMPLE
from facemsm.batch.pipeline import enlarged
from facemsm.data.occluders import OCCLUDERS, occlude
from facemsm.geometry import apply_affine, box_to_crop, tight_box
from facemsm.imaging.io import read_image
from facemsm.imaging.warping import warp
from facemsm.typing import Image

PICTURES = Path(__file__).resolve().parent / "pictures"
PHOTOS = PICTURES / "gallery"
SIDE = 300
"""Pixels of a panel's side."""

PORTRAITS = ("elizabeth", "geronimo", "pierre", "manuel", "william", "frederik", "segoyewatha", "atahualpa")


def main() -> None:
    """Write all pictures, and print what stands below them."""
    aligner = Aligner.from_pretrained()
    photos = {path.stem: read_image(path) for path in sorted(PHOTOS.glob("*.jpg"))}
    sample = read_image(SAMPLE)
    (face,) = aligner.align(sample)
    view = box_to_crop(face.box, 2 * SIDE)
    close, points = warp(sample, view, 2 * SIDE), apply_affine(view, face.points).astype(np.float32)

    def behind(kind: str, seed: int) -> Image:
        odds = {name: float(name == kind) for name in OCCLUDERS}
        return occlude(close, points, aligner.scheme, odds, np.random.default_rng(seed))[0]

    strips = {
        "profile": [photos["camera"], photos["atahualpa"], photos["segoyewatha"]],
        "mask": [behind("mask", 3), behind("glasses", 1), behind("hand", 5)],
        "night": [at_night(close, light) for light in (0.2, 0.08, 0.03)],
        "motion": [in_motion(close, length) for length in (30, 60, 120)],
        "painting": [photos["elizabeth"], photos["pierre"], photos["frederik"]],
    }
    for kind, images in strips.items():
        save(kind, np.hstack([panel(aligner, image, kind) for image in images]))

    sheet, count = crowd([photos[name] for name in PORTRAITS])
    faces = aligner.align(sheet)
    good = sum(face.score >= 0.5 for face in faces)
    drawn = draw_faces(*enlarged(sheet, faces), aligner.scheme)
    height, width = (round(1000 / drawn.shape[1] * side) for side in drawn.shape[:2])
    shrunk = np.asarray(cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    save("crowd", captioned(shrunk, f"{count} portraits: {len(faces)} faces found, {good} score 0.5 or more", "crowd"))


def panel(aligner: Aligner, image: Image, kind: str) -> Image:
    """The best face that is found, with its landmarks and score; the whole picture if none is."""
    faces = aligner.align(image)
    if not faces:
        height, width = image.shape[:2]
        view = box_to_crop(np.array([0, 0, width - 1, height - 1], np.float32), SIDE, enlargement=1)
        return captioned(warp(image, view, SIDE), "no face found", kind)
    face = faces[0]
    view = box_to_crop(tight_box(face.points), SIDE)
    points = apply_affine(view, face.points).astype(np.float32)
    text = f"score {face.score:.2f}, {face.occluded.sum()} of {len(points)} hidden"
    return captioned(replace(face, points=points).draw(warp(image, view, SIDE)), text, kind)


def captioned(image: Image, text: str, kind: str) -> Image:
    """The picture above a line of text."""
    print(f"{kind}: {text}")
    line = np.full((24, image.shape[1], 3), 255, np.uint8)
    cv2.putText(line, text, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
    return np.vstack([image, line])


def save(kind: str, image: Image) -> None:
    """Write a picture, smaller than ``write_image`` would."""
    Pictures.fromarray(image).save(PICTURES / f"gallery-{kind}.jpg", quality=82, optimize=True)


def at_night(image: Image, light: float) -> Image:
    """A photo with so little of its light, and a sensor's noise, which a camera amplifies twofold at most."""
    rng = np.random.default_rng(0)
    dark = rng.poisson(image.astype(np.float64) * light) + rng.normal(0, 2, image.shape)
    return np.clip(dark * 2, 0, 255).astype(np.uint8)


def in_motion(image: Image, length: int) -> Image:
    """A photo moved along a slant by so many pixels during its exposure."""
    kernel = np.zeros((length, length), np.float32)
    cv2.line(kernel, (0, int(0.7 * length)), (length - 1, int(0.3 * length)), 1.0)
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.uint8)


def crowd(portraits: Sequence[Image], width: int = 1000) -> tuple[Image, int]:
    """Rows of smaller and smaller portraits, and how many they are."""
    rows, count, source = [], 0, cycle(portraits)
    for height in (200, 140, 100, 70):
        row: list[Image] = []
        while sum(tile.shape[1] for tile in row) < width:
            tile = next(source)
            side = round(tile.shape[1] * height / tile.shape[0])
            row.append(np.asarray(cv2.resize(tile, (side, height), interpolation=cv2.INTER_AREA), np.uint8))
        rows.append(np.hstack(row[:-1]))
        count += len(row) - 1
    narrowest = min(row.shape[1] for row in rows)
    return np.vstack([row[:, :narrowest] for row in rows]), count


if __name__ == "__main__":
    main()
