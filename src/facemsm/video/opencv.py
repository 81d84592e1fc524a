"""Videos read and written by OpenCV, and by the program ``ffmpeg`` where there is one: the way without PyAV."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facemsm.typing import Image

CODECS = {".mp4": ("vp09", "mp4v"), ".mkv": ("VP80", "mp4v"), ".mov": ("mp4v",), ".avi": ("MJPG",)}
"""Suffix of a video that is written, and its codec: the first that this build of OpenCV has."""

_H264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-c:a", "aac", "-movflags", "+faststart")
FFMPEG_CODECS = {".mp4": _H264, ".mkv": _H264, ".mov": _H264, ".avi": ("-c:v", "mpeg4", "-q:v", "3", "-c:a", "mp3")}
"""Suffix of a video that is written, and the arguments for it."""

MAX_UNREADABLE_FRAMES = 300
"""OpenCV does not say why it gives no frame: after so many in a row the file has ended."""

_ROTATIONS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


MAX_PIXELS = 1 << 27
"""Of a frame, 134 megapixels: above every camera, below what a forged header can claim."""


def check_size(width: int, height: int) -> None:
    """Raise ValueError for frames of more than ``MAX_PIXELS``, before one of them is decoded."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"its frames have {width} x {height} pixels, above the limit of {MAX_PIXELS >> 20} Mi")


class OpenCVDecoder:
    """The frames of a file or a camera; see :class:`facemsm.video.io.Decoder`."""

    missing = 0

    def __init__(self, source: Path | int) -> None:
        """Open a file, or the camera of that number.

        Raises:
            ValueError: OpenCV cannot; the text is the reason.
        """
        name = source if isinstance(source, int) else str(source.absolute())  # not taken for a protocol or an option
        if isinstance(name, str) and not _is_utf8(name):
            raise ValueError("its name is not UTF-8")  # where OpenCV crashes
        self._source, self._is_live = name, isinstance(source, int)
        # that a camera cannot be opened is said once, by us
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        self._capture = cv2.VideoCapture(name)
        cv2.utils.logging.setLogLevel(level)
        if not self._capture.isOpened():
            raise ValueError("OpenCV cannot open it")
        check_size(*(int(self._capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)))
        # versions differ in whether they rotate frames by themselves
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        angle = round(self._capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360
        self._rotation = _ROTATIONS.get(angle)
        self._start = picture_start(source) if isinstance(source, Path) else 0.0
        self.warning = ""
        self.rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if isinstance(source, Path) and 0 < count < 1e9 else None
        width, height = (self._capture.get(key) for key in (cv2.CAP_PROP_SAR_NUM, cv2.CAP_PROP_SAR_DEN))
        self.aspect = Fraction(int(width), int(height)) if width >= 1 and height >= 1 else Fraction(1)
        if angle in (90, 270):
            self.aspect = 1 / self.aspect

    def frames(self) -> Iterator[tuple[float | None, Image] | None]:
        """Time and picture (H, W, 3) uint8 RGB, upright; None for a frame that was not decoded.

        OpenCV 4.13 and later say of interlaced frames that they were read, but leave their memory as it was: black, or
        holding something else. So no black frame is believed until another one comes, and no two equal ones at the
        beginning until a second reading gives the same.
        """
        frames = self._read()
        if self._is_live:
            yield from frames
            return
        held: list[tuple[float, Image] | None] = []
        first: Image | None = None
        believed = True
        for frame in frames:
            held.append(frame)
            if frame is None:
                continue
            if first is None:
                first = frame[1]
            elif not np.array_equal(first, frame[1]):
                break
            elif first.mean() >= 1:
                believed = self._reads_again(first)
                break
            else:
                held[-1] = frame[0], first  # one picture in memory, however long the video begins in black
        else:
            believed = len(held) < 2
        if believed:
            yield from held
            yield from frames
        else:
            self.warning = (
                f"OpenCV {cv2.__version__} gives no picture, or only black ones; it cannot decode interlaced video: "
                'pip install "facemsm[video]"'
            )
            yield from [None] * len(held)

    def _read(self) -> Iterator[tuple[float, Image] | None]:
        number, unreadable = 0, 0
        while unreadable < MAX_UNREADABLE_FRAMES:
            read, image = self._capture.read()
            if read and image is not None:
                yield from [None] * unreadable
                number, unreadable = number + unreadable + 1, 0
                yield self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 + self._start, self._upright(image)
            elif number + unreadable < (self.count or 0):
                unreadable += 1
            else:
                break
        # the count may be an estimate, or hold frames that an edit list hides
        if self.count and self.count - number > self.rate / 2:
            self.warning = (
                f"ends after {number} of the {self.count} frames that its header names: damaged at its end, or cut "
                'without encoding it anew; to be sure, pip install "facemsm[video]"'
            )

    def _upright(self, bgr: Any) -> Image:
        image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        return np.asarray(image if self._rotation is None else cv2.rotate(image, self._rotation), np.uint8)

    def _reads_again(self, first: Image) -> bool:
        """Whether another reading of the file begins with the same picture."""
        again = cv2.VideoCapture(self._source)
        again.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        read, image = again.read()
        again.release()
        return bool(read and np.array_equal(self._upright(image), first))

    def close(self) -> None:
        """Let the file or camera go."""
        self._capture.release()


def picture_start(path: Path) -> float:
    """Seconds from the beginning of a file to its first picture, which OpenCV does not tell; 0 without ``ffprobe``."""
    if not (ffprobe := shutil.which("ffprobe")):
        return 0.0
    entries = ("-show_entries", "format=start_time:stream=start_time", "-of", "json")
    said = _run(ffprobe, "-v", "error", "-select_streams", "v:0", *entries, f"file:{path}").stdout
    try:
        answer = json.loads(said)
        return max(0.0, float(answer["streams"][0]["start_time"]) - float(answer["format"]["start_time"]))
    except (ValueError, LookupError):
        return 0.0


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )


