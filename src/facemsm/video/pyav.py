"""Videos read and written by PyAV: FFmpeg's libraries in a wheel, the extra ``video``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from facemsm.typing import Image
from facemsm.video.opencv import MAX_PIXELS, check_size

CODECS = {".mp4": ("libx264", "aac"), ".mkv": ("libx264", "aac"), ".mov": ("libx264", "aac"), ".avi": ("mpeg4", "mp3")}
"""Suffix of a video that is written, and FFmpeg's encoders of picture and sound."""

OPTIONS = {"libx264": {"preset": "veryfast", "crf": "20"}, "mpeg4": {"b": "20M", "qmin": "2", "qmax": "5"}}
"""Drawn lines stay sharp, and encoding costs less than finding the landmarks."""

SAMPLE_RATE = 48000  # of the sound that is written
BT709 = 1  # FFmpeg's number of the colour space that players expect


class PyAVDecoder:
    """The frames of a file; see :class:`facemsm.video.io.Decoder`."""

    warning = ""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            ValueError: it is no video; the text is the reason.
        """
        self._container = _open(path)
        stream = self._container.streams.best("video")
        if stream is None:
            self._container.close()
            raise ValueError("it has no picture")
        stream.thread_type = "AUTO"
        try:
            check_size(stream.width, stream.height)
        except ValueError:
            self._container.close()
            raise
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # should the size change on the way
        self._stream: Any = stream
        self._origin = (self._container.start_time or 0) / av.time_base
        self._end = _end(stream)
        self._graph: Any = None
        self._filtered: tuple[int, int, str] | None = None
        self._matrix: tuple[int, ...] | None = None
        self.missing = 0
        self.rate = float(stream.average_rate or stream.guessed_rate or 0)
        self.count = stream.frames or round(float(self._end) * self.rate) or None
        self.aspect = stream.sample_aspect_ratio or Fraction(1)

    def frames(self) -> Iterator[tuple[float | None, Image] | None]:
        """Time, if known, and picture (H, W, 3) uint8 RGB, upright; None for a frame that was not decoded."""
        end = Fraction(0)
        try:
            for packet in self._container.demux(self._stream):
                if packet.pts is not None:
                    end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
                try:
                    decoded = packet.decode()
                except av.FFmpegError:
                    yield None
                    continue
                for frame in decoded:
                    if self._matrix is None:
                        self._size = frame.width, frame.height
                        self._set_matrix(frame)
                    if frame.is_corrupt:
                        yield None
                    else:
                        yield from map(self._picture, self._deinterlaced(frame))
            yield from map(self._picture, self._deinterlaced(None))
        except av.FFmpegError:  # the container is damaged: no more can be found in it
            yield None
        missing = round((self._end - end) * Fraction(self.rate))
        self.missing = missing if missing > self.rate / 2 else 0  # many containers only estimate their length

    def _set_matrix(self, frame: Any) -> None:
        """Keep a, b, c, d of the display matrix: (x, y) of the stored picture is shown at (ax + cy, bx + dy)."""
        data = frame.side_data.get("DISPLAYMATRIX")
        matrix = (1, 0, 0, 0, 1) if data is None else np.frombuffer(bytes(data), np.int32)[:5].tolist()
        self._matrix = (*matrix[:2], *matrix[3:])
        if _is_transposed(self._matrix):
            self.aspect = 1 / self.aspect

    def _deinterlaced(self, frame: Any) -> Iterator[Any]:
        """The frame, or what the filter has ready after it, once there was an interlaced one; None ends the filter."""
        kind = None if frame is None else (frame.width, frame.height, frame.format.name)
        if self._graph is not None and kind != self._filtered:
            self._graph.push(None)
            yield from _pulled(self._graph)
            self._graph = None
        if frame is None:
            return
        if self._graph is None and frame.interlaced_frame:
            self._graph, self._filtered = av.filter.Graph(), kind
            nodes = (
                self._graph.add_buffer(
                    width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
                ),
                self._graph.add("bwdif", "mode=send_frame:deint=interlaced"),
                self._graph.add("buffersink"),
            )
            self._graph.link_nodes(*nodes).configure()
        if self._graph is None:
            yield frame
        else:
            self._graph.push(frame)
            yield from _pulled(self._graph)

    def _picture(self, frame: Any) -> tuple[float | None, Image] | None:
        try:  # of the first frame's size, should a stream change it
            image = frame.to_ndarray(format="rgb24", width=self._size[0], height=self._size[1])
        except av.FFmpegError:
            return None
        assert self._matrix is not None
        return None if frame.time is None else frame.time - self._origin, _upright(image, self._matrix)

    def close(self) -> None:
        """Let the file go."""
        self._container.close()


def _open(path: Path) -> Any:
    """The file for reading, and no other that a playlist may name. ValueError: no video or sound."""
    try:
        return av.open(str(path.absolute()), options={"protocol_whitelist": "file"})
    except av.FFmpegError as error:
        raise ValueError(error.strerror) from error


def _end(stream: Any) -> Fraction:
    """When the last frame ends by what the file says, in seconds; 0 if it says nothing."""
    if stream.duration:
        return Fraction(((stream.start_time or 0) + stream.duration) * stream.time_base)
    if match := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):  # Matroska, WebM
        return 3600 * int(match[1]) + 60 * int(match[2]) + Fraction(match[3])
    return Fraction(0)


def _pulled(graph: Any) -> Iterator[Any]:
    """Frames that a filter graph has ready."""
    with suppress(av.BlockingIOError, av.EOFError):
        while True:
            yield graph.pull()


def _is_transposed(matrix: tuple[int, ...]) -> bool:
    return abs(matrix[1]) > abs(matrix[0])


def _upright(image: Image, matrix: tuple[int, ...]) -> Image:
    """The picture turned and mirrored as a display matrix says, in steps of 90 degrees."""
    a, b, c, d = matrix
    x, y = (c, b) if _is_transposed(matrix) else (a, d)
    if _is_transposed(matrix):
        image = np.asarray(cv2.transpose(image), np.uint8)
    if x < 0 or y < 0:
        image = np.asarray(cv2.flip(image, -1 if x < 0 and y < 0 else int(x < 0)), np.uint8)
    return image


@contextmanager
def _os_errors() -> Iterator[None]:
    """FFmpeg's errors in writing as OSError."""
    try:
        yield
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error


