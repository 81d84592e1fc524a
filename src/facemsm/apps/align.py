"""``facemsm align``: photos in, landmarks and pictures out."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from facemsm.apps.console import cores, plural, sigterm_as_interrupt, tell, warn
from facemsm.apps.options import (
    AnyRotation,
    ContourThreshold,
    Detector,
    DetectorModel,
    FeatureThreshold,
    Format,
    Measures,
    MethodOption,
    MinScore,
    MinSize,
    Provider,
    Stages,
    Weights,
    read_settings,
)
from facemsm.assets import SAMPLE
from facemsm.batch.photos import STREAM, OutputNames, Shard, common_folder, find_photos, inside
from facemsm.batch.pipeline import Outcome, Photo, PhotoAligner, in_order
from facemsm.errors import FacemsmError, StorageError
from facemsm.files import OUTPUT, atomic_write, new_folder, newest_folder, reading
from facemsm.imaging.drawing import LOW_SCORE
from facemsm.imaging.io import MAX_BYTES
from facemsm.results.boxes import boxes_checksum, match_boxes, read_boxes
from facemsm.results.coco import to_coco
from facemsm.results.jsonl import PhotoResult, PhotoSet, ResultsFile, read_results
from facemsm.results.label_studio import label_studio_tasks
from facemsm.results.run import DRAWN, PTS, SUFFIX, Run
from facemsm.results.tables import write_csv, write_pts
from facemsm.runtime.providers import MAX_THREADS
from facemsm.schemes import LandmarkScheme

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
        Format,
        typer.Option(
            "--format",
            "-f",
            case_sensitive=False,
            help="json: landmarks.jsonl, one line a photo, is always written. csv: also landmarks.csv, one row a face. "
            "pts: also pts/NAME_1.pts ..., one file a face. coco, label-studio: also landmarks.coco.json or "
            "landmarks.label-studio.json, for annotation tools.",
        ),
    ] = Format.JSON,
    draw: Annotated[
        bool, typer.Option("--draw", "-d", help="Also draw the landmarks into copies, drawn/NAME.jpg.")
    ] = False,
    measures: Measures = False,
    min_score: MinScore = 0,
    min_size: MinSize = 0,
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
    weights: Weights = "68",
    stages: Stages = "1,2,3",
    method: MethodOption = None,
    threshold_contour: ContourThreshold = None,
    threshold_features: FeatureThreshold = None,
    detector: Detector = None,
    detector_model: DetectorModel = None,
    any_rotation: AnyRotation = False,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_THREADS,
            help="Photos that are worked on at once; for a single photo, CPU threads.",
            show_default="all cores",
        ),
    ] = None,
    provider: Provider = None,
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
        warn(line)
        tally["failed"] += 1

    finding = {"--detector": detector, "--detector-model": detector_model, "--min-size": min_size}
    if boxes and (vain := [option for option, value in finding.items() if value]):
        raise FacemsmError(f"{vain[0]}: is for faces that the detector finds; leave it out with --boxes")
    streamed = output == STREAM
    if streamed:
        _check_streamed(format, draw=draw, resume=resume)
    if ray:
        from facemsm.batch.ray import align_photos, import_ray

        import_ray()  # that it is missing is said before anything is written
    part = Shard.parse(shard) if shard else None
    if part and not output:
        raise FacemsmError(f"--shard {shard}: name the folder that all parts share, with --output")
    sources = paths or [SAMPLE]
    piped = _read_stdin() if STREAM in sources else None
    if piped is not None and resume:
        raise FacemsmError("--resume: what comes from standard input is not known again; leave it out")
    folder = common_folder(sources)

    def find(report: Callable[[str], None], left_out: Callable[[str], None]) -> Iterator[Path]:
        photos = find_photos(sources, report, left_out)
        return (photo for photo in photos if inside(photo, folder) in part) if part else photos

    photos, given, checksum = find(failed, warn), None, ""
    if boxes:
        listed, found = list(photos), read_boxes(boxes)
        given, checksum = match_boxes(found, listed, boxes), boxes_checksum(found)
        photos = iter(listed)
    first = list(islice(photos, 2))
    photos = chain(first, photos)

    options: dict[str, Any] = {
        "weights": weights,
        "settings": read_settings(method, stages, threshold_contour, threshold_features, any_rotation=any_rotation),
        "detector": detector,
        "detector_model": detector_model,
        "providers": provider or (),
        "boxes": boxes,
        "boxes_checksum": checksum,
        "min_score": min_score,
        "min_size": min_size,
        "measures": measures,
    }
    threads_used = threads or cores()
    workers = threads_used if len(first) > 1 else 1
    work = PhotoAligner(**options, threads=1 if workers > 1 else threads_used)
    scheme = work.scheme
    name = f"landmarks{f'-{part}' if part else ''}"
    run = Run(Path.cwd(), folder, draw, work.settings)
    results: ResultsFile | _Stdout
    if streamed and format is Format.JSON:
        target, results = Path(), _Stdout()
    else:
        target = output or (newest_folder(name + SUFFIX) if resume else None) or new_folder()
        if streamed:
            with reading("temporary folder"):
                target = Path(ctx.with_resource(TemporaryDirectory(prefix="facemsm-")))
        results = ResultsFile(target / f"{name}.jsonl", scheme.name, resume=resume, run=run)
    run = results.run or run
    options |= {"drawn": target / DRAWN if run.draw else None, "folder": run.common}
    work.draw_into(options["drawn"], options["folder"])
    moved = run.folder != Path.cwd()

    def todo() -> Iterator[Photo]:
        for photo in photos:
            if photo in results.done:
                if results.done.changed(photo):
                    failed(f"{photo}: is not the file any more whose results are there; choose another --output")
                else:
                    tally["before"] += 1
            else:  # a relative name would mean another photo beside those of a run that began in another folder
                named = photo.absolute() if moved and photo != STREAM else photo
                data = piped if photo == STREAM else None
                yield Photo(named, None if given is None else given.get(photo), data)

    def count() -> int:
        found = listed if boxes else find(lambda _: None, lambda _: None)
        return sum(photo not in results.done for photo in found)

    outcomes = align_photos(todo(), options, address=ray, workers=threads) if ray else in_order(work, todo(), workers)
    interrupt, picture = 0, None
    try:
        with sigterm_as_interrupt(), closing(outcomes):
            for outcome in _progress(outcomes, count):
                if outcome.line is None:
                    failed(outcome.failure or outcome.image)
                    continue
                if not outcome.faces:
                    low = f", {plural(outcome.left_out, 'low score')} left out" if outcome.left_out else ""
                    warn(f"{Path(outcome.image)}: no face found{low}")
                results.append_line(outcome.line)
                tally["read"] += 1
                tally["faces"] += outcome.faces
                tally["low"] += outcome.low
                tally["left out"] += outcome.left_out
                tally["faceless"] += not outcome.faces
                tally["drawn"] += outcome.picture is not None
                picture = outcome.picture or picture
    except KeyboardInterrupt as stop:
        interrupt = stop.args[0] if stop.args else signal.SIGINT
    finally:
        results.close()

    say, written = tell, []
    if isinstance(results, ResultsFile):
        converted = _convert(results.path, format, scheme, run, failed, measures=measures)
        written = [results.path, *converted]
    if streamed:
        say = warn
        for path in written[1:]:
            _Stdout().append_line(path.read_text(encoding="utf-8"))
    say(_summary(tally, time.monotonic() - started))
    for path in () if streamed else written:
        tell(f"landmarks: {path}")
    if tally["drawn"]:
        tell(f"pictures:  {picture if tally['drawn'] == 1 else target / DRAWN}")
    if interrupt:
        way = f"the same command with {'' if output else f'--output {target} '}--resume continues"
        say(f"interrupted{'' if streamed else f'; {way}'}")
        raise typer.Exit(128 + interrupt)
    raise typer.Exit(1 if tally["failed"] else 0)


class _Stdout:
    """Standard output in the place of a :class:`ResultsFile`."""

    run = None
    done = PhotoSet()

    def __init__(self) -> None:
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]

    def append_line(self, line: str) -> None:
        """Write it, at once."""
        print(line, end="", flush=True)

    def close(self) -> None:
        """Nothing is pending."""


def _check_streamed(format: Format, *, draw: bool, resume: bool) -> None:
    """Refuse what needs a folder with ``--output -``."""
    needs = {"--draw": draw, "--resume": resume, "--format pts": format is Format.PTS}
    if vain := [option for option, value in needs.items() if value]:
        raise FacemsmError(f"{vain[0]}: needs a folder; leave it out with --output -, or name one")


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


def _convert(
    results: Path,
    format: Format,
    scheme: LandmarkScheme,
    run: Run,
    failed: Callable[[str], None],
    *,
    measures: bool,
) -> list[Path]:
    """Write the other formats from the record of the run; return the paths written.

    Those that an earlier part of the run wrote are brought up to date, too.
    """
    written = []
    table, folder = results.with_suffix(".csv"), results.with_name(PTS)
    if format is Format.CSV or table.exists():
        write_csv(table, read_results(results), scheme.count, measures=scheme if measures else None)
        written.append(table)
    documents: dict[Format, Callable[[list[PhotoResult]], Any]] = {
        Format.COCO: lambda photos: to_coco(photos, scheme=scheme),
        Format.LABEL_STUDIO: lambda photos: label_studio_tasks(photos, scheme),
    }
    for kind, document in documents.items():
        path = results.with_suffix(f".{kind.value}.json")
        if format is kind or path.exists():
            photos = [
                replace(photo, image=inside(run.folder / photo.image, run.common).as_posix())
                for photo in read_results(results)
            ]
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(document(photos)), encoding="utf-8")
            written.append(path)
    if format is Format.PTS or folder.is_dir():
        name = OutputNames(run.common)
        for result in read_results(results):
            try:
                for i, face in enumerate(result.faces, 1):
                    write_pts(folder / f"{name(run.folder / result.image)}_{i}.pts", face.points)
            except FacemsmError as error:  # one name must not cost the others  # noqa: PERF203
                if isinstance(error, StorageError):
                    raise
                failed(str(error))
        written += [folder] if folder.is_dir() else []
    return written


def _summary(tally: Counter[str], seconds: float) -> str:
    parts = [
        f"{plural(tally['read'], 'photo')} read in {seconds:.1f} s",
        plural(tally["faces"], "face"),
        f"{tally['low']} of them with a score below {LOW_SCORE}" if tally["low"] else "",
        f"{plural(tally['left out'], 'face')} left out for a low score" if tally["left out"] else "",
        f"{plural(tally['faceless'], 'photo')} without a face" if tally["faceless"] else "",
        f"{tally['failed']} failed, reasons above" if tally["failed"] else "",
        f"{tally['before']} finished before" if tally["before"] else "",
    ]
    return ", ".join(filter(None, parts))
