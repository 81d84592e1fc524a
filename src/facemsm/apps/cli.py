"""The command ``facemsm``. A command is loaded when it is called, so that ``facemsm --help`` stays fast."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from facemsm import __version__
from facemsm.errors import FacemsmError

COMMANDS = {
    "align": "Find the landmarks of every face in photos.",
    "benchmark": "Measure how long each step takes, beside other landmark finders.",
    "calibrate": "Make a model's scores probabilities, measured on held-out faces (needs the extra 'train').",
    "data": "Check, convert and look at annotated faces.",
    "evaluate": "Measure how well landmarks are found in annotated faces.",
    "export": "Turn trained stages into a model that needs no PyTorch (needs the extra 'train').",
    "quantise": "Write a smaller copy of a model: 8-bit or power-of-two weights (needs the extra 'train').",
    "reproduce": "Compute the paper's tables and figures beside the paper's own numbers.",
    "serve": "Find landmarks on a page in the browser; an HTTP API too (needs the extra 'serve').",
    "train": "Train a stage on annotated faces (needs the extra 'train').",
    "video": "Follow the faces of a video or a camera, and find their landmarks in each frame.",
}
"""Name and help. ``facemsm NAME`` runs the typer ``app`` of ``facemsm.apps.NAME``."""


ALIASES = {"quantize": "quantise"}
"""Other spellings, which the help does not list."""


class _LazyGroup(TyperGroup):
    """Lists ``COMMANDS`` without importing them."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        args = [ALIASES.get(args[0], args[0]), *args[1:]]
        name, stub, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            return name, typer.main.get_command(import_module(f"facemsm.apps.{name}").app), rest
        return name, stub, rest


app = typer.Typer(cls=_LazyGroup, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _facemsm(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Find the landmarks of faces in photos, and tell which of them were seen and which are hidden."""


def main() -> None:
    """Run the command line. Unusable input ends it with one line on stderr and exit code 2."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what is wrong with a photo is said once, by us
    # Matrices are small here and photos many: BLAS threads that wait for a share of one cost more than they save.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        app()
    except FacemsmError as error:
        print(f"facemsm: {error}", file=sys.stderr)
        sys.exit(2)
