from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from facemsm.data.ibug import read_pts
from facemsm.errors import FacemsmError
from facemsm.face import Face
from facemsm.results.boxes import match_boxes, read_boxes
from facemsm.results.jsonl import PhotoResult, ResultsFile, read_results
from facemsm.results.tables import write_csv, write_pts
from facemsm.typing import FloatArray

ROUNDED = 6e-4  # half a step of 0.001, and float32's own


def face(points: FloatArray, seed: int = 0, detection_score: float | None = None) -> Face:
    rng = np.random.default_rng(seed)
    return Face(
        points=points,
        scores=rng.random(len(points)).astype(np.float32),
        occluded=rng.random(len(points)) < 0.3,
        box=np.array([10.25, -3.5, 90.125, 70], np.float32),
        theta=rng.normal(size=(2, 3)).astype(np.float32),
        preliminary=points + 1,
        detection_score=detection_score,
    )


def photo(image: str, *faces: Face) -> PhotoResult:
    return PhotoResult(image, 640, 480, "68", faces)


def record(path: Path, results: Sequence[PhotoResult], *, resume: bool = False) -> ResultsFile:
    file = ResultsFile(path, "68", resume=resume)
    for result in results:
        file.append(result)
    file.close()
    return file


POINTS = hnp.arrays(np.float32, (5, 2), elements=st.floats(-1000, 5000, width=32))


@settings(max_examples=40, deadline=None)
@given(
    name=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    points=st.lists(POINTS, max_size=3),
    score=st.none() | st.floats(0, 1),
)
def test_jsonl_round_trip(
    tmp_path_factory: pytest.TempPathFactory, name: str, points: list[FloatArray], score: float | None
) -> None:
    path = tmp_path_factory.mktemp("run") / "landmarks.jsonl"
    written = photo(name, *(face(p, i, score) for i, p in enumerate(points)))
    record(path, [written, photo("other")])
    first, second = read_results(path)
    assert (first.image, first.width, first.height, first.scheme) == (name, 640, 480, "68")
    assert second.image == "other"
    assert second.faces == []
    assert len(first.faces) == len(points)
    for a, b in zip(first.faces, written.faces, strict=True):
        np.testing.assert_allclose(a.points, b.points, atol=ROUNDED)
        np.testing.assert_allclose(a.preliminary, b.preliminary, atol=ROUNDED)
        np.testing.assert_allclose(a.scores, b.scores, atol=ROUNDED)
        np.testing.assert_allclose(a.box, b.box, atol=ROUNDED)
        np.testing.assert_allclose(a.theta, b.theta, atol=1e-6)
        np.testing.assert_array_equal(a.occluded, b.occluded)
        assert (a.detection_score is None) == (score is None)
        assert a.detection_score == pytest.approx(score, abs=ROUNDED)
        assert a.points.dtype == a.scores.dtype == a.box.dtype == np.float32
        assert a.occluded.dtype == np.bool_


def test_every_line_is_whole_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "landmarks.jsonl"
    file = ResultsFile(path, "68")
    for i in range(3):
        file.append(photo(f"{i}.jpg", face(np.zeros((5, 2), np.float32))))
        lines = path.read_text().splitlines()
        assert [json.loads(line)["image"] for line in lines] == [f"{n}.jpg" for n in range(i + 1)]
    file.close()


def test_resume_keeps_whole_lines_and_drops_the_unfinished_one(tmp_path: Path) -> None:
    path = tmp_path / "landmarks.jsonl"
    record(path, [photo("a.jpg"), photo("b.jpg", face(np.zeros((5, 2), np.float32)))])
    whole = path.read_bytes()
    for cut in (b"", b'{"image": "c.j', b'{"image": "' + b"c" * 200_000):
        path.write_bytes(whole + cut)
        done = ResultsFile(path, "68", resume=True).done
        assert ("a.jpg" in done, "b.jpg" in done, "c.jpg" in done, len(done)) == (True, True, False, 2)
        assert path.read_bytes() == whole
    record(path, [photo("c.jpg")], resume=True)
    assert [result.image for result in read_results(path)] == ["a.jpg", "b.jpg", "c.jpg"]
    path.write_bytes(b'{"image": "c.j')
    assert len(ResultsFile(path, "68", resume=True).done) == 0
    assert path.read_bytes() == b""


