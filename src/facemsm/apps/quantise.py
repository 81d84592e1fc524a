"""``facemsm quantise``: smaller and faster weights. Needs the extra ``train``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from facemsm.apps.console import tell_model
from facemsm.apps.options import SOURCE, Faces, ModelFolder

app = typer.Typer(add_completion=False)


@app.command()
def quantise(
    model: Annotated[str, typer.Argument(help="Trained weights: a bundled name or a folder.")],
    output: ModelFolder,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar=SOURCE, help="Faces to measure ranges on, for int8: a part that was trained on."),
    ] = None,
    scheme: Annotated[
        Literal["int8", "power-of-two"],
        typer.Option(help="int8: fast here. power-of-two: for hardware that shifts and adds."),
    ] = "int8",
    terms: Annotated[int, typer.Option(min=1, max=2, help="Powers of two per weight.")] = 1,
    faces: Faces = 128,
) -> None:
    """Write a copy of a model with 8-bit weights, or with weights that are sums of powers of two."""
    from facemsm.export.quantise import faces_to_measure, quantise_model
    from facemsm.runtime.model import load_model

    source = load_model(model)
    seen = faces_to_measure(source, data or [], faces) if scheme == "int8" else None
    quantise_model(source, output, faces=seen, scheme=scheme, terms=terms)
    tell_model(output)
