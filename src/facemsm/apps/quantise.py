"""``facemsm quantise``: smaller and faster weights. Needs the extra ``train``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


class Scheme(str, Enum):
    """What ``--scheme`` takes."""

    int8 = "int8"
    power_of_two = "power-of-two"


@app.command()
def quantise(
    model: Annotated[str, typer.Argument(help="Trained weights: a bundled name or a folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model folder to write.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="Faces to measure ranges on, for int8: NAME=ROOT:SPLIT, a part that was trained on."),
    ] = None,
    scheme: Annotated[
        Scheme, typer.Option(help="int8: fast here. power-of-two: for hardware that shifts and adds.")
    ] = Scheme.int8,
    terms: Annotated[int, typer.Option(min=1, max=2, help="Powers of two a weight.")] = 1,
    faces: Annotated[int, typer.Option(min=1, help="How many faces to measure on, evenly chosen.")] = 128,
) -> None:
    """Write a copy of a model with 8-bit weights, or with weights that are sums of powers of two."""
    from facemsm.export.quantise import faces_to_measure, quantise_model
    from facemsm.runtime.model import load_model

    source = load_model(model)
    seen = faces_to_measure(source, data or [], faces) if scheme is Scheme.int8 else None
    quantise_model(source, output, faces=seen, scheme=scheme.value, terms=terms)
    size = sum(file.stat().st_size for file in output.iterdir() if file.suffix in (".onnx", ".safetensors"))
    typer.echo(f"model: {output} ({size / 1e6:.1f} MB)")
