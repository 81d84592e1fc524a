"""``facemsm calibrate``: fit what a model says about its points, on faces that it was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facemsm.apps.options import SOURCE, Complete, Exclude, Holdout

app = typer.Typer(add_completion=False)


@app.command()
def calibrate(
    model: Annotated[Path, typer.Argument(help="Model folder; its model.json is rewritten.")],
    data: Annotated[
        list[str],
        typer.Option(
            metavar=SOURCE,
            help="The faces that the model was trained on; may be given several times. Stage 3's shapes and label "
            "conventions are learned from those it saw, everything else from those held out.",
        ),
    ],
    exclude: Exclude = None,
    complete: Complete = None,
    holdout: Holdout = 0.1,
) -> None:
    """Fit stage 3's posterior, label conventions, the probabilities that points are right, and that they are hidden.

    Faces that training held out are shown several times, with perturbed boxes and behind painted occluders. In the
    printed figures every fifth of them is scored by what was fitted on the others; but for the three numbers of the
    noise, which are fitted on all. Give --exclude, --complete and --holdout as in training. Needs the extra 'train'.
    """
    from facemsm.data.sources import Source
    from facemsm.training.calibration import calibrate_model

    calibrate_model(
        model,
        [Source.parse(text) for text in data],
        exclude=exclude or [],
        complete=Source.parse(complete) if complete else None,
        holdout=holdout,
        report=typer.echo,
    )
