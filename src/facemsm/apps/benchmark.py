"""``facemsm benchmark``: how long each step takes, beside other landmark finders on the same faces in the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facemsm.apps.console import tell_written, warn
from facemsm.apps.options import SOURCE, Faces, Provider
from facemsm.runtime.providers import MAX_THREADS

app = typer.Typer(add_completion=False)


@app.command()
def benchmark(
    model: Annotated[str, typer.Argument(help="Trained weights: a bundled name or a folder.")] = "68",
    data: Annotated[
        str | None,
        typer.Option(metavar=SOURCE, help="Annotated faces to run on.", show_default="the face in the sample photo"),
    ] = None,
    faces: Faces = 64,
    onnx: Annotated[
        list[Path] | None,
        typer.Option(help="Also time this network on face crops of its input size; may be given several times."),
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="Also run these weights of ours; may be given several times.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MAX_THREADS, help="Threads where many are used.", show_default="all")
    ] = None,
    provider: Provider = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for report and plot.")] = Path(
        "facemsm-out/benchmark"
    ),
) -> None:
    """Measure how long each step takes, on one thread and on many, beside other landmark finders.

    Times on one thread are processor times, which other programs disturb little; methods take turns, face by face.
    """
    from facemsm.evaluation.speed import markdown, measure_speed, write_report

    report = measure_speed(
        model,
        data,
        count=faces,
        onnx=onnx or (),
        weights=weights or (),
        threads=threads,
        providers=provider or (),
        warn=warn,
    )
    written = write_report(report, output)
    print(markdown(report))
    tell_written(written, plots=data is not None)
