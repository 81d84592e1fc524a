"""``facemsm align``: photos in, landmarks and pictures out."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from facemsm.apps import options
from facemsm.apps.console import cores, emit, plural, sigterm_as_interrupt, tell, warn
from facemsm.assets import SAMPLE
from facemsm.batch.job import Job
from facemsm.batch.photos import STREAM, Shard
from facemsm.batch.pipeline import Outcome
from facemsm.errors import FacemsmError
from facemsm.files import OUTPUT, reading
from facemsm.imaging.drawing import LOW_SCORE
from facemsm.imaging.io import MAX_BYTES
from facemsm.results.run import DRAWN
from facemsm.runtime.providers import MAX_THREADS

app = typer.Typer(add_completion=False)


@app.command()
def align(
    ctx: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help='Photos, folders (searched with their subfolders) or quoted patterns such as "photos/*.jpg"; '
            "- for a photo from standard input.",
            metavar="PATH",
            show_default="a sample photo",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for everything that is written. Results of an earlier run are never overwritten: --resume "
            "continues them. - is standard output, where nothing else goes then: lines of JSON, or what --format says.",
            show_default=f"a new one in {OUTPUT}, such as {OUTPUT}/2026-11-28-1",
        ),
    ] = None,
    format: Annotated[
        options.Format,
        typer.Option(
            "--format",
            "-f",
            case_sensitive=False,
            help="json: landmarks.jsonl, one line per photo, is always written. csv: also landmarks.csv, one row per "
            "face. pts: also pts/NAME_1.pts ..., one file per face. coco, label-studio: also landmarks.coco.json or "
            "landmarks.label-studio.json, for annotation tools.",
        ),
    ] = "json",
    draw: Annotated[
        bool, typer.Option("--draw", "-d", help="Also draw the landmarks into copies, drawn/NAME.jpg.")
    ] = False,
    measures: options.Measures = False,
    min_score: options.MinScore = 0,
    min_size: options.MinSize = 0,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="Face boxes instead of the detector's: .csv with the columns image, x_min, y_min, x_max, y_max; "
            "COCO .json, or an earlier landmarks.jsonl; or a pipe of one of them."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue an interrupted run, in --output or the newest one: skip the photos it finished.",
        ),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            help="3/16: only the third of sixteen parts of the photos, into landmarks-3-of-16.jsonl. Start the others "
            "elsewhere, with the same PATHs."
        ),
    ] = None,
    weights: options.Weights = "68",
    stages: options.Stages = "1,2,3",
    method: options.MethodOption = None,
    threshold_contour: options.ContourThreshold = None,
    threshold_features: options.FeatureThreshold = None,
    detector: options.Detector = None,
    detector_model: options.DetectorModel = None,
    any_rotation: options.AnyRotation = False,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_THREADS,
            help="Photos that are worked on at once; for a single photo, CPU threads.",
            show_default="all cores",
        ),
    ] = None,
    provider: options.Provider = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Work on a Ray cluster, by its address, or 'local' for one on this machine (needs the extra 'ray'). "
            "All its nodes must see the photos and the output under the same paths.",
            metavar="ADDRESS",
        ),
    ] = None,
) -> None:
    """Find the landmarks of every face in photos.

    A photo that cannot be used is reported in one line and skipped; the exit code is then 1, and 0 if all went well.
    """
    started = time.monotonic()
    finding = {"--detector": detector, "--detector-model": detector_model, "--min-size": min_size}
    if boxes and (vain := [option for option, value in finding.items() if value]):
        raise FacemsmError(f"{vain[0]}: is for faces that the detector finds; leave it out with --boxes")
    if shard and not output:
        raise FacemsmError(f"--shard {shard}: name the folder that all parts share, with --output")
    streamed = output == STREAM
    if streamed:
        output = _stream(ctx, format, draw=draw, resume=resume)
    if ray:
        from facemsm.batch.ray import import_ray

        import_ray()  # that it is missing is said before anything is written
    sources = paths or [SAMPLE]
    piped = _read_stdin() if STREAM in sources else None
    if piped is not None and resume:
        raise FacemsmError("--resume: what comes from standard input is not known again; leave it out")

    job = Job(
        sources,
        output,
        warn,
        record=output != STREAM,
        draw=draw,
        resume=resume,
        shard=Shard.parse(shard) if shard else None,
        boxes=boxes,
        piped=piped,
        threads=threads or cores(),
        ray=ray,
        workers=threads,
        weights=weights,
        settings=options.read_settings(
            method, stages, threshold_contour, threshold_features, any_rotation=any_rotation
        ),
        detector=detector,
        detector_model=detector_model,
        providers=provider or (),
        min_score=min_score,
        min_size=min_size,
        measures=measures,
    )
    interrupt = 0
    try:
        with sigterm_as_interrupt(), closing(job.outcomes()) as outcomes:
            for outcome in _progress(outcomes, job.left):
                if output == STREAM and outcome.line:
                    emit(outcome.line)
    except KeyboardInterrupt as stop:
        interrupt = stop.args[0] if stop.args else signal.SIGINT

    written = job.convert(format)
    if streamed:
        for path in written[1:]:
            emit(path.read_text(encoding="utf-8"))
    (warn if streamed else tell)(_summary(job.tally, time.monotonic() - started))
    if not streamed:
        _tell_written(job, written)
    if interrupt:
        way = f"; the same command with {'' if output else f'--output {job.folder} '}--resume continues"
        (warn if streamed else tell)(f"interrupted{'' if streamed else way}")
        raise typer.Exit(128 + interrupt)
    raise typer.Exit(1 if job.tally["failed"] else 0)


def _stream(ctx: typer.Context, format: options.Format, *, draw: bool, resume: bool) -> Path:
    """Make ready for ``--output -``: refuse what needs a folder; where a format that needs the whole record is made."""
    needs = {"--draw": draw, "--resume": resume, "--format pts": format == "pts"}
    if vain := [option for option, value in needs.items() if value]:
        raise FacemsmError(f"{vain[0]}: needs a folder; leave it out with --output -, or name one")
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    if format == "json":
        return STREAM
    with reading("temporary folder"):
        return Path(ctx.with_resource(TemporaryDirectory(prefix="facemsm-")))


def _read_stdin() -> bytes:
    """The photo that is piped in."""
    if sys.stdin is None or sys.stdin.isatty():
        raise FacemsmError("-: no photo on standard input; pipe one in, as in: facemsm align - -o - < photo.jpg")
    with reading("-"):
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
    if not data:
        raise FacemsmError("-: standard input is empty; pipe a photo in, as in: facemsm align - -o - < photo.jpg")
    if len(data) > MAX_BYTES:
        raise FacemsmError(f"-: more than the {MAX_BYTES} bytes that are read of a photo")
    return data


def _progress(outcomes: Iterable[Outcome], count: Callable[[], int]) -> Iterator[Outcome]:
    """The outcomes, with their rate and the time left on stderr if that is a terminal.

    Photos are counted while the first of them are worked on.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield from outcomes
        return
    columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        threading.Thread(target=lambda: progress.update(task, total=count()), daemon=True).start()
        for outcome in outcomes:
            yield outcome
            progress.advance(task)


def _tell_written(job: Job, written: Sequence[Path]) -> None:
    for path in written:
        tell(f"landmarks: {path}")
    if job.tally["drawn"]:
        tell(f"pictures:  {job.picture if job.tally['drawn'] == 1 else job.folder / DRAWN}")


def _summary(tally: Counter[str], seconds: float) -> str:
    parts = [
        f"{plural(tally['read'], 'photo')} read in {seconds:.1f} s",
        plural(tally["faces"], "face"),
        f"{tally['low']} of them with a score below {LOW_SCORE}" if tally["low"] else "",
        f"{plural(tally['left out'], 'face')} left out for a low score" if tally["left out"] else "",
        f"{plural(tally['faceless'], 'photo')} without a face" if tally["faceless"] else "",
        f"{tally['failed']} failed, reasons above" if tally["failed"] else "",
        f"{plural(tally['skipped'], 'file')} of other kinds left out" if tally["skipped"] else "",
        f"{tally['before']} finished before" if tally["before"] else "",
    ]
    return ", ".join(filter(None, parts))
