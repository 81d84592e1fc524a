"""Stage 1's network and the map by its θ."""

from __future__ import annotations

import numpy as np
import torch

from facemsm.geometry import box_to_crop, canonical_matrix, compose, invert, matrix_to_theta, similarity, tight_box
from facemsm.imaging import warping
from facemsm.schemes import get_scheme
from facemsm.stgan.networks import Generator, warp_by_theta
from synthetic_faces import SIDE, draw_face, mean_shape


def test_the_generator_starts_at_the_scaled_identity() -> None:
    theta = Generator(start_scale=0.8)(torch.rand(3, 3, 128, 128))
    expected = torch.tensor([[0.8, 0, 0], [0, 0.8, 0]]).expand(3, 2, 3)
    torch.testing.assert_close(theta, expected, rtol=0, atol=0)


def test_warp_by_theta_is_the_crop_of_the_aligner() -> None:
    """θ by torch's sampler shows what the matrix of the same map shows by OpenCV."""
    image, points = draw_face(mean_shape(), similarity(0.3, 30, (SIDE / 2, SIDE / 2 - 10)))
    to_crop = box_to_crop(tight_box(points), 128)
    crop = warping.warp(image, to_crop, 128)
    in_crop = np.asarray(points @ to_crop[:, :2].T + to_crop[:, 2])
    for to_canonical in (
        canonical_matrix(in_crop, get_scheme("68"), 128),
        compose(similarity(0.5, 1.4, (9.3, -20.6), (60, 60)), np.array([[-1.0, 0, 127], [0, 1, 0]])),
        np.array([[0.9, 0.2, 3.0], [-0.1, 1.1, -7.5]]),
    ):
        expected = warping.warp(crop, to_canonical, 128).astype(float)
        theta = torch.from_numpy(matrix_to_theta(invert(to_canonical), 128)).float()[None]
        pixels = torch.from_numpy(crop).permute(2, 0, 1)[None].float()
        difference = np.abs(warp_by_theta(pixels, theta)[0].permute(1, 2, 0).numpy() - expected)
        assert difference.mean() < 0.5
        assert difference.max() < 8
