"""8 bits for networks of depthwise convolutions that take photos of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import facemsm
from facemsm.runtime.session import Session
from facemsm.typing import Array, FloatArray, Image

onnx = pytest.importorskip("onnx")

from facemsm.export.quantise import equalise_depthwise, to_integers  # noqa: E402

rng = np.random.default_rng(0)
WEIGHTS = Path(facemsm.__file__).parent / "weights"
PHOTOS = rng.integers(0, 256, (3, 32, 64, 3), dtype=np.uint8)


@pytest.fixture
def network(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Bytes, a strided convolution, an inverted residual with channels of very different size, and a head."""
    narrow = getattr(request, "param", 8)
    nodes, tensors = [], []

    def conv(x: str, y: str, shape: tuple[int, ...], gain: Array | float = 1.0, **attributes: Any) -> str:
        weight = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape) * np.reshape(gain, (-1, 1, 1, 1))
        for name, values in ((f"{y}.weight", weight), (f"{y}.bias", rng.normal(0, 0.1, shape[0]) * gain)):
            tensors.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
        pads = {"kernel_shape": shape[2:], "pads": [shape[2] // 2] * 4} | attributes
        nodes.append(onnx.helper.make_node("Conv", [x, f"{y}.weight", f"{y}.bias"], [y], **pads))
        return y

    def relu(x: str) -> str:
        nodes.append(onnx.helper.make_node("Relu", [x], [f"{x}.relu"]))
        return f"{x}.relu"

    nodes.append(onnx.helper.make_node("Transpose", ["image"], ["planes"], perm=(0, 3, 1, 2)))
    nodes.append(onnx.helper.make_node("Cast", ["planes"], ["pixels"], to=onnx.TensorProto.FLOAT))
    first = conv("pixels", "first", (8, 3, 3, 3), 1 / 128, strides=[2, 2])
    wide = relu(
        conv(conv(relu(first), "narrow", (narrow, 8, 1, 1)), "wide", (16, narrow, 1, 1), np.geomspace(0.05, 20, 16))
    )
    deep = relu(conv(wide, "deep", (16, 1, 3, 3), np.geomspace(20, 0.05, 16), group=16))
    nodes.append(onnx.helper.make_node("Add", ["narrow", conv(deep, "linear", (narrow, 16, 1, 1))], ["sum"]))
    conv(relu(conv("sum", "last", (8, narrow, 3, 3))), "head", (2, 8, 1, 1))
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["N", "H", "W", 3])
    head = onnx.helper.make_tensor_value_info("head", onnx.TensorProto.FLOAT, ["N", 2, "h", "w"])
    graph = onnx.helper.make_graph(nodes, "g", [image], [head], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "float.onnx")
    return tmp_path / "float.onnx"


def run(model: Any, path: Path, photos: Image) -> FloatArray:
    onnx.save(model, path)
    found: FloatArray = Session(path).run(["head"], {"image": photos})[0]
    return found


@pytest.mark.parametrize("network", [8, 16, 24, 32], indirect=True)
def test_it_computes_nearly_the_same_at_any_size(network: Path, tmp_path: Path) -> None:
    equal = equalise_depthwise(network, PHOTOS)
    for photos in (PHOTOS, rng.integers(0, 256, (1, 64, 32, 3), dtype=np.uint8)):
        expected = run(onnx.load(network), tmp_path / "a.onnx", photos)
        np.testing.assert_allclose(run(equal, tmp_path / "b.onnx", photos), expected, atol=1e-4 * expected.std())
        integers = to_integers(tmp_path / "b.onnx", PHOTOS, 100, exact=["head"])
        found = run(integers, tmp_path / "c.onnx", photos)
        assert found.shape == expected.shape
        assert np.sqrt(np.mean((found - expected) ** 2)) < 0.06 * expected.std()


def test_what_runs_in_integers(network: Path) -> None:
    model = to_integers(network, PHOTOS, 100, exact=["head"])
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QLinearConv") == 4  # first, wide, deep, last
    assert kinds.count("MatMulIntegerToFloat") == 2  # what the residual unit adds: narrow and linear
    (head,) = (node for node in model.graph.node if node.op_type == "Conv")
    assert list(head.output) == ["head"]


def widths(model: Any) -> list[int]:
    """Columns of the products that end in float."""
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return [shapes[node.input[1]][1] for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]


@pytest.mark.parametrize(("network", "columns"), [(16, 16), (17, 32), (24, 32), (32, 32)], indirect=["network"])
def test_columns_that_onnx_runtime_1_23_gets_wrong_are_filled_up(network: Path, columns: int) -> None:
    assert widths(to_integers(network, PHOTOS, 100, exact=["head"])) == [columns, columns]


@pytest.mark.parametrize("path", sorted(WEIGHTS.rglob("*.onnx")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_shipped_networks_have_no_such_columns(path: Path) -> None:
    assert all(columns % 32 <= 16 for columns in widths(onnx.load(path)))


def test_equalised_channels_lose_less(network: Path, tmp_path: Path) -> None:
    expected = run(onnx.load(network), tmp_path / "a.onnx", PHOTOS)
    onnx.save(equalise_depthwise(network, PHOTOS), tmp_path / "b.onnx")
    with_, without = (
        np.abs(run(to_integers(path, PHOTOS, 100, exact=["head"]), tmp_path / "c.onnx", PHOTOS) - expected).mean()
        for path in (tmp_path / "b.onnx", network)
    )
    assert with_ < 0.7 * without
