"""How fast ``facemsm align`` goes through a folder on one and on more threads, and whether its memory stays flat.

    python benchmarks/folder.py [--photos 300] [--threads 2] [--flat 10000] [--source FOLDER] [--scratch FOLDER]

Prints Markdown. The folder is made for the run: hard links to JPEGs, ten sizes of the sample photo with one face each,
or the photos of ``--source``. Runs on one and on more threads take turns; the fastest of each counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import cv2
import numpy as np

from facemsm.assets import SAMPLE
from facemsm.imaging.io import IMAGE_SUFFIXES, read_image, write_image
from facemsm.provenance import commit, machine


@dataclass(frozen=True)
class Run:
    """What one run of the command took."""

    seconds: float
    cpu: float
    megabytes: float


def originals(folder: Path) -> list[Path]:
    """Ten sizes of the sample photo, longest side 250 to 2500 pixels."""
    folder.mkdir()
    sample = read_image(SAMPLE)
    for longest in range(250, 2501, 250):
        factor = longest / max(sample.shape[:2])
        write_image(folder / f"{longest}.jpg", np.asarray(cv2.resize(sample, None, fx=factor, fy=factor), np.uint8))
    return sorted(folder.iterdir())


def fill(folder: Path, sources: list[Path], count: int) -> Path:
    """Hard links to the sources in turn, a thousand in each subfolder."""
    for i in range(count):
        source = sources[i % len(sources)]
        link = folder / f"{i // 1000:04}" / f"{i:07}{source.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, link)
    return folder


def align(folder: Path, output: Path, threads: int) -> Run:
    """Run the command; its time, processor time and peak memory."""
    code = "from facemsm.apps.cli import main; main()"
    command = [sys.executable, "-c", code, "align", str(folder), "--output", str(output), "--threads", str(threads)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"facemsm align ended with exit code {process.returncode}")
    shutil.rmtree(output)
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def speed(folder: Path, output: Path, count: int, threads: int, repeats: int) -> None:
    """Print the table of speeds."""
    runs: dict[int, list[Run]] = {1: [], threads: []}
    for _ in range(repeats):
        for number, times in runs.items():
            times.append(align(folder, output, number))
    best = {number: min(times, key=lambda run: run.seconds) for number, times in runs.items()}
    print("| threads | photos/s | speed-up | processor time, ms/photo | peak MB |\n|---|---|---|---|---|")
    for number, run in best.items():
        cells = (count / run.seconds, best[1].seconds / run.seconds, 1000 * run.cpu / count, run.megabytes)
        print("| {} | {:.1f} | {:.2f} | {:.1f} | {:.0f} |".format(number, *cells))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="throughput and memory of facemsm align on a folder")
    parser.add_argument("--photos", type=int, default=300, help="in the folder that speed is measured on")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--flat", type=int, default=0, help="compare the peak memory of 10 and of this many photos")
    parser.add_argument("--source", type=Path, help="photos to link to instead of the sample")
    parser.add_argument("--scratch", type=Path, help="where to make the folder; on the file system of --source")
    args = parser.parse_args()
    print(f"{machine()}, load {os.getloadavg()[0]:.1f} at the start; commit {commit()}; {date.today()}.\n")
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        root = Path(scratch)
        if args.source:
            sources = sorted(path for path in args.source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        else:
            sources = originals(root / "originals")
        folder = fill(root / "speed", sources, args.photos)
        align(fill(root / "few", sources, 10), root / "out", 1)  # brings programs and photos into the cache
        speed(folder, root / "out", args.photos, args.threads, args.repeats)
        if args.flat:
            print("\n| photos | peak MB |\n|---|---|")
            few = align(root / "few", root / "out", args.threads)
            many = align(fill(root / "many", sources, args.flat), root / "out", args.threads)
            print(f"| 10 | {few.megabytes:.0f} |\n| {args.flat} | {many.megabytes:.0f} |\n")
            print(f"Ratio {many.megabytes / few.megabytes:.2f}.")


if __name__ == "__main__":
    main()
