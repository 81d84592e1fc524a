"""``method="paper"`` against Algorithm 2, transcribed line by line with NumPy and ONNX Runtime alone."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from facemsm import Aligner
from facemsm.assets import SAMPLE
from facemsm.imaging.io import read_image
from facemsm.typing import Image
from facemsm.weights import WEIGHTS

Array = NDArray[Any]
FOLDER = WEIGHTS / "68"
BOX = (180.0, 87.0, 273.0, 179.0)
S = 128  # side of crop and canonical face
ENLARGEMENT = 1.5  # of the rectangle R for the crop I_R
RADIUS = 1  # r of Eq. 9
K, RIDGE = 100, 60.0  # Section IV-C
CONTOUR = range(17)


def threshold(i: int) -> float:
    """T: 0.4 on the contour, 0.6 elsewhere (Section IV-G)."""
    return 0.4 if i in CONTOUR else 0.6


def run(file: str, images: Array) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(str(FOLDER / file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, {"images": images}), strict=True))
    if "heatmaps" in found and found["heatmaps"].dtype == np.uint8:
        notes = session.get_modelmeta().custom_metadata_map
        zero, scale = np.float32(notes["heatmaps zero"]), np.float32(notes["heatmaps scale"])
        found["heatmaps"] = (found["heatmaps"] - zero) * scale
    return found


def sample(photo: Image, to_photo: Array) -> Array:
    """The S × S image whose pixel (x, y) shows the photo at ``to_photo`` (x, y, 1), bilinear, black outside."""
    out = np.zeros((S, S, 3))
    for y in range(S):
        for x in range(S):
            u, v = to_photo @ (x, y, 1)
            u0, v0 = int(np.floor(u)), int(np.floor(v))
            for column, row, share in (
                (u0, v0, (1 - u + u0) * (1 - v + v0)),
                (u0 + 1, v0, (u - u0) * (1 - v + v0)),
                (u0, v0 + 1, (1 - u + u0) * (v - v0)),
                (u0 + 1, v0 + 1, (u - u0) * (v - v0)),
            ):
                if 0 <= row < photo.shape[0] and 0 <= column < photo.shape[1]:
                    out[y, x] += share * photo[row, column]
    return np.clip(np.round(out), 0, 255).astype(np.uint8)


def three(matrix: Array) -> Array:
    return np.vstack((matrix, (0, 0, 1)))


def lines_1_and_2(photo: Image, rectangle: tuple[float, ...]) -> tuple[Array, Array]:
    """θ, and the map from canonical to photo pixels by which ``sample`` makes the normalised face I_N."""
    x_min, y_min, x_max, y_max = rectangle
    side = ENLARGEMENT * max(x_max - x_min, y_max - y_min)
    corner = np.array([(x_min + x_max) / 2, (y_min + y_max) / 2]) - side / 2
    pixel = side / S  # pixel (0, 0) of the crop has its centre half a pixel from the corner
    crop_to_photo = np.array([[pixel, 0, corner[0] + pixel / 2], [0, pixel, corner[1] + pixel / 2]])
    theta = run("stgan.onnx", sample(photo, crop_to_photo)[None])["theta"][0].astype(float)
    normalise = np.array([[2 / S, 0, 1 / S - 1], [0, 2 / S, 1 / S - 1], [0, 0, 1]])  # to -1 ... 1 between the edges
    canonical_to_crop = np.linalg.inv(normalise) @ three(theta) @ normalise  # Eq. 2
    return theta, (three(crop_to_photo) @ canonical_to_crop)[:2]


def lines_3_and_4(canonical: Image) -> tuple[Array, list[Array]]:
    """The preliminary shape S, canonical pixels, and the weights of Eq. 9 as shares of a perfect heatmap's.

    A heatmap in bytes may have several highest cells: a point has a weight for each.
    """
    parts = run("hourglass.onnx", canonical[None])["heatmaps"][0]  # entry [a, b, l, y, x] is cell (k y + a, k x + b)
    k, _, count, small, _ = parts.shape
    shape, weights = np.zeros((count, 2)), []
    for i in range(count):
        heatmap = np.zeros((k * small, k * small))
        for a in range(k):
            for b in range(k):
                heatmap[a::k, b::k] = parts[a, b, i]
        mass = np.maximum(heatmap - 0.2 * heatmap.max(), 0) ** 2  # between cells: the centre of mass
        cells = np.indices(heatmap.shape)[::-1].reshape(2, -1) @ mass.ravel() / mass.sum()
        shape[i] = (cells + 0.5) * S / len(heatmap) - 0.5
        peaks = np.argwhere(heatmap == heatmap.max())  # Eq. 8
        windows = [heatmap[max(0, y - RADIUS) : y + RADIUS + 1, max(0, x - RADIUS) : x + RADIUS + 1] for y, x in peaks]
        weights.append(perfect_share(np.array([np.maximum(window, 0).mean() for window in windows])))  # Eq. 9
    return shape, weights


def lines_5_to_13(shape: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Relative weights, V, and the final shape S_F.

    ``wi * max`` of line 6 is read as a quotient, and line 13 replaces unreliable points only, as Section III-C says.
    Exemplars are mapped to the reliable points by a similarity before the search, and deviations from the mean of the
    nearest are fitted.
    """
    count = len(shape)
    relative, reliable = np.zeros(count), np.zeros(count, bool)
    for i in range(count):
        relative[i] = weights[i] / weights.max()
        reliable[i] = relative[i] > threshold(i)
    exemplars = load_file(FOLDER / "dictionary.safetensors")["shapes"].astype(float)  # (N, L, 2)
    aligned = np.array([align(exemplar, shape, reliable) for exemplar in exemplars])
    distance = [np.sum(((exemplar - shape)[reliable]) ** 2) for exemplar in aligned]
    nearest = aligned[np.argsort(distance)[:K]]
    mean = nearest.mean(0)
    basis = np.array([(exemplar - mean)[reliable].ravel() for exemplar in nearest]).T
    target = (shape - mean)[reliable].ravel()  # V*S
    alpha = np.linalg.solve(basis.T @ basis + RIDGE * np.eye(K), basis.T @ target)  # Eq. 10, 11
    final = shape.copy()
    for i in range(count):
        if not reliable[i]:
            final[i] = mean[i] + (nearest - mean)[:, i].T @ alpha
    return relative, reliable, final


