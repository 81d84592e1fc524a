"""Videos in and out, by OpenCV; the sound by ffmpeg.

``NAME.jsonl`` is the record of a video: a line for each frame that could be read, with the fields of a line of
``landmarks.jsonl`` (:mod:`facemsm.results.jsonl`; ``image`` is ``PATH#FRAME``) and ``frame`` (from 0), ``time``
(seconds); each face has its ``id`` too. ``NAME.csv`` is made from it: one row a face.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from facemsm.errors import FacemsmError
from facemsm.files import atomic_write
from facemsm.results.jsonl import PhotoResult, to_line
from facemsm.typing import Image
from facemsm.video.tracking import TrackedFace

CODECS = {".mp4": "mp4v", ".mkv": "mp4v", ".mov": "mp4v", ".avi": "MJPG"}
"""Suffix of a video that is written, and its codec: those that every build of OpenCV has."""

USUAL_RATE = 30.0
"""Frames a second, where a file or camera does not say."""

MAX_UNREADABLE_FRAMES = 300
"""So many unreadable frames in a row end a video."""


class Frame(NamedTuple):
    """One frame: its number from 0, its time in seconds, and its picture, (H, W, 3) uint8 RGB."""

    number: int
    time: float
    image: Image


class VideoReader:
    """The frames of a video file or a camera.

    Attributes:
        name: the path, or ``camera N``.
        width, height: of the upright frames, pixels.
        rate: frames a second.
        count: frames that the file claims to have; None if it does not say, or for a camera.
    """

    def __init__(self, source: Path | int) -> None:
        """Open a file, or the camera of that number.

        Raises:
            FacemsmError: there is no such file or camera, or the file is no video.
        """
        self._live = isinstance(source, int)
        self.name = f"camera {source}" if isinstance(source, int) else source.as_posix()
        if isinstance(source, Path) and not source.is_file():
            raise FacemsmError(f"{source}: is not a file; name a video")
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        first = self._read() if self._capture.isOpened() else None
        if first is None:
            self.close()
            raise FacemsmError(
                f"{self.name}: gives no picture; is it plugged in, and may this user read it?"
                if self._live
                else f"{self.name}: is no video that OpenCV can read, or damaged at its beginning"
            )
        self._first: Image = first
        self.height, self.width = first.shape[:2]
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.rate = rate if math.isfinite(rate) and 1 <= rate <= 1000 else USUAL_RATE
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if not self._live and 0 < count < 1e9 else None

    def frames(self, broken: Callable[[str, int], None]) -> Iterator[Frame]:
        """Each frame that can be read, at the time that the file says, or at which the camera gave it.

        ``broken`` is called for frames that cannot be read: a line of text, and how many they are.
        """
        started, run, number, last = time.monotonic(), 0, 0, -1.0
        image: Image | None = self._first
        while image is not None or (self.count is not None and number < self.count and run < MAX_UNREADABLE_FRAMES):
            if image is None or image.shape[:2] != (self.height, self.width):
                run += 1
            else:
                if run:
                    broken(f"{self.name}: {_span(number - run, number)} cannot be read; skipped", run)
                    run = 0
                stamp = time.monotonic() - started if self._live else self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                last = stamp if stamp > last else max(number / self.rate, last)
                yield Frame(number, last, image)
            image = self._read()
            number += 1
        # containers without an index only estimate their length: a short rest was never there
        if self.count is not None and (missing := self.count - number + run) > self.rate / 2:
            broken(f"{self.name}: {_span(self.count - missing, self.count)}, the last, cannot be read", missing)

    def _read(self) -> Image | None:
        read, image = self._capture.read()
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8) if read and image is not None else None

    def close(self) -> None:
        """Let the file or camera go."""
        self._capture.release()


def _span(start: int, stop: int) -> str:
    """Frame numbers, without the last, in words."""
    return f"frame {start}" if stop - start == 1 else f"frames {start} to {stop - 1}"


class VideoWriter:
    """Writes a video. Until :meth:`finish` it lies beside its place under a hidden name.

    Attributes:
        path: where the video will be.
    """

    def __init__(self, path: Path, rate: float, width: int, height: int) -> None:
        """Begin the video ``path`` of ``rate`` frames a second.

        Raises:
            FacemsmError: the suffix is not one of ``CODECS``, or the file cannot be written.
        """
        if path.suffix.lower() not in CODECS:
            raise FacemsmError(f"{path}: cannot be written; use one of the suffixes {', '.join(CODECS)}")
        self.path, self._rate = path, rate
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
        self._with_sound = path.with_name(f".{path.stem}.{os.getpid()}.sound{path.suffix}")
        self._written = 0
        self._last: Image | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FacemsmError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error
        code = cv2.VideoWriter.fourcc(*CODECS[path.suffix.lower()])
        self._writer = cv2.VideoWriter(str(self._temporary), code, rate, (width, height))
        if not self._writer.isOpened():
            self.discard()
            raise FacemsmError(f"{path}: cannot be written; choose another --output")

    def write(self, image: Image, seconds: float) -> None:
        """Add a frame (H, W, 3) RGB that is shown from that time on; the last one stays until then."""
        bgr = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8)
        position = round(seconds * self._rate)
        while self._written < position:
            self._put(bgr if self._last is None else self._last)
        if self._written == position:  # a camera may be faster than it says
            self._put(bgr)
        self._last = bgr

    def _put(self, bgr: Image) -> None:
        self._writer.write(bgr)
        self._written += 1

    def finish(self, sound: Path | None = None) -> str | None:
        """Close the video and move it to its place, with the sound of the video ``sound``.

        Returns:
            Why there is no sound in it, or None.

        Raises:
            FacemsmError: the file cannot be written.
        """
        self._writer.release()
        try:
            silent = None if sound is None else add_sound(self._temporary, sound, self._with_sound)
            source = self._with_sound if sound and silent is None else self._temporary
            source.replace(self.path)
        except OSError as error:
            raise FacemsmError(f"{self.path}: cannot be written ({error.strerror})") from error
        finally:
            self.discard()
        return silent

    def discard(self) -> None:
        """Close the video and remove what is not in its place."""
        self._writer.release()
        self._temporary.unlink(missing_ok=True)
        self._with_sound.unlink(missing_ok=True)


def add_sound(picture: Path, sound: Path, path: Path) -> str | None:
    """Write ``path``: the video ``picture`` with the sound of ``sound``, cut to the same length. Needs ffmpeg.

    The sound is copied as it is, or encoded anew where the container does not take it.

    Returns:
        Why it was not written, or None.
    """
    ffmpeg = shutil.which("ffmpeg")
    if not ffmpeg:
        return "there is no ffmpeg on the PATH"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        # a session of its own: Ctrl-C ends the reading, not the finishing of the files
        return subprocess.run(
            [ffmpeg, "-nostdin", "-hide_banner", "-y", *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            start_new_session=True,
        )

    inputs = ("-i", f"file:{picture}", "-i", f"file:{sound}")
    if "Audio:" not in run("-i", f"file:{sound}").stderr:
        return "the video has none"
    for codec in ("-c", "-c:v"):
        done = run("-v", "error", *inputs, "-map", "0:v", "-map", "1:a", codec, "copy", "-shortest", f"file:{path}")
        if done.returncode == 0:
            return None
    return f"ffmpeg failed ({(done.stderr.strip().splitlines() or ['without a reason'])[-1]})"


def frame_line(frame: Frame, source: str, scheme: str, faces: Sequence[TrackedFace]) -> str:
    """The line of one frame in ``NAME.jsonl``, with its line break."""
    height, width = frame.image.shape[:2]
    result = PhotoResult(f"{source}#{frame.number}", width, height, scheme, [tracked.face for tracked in faces])
    record = {"frame": frame.number, "time": round(frame.time, 4), **json.loads(to_line(result))}
    for tracked, face in zip(faces, record["faces"], strict=True):
        face["id"] = tracked.id
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def write_video_csv(path: Path, record: Path, count: int) -> None:
    """Write the faces, of ``count`` points each, of a video's ``record`` as CSV; it appears whole or not at all.

    Columns: frame, time, face (its identity), x_0 ..., y_0 ..., score_0 ..., occluded_0 ... (0 or 1).

    Raises:
        FacemsmError: it cannot be written.
    """
    columns = [f"{name}_{i}" for name in ("x", "y", "score", "occluded") for i in range(count)]
    with (
        record.open(encoding="utf-8") as lines,
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["frame", "time", "face", *columns])
        for line in map(json.loads, lines):
            for face in line["faces"]:
                x, y = zip(*face["points"], strict=True)
                row = (*x, *y, *face["scores"], *face["occluded"])
                writer.writerow([line["frame"], line["time"], face["id"], *row])
