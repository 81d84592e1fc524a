from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facemsm.errors import FacemsmError
from facemsm.schemes import LandmarkScheme, get_scheme, load_scheme, scheme_from_dict, scheme_to_dict

BUILT_IN = ("29", "68", "98")

# As the data sets' users publish them.
FLIP_68 = [
    *(16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
    *(26, 25, 24, 23, 22, 21, 20, 19, 18, 17),
    *(27, 28, 29, 30, 35, 34, 33, 32, 31),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
]
PAIRS_98 = [
    *((0, 32), (1, 31), (2, 30), (3, 29), (4, 28), (5, 27), (6, 26), (7, 25), (8, 24), (9, 23), (10, 22), (11, 21)),
    *((12, 20), (13, 19), (14, 18), (15, 17)),
    *((33, 46), (34, 45), (35, 44), (36, 43), (37, 42), (38, 50), (39, 49), (40, 48), (41, 47)),
    *((55, 59), (56, 58)),
    *((60, 72), (61, 71), (62, 70), (63, 69), (64, 68), (65, 75), (66, 74), (67, 73)),
    *((76, 82), (77, 81), (78, 80), (87, 83), (86, 84), (88, 92), (89, 91), (95, 93), (96, 97)),
]
PAIRS_29 = [(0, 1), (2, 3), (4, 6), (5, 7), (8, 9), (10, 11), (12, 14), (13, 15), (16, 17), (18, 19), (22, 23)]

OWN = """
name = "5"
count = 5
flip = [[0, 1], [3, 4]]
right_eye = [0]
left_eye = [1]
mouth = [3, 4]
edges = [[0, 1], [3, 4]]
contour = []
eye_corners = [0, 1]
names = ["right eye", "left eye", "nose", "mouth right", "mouth left"]
"""
LEAST: dict[str, Any] = {"name": "5", "count": 5, "right_eye": [0], "left_eye": [1], "mouth": [3, 4]}


def table(pairs: list[tuple[int, int]], count: int) -> list[int]:
    other = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    return [other.get(i, i) for i in range(count)]


@pytest.mark.parametrize(
    ("name", "published"), [("29", table(PAIRS_29, 29)), ("68", FLIP_68), ("98", table(PAIRS_98, 98))]
)
def test_flip_table_is_the_published_one(name: str, published: list[int]) -> None:
    assert get_scheme(name).flip.tolist() == published


@pytest.mark.parametrize("name", BUILT_IN)
def test_flip_is_an_involution_that_keeps_the_groups(name: str) -> None:
    scheme = get_scheme(name)
    flip = scheme.flip
    assert flip[flip].tolist() == list(range(scheme.count))
    assert set(flip[list(scheme.right_eye)]) == set(scheme.left_eye)
    assert set(flip[list(scheme.mouth)]) == set(scheme.mouth)
    assert set(flip[list(scheme.contour)]) == set(scheme.contour)
    (right,), (left,) = scheme.outer_eye_corners
    assert flip[right] == left
    edges = {frozenset(edge) for edge in scheme.edges}
    assert {frozenset(flip[list(edge)].tolist()) for edge in scheme.edges} == edges


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_symmetric_shape_mirrored_is_itself(name: str) -> None:
    scheme = get_scheme(name)
    width = 200
    half = np.random.default_rng(0).uniform(0, width - 1, (scheme.count, 2))
    mirror = np.array([-1, 1]), np.array([width - 1, 0])
    shape = (half + (half * mirror[0] + mirror[1])[scheme.flip]) / 2
    np.testing.assert_allclose((shape * mirror[0] + mirror[1])[scheme.flip], shape)


@pytest.mark.parametrize("name", BUILT_IN)
def test_contour_and_features_make_up_the_scheme(name: str) -> None:
    scheme = get_scheme(name)
    assert sorted(scheme.contour + scheme.features) == list(range(scheme.count))


@pytest.mark.parametrize(
    ("name", "eyes", "corners", "contour"),
    [
        ("29", ((16,), (17,)), ((8,), (9,)), [28]),
        ("68", (tuple(range(36, 42)), tuple(range(42, 48))), ((36,), (45,)), list(range(17))),
        ("98", ((96,), (97,)), ((60,), (72,)), list(range(33))),
    ],
)
def test_eyes_corners_and_contour(name: str, eyes: object, corners: object, contour: list[int]) -> None:
    scheme = get_scheme(name)
    assert (scheme.right_eye, scheme.left_eye) == eyes
    assert scheme.outer_eye_corners == corners
    assert list(scheme.contour) == contour


@pytest.mark.parametrize("name", BUILT_IN)
def test_dict_round_trip(name: str) -> None:
    scheme = get_scheme(name)
    assert scheme_from_dict(scheme_to_dict(scheme), "here") == scheme


def test_a_scheme_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN, encoding="utf-8")
    scheme = get_scheme(path)
    assert scheme == load_scheme(str(path))
    assert (scheme.name, scheme.count) == ("5", 5)
    assert scheme.flip.tolist() == [1, 0, 2, 4, 3]
    assert scheme.names[2] == "nose"
    assert scheme.features == (0, 1, 2, 3, 4)
    assert scheme_from_dict(scheme_to_dict(scheme), "here") == scheme


