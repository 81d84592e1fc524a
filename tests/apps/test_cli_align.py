from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from rich.progress import Progress

from facemsm.apps.cli import COMMANDS, main
from facemsm.assets import SAMPLE
from facemsm.batch.pipeline import Outcome, Photo, PhotoAligner
from facemsm.data.catalogue import load_dataset
from facemsm.data.ibug import read_pts
from facemsm.errors import FacemsmError
from facemsm.face import Face
from facemsm.imaging.io import read_image, write_image
from facemsm.results.jsonl import read_results
from facemsm.schemes import get_scheme
from facemsm.shapes.measures import MEASURES
from facemsm.shapes.reconstruction import Reconstruction
from facemsm.stages import Settings
from facemsm.typing import Image, PathLike

Run = Callable[..., tuple[int, str, str]]


class StandInAligner:
    """Finds one face in the middle of every photo that is not black; its landmarks are spread over the box."""

    scheme = get_scheme("68")
    description: Mapping[str, Any] = {"weights": "68", "checksum": "0"}
    options: Mapping[str, Any] = {}
    interrupt_at: int | None = None

    def __init__(self) -> None:
        self.calls = 0

    @classmethod
    def from_pretrained(cls, name: str = "68", **options: Any) -> StandInAligner:
        if name != "68":
            raise FacemsmError(f"there are no weights {name!r}; choose 68")
        cls.options = options
        cls.description = {"weights": name, "checksum": "0", **asdict(options["settings"] or Settings())}
        return cls()

    def align(self, image: PathLike | Image, boxes: ArrayLike | None = None) -> list[Face]:
        assert isinstance(image, np.ndarray)
        if self.calls == self.interrupt_at:
            raise KeyboardInterrupt
        self.calls += 1
        height, width = image.shape[:2]
        if (image[0, 0] == (255, 0, 255)).all():
            raise IndexError("a bug\nof two lines")
        given = boxes is not None
        rows: ArrayLike = boxes if boxes is not None else [[0, 0, width - 1, height - 1]] if image.any() else []
        unit = np.random.default_rng(0).random((68, 2))
        faces = []
        for box in np.asarray(rows, np.float32).reshape(-1, 4):
            points = (box[:2] + unit * (box[2:] - box[:2])).astype(np.float32)
            scores = unit[:, 0].astype(np.float32)
            theta = np.eye(2, 3, dtype=np.float32)
            faces.append(Face(points, scores, scores < 0.4, box, theta, points, None if given else 0.9))
        return faces


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, command: Run, tmp_path: Path) -> Run:
    """Runs ``facemsm align ARGS -o facemsm-out``, or another -o of ARGS, in an empty folder with the stand-in.

    Returns exit code, stdout, stderr.
    """
    module = ModuleType("facemsm.aligner")
    module.Aligner = StandInAligner  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "facemsm.aligner", module)
    monkeypatch.setattr(StandInAligner, "interrupt_at", None)
    monkeypatch.chdir(tmp_path)

    def run_align(*args: str) -> tuple[int, str, str]:
        output = [] if {"-o", "--output"} & set(args) else ["-o", "facemsm-out"]
        return command("align", *args, *output)

    return run_align


def photo(path: str, value: int = 90, shape: tuple[int, int] = (60, 80)) -> None:
    write_image(path, np.full((*shape, 3), value, np.uint8))


def images() -> list[str]:
    return [result.image for result in read_results(Path("facemsm-out/landmarks.jsonl"))]


def test_photos_folders_and_patterns(run: Run) -> None:
    for name in (
        "b.jpg",
        "a.PNG",
        "in/one.webp",
        "in/deep/Zoë.tif",
        "in/.hidden.jpg",
        "in/.git/x.jpg",
        "p1.bmp",
        "p2.bmp",
    ):
        photo(name)
    Path("in/notes.txt").write_text("no photo")
    Path("b.jpg").rename("b.photo")
    code, out, err = run("b.photo", "in", "p*.bmp", "a.PNG", "a.PNG")
    assert (code, err) == (0, "")
    assert images() == ["b.photo", "in/one.webp", "in/deep/Zoë.tif", "p1.bmp", "p2.bmp", "a.PNG"]
    assert "6 photos read" in out
    assert "6 faces" in out
    assert f"landmarks: {Path('facemsm-out/landmarks.jsonl')}" in out
    assert "pictures" not in out


def test_without_paths_the_sample_is_aligned_and_drawn(run: Run) -> None:
    code, out, _ = run("--draw")
    assert code == 0
    assert images() == [SAMPLE.as_posix()]
    assert f"pictures:  {Path('facemsm-out/drawn/sample.jpg')}" in out
    drawn, original = read_image("facemsm-out/drawn/sample.jpg"), read_image(SAMPLE)
    assert drawn.shape == original.shape
    assert np.abs(drawn.astype(int) - original).max() > 50


def test_sample_is_small() -> None:
    assert SAMPLE.stat().st_size < 150_000
    assert SAMPLE.with_name("SAMPLE_LICENSE.md").is_file()


