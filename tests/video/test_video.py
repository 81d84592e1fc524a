from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from facemsm.apps.cli import main
from facemsm.assets import SAMPLE
from facemsm.errors import FacemsmError
from facemsm.face import Face
from facemsm.geometry import apply_affine, similarity, tight_box
from facemsm.imaging.io import read_image
from facemsm.results.jsonl import read_results
from facemsm.schemes import get_scheme
from facemsm.typing import FloatArray, Image
from facemsm.video.io import VideoReader, VideoWriter, add_sound
from facemsm.video.tracking import PATIENCE, Smoother, Tracker
from synthetic_faces import mean_shape

Array = NDArray[np.float64]
SHAPE = (mean_shape() - mean_shape().mean(axis=0)) * 100 / np.ptp(mean_shape(), axis=0).max() + (200, 150)
SEEN = np.full(68, 0.85, np.float32)
TREMBLE = 0.15  # px, what a face of 100 px has in a clear video


def smoothed(points: Array, scores: FloatArray) -> Array:
    smoother = Smoother()
    return np.stack([smoother(frame.astype(np.float32), scores[i]) for i, frame in enumerate(points)])


def tremble(frames: int, size: float = TREMBLE) -> Array:
    return np.random.default_rng(0).normal(0, size, (frames, 68, 2))


def moved(motion: Callable[[float], Array], frames: int) -> Array:
    return np.stack([apply_affine(motion(frame / 30), SHAPE) for frame in range(frames)])


def lag(found: Array, truth: Array) -> float:
    """Frames by which ``found`` follows ``truth``, by projecting its errors on the velocity."""
    velocity = np.gradient(truth, axis=0)
    return float(-np.sum((found - truth) * velocity) / np.sum(velocity**2))


# --- Smoothing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [TREMBLE / 2, TREMBLE, 2 * TREMBLE])
def test_a_still_face_trembles_less_than_half_as_much(size: float) -> None:
    noisy = SHAPE + tremble(90, size)
    found = smoothed(noisy, np.tile(SEEN, (90, 1)))
    assert found[15:].std(axis=0).mean() < 0.5 * noisy[15:].std(axis=0).mean()
    assert np.diff(found[15:], axis=0).std() < 0.4 * np.diff(noisy[15:], axis=0).std()
    assert np.abs(found[30:].mean(axis=0) - SHAPE).max() < size


def sway(t: float) -> Array:
    shift = (60 * np.sin(np.pi * t), 20 * np.sin(1.4 * np.pi * t))
    return similarity(0.25 * np.sin(0.8 * np.pi * t), 1 + 0.15 * np.sin(0.6 * np.pi * t), shift, SHAPE.mean(axis=0))


def start_and_stop(t: float) -> Array:
    return similarity(shift=(100 * np.clip(t - 0.5, 0, 0.4), 0))


def drift(t: float) -> Array:
    return similarity(shift=(15 * t, 0))


@pytest.mark.parametrize("motion", [sway, start_and_stop, drift])
def test_a_moving_face_lags_by_far_less_than_a_frame(motion: Callable[[float], Array]) -> None:
    truth = moved(motion, 90)
    found = smoothed(truth + tremble(90), np.tile(SEEN, (90, 1)))
    assert abs(lag(found, truth)) < 0.3
    assert np.abs(found - truth).mean() < 2 * TREMBLE


def test_a_blink_is_followed_at_once() -> None:
    truth = np.tile(SHAPE, (90, 1, 1))
    lids = [37, 38, 43, 44]
    truth[:, lids, 1] += np.clip(1 - np.abs(np.arange(90) % 30 - 15) / 4, 0, 1)[:, None] * 5
    found = smoothed(truth + tremble(90), np.tile(SEEN, (90, 1)))
    assert lag(found[:, lids], truth[:, lids]) < 0.6


def test_a_hidden_point_leans_on_the_past_and_moves_with_the_face() -> None:
    truth = moved(sway, 60)
    noisy, scores = truth + tremble(60), np.tile(SEEN, (60, 1))
    hidden = slice(48, 60)
    noisy[30:, hidden] += (12, -8)  # something else is taken for the mouth
    believed = smoothed(noisy, scores)
    scores[30:, hidden] = 0.2
    found = smoothed(noisy, scores)
    error = np.linalg.norm(found - truth, axis=-1)[30:]
    assert error[:10, hidden].mean() < 2.5
    assert np.linalg.norm(believed - truth, axis=-1)[30:40, hidden].mean() > 10
    assert error[:, :48].mean() < 0.5, "points that are seen must not suffer"


