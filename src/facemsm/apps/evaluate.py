"""``facemsm evaluate``: annotated faces in, error measures out."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from facemsm.apps.options import MethodOption, Threads, read_settings
from facemsm.data.catalogue import CATALOGUE, dataset_scheme, find_dataset, load_dataset
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.detectors import get_detector
from facemsm.errors import FacemsmError
from facemsm.evaluation.conditions import EVALUATED, Perturbation, painted
from facemsm.evaluation.evaluate import run_aligner
from facemsm.evaluation.predictions import Predictions, check_ending, load_predictions, save_predictions
from facemsm.evaluation.report import (
    REPORTED_NORMALISERS,
    THRESHOLDS,
    Evaluation,
    compare,
    comparison_markdown,
    draw_plots,
    markdown,
    measure,
)
from facemsm.files import atomic_write
from facemsm.geometry import CROP_ENLARGEMENT, NORMALISERS, Normaliser
from facemsm.provenance import commit, machine
from facemsm.schemes import LandmarkScheme
from facemsm.stages import Settings

if TYPE_CHECKING:
    from facemsm.aligner import Aligner

app = typer.Typer(add_completion=False)


class Boxes(str, Enum):
    """What ``--boxes`` takes."""

    provided = "provided"
    gt = "gt"
    detector = "detector"


@app.command()
def evaluate(
    dataset: Annotated[str, typer.Argument(help=f"Data set: {', '.join(CATALOGUE)}.")],
    root: Annotated[Path, typer.Argument(help="The folder it lies in; the file itself for coco and csv.")],
    split: Annotated[str | None, typer.Option(help="Which split; may be left out if there is only one.")] = None,
    scheme: Annotated[
        str | None,
        typer.Option(help="Landmark scheme of coco, csv and pts: 29, 68, 98 or a .toml file.", show_default=False),
    ] = None,
    boxes: Annotated[
        Boxes | None,
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
            help="Divide errors by this: inter-pupil, inter-ocular, box or face-size; may be repeated.",
            show_default=", ".join(REPORTED_NORMALISERS),
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
    landmarks = dataset_scheme(dataset, scheme)
    split = split or _only_split(dataset)
    kinds = [_normaliser(name) for name in normaliser or ()]
    if save:
        check_ending(save)
    if predictions:
        given: dict[str, object] = {"boxes": boxes, "perturb": perturb, "occlude": occlude or None}
        given |= {"weights": weights, "stages": stages, "method": method, "save-predictions": save}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise FacemsmError(f"--{wrong[0]} makes no sense with --predictions: nothing is run")
        source: BoxSource = "gt"
    else:
        source = boxes.value if boxes else "provided" if find_dataset(dataset).provided_boxes else "gt"
    there = load_dataset(dataset, root, split, "gt" if source == "detector" else source, scheme)
    if not there:
        raise FacemsmError(f"{root}: holds no face of {dataset}, {split}")
    samples = there
    if limit is not None and limit < len(there):
        samples = [there[i] for i in np.linspace(0, len(there) - 1, limit).astype(int)]

    if predictions:
        predicted = load_predictions(predictions, landmarks.count)
        made_for = predicted.origin.get("data set", dataset)
        if made_for != dataset:
            raise FacemsmError(f"{predictions}: holds predictions for {made_for}, not {dataset}")
    else:
        perturbation = None if perturb is None else Perturbation.parse(perturb, seed)
        aligner = _aligner(weights or "68", read_settings(method, stages or "1,2,3"), threads, landmarks)
        if occlude:
            clean = _predict(aligner, samples, source, perturbation, dataset)
            samples = [painted(sample, landmarks, seed=seed) for sample in samples]
        predicted = _predict(aligner, samples, source, perturbation, dataset)
        if save:
            save_predictions(save, predicted)

    convention = predicted.origin.get("convention")
    evaluation = Evaluation.of(samples, predicted, landmarks, convention)
    report = measure(evaluation, kinds)
    report["run"] = {
        "data set": f"{dataset}, {split}",
        "faces": {"used": len(samples), "there": len(there), "published": find_dataset(dataset).splits[split]},
        "scheme": landmarks.name,
        "normalisers": list(report["errors"]),
        "thresholds (%)": list(THRESHOLDS),
        "predictions": dict(predicted.origin),
        "commit": commit(),
        "machine": machine(),
    }
    if occlude:
        report["run"]["painted over"] = list(EVALUATED)
        report["occluded and clean"] = compare(evaluation, Evaluation.of(samples, clean, landmarks, convention), kinds)
    stem = output / f"{dataset}-{split.replace('/', '-')}{'-occluded' if occlude else ''}"
    _write(evaluation, report, stem)


def _only_split(dataset: str) -> str:
    splits = list(find_dataset(dataset).splits)
    if len(splits) > 1:
        raise FacemsmError(f"{dataset} has several splits: say --split {', '.join(splits)}")
    return splits[0]


def _normaliser(name: str) -> Normaliser:
    for known in NORMALISERS:
        if name == known:
            return known
    raise FacemsmError(f"unknown normaliser {name!r}: use one of {', '.join(NORMALISERS)}")


def _aligner(weights: str, settings: Settings, threads: int, scheme: LandmarkScheme) -> Aligner:
    from facemsm.aligner import Aligner

    aligner = Aligner.from_pretrained(weights, settings=settings, threads=threads)
    if aligner.scheme != scheme:
        raise FacemsmError(f"weights {weights!r} find scheme {aligner.scheme.name}, the faces have {scheme.name}")
    return aligner


def _predict(
    aligner: Aligner, samples: Sequence[FaceSample], source: BoxSource, perturbation: Perturbation | None, dataset: str
) -> Predictions:
    """Run the aligner, with a bar on stderr if that is a terminal."""
    detector = get_detector() if source == "detector" else None
    console = Console(stderr=True)
    bar = track(samples, "aligning", console=console, transient=True, disable=not console.is_terminal)
    origin = {
        "weights": aligner.description,
        "boxes": f"detector ({detector.name})" if detector else source,
        "crop enlargement": CROP_ENLARGEMENT,
        "perturbation": asdict(perturbation) if perturbation else None,
        "data set": dataset,
        "convention": aligner.model.conventions.get(find_dataset(dataset).convention or dataset),
        "commit": commit(),
        "machine": machine(),
    }
    return replace(run_aligner(aligner, bar, detector, perturbation), origin=origin)


def _write(evaluation: Evaluation, report: dict[str, Any], stem: Path) -> None:
    """Print the tables, write ``STEM.json`` and ``STEM.md``, draw the plots if matplotlib is there."""
    text = markdown(report)
    if "occluded and clean" in report:
        text += comparison_markdown(report["occluded and clean"])
    print(text)
    written = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".json", ".md")]
    for path, content in zip(written, (json.dumps(report, indent=1, allow_nan=False) + "\n", text), strict=True):
        with atomic_write(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    if find_spec("matplotlib"):
        written += draw_plots(evaluation, list(report["errors"]), stem)
    else:
        print("no plots, as matplotlib is not installed: pip install 'facemsm[plots]'", file=sys.stderr)
    for path in written:
        print(f"written: {path}")
