"""The bundled face detector as one ONNX graph: photo in, boxes out. One function a step, as in
:mod:`facemsm.export.whole`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import DTypeLike
from onnx import ModelProto

from facemsm.detectors.centerface import MULTIPLE, OVERLAP, SIZE, STRIDE, THRESHOLD
from facemsm.export.builder import Builder, Value
from facemsm.export.whole import averaged
from facemsm.files import atomic_write
from facemsm.provenance import commit


def export_detector(path: Path) -> None:
    """Write :func:`detector_graph` to a file.

    Raises:
        FacemsmError: it cannot be written.
    """
    with atomic_write(path) as partial:
        partial.write_bytes(detector_graph().SerializeToString())


def detector_graph(size: int = SIZE, threshold: float = THRESHOLD, *, adjustable: bool = False) -> ModelProto:
    """The graph of :class:`facemsm.detectors.centerface.CenterFace`; ``docs/onnx.md`` says what it takes and gives.

    It looks once, at the full working size, where ``CenterFace`` may be content with a glance.

    Args:
        size: longest side in pixels at which the network sees a photo; larger photos are shrunk.
        threshold: least confidence of a face.
        adjustable: whether these two are inputs of the graph instead, (1,) float32.
    """
    b = Builder()
    network = onnx.load(str(files("facemsm.weights") / "centerface.onnx"))

    def detect(photo: Value, *asked: Value) -> list[Value]:
        side, least = asked or (b.value(np.array([value], np.float32)) for value in (size, threshold))
        side = side.to(np.float64)
        sides = photo.op("Shape", dtype=np.int64, start=0, end=2)
        longest = sides.op("ReduceMax", keepdims=1).to(np.float64)
        wanted = (sides.to(np.float64) * (side / longest).op("Min", 1)).op("Round").op("Max", 1).to(np.int64)
        small = b.choose(
            longest > side, lambda: shrink(photo, sides, wanted, longest / side), lambda: photo.to(np.float32)
        )
        border = (MULTIPLE - 1 - (wanted + (MULTIPLE - 1)).op("Mod", MULTIPLE)).op("Max", 0)
        pads = b.concat(np.zeros(3, np.int64), border, np.zeros(1, np.int64))
        image = small.to(np.uint8).op("Pad", pads).op("Unsqueeze", np.array([0]))
        heatmap, log_size, offset = b.call(network, image, ["heatmap", "scale", "offset"])
        corners, scores = decode(heatmap, log_size, offset, least)
        scale = (wanted.to(np.float32) / sides.to(np.float32))[[1, 0, 1, 0]]
        boxes = corners / scale - 0.5
        kept = suppress(boxes, scores)
        return [boxes.op("Gather", kept, axis=0), scores.op("Gather", kept, axis=0)]

    notes = {"commit": commit(), "model": "CenterFace", "licence": "MIT", "source": "CenterFace by Star-Clouds"}
    outputs: dict[str, tuple[int | str, ...]] = {"boxes": ("faces", 4), "scores": ("faces",)}
    inputs: dict[str, tuple[DTypeLike, tuple[int | str, ...]]] = {"photo": (np.uint8, ("height", "width", 3))}
    if adjustable:
        inputs |= dict.fromkeys(("size", "threshold"), (np.float32, (1,)))
    return b.model("facemsm", inputs, outputs, detect, notes)


def shrink(photo: Value, sides: Value, wanted: Value, factor: Value) -> Value:
    """The photo with other sides, float32: means over whole cells first, of as many pixels as fit, then over parts of
    them. ``cv2.INTER_AREA`` does both at once, which is the same below twice the sides."""
    b, cell = photo.builder, factor.to(np.int64).op("Min", sides)
    cells = sides / cell
    part = photo.op("Slice", np.array([0, 0]), cells * cell, np.array([0, 1]))
    image = b.choose(factor >= 2, lambda: averaged(part, cells, cell), lambda: part.op("Identity")).to(np.float32)
    (high, wide), (down, across) = cells.split(2), wanted.split(2)
    steps = (sides.to(np.float64) / (wanted * cell).to(np.float64)).split(2)
    image = means(image.reshape(high, 3 * wide), down, steps[0])
    image = means(image.reshape(down, wide, 3).transpose(1, 0, 2).reshape(wide, 3 * down), across, steps[1])
    return image.reshape(across, down, 3).transpose(1, 0, 2).op("Round")


def means(image: Value, count: Value, step: Value) -> Value:
    """``count`` rows, means over ``step`` rows of the image (H, W) each, one to two and parts of them."""
    b = image.builder
    zero, one = (b.value(np.array(number, np.int64)) for number in (0, 1))
    start = b.op("Range", zero, count.reshape(), one).to(np.float64) * step
    first, end = start.op("Floor"), start + step
    last = image.op("Shape", dtype=np.int64, start=0, end=1) - 1
    total = None
    for row in range(3):
        share = ((first + (row + 1)).op("Min", end) - (first + row).op("Max", start)).op("Max", 0) / step
        rows = image.op("Gather", (first + row).to(np.int64).op("Min", last), axis=0)
        term = rows * share.to(np.float32).reshape(-1, 1)
        total = term if total is None else total + term
    assert total is not None
    return total


def decode(heatmap: Value, log_size: Value, offset: Value, threshold: Value) -> tuple[Value, Value]:
    """Corners (N, 4), from the outer edge of what the network sees, and confidences (N,) of all faces it is sure of."""
    b = heatmap.builder
    wide = heatmap.op("Shape", dtype=np.int64, start=3, end=4)
    flat = heatmap.reshape(-1)
    cell = (flat >= threshold).op("NonZero", dtype=np.int64).reshape(-1)
    row = cell / wide
    cells = b.concat(row, cell - row * wide).reshape(2, -1).to(np.float32)
    log_size, offset = (value.reshape(2, -1).op("Gather", cell, axis=1) for value in (log_size, offset))
    centre, half = (cells + offset + 0.5) * STRIDE, log_size.op("Exp") * (STRIDE / 2)
    corners = b.concat(centre - half, centre + half)[[1, 0, 3, 2]].transpose(1, 0)
    return corners, flat.op("Gather", cell, axis=0)


def suppress(boxes: Value, scores: Value) -> Value:
    """Which boxes overlap no better one by more than ``OVERLAP``, best first."""
    b = boxes.builder
    selected = b.op(
        "NonMaxSuppression",
        boxes.op("Unsqueeze", np.array([0])),
        scores.reshape(1, 1, -1),
        scores.op("Shape", dtype=np.int64),
        b.value(np.array([OVERLAP], np.float32)),
        dtype=np.int64,
    )
    return selected.op("Gather", np.array([2]), axis=1).reshape(-1)
