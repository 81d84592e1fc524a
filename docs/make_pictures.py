#!/usr/bin/env python3
"""Make the documentation's pictures from the bundled sample photo: python docs/make_pictures.py.

That of the page in the browser needs the extras ``serve`` and ``browser``, and a Chromium; it is left as it is without.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from facemsm import Aligner
from facemsm.face import Face
from facemsm.geometry import Matrix, apply_affine, box_to_crop
from facemsm.imaging.io import read_image, write_image
from facemsm.imaging.warping import warp
from facemsm.shapes.measures import recognition_crop
from facemsm.typing import Image

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
SIDE = 320
"""Pixels of a panel's side."""


def main() -> None:
    """Write all pictures."""
    photo = read_image(ROOT / "src/facemsm/assets/sample.jpg")
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
    write_image(PICTURES / "failures.jpg", np.hstack([*failures(aligner, photo, face, view)]))
    photograph_page(PICTURES / "page.jpg")


def failures(aligner: Aligner, photo: Image, face: Face, view: Matrix) -> Iterator[Image]:
    """What the model fails on: the same face of 6 px, out of focus, three quarters hidden."""
    x0, y0, x1, y1 = face.box.astype(int)
    covered = photo.copy()
    covered[y0 + (y1 - y0) // 4 : y1 + 12, x0 - 12 : x1 + 12] = (60, 90, 80)
    tiny = 6 / (x1 - x0)
    small = cv2.resize(photo, None, fx=tiny, fy=tiny, interpolation=cv2.INTER_AREA)
    disturbed = {
        "6 px": np.asarray(cv2.resize(small, photo.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8),
        "out of focus": np.asarray(cv2.GaussianBlur(photo, (0, 0), 8), np.uint8),
        "three quarters hidden": covered,
    }
    eyes = np.linalg.norm(np.subtract(*face.points[list(aligner.scheme.eye_corners)]))
    for name, image in disturbed.items():
        (found,) = aligner.align(image, [face.box])
        error = 100 * np.linalg.norm(found.points - face.points, axis=1).mean() / eyes
        print(
            f"{name}: {error:.1f} % of the inter-ocular distance from the clear photo's points, "
            f"mean score {found.scores.mean():.2f} against {face.scores.mean():.2f}"
        )
        yield drawn(image, found, view)


def drawn(photo: Image, face: Face, view: Matrix) -> Image:
    """The part of the photo that ``view`` shows, with the landmarks, which are drawn after enlarging."""
    points = apply_affine(view, face.points).astype(np.float32)
    return replace(face, points=points).draw(warp(photo, view, SIDE))


def photograph_page(path: Path) -> None:
    """The page of ``facemsm serve`` with the sample photo, a threshold moved."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        chromium = None
    if chromium is None:
        print(f"{path}: left as it is; it needs playwright and a Chromium", file=sys.stderr)
        return
    command = [sys.executable, "-m", "facemsm", "serve", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium)
            page = browser.new_page(viewport={"width": 1200, "height": 800}, color_scheme="light")
            page.goto(server.stdout.readline().split()[1])
            page.click(".target [data-do=sample]")
            page.click("#zoom")
            page.check("#methods [value=paper]")
            page.fill("#contour", "0.85")
            page.wait_for_function("() => /moved/.test(document.querySelector('#moved').textContent)")
            page.wait_for_load_state("networkidle")
            page.locator("#point-54").hover()
            page.screenshot(path=str(path), full_page=True, type="jpeg", quality=80)
            browser.close()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


if __name__ == "__main__":
    main()
