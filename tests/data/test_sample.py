from __future__ import annotations

import zlib

import numpy as np
import pytest

from facemsm.data.sample import evenly_chosen, face_rng


@pytest.mark.parametrize(
    ("count", "chosen"),
    [(None, "abcdefg"), (9, "abcdefg"), (7, "abcdefg"), (3, "adg"), (2, "ag"), (1, "a"), (4, "aceg")],
)
def test_evenly_chosen(count: int | None, chosen: str) -> None:
    assert evenly_chosen("abcdefg", count) == list(chosen)
    assert evenly_chosen("", count) == []


def test_a_faces_random_numbers_depend_on_its_name_and_the_seed_alone() -> None:
    first = face_rng("a.jpg").random(4)
    np.testing.assert_array_equal(face_rng("a.jpg", 0).random(4), first)
    np.testing.assert_array_equal(np.random.default_rng((0, zlib.crc32(b"a.jpg"))).random(4), first)
    assert not np.array_equal(face_rng("a.jpg", 1).random(4), first)
    assert not np.array_equal(face_rng("b.jpg").random(4), first)
