"""``facemsm align``: photos in, landmarks and pictures out."""

from __future__ import annotations

import glob
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from facemsm.detectors import DEFAULT, NAMES, get_detector
from facemsm.drawing import draw_faces
from facemsm.errors import FacemsmError
from facemsm.face import check_boxes
from facemsm.images import IMAGE_SUFFIXES, read_image, write_image
from facemsm.results import PhotoResult, ResultsFile, match_boxes, read_boxes, read_results, write_csv, write_pts

app = typer.Typer(add_completion=False)

SAMPLE = Path(__file__).with_name("sample.jpg")


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
    weights: Annotated[str, typer.Option(help="Which trained weights to use; 68 finds 68 landmarks.")] = "68",
    stages: Annotated[
        str, typer.Option(help="1 makes the face upright, 2 finds the landmarks, 3 rebuilds the hidden ones.")
    ] = "1,2,3",
    threshold_contour: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Stage 3 rebuilds points on the face's outline that score below this."),
    ] = None,
    threshold_features: Annotated[
        float | None, typer.Option(min=0, max=1, help="The same for all other points.")
    ] = None,
    detector: Annotated[
        str | None, typer.Option(help=f"Face detector: {', '.join(NAMES)}.", show_default=DEFAULT)
    ] = None,
    detector_model: Annotated[Path | None, typer.Option(help="Model file, for a detector that comes without.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Find the landmarks of every face in photos.

    A photo that cannot be used is reported in one line and skipped; the exit code is then 1, and 0 if all went well.
    """
    from facemsm.aligner import Aligner

    started = time.monotonic()
    photos, failures = find_photos(paths or [SAMPLE], skip=output / "drawn")
    given = match_boxes(read_boxes(boxes), photos, boxes) if boxes else None
    thresholds = {"contour": threshold_contour, "features": threshold_features}
    aligner = Aligner.from_pretrained(
        weights,
        detector=get_detector(detector, model=detector_model) if detector or detector_model else None,
        stages=parse_stages(stages),
        thresholds={group: value for group, value in thresholds.items() if value is not None},
        threads=threads,
    )
    scheme = aligner.scheme
    results = ResultsFile(output / "landmarks.jsonl", scheme.name, resume=resume)
    todo = [photo for photo in photos if photo.as_posix() not in results.done]
    names = output_names([*photos, *map(Path, results.done)])
    for failure in failures:
        _report(failure)

    tally: Counter[str] = Counter(failed=len(failures))
    interrupted = False
    try:
        for photo in _progress(todo):
            try:
                image = read_image(photo)
                if given is not None and photo not in given:
                    raise FacemsmError(f"{photo}: has no box in {boxes}; add a row for it")
                faces = aligner.align(
                    image, None if given is None else check_boxes(given[photo], image.shape, where=str(photo))
                )
            except Exception as error:  # whatever is wrong with one photo, the rest goes on
                _report(_reason(photo, error))
                tally["failed"] += 1
                continue
            if not faces:
                _report(f"{photo}: no face found")
            elif draw:
                picture = output / "drawn" / f"{names[photo]}.jpg"
                write_image(picture, draw_faces(image, faces, scheme))
                tally["drawn"] += 1
            height, width = image.shape[:2]
            results.append(PhotoResult(photo.as_posix(), width, height, scheme.name, faces))
            tally.update(read=1, faces=len(faces), faceless=not faces)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        results.close()

    written = [results.path, *_convert(results.path, output, format, scheme.count, names)]
    tally["before"] = len(photos) - len(todo)
    _summarise(tally, time.monotonic() - started)
    for path in written:
        print(f"landmarks: {path}")
    if tally["drawn"]:
        print(f"pictures:  {picture if tally['drawn'] == 1 else output / 'drawn'}")
    if interrupted:
        left = len(todo) - tally["read"] - tally["failed"] + len(failures)
        print(f"interrupted with {_plural(left, 'photo')} left; the same command with --resume continues")
        raise typer.Exit(130)
    raise typer.Exit(1 if tally["failed"] else 0)


def find_photos(paths: Sequence[Path], skip: Path) -> tuple[list[Path], list[str]]:
    """The photos that the paths name, and one line for each path that names none.

    A path that exists and is no folder is taken as a photo whatever its suffix. Folders are searched with their
    subfolders, in order of their names; hidden files and the folder ``skip`` (earlier pictures) are left out.
    """
    photos: list[Path] = []
    failures: list[str] = []
    for path in paths:
        found = [path]
        if os.path.isdir(path):  # noqa: PTH112  (unlike Path.is_dir it never raises)
            found = _photos_in(path, skip, failures)
        elif not os.path.exists(path) and any(c in str(path) for c in "*?["):  # noqa: PTH110
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
            found = [match for match in matches if _is_photo(match.name) and not match.is_dir()]
        if not found:
            failures.append(f"{path}: no photo there; photos are {', '.join(IMAGE_SUFFIXES)} files")
        photos += found
    return list(dict.fromkeys(photos)), failures


def _photos_in(folder: Path, skip: Path, failures: list[str]) -> list[Path]:
    def unreadable(error: OSError) -> None:
        failures.append(f"{error.filename}: cannot be read ({error.strerror})")

    found: list[Path] = []
    for root, folders, files in os.walk(folder, onerror=unreadable):
        kept = [name for name in folders if not name.startswith(".") and Path(root, name).resolve() != skip.resolve()]
        folders[:] = sorted(kept)
        found += [Path(root, name) for name in sorted(files) if _is_photo(name)]
    return found


def _is_photo(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def output_names(photos: Sequence[Path]) -> dict[Path, str]:
    """A name for what is written about each photo: its path from the folder common to all, without suffix.

    Photos that differ in nothing but their suffix keep it.
    """
    absolute = {photo: Path(os.path.abspath(photo)) for photo in photos}  # noqa: PTH100  (links keep their names)
    try:
        common = os.path.commonpath([path.parent for path in absolute.values()]) if photos else ""
        names = {photo: path.relative_to(common) for photo, path in absolute.items()}
    except ValueError:  # two drives of Windows
        names = {photo: Path(path.drive.rstrip(":"), *path.parts[1:]) for photo, path in absolute.items()}
    uses = Counter(str(name.with_suffix("")).lower() for name in set(names.values()))
    return {
        photo: name.as_posix() if uses[str(name.with_suffix("")).lower()] > 1 else name.with_suffix("").as_posix()
        for photo, name in names.items()
    }


def parse_stages(text: str) -> tuple[int, ...]:
    """Read ``1,2,3``; which stages go together is the aligner's to say."""
    try:
        return tuple(int(stage) for stage in text.split(","))
    except ValueError as error:
        raise FacemsmError(f"--stages {text!r}: expected numbers with commas between, such as 1,2,3 or 2") from error


def _progress(photos: Sequence[Path]) -> Iterable[Path]:
    """The photos, with a bar on stderr if that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(photos, "aligning", console=console, transient=True, disable=not console.is_terminal)


def _reason(photo: Path, error: Exception) -> str:
    if not isinstance(error, FacemsmError):
        return f"{photo}: failed unexpectedly ({' '.join(repr(error).split())}); please report this"
    return str(error) if str(error).startswith(str(photo)) else f"{photo}: {error}"


def _report(line: str) -> None:
    print(line, file=sys.stderr)


def _convert(results: Path, output: Path, format: Format, count: int, names: Mapping[Path, str]) -> list[Path]:
    """Write the other formats from the record of the run; return the paths written."""
    if format is Format.CSV:
        write_csv(output / "landmarks.csv", read_results(results), count)
        return [output / "landmarks.csv"]
    if format is Format.PTS:
        for result in read_results(results):
            for i, face in enumerate(result.faces, 1):
                write_pts(output / "pts" / f"{names[Path(result.image)]}_{i}.pts", face.points)
        return [output / "pts"] if (output / "pts").is_dir() else []
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
