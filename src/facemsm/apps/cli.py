"""The command ``facemsm``. A command is loaded when it is called, so that ``facemsm --help`` stays fast."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from re import fullmatch
from typing import Annotated, Any, TextIO

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
    "export": "Turn trained stages into a model without PyTorch, or a model into one file (needs the extra 'train').",
    "page": "Write a page for the browser that needs no server (needs the extras 'serve' and 'train').",
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
        if args[0] not in COMMANDS and (close := get_close_matches(args[0], COMMANDS)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {close[0]!r}?")
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
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # Matrices are small here and photos many: BLAS threads that wait for a share of one cost more than they save.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _prepare_streams()
    try:
        with redirect_stdout(_Output(sys.stdout)):
            try:
                _check_folder()
                _check_arguments()
                app()
            finally:
                sys.stdout.flush()
    except FacemsmError as error:
        with suppress(OSError):
            print(f"facemsm: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # who reads the results, or stderr, has seen enough
        sys.exit(1)
    finally:
        try:
            sys.stderr.flush()
        except OSError:  # nobody can be told
            _abandon(sys.stderr)


def _check_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:  # relative names mean nothing there
        raise FacemsmError(f"the current folder is gone ({error.strerror}); change to another one") from error


def _check_arguments() -> None:
    """Refuse empty arguments: as a path one would be the current folder, with all its photos. Blanks are as empty."""
    before = "facemsm"
    for argument in sys.argv[1:]:
        if not argument.strip() or fullmatch(r"--[a-z-]+=\s*", argument):
            after = argument.strip().rstrip("=") or before
            raise FacemsmError(f"the argument after {after!r} is empty: is it a variable that is not set?")
        before = argument


def _prepare_streams() -> None:
    """Let nothing that is printed fail for its characters, nor go into a file that is opened later."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # one that is closed: the next file would take its place
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):  # a code page may lack a photo's characters, as on Windows
            stream.reconfigure(errors="backslashreplace")


def _abandon(stream: TextIO) -> None:
    """Let what waits in a stream's buffer go nowhere; Python would fail at its own end otherwise."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Output:
    """Standard output, with one clear line where it cannot be written.

    Who reads it may have seen enough, as ``head`` does: the command goes on, as it may have files to write. ``unread``
    says so, to those that have nothing else to do.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.unread = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._checked():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._checked():
            self._stream.flush()

    @contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _abandon(self._stream)
            if isinstance(error, BrokenPipeError):
                self.unread = True
                return
            raise FacemsmError(
                f"standard output cannot be written ({error.strerror}); what went into files is whole"
            ) from error