def test_optional_fields_can_be_left_out() -> None:
    scheme = scheme_from_dict(LEAST, "here")
    assert scheme.flip.tolist() == [0, 1, 2, 3, 4]
    assert scheme.outer_eye_corners == ((0,), (1,))
    assert (scheme.edges, scheme.contour, scheme.names) == ((), (), ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"name": 5}, "field 'name': 5 is not text"),
        ({"count": 2}, "count is 2"),
        ({"count": 10**9}, "count is 1000000000, expected a whole number from 3 to 10000"),
        ({"name": "a\x1b[2J"}, "cannot be printed"),
        ({"count": 5.5}, "field 'count': 5.5 is not a whole number"),
        ({"count": "5"}, "field 'count': '5' is not a whole number"),
        ({"count": True}, "field 'count': True is not a whole number"),
        ({"flip": [[0, 5]]}, "flip names point 5, but points are 0 to 4"),
        ({"flip": [[0, 1], [1, 2]]}, "flip names a point in two pairs"),
        ({"flip": [[0, 1, 2]]}, r"field 'flip': \[0, 1, 2\] is not a pair"),
        ({"flip": [0, 1]}, "field 'flip': 0 is not a list"),
        ({"right_eye": []}, "right_eye is empty"),
        ({"left_eye": [-1]}, "left_eye names point -1"),
        ({"left_eye": 1}, "field 'left_eye': 1 is not a list"),
        ({"mouth": [3, "4"]}, "field 'mouth': '4' is not a whole number"),
        ({"mouth": [5]}, "mouth names point 5"),
        ({"eye_corners": [0, 1, 2]}, "field 'eye_corners': .* is not a pair"),
        ({"eye_corners": [0, 9]}, "eye_corners names point 9"),
        ({"contour": [7]}, "contour names point 7"),
        ({"edges": [[0, 6]]}, "edges names point 6"),
        ({"edges": [[0.5, 1]]}, "field 'edges': 0.5 is not a whole number"),
        ({"names": ["a", "b"]}, "2 names for 5 points"),
        ({"names": "abcde"}, "field 'names': 'abcde' is not a list"),
    ],
)
def test_a_fault_is_named_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FacemsmError, match=f"^own.toml: .*{message}") as caught:
        scheme_from_dict(LEAST | change, "own.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", LEAST)
def test_a_missing_field_is_named(name: str) -> None:
    fields = {key: value for key, value in LEAST.items() if key != name}
    with pytest.raises(FacemsmError, match=f"^own.toml: field '{name}' is missing"):
        scheme_from_dict(fields, "own.toml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name = ", "not valid TOML"),
        (b"count = " + b"1" * 5000, "not valid TOML|count"),
        (b"flip = " + b"[" * 100_000, "not valid TOML"),
        (b"name = '\xff'", "is not a text file"),
        (b"#" * (1 << 20) + b"\n", "has 1048577 bytes, more than the 1048576 that are read"),
    ],
)
def test_a_file_that_is_not_toml(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(content)
    with pytest.raises(FacemsmError, match=rf"own\.toml: ({message})") as caught:
        get_scheme(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(OWN, encoding="utf-8-sig")
    assert get_scheme(tmp_path / "own.toml").count == 5


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    names = ["folder.toml", "a\0.toml"]
    if hasattr(os, "mkfifo"):  # reading it would wait for ever
        os.mkfifo(tmp_path / "pipe.toml")
        names.append("pipe.toml")
    for name in names:
        with pytest.raises(FacemsmError, match=r"cannot be read \(it is a folder|is no file name"):
            get_scheme(tmp_path / name)


def test_no_such_scheme_or_file(tmp_path: Path) -> None:
    with pytest.raises(FacemsmError, match=r"no landmark scheme '70': use 29, 68, 98 or a \.toml file"):
        get_scheme("70")
    with pytest.raises(FacemsmError, match=r"none\.toml: no such file"):
        get_scheme(tmp_path / "none.toml")


def test_a_scheme_made_in_code_is_checked_too() -> None:
    with pytest.raises(FacemsmError, match="landmark scheme 'x': mouth is empty"):
        LandmarkScheme(name="x", count=3, flip_pairs=(), right_eye=(0,), left_eye=(1,), mouth=())
