"""What the score of a face is worth: python benchmarks/face_score.py DATA [--weights 68] [--faces 100] [--crops 200].

DATA holds the data sets ``300w`` and ``aflw2000``, of whose training faces those that training holds out are taken, and
``photos``, of which boxes are taken that hold no face. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facemsm import Aligner, get_detector, read_image
from facemsm.confidence.model import CORRECT
from facemsm.data.sample import FaceSample, evenly_chosen
from facemsm.data.sources import Source
from facemsm.detectors.boxes import overlaps
from facemsm.evaluation.conditions import in_poor_photo, mostly_covered, painted
from facemsm.evaluation.metrics import point_errors
from facemsm.geometry import face_scale, shifted
from facemsm.imaging.drawing import LOW_SCORE
from facemsm.training.faces import load_faces
from facemsm.typing import Array

TRIES = 30  # to find a box without a face


def of_faces(aligner: Aligner, faces: list[FaceSample]) -> tuple[Array, Array]:
    """Scores of faces, and the shares of their labelled points that are right; (N,) each."""
    scores, shares = [], []
    for face in faces:
        (found,) = aligner.align(face.load(), [face.box])
        truth = face.points[None]
        if shift := aligner.model.conventions.get(face.convention):
            truth = shifted(truth, (-shift[0], -shift[1]))
        errors = (point_errors(found.points[None], truth) / face_scale(truth, aligner.scheme)[:, None])[0]
        scores.append(found.score)
        shares.append(float((errors[np.isfinite(errors)] < CORRECT).mean()))
    return np.array(scores), np.array(shares)


def without_a_face(aligner: Aligner, photos: Path, count: int) -> Iterator[float]:
    """Scores of boxes in photos that reach no face."""
    rng, detector = np.random.default_rng(0), get_detector()
    paths = sorted(photos.glob("*.jpg"))
    for path in evenly_chosen(paths, min(count, len(paths))):
        image = read_image(path)
        height, width = image.shape[:2]
        faces = detector.detect(image)[:, :4]
        margin = 0.5 * np.max(faces[:, 2:] - faces[:, :2], axis=1, initial=0, keepdims=True)
        around = faces + np.concatenate((-margin, -margin, margin, margin), axis=1)
        for _ in range(TRIES):
            side = np.exp(rng.uniform(np.log(16), np.log(0.5 * min(height, width))))
            x, y = rng.uniform(0, (width - side, height - side))
            box = np.array([x, y, x + side, y + side], np.float32)
            if not overlaps(box, around.astype(np.float32)).any():
                yield aligner.align(image, [box])[0].score
                break


def area_under_roc(scores: Array, right: Array) -> float:
    """The share of pairs of a right and a wrong one in which the right one scores more."""
    above = scores[right][:, None] - scores[~right]
    return float(np.mean((above > 0) + 0.5 * (above == 0)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="what the score of a face is worth")
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", default="68")
    parser.add_argument("--faces", type=int, default=100)
    parser.add_argument("--crops", type=int, default=200)
    args = parser.parse_args()
    aligner = Aligner.from_pretrained(args.weights)
    sources = [Source(name, str(args.data / name), "train") for name in ("300w", "aflw2000")]
    held_out = load_faces(sources, box_source="provided", scheme=aligner.scheme.name).validation
    faces = evenly_chosen(held_out, min(args.faces, len(held_out)))
    print(f"| | boxes | mean score | points right | below {LOW_SCORE} | calibration error |\n|---|---|---|---|---|---|")
    everything = []
    for name, shown in {
        "faces as they are": faces,
        "behind painted occluders": [painted(face, aligner.scheme) for face in faces],
        "in poor photos": [in_poor_photo(face) for face in faces],
        "mostly covered": [mostly_covered(face) for face in faces],
        "no face": None,
    }.items():
        if shown is None:
            scores = np.array(list(without_a_face(aligner, args.data / "photos", args.crops)))
            shares = np.zeros(len(scores))
        else:
            scores, shares = of_faces(aligner, shown)
        everything.append((scores, shares))
        print(row(name, scores, shares), flush=True)
    scores, shares = map(np.concatenate, zip(*everything, strict=True))
    print(row("all", scores, shares))
    print(f"\nArea under the ROC curve that most points are right: {area_under_roc(scores, shares > 0.5):.3f}")
    real = np.concatenate([np.full(len(part), i < 3) for i, (part, _) in enumerate(everything)])
    whole = np.concatenate([np.full(len(part), i != 3) for i, (part, _) in enumerate(everything)])
    print(f"a face of the first three rows against none: {area_under_roc(scores[whole], real[whole]):.3f}")


def row(name: str, scores: Array, shares: Array) -> str:
    """A row of the table; the calibration error is in share of points, over bins of a tenth."""
    bins = np.minimum((scores * 10).astype(int), 9)
    gaps = [abs(float(np.sum(scores[bins == i] - shares[bins == i]))) for i in range(10)]
    low = (scores < LOW_SCORE).mean()
    return (
        f"| {name} | {len(scores)} | {scores.mean():.2f} | {100 * shares.mean():.0f} % | {100 * low:.0f} % "
        f"| {100 * sum(gaps) / len(scores):.1f} % |"
    )


if __name__ == "__main__":
    main()