def test_the_first_frame_and_a_cut_are_taken_as_they_are() -> None:
    smoother = Smoother()
    first = SHAPE.astype(np.float32)
    np.testing.assert_array_equal(smoother(first, SEEN), first)
    other = (SHAPE[::-1] * 0.7 + 90).astype(np.float32)
    assert np.abs(smoother(other, SEEN) - other).max() < 1


def test_scores_of_zero_give_finite_points() -> None:
    found = smoothed(SHAPE + tremble(5), np.zeros((5, 68), np.float32))
    assert np.isfinite(found).all()


# --- Tracking --------------------------------------------------------------------------------------------------------

UNIT = (SHAPE - SHAPE.min(axis=0)) / np.ptp(SHAPE, axis=0)


class Scene:
    """Stands in for aligner and detector. Faces are squares of 80 px; the frame's number is its first pixel."""

    name = "scene"
    scheme = get_scheme("68")

    def __init__(self, *faces: Callable[[int], tuple[float, float] | None]) -> None:
        self.faces = faces
        self.given = 0

    @property
    def detector(self) -> Scene:
        return self

    def boxes(self, image: Image) -> FloatArray:
        corners = [corner for face in self.faces if (corner := face(int(image[0, 0, 0]))) is not None]
        return np.array([[x, y, x + 80, y + 80] for x, y in corners], np.float32).reshape(-1, 4)

    def detect(self, image: Image) -> FloatArray:
        return np.column_stack([self.boxes(image), np.ones(len(self.boxes(image)), np.float32)])

    def align(self, image: Image, boxes: ArrayLike | None = None) -> list[Face]:
        """Snaps to the nearest face; where none is near, scores are low."""
        faces = []
        for box in np.asarray(boxes, np.float32):
            self.given += 1
            distance = np.abs(self.boxes(image)[:, :2] - box[:2]).max(axis=1, initial=0)
            near = len(distance) > 0 and distance.min() < 30
            corner = self.boxes(image)[distance.argmin(), :2] if near else box[:2]
            points = (corner + UNIT * 80).astype(np.float32)
            scores = np.full(68, 0.9 if near else 0.1, np.float32)
            faces.append(Face(points, scores, scores < 0.5, box, np.eye(2, 3, dtype=np.float32), points))
        return faces


def frame(number: int) -> Image:
    return np.full((300, 600, 3), number, np.uint8)


def follow(scene: Scene, frames: int, **options: Any) -> tuple[list[dict[int, FloatArray]], Tracker]:
    tracker = Tracker(scene, **options)
    return [{t.id: tight_box(t.face.points) for t in tracker(frame(n))} for n in range(frames)], tracker


def test_identities_stay_while_faces_move_and_the_detector_rests() -> None:
    scene = Scene(lambda n: (20 + 8 * n, 30), lambda n: (500 - 8 * n, 180))
    found, tracker = follow(scene, 45, detect_every=15)
    assert [sorted(faces) for faces in found] == [[1, 2]] * 45
    assert tracker.detections == 3
    assert scene.given == 2 * 45, "faces that are followed are not aligned twice"
    np.testing.assert_allclose(found[-1][1], [372, 30, 452, 110], atol=1)


def test_a_new_face_gets_a_new_identity() -> None:
    found, _ = follow(Scene(lambda _: (50, 50), lambda n: (300, 50) if n >= 7 else None), 20, detect_every=5)
    assert [sorted(faces) for faces in found] == [[1]] * 10 + [[1, 2]] * 10


def test_a_face_seen_again_soon_keeps_its_identity_and_later_does_not() -> None:
    for gap, identity in ((PATIENCE - 2, 1), (PATIENCE + 20, 2)):
        found, tracker = follow(Scene(lambda n, gap=gap: None if 5 <= n < 5 + gap else (50, 50)), 60, detect_every=15)  # type: ignore[misc]
        assert [sorted(faces) for faces in found[:5]] == [[1]] * 5
        assert not any(found[5 : 5 + gap])
        assert list(found[-1]) == [identity]
        assert tracker.detections < 25


def textured(number: int, seed: int, gain: float = 1.0) -> Image:
    coarse = np.random.default_rng(seed).integers(40, 200, (12, 24, 3)).astype(np.uint8)
    image = gain * cv2.resize(coarse, (600, 300), interpolation=cv2.INTER_CUBIC).astype(np.float64)
    image[0, 0, 0] = number
    return np.asarray(image.round().clip(0, 255), np.uint8)


