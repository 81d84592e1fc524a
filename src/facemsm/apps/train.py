"""``facemsm train``: the stages, each on its own. Needs the extra ``train``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from facemsm.apps.options import SOURCE, Complete, DataBoxes, Exclude, Holdout, Preset, Progress
from facemsm.data.sources import Source

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Train a stage on annotated faces (needs the extra 'train')."
)


class Logger(str, Enum):
    """What ``--logger`` takes."""

    TENSORBOARD = "tensorboard"
    CSV = "csv"
    WANDB = "wandb"
    NONE = "none"


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
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Settings of this JSON file, in the form of a run's config.json; it may name some only."
    ),
]
SetFields = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Change a setting, e.g. schedule.epochs=10; may be given several times. "
        "config.json in the run's folder lists them. Comes after --config.",
    ),
]
Scheme = Annotated[str, typer.Option(help="Landmark scheme: 29, 68, 98 or a .toml file.")]
Init = Annotated[
    Path | None,
    typer.Option(help="Weights to start from (.safetensors); of another landmark scheme or a deeper hourglass too."),
]
Devices = Annotated[
    int,
    typer.Option(
        min=1,
        max=64,
        help="GPUs of this machine that share each batch; without a GPU, processes. For several machines: torchrun.",
    ),
]
Loggers = Annotated[
    list[Logger] | None,
    typer.Option(
        "--logger",
        case_sensitive=False,
        help="Where losses and errors are logged, besides history.csv: tensorboard, csv, wandb (needs the module), or "
        "none; may be given several times.",
        show_default="tensorboard",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")]


@app.command()
def stgan(
    data: Data,
    output: Output,
    preset: Preset = "lite",
    config: Config = None,
    settings: SetFields = None,
    scheme: Scheme = "68",
    boxes: DataBoxes = "provided",
    exclude: Exclude = None,
    holdout: Holdout = 0.1,
    init: Init = None,
    resume: Resume = False,
    devices: Devices = 1,
    logger: Loggers = None,
    progress: Progress = True,
) -> None:
    """Stage 1: the spatial transformer GAN, on crops by detector-like boxes."""
    from facemsm.stgan.training import STGANModule, STGANTraining
    from facemsm.training.config import override
    from facemsm.training.run import train

    train(
        STGANModule,
        override(STGANTraining.preset(preset), settings or [], config),
        output,
        _sources(data),
        scheme=scheme,
        boxes=boxes,
        exclude=exclude or (),
        holdout=holdout,
        init=init,
        resume=resume,
        devices=devices,
        loggers=_names(logger),
        progress=progress,
        say=typer.echo,
    )


# the lower one comes first in the help
@app.command("resnet50", help="The baseline: coordinates from a Res-50, on the faces of stage 2.")
@app.command("hourglass", help="Stage 2: the stacked hourglass, on ground-truth canonical faces.")
def landmarks(
    context: typer.Context,
    data: Data,
    output: Output,
    preset: Preset = "lite",
    config: Config = None,
    settings: SetFields = None,
    scheme: Scheme = "68",
    exclude: Exclude = None,
    complete: Complete = None,
    holdout: Holdout = 0.1,
    init: Init = None,
    resume: Resume = False,
    devices: Devices = 1,
    logger: Loggers = None,
    progress: Progress = True,
) -> None:
    """Two commands of the same options: networks that find the landmarks of canonical faces."""
    from facemsm.hourglass.training import HourglassModule, HourglassTraining
    from facemsm.resnet50.training import ResNet50Module, ResNet50Training
    from facemsm.schemes import get_scheme
    from facemsm.training.config import override
    from facemsm.training.run import train

    stages: dict[str | None, tuple[Any, Any]] = {
        "hourglass": (HourglassTraining, HourglassModule),
        "resnet50": (ResNet50Training, ResNet50Module),
    }
    training, module = stages[context.info_name]
    train(
        module,
        override(training.preset(preset, get_scheme(scheme).count), settings or [], config),
        output,
        _sources(data),
        scheme=scheme,
        exclude=exclude or (),
        complete=_source(complete),
        holdout=holdout,
        init=init,
        resume=resume,
        devices=devices,
        loggers=_names(logger),
        progress=progress,
        say=typer.echo,
    )


@app.command()
def dictionary(
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write (.safetensors).")],
    scheme: Scheme = "68",
    complete: Complete = None,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="N, shapes in the dictionary.", show_default="500, or all where there are no more"),
    ] = None,
    mirror: Annotated[bool, typer.Option("--mirror/--no-mirror", help="Add every shape's mirror image.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of K-means.")] = 0,
) -> None:
    """Stage 3: the exemplar shape dictionary, K-means over canonical shapes."""
    from facemsm.training.faces import train_dictionary

    train_dictionary(
        output,
        _sources(data),
        scheme=scheme,
        complete=_source(complete),
        count=count,
        mirror=mirror,
        seed=seed,
        say=typer.echo,
    )


@app.command()
def mean(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs of one network.")],
    output: Output,
    share: Annotated[
        list[float] | None,
        typer.Option(help="A run's share of the mean; one for each, in their order.", show_default="equal shares"),
    ] = None,
) -> None:
    """The mean of several runs' weights, as a run to export or to start from; at no cost when it is used.

    For runs that began from the same weights or from each other: it often errs less than each of them.
    """
    from facemsm.training.mean import mean_of_runs

    mean_of_runs(output, runs, shares=share or (), say=typer.echo)


def _sources(data: list[str]) -> list[Source]:
    return [Source.parse(text) for text in data]


def _source(text: str | None) -> Source | None:
    return Source.parse(text) if text else None


def _names(loggers: list[Logger] | None) -> list[Any]:
    return [logger.value for logger in loggers or [Logger.TENSORBOARD] if logger is not Logger.NONE]
