from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import struct
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facemsm.assets import SAMPLE
from facemsm.errors import FacemsmError
from facemsm.imaging.io import read_image
from facemsm.typing import Image
from facemsm.video import io, opencv
from facemsm.video.io import VideoReader, VideoWriter
from facemsm.video.opencv import FfmpegEncoder, OpenCVDecoder, OpenCVEncoder

PYAV = importlib.util.find_spec("av") is not None
needs_pyav = pytest.mark.skipif(not PYAV, reason="needs the extra video")


@pytest.fixture(params=["pyav", "opencv"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Videos are read by each library in turn."""
    if request.param == "opencv":
        monkeypatch.setattr(io, "_decoder", OpenCVDecoder)
    elif not PYAV:
        pytest.skip("needs the extra video")
    return str(request.param)


@pytest.fixture(params=["pyav", "ffmpeg", "opencv"])
def writing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Videos are written in each way in turn."""
    if request.param == "pyav" and not PYAV:
        pytest.skip("needs the extra video")
    if request.param == "ffmpeg" and not FfmpegEncoder.exists():
        pytest.skip("needs ffmpeg")
    if request.param != "pyav":
        encoder = FfmpegEncoder if request.param == "ffmpeg" else OpenCVEncoder
        monkeypatch.setattr(io, "_encoder", lambda: encoder)
    return str(request.param)


def even(value: int, size: tuple[int, int] = (96, 80)) -> Image:
    return np.full((size[1], size[0], 3), value, np.uint8)


def write_video(path: Path, frames: int, size: tuple[int, int] = (96, 80), **options: Any) -> Path:
    """Noise, so that frames are large and damage hits pixels."""
    writer = VideoWriter(path, 30.0, *size, **options)
    random = np.random.default_rng(0)
    for number in range(frames):
        image = random.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
        image[: size[1] // 2] = 5 * number % 250
        writer.write(image, number / 30)
    writer.finish()
    return path


def read_video(path: Path) -> tuple[list[io.Frame], list[tuple[str, int]]]:
    """The frames, and what was broken."""
    broken: list[tuple[str, int]] = []
    reader = VideoReader(path)
    frames = list(reader.frames(lambda line, count: broken.append((line, count))))
    reader.close()
    return frames, broken


def write_sound(path: Path, seconds: float, rate: int = 22050) -> Path:
    """A tone that begins in the middle."""
    samples = np.sin(np.arange(int(rate * seconds)) * 0.2) * 20000
    samples[: len(samples) // 2] = 0
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def loudness(path: Path) -> tuple[float, float]:
    """When the tone begins and the sound ends, on the clock of the pictures."""
    import av

    with av.open(str(path)) as file:
        frames = [(frame.time, np.abs(frame.to_ndarray()).max()) for frame in file.decode(audio=0)]
        origin = file.start_time / av.time_base
        assert frames
        return min(time for time, peak in frames if peak > 0.1) - origin, frames[-1][0] - origin


# --- Reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("writing", "reading")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi"])
def test_written_videos_are_read_again(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / "deep" / f"a{suffix}", 12)
    frames, broken = read_video(path)
    assert [frame.number for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(12) / 30, atol=0.002)
    np.testing.assert_allclose([f.image[:30].mean() for f in frames], np.arange(12) * 5, atol=6)
    assert not broken
    assert [path.name for path in (tmp_path / "deep").iterdir()] == [f"a{suffix}"]


def test_broken_frames_are_skipped_and_counted(tmp_path: Path, reading: str) -> None:
    data = bytearray(write_video(tmp_path / "a.mp4", 40).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 9000] = np.random.default_rng(0).integers(0, 255, 9000).astype(np.uint8).tobytes()
    (tmp_path / "b.mp4").write_bytes(data)
    frames, broken = read_video(tmp_path / "b.mp4")
    assert 20 < len(frames) < 40
    assert broken
    assert all(line.startswith(f"{(tmp_path / 'b.mp4').as_posix()}: ") for line, _ in broken)
    times = [frame.time for frame in frames]
    assert times == sorted(times)
    if reading == "pyav":
        assert sum(count for _, count in broken) == 40 - len(frames)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_file_cut_short_is_reported(tmp_path: Path, suffix: str, reading: str) -> None:
    if suffix == ".mp4" and not PYAV:
        pytest.skip("OpenCV puts the index at the end; without it nothing can be read")
    data = write_video(tmp_path / f"a{suffix}", 90).read_bytes()
    path = tmp_path / f"b{suffix}"
    path.write_bytes(data[: len(data) * 6 // 10])
    frames, broken = read_video(path)
    assert 20 < len(frames) < 80
    assert sum(count for _, count in broken) >= (90 - len(frames) - 4 if reading == "pyav" else 0)
    assert ("cannot be read" if reading == "pyav" else "ends after") in broken[-1][0]


@pytest.mark.usefixtures("reading")
@needs_pyav
def test_the_frames_that_an_edit_list_hides_are_not_missed(tmp_path: Path) -> None:
    """As in a clip that was cut without encoding it anew: ``ffmpeg -ss 1 -c copy``."""
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream: Any = file.add_stream("libx264", rate=30, options={"bf": "0", "g": "100"})
        stream.width, stream.height, stream.pix_fmt = 96, 80, "yuv420p"
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(even(4 * number), format="rgb24")
            frame.pts, frame.time_base = number - 30, Fraction(1, 30)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    frames, broken = read_video(tmp_path / "a.mp4")
    assert [round(frame.image.mean() / 4) for frame in frames] == pytest.approx(range(30, 60), abs=1)
    assert sum(count for _, count in broken) == 0
    assert not any("cannot be read" in line for line, _ in broken)


def interlaced(path: Path, size: tuple[int, int] = (320, 240), *, fields: bool = True) -> Path:
    """A square that moves by 8 pixels from field to field; of whole frames if not ``fields``."""
    import av

    with av.open(str(path), "w") as file:
        options = {"b": "4M", **({"flags": "+ildct+ilme"} if fields else {})}
        stream: Any = file.add_stream("mpeg2video", rate=25, options=options)
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        graph: Any = av.filter.Graph()
        source = graph.add_buffer(
            width=size[0], height=size[1], format=av.VideoFormat("yuv420p"), time_base=Fraction(1, 25)
        )
        graph.link_nodes(
            source, graph.add("setfield", "tff" if fields else "prog"), graph.add("buffersink")
        ).configure()
        for number in range(10):
            image = even(30, size)
            for field in (0, 1):
                image[field::2, 16 * number + 8 * field :][:, :80] = 220
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            graph.push(frame)
            frame = graph.pull()
            frame.pts, frame.pict_type = number, 0
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


@needs_pyav
def test_interlaced_video_is_deinterlaced_or_refused(tmp_path: Path, reading: str) -> None:
    """OpenCV 4.13 and later say that such frames were read, and give black ones or what the memory held."""
    path = interlaced(tmp_path / "a.ts")
    if reading == "opencv" and tuple(map(int, cv2.__version__.split(".")[:2])) >= (4, 13):
        with pytest.raises(FacemsmError, match=r'pip install "facemsm\[video\]"'):
            VideoReader(path)
        return
    frames, broken = read_video(path)
    assert not broken
    assert len(frames) == 10
    assert all(frame.image[:, 16 * i + 20 : 16 * i + 60].mean() > 100 for i, frame in enumerate(frames))
    if reading == "pyav":
        combs = [np.abs(np.diff(frame.image.astype(int), axis=0)).mean() for frame in frames[2:]]
        assert max(combs) < 4


@needs_pyav
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_a_stream_that_changes_its_size_keeps_the_first(tmp_path: Path, first: bool, second: bool) -> None:
    """As broadcasts do between programmes, and recorders of calls and screens."""
    parts = [interlaced(tmp_path / "1.ts", fields=first), interlaced(tmp_path / "2.ts", (640, 480), fields=second)]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, broken = read_video(path)
    assert not broken
    assert 19 <= len(frames) <= 20, "FFmpeg itself loses the last frame of the first size"
    assert {frame.image.shape for frame in frames} == {(240, 320, 3)}
    assert all(frame.image.max() > 150 for frame in frames)


def black_then(values: list[int], again: int | None = None) -> type:
    """A cv2.VideoCapture that gives frames of these values; one opened later begins with ``again``."""

    class Capture:
        opened = 0

        def __init__(self, _: str) -> None:
            self.values = list(values) if not Capture.opened or again is None else [again]
            Capture.opened += 1

        def isOpened(self) -> bool:  # noqa: N802
            return True

        def set(self, *_: Any) -> bool:
            return True

        def get(self, key: int) -> float:
            return {cv2.CAP_PROP_FPS: 30.0, cv2.CAP_PROP_FRAME_COUNT: len(values)}.get(key, 0.0)

        def read(self) -> tuple[bool, Image | None]:
            return (True, even(self.values.pop(0))) if self.values else (False, None)

        def release(self) -> None:
            pass

    return Capture


@pytest.mark.parametrize(
    ("values", "again", "read"),
    [
        ([0, 0, 0], None, 0),  # only black
        ([0, 0, 90, 91], None, 4),  # begins in black
        ([90, 90, 90], None, 3),  # a still picture
        ([90, 90, 90], 70, 0),  # never written
        ([0], None, 1),
    ],
)
def test_what_opencv_did_not_decode_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[int], again: int | None, read: int
) -> None:
    monkeypatch.setattr(io, "_has_pyav", lambda: False)
    monkeypatch.setattr(cv2, "VideoCapture", black_then(values, again))
    (tmp_path / "a.mp4").touch()
    if not read:
        with pytest.raises(FacemsmError, match="interlaced"):
            VideoReader(tmp_path / "a.mp4")
        return
    frames, broken = read_video(tmp_path / "a.mp4")
    assert [int(frame.image.max()) for frame in frames] == values
    assert not broken


MATRICES: dict[str, tuple[tuple[int, int, int, int], Callable[[Image], Image]]] = {
    # a, b, c, d of the display matrix, and what it does to a picture
    "upright": ((1, 0, 0, 1), lambda image: image),
    "quarter turn": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "half turn": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "three quarters": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "mirrored, turned": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_rotation_metadata_is_honoured(tmp_path: Path, name: str, reading: str) -> None:
    if reading == "opencv" and name.startswith("mirrored"):
        pytest.skip("OpenCV does not tell of mirrors")
    matrix, turned = MATRICES[name]
    picture = np.asarray(cv2.resize(read_image(SAMPLE), (160, 96)), np.uint8)
    writer = VideoWriter(tmp_path / "a.mp4", 30.0, 160, 96, aspect=Fraction(4, 3))
    for number in range(3):
        writer.write(picture, number / 30)
    writer.finish()
    data = (tmp_path / "a.mp4").read_bytes()
    a, b, c, d = (value * 65536 for value in matrix)
    plain, wanted = (
        struct.pack(">9i", *m) for m in ((65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30), (a, b, 0, c, d, 0, 0, 0, 1 << 30))
    )
    track = data.index(plain, data.index(b"tkhd"))
    (tmp_path / "b.mp4").write_bytes(data[:track] + wanted + data[track + len(plain) :])
    reader = VideoReader(tmp_path / "b.mp4")
    frame = next(reader.frames(lambda *_: None))
    reader.close()
    assert frame.image.shape == turned(picture).shape == (reader.height, reader.width, 3)
    assert np.abs(frame.image.astype(int) - turned(picture)).mean() < 12
    if PYAV:
        assert reader.aspect == (Fraction(3, 4) if matrix[0] == 0 else Fraction(4, 3))


@needs_pyav
@pytest.mark.slow
def test_nothing_is_read_but_the_file(tmp_path: Path) -> None:
    """A playlist may name files and addresses."""
    write_video(tmp_path / "a.mp4", 3)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    with pytest.raises(FacemsmError, match="is no video"):
        VideoReader(tmp_path / "list.m3u8")


@pytest.mark.skipif(os.name != "posix", reason="needs names that are not UTF-8")
def test_a_name_that_is_not_utf8(tmp_path: Path, reading: str) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4"))
    try:
        path.write_bytes(write_video(tmp_path / "a.mp4", 3).read_bytes())
    except OSError:
        pytest.skip("no such names here")
    if reading == "pyav":
        assert len(read_video(path)[0]) == 3
    else:
        with pytest.raises(FacemsmError, match="not UTF-8"):
            VideoReader(path)


# --- Writing ---------------------------------------------------------------------------------------------------------


@needs_pyav
def test_times_of_a_variable_rate_are_kept(tmp_path: Path) -> None:
    times = [*np.arange(10) / 60, *(0.5 + np.arange(5) / 10), *(1.2 + np.arange(20) / 120)]
    writer = VideoWriter(tmp_path / "a.mp4", 25.0, 96, 80)
    for number, time in enumerate(times):
        writer.write(even(6 * number), time)
    writer.finish()
    frames, broken = read_video(tmp_path / "a.mp4")
    np.testing.assert_allclose([frame.time for frame in frames], times, atol=1e-3)
    assert [round(frame.image.mean() / 6) for frame in frames] == list(range(35))
    assert not broken


def test_without_pyav_gaps_are_filled_so_that_the_sound_stays_in_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "_encoder", lambda: OpenCVEncoder)
    writer = VideoWriter(tmp_path / "a.avi", 10.0, 64, 48)
    for seconds, value in ((0.0, 40), (0.1, 80), (0.5, 160), (0.52, 250)):
        writer.write(even(value, (64, 48)), seconds)
    writer.finish()
    assert [int(f.image.mean().round(-1)) for f in read_video(tmp_path / "a.avi")[0]] == [40, 80, 80, 80, 80, 160]


@pytest.mark.usefixtures("writing", "reading")
@pytest.mark.parametrize("size", [(97, 81), (96, 81), (97, 80)])
def test_odd_sides_are_made_even(tmp_path: Path, size: tuple[int, int]) -> None:
    write_video(tmp_path / "a.mp4", 4, size)
    reader = VideoReader(tmp_path / "a.mp4")
    assert (reader.width, reader.height) == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    reader.close()


def test_colours_are_kept(tmp_path: Path, writing: str, reading: str) -> None:
    colours = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (250, 250, 20)], np.uint8)
    image = np.repeat(np.repeat(colours[None], 64, axis=0), 32, axis=1)
    writer = VideoWriter(tmp_path / "a.mp4", 30.0, 128, 64)
    writer.write(image, 0)
    writer.write(image, 1 / 30)
    writer.finish()
    found = read_video(tmp_path / "a.mp4")[0][0].image[32, 16::32]
    assert np.abs(found.astype(int) - colours).max() < (12 if writing != "opencv" and reading == "pyav" else 60)


@needs_pyav
@pytest.mark.parametrize(("sound", "pictures"), [(2.0, 2.0), (0.6, 1.2), (3.0, 1.5)])
@pytest.mark.parametrize("begin", [0.0, 0.8])
@pytest.mark.slow
def test_sound_is_kept_and_in_step(tmp_path: Path, writing: str, sound: float, pictures: float, begin: float) -> None:
    """Also where it is shorter or longer than the picture, or the picture begins after it."""
    if writing == "opencv":
        pytest.skip("has no sound")
    source = write_sound(tmp_path / "a.wav", sound)
    for path, of in ((tmp_path / "b.mp4", source), (tmp_path / "c.mp4", tmp_path / "b.mp4")):
        writer = VideoWriter(path, 30.0, 96, 80, sound=of)
        for number in range(round(30 * pictures)):
            writer.write(even(number), begin + number / 30)
        assert writer.finish() is None
        tone, end = loudness(path)
        assert tone == pytest.approx(sound / 2, abs=0.07)
        assert end <= begin + pictures + 0.1
        frames, broken = read_video(path)
        assert not broken
        assert frames[-1].time == pytest.approx(begin + pictures - 1 / 30, abs=0.02)


@needs_pyav
def test_a_picture_that_begins_after_the_sound(tmp_path: Path, reading: str) -> None:
    if reading == "opencv" and not shutil.which("ffprobe"):
        pytest.skip("needs ffprobe")
    writer = VideoWriter(tmp_path / "b.mp4", 30.0, 96, 80, sound=write_sound(tmp_path / "a.wav", 2.0))
    for number in range(10):
        writer.write(even(number), 0.8 + number / 30)
    writer.finish()
    assert read_video(tmp_path / "b.mp4")[0][0].time == pytest.approx(0.8, abs=0.01)


@pytest.mark.slow
def test_why_there_is_no_sound(tmp_path: Path, writing: str) -> None:
    write_video(tmp_path / "a.mp4", 3)
    writer = VideoWriter(tmp_path / "b.mp4", 30.0, 96, 80, sound=tmp_path / "a.mp4")
    writer.write(even(9), 0)
    silent = writer.finish()
    assert silent == ("it needs facemsm[video], or ffmpeg on the PATH" if writing == "opencv" else "the video has none")


def test_the_video_can_be_played_before_it_is_loaded(tmp_path: Path, writing: str) -> None:
    if writing == "opencv":
        pytest.skip("OpenCV puts the index at the end")
    data = write_video(tmp_path / "a.mp4", 3).read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert b"avc1" in data


@pytest.mark.usefixtures("writing")
@pytest.mark.usefixtures("reading")
def test_frames_beyond_the_limit_are_refused_before_one_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.avi", 3)
    monkeypatch.setattr(opencv, "MAX_PIXELS", 96 * 80)
    assert len(read_video(path)[0]) == 3
    monkeypatch.setattr(opencv, "MAX_PIXELS", 96 * 80 - 1)
    with pytest.raises(FacemsmError, match=r"a\.avi: .*its frames have 96 x 80 pixels, above the limit"):
        io.VideoReader(path)


def test_a_writer_that_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", 30.0, 64, 48)
    writer.write(np.zeros((48, 64, 3), np.uint8), 0)
    writer.discard()
    writer.discard()
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("writing")
def test_a_name_as_long_as_a_file_system_takes(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 251 + ".mp4")
    assert len(read_video(write_video(path, 3))[0]) == 3


@pytest.mark.skipif(os.name != "posix", reason="needs a shell script")
def test_an_ffmpeg_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "ffmpeg"
    script.write_text(
        "#!/bin/sh\ncase $* in *-encoders*) echo ' V..... libx264 ';; *) echo disk full >&2; exit 1;; esac\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(io, "_has_pyav", lambda: False)
    with pytest.raises(FacemsmError, match=r"a.mp4: cannot be written \(ffmpeg: disk full\)"):
        write_video(tmp_path / "a.mp4", 200)
    assert [path.name for path in tmp_path.iterdir()] == ["ffmpeg"]
    script.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not FfmpegEncoder.exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FacemsmError, match="cannot be written"):
        VideoWriter(tmp_path / "file" / "a.mp4", 30.0, 64, 48)
    with pytest.raises(FacemsmError, match=r"use one of the suffixes .mp4"):
        VideoWriter(tmp_path / "a.gif", 30.0, 64, 48)


@pytest.mark.usefixtures("writing")
def test_drawn_videos_play_in_a_browser(tmp_path: Path, browser: Any) -> None:
    write_video(tmp_path / "a.mp4", 30, (97, 80))
    (tmp_path / "a.html").write_text("<video src=a.mp4 muted></video>")
    page = browser.new_page()
    page.goto((tmp_path / "a.html").as_uri())
    seen = page.evaluate(
        """async () => {
            const video = document.querySelector("video");
            await video.play();
            await new Promise((done) => { video.onended = done; });
            return [video.videoWidth, video.videoHeight, video.getVideoPlaybackQuality().totalVideoFrames];
        }"""
    )
    page.close()
    assert seen[:2] == [98, 80]
    assert seen[2] > 0
