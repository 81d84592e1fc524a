#!/usr/bin/env python3
"""Make the documentation's pictures from the bundled sample photo: python docs/make_pictures.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from facemsm import Aligner
from facemsm.face import Face
from facemsm.geometry import Matrix, apply_affine, box_to_crop
from facemsm.images import read_image, write_image
from facemsm.measures import recognition_crop
from facemsm.typing import Image
from facemsm.warping import warp

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
SIDE = 320
"""Pixels of a panel's side."""


def main() -> None:
    """Write all pictures."""
    photo = read_image(ROOT / "src/facemsm/apps/sample.jpg")
    aligner = Aligner.from_pretrained(keep=("heatmaps", "canonical"))
    (face,) = aligner.align(photo)
    view = box_to_crop(face.box, SIDE)
    write_image(PICTURES / "landmarks.jpg", drawn(photo, face, view))
    write_image(PICTURES / "recognition.jpg", recognition_crop(photo, face.points))
    (PICTURES / "sketch.svg").write_text(face._repr_html_().split("<div>")[0] + "\n", encoding="utf-8")

    # Side by side: stage 1's crop, the canonical face, the brightest of the heatmaps, the landmarks.
    assert face.heatmaps is not None
    assert face.canonical is not None
    heat = np.round(np.clip(face.heatmaps.max(axis=0), 0, 1) * 255).astype(np.uint8)
    bright = cv2.cvtColor(cv2.applyColorMap(heat, cv2.COLORMAP_PLASMA), cv2.COLOR_BGR2RGB)
    middle = [cv2.resize(panel, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) for panel in (face.canonical, bright)]
    write_image(PICTURES / "stages.jpg", np.hstack([warp(photo, view, SIDE), *middle, drawn(photo, face, view)]))

    # The same face in the same box, a quarter of it behind a board.
    hidden = photo.copy()
    x0, y0, x1, y1 = face.box.astype(int)
    hidden[(y0 + y1) // 2 + 10 : y1 + 12, x0 - 12 : (x0 + x1) // 2] = (60, 90, 80)
    (behind,) = aligner.align(hidden, [face.box])
    write_image(PICTURES / "hidden.jpg", drawn(hidden, behind, view))


def drawn(photo: Image, face: Face, view: Matrix) -> Image:
    """The part of the photo that ``view`` shows, with the landmarks, which are drawn after enlarging."""
    points = apply_affine(view, face.points).astype(np.float32)
    return replace(face, points=points).draw(warp(photo, view, SIDE))


if __name__ == "__main__":
    main()
