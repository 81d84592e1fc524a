"""``facemsm reproduce``: the paper's tables and figures, each from data on disk and weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from facemsm.errors import FacemsmError
from facemsm.reproduce.experiments import EXPERIMENTS, make, note_missing, steps, train, write_index
from facemsm.reproduce.workspace import MissingError, Workspace

app = typer.Typer(add_completion=False)


@app.command()
def reproduce(
    what: Annotated[
        list[str],
        typer.Argument(
            help="table3 to table9, stages, fig5, fig7 to fig15, speed; 'train' for the networks of the ablation; "
            "'all' for everything.",
            show_default=False,
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROOT or NAME=FOLDER",
            help="Folder with the data sets in folders 300w, 300w-private, cofw68, wflw, aflw2000, shapes; or where "
            "one of them lies. May be given several times.",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="Model folder or bundled name, one for each landmark scheme; may be given several times.",
            show_default="the networks trained here, else (preset lite) the bundled ones",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the report.")] = Path("facemsm-out/report"),
    preset: Annotated[str, typer.Option(help="'paper': the paper's settings; 'lite': what a CPU trains.")] = "lite",
    scheme: Annotated[
        list[str] | None, typer.Option(help="Train for 68 or 98 points only.", show_default="those there are faces for")
    ] = None,
    training: Annotated[
        list[str] | None,
        typer.Option(
            "--train",
            metavar="NAME=ROOT:SPLIT",
            help="Train on these faces, as with 'facemsm train --data'; may be given several times.",
            show_default="300w:train, with preset lite aflw2000:train too; wflw:train",
        ),
    ] = None,
    budget: Annotated[
        int, typer.Option(min=0, help="Optimiser steps of every network.", show_default="the preset's length")
    ] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[KIND:]FIELD=VALUE",
            help="Change a setting of all runs, e.g. schedule.threads=1, or of one kind: hourglass:network.width=64.",
        ),
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Name of a face not to train on.")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Use so many faces of each set, evenly chosen.")] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Folder of photos to make figures 8, 10 and 12 from, instead of the data sets.")
    ] = None,
    no_photos: Annotated[bool, typer.Option("--no-photos", help="No pictures of faces of the data sets.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the steps, what they need and how long they take here.")
    ] = False,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="Show bars while training.")] = True,
) -> None:
    """Compute the paper's tables and figures beside the paper's own numbers, into one report folder.

    What has been computed is kept and not computed again; an interrupted command goes on when it is given again.
    """
    if wrong := [name for name in what if name not in (*EXPERIMENTS, "train", "all")]:
        raise FacemsmError(f"nothing is called {wrong[0]!r}: use {', '.join(EXPERIMENTS)}, train or all")
    if preset not in ("paper", "lite"):
        raise FacemsmError(f"no preset {preset!r}: use paper or lite")
    if photos and not photos.is_dir():
        raise FacemsmError(f"{photos}: no such folder of photos")
    for text in data or ():
        if not Path(text.partition("=")[2] or text).exists():
            raise FacemsmError(f"--data {text}: no such folder")
    if unknown := [name for name in scheme or () if name not in ("68", "98")]:
        raise FacemsmError(f"--scheme {unknown[0]}: use 68 or 98")
    exp = Workspace(
        output,
        data or (),
        weights or (),
        preset,
        training or (),
        budget,
        settings or (),
        exclude or (),
        limit,
        not no_photos,
        photos,
    )
    everything = "all" in what
    names = [name for name in EXPERIMENTS if everything or name in what]
    schemes: list[str] = []
    unknown_names = set(exclude or ())
    missing: dict[str, str] = {}
    if everything or "train" in what:
        for one in scheme or ("68", "98"):
            with _noted(missing, f"train {one}"):
                unknown_names -= set(exp.plan(one).exclude)
                schemes.append(one)
        if not schemes and not everything:
            raise FacemsmError(next(iter(missing.values())))
        if schemes and unknown_names:
            raise FacemsmError(f"--exclude: no face is called {min(unknown_names)!r} in the training data")
    if dry_run:
        total = 0.0
        for step in steps(exp, names, schemes):
            total += step.seconds or 0.0
            duration = "" if step.seconds is None else f", about {_duration(step.seconds)}"
            print(f"{step.state:14} {step.name}: {step.needs}{duration}", flush=True)
        print(f"in all about {_duration(total)} on this machine, networks alone")
        return
    train(exp, schemes, progress=progress)
    for name in names:
        with _noted(missing, name):
            print(f"{name}: {'made' if make(exp, name) else 'there already'}", flush=True)
        if name in missing:
            note_missing(exp, name, missing[name])
    if names:
        index = write_index(exp)
        if everything or len(missing) < len(names):
            print(f"report: {index}")
    for name, why in missing.items():
        if everything or len(names) > 1:
            print(f"facemsm: {name}: {why}", file=sys.stderr)
    if names and len(missing) >= len(names):
        raise FacemsmError(missing[names[0]])


@contextmanager
def _noted(missing: dict[str, str], name: str) -> Iterator[None]:
    """What is missing stops one table, not the others."""
    try:
        yield
    except MissingError as error:
        missing[name] = str(error)


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
