"""``facemsm export``: trained stages to a model folder that needs no PyTorch. Needs the extra ``train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facemsm.apps.console import tell_model
from facemsm.apps.options import ModelFolder

app = typer.Typer(add_completion=False)


@app.command()
def export(
    stgan: Annotated[Path, typer.Option(help="Folder of a 'train stgan' run.")],
    hourglass: Annotated[Path, typer.Option(help="Folder of a 'train hourglass' run.")],
    dictionary: Annotated[Path, typer.Option(help="File of 'train dictionary'.")],
    output: ModelFolder,
    name: Annotated[str, typer.Option(help="Name of the model.")] = "68",
    preset: Annotated[str, typer.Option(help="Preset the stages were trained with, for the record.")] = "lite",
    data: Annotated[str, typer.Option(help="What it was trained on, for the record.")] = "",
) -> None:
    """Turn trained stages into ONNX, compare with PyTorch, and write the model folder if they agree."""
    from facemsm.export.onnx import export_model, sample_crops
    from facemsm.provenance import commit

    export_model(
        output,
        name=name,
        stgan=stgan,
        hourglass=hourglass,
        dictionary=dictionary,
        faces=sample_crops(),
        provenance={"preset": preset, "commit": commit(), "data": data},
    )
    tell_model(output)