def _is_utf8(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


class _SteadyEncoder:
    """Frames at a constant rate: gaps are filled with the frame before, and of frames too close one is shown."""

    def __init__(self, rate: float) -> None:
        self._rate, self._written = rate, 0
        self._last: Image | None = None

    def write(self, image: Image, seconds: float) -> None:
        """Add a frame. Raises OSError."""
        position = round(seconds * self._rate)
        while self._written < position:
            self._put(image if self._last is None else self._last)
        if self._written == position:
            self._put(image)
        self._last = image

    def _put(self, image: Image) -> None:
        self._write(image)
        self._written += 1

    def _write(self, image: Image) -> None:
        raise NotImplementedError


class OpenCVEncoder(_SteadyEncoder):
    """Writes a file without sound; see :class:`facemsm.video.io.Encoder`."""

    def __init__(self, path: Path, rate: float, width: int, height: int, _: Fraction, sound: Path | None) -> None:
        """Begin the file; OpenCV cannot write the shape of pixels. Raises OSError: it cannot be written."""
        super().__init__(rate)
        self.silent = None if sound is None else "it needs facemsm[video], or ffmpeg on the PATH"
        if _is_utf8(str(path)):
            for codec in CODECS[path.suffix.lower()]:
                code = cv2.VideoWriter.fourcc(*codec)
                self._writer = cv2.VideoWriter(str(path.absolute()), code, rate, (width, height))
                if self._writer.isOpened():
                    return
        raise OSError(None, "OpenCV cannot open it")

    def _write(self, image: Image) -> None:
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def finish(self) -> None:
        """End the file."""
        self._writer.release()

    def discard(self) -> None:
        """Let the file go."""
        self._writer.release()


class FfmpegEncoder(_SteadyEncoder):
    """Writes a file by the program ``ffmpeg``; see :class:`facemsm.video.io.Encoder`."""

    @staticmethod
    def exists() -> bool:
        """Whether there is an ``ffmpeg`` on the ``PATH`` that writes H.264."""
        ffmpeg = shutil.which("ffmpeg")
        return bool(ffmpeg) and " libx264 " in _run(str(ffmpeg), "-hide_banner", "-encoders").stdout

    def __init__(self, path: Path, rate: float, width: int, height: int, aspect: Fraction, sound: Path | None) -> None:
        """Begin the file. Raises OSError: it cannot be written."""
        super().__init__(rate)
        ffmpeg = str(shutil.which("ffmpeg"))
        self.silent: str | None = None
        inputs = f"-f rawvideo -pix_fmt rgb24 -video_size {width}x{height} -framerate {rate:.6f} -i -".split()
        if sound is not None:
            if "Audio:" in _run(ffmpeg, "-hide_banner", "-i", f"file:{sound}").stderr:
                # the sound is made endless, and cut where the picture ends
                inputs += ["-i", f"file:{sound}", "-map", "0:v", "-map", "1:a:0", "-af", "apad", "-shortest"]
            else:
                self.silent = "the video has none"
        colours = f"scale=out_color_matrix=bt709,setsar={aspect.numerator}/{aspect.denominator}"
        outputs = ["-vf", colours, "-colorspace", "bt709", "-pix_fmt", "yuv420p", *FFMPEG_CODECS[path.suffix.lower()]]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # a pipe would fill
        self._process = subprocess.Popen(
            [ffmpeg, "-v", "error", "-y", *inputs, *outputs, f"file:{path}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C ends the reading, not the finishing of the files
        )

    def _write(self, image: Image) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(image).data)
        except BrokenPipeError:
            self.finish()

    def finish(self) -> None:
        """End the file. Raises OSError: ffmpeg could not write it."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        if self._process.wait():
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").split("\n")
            raise OSError(None, f"ffmpeg: {next(filter(None, reversed(lines)), 'no reason given')}")

    def discard(self) -> None:
        """Let the file go."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._log.close()
