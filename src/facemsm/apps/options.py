"""Options that several commands share, and what they mean together."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from facemsm.detectors import DEFAULT, NAMES
from facemsm.errors import FacemsmError
from facemsm.runtime.providers import MAX_THREADS
from facemsm.typing import Method

if TYPE_CHECKING:
    from facemsm.stages import Settings


Format = Literal["json", "csv", "pts", "coco", "label-studio"]


def finite(value: float | None) -> float | None:
    """The value of an option that is neither ``nan`` nor ``inf``, which a least value alone lets pass."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number")
    return value


Weights = Annotated[str, typer.Option(help="Trained weights: a bundled model (68, 68-large or 98) or a model folder.")]
Stages = Annotated[
    str, typer.Option(help="Which stages run: 1 makes the face upright, 2 finds the landmarks, 3 rebuilds hidden ones.")
]
MethodOption = Annotated[
    Method | None,
    typer.Option(
        "--method",
        case_sensitive=False,
        help="calibrated: scores and occlusion are probabilities, stage 3 weighs every point. paper: Algorithm 2 as "
        "published, points with low scores are rebuilt from similar shapes.",
        show_default="calibrated if the weights are",
    ),
]
ContourThreshold = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="With --method paper: rebuild points on the face's outline whose score is not above this share of the "
        "face's best.",
        show_default="0.4",
    ),
]
FeatureThreshold = Annotated[
    float | None, typer.Option(min=0, max=1, help="The same for all other points.", show_default="0.6")
]
Detector = Annotated[str | None, typer.Option(help=f"Face detector: {', '.join(NAMES)}.", show_default=DEFAULT)]
DetectorModel = Annotated[Path | None, typer.Option(help="Model file, for a detector that comes without.")]
WeightsToChoose = Annotated[
    list[str] | None,
    typer.Option(
        "--weights",
        help="Trained weights that may be chosen: bundled models or model folders. Repeat it for several; the first is "
        "the default.",
        show_default="all bundled ones, 68 first",
    ),
]
AnyRotation = Annotated[
    bool,
    typer.Option(
        "--any-rotation",
        help="Photos may lie on their side or head, as those that lost their orientation tag: look for faces in all "
        "four orientations, unless those found first are upright.",
    ),
]
MinScore = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        callback=finite,
        help="Leave out faces with a lower score, the share of a face's points that is expected to be right.",
    ),
]
MinSize = Annotated[
    float,
    typer.Option(
        min=0, callback=finite, help="Leave out faces that the detector finds with a shorter side of the box, px."
    ),
]
Measures = Annotated[bool, typer.Option("--measures", help="Also write head pose, eye and mouth openness.")]
Threads = Annotated[int, typer.Option(min=1, max=MAX_THREADS, help="CPU threads.")]
Provider = Annotated[
    list[str] | None,
    typer.Option(
        "--provider",
        help="What runs the networks: cuda, coreml, directml or openvino, with the package of ONNX Runtime that has "
        "it, or an execution provider's name there. Repeat it for several, the best first.",
        show_default="cpu",
    ),
]
Progress = Annotated[bool, typer.Option("--progress/--no-progress", help="Show a progress bar while training.")]
ModelFolder = Annotated[Path, typer.Option("--output", "-o", help="Model folder to write.")]

SOURCE = "NAME=ROOT:SPLIT"
"""How an option names the faces of a split, see :class:`facemsm.data.sources.Source`."""

Root = Annotated[
    Path, typer.Argument(help="The folder it lies in, or the file: coco, csv, dlib, hrnet, cvat, label-studio.")
]
Split = Annotated[str | None, typer.Option(help="Which split; may be left out if there is only one.")]
DataScheme = Annotated[
    str | None,
    typer.Option("--scheme", help="Landmark scheme of one's own data: 29, 68, 98 or a .toml file.", show_default=False),
]
DataBoxes = Annotated[
    Literal["gt", "provided"],
    typer.Option(
        "--boxes", help="gt: 300-W's own true boxes, else tight around the points; provided: the data set's own."
    ),
]
Preset = Annotated[str, typer.Option(help="'paper': the paper's settings; 'lite': what a CPU trains and what ships.")]
Exclude = Annotated[list[str] | None, typer.Option(help="Name of a face to leave out; may be given several times.")]
Complete = Annotated[
    str | None,
    typer.Option(
        metavar=SOURCE,
        help="For scheme 98: faces with 98 points (wflw) that teach where the others lie on faces with 68.",
    ),
]
Holdout = Annotated[
    float, typer.Option(min=0.0, max=0.9, callback=finite, help="Fraction of the photos to validate on.")
]
Faces = Annotated[int, typer.Option(min=1, help="How many of the faces of --data, evenly chosen.")]


def read_settings(
    method: Method | None,
    stages: str,
    contour: float | None = None,
    features: float | None = None,
    *,
    any_rotation: bool = False,
) -> Settings:
    """The settings that these options ask for.

    Raises:
        FacemsmError: stages are not numbers, or thresholds without the paper's method.
    """
    from facemsm.shapes.reconstruction import Reconstruction
    from facemsm.stages import Settings

    try:
        numbers = tuple(int(stage) for stage in stages.split(","))
    except ValueError as error:
        raise FacemsmError(f"--stages {stages!r}: expected numbers with commas between, such as 1,2,3 or 2") from error
    thresholds = {name: value for name, value in (("contour", contour), ("features", features)) if value is not None}
    if thresholds and method != "paper":
        raise FacemsmError(
            f"--threshold-{next(iter(thresholds))}: is for --method paper only; add that, or leave it out"
        )
    reconstruction = Reconstruction.with_thresholds(thresholds)
    return Settings(method, numbers, reconstruction, any_rotation=any_rotation)
