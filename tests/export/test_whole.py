"""One file does what ``Aligner`` and the bundled detector do, to a fraction of a pixel."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
from numpy.typing import ArrayLike

from facemsm import Aligner
from facemsm.apps import cli
from facemsm.assets import SAMPLE, SAMPLE_BOX
from facemsm.confidence.model import FEATURES
from facemsm.detectors import get_detector
from facemsm.geometry import similarity, tight_box
from facemsm.imaging.io import read_image
from facemsm.imaging.warping import warp
from facemsm.runtime.model import Model, load_model
from facemsm.stages import Settings
from facemsm.typing import FloatArray, Image, Method
from synthetic_faces import draw_face, mean_shape

onnx = pytest.importorskip("onnx")

Run = Callable[[Image, ArrayLike], list[FloatArray]]

PHOTO = read_image(SAMPLE)
DRAWN, DRAWN_POINTS = draw_face(mean_shape(), similarity(0.2, 30, (80, 70)))
DRAWN_BOX = tight_box(DRAWN_POINTS)


def session(graph: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def runner(model: Model, method: Method) -> Run:
    from facemsm.export.whole import whole_graph

    whole = session(whole_graph(model, method))

    def run(photo: Image, boxes: ArrayLike) -> list[FloatArray]:
        found: list[FloatArray] = whole.run(
            ["points", "scores", "occlusion", "theta"], {"photo": photo, "boxes": np.asarray(boxes, np.float32)}
        )
        return found

    return run


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("68")


@pytest.fixture(scope="module")
def aligner(model: Model) -> Aligner:
    return Aligner(model)


@pytest.fixture(scope="module")
def run(model: Model) -> Run:
    return runner(model, "calibrated")


def assert_same(run: Run, aligner: Aligner, photo: Image, boxes: ArrayLike) -> None:
    points, scores, occlusion, theta = run(photo, boxes)
    faces = aligner.align(photo, boxes)
    assert len(points) == len(scores) == len(occlusion) == len(theta) == len(faces)
    for i, face in enumerate(faces):
        np.testing.assert_allclose(points[i], face.points, atol=0.05)
        np.testing.assert_allclose(scores[i], face.scores, atol=0.01)
        expected = face.occluded if face.occlusion is None else face.occlusion
        np.testing.assert_allclose(occlusion[i], expected, atol=0.01)
        np.testing.assert_allclose(theta[i], face.theta, atol=0.001)


def resized(factor: float) -> tuple[Image, FloatArray]:
    way = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    photo = np.asarray(cv2.resize(PHOTO, None, fx=factor, fy=factor, interpolation=way), np.uint8)
    return photo, (SAMPLE_BOX[None] + 0.5) * factor - 0.5


@pytest.mark.parametrize(
    ("photo", "boxes"),
    [
        pytest.param(PHOTO, [SAMPLE_BOX], id="sample"),
        pytest.param(PHOTO, [SAMPLE_BOX, SAMPLE_BOX + 7, SAMPLE_BOX - [3, 9, -4, -6]], id="three boxes"),
        pytest.param(PHOTO, np.zeros((0, 4), np.float32), id="no boxes"),
        pytest.param(DRAWN, [DRAWN_BOX], id="drawn"),
        pytest.param(PHOTO[95:170, 190:260], [[-10, -8, 83, 84]], id="box around the photo"),
        pytest.param(PHOTO, [[-60, 300, 90, 460], [400, 430, 700, 640], [-900, -900, 900, 900]], id="partly outside"),
        pytest.param(PHOTO[:3, :5], [[0, 0, 4, 2]], id="tiny photo"),
        pytest.param(PHOTO[:1, :1], [[0, 0, 300, 300]], id="a pixel that is shrunk"),
        pytest.param(*resized(0.15), id="small face"),
        pytest.param(*resized(2.1), id="twofold"),
        pytest.param(*resized(6), id="large"),
        pytest.param(np.ascontiguousarray(resized(4)[0][:, 700:1150]), [[20, 348, 392, 716]], id="narrow"),
    ],
)
def test_one_file_gives_the_numbers_of_aligner(run: Run, aligner: Aligner, photo: Image, boxes: ArrayLike) -> None:
    assert_same(run, aligner, photo, boxes)


@pytest.mark.parametrize("angle", [0, 0.4, -2])
@pytest.mark.parametrize("scale", [0.3, 0.45, 1, 3])
def test_crops_are_those_of_warp_to_the_last_bit(angle: float, scale: float) -> None:
    from facemsm.export.builder import Builder, Value
    from facemsm.export.whole import cut

    def body(photo: Value, maps: Value) -> list[Value]:
        return [cut(photo, maps, 64)]

    inputs: Any = {"photo": (np.uint8, ("height", "width", 3)), "maps": (np.float64, ("faces", 3, 3))}
    graph = Builder().model("cut", inputs, {"crops": ("faces", 64, 64, 3)}, body, {})
    crops = session(graph)
    rng = np.random.default_rng(0)
    for sides in ((1, 1), (2, 90), (61, 44), (150, 201)):
        photo = rng.integers(0, 256, (*sides, 3)).astype(np.uint8)
        maps = [similarity(angle, scale * stretch, shift) for stretch, shift in ((1, (20.3, 31.2)), (1.1, (-9, 50.7)))]
        (found,) = crops.run(None, {"photo": photo, "maps": np.stack([np.vstack((m, (0, 0, 1))) for m in maps])})
        np.testing.assert_array_equal(found, [warp(photo, matrix, 64) for matrix in maps])


def turned(degrees: float) -> tuple[Image, FloatArray]:
    """The photo, turned about the face."""
    turn = similarity(np.deg2rad(degrees), centre=(SAMPLE_BOX[:2] + SAMPLE_BOX[2:]) / 2)
    return np.asarray(cv2.warpAffine(PHOTO, turn, (512, 512)), np.uint8), SAMPLE_BOX


def test_faces_with_low_scores_are_tried_at_other_rotations(run: Run, aligner: Aligner) -> None:
    lying, box = turned(120)
    first = aligner.align(lying, [box], settings=Settings(retry=False))[0]
    assert np.abs(aligner.align(lying, [box])[0].points - first.points).max() > 20  # it is retried
    for degrees in (120, -75, 170):
        assert_same(run, aligner, turned(degrees)[0], [box])
    both = np.concatenate((PHOTO, lying), axis=1)
    right = box + np.array([512, 0, 512, 0])
    assert_same(run, aligner, both, [box, right, box + 3, right - 5, box - 3, [-60, 300, 90, 460]])


def test_boxes_that_aligner_refuses_do_no_harm(run: Run) -> None:
    for box in ([np.nan] * 4, [np.inf, 0, np.inf, 5], [5, 5, 5, 5], [9, 9, 2, 2], [1e9, 1e9, 2e9, 2e9]):
        points, *_ = run(PHOTO, np.array([box, SAMPLE_BOX]))
        np.testing.assert_allclose(points[1], run(PHOTO, [SAMPLE_BOX])[0][0], atol=1e-3)


def test_the_papers_method(model: Model) -> None:
    run, aligner = runner(model, "paper"), Aligner(model, settings=Settings("paper"))
    photo = PHOTO.copy()
    photo[150:] = 40  # mouth and chin are gone: they are rebuilt
    rebuilt = aligner.align(photo, [SAMPLE_BOX])[0].occluded
    assert 0 < rebuilt.sum() < 68
    assert_same(run, aligner, photo, [SAMPLE_BOX])
    assert_same(run, aligner, DRAWN, [DRAWN_BOX])


def test_exemplars_with_calibrated_scores(model: Model) -> None:
    assert model.calibration
    other = replace(model, calibration=replace(model.calibration, stage3="exemplars"))
    assert_same(runner(other, "calibrated"), Aligner(other), PHOTO, [SAMPLE_BOX])


def test_limited_features(model: Model) -> None:
    """So narrow that every face lies beyond them."""
    assert model.calibration
    limited = replace(model.calibration.correct, limits=np.array([[0.3], [0.31]]) * np.ones(len(FEATURES)))
    other = replace(model, calibration=replace(model.calibration, correct=limited))
    assert_same(runner(other, "calibrated"), Aligner(other), PHOTO, [SAMPLE_BOX])


def test_other_landmarks() -> None:
    model = load_model("98")
    assert_same(runner(model, "calibrated"), Aligner(model), PHOTO, [SAMPLE_BOX])


def test_a_model_that_looks_at_mirror_images(model: Model) -> None:
    """Turned by a third, too, so that there are several tries."""
    both = replace(model, mirror=True)
    run, aligner = runner(both, "calibrated"), Aligner(both)
    assert_same(run, aligner, PHOTO, [SAMPLE_BOX, SAMPLE_BOX + 20, SAMPLE_BOX - 10])
    turn = similarity(2.0, centre=(226, 133))
    assert_same(run, aligner, warp(PHOTO, turn, 400), [SAMPLE_BOX])
    (face,), (other,) = (a.align(PHOTO, [SAMPLE_BOX]) for a in (aligner, Aligner(model)))
    assert np.abs(face.points - other.points).max() > 0.05


def test_only_the_networks_need_more_than_standard_operators(model: Model) -> None:
    from facemsm.export.whole import whole_graph
    from facemsm.runtime.model import HOURGLASS, STGAN

    def domains(graph: Any) -> list[str]:
        inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
        return [node.domain for node in graph.node if node.domain] + [d for g in inner for d in domains(g)]

    networks = [onnx.load(model.path(file)).graph for file in (STGAN, HOURGLASS)]
    whole = whole_graph(model, "calibrated")
    assert len(domains(whole.graph)) == sum(len(domains(network)) for network in networks)
    assert {p.key: p.value for p in whole.metadata_props}["checksum"] == model.checksum


@pytest.mark.parametrize(
    "photo",
    [
        pytest.param(PHOTO, id="sample"),
        pytest.param(resized(2)[0], id="shrunk to a part"),
        pytest.param(resized(5)[0], id="shrunk to a tenth"),
        pytest.param(PHOTO[90:170, 180:270], id="small"),
        pytest.param(np.zeros((3, 900, 3), np.uint8), id="no face"),
        pytest.param(PHOTO[:1, :1], id="one pixel"),
        pytest.param(np.concatenate((PHOTO, PHOTO[:, ::-1]), axis=1), id="two faces"),
    ],
)
def test_the_detector_finds_the_same_boxes(
    detect: onnxruntime.InferenceSession, photo: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facemsm.detectors.centerface.PAYS_FROM", np.inf)  # one look, at the full working size
    boxes, scores = detect.run(["boxes", "scores"], {"photo": np.ascontiguousarray(photo)})
    expected = get_detector().detect(photo)
    assert len(boxes) == len(expected)
    np.testing.assert_allclose(boxes, expected[:, :4], atol=1e-3 * max(photo.shape))
    np.testing.assert_allclose(scores, expected[:, 4], atol=0.01)


@pytest.fixture(scope="module")
def detect() -> onnxruntime.InferenceSession:
    from facemsm.export.boxes import detector_graph

    return session(detector_graph())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--whole", "--detector", "-o", "x.onnx"], "two files"),
        (["--whole", "-o", "x"], "ends with .onnx"),
        (["--whole", "--stgan", "runs/a", "-o", "x.onnx"], "--stgan"),
        (["--detector", "--mirror", "-o", "x.onnx"], "--mirror: is for a model folder; --detector writes the bundled"),
        (["--stgan", "runs/a", "-o", "x"], "--hourglass is missing"),
        (["--whole", "--weights", "nowhere", "-o", "x.onnx"], "no model 'nowhere'"),
    ],
)
def test_what_export_cannot_do(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["facemsm", "export", *words])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_export_writes_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "facemsm-68.onnx"
    monkeypatch.setattr(sys, "argv", ["facemsm", "export", "--whole", "-o", str(path)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert not exit_.value.code
    whole = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [value.name for value in whole.get_inputs()] == ["photo", "boxes"]
    assert whole.get_outputs()[0].shape == ["faces", 68, 2]


def test_export_refuses_numbers_that_differ(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from facemsm import FacemsmError
    from facemsm.export import whole

    monkeypatch.setattr(whole, "TOLERANCES", dict.fromkeys(whole.TOLERANCES, -1.0))
    with pytest.raises(FacemsmError, match="differ"):
        whole.export_whole(model, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_export_says_what_onnx_runtime_says(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that is none: two nodes that make one value."""
    from facemsm import FacemsmError
    from facemsm.export import whole

    def twice(*args: Any) -> Any:
        graph = graph_of(*args)
        graph.graph.node.append(graph.graph.node[0])
        return graph

    graph_of = whole.whole_graph
    monkeypatch.setattr(whole, "whole_graph", twice)
    with pytest.raises(FacemsmError, match=f"{model.folder}: ONNX Runtime cannot run its networks as one file"):
        whole.export_whole(model, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()
