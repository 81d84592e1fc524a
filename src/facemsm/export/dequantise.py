"""Networks of 8-bit integers as networks of floats, for where those are faster: WebAssembly multiplies no bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper


def dequantised(network: ModelProto) -> ModelProto:
    """The float network of one that :func:`facemsm.export.quantise.to_integers` wrote, in standard operators.

    Weights are the same numbers: bytes in the file, of which ONNX Runtime makes floats when it loads it. Activations
    are clipped where bytes end, but not rounded.

    Args:
        network: takes bytes, gives floats, and has no layers that pool or pick bytes.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in network.graph.initializer}
    images = {network.graph.input[0].name}  # bytes; all that the integer network makes of them is float here
    nodes: list[NodeProto] = []
    added: list[TensorProto] = []

    def emit(kind: str, *inputs: str | NDArray[Any], result: str = "", **attributes: Any) -> str:
        names = []
        for value in inputs:
            if not isinstance(value, str):
                added.append(numpy_helper.from_array(np.ascontiguousarray(value), f"float_constant_{len(added)}"))
            names.append(value if isinstance(value, str) else added[-1].name)
        nodes.append(helper.make_node(kind, names, [result or f"float_{len(nodes)}"], **attributes))
        return str(nodes[-1].output[0])

    def floats(values: str | NDArray[Any]) -> str:
        return emit("Cast", values, to=TensorProto.FLOAT)

    def clipped(values: str, scale: str, zero: str, **attributes: Any) -> str:
        low, high = ((byte - constants[zero].astype(np.float32)) * constants[scale] for byte in (0, 255))
        return emit("Clip", values, low.reshape(()), high.reshape(()), **attributes)

    for node in network.graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        (name,) = node.output
        if node.op_type == "QLinearConv":
            x, at, zero, weight, scale, _, to, to_zero, offsets = node.input
            if x in images:
                x = emit("Mul", emit("Sub", floats(x), constants[zero].astype(np.float32)), constants[at])
            kernels = emit("Mul", floats(constants[weight]), constants[scale].reshape(-1, 1, 1, 1))
            bias = (constants[offsets] * constants[at] * constants[scale]).astype(np.float32)
            attributes.pop("channels_last")
            planes = emit("Conv", emit("Transpose", x, perm=(0, 3, 1, 2)), kernels, bias, **attributes)
            emit("Transpose", clipped(planes, to, to_zero), perm=(0, 2, 3, 1), result=name)
        elif node.op_type == "MatMulIntegerToFloat":
            x, weight, _, scale, _, _, bias = node.input
            columns = emit("Mul", floats(constants[weight]), constants[scale])
            emit("Add", emit("MatMul", x, columns), constants[bias], result=name)
        elif node.op_type == "QuantizeLinear":
            clipped(*node.input, result=name)
        elif node.op_type == "DequantizeLinear":
            emit("Identity", node.input[0], result=name)
        else:
            if node.input[0] in images:
                images.add(name)
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in network.graph.initializer if tensor.name in used]
    graph = network.graph
    made = helper.make_model(
        helper.make_graph(nodes, graph.name, graph.input, graph.output, [*kept, *added]),
        opset_imports=[opset for opset in network.opset_import if not opset.domain],
        ir_version=network.ir_version,
    )
    helper.set_model_props(made, {entry.key: entry.value for entry in network.metadata_props})
    return made