def test_bad_photos_are_reported_in_a_line_each_and_the_rest_goes_on(run: Run) -> None:
    photo("0 good.jpg")
    Path("in").mkdir()
    Path("in/text.jpg").write_text("words, words, words, words")
    Path("in/empty.jpg").touch()
    Path("in/cut.jpg").write_bytes(SAMPLE.read_bytes()[:50_000])
    write_image("in/bug.png", np.full((9, 9, 3), (255, 0, 255), np.uint8))
    photo("in/black.png", 0)
    photo("in/dot.png", 0, (1, 1))
    photo("z good.jpg")
    code, out, err = run("0 good.jpg", "missing.jpg", "in", "no*.jpg", "emptyfolder", "z good.jpg")
    assert code == 1
    assert images() == ["0 good.jpg", "in/black.png", "in/dot.png", "z good.jpg"]
    lines = err.splitlines()
    expected = {
        "no*.jpg": "no photo there",
        "missing.jpg": "no such file",
        "in/black.png": "no face found",
        "in/dot.png": "no face found",
        "in/bug.png": "failed unexpectedly (IndexError('a bug\\nof two lines')); please report this",
        "in/cut.jpg": "truncated",
        "in/empty.jpg": "is empty (0 bytes)",
        "in/text.jpg": "is not a JPEG",
        "emptyfolder": "no such file",
    }
    assert len(lines) == len(expected)
    for name, why in expected.items():
        assert [why in line for line in lines if line.startswith(f"{Path(name)}: ")] == [True], name
    assert "4 photos read" in out
    assert "2 faces" in out
    assert "2 photos without a face" in out
    assert "7 failed, reasons above" in out


def test_no_face_at_all_is_no_error(run: Run) -> None:
    photo("black.png", 0)
    for form in ("json", "csv", "pts"):
        code, out, err = run("black.png", "--draw", "-f", form, "-o", form)
        assert (code, err) == (0, "black.png: no face found\n")
        assert "0 faces, 1 photo without a face" in out
        assert "pictures" not in out
        assert next(read_results(Path(form, "landmarks.jsonl"))).faces == []


@pytest.mark.slow
def test_large_and_odd_photos_give_points_in_their_own_pixels(run: Run) -> None:
    cv2.imencode(".png", np.full((50, 70), 40_000, np.uint16))[1].tofile("deep.png")
    cv2.imencode(".jpg", np.full((50, 70), 99, np.uint8))[1].tofile("grey.jpg")
    cv2.imencode(".jpg", np.full((10_000, 10_000), 99, np.uint8))[1].tofile("huge.jpg")
    code, _, err = run("deep.png", "grey.jpg", "huge.jpg")
    assert (code, err) == (0, "")
    sizes = [(r.width, r.height, r.faces[0].points.max()) for r in read_results(Path("facemsm-out/landmarks.jsonl"))]
    assert [size[:2] for size in sizes] == [(70, 50), (70, 50), (10_000, 10_000)]
    assert sizes[2][2] > 9_000


