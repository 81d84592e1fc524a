from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
from numpy.typing import ArrayLike

from facemsm import Aligner
from facemsm.assets import SAMPLE
from facemsm.face import Face
from facemsm.imaging.io import read_image
from facemsm.results.jsonl import read_results
from facemsm.schemes import get_scheme
from facemsm.typing import FloatArray, Image
from facemsm.video import io
from facemsm.video.io import VideoReader, VideoWriter
from facemsm.video.tracking import TrackedFace
from facemsm.video.window import Window
from synthetic_faces import mean_shape

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, command: Run, tmp_path: Path) -> Run:
    """Runs ``facemsm video ARGS`` in an empty folder; exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    return partial(command, "video")


class StubAligner:
    """Stands in for aligner and detector: one face, at the same place in every frame; frames can interrupt or fail."""

    name = "stub"
    scheme = get_scheme("68")
    at: ClassVar[dict[int, BaseException]] = {}

    def __init__(self) -> None:
        self.calls = -1

    @classmethod
    def from_pretrained(cls, name: str, **_: Any) -> StubAligner:
        assert name == "68"
        return cls()

    @property
    def detector(self) -> StubAligner:
        return self

    def detect(self, _: Image) -> FloatArray:
        return np.array([[5, 5, 85, 85, 1]], np.float32)

    def align(self, _: Image, boxes: ArrayLike | None = None) -> list[Face]:
        self.calls += 1
        if self.calls in self.at:
            raise self.at[self.calls]
        shape = mean_shape()
        points = (5 + 80 * (shape - shape.min(axis=0)) / np.ptp(shape, axis=0)).astype(np.float32)
        scores = np.full(68, 0.9, np.float32)
        return [
            Face(points, scores, scores < 0.5, box, np.eye(2, 3, dtype=np.float32), points)
            for box in np.asarray(boxes, np.float32)
        ]


def write_video(path: Path, frames: int, size: tuple[int, int] = (120, 100)) -> Path:
    random = np.random.default_rng(0)
    writer = VideoWriter(path, 30.0, *size)
    for number in range(frames):
        image = random.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
        image[: size[1] // 2] = 5 * number
        writer.write(image, number / 30)
    assert writer.finish() is None
    return path


def read_times(path: Path) -> list[float]:
    reader = VideoReader(path)
    times = [frame.time for frame in reader.frames(lambda line, _: pytest.fail(line))]
    reader.close()
    return times


@pytest.fixture
def stub_aligner(monkeypatch: pytest.MonkeyPatch) -> type[StubAligner]:
    module = ModuleType("facemsm.aligner")
    module.Aligner = StubAligner  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "facemsm.aligner", module)
    monkeypatch.setattr(StubAligner, "at", {})
    return StubAligner


def records(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_a_rendered_video_from_file_to_files(run: Run) -> None:
    """The real weights; their points are compared with each other only."""
    sample = read_image(SAMPLE)
    writer = VideoWriter(Path("in.mp4"), 30.0, 512, 512)
    for number in range(12):
        shift = np.array([[1, 0, 3.0 * number], [0, 1, 0]])
        writer.write(np.asarray(cv2.warpAffine(sample, shift, (512, 512)), np.uint8), number / 30)
    writer.finish()
    code, out, err = run("in.mp4", "-o", "out/drawn.mp4", "--format", "csv")
    assert (code, err) == (0, "")
    assert "12 frames" in out
    assert "1 face, looked for faces in 1 frame" in out

    lines = records("out/drawn.jsonl")
    assert [line["frame"] for line in lines] == list(range(12))
    assert [[face["id"] for face in line["faces"]] for line in lines] == [[1]] * 12
    centres = np.array([np.mean(line["faces"][0]["points"], axis=0) for line in lines])
    np.testing.assert_allclose(centres[-1] - centres[0], [33, 0], atol=4)
    assert len(list(read_results(Path("out/drawn.jsonl")))) == 12, "lines are those of landmarks.jsonl, and more"

    rows = Path("out/drawn.csv").read_text().splitlines()
    assert len(rows) == 13
    assert rows[0].split(",")[:4] == ["frame", "time", "face", "score"]
    assert len(rows[1].split(",")) == 4 + 4 * 68
    np.testing.assert_allclose(read_times(Path("out/drawn.mp4")), np.arange(12) / 30, atol=0.002)


def test_ctrl_c_finishes_the_files(run: Run, stub_aligner: type[StubAligner]) -> None:
    write_video(Path("in.avi"), 30, (120, 100))
    stub_aligner.at = {8: KeyboardInterrupt()}
    code, out, _ = run("in.avi", "-o", "o.mp4")
    assert code == 128 + signal.SIGINT
    assert "interrupted" in out
    assert len(records("o.jsonl")) == 8
    assert len(read_times(Path("o.mp4"))) == 8
    assert not list(Path.cwd().glob(".*"))


def test_a_frame_that_fails_is_reported_and_the_rest_goes_on(run: Run, stub_aligner: type[StubAligner]) -> None:
    write_video(Path("in.avi"), 12, (120, 100))
    stub_aligner.at = {4: IndexError("a bug\nof two lines")}
    code, out, err = run("in.avi", "-o", "o.mp4")
    assert code == 1
    assert err == "in.avi: frame 4 failed unexpectedly (IndexError('a bug\\nof two lines')); skipped\n"
    assert "11 frames" in out
    assert "1 broken" in out
    assert [line["frame"] for line in records("o.jsonl")] == [0, 1, 2, 3, *range(5, 12)]
    times = read_times(Path("o.mp4"))
    assert times[-1] == pytest.approx(11 / 30, abs=0.002), "what follows the gap stays in step"


@pytest.mark.usefixtures("stub_aligner")
def test_camera_until_its_seconds_are_over(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_video(Path("in.avi"), 20, (120, 100))
    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: real(str(clip)) if source == 3 else real(source))
    clock = iter(np.arange(1000) * 0.02)
    monkeypatch.setattr("facemsm.video.io.time.monotonic", lambda: next(clock))
    code, out, err = run("--camera", "3", "--seconds", "0.3")
    assert (code, err) == (0, "")
    (folder,) = Path("facemsm-out").iterdir()
    assert f"video:     {folder / 'camera-3.mp4'}\n" in out
    times = [line["time"] for line in records(str(folder / "camera-3.jsonl"))]
    assert 0.1 < times[-1] < 0.3
    assert read_times(folder / "camera-3.mp4")[-1] == pytest.approx(times[-1], abs=1 / 30)


class FakeWindow:
    """Stands in for the window: it is closed with the third frame."""

    opened: ClassVar[list[FakeWindow]] = []

    def __init__(self, title: str) -> None:
        self.title, self.shown, self.closed = title, 0, False
        self.opened.append(self)

    def show(self, image: Image) -> bool:
        assert image.shape == (100, 120, 3)
        self.shown += 1
        return self.shown < 3

    def close(self) -> None:
        self.closed = True


@pytest.mark.usefixtures("stub_aligner")
@pytest.mark.parametrize("source", [[], ["--camera"], ["--camera", "0"], ["in.avi"]])
def test_the_window_ends_the_run_when_it_is_closed(
    run: Run, monkeypatch: pytest.MonkeyPatch, source: list[str]
) -> None:
    clip = write_video(Path("in.avi"), 20, (120, 100))
    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda name: real(str(clip)) if name == 0 else real(name))
    monkeypatch.setattr("facemsm.apps.video.Window", FakeWindow)
    monkeypatch.setattr(FakeWindow, "opened", [])
    code, out, err = run(*source, "--show", "-o", "o.mp4")
    assert (code, err) == (0, "")
    (window,) = FakeWindow.opened
    assert window.title == f"facemsm – {'in.avi' if 'in.avi' in source else 'camera 0'}"
    assert (window.shown, window.closed) == (3, True)
    assert "3 frames" in out
    assert len(records("o.jsonl")) == len(read_times(Path("o.mp4"))) == 3


@pytest.mark.parametrize("text", ["-1", "front", "0 1"])
def test_a_camera_is_named_by_its_number(run: Run, text: str) -> None:
    code, _, err = run("--camera", text)
    assert code == 2
    assert "is no camera's number" in err
    assert "--camera 0" in err


def test_a_camera_has_a_name(run: Run) -> None:
    code, _, err = run("--camera", " ")
    assert code == 2
    assert "the argument after '--camera' is empty" in err


@pytest.mark.usefixtures("stub_aligner")
def test_without_a_screen_or_tk_the_window_says_what_to_do(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(Path("in.avi"), 2)
    tk = pytest.importorskip("tkinter")

    def no_screen() -> None:
        raise tk.TclError("no display name and no $DISPLAY environment variable")

    monkeypatch.setattr(tk, "Tk", no_screen)
    code, _, err = run("in.avi", "--show")
    assert code == 2
    assert err.startswith("facemsm: --show: there is no screen to open a window on (no display name")
    assert not Path("facemsm-out").exists()
    monkeypatch.setitem(sys.modules, "tkinter", None)
    code, _, err = run("in.avi", "--show")
    assert code == 2
    assert "apt install python3-tk" in err
    assert err.count("\n") == 1


def test_a_window_shows_frames_until_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    tk = pytest.importorskip("tkinter")
    try:
        tk.Tk().destroy()
    except tk.TclError:
        pytest.skip("no screen")
    monkeypatch.setattr("facemsm.video.window._SHARE", 0.1)  # so that the frame has to be made smaller
    window = Window("facemsm")
    frame = read_image(SAMPLE)
    assert window.show(frame)
    assert window._frame.width() < 512
    window._root.focus_force()
    window._root.update()
    window._root.event_generate("<Escape>")
    assert not window.show(frame)
    window.close()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_video_on_its_side_is_turned_upright(run: Run, turns: int) -> None:
    """Without a rotation in the file: three black frames, then the sample photo, turned."""
    photo = np.asarray(cv2.resize(read_image(SAMPLE), (256, 300)), np.uint8)
    lying = np.ascontiguousarray(np.rot90(photo, turns))
    height, width = lying.shape[:2]
    writer = VideoWriter(Path("in.mp4"), 30.0, width, height)
    for number in range(20):
        writer.write(lying if number > 2 else np.zeros_like(lying), number / 30)
    writer.finish()
    code, out, err = run("in.mp4", "--any-rotation", "-o", "o.mp4")
    assert (code, err) == (0, "")
    said = ["", "lies on its side", "lies on its head", "lies on its side"][turns]
    assert said in out
    assert turns or "turned" not in out
    last = records("o.jsonl")[-1]
    assert (last["width"], last["height"]) == (256, 300)
    (face,) = last["faces"]
    (expected,) = Aligner.from_pretrained().align(photo)
    assert np.abs(np.array(face["points"]) - expected.points).mean() < 2


@pytest.mark.usefixtures("stub_aligner")
def test_names_that_libraries_take_for_something_else(run: Run) -> None:
    """FFmpeg takes what stands before a colon for a protocol, OpenCV a percent sign for a sequence of pictures."""
    names = ["a:b.mp4", "http:c.mp4", "%03d.mp4", "-i.mp4", "é n.mp4"] if sys.platform != "win32" else ["%03d.mp4"]
    for name in names:
        write_video(Path(name), 3)
        code, _, err = run("--output", f"out/{name}", "--", name)
        assert (code, err) == (0, "")
        assert len(read_times(Path("out") / name)) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("stub_aligner")
@pytest.mark.parametrize("with_pyav", [True, False])
def test_a_run_of_no_time(run: Run, monkeypatch: pytest.MonkeyPatch, with_pyav: bool) -> None:
    if not with_pyav:
        monkeypatch.setattr(io, "_has_pyav", lambda: False)
    write_video(Path("in.mp4"), 3)
    code, out, err = run("in.mp4", "--seconds", "0", "-o", "o.mp4")
    assert (code, err) == (0, "")
    assert "0 frames" in out


@pytest.mark.usefixtures("stub_aligner")
def test_the_legend_stays_through_a_video(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a point is hidden, and even whether there is a face, changes from frame to frame; the legend does not."""
    write_video(Path("in.mp4"), 4, (512, 512))
    drawn: list[Image] = []
    monkeypatch.setattr(VideoWriter, "write", lambda _, image, __: drawn.append(image))
    faces = StubAligner().align(np.zeros((512, 512, 3), np.uint8), [[5, 5, 85, 85]])
    hidden = [replace(faces[0], occluded=np.ones(68, bool))]
    found = iter([faces, hidden, [], faces])
    monkeypatch.setattr("facemsm.apps.video.Tracker.__call__", lambda *_: [TrackedFace(1, f) for f in next(found)])
    run("in.mp4", "-o", "o.mp4")
    plates = np.stack([image[-22:, :250] for image in drawn])
    assert (np.ptp(plates[:, :, 48:250].astype(int).mean(axis=2), axis=0) < 20).all()
    bars = plates[:, 8:14, 60:120]
    assert (bars == bars[0]).all()
    assert all(plate[5:16, 150:160].max() == 255 for plate in plates), "the mark of a hidden point"


