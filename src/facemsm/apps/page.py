"""``facemsm page``: the page of ``facemsm serve`` without a server. Needs the extras ``serve`` and ``train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facemsm.apps.console import tell
from facemsm.apps.options import WeightsToChoose
from facemsm.errors import FacemsmError

app = typer.Typer(add_completion=False)


@app.command()
def page(
    folder: Annotated[Path, typer.Argument(help="Folder to write; files of an older page in it are replaced.")],
    weights: WeightsToChoose = None,
    ort: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The archive of ONNX Runtime for browsers, from 'npm pack', where there is no npm or no network.",
        ),
    ] = None,
) -> None:
    """Write the page as files that any host of files serves: photos are worked on in the browser, without a server."""
    from facemsm.runtime.model import list_models

    try:
        from facemsm.serve.page import write_page
    except ModuleNotFoundError as error:
        raise FacemsmError(f'page needs the module {error.name!r}: pip install "facemsm[serve,train]"') from error

    size = write_page(folder, weights or list_models(), runtime=ort)
    tell(f"written: {folder} ({size / 1e6:.1f} MB)")