def align(exemplar: Array, shape: Array, reliable: Array) -> Array:
    """The exemplar, mapped to the reliable points by (x, y) -> (a x - b y + c, b x + a y + d)."""
    rows = [row for x, y in exemplar[reliable] for row in ((x, -y, 1, 0), (y, x, 0, 1))]
    a, b, c, d = np.linalg.lstsq(np.array(rows), shape[reliable].ravel(), rcond=None)[0]
    aligned: Array = exemplar @ np.array([[a, -b], [b, a]]).T + (c, d)
    return aligned


def line_14(to_photo: Array, shape: Array) -> Array:
    return np.array([to_photo @ (x, y, 1) for x, y in shape])


def perfect_share(weights: Array) -> Array:
    """Eq. 9 as a share of what a clean target gives, at most 1."""
    sigma = json.loads((FOLDER / "model.json").read_text())["codec"]["sigma"]
    ideal = np.mean([np.exp(-(x * x + y * y) / (2 * sigma**2)) for x in (-1, 0, 1) for y in (-1, 0, 1)])
    return np.asarray(np.clip(weights / ideal, 0, 1))


@pytest.mark.parametrize("covered", [False, True])
def test_the_papers_method_is_algorithm_2(covered: bool) -> None:
    photo = read_image(SAMPLE).copy()
    if covered:
        photo[130:190, 160:300] = 40  # a dark card over the mouth and chin
    aligner = Aligner.from_pretrained("68", method="paper")
    (face,) = aligner.align(photo, [BOX])
    outputs = aligner.run_stages([photo], np.array([BOX], np.float32))

    theta, to_photo = lines_1_and_2(photo, BOX)
    np.testing.assert_allclose(face.theta, theta, atol=5e-3)  # crops differ by a grey level here and there
    np.testing.assert_allclose(outputs.to_photo[0], to_photo, atol=0.4)
    canonical = sample(photo, outputs.to_photo[0])
    assert np.abs(outputs.canonical[0].astype(int) - canonical).mean() < 0.5  # OpenCV interpolates in 1/32 pixels

    shape, weights = lines_3_and_4(outputs.canonical[0])
    np.testing.assert_allclose(outputs.points[0], shape, atol=2e-3)
    assert all(np.abs(found - ours).min() < 1e-4 for found, ours in zip(weights, outputs.scores[0], strict=True))

    relative, reliable, final = lines_5_to_13(outputs.points[0].astype(float), outputs.scores[0].astype(float))
    np.testing.assert_allclose(face.scores, relative, atol=1e-5)
    np.testing.assert_array_equal(face.occluded, ~reliable)
    np.testing.assert_allclose(aligner.refine(outputs).points[0], final, atol=2e-3)
    assert face.occluded.any() == covered
    np.testing.assert_allclose(face.points, line_14(outputs.to_photo[0], final), atol=2e-3)

    # and the whole of it, without a number of ours on the way
    shape, weights = lines_3_and_4(canonical)
    _, _, final = lines_5_to_13(shape, np.array([found[0] for found in weights]))
    np.testing.assert_allclose(face.points, line_14(to_photo, final), atol=0.5)