@pytest.mark.usefixtures("stub_aligner")
def test_bad_input_is_one_line(run: Run) -> None:
    write_video(Path("in.avi"), 2)
    Path("text.mp4").write_text("words")
    Path("empty.mp4").touch()
    Path("folder.mp4").mkdir()
    for args, message in (
        ([], "name either a video file or --camera 0"),
        (["in.avi", "--camera", "0"], "name either a video file or --camera 0"),
        (["missing.mp4"], "missing.mp4: is not a file"),
        (["text.mp4"], "text.mp4: is no video"),
        (["empty.mp4"], "empty.mp4: is no video"),
        (["folder.mp4"], "folder.mp4: is not a file"),
        (["in.avi", "-o", "in.avi"], "in.avi: is the video that is read"),
        (["in.avi", "-o", "o.gif"], "o.gif: cannot be written; use one of the suffixes .mp4"),
        (["in.avi", "-f", "pts"], "--format pts is for photos"),
    ):
        code, _, err = run(*args)
        assert code == 2
        assert err.startswith(f"facemsm: {message}"), err
        assert err.count("\n") == 1


@pytest.mark.usefixtures("stub_aligner")
@pytest.mark.parametrize("seconds", ["nan", "inf"])
def test_seconds_are_a_finite_number(run: Run, seconds: str) -> None:
    write_video(Path("in.avi"), 2)
    code, _, err = run("in.avi", "--seconds", seconds, "-o", "o.mp4")
    assert code == 2
    assert "Invalid value for '--seconds'" in err