class PyAVEncoder:
    """Writes a file; see :class:`facemsm.video.io.Encoder`."""

    def __init__(self, path: Path, rate: float, width: int, height: int, aspect: Fraction, sound: Path | None) -> None:
        """Begin the file. Raises OSError: it cannot be written."""
        codec, sound_codec = CODECS[path.suffix.lower()]
        frame_rate = Fraction(rate).limit_denominator(1001)
        self._time_base = 1 / frame_rate if path.suffix.lower() == ".avi" else Fraction(1, 90000)  # AVI: a steady rate
        self._step = 1 / frame_rate
        self._last, self._end = -1, Fraction(0)
        with _os_errors():
            options = {"movflags": "+faststart"} if path.suffix.lower() in (".mp4", ".mov") else {}
            self._container: Any = av.open(str(path.absolute()), "w", container_options=options)
            self._stream: Any = self._container.add_stream(codec, rate=frame_rate, options=OPTIONS[codec])
        context: Any = self._stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base, context.sample_aspect_ratio, context.colorspace = self._time_base, aspect, BT709
        self._sound: _Sound | None = None
        self.silent: str | None = None
        if sound is not None:
            try:
                self._sound = _Sound(sound, self._container, sound_codec)
            except ValueError as error:
                self.silent = str(error)
        with _os_errors():
            self._container.start_encoding()

    def write(self, image: Image, seconds: float) -> None:
        """Add a frame. Raises OSError."""
        position = round(seconds / self._time_base)
        if position <= self._last:  # a camera may be faster than it says
            return
        self._last, self._end = position, position * self._time_base + self._step
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p", dst_colorspace=BT709)
        frame.pts, frame.time_base = position, self._time_base
        with _os_errors():
            if self._sound:
                self._sound.write_until(seconds)
            self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """End the file. Raises OSError."""
        with _os_errors():
            if self._sound:
                self._sound.write_until(float(self._end))
                self._sound.finish()
            self._container.mux(self._stream.encode())
            self._container.close()

    def discard(self) -> None:
        """Let the file go."""
        with suppress(av.FFmpegError, ValueError):
            self._container.close()
        if self._sound:
            self._sound.close()


class _Sound:
    """The sound of a file, encoded anew for another: with its own times, gaps filled with silence."""

    def __init__(self, path: Path, output: Any, codec: str) -> None:
        """Raises ValueError: there is none."""
        self._input, self._output = _open(path), output
        source = self._input.streams.best("audio")
        if source is None or not source.codec_context.channels:
            self._input.close()
            raise ValueError("the video has none")
        self._layout = "mono" if source.codec_context.channels == 1 else "stereo"
        self._stream = output.add_stream(codec, rate=SAMPLE_RATE, layout=self._layout)
        self._origin = (self._input.start_time or 0) / av.time_base
        self._frames = self._resampled(source)
        self._next = next(self._frames, None)

    def _resampled(self, source: Any) -> Iterator[Any]:
        graph: Any = None
        for frame in self._decoded(source):
            if graph is None:
                graph = av.filter.Graph()
                nodes = (
                    graph.add_abuffer(
                        sample_rate=frame.sample_rate,
                        format=frame.format.name,
                        layout=frame.layout.name,
                        time_base=frame.time_base,
                    ),
                    graph.add("aresample", f"{SAMPLE_RATE}:async=1"),
                    graph.add("aformat", f"sample_fmts=fltp:channel_layouts={self._layout}"),
                    graph.add("abuffersink"),
                )
                graph.link_nodes(*nodes).configure()
            graph.push(frame)
            yield from _pulled(graph)
        if graph is not None:
            graph.push(None)
            yield from _pulled(graph)

    def _decoded(self, source: Any) -> Iterator[Any]:
        with suppress(av.FFmpegError):  # a damaged container ends the sound
            for packet in self._input.demux(source):
                with suppress(av.FFmpegError):
                    yield from packet.decode()

    def write_until(self, seconds: float) -> None:
        """Write what begins before that time of the picture."""
        while self._next is not None and self._next.time - self._origin < seconds:
            self._next.pts -= round(self._origin * SAMPLE_RATE)
            self._output.mux(self._stream.encode(self._next))
            self._next = next(self._frames, None)

    def finish(self) -> None:
        """Write what the encoder still holds."""
        self._output.mux(self._stream.encode())
        self.close()

    def close(self) -> None:
        """Let the file go."""
        self._input.close()
