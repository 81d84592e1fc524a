"""Videos in and out: by PyAV (FFmpeg's libraries, the extra ``video``) where it is installed, else by OpenCV.

PyAV reads what a file says of its frames: times, rotation, edit lists, interlacing; and writes H.264 with sound. OpenCV
reads less of it (see ``docs/video.md``) and writes H.264 and sound only through an ``ffmpeg`` on the ``PATH``.

``NAME.jsonl`` is the record of a video: a line for each frame that could be read, with the fields of a line of
``landmarks.jsonl`` (:mod:`facemsm.results.jsonl`; ``image`` is ``PATH#FRAME``) and ``frame`` (from 0), ``time``
(seconds); each face has its ``id`` too. ``NAME.csv`` is made from it: one row per face.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from facemsm.errors import FacemsmError
from facemsm.files import atomic_write
from facemsm.results.jsonl import as_line
from facemsm.results.tables import cell
from facemsm.schemes import LandmarkScheme
from facemsm.shapes.measures import MEASURES
from facemsm.typing import Image
from facemsm.video.opencv import FfmpegEncoder, OpenCVDecoder, OpenCVEncoder
from facemsm.video.tracking import TrackedFace

SUFFIXES = (".mp4", ".mkv", ".mov", ".avi")
"""Of videos that are written; browsers play the first."""

USUAL_RATE = 30.0
"""Frames per second, where a file or camera does not say."""


class Frame(NamedTuple):
    """One frame: its number from 0, its time in seconds, and its picture, (H, W, 3) uint8 RGB."""

    number: int
    time: float
    image: Image


class Decoder(Protocol):
    """What :class:`VideoReader` needs of a library. ``missing`` is known when the frames have ended."""

    rate: float
    count: int | None
    aspect: Fraction
    missing: int
    """Frames that the file should have after its last one."""
    warning: str
    """What may be wrong with the file, in words; empty if nothing is."""

    def frames(self) -> Iterator[tuple[float | None, Image] | None]:
        """Time, if known, and picture (H, W, 3) uint8 RGB, upright; None for a frame that was not decoded."""

    def close(self) -> None: ...  # noqa: D102


class VideoReader:
    """The frames of a video file or a camera, upright as the file's rotation says, interlaced ones deinterlaced.

    Attributes:
        name: the path, or ``camera N``.
        width, height: of the upright frames, pixels.
        rate: frames per second; the mean, where it varies.
        aspect: width of a pixel through its height.
        count: about so many frames; None if the file does not say, or for a camera.
    """

    def __init__(self, source: Path | int, *, turns: int = 0) -> None:
        """Open a file, or the camera of that number.

        Args:
            source: file or number.
            turns: by how many quarter turns counter-clockwise its frames become upright, besides what the file says.

        Raises:
            FacemsmError: there is no such file or camera, or the file is no video.
        """
        self._live = isinstance(source, int)
        self.name = f"camera {source}" if isinstance(source, int) else source.as_posix()
        if isinstance(source, Path) and not source.is_file():
            raise FacemsmError(f"{source}: is not a file; name a video")
        bad = "is no video that can be read, or damaged at its beginning"
        if self._live:
            bad = "gives no picture; is it plugged in, and may this user read it?"
        try:
            self._decoder = _decoder(source)
        except ValueError as error:
            raise FacemsmError(f"{self.name}: {bad} ({error})") from error
        self._frames = self._turned(turns)
        self._begin = []  # frames that cannot be read, and the first that can
        for frame in self._frames:
            self._begin.append(frame)
            if frame is not None:
                self.height, self.width = frame[1].shape[:2]
                break
        else:
            self.close()
            raise FacemsmError(f"{self.name}: {bad} ({self._decoder.warning or 'no frame could be decoded'})")
        rate = self._decoder.rate
        self.rate = rate if math.isfinite(rate) and 1 <= rate <= 1000 else USUAL_RATE
        self.aspect = 1 / self._decoder.aspect if turns % 2 else self._decoder.aspect
        self.count = None if self._live else self._decoder.count

    def _turned(self, turns: int) -> Iterator[tuple[float | None, Image] | None]:
        for frame in self._decoder.frames():
            yield (frame[0], np.ascontiguousarray(np.rot90(frame[1], turns))) if frame and turns % 4 else frame

    def frames(self, broken: Callable[[str, int], None]) -> Iterator[Frame]:
        """Each frame that can be read, at the time that the file says, or at which the camera gave it.

        ``broken`` is called for frames that cannot be read: a line of text, and how many they are; 0 if it is not sure
        that there are any.
        """
        started, run, last, number = time.monotonic(), 0, -1.0, -1
        for number, frame in enumerate(chain(self._begin, self._frames)):
            if frame is None or frame[1].shape[:2] != (self.height, self.width):
                run += 1
                continue
            if run:
                broken(f"{self.name}: {_span(number - run, number)} cannot be read; skipped", run)
                run = 0
            stamp = time.monotonic() - started if self._live else frame[0]
            last = stamp if stamp is not None and stamp > last else max(number / self.rate, last)
            yield Frame(number, last, frame[1])
        stop = number + 1 + self._decoder.missing
        if missing := run + self._decoder.missing:
            broken(f"{self.name}: {_span(stop - missing, stop)}, the last, cannot be read", missing)
        if self._decoder.warning:
            broken(f"{self.name}: {self._decoder.warning}", 0)

    def close(self) -> None:
        """Let the file or camera go."""
        self._decoder.close()


def _span(start: int, stop: int) -> str:
    """Frame numbers, without the last, in words."""
    return f"frame {start}" if stop - start == 1 else f"frames {start} to {stop - 1}"


class Encoder(Protocol):
    """What :class:`VideoWriter` needs of a library. Its methods raise OSError where the file cannot be written."""

    silent: str | None
    """Why the file will have no sound, where it should have some."""

    def write(self, image: Image, seconds: float) -> None: ...  # noqa: D102

    def finish(self) -> None: ...  # noqa: D102

    def discard(self) -> None: ...  # noqa: D102


class VideoWriter:
    """Writes a video that browsers play. Until :meth:`finish` it lies beside its place under a hidden name.

    Attributes:
        path: where the video will be.
    """

    def __init__(
        self,
        path: Path,
        rate: float,
        width: int,
        height: int,
        *,
        aspect: Fraction = Fraction(1),
        sound: Path | None = None,
    ) -> None:
        """Begin a video. Sides are made even, as codecs need it: the last row or column is repeated.

        Args:
            path: the video, with one of the ``SUFFIXES``.
            rate: frames per second.
            width: of the frames, pixels.
            height: of the frames, pixels.
            aspect: width of a pixel through its height.
            sound: a video whose sound is kept, as far as the frames reach.

        Raises:
            FacemsmError: the suffix is another, or the file cannot be written.
        """
        if path.suffix.lower() not in SUFFIXES:
            raise FacemsmError(f"{path}: cannot be written; use one of the suffixes {', '.join(SUFFIXES)}")
        self.path = path
        self._padding = (0, height % 2, 0, width % 2)
        self._temporary = path.with_name(f".{os.getpid()}-{id(self):x}.part{path.suffix}")
        self._encoder: Encoder | None = None
        with self._one_line():
            path.parent.mkdir(parents=True, exist_ok=True)
            make = _encoder()
            self._encoder = make(self._temporary, rate, width + width % 2, height + height % 2, aspect, sound)

    def write(self, image: Image, seconds: float) -> None:
        """Add a frame (H, W, 3) uint8 RGB, shown from that time on. Raises FacemsmError: it cannot be written."""
        assert self._encoder is not None
        if any(self._padding):
            image = np.asarray(cv2.copyMakeBorder(image, *self._padding, cv2.BORDER_REPLICATE), np.uint8)
        with self._one_line():
            self._encoder.write(image, seconds)

    def finish(self) -> str | None:
        """Close the video and move it to its place.

        Returns:
            Why there is no sound in it, or None.

        Raises:
            FacemsmError: the file cannot be written.
        """
        assert self._encoder is not None
        with self._one_line():
            self._encoder.finish()
            self._temporary.replace(self.path)
        self.discard()
        return self._encoder.silent

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.discard()
            raise FacemsmError(f"{self.path}: cannot be written ({error.strerror}); choose another --output") from error

    def discard(self) -> None:
        """Close the video and remove what is not in its place."""
        if self._encoder is not None:
            self._encoder.discard()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)


def _has_pyav() -> bool:
    return importlib.util.find_spec("av") is not None


def _decoder(source: Path | int) -> Decoder:
    """PyAV for files where it is installed, else OpenCV. Raises ValueError: neither a video nor a camera."""
    if isinstance(source, Path) and _has_pyav():
        from facemsm.video.pyav import PyAVDecoder

        return PyAVDecoder(source)
    return OpenCVDecoder(source)


def _encoder() -> Callable[[Path, float, int, int, Fraction, Path | None], Encoder]:
    """What writes H.264, else VP9."""
    if _has_pyav():
        from facemsm.video.pyav import PyAVEncoder

        return PyAVEncoder
    return FfmpegEncoder if FfmpegEncoder.exists() else OpenCVEncoder


def frame_line(
    frame: Frame, source: str, scheme: LandmarkScheme, faces: Sequence[TrackedFace], *, measures: bool = False
) -> str:
    """The line of one frame in ``NAME.jsonl``, with its line break; with measures as :meth:`facemsm.Face.to_dict`."""
    height, width = frame.image.shape[:2]
    return as_line(
        {
            "frame": frame.number,
            "time": round(frame.time, 4),
            "image": f"{source}#{frame.number}",
            "width": width,
            "height": height,
            "scheme": scheme.name,
            "faces": [{**face.to_dict(measures=measures, scheme=scheme), "id": identity} for identity, face in faces],
        }
    )


def write_video_csv(path: Path, record: Path, count: int, *, measures: bool = False) -> None:
    """Write the faces, of ``count`` points each, of a video's ``record`` as CSV; it appears whole or not at all.

    Columns: frame, time, face (its identity), score, those of ``MEASURES`` if the record has them, x_0 ..., y_0 ...,
    score_0 ..., occluded_0 ... (0 or 1).

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
        writer.writerow(["frame", "time", "face", "score", *(MEASURES if measures else ()), *columns])
        for line in map(json.loads, lines):
            for face in line["faces"]:
                x, y = zip(*face["points"], strict=True)
                measured = face["measures"].values() if measures else ()
                row = (face["score"], *map(cell, measured), *x, *y, *face["scores"], *face["occluded"])
                writer.writerow([line["frame"], line["time"], face["id"], *row])
