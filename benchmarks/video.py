"""Measure the steadiness of landmarks in videos: jitter of a still face, lag in motion, frames per second.

    python benchmarks/video.py [--photo FILE] [--frames 90] [--weights 68]
    python benchmarks/video.py --data DATA_ROOT [--limit 12]

Prints Markdown. A photo is moved by known maps, with sensor noise and JPEG in every frame; in one sequence something
passes before the face. The truth is the prediction on the photo itself, moved in the same way: so errors are those that
motion, noise and smoothing add, not those of the model.

The first call moves the packaged sample in the sequences that the constants of ``facemsm.video.tracking`` were
chosen on.
The second is the check: other faces (``aflw2000``, split val), other motions, a talking mouth, other noise and an
occluder of another shape, none of which were looked at in choosing. Its rows are means over the photos; one in which
the tracker does not see exactly the one face in every frame is left out of its row, which says how many are in it.

Jitter is the standard deviation of a point in a still face; steps are the differences from frame to frame. Lag is the
error projected on the velocity, in frames; in slow motion, what the model is off by also shows there, so the lag that
smoothing adds is given too. All in shares of the face's size (root of the tight box's area) but for lag.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before any library that reads it

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from facemsm import load_dataset
from facemsm.aligner import Aligner
from facemsm.assets import SAMPLE
from facemsm.data.sample import evenly_chosen
from facemsm.errors import FacemsmError
from facemsm.geometry import Matrix, apply_affine, box_scale, compose, invert, similarity
from facemsm.imaging.drawing import draw_faces
from facemsm.imaging.io import read_image
from facemsm.provenance import commit, machine
from facemsm.typing import Image
from facemsm.video.tracking import Smoother, Tracker

Array = NDArray[np.float64]
RATE = 30.0
SETTLED = 15  # frames after which jitter is measured


# Motions: seconds to a similarity in face sizes about the face's centre


def still(_: float) -> Matrix:
    """No motion."""
    return similarity()


def drift(t: float) -> Matrix:
    """Slowly to the right."""
    return similarity(shift=(0.06 * t, 0))


def sway(t: float) -> Matrix:
    """To and fro, turning by 14 degrees, coming closer and going away."""
    shift = (0.59 * np.sin(np.pi * t), 0.195 * np.sin(1.4 * np.pi * t))
    return similarity(0.25 * np.sin(0.8 * np.pi * t), 1 + 0.15 * np.sin(0.6 * np.pi * t), shift)


def start_and_stop(t: float) -> Matrix:
    """Rests for half a second, then moves by half a face within another half."""
    step, within = divmod(t, 1.0)
    done = np.clip(2 * within - 1, 0, 1)
    way = done * done * (3 - 2 * done)
    return similarity(shift=(0.47 * (way if step % 2 == 0 else 1 - way), 0))


def shaken(t: float) -> Matrix:
    """A camera in the hand: small, at several rates at once."""
    rates = np.array([1.3, 2.9, 4.7])
    x, y, turn = (0.02 * np.sin(2 * np.pi * rates * t + phase).sum() for phase in (0.0, 1.0, 2.0))
    return similarity(0.5 * turn, 1.0, (x, y))


def nod(t: float) -> Matrix:
    """Down and up three times in two seconds, the head tilting the other way at half that rate."""
    return similarity(0.3 * np.sin(1.5 * np.pi * t), 1.0, (0, 0.15 * np.sin(3 * np.pi * t)))


def approach(t: float) -> Matrix:
    """From afar to near, along an arc, in three seconds."""
    return similarity(0.1 * t, 0.7 * 1.25**t, (0.4 * np.cos(t) - 0.3, 0.1 * t))


class Take(NamedTuple):
    """What a photo goes through: a motion, grey levels of noise, JPEG quality, what passes, how far the mouth opens."""

    motion: Callable[[float], Matrix]
    noise: float = 4.0
    quality: int = 85
    passing: str = ""
    talk: float = 0.0


CHOSEN_ON = {
    "still": Take(still),
    "slow drift": Take(drift),
    "sway": Take(sway),
    "start and stop": Take(start_and_stop),
    "sway, a disc passes": Take(sway, passing="disc"),
}
HELD_OUT = {
    "still, more noise": Take(still, 8.0, 70),
    "shaken": Take(shaken, 2.0, 92),
    "nod": Take(nod, 6.0, 75),
    "approach": Take(approach, 6.0, 75),
    "still but talking": Take(still, 6.0, 75, talk=0.06),
    "shaken, a bar passes": Take(shaken, 6.0, 75, "bar"),
}


def displacement(points: Array, mouth: Array, size: float, take: Take, t: float) -> Array:
    """(..., 2) pixels by which a talking mouth moves points (..., 2) of the photo: for a second in every two."""
    opened = 0.5 - 0.5 * np.cos(6 * np.pi * t) if t % 2 < 1 else 0.0
    near = np.exp(-np.sum((points - mouth - (0, 0.1 * size)) ** 2, axis=-1) / (2 * (0.2 * size) ** 2))
    return np.asarray(near[..., None] * (0, take.talk * size * opened))


def occluder(kind: str, centre: Array, size: float) -> tuple[Callable[[Array], Array], Callable[[Image], None]]:
    """What passes: which points (L, 2) it covers, and how it is drawn."""
    if kind == "disc":
        radius = 0.27 * size

        def draw_disc(frame: Image) -> None:
            cv2.circle(frame, tuple(np.round(centre).astype(int)), round(radius), (120, 90, 70), -1, cv2.LINE_AA)

        return lambda points: np.linalg.norm(points - centre, axis=1) < radius, draw_disc
    half = 0.1 * size

    def draw_bar(frame: Image) -> None:
        left, right = np.clip(np.round((centre[0] - half, centre[0] + half)), 0, frame.shape[1]).astype(int)
        frame[:, left:right] = (40, 70, 60)

    return lambda points: np.abs(points[:, 0] - centre[0]) < half, draw_bar


def lag(found: Array, truth: Array) -> float:
    """Frames by which ``found`` follows ``truth``."""
    velocity = np.gradient(truth, axis=0)
    return float(-np.sum((found - truth) * velocity) / np.sum(velocity**2))


class Benchmark:
    """Moves photos and follows their faces; ``seconds`` is what the steps cost on the CPU."""

    def __init__(self, aligner: Aligner, frames: int) -> None:
        self.aligner, self.frames = aligner, frames
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.counts: Counter[str] = Counter()

    def __call__(self, photo: Image, points: Array, take: Take) -> Array | None:
        """:func:`figures` of each frame alone and smoothed, (2, 5); None if the face was lost."""
        random = np.random.default_rng(0)
        size = float(box_scale(points))
        mouth = points[list(self.aligner.scheme.mouth)].mean(axis=0)
        middle = points.mean(axis=0)
        from_face, to_face = similarity(scale=size, shift=middle), similarity(scale=1 / size, shift=-middle / size)
        grid = np.stack(np.meshgrid(np.arange(photo.shape[1]), np.arange(photo.shape[0])), axis=-1).astype(np.float64)
        tracker, smoother = Tracker(self.aligner, smooth=False), Smoother()
        raw, smooth, truth, hidden = [], [], [], []
        for number in range(self.frames):
            t = number / RATE
            matrix = compose(from_face, compose(take.motion(t), to_face))
            moved = points
            for _ in range(30):  # where the points are that the picture is taken back from
                moved = points + displacement(moved, mouth, size, take, t)
            truth.append(apply_affine(matrix, moved))
            still_face = apply_affine(invert(matrix), grid)
            source = (still_face - displacement(still_face, mouth, size, take, t)).astype(np.float32)
            x, y = np.ascontiguousarray(np.moveaxis(source, -1, 0))
            frame = np.asarray(cv2.remap(photo, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT), np.uint8)
            hidden.append(np.zeros(len(points), bool))
            if take.passing:
                way = (0.89 * size * (2 * number / self.frames - 1), 0.15 * size)
                covers, draw = occluder(take.passing, apply_affine(matrix, middle[None])[0] + way, size)
                hidden[-1] = covers(truth[-1])
                draw(frame)
            noisy = np.clip(frame + random.normal(0, take.noise, frame.shape), 0, 255).astype(np.uint8)
            jpeg = cv2.imencode(".jpg", noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, take.quality])[1]
            frame = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB), np.uint8)

            start = time.process_time()
            found = tracker(frame)
            self.seconds["finding the landmarks"] += time.process_time() - start
            if [tracked.id for tracked in found] != [1]:
                return None
            face = found[0].face
            start = time.process_time()
            smooth.append(smoother(face.points, face.scores))
            self.seconds["smoothing"] += time.process_time() - start
            raw.append(face.points)
            start = time.process_time()
            draw_faces(frame, [face], self.aligner.scheme)
            self.seconds["drawing"] += time.process_time() - start
        self.counts += Counter(frames=self.frames, detections=tracker.detections)
        target, covered = np.array(truth), np.array(hidden)
        return np.array([figures(np.array(got, np.float64), target, covered, size, take) for got in (raw, smooth)])


def figures(got: Array, truth: Array, hidden: NDArray[np.bool_], size: float, take: Take) -> list[float]:
    """Of points (T, L, 2): jitter, steps, error, error of covered points, in % of the face's size; lag in frames."""
    offset = 100 * (got - truth) / size
    distance = np.linalg.norm(offset, axis=-1)
    resting = take.motion is still and not take.talk
    return [
        offset[SETTLED:].std(axis=0).mean() if resting else np.nan,
        np.diff(offset[SETTLED:], axis=0).std() if resting else np.nan,
        distance.mean(),
        distance[hidden].mean() if hidden.any() else np.nan,
        np.nan if resting else lag(got, truth),
    ]