def test_where_the_film_is_cut_the_faces_are_new() -> None:
    takes = [textured(n, seed=n // 5) for n in range(15)]
    tracker = Tracker(Scene(lambda _: (50, 50)), detect_every=100)
    assert [[t.id for t in tracker(image)] for image in takes] == [[1]] * 5 + [[2]] * 5 + [[3]] * 5


def test_a_pan_a_flash_and_a_dark_frame_are_no_cut() -> None:
    pan = [np.roll(textured(n, 0), 9 * n, axis=1) for n in range(20)]
    flash = [textured(20 + n, 0, gain) for n, gain in enumerate((1.0, 0.3, 1.25, 0.0, 1.0))]
    for takes in (pan, flash):
        tracker = Tracker(Scene(lambda _: (50, 50)), detect_every=100)
        assert [[t.id for t in tracker(image)] for image in takes] == [[1]] * len(takes)


def test_two_tracks_never_share_a_face() -> None:
    found, _ = follow(Scene(lambda n: (100 + 4 * n, 50), lambda n: (220, 50) if n < 25 else None), 40)
    assert all(len(faces) == 1 for faces in found[-5:])
    assert all(len(faces) <= 2 for faces in found)


def test_a_face_that_leaves_the_picture_ends() -> None:
    found, _ = follow(Scene(lambda n: (400 + 15 * n, 50) if n < 13 else None), 30)
    assert list(found[0]) == [1]
    assert not any(found[14:])


def test_without_smoothing_points_are_those_of_the_frame() -> None:
    scene = Scene(lambda n: (50 + 0.1 * (n % 2), 50))
    raw = [faces[1][0] for faces in follow(scene, 20, smooth=False)[0]]
    steady = [faces[1][0] for faces in follow(scene, 20)[0]]
    assert np.ptp(raw) == pytest.approx(0.1, abs=1e-4)
    assert np.ptp(steady[10:]) < 0.05


def test_no_face_at_all() -> None:
    found, tracker = follow(Scene(), 31, detect_every=10)
    assert not any(found)
    assert tracker.detections == 4
    with pytest.raises(FacemsmError, match="detect_every is 0"):
        Tracker(Scene(), detect_every=0)


# --- Files -----------------------------------------------------------------------------------------------------------


def write_video(path: Path, frames: int, size: tuple[int, int] = (96, 80)) -> Path:
    """Noise, so that frames are large and damage hits pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = VideoWriter(path, 30.0, *size)
    random = np.random.default_rng(0)
    for number in range(frames):
        image = random.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
        image[: size[1] // 2] = 5 * number
        writer.write(image, number / 30)
    assert writer.finish() is None
    return path


def read_video(path: Path) -> tuple[list[int], list[float], list[tuple[str, int]]]:
    """Numbers and times of the frames, and what was broken."""
    broken: list[tuple[str, int]] = []
    reader = VideoReader(path)
    frames = list(reader.frames(lambda line, count: broken.append((line, count))))
    reader.close()
    return [f.number for f in frames], [f.time for f in frames], broken


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi"])
def test_written_videos_are_read_again(tmp_path: Path, suffix: str) -> None:
    numbers, times, broken = read_video(write_video(tmp_path / "deep" / f"a{suffix}", 12))
    assert numbers == list(range(12))
    np.testing.assert_allclose(times, np.arange(12) / 30, atol=0.002)
    assert not broken
    assert [path.name for path in (tmp_path / "deep").iterdir()] == [f"a{suffix}"]


def test_broken_frames_are_skipped_and_counted(tmp_path: Path) -> None:
    data = bytearray(write_video(tmp_path / "a.mp4", 40).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 9000] = np.random.default_rng(0).integers(0, 255, 9000).astype(np.uint8).tobytes()
    (tmp_path / "b.mp4").write_bytes(data)
    numbers, times, broken = read_video(tmp_path / "b.mp4")
    assert len(numbers) < 40
    assert sum(count for _, count in broken) == 40 - len(numbers)
    assert all(line.startswith(f"{(tmp_path / 'b.mp4').as_posix()}: frame") for line, _ in broken)
    assert times == sorted(times)


def test_gaps_are_filled_so_that_the_sound_stays_in_step(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.avi", 10.0, 64, 48)
    for seconds, value in ((0.0, 40), (0.1, 80), (0.5, 160), (0.52, 250)):
        writer.write(np.full((48, 64, 3), value, np.uint8), seconds)
    writer.finish()
    reader = VideoReader(tmp_path / "a.avi")
    values = [int(f.image.mean().round(-1)) for f in reader.frames(lambda *_: None)]
    assert values == [40, 80, 80, 80, 80, 160]


def test_a_writer_that_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", 30.0, 64, 48)
    writer.write(np.zeros((48, 64, 3), np.uint8), 0)
    writer.discard()
    assert not list(tmp_path.iterdir())


def test_sound_without_ffmpeg_and_with_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    where = (tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "c.mp4")
    assert add_sound(*where) == "there is no ffmpeg on the PATH"
    if os.name == "posix":
        script = tmp_path / "ffmpeg"
        script.write_text("#!/bin/sh\necho 'Stream #0:1: Audio: aac' >&2\necho 'no such codec' >&2\nexit 1\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        assert add_sound(*where) == "ffmpeg failed (no such codec)"


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
def test_sound_is_kept(tmp_path: Path) -> None:
    silent = write_video(tmp_path / "a.mp4", 30)
    sine = ["-f", "lavfi", "-i", "sine=d=1"]
    subprocess.run(["ffmpeg", "-v", "error", "-i", silent, *sine, "-c:v", "copy", tmp_path / "b.mp4"], check=True)
    assert add_sound(silent, silent, tmp_path / "c.mp4") == "the video has none"
    assert add_sound(silent, tmp_path / "b.mp4", tmp_path / "c.mp4") is None
    assert b"mp4a" in (tmp_path / "c.mp4").read_bytes()
    assert read_video(tmp_path / "c.mp4")[0] == list(range(30))


# --- The command -----------------------------------------------------------------------------------------------------

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs ``facemsm video ARGS`` in an empty folder; exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run_video(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["facemsm", "video", *args])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(exit_.value.code or 0), out, err

    return run_video


class SceneAligner(Scene):
    """One face, found in every frame; frames can interrupt or fail."""

    at: ClassVar[dict[int, BaseException]] = {}

    def __init__(self) -> None:
        super().__init__(lambda _: (5, 5))
        self.calls = -1

    @classmethod
    def from_pretrained(cls, name: str, **_: Any) -> SceneAligner:
        assert name == "68"
        return cls()

    def align(self, image: Image, boxes: ArrayLike | None = None) -> list[Face]:
        self.calls += 1
        if self.calls in self.at:
            raise self.at[self.calls]
        return super().align(image, boxes)


@pytest.fixture
def scene_aligner(monkeypatch: pytest.MonkeyPatch) -> type[SceneAligner]:
    module = ModuleType("facemsm.aligner")
    module.Aligner = SceneAligner  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "facemsm.aligner", module)
    monkeypatch.setattr(SceneAligner, "at", {})
    return SceneAligner


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
    assert rows[0].split(",")[:4] == ["frame", "time", "face", "x_0"]
    assert len(rows[1].split(",")) == 3 + 4 * 68
    assert read_video(Path("out/drawn.mp4"))[0] == list(range(12))


def test_ctrl_c_finishes_the_files(run: Run, scene_aligner: type[SceneAligner]) -> None:
    write_video(Path("in.avi"), 30, (120, 100))
    scene_aligner.at = {8: KeyboardInterrupt()}
    code, out, _ = run("in.avi", "-o", "o.avi")
    assert code == 128 + signal.SIGINT
    assert "interrupted" in out
    assert len(records("o.jsonl")) == 8
    assert len(read_video(Path("o.avi"))[0]) == 8
    assert not list(Path.cwd().glob(".*"))


def test_a_frame_that_fails_is_reported_and_the_rest_goes_on(run: Run, scene_aligner: type[SceneAligner]) -> None:
    write_video(Path("in.avi"), 12, (120, 100))
    scene_aligner.at = {4: IndexError("a bug\nof two lines")}
    code, out, err = run("in.avi", "-o", "o.avi")
    assert code == 1
    assert err == "in.avi: frame 4 failed unexpectedly (IndexError('a bug\\nof two lines')); skipped\n"
    assert "11 frames" in out
    assert "1 broken" in out
    assert [line["frame"] for line in records("o.jsonl")] == [0, 1, 2, 3, *range(5, 12)]
    assert len(read_video(Path("o.avi"))[0]) == 12


@pytest.mark.usefixtures("scene_aligner")
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
    assert len(read_video(folder / "camera-3.mp4")[0]) == round(times[-1] * 30) + 1


@pytest.mark.usefixtures("scene_aligner")
def test_bad_input_is_one_line(run: Run) -> None:
    write_video(Path("in.avi"), 2)
    Path("text.mp4").write_text("words")
    for args, message in (
        ([], "name either a video file or --camera 0"),
        (["in.avi", "--camera", "0"], "name either a video file or --camera 0"),
        (["missing.mp4"], "missing.mp4: is not a file"),
        (["text.mp4"], "text.mp4: is no video"),
        (["in.avi", "-o", "in.avi"], "in.avi: is the video that is read"),
        (["in.avi", "-o", "o.gif"], "o.gif: cannot be written; use one of the suffixes .mp4"),
        (["in.avi", "-f", "pts"], "--format pts is for photos"),
    ):
        code, _, err = run(*args)
        assert code == 2
        assert err.startswith(f"facemsm: {message}"), err
        assert err.count("\n") == 1
