"""``facemsm train``: the stages, each on its own. Needs the extra ``train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facemsm.apps.options import SOURCE, Boxes, Complete, DataBoxes, Exclude, Holdout, Preset, Progress

if TYPE_CHECKING:
    from facemsm.schemes import LandmarkScheme
    from facemsm.training.faces import Faces
    from facemsm.training.run import StageModule

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Train a stage on annotated faces (needs the extra 'train')."
)

Data = Annotated[
    list[str],
    typer.Option(
        metavar=f"{SOURCE}[@SHARE[@UNTIL]]",
        help="Faces to train on, such as 300w=data/300w:train or coco=faces.json:all; may be given several times. "
        "SHARE: how often they are seen in each epoch, 1 if not given. "
        "UNTIL: fraction of the run after which they are left out.",
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Change a setting, e.g. schedule.epochs=10; may be given several times. "
        "config.json in the run's folder lists them.",
    ),
]
Scheme = Annotated[str, typer.Option(help="Landmark scheme: 29, 68, 98 or a .toml file.")]
Init = Annotated[
    Path | None,
    typer.Option(help="Weights to start from (.safetensors); of another landmark scheme or a deeper hourglass too."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")]


@app.command()
def stgan(
    data: Data,
    output: Output,
    preset: Preset = "lite",
    settings: Settings = None,
    scheme: Scheme = "68",
    boxes: DataBoxes = Boxes.PROVIDED,
    exclude: Exclude = None,
    holdout: Holdout = 0.1,
    init: Init = None,
    resume: Resume = False,
    progress: Progress = True,
) -> None:
    """Stage 1: the spatial transformer GAN, on crops by detector-like boxes."""
    from facemsm.stgan.training import STGANModule, STGANTraining
    from facemsm.training.config import override

    config = override(STGANTraining.preset(preset), settings or [])
    landmarks, faces = _faces(data, scheme, boxes, holdout, exclude)
    _train(STGANModule(config, landmarks, faces), config, landmarks, output, init, resume, progress)


# the lower one comes first in the help
@app.command("resnet50", help="The baseline: coordinates from a Res-50, on the faces of stage 2.")
@app.command("hourglass", help="Stage 2: the stacked hourglass, on ground-truth canonical faces.")
def landmarks(
    context: typer.Context,
    data: Data,
    output: Output,
    preset: Preset = "lite",
    settings: Settings = None,
    scheme: Scheme = "68",
    exclude: Exclude = None,
    complete: Complete = None,
    holdout: Holdout = 0.1,
    init: Init = None,
    resume: Resume = False,
    progress: Progress = True,
) -> None:
    """Two commands of the same options: networks that find the landmarks of canonical faces."""
    from facemsm.hourglass.training import HourglassModule, HourglassTraining
    from facemsm.resnet50.training import ResNet50Module, ResNet50Training
    from facemsm.schemes import get_scheme
    from facemsm.training.config import override

    stages: dict[str | None, tuple[Any, Any]] = {
        "hourglass": (HourglassTraining, HourglassModule),
        "resnet50": (ResNet50Training, ResNet50Module),
    }
    training, module = stages[context.info_name]
    config = override(training.preset(preset, get_scheme(scheme).count), settings or [])
    found, faces = _faces(data, scheme, Boxes.GT, holdout, exclude, complete)
    _train(module(config, found, faces), config, found, output, init, resume, progress)


@app.command()
def dictionary(
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write (.safetensors).")],
    scheme: Scheme = "68",
    complete: Complete = None,
    count: Annotated[int, typer.Option(min=1, help="N, shapes in the dictionary.")] = 500,
    mirror: Annotated[bool, typer.Option("--mirror/--no-mirror", help="Add every shape's mirror image.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of K-means.")] = 0,
) -> None:
    """Stage 3: the exemplar shape dictionary, K-means over canonical shapes."""
    import numpy as np

    from facemsm.shapes.dictionary import build_dictionary

    landmarks, faces = _faces(data, scheme, Boxes.GT, 0.0, None, complete)
    points = np.stack([face.points for face in faces.training])
    built = build_dictionary(points, landmarks, count=count, mirror=mirror, seed=seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    built.save(output)
    typer.echo(f"{len(built.shapes)} shapes from {len(points)} faces: {output}")


def _faces(
    data: list[str],
    scheme: str,
    boxes: Boxes,
    holdout: float,
    exclude: list[str] | None,
    complete: str | None = None,
) -> tuple[LandmarkScheme, Faces]:
    from facemsm.data.sources import Source
    from facemsm.schemes import get_scheme
    from facemsm.training.faces import load_faces

    return get_scheme(scheme), load_faces(
        [Source.parse(text) for text in data],
        box_source=boxes.value,
        scheme=scheme,
        holdout=holdout,
        exclude=exclude or [],
        complete=Source.parse(complete) if complete else None,
    )


def _train(
    module: StageModule,
    config: object,
    scheme: LandmarkScheme,
    output: Path,
    init: Path | None,
    resume: bool,
    progress: bool,
) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    from facemsm.training.run import fit
    from facemsm.training.transfer import start_from

    say = rank_zero_only(typer.echo)
    if init and not resume:
        say(start_from(module.network, init, scheme))
    faces = module.faces
    say(f"{len(faces.training)} training faces, {len(faces.validation)} held out, {module.total_steps} steps")
    best = fit(module, config, output, resume=resume, progress=progress)
    say(f"best weights: {best}")