def faces_of(options: argparse.Namespace, aligner: Aligner) -> list[tuple[Image, Array]]:
    """Photos with one face, and its points."""
    if options.data:
        there = load_dataset("aflw2000", options.data / "aflw2000", "val")
        photos = [sample.load() for sample in evenly_chosen(there, options.limit)]
    else:
        photos = [read_image(options.photo)]
    found = [(photo, aligner.align(photo)) for photo in photos]
    single = [(photo, faces[0].points.astype(np.float64)) for photo, faces in found if len(faces) == 1]
    if not single:
        raise FacemsmError("no photo has just one face; choose others")
    return single


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path, default=SAMPLE, help="a photo with one face")
    parser.add_argument("--data", type=Path, help="folder with the data set aflw2000: the check")
    parser.add_argument("--limit", type=int, default=12, help="so many faces of --data, evenly chosen")
    parser.add_argument("--frames", type=int, default=90, help="of each sequence")
    parser.add_argument("--weights", default="68")
    options = parser.parse_args()
    if options.frames < 2 * SETTLED:
        raise FacemsmError(f"--frames is {options.frames}: at least {2 * SETTLED} are needed")
    aligner = Aligner.from_pretrained(options.weights)
    faces = faces_of(options, aligner)
    takes = HELD_OUT if options.data else CHOSEN_ON
    photos = f"{len(faces)} photos of aflw2000, val, with one face found" if options.data else options.photo.name
    print(f"{machine()}, one thread, commit {commit()}, weights {aligner.model.checksum[:12]}; {photos}\n")
    columns = "jitter % | steps % | error % | of covered points % | lag, frames | added by smoothing"
    print(f"| sequence | photos | | {columns} |")
    print("|---|---:|---|---:|---:|---:|---:|---:|---:|")
    benchmark = Benchmark(aligner, options.frames)
    for name, take in takes.items():
        results = [result for face in faces if (result := benchmark(*face, take)) is not None]
        if not results:
            raise FacemsmError(f"{name}: the face was lost in every photo")
        alone, smoothed = np.mean(results, axis=0)
        rows = (("each frame alone", [*alone, np.nan]), ("smoothed", [*smoothed, smoothed[-1] - alone[-1]]))
        for label, values in rows:
            cells = " | ".join("" if np.isnan(value) else f"{value:.2f}" for value in values)
            print(f"| {name} | {len(results)} | {label} | {cells} |", flush=True)
    total = benchmark.counts["frames"]
    print("\n| step | CPU ms per frame |\n|---|---:|")
    for step, spent in benchmark.seconds.items():
        print(f"| {step} | {1000 * spent / total:.1f} |")
    rate = total / sum(benchmark.seconds.values())
    print(f"\n{rate:.0f} frames per second; the detector ran in {benchmark.counts['detections']} of {total} frames.")


if __name__ == "__main__":
    try:
        main()
    except FacemsmError as error:
        sys.exit(f"benchmark: {error}")
