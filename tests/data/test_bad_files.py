"""Every fault of a file is one line that names the file, the place and what was expected."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import official_files as official
from facemsm.data.catalogue import load_dataset, read_items
from facemsm.data.matlab import is_hdf5
from facemsm.data.reading import read_npz
from facemsm.errors import FacemsmError
from facemsm.files import read_bytes, read_text


def _message(name: str, root: Path, split: str, boxes: str = "gt", scheme: str | None = None) -> str:
    with pytest.raises(FacemsmError) as caught:
        load_dataset(name, root, split, boxes, scheme)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def _edit(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_bytes().decode()
    after = change(before)
    assert after != before
    path.write_bytes(after.encode())


def _line(n: int, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        lines = text.splitlines()
        lines[n - 1 : n] = new.splitlines()
        return "\n".join(lines)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_line(1, "version: 2"), r"a\.pts:1: 'version: 2', expected 'version: 1'"),
        (_line(1, ""), r"a\.pts:1: 'n_points: 68', expected 'version: 1'"),
        (_line(2, "n_points: 67"), r"a\.pts:2: 'n_points: 67', expected 'n_points: 68'"),
        (_line(2, "n_points: many"), r"a\.pts:2: 'n_points: many', expected 'n_points: 68'"),
        (_line(3, "["), r"a\.pts:3: '\[', expected '\{'"),
        (_line(10, ""), r"a\.pts:71: 67 points, expected the 68 of line 2"),
        (_line(10, "1 2\n3 4"), r"a\.pts:73: 69 points, expected the 68 of line 2"),
        (_line(10, "1 2 3"), r"a\.pts:10: '1 2 3', expected two numbers"),
        (_line(10, "1O.5 2"), r"a\.pts:10: '1O.5' is not a pixel coordinate"),
        (_line(10, "nan 2"), r"a\.pts:10: 'nan' is not"),
        (_line(10, "1 inf"), r"a\.pts:10: 'inf' is not"),
        (_line(10, "1 1e30"), r"a\.pts:10: '1e30' is not"),
        (_line(10, "1_0 2"), r"a\.pts:10: '1_0' is not"),
        (_line(72, ""), r"a\.pts:71: .*expected '\}' after the last point"),
        (lambda _: "", r"a\.pts:1: '', expected 'version: 1'"),
        (lambda _: "version: 1\nn_points: 68", r"a\.pts:3: '', expected '\{'"),
        (lambda text: text.replace(text[text.index("{") :], "{\n}"), r"a\.pts:4: 0 points, expected the 68"),
    ],
)
def test_pts(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    official.write_300w(tmp_path, {"ibug": ["a.jpg"]})
    _edit(tmp_path / "ibug" / "a.pts", change)
    assert re.search(message, _message("300w", tmp_path, "challenge"))


def test_pts_that_is_not_text(tmp_path: Path) -> None:
    official.write_300w(tmp_path, {"ibug": ["a.jpg"]})
    (tmp_path / "ibug" / "a.pts").write_bytes(b"\xff\xfe\x00")
    assert "a.pts: is not a text file (byte 0" in _message("300w", tmp_path, "challenge")


def test_pts_with_all_points_in_one_place(tmp_path: Path) -> None:
    official.write_300w(tmp_path, {"ibug": ["a.jpg"]})
    (tmp_path / "ibug" / "a.pts").write_text(official.pts_text(np.ones((68, 2), np.float32)))
    assert "has no area" in _message("300w", tmp_path, "challenge")


def test_300w_photos(tmp_path: Path) -> None:
    official.write_300w(tmp_path, {"ibug": ["a.jpg"]})
    official.write_photo(tmp_path / "ibug" / "a.png")
    assert re.search(r"a\.pts: expected one photo .* found a\.jpg and a\.png", _message("300w", tmp_path, "challenge"))
    (tmp_path / "ibug" / "a.png").unlink()
    (tmp_path / "ibug" / "a.jpg").unlink()
    assert re.search(r"a\.pts: expected one photo .* found none", _message("300w", tmp_path, "challenge"))


BOX = ((1.0, 2.0, 30.0, 40.0), (1.0, 2.0, 30.0, 40.0))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: official.write_box_mat(p, {"b.jpg": BOX}), r"a\.pts: the file of provided boxes has none for 'a'"),
        (
            lambda p: official.write_box_mat(p, {"a.jpg": BOX, "a.png": BOX}),
            r"ibug\.mat: bounding_boxes\{2\}: a second box for 'a\.png'",
        ),
        (
            lambda p: official.write_box_mat(p, {"a.jpg": ((9, 2, 3, 4), BOX[1])}),
            r"bounding_boxes\{1\}\.bb_detector: the box .* has no area",
        ),
        (
            lambda p: official.write_box_mat(p, {"a.jpg": ((1, 2, 3), BOX[1])}),
            r"bounding_boxes\{1\}\.bb_detector: the box is not x_min",
        ),
        (lambda p: _savemat(p, bounding_boxes=np.eye(3)), r"bounding_boxes\{1\}: expected a struct with imgName"),
        (lambda p: _savemat(p, boxes=np.eye(3)), r"ibug\.mat: has no variable 'bounding_boxes'"),
        (lambda p: p.write_bytes(b"not MATLAB"), r"ibug\.mat: not a MATLAB 5 file, or damaged"),
        (lambda p: p.unlink(), r"ibug\.mat: no such file \(nor \.csv\); add the provided boxes"),
    ],
)
def test_300w_boxes(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    official.write_300w(tmp_path, {"ibug": ["a.jpg"]})
    write(tmp_path / "bounding_boxes_ibug.mat")
    assert re.search(message, _message("300w", tmp_path, "challenge", "provided"))


def test_300w_ground_truth_boxes(tmp_path: Path) -> None:
    official.write_300w(tmp_path, {"ibug": ["a.jpg"]})
    path = tmp_path / "bounding_boxes_ibug.mat"
    official.write_box_mat(path, {"a.jpg": (BOX[0], (9, 2, 3, 4))})
    message = _message("300w", tmp_path, "challenge")
    assert re.search(r"ibug\.mat: bounding_boxes\{1\}\.bb_ground_truth: the box .* has no area", message)
    _savemat(path, bounding_boxes={"imgName": "a.jpg", "bb_detector": np.ones((1, 4))})
    message = _message("300w", tmp_path, "challenge")
    assert re.search(r"bounding_boxes\{1\}: expected a struct with imgName \(text\) and bb_ground_truth", message)


def _savemat(path: Path, **content: Any) -> None:
    from scipy.io import savemat

    savemat(path, content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"ibug\.csv:1: expected a header"),
        ("a,a\n1,2", r"ibug\.csv:1: expected a header line of distinct"),
        ("image,x,y,w,h\na.jpg,1,2,3,4", r"ibug\.csv:1: columns are 'image,x,y,w,h', expected image,x_min"),
        ("image,x_min,y_min,x_max,y_max\na.jpg,1,2,3", r"ibug\.csv:2: 4 fields, expected 5"),
        ("image,x_min,y_min,x_max,y_max\n\na.jpg,1,2,3,x", r"ibug\.csv:3: 'x' is not a pixel coordinate"),
        ("image,x_min,y_min,x_max,y_max\na.jpg,1,2,3,4\na.jpg,1,2,3,4", r"ibug\.csv:3: a second box for 'a\.jpg'"),
        ('image,x_min,y_min,x_max,y_max\n"a.jpg,1,2,3,4', r"ibug\.csv:2: not valid CSV"),
    ],
)
def test_300w_boxes_csv(tmp_path: Path, text: str, message: str) -> None:
    official.write_300w(tmp_path, {"ibug": ["a.jpg"]})
    (tmp_path / "bounding_boxes_ibug.mat").unlink()
    (tmp_path / "bounding_boxes_ibug.csv").write_text(text)
    assert re.search(message, _message("300w", tmp_path, "challenge", "provided"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(" 5 7 70 60 ", " 5 7 70 ", 1), r"test\.txt:1: 206 tokens, expected 207"),
        (
            lambda text: text.replace("1_Handshaking_b_2", "1_Handshaking_c_3", 1),
            r"test\.txt:1: there is no photo '1--",
        ),
        (
            lambda text: text.replace(" 1 0 0 0 1 0 ", " 1 0 0 2 1 0 "),
            r"test\.txt:1: attributes are 1 0 0 2 1 0, expected",
        ),
        (lambda text: text.replace(" 5 7 70 60 ", " 70 7 5 60 ", 1), r"test\.txt:1: the box .* has no area"),
        (lambda text: text.replace(" 5 7 70 60 ", " 5 7 7O 60 ", 1), r"test\.txt:1: '7O' is not a pixel coordinate"),
        (lambda text: "\n" + text + "1 2 3\n", r"test\.txt:5: 3 tokens, expected 207"),
        (
            lambda text: text + text.splitlines()[1].replace(" 5 7 70 60 ", " 5 7 70 61 "),
            r"test\.txt:4: the same photo and points as at .*test\.txt:2, expected each face once",
        ),
    ],
)
def test_wflw(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    official.write_wflw(tmp_path)
    folder = tmp_path / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    _edit(folder / "list_98pt_rect_attr_test.txt", change)
    assert re.search(message, _message("wflw", tmp_path, "test", "provided"))
    load_dataset("wflw", tmp_path, "train")


def _element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def test_a_matlab_file_that_unpacks_to_much_more_than_it_has(tmp_path: Path) -> None:
    official.write_300w(tmp_path, {"ibug": ["a.jpg"]})
    size = 256 << 20
    flags, shape = _element(6, struct.pack("<II", 6, 0)), _element(5, struct.pack("<ii", 1, size // 8))
    matrix = flags + shape + _element(1, b"bounding_boxes") + struct.pack("<II", 9, size)
    pack = zlib.compressobj(9)
    packed = pack.compress(struct.pack("<II", 14, len(matrix) + size) + matrix)
    packed += b"".join(pack.compress(bytes(1 << 20)) for _ in range(size >> 20)) + pack.flush()
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    path = tmp_path / "bounding_boxes_ibug.mat"
    path.write_bytes(header + struct.pack("<II", 15, len(packed)) + packed)
    tracemalloc.start()
    try:
        message = _message("300w", tmp_path, "challenge", "provided")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert re.search(r"ibug\.mat: not a MATLAB 5 file, or damaged \(unpacks to more than 16 MiB", message)
    path.write_bytes(
        header + _element(14, _element(6, b"") + shape + _element(1, b"bounding_boxes") + _element(9, b""))
    )
    assert "not a MATLAB 5 file, or damaged" in _message("300w", tmp_path, "challenge", "provided")
    with path.open("r+b") as file:
        file.truncate(17 << 20)
    assert "more than the 16777216 that are read" in _message("300w", tmp_path, "challenge", "provided")


def test_hdf5_and_npz_that_unpack_to_gigabytes(tmp_path: Path) -> None:
    import h5py

    official.write_cofw(tmp_path, "test")
    with h5py.File(tmp_path / "COFW_test_color.mat", "r+") as file:
        del file["phisT"]
        file.create_dataset("phisT", (87, 10**9), "f8", chunks=(87, 1000))  # nothing of it is stored
    assert re.search(r"/phisT has more than 64 MiB", _message("cofw", tmp_path, "test"))
    with (
        zipfile.ZipFile(tmp_path / "300w_train_68.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("points.npy", "w") as array,
    ):
        for _ in range(257):
            array.write(bytes(1 << 20))
    assert "300w_train_68.npz: not a readable .npz file (its arrays unpack to 257 MiB, more than 256)" in _message(
        "shapes", tmp_path, "300w_train"
    )


def test_matlab_files_of_the_wrong_version(tmp_path: Path) -> None:
    _savemat(tmp_path / "COFW_test_color.mat", phisT=np.eye(3))
    assert "COFW_test_color.mat: is not a MATLAB 7.3 (HDF5) file" in _message("cofw", tmp_path, "test")
    official.write_cofw68(tmp_path)
    official.write_cofw(tmp_path, "test")
    annotation = tmp_path / "COFW68_Data" / "test_annotations" / "2_points.mat"
    annotation.write_bytes((tmp_path / "COFW_test_color.mat").read_bytes())
    assert "2_points.mat: is a MATLAB 7.3 file, expected version 5" in _message("cofw68", tmp_path, "test")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("phisT", np.ones((86, 3)), r"phisT is \(3, 86\), expected 3 photos x 87 numbers"),
        ("phisT", np.full((87, 3), 2.0), r"face 1: expected x, y and an occlusion flag of 0 or 1"),
        ("phisT", np.full((87, 3), np.nan), r"face 1: expected x, y"),
        ("bboxesT", np.ones((3, 4)), r"bboxesT is \(4, 3\), expected 3 photos x 4"),
        ("bboxesT", np.zeros((4, 3)), r"face 1: the box .* has no area"),
        ("bboxesT", None, r"COFW_test_color\.mat: damaged, or not what it should be"),
        ("IsT", None, r"COFW_test_color\.mat: damaged, or not what it should be"),
    ],
)
def test_cofw_variables(tmp_path: Path, name: str, value: Any, message: str) -> None:
    import h5py

    official.write_cofw(tmp_path, "test")
    with h5py.File(tmp_path / "COFW_test_color.mat", "r+") as file:
        del file[name]
        if value is not None:
            file[name] = value
    assert re.search(message, _message("cofw", tmp_path, "test", "provided"))


def test_cofw_photo_that_is_none(tmp_path: Path) -> None:
    import h5py

    official.write_cofw(tmp_path, "test")
    with h5py.File(tmp_path / "COFW_test_color.mat", "r+") as file:
        del file["#refs#/0"]
        file["#refs#/0"] = np.zeros((4, 5, 6))
        file["IsT"][0, 0] = file["#refs#/0"].ref
    with pytest.raises(FacemsmError, match=r"IsT\{1\} is float64 \(4, 5, 6\), expected a photo"):
        load_dataset("cofw", tmp_path, "test")[0].load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"Points": np.ones((67, 2)), "Occ": np.zeros((1, 68))},
            r"2_points\.mat: Points: .*\(67, 2\), expected \(68, 2\)",
        ),
        ({"Points": np.eye(68)[:, :2], "Occ": np.zeros((1, 67))}, r"2_points\.mat: expected .* 68 flags"),
        ({"Points": np.eye(68)[:, :2], "Occ": np.full((1, 68), 3)}, r"2_points\.mat: expected .* 68 flags"),
        ({"Points": np.eye(68)[:, :2]}, r"2_points\.mat: has no variable 'Occ'"),
        ({"Points": "text", "Occ": "text"}, r"2_points\.mat: Points is str, expected numbers"),
    ],
)
def test_cofw68(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    official.write_cofw68(tmp_path)
    _savemat(tmp_path / "COFW68_Data" / "test_annotations" / "2_points.mat", **content)
    assert re.search(message, _message("cofw68", tmp_path, "test"))


def test_cofw68_boxes_and_photos(tmp_path: Path) -> None:
    official.write_cofw68(tmp_path)
    official.write_photo(tmp_path / "images" / "1.jpg")
    assert re.search(r"images/2\.jpg: no such photo", _message("cofw68", tmp_path, "test"))
    _savemat(tmp_path / "COFW68_Data" / "cofw68_test_bboxes.mat", bboxes=np.ones((2, 4)))
    assert re.search(r"bboxes is \(2, 4\), expected 3 x 4", _message("cofw68", tmp_path, "test", "provided"))


def _coco(**changes: Any) -> dict[str, Any]:
    """The content with fields of the second annotation replaced, or removed where the value is None."""
    content = official.coco_content()
    face = content["annotations"][1]
    face.update(changes)
    content["annotations"][1] = {key: value for key, value in face.items() if value is not None}
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_coco(keypoints=[1.0] * 204), r"faces\.json:1: annotations\[1\]: 'keypoints' has 204 numbers, expected 15"),
        (_coco(keypoints={"a": 1}), r"annotations\[1\]: 'keypoints' is missing or no list"),
        (_coco(keypoints=[True, 2, 2] * 5), r"annotations\[1\]: 'keypoints' must hold numbers only"),
        (_coco(keypoints=["x"] * 15), r"annotations\[1\]: 'keypoints' must hold numbers only"),
        (_coco(keypoints=[1, 2, 3] * 5), r"annotations\[1\]: a visibility is not 0, 1 or 2"),
        (
            _coco(keypoints=[1e9, 2, 2] * 5),
            r"annotations\[1\]: 'keypoints' must hold numbers only, of at most a million",
        ),
        (_coco(bbox=[1, 2, 3]), r"annotations\[1\]: 'bbox' has 3 numbers, expected 4"),
        (_coco(bbox=[1, 2, 0, 3]), r"annotations\[1\]: the box .* has no area"),
        (_coco(bbox=None), r"annotations\[1\]: 'bbox' is missing"),
        (_coco(id=1), r"annotations\[1\]: id 1 is taken by another face"),
        (_coco(id=[1]), r"annotations\[1\]: 'id' is missing, or neither a whole number nor text"),
        (_coco(image_id=9), r"annotations\[1\]: image_id 9 is not among the images"),
        (_coco(id=1.5), r"annotations\[1\]: 'id' is missing, or neither a whole number nor text"),
        (_coco(attributes="age"), r"annotations\[1\]: 'attributes' is no object of names and values"),
        ({"images": []}, r"faces\.json:1: 'annotations' is missing or not a list"),
        ({"annotations": []}, r"faces\.json:1: 'images' is missing or not a list"),
        ({"images": [3], "annotations": []}, r"images\[0\]: 'id' is missing"),
        (
            {"images": [{"id": 1, "file_name": "a.jpg"}] * 2, "annotations": []},
            r"images\[1\]: id 1 is taken by another",
        ),
        ({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [7]}, r"annotations\[0\]: 'id' is missing"),
        ([1], r"faces\.json:1: expected a COCO keypoints file"),
    ],
)
def test_coco(tmp_path: Path, content: Any, message: str) -> None:
    path = official.write_coco(tmp_path, content)
    scheme = str(official.scheme_file(tmp_path))
    assert re.search(message, _message("coco", path, "all", "provided", scheme))


def test_coco_names_the_line(tmp_path: Path) -> None:
    content = _coco(keypoints=[float("nan")] * 15)
    content["annotations"] = [*content["annotations"], {**content["annotations"][0], "id": 9}]
    content = {"info": {"images": [1, [2]], "note": 'a "[{,:" b'}, "empty": [], **content}
    path = official.write_coco(tmp_path)
    lines = json.dumps(content, indent=2).splitlines()
    path.write_text("\n".join(lines))
    starts = [n for n, line in enumerate(lines, 1) if line == "    {"]  # two photos, four faces
    found = list(read_items("coco", path, "all", "gt", str(official.scheme_file(tmp_path))))
    faults = [str(item) for item in found if isinstance(item, FacemsmError)]
    assert faults == [
        f"{path}:{starts[3]}: annotations[1]: 'keypoints' must hold numbers only, of at most a million",
        f"{path}:{starts[5]}: annotations[3]: the same photo and points as at {path}:{starts[2]}: annotations[0], "
        "expected each face once",
    ]


def test_coco_missing_photo(tmp_path: Path) -> None:
    path = official.write_coco(tmp_path)
    (tmp_path / "images" / "b.jpg").unlink()
    scheme = str(official.scheme_file(tmp_path))
    assert re.search(r"annotations\[2\]: there is no photo 'b\.jpg' in", _message("coco", path, "all", "gt", scheme))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n"images": [}', r"faces\.json:2: not valid JSON"),
        ('{"images": NaN}', r"faces\.json:1: 'images' is missing or not a list"),
        ("[" * 100_000, r"faces\.json: not valid JSON"),
        ("1" * 5000, r"faces\.json: not valid JSON"),
    ],
)
def test_json(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "faces.json"
    path.write_text(text)
    assert re.search(message, _message("coco", path, "all", "gt", "68"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("image,", "photo,", 1), r"faces\.csv:1: no column 'image'"),
        (lambda t: t.replace("x28", "x_28", 1), r"faces\.csv:1: no column 'x28', expected 29 points"),
        (lambda t: t.replace("glasses", "x29", 1), r"faces\.csv:1: has a column 'x29', expected 29 points, 0 to 28"),
        (lambda t: t.replace("v3", "w3", 1), r"faces\.csv:1: no column 'v3'"),
        (lambda t: t.replace("a.jpg", "c.jpg"), r"faces\.csv:2: there is no photo 'c\.jpg'"),
        (lambda t: t.replace("a.jpg,,", "a.jpg,5,"), r"faces\.csv:2: a point has only one coordinate"),
        (
            lambda t: t.replace(",0,1,2,", ",2,1,2,", 1),
            r"faces\.csv:2: a point without coordinates has another visibility",
        ),
        (lambda t: t.replace(",0,1,2,", ",0,1,3,", 1), r"faces\.csv:2: a visibility is not 0, 1 or 2"),
        (lambda t: t.replace("5,6,70,60,yes", "5,6,7O,60,yes"), r"faces\.csv:3 \(x_max\): '7O' is not a pixel"),
        (lambda t: t.replace("60,yes", "60"), r"faces\.csv:3: \d+ fields, expected \d+ as in line 1"),
        (lambda t: t + t.splitlines()[1], r"faces\.csv:4: the same photo and points as at .*faces\.csv:2, expected"),
    ],
)
def test_csv(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    path = official.write_csv(tmp_path)
    _edit(path, change)
    assert re.search(message, _message("csv", path, "all", "provided", "29"))


def test_two_faces_of_one_name(tmp_path: Path) -> None:
    for suffix in (".pts", ".PTS"):
        (tmp_path / "x").with_suffix(suffix).write_text(official.pts_text(official.points(68)))
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system does not tell x.pts from x.PTS")
    official.write_photo(tmp_path / "x.jpg")
    assert re.search(r"x\.jpg: two faces are called 'x'", _message("pts", tmp_path, "all", scheme="68"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"points": np.zeros((3, 67, 2))},
            r"train_68\.npz: 'points' is float64 \(3, 67, 2\), expected floats, \(N, 68, 2\)",
        ),
        ({"shapes": np.zeros((3, 68, 2))}, r"train_68\.npz: has no array 'points'"),
        ({"points": np.full((3, 68, 2), np.nan)}, r"train_68\.npz: points\[0\]: no labelled point"),
        ({"points": np.array([{}])}, r"train_68\.npz: not a readable \.npz file"),
    ],
)
def test_shapes(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "300w_train_68.npz", **content)
    assert re.search(message, _message("shapes", tmp_path, "300w_train"))


@pytest.mark.parametrize(
    ("name", "split", "file"),
    [
        ("300w", "train", "none of the folders afw"),
        ("300w-private", "indoor", "none of the folders 01_Indoor"),
        ("cofw", "train", "COFW_train_color.mat: no such file"),
        ("cofw68", "test", "no 1_points.mat there"),
        ("wflw", "blur", "list_98pt_rect_attr_test.txt: no such file"),
        ("menpo", "semifrontal", "no .pts files"),
        ("shapes", "300w_train", "300w_train_68.npz: no such file"),
        ("ytf", "train", "train.json: no such file"),
        ("aflw2000", "val", "val.json: no such file"),
    ],
)
def test_nothing_there(tmp_path: Path, name: str, split: str, file: str) -> None:
    assert file in _message(name, tmp_path, split)
    assert file in _message(name, tmp_path / "no" / "such", split)


def test_reading_needs_no_heavy_library(tmp_path: Path) -> None:
    official.write_wflw(tmp_path)
    code = (
        "import sys; from facemsm.data.catalogue import load_dataset;"
        f"load_dataset('wflw', {str(tmp_path)!r}, 'test'); import facemsm.apps.data;"
        "print(sorted({'torch', 'h5py', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_json_written_by_others_with_numbers_as_ids_or_text(tmp_path: Path) -> None:
    content = official.coco_content()
    for entry in content["images"]:
        entry["id"] = f"photo {entry['id']}"
    for entry in content["annotations"]:
        entry["image_id"] = f"photo {entry['image_id']}"
    path = tmp_path / "faces.json"
    official.write_coco(tmp_path, json.loads(json.dumps(content)))
    assert len(load_dataset("coco", path, "all", scheme=str(official.scheme_file(tmp_path)))) == 3


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_names_that_no_file_can_have(name: str) -> None:
    readers: list[Callable[[Path], object]] = [read_text, read_bytes, is_hdf5, lambda path: read_npz(path, ["points"])]
    for read in readers:
        with pytest.raises(FacemsmError, match="is no file name"):
            read(Path(name))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("name", ["a.pts", "a.csv", "a.cvat", "a.dlib", "a.coco", "a.label-studio"])
def test_pipes_are_refused_rather_than_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    root = tmp_path if name == "a.pts" else tmp_path / name
    with pytest.raises(FacemsmError, match="it is a pipe"):
        load_dataset(name[2:], root, "all", "gt", "68")
    with pytest.raises(FacemsmError, match="a pipe"):
        read_npz(tmp_path / name, ["points"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_pipes_of_the_shell_are_read() -> None:
    read, write = os.pipe()
    os.write(write, b"text")
    os.close(write)
    assert read_text(Path(f"/dev/fd/{read}")) == "text"
    os.close(read)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_without_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facemsm.files._LARGEST_PIPE", 100)
    os.mkfifo(tmp_path / "a")
    writer = threading.Thread(target=(tmp_path / "a").write_bytes, args=(bytes(101),))
    writer.start()
    with pytest.raises(FacemsmError, match="more than the 100 bytes that are read of a pipe"):
        read_text(tmp_path / "a", named=True)
    writer.join()
