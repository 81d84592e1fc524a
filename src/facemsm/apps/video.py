"""``facemsm video``: a video or a camera in, the faces' landmarks in each frame and a drawn video out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from facemsm.apps import options
from facemsm.apps.console import plural, sigterm_as_interrupt, tell, warn
from facemsm.errors import FacemsmError
from facemsm.files import new_folder
from facemsm.video.annotate import annotate_video, quarter_turns
from facemsm.video.io import Frame, VideoReader, write_video_csv
from facemsm.video.tracking import MIN_SCORE, Tracker
from facemsm.video.window import Window

app = typer.Typer(add_completion=False)


class _VideoCommand(TyperCommand):
    """``--camera`` without a number is camera 0, which typer's options cannot say."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the number where it is left out."""
        before = args.index("--") if "--" in args else len(args)
        for i in (i for i, arg in enumerate(args[:before], 1) if arg == "--camera"):
            if i == len(args) or (args[i].startswith("-") and not args[i][1:2].isdecimal()):
                return super().parse_args(ctx, [*args[:i], "0", *args[i:]])
        return super().parse_args(ctx, args)


def _camera_number(text: str) -> int:
    if not text.isdecimal():
        raise typer.BadParameter(
            f"{text!r} is no camera's number. The first camera is 0: --camera 0, or --camera alone"
        )
    return int(text)


@app.command(cls=_VideoCommand)
def video(
    source: Annotated[
        Path | None,
        typer.Argument(help="A video file.", metavar="VIDEO", show_default="the camera, with --camera or --show"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The drawn video: .mp4, .mkv, .mov or .avi. The landmarks are written beside it, with .jsonl.",
            show_default="NAME.mp4 in a new folder, such as facemsm-out/2026-11-28-1",
        ),
    ] = None,
    camera: Annotated[
        int | None,
        typer.Option(
            parser=_camera_number,
            help="Instead of a file, the camera of this number, 0 if none is given, until Ctrl-C.",
            metavar="[NUMBER]",
        ),
    ] = None,
    show: Annotated[
        bool,
        typer.Option(
            "--show",
            help="Show the drawn frames in a window while they are made; Esc or closing it ends the run. Without VIDEO "
            "and --camera it is camera 0.",
        ),
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(min=0, callback=options.finite, help="Stop after so much of the video.")
    ] = None,
    format: Annotated[
        options.Format,
        typer.Option(
            "--format",
            "-f",
            case_sensitive=False,
            help="json: one line per frame, always written. csv: also one row per face.",
        ),
    ] = "json",
    smooth: Annotated[
        bool,
        typer.Option(
            "--smooth/--no-smooth", help="Reduce the jitter of the landmarks, or leave them as each frame gives them."
        ),
    ] = True,
    detect_every: Annotated[
        int,
        typer.Option(min=1, help="Frames from one run of the detector to the next; it also runs when a face is lost."),
    ] = 15,
    weights: options.Weights = "68",
    stages: options.Stages = "1,2,3",
    method: options.MethodOption = None,
    threshold_contour: options.ContourThreshold = None,
    threshold_features: options.FeatureThreshold = None,
    detector: options.Detector = None,
    detector_model: options.DetectorModel = None,
    any_rotation: Annotated[
        bool,
        typer.Option(
            "--any-rotation",
            help="The video may lie on its side or head: it is turned as a whole until the first faces in it are "
            "upright.",
        ),
    ] = False,
    min_score: options.MinScore = MIN_SCORE,
    min_size: options.MinSize = 0,
    measures: options.Measures = False,
    threads: options.Threads = 1,
    provider: options.Provider = None,
) -> None:
    """Follow the faces of a video, write their landmarks, and a copy with the landmarks drawn in.

    A face keeps its number from frame to frame, and its landmarks are smoothed over time. The sound is kept.
    Frames that cannot be used are reported in a line and skipped; the exit code is then 1, and 0 if all went well.
    Ctrl-C ends the run and finishes the files.
    """
    from facemsm.aligner import Aligner
    from facemsm.detectors import get_detector

    if show and source is None and camera is None:
        camera = 0
    if (source is None) == (camera is None):
        raise FacemsmError("name either a video file or --camera 0")
    if format not in ("json", "csv"):
        raise FacemsmError(f"--format {format} is for photos; choose json or csv")
    if output and output.exists():
        what = "the video that is read" if source and output.resolve() == source.resolve() else "there already"
        raise FacemsmError(f"{output}: is {what}; choose another --output")

    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong with a frame is said once, by us
    aligner = Aligner.from_pretrained(
        weights,
        detector=get_detector(detector, model=detector_model, min_size=min_size, providers=provider or ()),
        settings=options.read_settings(method, stages, threshold_contour, threshold_features),
        threads=threads,
        providers=provider or (),
    )
    tracker = Tracker(aligner, detect_every=detect_every, smooth=smooth, min_score=min_score)
    opened: Path | int = source or camera or 0
    turns = quarter_turns(opened, aligner) if any_rotation else 0
    if turns:
        tell(f"{source or f'camera {camera}'}: lies on its {'head' if turns == 2 else 'side'} and is turned upright")
    with ExitStack() as stack:
        reader = stack.enter_context(closing(VideoReader(opened, turns=turns)))
        stack.enter_context(sigterm_as_interrupt())
        window = stack.enter_context(closing(Window(f"facemsm – {reader.name}"))) if show else None
        path = output or new_folder() / f"{source.stem if source else f'camera-{camera}'}.mp4"
        made = annotate_video(
            reader,
            path,
            tracker,
            aligner.scheme,
            sound=source,
            seconds=seconds,
            measures=measures,
            warn=warn,
            show=_progress,
            watch=window.show if window else None,
        )

    rate = f"{made.frames / max(made.seconds, 1e-9):.1f} frames per second"
    parts = [
        f"{plural(made.frames, 'frame')} in {made.seconds:.1f} s ({rate})",
        plural(len(made.identities), "face"),
        f"looked for faces in {plural(made.detections, 'frame')}",
        f"{made.broken} broken, reasons above" if made.broken else "",
    ]
    tell(", ".join(filter(None, parts)))
    tell(f"landmarks: {made.record}")
    if format == "csv":
        write_video_csv(path.with_suffix(".csv"), made.record, aligner.scheme.count, measures=measures)
        tell(f"landmarks: {path.with_suffix('.csv')}")
    tell(f"video:     {path}{f' (no sound: {made.silent})' if made.silent else ''}")
    if made.interrupt:
        tell("interrupted; the files hold what came before")
        raise typer.Exit(128 + made.interrupt)
    raise typer.Exit(1 if made.broken else 0)


def _progress(frames: Iterator[Frame], total: int | None) -> Iterator[Frame]:
    """The frames, with their rate on stderr if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    rate = TextColumn("frame {task.completed} · {task.fields[fps]:.1f} fps")
    columns = (SpinnerColumn(), BarColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("frames", total=total, fps=0.0)
        started = time.monotonic()
        for number, frame in enumerate(frames, 1):
            yield frame
            progress.update(task, completed=number, fps=number / (time.monotonic() - started))
