"""Crops a second that augmentation prepares, on one core and on two; prints Markdown.

    python benchmarks/augment.py [--photo 400] [--size 128] [--seconds 4]

Photos are synthetic and in memory: decoding JPEG is not part of the figure.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import time
from datetime import date

import cv2
import numpy as np

from facemsm.data.augment import Augmentation, augment_crop, jitter_matrix, take_crop
from facemsm.geometry import box_to_crop, compose
from facemsm.provenance import commit, machine
from facemsm.schemes import SCHEME_68
from facemsm.typing import FloatArray, Image

SETTINGS = {"paper": Augmentation.paper(), "full": Augmentation.full()}


def sample(side: int, rng: np.random.Generator) -> tuple[Image, FloatArray, FloatArray]:
    """A mottled photo with 68 points where a face of half its side would have them, and its box."""
    photo = cv2.resize(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8), (side, side))
    points = rng.uniform(0.35, 0.65, (68, 2))
    for group, centre in ((SCHEME_68.right_eye, (0.4, 0.42)), (SCHEME_68.left_eye, (0.6, 0.42))):
        points[list(group)] = centre + rng.uniform(-0.02, 0.02, (len(group), 2))
    points[list(SCHEME_68.mouth)] = rng.uniform((0.45, 0.6), (0.55, 0.66), (20, 2))
    angles = np.linspace(np.pi, 0, 17)
    points[:17] = np.stack([0.5 + 0.24 * np.cos(angles), 0.43 + 0.32 * np.sin(angles)], axis=1)
    box = np.array([0.26, 0.3, 0.74, 0.76], np.float32) * side
    return np.asarray(photo, np.uint8), (points * side).astype(np.float32), box


def work(setting: str, photo: int, size: int, seconds: float, seed: int) -> tuple[int, float, float]:
    """Number of crops made in about ``seconds``, the time it took, and the processor's share of it."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(seed)
    faces = [sample(photo, rng) for _ in range(16)]
    augmentation = SETTINGS[setting]
    count, start, busy = -50, time.perf_counter(), time.process_time()
    while count < 0 or time.perf_counter() - start < seconds:
        if count == 0:  # the first ones warmed up
            start, busy = time.perf_counter(), time.process_time()
        image, points, box = faces[count % len(faces)]
        jitter, flipped = jitter_matrix(augmentation, rng, size)
        matrix = compose(jitter, box_to_crop(box, size))
        crop = take_crop(image, points, None, matrix, size, flip_table=SCHEME_68.flip, flipped=flipped)
        augment_crop(crop, augmentation, rng, SCHEME_68)
        count += 1
    return count, time.perf_counter() - start, time.process_time() - busy


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="crops per second that augmentation prepares")
    parser.add_argument("--photo", type=int, default=400, help="side of the photo in pixels")
    parser.add_argument("--size", type=int, default=128, help="side of the crop in pixels")
    parser.add_argument("--seconds", type=float, default=4.0, help="time spent on each figure")
    args = parser.parse_args()

    print(f"Augmentation, {args.photo} px photo in memory to {args.size} px crop, decoding left out.")
    load = f"load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else "load unknown"
    print(f"{machine()}, {load}; Python {platform.python_version()}, ", end="")
    print(f"NumPy {np.__version__}, OpenCV {cv2.__version__}; commit {commit()}; {date.today()}.\n")
    print("| setting | processes | crops/s | ms/crop, one process | processor time, ms/crop |")
    print("|---|---|---|---|---|")
    for setting in SETTINGS:
        for processes in (1, 2):
            jobs = [(setting, args.photo, args.size, args.seconds, seed) for seed in range(processes)]
            with multiprocessing.get_context("spawn").Pool(processes) as pool:
                results = pool.starmap(work, jobs, chunksize=1)
            rate = sum(count / elapsed for count, elapsed, _ in results)
            each, busy = (1e3 * np.mean([row[k] / row[0] for row in results]) for k in (1, 2))
            print(f"| {setting} | {processes} | {rate:.0f} | {each:.2f} | {busy:.2f} |")


if __name__ == "__main__":
    main()
