"""How long the one ONNX file takes beside ``Aligner``. Prints Markdown.

    python benchmarks/whole.py [--weights 68] [--rounds 40]

Both are asked in turns, on one thread, so that other work on the machine touches both alike. Milliseconds per face are
processor time, the least and the median of all rounds; the ratio is the median of those of each round.
"""

from __future__ import annotations

import argparse
import time
from datetime import date

import cv2
import numpy as np
import onnxruntime

from facemsm import Aligner
from facemsm.assets import SAMPLE, SAMPLE_BOX
from facemsm.export.whole import whole_graph
from facemsm.imaging.io import read_image
from facemsm.provenance import commit, machine
from facemsm.runtime.model import load_model


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="one ONNX file beside Aligner")
    parser.add_argument("--weights", default="68")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    model = load_model(options.weights)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    graph = whole_graph(model, "calibrated").SerializeToString()
    file = onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
    aligner, sample = Aligner(model), read_image(SAMPLE)
    print("| photo | faces | Aligner, ms | file, ms | ratio | points differ by, px |\n|---|---|---|---|---|---|")
    for side in (512, 2048):
        scale = side / len(sample)
        photo = np.asarray(cv2.resize(sample, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
        for count in (1, 4, 8, 16):
            shifts = scale * np.arange(count)[:, None] % 4
            boxes = ((SAMPLE_BOX + 0.5) * scale - 0.5 + shifts).astype(np.float32)
            times = np.zeros((options.rounds, 2))
            for one in times:
                start = time.process_time()
                faces = aligner.align(photo, boxes)
                between = time.process_time()
                (points,) = file.run(["points"], {"photo": photo, "boxes": boxes})
                one[:] = between - start, time.process_time() - between
            times *= 1000 / count
            ours, theirs = (f"{one.min():.1f} / {np.median(one):.1f}" for one in times.T)
            apart = max(np.abs(face.points - one).max() for face, one in zip(faces, points, strict=True))
            ratio = np.median(times[:, 1] / times[:, 0])
            print(f"| {side} px | {count} | {ours} | {theirs} | {ratio:.2f} | {apart:.4f} |", flush=True)
    print(f"\nfacemsm {model.name}, commit {commit()}, {machine()}, {date.today()}, {options.rounds} rounds.")


if __name__ == "__main__":
    main()
