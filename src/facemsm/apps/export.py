"""``facemsm export``: trained stages to a model folder that needs no PyTorch, or a model to one ONNX file that needs no
facemsm. Needs the extra ``train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facemsm.apps.console import tell, tell_model
from facemsm.apps.options import MethodOption, Weights
from facemsm.errors import FacemsmError

app = typer.Typer(add_completion=False)


@app.command()
def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="Model folder to write, or the one file.")],
    stgan: Annotated[Path | None, typer.Option(help="Folder of a 'train stgan' run.")] = None,
    hourglass: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a 'train hourglass' run; repeat it for a model whose points are the runs' means."),
    ] = None,
    dictionary: Annotated[Path | None, typer.Option(help="File of 'train dictionary'.")] = None,
    name: Annotated[str, typer.Option(help="Name of the model.")] = "68",
    preset: Annotated[str, typer.Option(help="Preset the stages were trained with, for the record.")] = "lite",
    data: Annotated[str, typer.Option(help="What it was trained on, for the record.")] = "",
    mirror: Annotated[
        bool,
        typer.Option(
            "--mirror",
            help="Let stage 2 look at each face's mirror image, too: a little less error, for twice its time.",
        ),
    ] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="Write --weights as one ONNX file: photo and boxes in, landmarks out.")
    ] = False,
    detector: Annotated[
        bool, typer.Option("--detector", help="Write the bundled face detector as one ONNX file: photo in, boxes out.")
    ] = False,
    weights: Weights = "68",
    method: MethodOption = None,
) -> None:
    """Turn trained stages into ONNX, compare with PyTorch, and write the model folder if they agree.

    With --whole or --detector, write one ONNX file that ONNX Runtime runs in any language.
    """
    stages = {"--stgan": stgan, "--hourglass": hourglass, "--dictionary": dictionary}
    given = [option for option, path in stages.items() if path]
    if whole and detector:
        raise FacemsmError("--whole and --detector are two files: give one of them at a time")
    if (whole or detector) and (given or mirror):
        option = given[0] if given else "--mirror"
        instead = "--whole takes a finished one by --weights" if whole else "--detector writes the bundled one"
        raise FacemsmError(f"{option}: is for a model folder; {instead}")
    if whole or detector:
        if output.suffix != ".onnx":
            raise FacemsmError(f"{output}: name a file that ends with .onnx")
        if whole:
            from facemsm.export.whole import export_whole
            from facemsm.runtime.model import load_model

            export_whole(load_model(weights), output, method=method)
        else:
            from facemsm.export.boxes import export_detector

            export_detector(output)
        tell(f"written: {output} ({output.stat().st_size / 1e6:.1f} MB)")
        return
    if missing := [option for option, path in stages.items() if not path]:
        raise FacemsmError(f"{missing[0]} is missing: a model is made of three stages; or give --whole or --detector")
    assert stgan
    assert hourglass
    assert dictionary
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
        mirror=mirror,
    )
    tell_model(output)
