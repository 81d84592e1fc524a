"""Where the time of a network goes, layer by layer, beside a plain matrix product. Prints Markdown.

    python benchmarks/layers.py [NETWORK.onnx] [--faces 1] [--rounds 100]

By default stage 2 of the weights 68, on one thread; networks of 8-bit integers are what it can look into. Times are
the medians of ONNX Runtime's profiler; GMAC/s are thousand million multiplications and additions a second. The plain
product is one of 8-bit integers, 1024 × 512 by 512 × 512: about the most that the processor has to give. Layers of one
kind and size stand in one line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from datetime import date
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from facemsm.provenance import commit, instruction_sets, machine
from facemsm.weights import WEIGHTS

RAN = "_kernel_time"


def profile(model: bytes, inputs: dict[str, np.ndarray[Any, Any]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """What the profiler wrote of each node, by the node's name."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.enable_profiling = True
    with tempfile.TemporaryDirectory() as scratch:
        settings.profile_file_prefix = f"{scratch}/profile"
        session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        for _ in range(rounds):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(RAN):
            nodes[event["name"].removesuffix(RAN)].append(event)
    return nodes


def milliseconds(events: list[dict[str, Any]]) -> float:
    """Median of a node's times."""
    return float(np.median([event["dur"] for event in events])) / 1e3


def product(rounds: int) -> float:
    """GMAC/s of a plain product of 8-bit matrices."""
    weights = np.random.default_rng(0).integers(-64, 64, (512, 512)).astype(np.int8)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [1024, 512])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [1024, 512])
    graph = helper.make_graph([node], "product", [x], [y], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (events,) = profile(model.SerializeToString(), {"x": np.full((1024, 512), 9, np.uint8)}, rounds).values()
    return 1024 * 512 * 512 / milliseconds(events) / 1e6


def reads(model: onnx.ModelProto) -> dict[str, int]:
    """How many numbers each number that a layer writes is the product sum of, by the layer's name. Names all nodes."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    found = {}
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
        for shape in (shapes.get(name, ()) for name in node.input):
            if len(shape) == 4 and node.op_type.endswith("Conv"):
                found[node.name] = prod(shape[1:])
            if len(shape) == 2 and node.op_type.startswith("MatMul"):
                found[node.name] = shape[0]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="where the time of a network goes")
    parser.add_argument("network", nargs="?", type=Path, default=WEIGHTS / "68" / "hourglass.onnx")
    parser.add_argument("--faces", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    best = product(options.rounds)
    model = onnx.load(options.network)
    read = reads(model)
    fed = model.graph.input[0]
    shape = [axis.dim_value or options.faces for axis in fed.type.tensor_type.shape.dim]
    images = np.random.default_rng(0).integers(0, 256, shape)
    kind = helper.tensor_dtype_to_np_dtype(fed.type.tensor_type.elem_type)
    nodes = profile(model.SerializeToString(), {fed.name: images.astype(kind)}, options.rounds)
    rows: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for name, events in nodes.items():
        seen = events[-1]["args"]
        shapes = [next(iter(one.values())) for one in (*seen["input_type_shape"][:1], *seen["output_type_shape"][:1])]
        macs = prod(shapes[-1]) * read.get(name, 0)
        size = " to ".join(" × ".join(map(str, one[1:])) for one in shapes) if macs else "–"
        rows[seen["op_name"], size].append((milliseconds(events), macs))
    total = sum(time for row in rows.values() for time, _ in row)
    print("| operator | size | layers | ms | part | GMAC/s | of the product |\n|---|---|---:|---:|---:|---:|---:|")
    for (operator, size), row in sorted(rows.items(), key=lambda item: -sum(time for time, _ in item[1])):
        time, macs = map(sum, zip(*row, strict=True))
        if time > total / 100:
            rate = macs / time / 1e6
            speed = f"{rate:.0f} | {rate / best:.0%}" if macs else "– | –"
            print(f"| {operator} | {size} | {len(row)} | {time:.2f} | {time / total:.0%} | {speed} |")
    macs = sum(macs for row in rows.values() for _, macs in row)
    machines = f"{machine()} ({instruction_sets()}), ONNX Runtime {onnxruntime.__version__}"
    print(f"\n{options.network.parent.name}/{options.network.name}, {options.faces} face(s), {options.rounds} rounds:")
    print(f"{total:.2f} ms, {macs / 1e6:.0f} million MACs; a plain product {best:.0f} GMAC/s.")
    print(f"{machines}, commit {commit()}, {date.today()}. Lines below 1 % are left out; the sum has them.")


if __name__ == "__main__":
    main()
