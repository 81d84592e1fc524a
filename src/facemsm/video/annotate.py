"""A whole video: its faces followed, drawn and written, frame by frame."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice, takewhile
from pathlib import Path

from facemsm.aligner import Aligner
from facemsm.imaging.drawing import draw_faces
from facemsm.results.jsonl import ResultsFile
from facemsm.schemes import LandmarkScheme
from facemsm.shapes.measures import check_measured
from facemsm.typing import Image
from facemsm.video.io import Frame, VideoReader, VideoWriter, frame_line
from facemsm.video.tracking import Tracker

TRIED_FRAMES, TRIED_EVERY = 20, 15
"""Frames of a video, and how far apart, by whose faces it is turned upright."""

ShowFrames = Callable[[Iterator[Frame], int | None], Iterable[Frame]]
"""Hands frames on, of about so many, and may show their progress."""


@dataclass
class Annotated:
    """What was made of a video.

    Attributes:
        record: the faces of each frame, see :mod:`facemsm.video.io`.
        frames, broken: how many were written, and could not be used.
        identities: of the faces.
        detections: how often the detector ran.
        seconds: that it took.
        silent: why the drawn video has no sound, where it should have some.
        interrupt: the signal that ended it; 0 if none did.
    """

    record: Path
    frames: int = 0
    broken: int = 0
    identities: set[int] = field(default_factory=set)
    detections: int = 0
    seconds: float = 0.0
    silent: str | None = None
    interrupt: int = 0


def annotate_video(
    reader: VideoReader,
    path: Path,
    tracker: Tracker,
    scheme: LandmarkScheme,
    *,
    sound: Path | None = None,
    seconds: float | None = None,
    measures: bool = False,
    warn: Callable[[str], None] = lambda _: None,
    show: ShowFrames = lambda frames, _: frames,
    watch: Callable[[Image], bool] | None = None,
) -> Annotated:
    """Follow the faces of a video, draw them into a copy, and write their landmarks beside it.

    Ctrl-C ends it early; the files are finished.

    Args:
        reader: the video.
        path: the drawn video, with one of ``SUFFIXES``; the record has the suffix ``.jsonl``.
        tracker: follows the faces.
        scheme: of their landmarks.
        sound: a video whose sound is kept.
        seconds: stop after so much of the video.
        measures: write head pose, eye and mouth openness, too.
        warn: takes a line for frames that cannot be used.
        show: shows the progress.
        watch: takes each drawn frame, and returns whether to go on.

    Raises:
        FacemsmError: a file cannot be written, or these landmarks cannot be measured.
    """
    if measures:
        check_measured(scheme)
    made = Annotated(path.with_suffix(".jsonl"))

    def broken(line: str, count: int = 1) -> None:
        warn(line)
        made.broken += count

    frames, total = reader.frames(broken), reader.count
    if seconds is not None:
        end = seconds
        frames = takewhile(lambda frame: frame.time < end, frames)
        total = None if total is None else round(seconds * reader.rate)
    writer = VideoWriter(path, reader.rate, reader.width, reader.height, aspect=reader.aspect, sound=sound)
    try:
        with closing(ResultsFile(made.record, scheme.name)) as results:
            started = time.monotonic()
            try:
                for frame in show(frames, total):
                    try:
                        faces = tracker(frame.image)
                    except Exception as error:  # one frame must not cost the others
                        broken(f"{reader.name}: frame {frame.number} failed unexpectedly ({error!r}); skipped")
                        continue
                    drawn = draw_faces(frame.image, [face for _, face in faces], scheme, legend=True)
                    writer.write(drawn, frame.time)
                    results.append_line(frame_line(frame, reader.name, scheme, faces, measures=measures))
                    made.frames += 1
                    made.identities |= {tracked.id for tracked in faces}
                    if watch and not watch(drawn):
                        break
            except KeyboardInterrupt as stop:
                made.interrupt = stop.args[0] if stop.args else signal.SIGINT
            made.seconds = time.monotonic() - started
        made.silent = writer.finish()
    finally:
        writer.discard()
    made.detections = tracker.detections
    return made


def quarter_turns(source: Path | int, aligner: Aligner) -> int:
    """Quarter turns counter-clockwise that make a video upright, by the first of some frames in which there is a face.

    Args:
        source: a file, or a camera's number.
        aligner: finds the faces.
    """
    with closing(VideoReader(source)) as reader:
        frames = reader.frames(lambda _, __: None)
        for frame in islice(frames, 0, TRIED_FRAMES * TRIED_EVERY, TRIED_EVERY):
            turns = aligner.quarter_turns(frame.image)
            if turns is not None:
                return turns
    return 0
