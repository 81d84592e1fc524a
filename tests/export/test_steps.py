"""The graph with the steps gives what ``Face`` tells."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("onnx")

from facemsm import Aligner
from facemsm.assets import SAMPLE, SAMPLE_BOX
from facemsm.detectors import get_detector
from facemsm.detectors.centerface import DOUBT, GLANCE, SIZE, THRESHOLD
from facemsm.export.boxes import detector_graph
from facemsm.export.steps import steps_graph
from facemsm.geometry import box_to_crop
from facemsm.imaging.io import read_image
from facemsm.imaging.warping import warp
from facemsm.runtime.model import load_model
from facemsm.shapes.reconstruction import Reconstruction
from facemsm.stages import Settings

PHOTO = read_image(SAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["68", "98"])
def test_steps_are_those_of_aligner(name: str) -> None:
    model = load_model(name)
    session = onnxruntime.InferenceSession(steps_graph(model).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    thresholds = Reconstruction(contour_threshold=0.9, feature_threshold=0.8)
    for settings in (Settings(), Settings("paper"), Settings("paper", reconstruction=thresholds)):
        limits = (settings.reconstruction.contour_threshold, settings.reconstruction.feature_threshold)
        paper = np.array([settings.method == "paper"])
        boxes = np.stack([SAMPLE_BOX, SAMPLE_BOX + 5])
        inputs = {"photo": PHOTO, "boxes": boxes, "paper": paper, "thresholds": np.array(limits, np.float32)}
        found = dict(zip(names, session.run(None, inputs), strict=True))
        faces = Aligner(model, settings=settings, keep=("heatmaps", "canonical")).align(PHOTO, boxes)
        for i, face in enumerate(faces):
            assert face.intensity is not None
            assert face.canonical is not None
            assert face.heatmaps is not None
            np.testing.assert_allclose(found["points"][i], face.points, atol=0.05)
            np.testing.assert_allclose(found["scores"][i], face.scores, atol=0.01)
            np.testing.assert_allclose(found["preliminary"][i], face.preliminary, atol=0.05)
            np.testing.assert_allclose(found["intensity"][i], face.intensity, atol=0.01)
            np.testing.assert_allclose(found["theta"][i], face.theta, atol=0.001)
            if face.rebuilt is not None:
                np.testing.assert_array_equal(found["occlusion"][i], face.rebuilt)
            np.testing.assert_array_equal(found["crop"][i], warp(PHOTO, box_to_crop(boxes[i], 128), 128))
            np.testing.assert_allclose(found["canonical"][i].astype(int), face.canonical, atol=1)
            np.testing.assert_allclose(found["heatmaps"][i], 255 * face.heatmaps.clip(0, 1), atol=2)


def test_the_detector_takes_its_size_and_threshold() -> None:
    session = onnxruntime.InferenceSession(detector_graph(adjustable=True).SerializeToString())
    glance, doubt = (np.array([value], np.float32) for value in (round(GLANCE * SIZE), DOUBT * THRESHOLD))
    boxes, scores = session.run(["boxes", "scores"], {"photo": PHOTO, "size": glance, "threshold": doubt})
    np.testing.assert_allclose(np.column_stack((boxes, scores)), get_detector().detect(PHOTO), atol=0.01)
