"""Measure the steadiness of landmarks in videos: jitter of a still face, lag in motion, frames a second.

    python benchmarks/video.py [--photo FILE] [--frames 90] [--weights 68]

Prints Markdown. The photo (the packaged sample by default) is moved by known similarities, half of it covered in one
sequence, with sensor noise and JPEG in every frame. The truth is the prediction on the photo itself, moved in the same
way: so errors are those that motion, noise and smoothing add, not those of the model.

Jitter is the standard deviation of a point in a still face; steps are the differences from frame to frame. Lag is the
error projected on the velocity, in frames; in slow motion, what the model is off by also shows there, so the lag that
smoothing adds is given too. All in shares of the inter-ocular distance (outer eye corners) but for lag.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before any library that reads it

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facemsm.aligner import Aligner
from facemsm.apps.align import SAMPLE
from facemsm.drawing import draw_faces
from facemsm.errors import FacemsmError
from facemsm.evaluation.metrics import normaliser
from facemsm.geometry import Matrix, apply_affine, compose, similarity
from facemsm.images import read_image
from facemsm.provenance import commit, machine
from facemsm.tracking import Smoother, Tracker
from facemsm.typing import Image

Array = NDArray[np.float64]
RATE = 30.0
NOISE = 4.0  # grey levels
QUALITY = 85
SETTLED = 15  # frames after which jitter is measured


def still(_: float) -> Matrix:
    """No motion."""
    return similarity()


def drift(t: float) -> Matrix:
    """Slowly to the right: 10 % of the inter-ocular distance a second."""
    return similarity(shift=(0.1 * t, 0))


def sway(t: float) -> Matrix:
    """To and fro, turning by 14 degrees, coming closer and going away."""
    shift = (np.sin(np.pi * t), 0.33 * np.sin(1.4 * np.pi * t))
    return similarity(0.25 * np.sin(0.8 * np.pi * t), 1 + 0.15 * np.sin(0.6 * np.pi * t), shift)


def start_and_stop(t: float) -> Matrix:
    """Rests for half a second, then moves by 0.8 inter-ocular distances within another half."""
    step, within = divmod(t, 1.0)
    done = np.clip(2 * within - 1, 0, 1)
    way = done * done * (3 - 2 * done)
    return similarity(shift=(0.8 * (way if step % 2 == 0 else 1 - way), 0))


SEQUENCES: dict[str, tuple[Callable[[float], Matrix], bool]] = {
    "still": (still, False),
    "slow drift": (drift, False),
    "sway": (sway, False),
    "start and stop": (start_and_stop, False),
    "sway, something passes": (sway, True),
}


def render(photo: Image, matrix: Matrix, random: np.random.Generator, disc: tuple[Array, float] | None) -> Image:
    """A frame: the photo moved by ``matrix``, a disc (centre, radius) before it, noise and JPEG."""
    size = photo.shape[1::-1]
    frame = cv2.warpAffine(photo, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    if disc:
        (x, y), radius = disc
        cv2.circle(frame, (round(x), round(y)), round(radius), (120, 90, 70), -1, cv2.LINE_AA)
    noisy = np.clip(frame + random.normal(0, NOISE, frame.shape), 0, 255).astype(np.uint8)
    jpeg = cv2.imencode(".jpg", noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB), np.uint8)


def lag(found: Array, truth: Array) -> float:
    """Frames by which ``found`` follows ``truth``."""
    velocity = np.gradient(truth, axis=0)
    return float(-np.sum((found - truth) * velocity) / np.sum(velocity**2))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path, default=SAMPLE, help="a photo with one face")
    parser.add_argument("--frames", type=int, default=90, help="of each sequence")
    parser.add_argument("--weights", default="68")
    options = parser.parse_args()
    if options.frames < 2 * SETTLED:
        raise FacemsmError(f"--frames is {options.frames}: at least {2 * SETTLED} are needed")
    aligner = Aligner.from_pretrained(options.weights)
    photo = read_image(options.photo)
    faces = aligner.align(photo)
    if len(faces) != 1:
        raise FacemsmError(f"{options.photo}: has {len(faces)} faces; choose a photo with one")
    points = faces[0].points.astype(np.float64)
    unit = float(normaliser(points[None], aligner.scheme, "inter-ocular")[0])
    # motions are given in inter-ocular distances about the face's centre
    frame_of_face = similarity(scale=unit, shift=points.mean(axis=0))
    to_face = similarity(scale=1 / unit, shift=-points.mean(axis=0) / unit)

    print(f"{machine()}, one thread, commit {commit()}, weights {aligner.model.checksum[:12]}; face of {unit:.0f} px\n")
    print("| sequence | | jitter % | steps % | error % | of covered points % | lag, frames | added by smoothing |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    seconds = {"finding the landmarks": 0.0, "smoothing": 0.0, "drawing": 0.0}
    detections, count = 0, options.frames
    for name, (motion, passing) in SEQUENCES.items():
        random = np.random.default_rng(0)
        tracker = Tracker(aligner, smooth=False)
        raw, smooth, truth, covered = [], [], [], []
        smoother = Smoother()
        for number in range(count):
            matrix = compose(frame_of_face, compose(motion(number / RATE), to_face))
            truth.append(apply_affine(matrix, points))
            centre = apply_affine(matrix, points.mean(axis=0)[None])[0] + (
                (3 * number / count - 1.5) * unit,
                0.25 * unit,
            )
            disc = (centre, 0.45 * unit) if passing else None
            covered.append(
                np.linalg.norm(truth[-1] - centre, axis=1) < 0.45 * unit if passing else np.zeros(len(points), bool)
            )
            frame = render(photo, matrix, random, disc)
            start = time.process_time()
            found = tracker(frame)
            seconds["finding the landmarks"] += time.process_time() - start
            if [tracked.id for tracked in found] != [1]:
                raise FacemsmError(f"{name}: the face was lost in frame {number}")
            start = time.process_time()
            smooth.append(smoother(found[0].face.points, found[0].face.scores))
            seconds["smoothing"] += time.process_time() - start
            raw.append(found[0].face.points)
            start = time.process_time()
            draw_faces(frame, [found[0].face], aligner.scheme)
            seconds["drawing"] += time.process_time() - start
        detections += tracker.detections
        target, hidden, alone = np.array(truth), np.array(covered), np.array(raw, np.float64)
        for label, values in (("each frame alone", raw), ("smoothed", smooth)):
            got = np.array(values, np.float64)
            offset = (got - target)[SETTLED:] / unit
            distance = np.linalg.norm(got - target, axis=-1) / unit
            cells = [
                f"{100 * offset.std(axis=0).mean():.2f}" if motion is still else "",
                f"{100 * np.diff(offset, axis=0).std():.2f}" if motion is still else "",
                f"{100 * distance.mean():.2f}",
                f"{100 * distance[hidden].mean():.2f}" if passing else "",
                "" if motion is still else f"{lag(got, target):.2f}",
                f"{lag(got, target) - lag(alone, target):.2f}" if motion is not still and values is smooth else "",
            ]
            print(f"| {name} | {label} | {' | '.join(cells)} |")
    total = count * len(SEQUENCES)
    print(f"\n| step | CPU ms a frame of {photo.shape[1]}x{photo.shape[0]} |\n|---|---:|")
    for step, spent in seconds.items():
        print(f"| {step} | {1000 * spent / total:.1f} |")
    print(f"\n{total / sum(seconds.values()):.0f} frames a second; the detector ran in {detections} of {total} frames.")


if __name__ == "__main__":
    try:
        main()
    except FacemsmError as error:
        sys.exit(f"benchmark: {error}")
