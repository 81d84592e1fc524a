"""Networks of floats give what those of 8-bit integers give, but for rounding."""

from __future__ import annotations

import cv2
import numpy as np
import onnxruntime
import pytest

onnx = pytest.importorskip("onnx")

from facemsm.assets import SAMPLE  # noqa: E402
from facemsm.export.boxes import detector_graph  # noqa: E402
from facemsm.imaging.io import read_image  # noqa: E402


def test_the_detector_in_floats_finds_the_same_faces() -> None:
    photo = read_image(SAMPLE)
    photo = np.concatenate((photo, photo[:, ::-1], np.asarray(cv2.GaussianBlur(photo, (9, 9), 0))), axis=1)
    found, sizes = [], []
    for floats in (False, True):
        graph = detector_graph(floats=floats)
        assert {node.domain for node in graph.graph.node if node.op_type == "MatMulIntegerToFloat"} == (
            set() if floats else {"com.microsoft"}
        )
        assert [opset.domain for opset in graph.opset_import] == ([""] if floats else ["", "com.microsoft"])
        content = graph.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        boxes, scores = session.run(["boxes", "scores"], {"photo": photo})
        found.append(np.column_stack((boxes, scores))[np.argsort(boxes[:, 0])])
        sizes.append(len(content))
    assert len(found[0]) == len(found[1]) == 3
    np.testing.assert_allclose(found[1][:, :4], found[0][:, :4], atol=3)
    np.testing.assert_allclose(found[1][:, 4], found[0][:, 4], atol=0.05)
    assert sizes[1] < 1.1 * sizes[0]  # weights are bytes in the file
