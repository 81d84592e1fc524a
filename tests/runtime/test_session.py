"""Networks as they are opened and run, and those that are refused."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facemsm import FacemsmError
from facemsm.detectors import get_detector
from facemsm.heatmaps import HeatmapCodec
from facemsm.runtime.model import load_model
from facemsm.runtime.network_file import check_network
from facemsm.runtime.session import LANDMARKS, Network, Session
from facemsm.weights import WEIGHTS

BUNDLED = WEIGHTS / "68"
FACES = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)


def test_a_file_that_is_no_network(tmp_path: Path) -> None:
    path = tmp_path / "stgan.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(FacemsmError, match=r"stgan\.onnx: not a network"):
        Network(path, ["theta"])


def test_a_network_without_an_output_is_refused() -> None:
    with pytest.raises(FacemsmError, match="has no output 'spread'"):
        Network(BUNDLED / "stgan.onnx", ["spread"])


def test_bundled_stage_2_reads_heatmaps_as_the_codec() -> None:
    faces = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    faces[0] = 0
    points, scores, spread, heatmaps = Network(BUNDLED / "hourglass.onnx", [*LANDMARKS, "heatmaps"])(faces)
    expected = load_model("68").codec.decode(heatmaps)
    np.testing.assert_allclose(points, expected.points, atol=1e-3)
    single = (heatmaps == heatmaps.max((2, 3), keepdims=True)).sum((2, 3)) == 1  # bytes may have two equal peaks
    assert single.mean() > 0.5
    np.testing.assert_allclose(scores[single], expected.scores[single], atol=1e-4)
    np.testing.assert_allclose(spread, expected.spread, atol=0.1)
    alone = [Network(BUNDLED / "hourglass.onnx", ["points"])(face[None])[0] for face in faces]
    np.testing.assert_allclose(np.concatenate(alone), points, atol=1e-3)


# --- Pickled and forked ----------------------------------------------------------------------------------------------


def test_a_pickled_network_opens_its_file_again() -> None:
    network = load_model("68").network("hourglass.onnx", [*LANDMARKS, "heatmaps"])
    again = pickle.loads(pickle.dumps(network))
    for one, other in zip(network(FACES), again(FACES), strict=True):
        np.testing.assert_array_equal(one, other)
    detector = get_detector()
    photo = np.zeros((64, 64, 3), np.uint8)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(detector)).detect(photo), detector.detect(photo))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_network_works_in_a_forked_process(threads: int) -> None:
    """With two threads, that the child does not have, it would wait for ever."""
    session = Session(BUNDLED / "stgan.onnx", threads)
    (expected,) = session.run(["theta"], {"images": FACES})
    context: Any = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work() -> None:
        sender.send(session.run(["theta"], {"images": FACES})[0])

    child = context.Process(target=work)
    child.start()
    try:
        assert receiver.poll(60)
        np.testing.assert_array_equal(receiver.recv(), expected)
    finally:
        child.kill()


# --- Weights in other files ------------------------------------------------------------------------------------------


def constant(onnx: Any, values: NDArray[Any], name: str, location: str | None = None) -> Any:
    """A tensor, its values in another file if that is named."""
    tensor = onnx.numpy_helper.from_array(values, name)
    if location is not None:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(values.nbytes))):
            tensor.external_data.add(key=key, value=value)
    return tensor


def stage_1(path: Path, nodes: Sequence[Any], constants: Sequence[Any] = (), shape: Any = ("N", 2, 3)) -> Path:
    """A network that takes images and emits ``theta``, whatever the nodes make of it."""
    import onnx

    images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["N", 128, 128, 3])
    theta = onnx.helper.make_tensor_value_info("theta", onnx.TensorProto.FLOAT, shape)
    graph = onnx.helper.make_graph(list(nodes), "g", [images], [theta], list(constants))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def with_constant(path: Path, where: str, location: str | None) -> Path:
    """A network with a constant as an initialiser, in an attribute, or in one within the graph of another node."""
    onnx = pytest.importorskip("onnx")
    node, values = onnx.helper.make_node, np.zeros((1, 2, 3), np.float32)
    tensor = constant(onnx, values, "W", location)
    if where == "initialiser":
        return stage_1(path, [node("Identity", ["W"], ["theta"])], [tensor])
    made = node("Constant", [], ["theta" if where == "attribute" else "inner"], value=tensor)
    if where == "attribute":
        return stage_1(path, [made])
    inner = onnx.helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, [1, 2, 3])
    branch = onnx.helper.make_graph([made], "branch", [], [inner])
    either = node("If", ["yes"], ["theta"], then_branch=branch, else_branch=branch)
    return stage_1(path, [either], [onnx.numpy_helper.from_array(np.array(True), "yes")])


@pytest.mark.parametrize("where", ["initialiser", "attribute", "branch"])
@pytest.mark.parametrize("location", ["../secret", "weights.bin", "/etc/passwd", ""])
def test_weights_in_other_files_are_refused(where: str, location: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("secret", "model/weights.bin"):
        (tmp_path / name).write_bytes(bytes(24))
    path = with_constant(tmp_path / "model/stgan.onnx", where, location)
    with pytest.raises(FacemsmError, match=r"stgan\.onnx: .* keeps weights in another file") as caught:
        Network(path, ["theta"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["initialiser", "attribute", "branch"])
def test_weights_within_the_file_are_read(where: str, tmp_path: Path) -> None:
    path = with_constant(tmp_path / "location.onnx", where, None)
    assert Network(path, ["theta"])(FACES[:1])[0].shape == (1, 2, 3)


def test_a_network_may_speak_of_locations(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    values = constant(onnx, np.zeros((1, 2, 3), np.float32), "location")
    path = stage_1(tmp_path / "a.onnx", [onnx.helper.make_node("Identity", ["location"], ["theta"])], [values])
    check_network(path.read_bytes())
    Network(path, ["theta"])
    whole = path.read_bytes()
    for end in range(len(whole)):  # cut anywhere: it is refused, by us or by ONNX Runtime
        path.write_bytes(whole[:end])
        with pytest.raises(FacemsmError, match=r"a\.onnx"):
            Network(path, ["theta"], codec=HeatmapCodec())


@pytest.mark.parametrize("within", [False, True])
def test_a_loop_that_may_never_end_is_refused(within: bool, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    node, info, tensor = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto
    theta = info("theta", tensor.FLOAT, [1, 2, 3])
    body = onnx.helper.make_graph(
        [node("Identity", ["go"], ["goes"]), node("Identity", ["in"], ["out"])],
        "body",
        [info("i", tensor.INT64, []), info("go", tensor.BOOL, []), info("in", tensor.FLOAT, None)],
        [info("goes", tensor.BOOL, []), info("out", tensor.FLOAT, None)],
    )
    made = node("Loop", ["", "yes", "start"], ["theta"], body=body)
    if within:
        branch = onnx.helper.make_graph([made], "branch", [], [theta])
        made = node("If", ["yes"], ["theta"], then_branch=branch, else_branch=branch)
    yes, start = np.array(True), np.zeros((1, 2, 3), np.float32)
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in (("yes", yes), ("start", start))]
    with pytest.raises(FacemsmError, match=r"a\.onnx: .*has a loop"):
        Network(stage_1(tmp_path / "a.onnx", [made], constants), ["theta"])


def test_a_network_may_name_its_tensors_as_it_likes(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    values = constant(onnx, np.zeros((1, 2, 3), np.float32), "Loop")
    Network(stage_1(tmp_path / "a.onnx", [onnx.helper.make_node("Identity", ["Loop"], ["theta"])], [values]), ["theta"])


@pytest.mark.parametrize("where", ["initialiser", "attribute", "branch"])
@pytest.mark.parametrize("shape", [(1 << 33,), (1 << 20, 2, 3), (-1, 2, 3), (1 << 62, 1 << 62)])
def test_tensors_larger_than_the_file_are_refused(where: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = with_constant(tmp_path / "a.onnx", where, None)
    model = onnx.load(path)
    node = model.graph.node[0]
    if where == "branch":
        node = node.attribute[0].g.node[0]
    tensor = model.graph.initializer[0] if where == "initialiser" else node.attribute[0].t
    del tensor.dims[:]
    tensor.dims.extend(shape)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FacemsmError, match=r"a\.onnx: .*for which the file has no room"):
        Network(path, ["theta"])


def test_a_sparse_tensor_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = stage_1(tmp_path / "a.onnx", [onnx.helper.make_node("Identity", ["W"], ["theta"])])
    model = onnx.load(path)
    values, indices = constant(onnx, np.zeros(1, np.float32), "W"), constant(onnx, np.zeros(1, np.int64), "i")
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [1 << 28]))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FacemsmError, match=r"a\.onnx: .*a sparse tensor"):
        Network(path, ["theta"])


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand", "Tile", "Pad", "Resize", "RandomUniform", "MatMul"])
def test_the_memory_of_a_run_is_bounded(operator: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx")
    one, large = np.ones((1, 1), np.float32), [1 << 21, 1 << 20]
    inputs, attributes = ["one", "sizes"], {}
    constants = {"one": one, "sizes": np.array(large)}
    if operator == "ConstantOfShape":
        inputs = ["sizes"]
    elif operator == "Pad":
        constants["sizes"] = np.array([0, 0, *large])
    elif operator == "Resize":
        inputs = ["one", "", "", "sizes"]
    elif operator == "RandomUniform":
        inputs, attributes = [], {"shape": large}
    elif operator == "MatMul":
        constants = {"one": np.ones((1 << 20, 1), np.float32), "sizes": np.ones((1, 1 << 20), np.float32)}
    path = stage_1(
        tmp_path / "a.onnx",
        [onnx.helper.make_node(operator, inputs, ["theta"], **attributes)],
        [constant(onnx, value, name) for name, value in constants.items() if name in inputs],
        None,
    )
    with pytest.raises(FacemsmError, match=r"a\.onnx: cannot be run .*") as caught:
        Session(path).run(None, {"images": FACES[:1]})
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


# --- Shapes and values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (7,), (1, 6), (1, 3, 3), (1, 2, 3, 1)])
def test_outputs_of_another_shape_are_refused_at_once(shape: tuple[int, ...], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    values = onnx.numpy_helper.from_array(np.zeros(shape, np.float32), "W")
    path = stage_1(tmp_path / "a.onnx", [onnx.helper.make_node("Identity", ["W"], ["theta"])], [values], None)
    with pytest.raises(FacemsmError, match=r"a\.onnx: 'theta' is .* where \['any', 2, 3\] is needed") as caught:
        Network(path, ["theta"])
    assert "\n" not in str(caught.value)


def test_outputs_of_another_shape_than_declared_are_refused_when_run(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    values = onnx.numpy_helper.from_array(np.zeros((1, 2, 3), np.float32), "W")
    path = stage_1(tmp_path / "a.onnx", [onnx.helper.make_node("Identity", ["W"], ["theta"])], [values])
    network = Network(path, ["theta"])
    assert network(FACES[:1])[0].shape == (1, 2, 3)
    with pytest.raises(FacemsmError, match=r"a\.onnx: 'theta' is \[1, 2, 3\] for 2 images"):
        network(FACES)


def test_images_of_another_side_are_refused() -> None:
    with pytest.raises(FacemsmError, match=r"'images' is .* where \['any', 96, 96, 3\] is needed"):
        Network(BUNDLED / "stgan.onnx", ["theta"], codec=HeatmapCodec(96, 48))
    with pytest.raises(FacemsmError, match=r"hourglass\.onnx: cannot be run \("):
        Network(BUNDLED / "hourglass.onnx", LANDMARKS)(np.zeros((1, 96, 96, 3), np.uint8))


def test_heatmaps_of_another_side_are_refused() -> None:
    network = Network(BUNDLED / "hourglass.onnx", ["heatmaps"], codec=HeatmapCodec(128, 32))
    with pytest.raises(FacemsmError, match=r"'heatmaps' is .* for 32 cells a side"):
        network(FACES)


def test_points_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(BUNDLED / "hourglass.onnx")
    nan = onnx.numpy_helper.from_array(np.array(np.nan, np.float32), "not a number")
    model.graph.initializer.append(nan)
    (emitter,) = (node for node in model.graph.node if "points" in node.output)
    emitter.output[list(emitter.output).index("points")] = "before"
    model.graph.node.append(onnx.helper.make_node("Mul", ["before", "not a number"], ["points"]))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(FacemsmError, match=r"nan\.onnx: 'points' is no numbers"):
        Network(tmp_path / "nan.onnx", LANDMARKS)(FACES)
