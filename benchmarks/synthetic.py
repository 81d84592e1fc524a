"""Faces for benchmarks that need no data."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from facemsm import load_model
from facemsm.data.sample import FaceSample
from facemsm.data.sources import Source
from facemsm.training.faces import Faces


def synthetic_faces(folder: Path, held_out: int, count: int = 64, side: int = 400) -> Faces:
    """Mottled JPEG photos with a plausible shape in each; ``held_out`` of them are validated on."""
    rng = np.random.default_rng(0)
    shapes = load_model("68").dictionary().shapes
    samples = []
    for i in range(count):
        photo = cv2.resize(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8), (side, side))
        cv2.imwrite(str(folder / f"{i}.jpg"), photo)
        points = ((shapes[i] - 64) * 1.5 + side / 2).astype(np.float32)
        box = np.concatenate((points.min(0), points.max(0)))
        samples.append(FaceSample(str(i), folder / f"{i}.jpg", box, "gt", points))
    return Faces(samples, samples[:held_out], np.zeros(count, np.int64), (Source("synthetic", "", ""),))
