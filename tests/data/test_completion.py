"""98 points from 68."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from facemsm.data.completion import MISSING, SHARED_68, SHARED_98, Completion, to_68
from facemsm.data.sample import FaceSample
from facemsm.errors import FacemsmError
from facemsm.geometry import apply_affine, similarity
from facemsm.schemes import OCCLUDED, UNLABELLED, VISIBLE, get_scheme


def faces(count: int, seed: int = 0) -> NDArray[np.float64]:
    """Faces (count, 98, 2) that vary along three directions, and in place, size and turn."""
    rng = np.random.default_rng(7)  # the same mean and directions for every seed
    scheme = get_scheme("98")
    half = rng.uniform(20, 100, (98, 2))
    mean = (half + half[scheme.flip] * (-1, 1) + (128, 0)) / 2
    mean[list(scheme.right_eye)], mean[list(scheme.left_eye)] = (40, 45), (88, 45)
    directions = rng.normal(0, 2, (3, 98, 2))
    rng = np.random.default_rng(seed)
    shapes = mean + np.einsum("nk,kld->nld", rng.normal(0, 1, (count, 3)), directions)
    turns = [similarity(rng.uniform(-0.5, 0.5), rng.uniform(0.5, 3), rng.uniform(0, 300, 2)) for _ in range(count)]
    return apply_affine(np.stack(turns), shapes)


def test_shared_points_are_in_both_schemes() -> None:
    assert len(SHARED_68) == len(SHARED_98) == 60
    assert len(MISSING) == 38
    for flip_68, flip_98 in zip(get_scheme("68").flip[SHARED_68], get_scheme("98").flip[SHARED_98], strict=True):
        assert SHARED_98[list(SHARED_68).index(flip_68)] == flip_98  # mirrored points are shared as well


def test_what_faces_have_in_common_is_learned() -> None:
    rule, truth = Completion.learn(faces(200)), faces(20, seed=1)
    for face in truth:
        completed = rule(to_68(face))
        size = np.ptp(face, axis=0).max()
        np.testing.assert_allclose(completed[SHARED_98], face[SHARED_98], atol=1e-3)
        assert np.linalg.norm(completed - face, axis=1).max() < 0.02 * size


def test_completion_moves_with_the_face() -> None:
    rule, face = Completion.learn(faces(50)), to_68(faces(1, seed=2)[0])
    turn = similarity(0.3, 1.7, (20, -40))
    np.testing.assert_allclose(rule(apply_affine(turn, face)), apply_affine(turn, rule(face)), atol=0.02)


def test_points_beside_unlabelled_ones_are_unlabelled(tmp_path: Path) -> None:
    rule, truth = Completion.learn(faces(100)), faces(1, seed=3)[0]
    points = to_68(truth).astype(np.float32)
    visibility = np.full(68, VISIBLE, np.int8)
    hidden, covered = rule.support[0], rule.support[20, 0]
    points[hidden], visibility[hidden] = np.nan, UNLABELLED
    visibility[covered] = OCCLUDED
    sample = FaceSample("a", tmp_path / "a.jpg", np.array([0, 0, 1, 1], np.float32), "gt", points, visibility)
    face = rule.face(sample)
    assert face.visibility is not None
    assert np.isnan(face.points[MISSING[0]]).all()
    assert face.visibility[MISSING[0]] == UNLABELLED
    assert face.visibility[MISSING[20]] in (OCCLUDED, UNLABELLED)
    np.testing.assert_array_equal(np.isnan(face.points).any(1), face.visibility == UNLABELLED)
    assert np.linalg.norm(face.points - truth, axis=1)[face.visibility > 0].max() < 0.05 * np.ptp(truth, axis=0).max()
    assert rule.face(replace(sample, visibility=None)).visibility is None


def test_too_few_faces_are_refused() -> None:
    with pytest.raises(FacemsmError, match="at least 10"):
        Completion.learn(faces(9))
