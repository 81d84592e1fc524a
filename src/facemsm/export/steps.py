"""The whole way of a face as one ONNX graph that shows its steps too, for the page without a server."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto

from facemsm.export.builder import Builder, Value
from facemsm.export.whole import by_paper, calibrated, in_parts, load_networks, see, to_points
from facemsm.runtime.model import Model


def steps_graph(model: Model) -> ModelProto:
    """Both methods, and what :class:`facemsm.face.Face` tells of the stages.

    Beside ``photo`` and ``boxes`` of :func:`facemsm.export.whole.whole_graph` it takes ``paper``, bool (1,), and
    ``thresholds``, float32 (2,), those of the paper's method for the contour and for all other points. Beside
    ``points``, ``scores``, ``occlusion`` and ``theta`` it gives ``preliminary`` (N, L, 2) in photo pixels,
    ``intensity`` (N, L), and as uint8 ``crop`` and ``canonical`` (N, S, S, 3), and ``heatmaps`` (N, L, 64, 64), where
    255 is 1.

    Args:
        model: a checked model. One that is not calibrated follows the paper, whatever ``paper`` says.
    """
    b, count, size, side = Builder(), model.scheme.count, model.codec.input_size, model.codec.size
    networks, contour = load_networks(model), np.zeros((1, count))
    contour[:, list(model.scheme.contour)] = 1
    notes = {note.key: float(note.value) for note in networks[1].metadata_props if note.key.startswith("heatmaps")}
    zero, scale = notes.get("heatmaps zero", 0), notes.get("heatmaps scale", 1)
    picture = (size, size, 3)
    shapes: dict[str, tuple[int, ...]] = {
        "points": (count, 2),
        "scores": (count,),
        "occlusion": (count,),
        "theta": (2, 3),
        "preliminary": (count, 2),
        "intensity": (count,),
        "crop": picture,
        "canonical": picture,
        "heatmaps": (count, side, side),
    }

    def body(photo: Value, boxes: Value, paper: Value, thresholds: Value) -> list[Value]:
        limits = thresholds[[0]] * contour + thresholds[[1]] * (1 - contour)
        retry = paper.op("Not") if model.calibration else False

        def some(boxes: Value) -> list[Value]:
            seen = see(photo, boxes, model, networks, ["heatmaps"], retry=retry)

            def rebuilt() -> Value:
                return b.concat(*by_paper(seen, model, limits), axis=1)

            if model.calibration:
                refined = b.choose(paper, rebuilt, lambda: b.concat(*calibrated(seen, model), axis=1))
            else:
                refined = rebuilt()
            x, y, scores, occlusion = refined.split(4, axis=1)
            maps = (seen.rest[0].to(np.float32) - zero) * (255 * scale)
            maps = maps.op("Round").clip(0, 255).to(np.uint8).transpose(0, 3, 4, 1, 5, 2)  # cells in their order
            return [
                to_points(seen.to_photo, b.concat(x, y, axis=1)),
                scores.reshape(-1, count),
                occlusion.reshape(-1, count),
                seen.theta,
                to_points(seen.to_photo, seen.points),
                seen.scores.reshape(-1, count),
                seen.crop,
                seen.canonical,
                maps.reshape(-1, count, side, side),
            ]

        none = [np.zeros((0, *shape), np.uint8 if len(shape) > 2 else np.float32) for shape in shapes.values()]
        return in_parts(boxes, none, some)

    inputs = {
        "photo": (np.uint8, ("height", "width", 3)),
        "boxes": (np.float32, ("faces", 4)),
        "paper": (np.bool_, (1,)),
        "thresholds": (np.float32, (2,)),
    }
    outputs: dict[str, Sequence[int | str]] = {name: ("faces", *shape) for name, shape in shapes.items()}
    return b.model("facemsm", inputs, outputs, body, {"model": model.name, "checksum": model.checksum})
