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
from facemsm.runtime.model import load_model
from facemsm.schemes import LandmarkScheme, get_scheme
from facemsm.shapes.measures import recognition_crop
from facemsm.typing import FloatArray, Image

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

    means = {name: load_model(name).prior() for name in ("68", "98")}
    shapes = {name: prior.mean for name, prior in means.items() if prior}
    shapes["29"] = np.stack([shapes["68"][list(near)].mean(axis=0) for near in get_scheme("29").from_68])
    shapes["29"][4:8] = shapes["98"][[35, 40, 44, 48]]  # the 68 have no lower edges of the brows
    for name, shape in shapes.items():
        (PICTURES / f"points-{name}.svg").write_text(chart(get_scheme(name), shape), encoding="utf-8")

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


def chart(scheme: LandmarkScheme, shape: FloatArray) -> str:
    """The points (L, 2) of a scheme as SVG, each with its number, and its name where the pointer rests on it."""
    width = 900
    points = (shape - shape.min(axis=0)) * ((width - 100) / np.ptp(shape[:, 0])) + 50
    height = float(points[:, 1].max()) + 50
    taken = points.tolist()
    lines = "".join(
        f"M{points[a, 0]:.0f} {points[a, 1]:.0f}L{points[b, 0]:.0f} {points[b, 1]:.0f}" for a, b in scheme.edges
    )
    marks = []
    for i, (x, y) in enumerate(points):
        # of the places around a point, the one with most room, rather away from the middle
        around = [(x + 15 * np.cos(turn), y + 13 * np.sin(turn)) for turn in np.arange(0, 2 * np.pi, np.pi / 8)]
        others = np.array(taken[:i] + taken[i + 1 :])
        room = [
            np.sort(np.hypot(*(others - place).T / ((1.3,), (1.0,))))[:2] @ (1, 0.2)
            + 0.2 * np.hypot(*(place - points.mean(axis=0)))
            for place in around
        ]
        text_x, text_y = around[int(np.argmax(room))]
        taken.append([text_x, text_y])
        marks.append(
            f'<g><title>{i}: {scheme.names[i]}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
            f'<text x="{text_x:.1f}" y="{text_y + 4.5:.1f}">{i}</text></g>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" font-family="sans-serif" '
        f'font-size="14" text-anchor="middle">\n<rect width="{width}" height="{height:.0f}" fill="#fff"/>\n'
        f'<path d="{lines}" stroke="#bbb" fill="none"/>\n<g fill="#4a148c">\n' + "\n".join(marks) + "\n</g>\n</svg>\n"
    )


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
            page.fill("#contour", "0.9")
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