def test_results_are_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "landmarks.jsonl"
    record(path, [])
    record(path, [photo("a.jpg")])
    with pytest.raises(FacemsmError, match="holds an earlier run's results; choose another --output"):
        record(path, [photo("b.jpg")])
    assert [result.image for result in read_results(path)] == ["a.jpg"]
    record(path, [photo("b.jpg")], resume=True)
    assert [result.image for result in read_results(path)] == ["a.jpg", "b.jpg"]


def test_results_that_cannot_be_continued_or_written(tmp_path: Path) -> None:
    path = tmp_path / "landmarks.jsonl"
    record(path, [photo("a.jpg")])
    with pytest.raises(FacemsmError, match="holds 68-point results, not 98"):
        ResultsFile(path, "98", resume=True)
    with path.open("a") as file:
        file.write('{"image": "b.jpg", "faces": [{}]}\n')
    with pytest.raises(FacemsmError, match=r"landmarks.jsonl:2: is not a line of alignment results"):
        ResultsFile(path, "68", resume=True)
    (tmp_path / "file").touch()
    with pytest.raises(FacemsmError, match="cannot be written"):
        ResultsFile(tmp_path / "file" / "landmarks.jsonl", "68")
    with pytest.raises(FacemsmError, match="no such file"):
        list(read_results(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("line", ["", "[]", "7", "{}", '{"image":"a","width":1,"height":1,"scheme":"68","faces":[7]}'])
def test_lines_that_are_no_results(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text(line + "\n")
    with pytest.raises(FacemsmError, match=r"a.jsonl:1: is not"):
        list(read_results(tmp_path / "a.jsonl"))


def test_paths_of_results_may_be_text(tmp_path: Path) -> None:
    record(tmp_path / "a.jsonl", [photo("a.jpg")])
    assert [result.image for result in read_results(str(tmp_path / "a.jsonl"))] == ["a.jpg"]
    for name, why in (("none.jsonl", "no such file"), ("\0", "cannot be read")):
        with pytest.raises(FacemsmError, match=why):
            list(read_results(name))


def test_csv_has_one_row_a_face(tmp_path: Path) -> None:
    points = np.array([[1.5, 2.25], [30.1234, 40], [-5, 6]], np.float32)
    one, two = face(points, 1, 0.9876), face(points + 100, 2)
    write_csv(tmp_path / "out" / "a.csv", [photo("x,1.jpg", one, two), photo("none.jpg")], 3)
    with (tmp_path / "out" / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["face"], row["detection_score"]) for row in rows] == [
        ("x,1.jpg", "1", "0.988"),
        ("x,1.jpg", "2", ""),
    ]
    for row, expected in zip(rows, (one, two), strict=True):
        read = np.array([[float(row[f"x_{i}"]), float(row[f"y_{i}"])] for i in range(3)])
        np.testing.assert_allclose(read, expected.points, atol=ROUNDED)
        np.testing.assert_allclose([float(row[f"score_{i}"]) for i in range(3)], expected.scores, atol=ROUNDED)
        assert [row[f"occluded_{i}"] for i in range(3)] == [str(int(value)) for value in expected.occluded]
        assert float(row["y_min"]) == -3.5
    assert list(read_boxes(tmp_path / "out" / "a.csv")) == ["x,1.jpg"]


@settings(max_examples=20, deadline=None)
@given(points=POINTS)
def test_pts_round_trip(tmp_path_factory: pytest.TempPathFactory, points: FloatArray) -> None:
    path = tmp_path_factory.mktemp("pts") / "a_1.pts"
    write_pts(path, points)
    np.testing.assert_allclose(read_pts(path, 5), points, atol=ROUNDED)


def test_pts_is_one_based(tmp_path: Path) -> None:
    write_pts(tmp_path / "a.pts", np.array([[0, 0], [10.5, 20.25]], np.float32))
    assert (tmp_path / "a.pts").read_bytes() == b"version: 1\nn_points: 2\n{\n1.000 1.000\n11.500 21.250\n}\n"


def test_boxes_of_csv(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("\ufeffimage,x_min,y_min,x_max,y_max\na.jpg,1,2,3,4.5\nb.jpg,5,6,7,8\na.jpg,nan,0,1,1\n", "utf-8")
    boxes = read_boxes(path)
    assert list(boxes) == ["a.jpg", "b.jpg"]
    np.testing.assert_array_equal(boxes["a.jpg"], np.array([[1, 2, 3, 4.5], [np.nan, 0, 1, 1]], np.float32))
    assert boxes["b.jpg"].dtype == np.float32


def test_boxes_of_coco(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    document = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "sub/b.jpg"}],
        "annotations": [{"image_id": 7, "bbox": [10, 20, 30, 40]}, {"image_id": 7, "bbox": [0, 0, 1, 1]}],
    }
    path.write_text(json.dumps(document))
    boxes = read_boxes(path)
    np.testing.assert_array_equal(boxes["a.jpg"], [[10, 20, 40, 60], [0, 0, 1, 1]])
    assert boxes["sub/b.jpg"].shape == (0, 4)


def test_boxes_of_earlier_results(tmp_path: Path) -> None:
    path = tmp_path / "landmarks.jsonl"
    record(path, [photo("a.jpg", face(np.zeros((5, 2), np.float32))), photo("b.jpg")])
    boxes = read_boxes(path)
    np.testing.assert_array_equal(boxes["a.jpg"], [[10.25, -3.5, 90.125, 70]])
    assert boxes["b.jpg"].shape == (0, 4)


def test_two_spellings_of_a_path_are_one_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "boxes.csv"
    names = ["a.jpg", "./a.jpg", "in/../a.jpg", "b/c.jpg", "b\\c.jpg", "b//c.jpg"]
    rows = "".join(f"{name},{i},0,{i + 1},1\n" for i, name in enumerate(names))
    path.write_text(f"image,x_min,y_min,x_max,y_max\n{rows}")
    found = match_boxes(read_boxes(path), [Path("a.jpg"), Path("b/c.jpg")], path)
    assert {photo.as_posix(): boxes[:, 0].tolist() for photo, boxes in found.items()} == {
        "a.jpg": [0, 1, 2],
        "b/c.jpg": [3, 4, 5],
    }
    one, two = (face(np.full((5, 2), value, np.float32)) for value in (0, 1))
    record(tmp_path / "landmarks.jsonl", [photo("a.jpg", one, two), photo("./a.jpg", one)])
    assert read_boxes(tmp_path / "landmarks.jsonl")["a.jpg"].shape == (1, 4), "done twice, it has not all faces twice"


def test_numbers_beyond_float32_are_told_with_the_photo(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("image,x_min,y_min,x_max,y_max\na.jpg,0,0,1e300,-1e300\n")
    assert read_boxes(tmp_path / "b.csv")["a.jpg"].tolist() == [[0, 0, np.inf, -np.inf]]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("b.csv", "image,x_min,y_min,x_max\na,1,2,3\n", "b.csv:1: has no column 'y_max'"),
        ("b.csv", "image;x_min;y_min;x_max;y_max\n", "b.csv:1: has no column 'image'"),
        ("b.csv", "image,x_min,y_min,x_max,y_max\na,1,2,3,4\nb,1,two,3,4\n", "b.csv:3: a box is four numbers"),
        ("b.csv", "image,x_min,y_min,x_max,y_max\na,1,2,3\n", "b.csv:2: "),
        ("b.json", "{\n\n]", "b.json:3: not valid JSON"),
        ("b.json", "[]", "b.json:1: expected a COCO"),
        (
            "b.json",
            '{"images": [], "annotations": [{"image_id": 1, "bbox": [1,2,3,4]}]}',
            r"annotations\[0\]: image_id",
        ),
        (
            "b.json",
            '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "bbox": [1,2,3]}]}',
            r"annotations\[0\]: 'bbox' has 3 numbers, expected 4",
        ),
        ("b.json", "[" * 100_000, "b.json: not valid JSON"),
        ("b.json", '{"images": [{"id": [1], "file_name": "a"}], "annotations": []}', r"images\[0\]: 'id' is missing"),
        (
            "b.json",
            '{"images": [{"id": 1, "file_name": "a"}],\n"annotations": [{"image_id": 1, "bbox": [1,2,3,NaN]}]}',
            r"b.json:2: annotations\[0\]: 'bbox' must hold numbers only",
        ),
        ("b.txt", "", "b.txt: boxes are read from"),
        ("b.csv", "image,x_min,y_min,x_max,y_max\n,1,2,3,4\n", "b.csv:2: image is empty"),
        ("b.jsonl", "null\n", "b.jsonl:1: is not a line"),
        ("b.jsonl", "[" * 100_000 + "\n", "b.jsonl:1: is not a line"),
        ("b.jsonl", '{"image":null,"width":1,"height":1,"scheme":"68","faces":[]}\n', "image and scheme are text"),
        ("b.jsonl", '{"image":["a"],"width":1,"height":1,"scheme":"68","faces":[]}\n', "image and scheme are text"),
        ("b.jsonl", '{"image":"a","width":1,"height":1,"scheme":"68","faces":null}\n', "b.jsonl:1: is not a line"),
        ("b.jsonl", '{"image":"a","width":null,"height":1,"scheme":"68","faces":[]}\n', "b.jsonl:1: is not a line"),
        ("b.jsonl", '{"image":"a","width":1e999,"height":1,"scheme":"68","faces":[]}\n', "b.jsonl:1: is not a line"),
    ],
)
def test_boxes_files_that_are_wrong(tmp_path: Path, name: str, text: str, why: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(FacemsmError, match=why) as error:
        read_boxes(tmp_path / name)
    assert "\n" not in str(error.value)


def test_match_boxes_by_the_end_of_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one, two, three = (np.full((1, 4), value, np.float32) for value in (1, 2, 3))
    photos = [Path("x/a.jpg"), Path("y/a.jpg"), Path("b.jpg"), Path("c.jpg")]
    boxes = {"x/a.jpg": one, "y\\a.jpg": two, str(tmp_path / "b.jpg"): three, "elsewhere.jpg": one}
    found = match_boxes(boxes, photos, Path("boxes.csv"))
    assert found == {photos[0]: one, photos[1]: two, photos[2]: three}
    with pytest.raises(FacemsmError, match=r"boxes.csv: image 'a.jpg' fits both x.a.jpg and y.a.jpg"):
        match_boxes({"a.jpg": one}, photos, Path("boxes.csv"))
    spellings = [Path("é/ü.jpg"), Path("e\u0301/u\u0308.jpg")]
    for name, other in (spellings, spellings[::-1]):
        assert match_boxes({str(name): one}, [other], Path("boxes.csv")) == {other: one}
    both = {"é/ü.jpg": one, "e\u0301/u\u0308.jpg": two}
    assert match_boxes(both, spellings, Path("boxes.csv")) == {spellings[0]: one, spellings[1]: two}
    with pytest.raises(FacemsmError, match=r"boxes.csv: none of its images, such as 'z.jpg',"):
        match_boxes({"z.jpg": one}, photos, Path("boxes.csv"))
