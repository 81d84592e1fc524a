from __future__ import annotations

import numpy as np
import pytest

from facemsm.assets import SAMPLE, SAMPLE_BOX
from facemsm.geometry import box_to_crop
from facemsm.imaging.io import read_image
from facemsm.imaging.warping import warp
from facemsm.runtime.model import HOURGLASS, load_model
from facemsm.runtime.session import LANDMARKS
from facemsm.schemes import get_scheme
from facemsm.stages import Located, mirrored
from facemsm.typing import Image

PHOTO = read_image(SAMPLE)


@pytest.mark.parametrize("name", ["68", "98"])
def test_a_mirrored_face_has_the_mirrored_points(name: str) -> None:
    """To rounding, if stage 2 looks at both views; by itself it errs a little otherwise in each."""
    model = load_model(name)
    network, size, flip = model.network(HOURGLASS, LANDMARKS), model.codec.input_size, list(model.scheme.flip)

    def locate(canonical: Image) -> Located:
        return Located(*network(canonical))

    faces = np.stack([warp(PHOTO, box_to_crop(SAMPLE_BOX + shift, size), size) for shift in (0, 9, -5)])
    differences = {}
    for stage_2 in (locate, mirrored(locate, flip, size)):
        found, other = stage_2(faces), stage_2(np.ascontiguousarray(faces[:, :, ::-1]))
        assert found.spread is not None
        assert other.spread is not None
        reflected = other.points[:, flip] * np.array([-1, 1], np.float32) + np.array([size - 1, 0], np.float32)
        differences[stage_2] = [
            float(np.abs(value).max())
            for value in (
                found.points - reflected,
                found.scores - other.scores[:, flip],
                found.spread - other.spread[:, flip] * np.array([1, -1, 1], np.float32),
            )
        ]
    alone, both = differences.values()
    assert min(alone) > 0.03
    np.testing.assert_allclose(both, 0, atol=1e-3)


def test_what_the_two_views_disagree_about_is_spread() -> None:
    scheme = get_scheme("68")
    heatmaps = np.arange(2 * 2 * 68, dtype=np.float32).reshape(4, 68, 1, 1)

    def locate(canonical: Image) -> Located:
        assert canonical.shape == (4, 128, 128, 3)
        np.testing.assert_array_equal(canonical[2:, :, ::-1], canonical[:2])
        points = np.zeros((4, 68, 2), np.float32)
        points[:2], points[2:] = (60, 70), (127 - 64, 76)  # 4 to the right, 6 further down
        points[2:, scheme.flip[0]] = (127 - 60, 70)
        scores = np.repeat(np.array([[0.8], [0.6], [0.4], [0.2]], np.float32), 68, axis=1)
        return Located(points, scores, np.tile(np.array([1, 0.5, 2], np.float32), (4, 68, 1)), heatmaps)

    faces = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3)).astype(np.uint8)
    found = mirrored(locate, scheme.flip, 128)(faces)
    np.testing.assert_allclose(found.points[:, 1:], np.broadcast_to(np.array([62, 73], np.float32), (2, 67, 2)))
    np.testing.assert_allclose(found.points[:, 0], [[60, 70]] * 2)
    np.testing.assert_allclose(found.scores, np.repeat([[0.6], [0.4]], 68, axis=1), rtol=1e-6)
    assert found.spread is not None
    np.testing.assert_allclose(found.spread[0, 1], [1 + 4, 0 + 6, 2 + 9])
    np.testing.assert_allclose(found.spread[1, 0], [1, 0, 2])
    assert found.heatmaps is not None
    np.testing.assert_array_equal(found.heatmaps, heatmaps[:2])
