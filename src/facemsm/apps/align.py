"""``facemsm align``: photos in, landmarks and pictures out."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from enum import Enum
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import typer

from facemsm.apps.options import (
    ContourThreshold,
    Detector,
    DetectorModel,
    FeatureThreshold,
    MethodOption,
    Stages,
    Weights,
    read_settings,
)
from facemsm.assets import SAMPLE
from facemsm.batch.photos import OutputNames, Shard, common_folder, find_photos, inside
from facemsm.batch.pipeline import Outcome, Photo, PhotoAligner, in_order
from facemsm.results.boxes import match_boxes, read_boxes
from facemsm.results.jsonl import ResultsFile, read_results
from facemsm.results.tables import write_csv, write_pts

app = typer.Typer(add_completion=False)


class Format(str, Enum):
    """What ``--format`` takes."""

    JSON = "json"
    CSV = "csv"
    PTS = "pts"


@app.command()
def align(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Photos, folders (searched with their subfolders) or quoted patterns such as 'photos/*.jpg'.",
            metavar="PATH",
            show_default="a sample photo",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything that is written.")] = Path(
        "facemsm-out"
    ),
    format: Annotated[
        Format,
        typer.Option(
            "--format",
            "-f",
            help="json: landmarks.jsonl, one line a photo, is always written. csv: also landmarks.csv, one row a face. "
            "pts: also pts/NAME_1.pts ..., one file a face.",
        ),
    ] = Format.JSON,
    draw: Annotated[
        bool, typer.Option("--draw", "-d", help="Also draw the landmarks into copies, drawn/NAME.jpg.")
    ] = False,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="Face boxes instead of the detector's: .csv with the columns image, x_min, y_min, x_max, y_max; "
            "COCO .json, or an earlier landmarks.jsonl."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run: skip the photos it finished.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            help="3/16: only the third of sixteen parts of the photos, into landmarks-3-of-16.jsonl. Start the others "
            "elsewhere, with the same PATHs."
        ),
    ] = None,
    weights: Weights = "68",
    stages: Stages = "1,2,3",
    method: MethodOption = None,
    threshold_contour: ContourThreshold = None,
    threshold_features: FeatureThreshold = None,
    detector: Detector = None,
    detector_model: DetectorModel = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Photos that are worked on at once; for a single photo, CPU threads.", show_default="all cores"
        ),
    ] = None,
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
    tally: Counter[str] = Counter()

    def failed(line: str) -> None:
        print(line, file=sys.stderr)
        tally["failed"] += 1

    if ray:
        from facemsm.batch.ray import align_photos

    part = Shard.parse(shard) if shard else None
    sources = paths or [SAMPLE]
    folder = common_folder(sources)
    photos = find_photos(sources, output / "drawn", failed)
    given = None
    if boxes:
        listed = list(photos)
        given = match_boxes(read_boxes(boxes), listed, boxes)
        photos = iter(listed)
    if part:
        photos = (photo for photo in photos if inside(photo, folder) in part)
    first = list(islice(photos, 2))
    photos = chain(first, photos)

    options: dict[str, Any] = {
        "weights": weights,
        "settings": read_settings(method, stages, threshold_contour, threshold_features),
        "detector": detector,
        "detector_model": detector_model,
        "boxes": boxes,
        "drawn": output / "drawn" if draw else None,
        "folder": folder,
    }
    cores = threads or _cores()
    workers = cores if len(first) > 1 else 1
    work = PhotoAligner(**options, threads=1 if workers > 1 else cores)
    scheme = work.scheme
    results = ResultsFile(output / f"landmarks{f'-{part}' if part else ''}.jsonl", scheme.name, resume=resume)

    def todo() -> Iterator[Photo]:
        for photo in photos:
            if photo.as_posix() in results.done:
                tally["before"] += 1
            else:
                yield Photo(photo, None if given is None else given.get(photo))

    outcomes = align_photos(todo(), options, address=ray, workers=threads) if ray else in_order(work, todo(), workers)
    interrupt, picture = 0, None
    try:
        with _sigterm_as_interrupt(), closing(outcomes):
            for outcome in _progress(outcomes):
                if outcome.line is None:
                    failed(outcome.failure or outcome.image)
                    continue
                if not outcome.faces:
                    print(f"{Path(outcome.image)}: no face found", file=sys.stderr)
                results.append_line(outcome.line)
                tally["read"] += 1
                tally["faces"] += outcome.faces
                tally["faceless"] += not outcome.faces
                tally["drawn"] += outcome.picture is not None
                picture = outcome.picture or picture
    except KeyboardInterrupt as stop:
        interrupt = stop.args[0] if stop.args else signal.SIGINT
    finally:
        results.close()

    written = [results.path, *_convert(results.path, format, scheme.count, OutputNames(folder))]
    _summarise(tally, time.monotonic() - started)
    for path in written:
        print(f"landmarks: {path}")
    if tally["drawn"]:
        print(f"pictures:  {picture if tally['drawn'] == 1 else output / 'drawn'}")
    if interrupt:
        print("interrupted; the same command with --resume continues")
        raise typer.Exit(128 + interrupt)
    raise typer.Exit(1 if tally["failed"] else 0)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, with which schedulers end a job, stop the run as Ctrl-C does."""

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _progress(outcomes: Iterable[Outcome]) -> Iterable[Outcome]:
    """The outcomes, with their rate on stderr if that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(outcomes, "aligning", console=console, transient=True, disable=not console.is_terminal)


def _convert(results: Path, format: Format, count: int, name: OutputNames) -> list[Path]:
    """Write the other formats from the record of the run; return the paths written."""
    if format is Format.CSV:
        table = results.with_suffix(".csv")
        write_csv(table, read_results(results), count)
        return [table]
    if format is Format.PTS:
        folder = results.with_name("pts")
        for result in read_results(results):
            for i, face in enumerate(result.faces, 1):
                write_pts(folder / f"{name(Path(result.image))}_{i}.pts", face.points)
        return [folder] if folder.is_dir() else []
    return []


def _summarise(tally: Counter[str], seconds: float) -> None:
    parts = [
        f"{_plural(tally['read'], 'photo')} read in {seconds:.1f} s",
        _plural(tally["faces"], "face"),
        f"{_plural(tally['faceless'], 'photo')} without a face" if tally["faceless"] else "",
        f"{tally['failed']} failed, reasons above" if tally["failed"] else "",
        f"{tally['before']} finished before" if tally["before"] else "",
    ]
    print(", ".join(filter(None, parts)))


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
