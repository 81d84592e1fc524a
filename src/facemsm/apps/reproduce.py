"""``facemsm reproduce``: the paper's tables and figures, each from data on disk and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from facemsm.apps.console import duration, tell, track, warn
from facemsm.apps.options import SOURCE, Exclude, Preset, Progress
from facemsm.reproduce.ablation import ARMS
from facemsm.reproduce.report import Report
from facemsm.reproduce.workspace import Workspace

app = typer.Typer(add_completion=False)


@app.command()
def reproduce(
    what: Annotated[
        list[str],
        typer.Argument(
            help="table3 to table9, stages, stage3, fig5, fig7 to fig15, speed; 'train' for the networks of the "
            "ablation; 'all' for everything.",
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
    method: Annotated[
        Literal["paper"] | None,
        typer.Option(
            case_sensitive=False,
            help="paper: leave out the rows of the calibrated form, which the weights ship with.",
            show_default="both",
        ),
    ] = None,
    preset: Preset = "lite",
    scheme: Annotated[
        list[str] | None, typer.Option(help="Train for 68 or 98 points only.", show_default="those there are faces for")
    ] = None,
    training: Annotated[
        list[str] | None,
        typer.Option(
            "--train",
            metavar=SOURCE,
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
    exclude: Exclude = None,
    init: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=RUN",
            help="Start all runs of one kind from weights trained before, a run's folder or a .safetensors file: "
            "hourglass=runs/trunk. May be given once for each of stgan, hourglass and resnet50.",
            show_default="random weights",
        ),
    ] = None,
    occluders: Annotated[
        list[str] | None,
        typer.Option(
            metavar="none or painted",
            help="Arm of the ablation to be trained: without occluders painted over the training faces, as in the "
            "paper, or with them; may be given twice. Tables show the arms that are trained.",
            show_default="both; with preset paper none",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Use so many faces of each set, evenly chosen.")] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Folder of photos to make figures 8, 10 and 12 from, instead of the data sets.")
    ] = None,
    no_photos: Annotated[bool, typer.Option("--no-photos", help="No pictures of faces of the data sets.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="List the data sets and where they are had, the steps, and what memory and time they take.",
        ),
    ] = False,
    progress: Progress = True,
) -> None:
    """Compute the paper's tables and figures beside the paper's own numbers, into one report folder.

    What has been computed is kept and not computed again; an interrupted command goes on when it is given again.
    """
    workspace = Workspace(
        output,
        data or (),
        weights or (),
        preset,
        training or (),
        budget,
        settings or (),
        exclude or (),
        init or (),
        list(dict.fromkeys(occluders or ())) or (["none"] if preset == "paper" else list(ARMS)),
        limit,
        photos=not no_photos,
        own_photos=photos,
        calibrated=method is None,
        progress=track,
    )
    report = Report.of(workspace, what, scheme or ())
    if not dry_run:
        report.make(progress=progress, say=tell, warn=warn)
        return
    total = on_gpu = 0.0
    for step in report.steps():
        total += step.seconds or 0.0
        on_gpu += step.on_gpu or 0.0
        time = "" if step.seconds is None else f", about {duration(step.seconds)} here"
        time += "" if step.on_gpu is None else f", {duration(step.on_gpu)} on the paper's GTX 1080"
        tell(f"{step.state:14} {step.name}: {step.needs}{time}")
    trained = f"; the training about {duration(on_gpu)} on the paper's GTX 1080" if on_gpu else ""
    tell(f"in all about {duration(total)} on this machine, networks alone{trained}")
