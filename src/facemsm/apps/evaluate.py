"""``facemsm evaluate``: annotated faces in, error measures out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facemsm.apps.console import tell_written, track
from facemsm.apps.options import DataScheme, MethodOption, Root, Split, Threads, read_settings
from facemsm.data.catalogue import CATALOGUE, only_split
from facemsm.data.sample import BoxSource
from facemsm.errors import FacemsmError
from facemsm.evaluation.conditions import Perturbation
from facemsm.evaluation.report import REPORTED_NORMALISERS, THRESHOLDS, markdown, write_report
from facemsm.geometry import NORMALISERS, Normaliser

app = typer.Typer(add_completion=False)


@app.command()
def evaluate(
    dataset: Annotated[str, typer.Argument(help=f"Data set: {', '.join(CATALOGUE)}.")],
    root: Root,
    split: Split = None,
    scheme: DataScheme = None,
    boxes: Annotated[
        BoxSource | None,
        typer.Option(
            help="provided: the data set's own; gt: the true ones, tight around the points where there are none; "
            "detector: what the face detector finds.",
            show_default="provided, else gt",
        ),
    ] = None,
    perturb: Annotated[
        str | None,
        typer.Option(
            metavar="SHIFT,SCALE,ROTATION",
            help="Perturb each box by random amounts up to these, such as 0.15,0.25,30: in box widths and heights, as "
            "a fraction of its size, in degrees.",
        ),
    ] = None,
    occlude: Annotated[
        bool,
        typer.Option(
            "--occlude",
            help="Paint a mask, a hand or dark glasses over every face, and compare with the faces as they are.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of perturbations and painted occluders.")] = 0,
    weights: Annotated[
        str | None, typer.Option(help="Trained weights: a bundled name or a folder.", show_default="68")
    ] = None,
    stages: Annotated[str | None, typer.Option(help="Which stages run.", show_default="1,2,3")] = None,
    method: MethodOption = None,
    threads: Threads = 1,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Score this file instead of running anything: .npz of --save-predictions or, for cofw68, a result "
            "file of its benchmark. A face without a record is missed."
        ),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save-predictions", help="Keep the predictions in this .npz file.")
    ] = None,
    normaliser: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Divide errors by this: {', '.join(NORMALISERS)}; may be repeated.",
            show_default=", ".join(REPORTED_NORMALISERS),
        ),
    ] = None,
    threshold: Annotated[
        list[float] | None,
        typer.Option(
            min=0.01,
            max=100,
            help="Failure rate and AUC at this error, in per cent of the normaliser; may be repeated.",
            show_default=", ".join(f"{limit:g}" for limit in THRESHOLDS),
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only so many faces, evenly chosen.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for report and plots.")] = Path(
        "facemsm-out/evaluation"
    ),
) -> None:
    """Measure how well landmarks are found in annotated faces.

    Prints tables, and writes them as JSON and Markdown with plots of the error distribution. docs/evaluation.md has the
    protocol.
    """
    from facemsm.evaluation.dataset import evaluate_dataset

    split = split or only_split(dataset)
    if predictions:
        given: dict[str, object] = {"boxes": boxes, "perturb": perturb, "occlude": occlude or None}
        given |= {"weights": weights, "stages": stages, "method": method, "save-predictions": save}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise FacemsmError(f"--{wrong[0]} makes no sense with --predictions: nothing is run")
    evaluation, report = evaluate_dataset(
        dataset,
        root,
        split,
        scheme,
        limit=limit,
        boxes=boxes,
        perturbation=None if perturb is None else Perturbation.parse(perturb, seed),
        occlude=occlude,
        seed=seed,
        weights=weights or "68",
        settings=read_settings(method, stages or "1,2,3"),
        threads=threads,
        predictions=predictions,
        save=save,
        normalisers=[_normaliser(name) for name in normaliser or ()],
        thresholds=threshold or (),
        progress=track,
    )
    stem = output / f"{dataset}-{split.replace('/', '-')}{'-occluded' if occlude else ''}"
    written = write_report(evaluation, report, stem)
    print(markdown(report))
    tell_written(written, plots=True)


def _normaliser(name: str) -> Normaliser:
    for known in NORMALISERS:
        if name == known:
            return known
    raise FacemsmError(f"unknown normaliser {name!r}: use one of {', '.join(NORMALISERS)}")