def test_csv_and_pts_are_made_from_all_results(run: Run) -> None:
    photo("a/one.jpg")
    photo("b/one.jpg")
    photo("b/one.png")
    code, out, _ = run("a", "b", "--format", "csv")
    assert code == 0
    assert f"landmarks: {Path('facemsm-out/landmarks.csv')}" in out
    rows = Path("facemsm-out/landmarks.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["image", "a/one.jpg", "b/one.jpg", "b/one.png"]
    assert len(rows[0].split(",")) == 8 + 4 * 68

    code, out, _ = run("a", "b", "--format", "pts", "--resume")
    assert (code, "3 finished before" in out) == (0, True)
    written = sorted(path.relative_to("facemsm-out/pts").as_posix() for path in Path("facemsm-out/pts").rglob("*.pts"))
    assert written == ["a/one_1.pts", "b/one.jpg_1.pts", "b/one.png_1.pts"]
    first = next(read_results(Path("facemsm-out/landmarks.jsonl")))
    np.testing.assert_allclose(read_pts(Path("facemsm-out/pts/a/one_1.pts"), 68), first.faces[0].points, atol=2e-3)


def test_documents_for_annotation_tools_name_photos_and_points_plainly(run: Run) -> None:
    photo("in/a.jpg")
    photo("in/deep/b.jpg")
    code, out, _ = run("in", "--format", "COCO")
    assert code == 0
    assert f"landmarks: {Path('facemsm-out/landmarks.coco.json')}" in out
    document = json.loads(Path("facemsm-out/landmarks.coco.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["a.jpg", "deep/b.jpg"]
    assert document["categories"][0]["keypoints"][30] == "nose tip"
    Path("in/faces.json").write_bytes(Path("facemsm-out/landmarks.coco.json").read_bytes())
    assert len(load_dataset("coco", Path("in/faces.json"), "all", scheme="68")) == 2
    assert run("in", "--format", "label-studio", "-o", "more")[0] == 0
    tasks = json.loads(Path("more/landmarks.label-studio.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [
        f"/data/local-files/?d={name}" for name in ("a.jpg", "deep/b.jpg")
    ]
    photo("in/z.jpg")
    assert run("in", "--resume")[0] == 0  # what an earlier part of the run wrote is brought up to date
    assert len(json.loads(Path("facemsm-out/landmarks.coco.json").read_text())["images"]) == 3


def test_measures_and_scores_of_faces(run: Run) -> None:
    photo("a.jpg")
    code, _, _ = run("a.jpg", "--measures", "--format", "csv")
    assert code == 0
    (line,) = Path("facemsm-out/landmarks.jsonl").read_text().splitlines()
    (found,) = json.loads(line)["faces"]
    assert set(found["measures"]) == set(MEASURES)
    assert 0.4 < found["score"] < 0.6
    header = Path("facemsm-out/landmarks.csv").read_text().splitlines()[0].split(",")
    assert header[6:14] == ["detection_score", "score", *MEASURES]
    code, _, err = run("a.jpg", "--resume")
    assert (code, "were made with measures true" in err) == (2, True)


def test_faces_with_low_scores_are_counted_or_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    photo("a.jpg")
    assert "score below" not in run("a.jpg")[1]
    align = StandInAligner.align

    def unsure(self: StandInAligner, *args: Any) -> list[Face]:
        return [replace(face, scores=face.scores * 0.2) for face in align(self, *args)]

    monkeypatch.setattr(StandInAligner, "align", unsure)
    code, out, err = run("a.jpg", "-o", "low")
    assert (code, err) == (0, "")
    assert "1 face, 1 of them with a score below 0.3" in out
    code, out, err = run("a.jpg", "--min-score", "0.3", "-o", "left", "--draw")
    assert (code, err) == (0, "a.jpg: no face found, 1 low score left out\n")
    assert "0 faces, 1 face left out for a low score" in out
    assert next(read_results(Path("left/landmarks.jsonl"))).faces == []


def test_drawn_pictures_are_not_aligned_the_next_time(run: Run) -> None:
    photo("a.jpg")
    for _ in range(2):
        assert run(".", "--draw", "--output", ".", "--resume")[0] == 0
        assert sorted(path.as_posix() for path in Path().rglob("*.jpg")) == ["a.jpg", "drawn/a.jpg"]
    assert [r.image for r in read_results(Path("landmarks.jsonl"))] == ["a.jpg"]
    assert run(".", "--draw", "--output", "facemsm-out/2026-11-28-1")[0] == 0
    code, out, err = run(".", "--draw", "--output", "more/second")
    assert (code, "1 photo read" in out) == (0, True)
    assert err.splitlines() == [
        "drawn: left out, it holds what earlier runs wrote",
        "facemsm-out: left out, it holds what earlier runs wrote",
    ]
    photo("more/drawn/mine.jpg")  # a folder of that name beside which nothing says that it is ours
    photo("drawn/named.jpg")
    assert run("drawn", "more", "--output", "third")[0] == 0
    assert [r.image for r in read_results(Path("third/landmarks.jsonl"))] == [
        "drawn/a.jpg",
        "drawn/named.jpg",
        "more/drawn/mine.jpg",
    ]


def test_files_of_other_kinds_are_named_and_counted(run: Run) -> None:
    photo("photos/a.jpg")
    for name in ("b.CR2", "c.cr2", "d.mp4", "notes.txt"):
        Path("photos", name).touch()
    code, out, err = run("photos")
    assert (code, "1 photo read" in out, "3 files of other kinds left out" in out) == (0, True, True)
    assert [line.partition(": left out")[0].replace("\\", "/") for line in err.splitlines()] == [
        "photos/b.CR2 and 1 more",
        "photos/d.mp4",
    ]


def test_given_boxes(run: Run) -> None:
    for name in ("in/a.jpg", "in/b.jpg", "in/c.jpg", "in/d.jpg", "in/e.jpg", "in/f.jpg"):
        photo(name)
    Path("boxes.csv").write_text(
        "image,x_min,y_min,x_max,y_max\na.jpg,10,10,30,30\nb.jpg,nan,1,2,3\nc.jpg,30,10,10,30\nd.jpg,500,500,600,600\n"
        "a.jpg,40,10,70,40\nf.jpg,-20,-20,30,30\n"
    )
    code, _, err = run("in", "--boxes", "boxes.csv")
    assert code == 1
    assert [line.replace("\\", "/") for line in err.splitlines()] == [
        "in/b.jpg: box 1 of 1, [nan, 1, 2, 3], is not finite; give four numbers",
        "in/c.jpg: box 1 of 1, [30, 10, 10, 30], has no area; the order is x_min, y_min, x_max, y_max",
        "in/d.jpg: box 1 of 1, [500, 500, 600, 600], lies outside the 80x60 photo",
        "in/e.jpg: has no box in boxes.csv; add a row for it",
    ]
    a, f = read_results(Path("facemsm-out/landmarks.jsonl"))
    assert [face.box.tolist() for face in a.faces] == [[10, 10, 30, 30], [40, 10, 70, 40]]
    assert a.faces[0].detection_score is None
    assert f.faces[0].box.tolist() == [-20, -20, 30, 30]
    # the results serve as boxes for the same photos
    assert run("in/a.jpg", "--boxes", "facemsm-out/landmarks.jsonl", "-o", "again")[0] == 0
    assert [face.box.tolist() for face in next(read_results(Path("again/landmarks.jsonl"))).faces] == [
        [10, 10, 30, 30],
        [40, 10, 70, 40],
    ]


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["--boxes", "none.csv"], "none.csv: "),
        (["--boxes", "empty.csv"], "empty.csv:1: "),
        (["--stages", "1;2"], "--stages '1;2': expected numbers"),
        (["--weights", "5000"], "there are no weights '5000'"),
        (["--detector", "eagle"], "unknown face detector 'eagle'"),
        (["--detector", "centerface", "--provider", "tpu"], "provider 'tpu': the installed ONNX Runtime has only"),
        (["--shard", "0/4"], "--shard '0/4': expected K/N"),
        (["--shard", "5/4"], "--shard '5/4': expected K/N"),
        (["--shard", "3"], "--shard '3': expected K/N"),
        ([""], "the argument after 'a.jpg' is empty: is it a variable"),
        ([" "], "the argument after 'a.jpg' is empty"),
        (["--boxes", ""], "the argument after '--boxes' is empty"),
        (["--boxes="], "the argument after '--boxes' is empty"),
        (["--output= "], "the argument after '--output' is empty"),
        (["--output", "a.jpg"], "cannot be written"),
        (["--output", "a.jpg/out"], "cannot be written"),
    ],
)
def test_what_stops_a_run_before_any_photo(run: Run, args: list[str], why: str) -> None:
    photo("a.jpg")
    Path("empty.csv").touch()
    code, out, err = run("a.jpg", *args)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("facemsm: ")
    assert why in err
    assert not Path("facemsm-out/landmarks.jsonl").exists() or not images()


@pytest.mark.parametrize("name", ["drawn/a.jpg", "pts/a.pts", "landmarks.csv", "landmarks.jsonl"])
def test_what_is_there_already_is_left_as_it_is(run: Run, name: str) -> None:
    photo("a.jpg")
    path = Path("facemsm-out", name)
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    code, out, err = run("a.jpg", "--draw", "-f", "csv")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "choose another --output" in err
    assert path.read_text() == "mine"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_one_line(run: Run) -> None:
    photo("a.jpg")
    Path("facemsm-out").mkdir()
    Path("facemsm-out/landmarks.jsonl").symlink_to("/dev/full")
    code, _, err = run("a.jpg")
    assert code == 2
    assert err == f"facemsm: {Path('facemsm-out/landmarks.jsonl')}: cannot be written (No space left on device)\n"


def test_interrupt_leaves_whole_results_and_resume_continues(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(5):
        photo(f"in/{i}.jpg")
    monkeypatch.setattr(StandInAligner, "interrupt_at", 2)
    code, out, _ = run("in", "missing.jpg", "--format", "csv", "--threads", "1")
    assert code == 130
    assert images() == ["in/0.jpg", "in/1.jpg"]
    assert len(Path("facemsm-out/landmarks.csv").read_text().splitlines()) == 3
    assert "interrupted; the same command with --resume continues" in out

    with Path("facemsm-out/landmarks.jsonl").open("a") as file:
        file.write('{"image":"in/2.jp')  # what a killed process may leave
    monkeypatch.setattr(StandInAligner, "interrupt_at", None)
    code, out, err = run("in", "--format", "csv", "--resume")
    assert (code, err) == (0, "")
    assert images() == [f"in/{i}.jpg" for i in range(5)]
    assert len(Path("facemsm-out/landmarks.csv").read_text().splitlines()) == 6
    assert "3 photos read" in out
    assert "2 finished before" in out

    code, _, err = run("in/0.jpg")
    assert code == 2
    assert err == (
        f"facemsm: {Path('facemsm-out/landmarks.jsonl')}: holds an earlier run's results; add --resume to continue "
        "them, or choose another --output\n"
    )
    assert images() == [f"in/{i}.jpg" for i in range(5)]


class Stdin:
    """Standard input that holds ``data``, or is a terminal."""

    def __init__(self, data: bytes | None) -> None:
        self.buffer, self._terminal = io.BytesIO(data or b""), data is None

    def isatty(self) -> bool:
        return self._terminal


def test_a_photo_through_a_pipe(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    photo("a.jpg")
    Path("-").mkdir()  # means nothing here
    for extra in ((), ("b.jpg",)):
        monkeypatch.setattr(sys, "stdin", Stdin(Path("a.jpg").read_bytes()))
        photo("b.jpg")
        code, out, err = run("-", *extra, "-o", "-")
        records = [json.loads(line) for line in out.splitlines()]
        assert [record["image"] for record in records] == ["-", *extra]
        assert records[0]["bytes"] == Path("a.jpg").stat().st_size
        assert (code, len(records[0]["faces"])) == (0, 1)
        assert err.startswith(f"{len(records)} photo")
    monkeypatch.setattr(sys, "stdin", Stdin(Path("a.jpg").read_bytes()))
    assert run("-", "--draw")[0] == 0
    assert images() == ["-"]
    assert len(list(Path("facemsm-out/drawn").iterdir())) == 1


@pytest.mark.parametrize(
    ("data", "code", "why"),
    [
        (None, 2, "facemsm: -: no photo on standard input; pipe one in"),
        (b"", 2, "facemsm: -: standard input is empty; pipe a photo in"),
        (b"<html>", 1, "-: is not a JPEG, PNG,"),
        (SAMPLE.read_bytes()[:1000], 1, "-: is truncated, damaged"),
    ],
)
def test_what_is_no_photo_through_a_pipe(
    data: bytes | None, code: int, why: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(data))
    got, out, err = run("-", "-o", "-")
    assert (got, out) == (code, "")
    assert err.startswith(why)


def test_results_through_a_pipe(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("a.jpg", "é.jpg"):
        photo(f"in/{name}")
    Path("in/c.jpg").write_bytes(b"no photo")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before = {*Path().rglob("*")}
    code, out, err = run("in", "-o", "-")
    assert code == 1
    assert [json.loads(line)["image"] for line in out.splitlines()] == ["in/a.jpg", "in/é.jpg"]
    assert f"{Path('in/c.jpg')}: is not a" in err
    assert "2 photos read" in err
    _, out, _ = run("in", "-o", "-", "--format", "csv")
    assert [row.partition(",")[0] for row in out.splitlines()] == ["image", "in/a.jpg", "in/é.jpg"]
    _, out, _ = run("in", "-o", "-", "--format", "coco")
    assert [image["file_name"] for image in json.loads(out)["images"]] == ["a.jpg", "é.jpg"]
    assert {*Path().rglob("*")} == before
    for options in (["--draw"], ["--resume"], ["--format", "pts"]):
        code, out, err = run("in", "-o", "-", *options)
        assert (code, out) == (2, "")
        assert err.startswith(f"facemsm: {' '.join(options)}: needs a folder")


def test_a_reader_that_has_seen_enough() -> None:
    code = """
import sys
from facemsm.batch import job
from facemsm.apps.cli import main
from facemsm.batch.pipeline import Outcome
class Work:
    scheme = settings = None
    def __init__(self, **_): pass
    def draw_into(self, *_): pass
    def __call__(self, photo): return Outcome(str(photo.path), "{}" + " " * 100_000, 1)
job.PhotoAligner = Work
sys.argv = ["facemsm", "align", *[f"{i}.jpg" for i in range(100)], "-o", "-"]
main()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(2) == b"{}"
    process.stdout.close()
    assert (process.wait(), process.stderr.read()) == (1, b"")


def test_threads_that_no_machine_can_start(run: Run) -> None:
    photo("a.jpg")
    assert run("a.jpg", "--threads", "1000000000")[0] == 2


def test_given_boxes_need_no_detector(run: Run) -> None:
    photo("a.jpg")
    Path("boxes.csv").write_text("image,x_min,y_min,x_max,y_max\na.jpg,1,2,30,40\n")
    for option in (("--detector", "dlib"), ("--detector-model", "a"), ("--min-size", "9")):
        code, _, err = run("a.jpg", "--boxes", "boxes.csv", *option)
        assert code == 2
        assert err.startswith(f"facemsm: {option[0]}: is for faces that the detector finds; leave it out with --boxes")


def test_resume_knows_the_boxes_by_their_content(run: Run) -> None:
    photo("a.jpg")
    table = Path("boxes.csv")
    table.write_text("image,x_min,y_min,x_max,y_max\na.jpg,1,2,30,40\n")
    assert run("a.jpg", "--boxes", "boxes.csv")[0] == 0
    os.utime(table, (1, 1))
    table.write_text(table.read_text().replace("2,30", "2.0, 30"))  # the same, written otherwise
    assert run("a.jpg", "--boxes", "boxes.csv", "--resume")[0] == 0
    table.write_text(table.read_text().replace("30", "31"))
    code, _, err = run("a.jpg", "--boxes", "boxes.csv", "--resume")
    assert code == 2
    assert "results there were made with boxes " in err


@pytest.mark.skipif(sys.platform == "win32", reason="pipes have no names")
def test_results_that_are_a_pipe(run: Run) -> None:
    photo("a.jpg")
    Path("facemsm-out").mkdir()
    os.mkfifo("facemsm-out/landmarks.jsonl")
    code, _, err = run("a.jpg")
    assert code == 2
    assert err.endswith("landmarks.jsonl: is a pipe; choose another --output, or - for standard output\n")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes have no names")
def test_boxes_through_a_pipe(run: Run) -> None:
    photo("a.jpg")
    table = "image,x_min,y_min,x_max,y_max\na.jpg,1,2,30,40\n"
    Path("boxes.csv").write_text(table)
    run("a.jpg", "--boxes", "boxes.csv", "-f", "coco")
    contents = [table, *(Path("facemsm-out", f"landmarks.{kind}").read_text() for kind in ("coco.json", "jsonl"))]
    for i, content in enumerate(contents):
        os.mkfifo(f"pipe-{i}")
        threading.Thread(target=Path(f"pipe-{i}").write_text, args=(content,)).start()
        code, out, _ = run("a.jpg", "-o", "-", "--boxes", f"pipe-{i}")
        assert code == 0
        assert json.loads(out)["faces"][0]["box"] == [1, 2, 30, 40]
    read, write = os.pipe()
    os.write(write, table.encode())
    os.close(write)
    assert run("a.jpg", "-o", "-", "--boxes", f"/dev/fd/{read}")[0] == 0
    os.close(read)


def test_without_ray_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "facemsm.batch.ray", raising=False)
    photo("a.jpg")
    code, _, err = run("a.jpg", "--ray", "local")
    assert code == 2
    assert err.startswith("facemsm: Ray needs the module ")
    assert err.endswith('pip install "facemsm[ray]"\n')


def test_options_reach_the_aligner(run: Run) -> None:
    photo("a.jpg")
    options = ["--stages", "2,3", "--method", "paper", "--threshold-contour", "0.3", "--threads", "2"]
    run("a.jpg", *options, "--provider", "cuda", "--provider", "openvino", "--any-rotation")
    settings = Settings("paper", (2, 3), Reconstruction(contour_threshold=0.3), any_rotation=True)
    providers = ["cuda", "openvino"]
    assert StandInAligner.options == {"detector": None, "settings": settings, "threads": 2, "providers": providers}
    code, _, err = run("a.jpg", "--threshold-contour", "0.3", "--resume")
    assert code == 2
    assert "--threshold-contour: is for --method paper only" in err


@pytest.mark.slow
def test_each_method_moves_the_points_in_its_own_way(tmp_path: Path) -> None:
    def points(*words: str) -> NDArray[np.float64]:
        output = tmp_path / "-".join(("out", *words))
        command = [sys.executable, "-m", "facemsm", "align", str(SAMPLE), "-o", str(output), *words]
        subprocess.run(command, check=True, capture_output=True)
        (result,) = read_results(output / "landmarks.jsonl")
        return np.asarray([result.faces[0].points, result.faces[0].preliminary], np.float64)

    paper, weighed = points("--method", "paper"), points("--method", "calibrated")
    np.testing.assert_array_equal(paper[1], weighed[1])  # stages 1 and 2 are the same
    assert (paper[0] == paper[1]).all(axis=1).any()  # sure points stay
    assert (weighed[0] != weighed[1]).any(axis=1).mean() > 0.5


def test_threads_change_nothing_in_what_is_written(run: Run) -> None:
    for i in range(25):
        photo(f"in/{i}.jpg", value=10 * (i % 5))  # every fifth is black
    Path("in/1 cut.jpg").write_bytes(SAMPLE.read_bytes()[:50_000])
    reports = {run("in", "--draw", "--output", str(n), "--threads", str(n))[2] for n in (1, 2, 7)}
    assert len(reports) == 1
    assert len(reports.pop().splitlines()) == 1 + 5
    for name in ("landmarks.jsonl", "drawn/21.jpg"):
        assert len({Path(folder, name).read_bytes() for folder in ("1", "2", "7")}) == 1


def test_single_photo_has_all_threads(run: Run) -> None:
    photo("a.jpg")
    photo("b.jpg")
    run("a.jpg", "--threads", "3")
    assert StandInAligner.options["threads"] == 3
    run("a.jpg", "b.jpg", "--threads", "3", "--resume")
    assert StandInAligner.options["threads"] == 1


def test_shards_make_up_the_whole(run: Run) -> None:
    for i in range(40):
        photo(f"in/{i % 4}/{i}.jpg")
    run("in")
    whole = images()
    for i in (1, 2, 3):
        code, out, _ = run("in", "--shard", f"{i}/3", "--format", "csv")
        assert code == 0
        assert f"landmarks: {Path(f'facemsm-out/landmarks-{i}-of-3.csv')}" in out
    files = [Path(f"facemsm-out/landmarks-{i}-of-3.jsonl") for i in (1, 2, 3)]
    parts = [[result.image for result in read_results(file)] for file in files]
    assert sorted(image for part in parts for image in part) == sorted(whole)
    assert all(6 <= len(part) <= 22 for part in parts)
    assert all(part == [image for image in whole if image in part] for part in parts)

    Path("facemsm-out/landmarks.jsonl").write_bytes(b"".join(file.read_bytes() for file in files))
    assert "0 photos read" in (out := run("in", "--resume")[1])
    assert "40 finished before" in out


def test_shards_and_boxes(run: Run) -> None:
    photo("in/a.jpg")
    photo("in/b.jpg")
    Path("boxes.csv").write_text("image,x_min,y_min,x_max,y_max\na.jpg,10,10,30,30\nb.jpg,10,10,30,30\n")
    outs = [run("in", "--shard", f"{i}/4", "--boxes", "boxes.csv")[:2] for i in (1, 2, 3, 4)]
    assert {code for code, _ in outs} == {0}
    assert sum(int(out.split()[0]) for _, out in outs) == 2


LONG = f"k{'é' * 122}.jpg"
"""249 bytes. File systems take 255."""


def test_no_name_stops_a_run(run: Run) -> None:
    names = ("a.jpg", LONG, LONG.replace(".jpg", ".png"), "z", "z.jpg")
    for name in names:
        photo("new.jpg")
        Path("new.jpg").rename(name)
    for before in (0, 5):
        code, out, err = run(*names, "--draw", "-f", "pts", "--resume")
        assert (code, err) == (0, "")
        assert f"{5 - before} photos read" in out
    assert len(list(Path("facemsm-out/drawn").iterdir())) == 5
    assert len(list(Path("facemsm-out/pts").iterdir())) == 5
    assert {"a.jpg", "z.jpg"} < {path.name for path in Path("facemsm-out/drawn").iterdir()}
    assert {"a_1.pts", "z_1.pts"} < {path.name for path in Path("facemsm-out/pts").iterdir()}


def test_a_picture_that_cannot_be_written_or_drawn_costs_its_photo_only(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facemsm.batch import pipeline
    from facemsm.imaging.drawing import draw_faces

    def draw_most(image: Image, *args: Any) -> Image:
        if image[0, 0, 0] < 20:
            raise ZeroDivisionError("a bug")
        return draw_faces(image, *args)

    monkeypatch.setattr(pipeline, "draw_faces", draw_most)
    photo("in/a.jpg")
    photo("in/a.png")
    photo("in/a.png.jpg/deep.jpg")  # the folder of its picture would have the name of the other's picture
    photo("in/b.jpg")
    photo("in/dark.jpg", 10)
    code, out, err = run("in", "--draw", "--threads", "1")
    assert code == 1
    assert [line.replace("\\", "/").split(": ")[0] for line in err.splitlines()] == [
        "in/dark.jpg",
        "in/a.png.jpg/deep.jpg",
    ]
    assert "failed unexpectedly (ZeroDivisionError" in err
    assert "cannot be written" in err
    assert images() == ["in/a.jpg", "in/a.png", "in/b.jpg"]
    assert "2 failed, reasons above" in out


def test_a_full_disk_under_the_pictures_stops_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    photo("a.jpg")
    photo("b.jpg")
    monkeypatch.setattr(Path, "write_bytes", full)
    code, out, err = run("a.jpg", "b.jpg", "--draw")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "drawn" in err
    assert "(No space left on device)" in err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_a_folder_is_reported(run: Run) -> None:
    photo("in/a.jpg")
    os.mkfifo("in/b.jpg")
    photo("in/c.jpg")
    code, _, err = run("in")
    assert (code, err) == (1, "in/b.jpg: cannot be read (it is a folder, a pipe or a device); give a file\n")
    assert images() == ["in/a.jpg", "in/c.jpg"]


def test_runs_write_into_new_folders(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    del run  # which names a folder

    def newly(*args: str) -> tuple[int, Path]:
        monkeypatch.setattr(sys, "argv", ["facemsm", "align", *args])
        before = set(Path("facemsm-out").glob("*"))
        with pytest.raises(SystemExit) as exit_:
            main()
        made = set(Path("facemsm-out").glob("*")) - before
        return int(exit_.value.code or 0), made.pop() if made else Path()

    photo("a.jpg")
    photo("b.jpg")
    assert newly("a.jpg", "--weights", "none") == (2, Path()), "no folder for what fails before any photo"
    code, first = newly("a.jpg")
    assert code == 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-1", first.name)
    for number in range(2, 11):
        assert newly("a.jpg")[1].name == f"{first.name[:-2]}-{number}"
    assert newly("a.jpg", "b.jpg", "--resume") == (0, Path())
    counts = {path.parent.name: len(list(read_results(path))) for path in Path("facemsm-out").glob("*/*.jsonl")}
    assert counts.pop(f"{first.name[:-2]}-10") == 2, "the newest is continued"
    assert set(counts.values()) == {1}
    assert newly("a.jpg", "--shard", "1/2") == (2, Path())


def test_interrupted_in_a_new_folder_it_says_which(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del run
    photo("a.jpg")
    photo("b.jpg")
    monkeypatch.setattr(StandInAligner, "interrupt_at", 1)
    monkeypatch.setattr(sys, "argv", ["facemsm", "align", "a.jpg", "b.jpg", "--threads", "1"])
    with pytest.raises(SystemExit):
        main()
    (folder,) = Path("facemsm-out").iterdir()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"interrupted; the same command with --output {folder} --resume continues"


def test_resume_knows_photos_by_any_spelling(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    photo("p/in/a.jpg")
    photo("q/in/a.jpg")
    (tmp_path / "link").symlink_to("p")
    output = ("-o", str(tmp_path / "o"), "--resume", "-f", "pts", "-d")
    monkeypatch.chdir("p")
    run("in", *output)
    for again in ("./in", "in/../in/a.jpg", str(tmp_path / "p/in"), "../link/in", "../link/in/a.jpg"):
        assert "1 finished before" in run(again, *output)[1], again
    monkeypatch.chdir("../q")
    assert "1 photo read" in run("in", *output)[1]
    assert "2 finished before" in run("in", "../p", *output)[1]
    monkeypatch.chdir("..")
    assert "2 finished before" in run("p/in", "q", *output)[1]
    names = [result.image for result in read_results(Path("o/landmarks.jsonl"))]
    assert names == ["in/a.jpg", (tmp_path / "q/in/a.jpg").as_posix()]
    for kind in ("drawn", "pts"):
        assert len([path for path in Path("o", kind).rglob("*") if path.is_file()]) == 2, "neither in the other's place"
    (tmp_path / "p").rename("moved")  # what the names were relative to is gone: they start here
    monkeypatch.chdir("moved")
    assert "1 finished before" in run("in", *output)[1]


def test_resume_tells_of_photos_that_were_replaced(run: Run) -> None:
    photo("a.jpg")
    photo("b.jpg")
    run("a.jpg", "b.jpg", "-o", "o")
    before = Path("o/landmarks.jsonl").read_bytes()
    with Path("b.jpg").open("ab") as file:
        file.write(b"longer")
    code, out, err = run("a.jpg", "b.jpg", "-o", "o", "--resume")
    assert (code, err) == (1, "b.jpg: is not the file any more whose results are there; choose another --output\n")
    assert "1 failed, reasons above, 1 finished before" in out
    assert Path("o/landmarks.jsonl").read_bytes() == before
    Path("o/landmarks.jsonl").write_bytes(before.splitlines(keepends=True)[0])  # without its line it is done again
    assert "1 photo read" in run("a.jpg", "b.jpg", "-o", "o", "--resume")[1]
    Path("b.jpg").unlink()
    assert run("a.jpg", "b.jpg", "-o", "o", "--resume")[0] == 0


def test_resume_keeps_to_the_settings(run: Run) -> None:
    photo("a.jpg")
    photo("b.jpg")
    Path("boxes.csv").write_text("image,x_min,y_min,x_max,y_max\na.jpg,10,10,30,30\n")
    assert run("a.jpg")[0] == 0
    for args, why in (
        (["--stages", "2"], "made with stages [1, 2, 3] (landmarks.run.json), not [2]"),
        (["--method", "paper"], 'made with method null (landmarks.run.json), not "paper"'),
        (["--boxes", "boxes.csv"], 'made with detector "centerface" (landmarks.run.json), not null'),
        (["--draw"], "was begun without --draw"),
        (["--shard", "1/2", "--stages", "2"], "made with stages [1, 2, 3] (landmarks.run.json), not [2]"),
    ):
        code, out, err = run("a.jpg", "b.jpg", "--resume", *args)
        assert (code, out) == (2, ""), args
        assert len(err.splitlines()) == 1
        assert why in err, args
    assert images() == ["a.jpg"]
    run("a.jpg", "--draw", "-f", "csv", "-o", "drawing")
    assert run("a.jpg", "b.jpg", "-o", "drawing", "--resume")[0] == 0
    assert Path("drawing/drawn/b.jpg").is_file(), "a run that draws goes on drawing"
    assert len(Path("drawing/landmarks.csv").read_text().splitlines()) == 3, "and its other files stay complete"


def test_names_with_control_characters(run: Run) -> None:
    name = "in/a\x1b]0;title\x07\x1b[31m\r\nforged.jpg: all well\u202e.jpg"
    formula = '=HYPERLINK("http:x","y").jpg'
    photo("a.jpg")
    Path("in").mkdir()
    try:
        Path("a.jpg").rename(name)
    except OSError:
        pytest.skip("no such names here")
    Path("in/bad\x1b[31m.jpg").write_text("no photo")
    photo(formula)
    code, out, err = run("in", formula, "--draw", "-f", "csv")
    assert code == 1
    assert err.startswith("in/bad\\x1b[31m.jpg: is not a")
    assert not set("\x1b\x07\r") & set(out + err)
    assert len(err.splitlines()) == 1
    lines = Path("facemsm-out/landmarks.csv").read_bytes().decode().split("\n")
    assert [line[:8] for line in lines] == ["image,fa", "in/a\\x1b", '"./=HYPE', ""]
    assert "\r" not in "".join(lines)
    assert images() == [name, formula]
    assert run("in", formula, "-o", "again", "--boxes", "facemsm-out/landmarks.csv")[0] == 1
    assert len(list(read_results(Path("again/landmarks.jsonl")))) == 2


def child(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs ``facemsm ARGS`` in a process of its own."""
    settings: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "check": False}
    return subprocess.run([sys.executable, "-m", "facemsm", *args], **{**settings, **options})


@pytest.mark.slow
def test_output_in_a_code_page_that_lacks_the_names(tmp_path: Path) -> None:
    (tmp_path / "写真.jpg").symlink_to(SAMPLE)
    for page in ("cp1252", "latin-1", "ascii"):
        environment = {**os.environ, "PYTHONIOENCODING": page}
        done = child("align", "写真.jpg", "-d", "-o", page, cwd=tmp_path, env=environment, encoding=page)
        assert (done.returncode, done.stderr) == (0, "")
        assert "\\u5199\\u771f.jpg" in done.stdout
        assert (tmp_path / page / "drawn/写真.jpg").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_or_closed_outputs_lose_no_results(tmp_path: Path, unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = f"{sys.executable} -m facemsm align {SAMPLE} none.jpg -o"
    unread = "none.jpg: no such file\n"

    def shell(rest: str) -> tuple[int, str, str]:
        done = subprocess.run(["sh", "-c", f"{command} {rest}"], cwd=tmp_path, env=environment, capture_output=True)
        return done.returncode, done.stdout.decode(), done.stderr.decode().replace(unread, "")

    full = "facemsm: standard output cannot be written (No space left on device); what went into files is whole\n"
    assert shell("1 >/dev/full") == (2, "", full)
    assert shell("2 >&-") == (1, "", "")
    code, out, err = shell("3 2>/dev/full")
    assert (code, "1 photo read" in out, err) == (1, True, "")
    assert shell("4 >&- 2>&-") == (1, "", "")
    assert shell("5 | head -c 0")[2] == ""
    for folder in "12345":
        assert len(list(read_results(tmp_path / folder / "landmarks.jsonl"))) == 1


@pytest.mark.slow
def test_runs_that_start_at_once_do_not_touch_each_other(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    for i in range(3):
        (tmp_path / f"{i}.jpg").symlink_to(SAMPLE)
    command = [sys.executable, "-m", "facemsm", "align", *(f"{i}.jpg" for i in range(3))]
    outputs: list[list[str]] = [[], [], ["-o", "o"], ["-o", "o"]]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen([*command, *output], cwd=tmp_path, **pipes) for output in outputs]
    codes = [process.wait(120) for process in processes if process.communicate()]
    assert codes[:2] == [0, 0]
    assert sorted(codes[2:]) == [0, 2]
    assert [len(list(read_results(path))) for path in sorted(tmp_path.rglob("*.jsonl"))] == [3, 3, 3]


def test_the_bar_knows_how_many_photos_there_are(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(4):
        photo(f"in/{i}/a.jpg")
    run("in/0")
    counted = threading.Event()
    update, align = Progress.update, PhotoAligner.__call__

    def told(*args: Any, **options: Any) -> None:
        update(*args, **options)
        counted.set()

    def held(self: PhotoAligner, photo: Photo) -> Outcome:
        counted.wait(60)  # the photos are few, and may be done before they are counted
        return align(self, photo)

    monkeypatch.setattr(Progress, "update", told)
    monkeypatch.setattr(PhotoAligner, "__call__", held)
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "120"}.items():  # a terminal, to rich
        monkeypatch.setenv(name, value)
    code, _, err = run("in", "--resume")
    assert code == 0
    assert "3/3" in err


@pytest.mark.parametrize(("typed", "meant"), [("alig", "align"), ("aling", "align"), ("trian", "train")])
def test_a_mistyped_command_is_answered_with_the_right_one(typed: str, meant: str) -> None:
    done = child(typed, "x.jpg")
    assert done.returncode == 2
    assert f"Did you mean '{meant}'?" in done.stderr


def test_formats_in_any_case(run: Run) -> None:
    photo("a.jpg")
    assert run("a.jpg", "--format", "CSV")[0] == 0
    assert Path("facemsm-out/landmarks.csv").is_file()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads(name: str) -> None:
    command = [sys.executable, "-c", "from facemsm.apps.cli import main; main()", name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys, json; sys.argv = ['facemsm', '--help']\n"
        "from facemsm.apps.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(json.dumps(sorted({'cv2', 'torch', 'onnxruntime', 'numpy'} & set(sys.modules))))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert all(name in done.stdout for name in COMMANDS)


def test_unknown_command_and_version() -> None:
    command = [sys.executable, "-c", "from facemsm.apps.cli import main; main()"]
    unknown = subprocess.run([*command, "aling"], capture_output=True, text=True)
    assert unknown.returncode == 2
    assert "aling" in unknown.stderr
    assert "Traceback" not in unknown.stderr
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.strip()[0].isdigit()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("al", {"align"}),
        ("align --threshold-", {"--threshold-contour", "--threshold-features"}),
        ("video --method ", {"calibrated", "paper"}),
        ("data ch", {"check"}),
    ],
)
def test_the_shell_completes_commands_options_and_values(words: str, offered: set[str]) -> None:
    typed = f"facemsm {words}"
    asked = {"_FACEMSM_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    script = "import sys; sys.argv = ['facemsm']; from facemsm.apps.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert set(done.stdout.split()) == offered, done.stderr
