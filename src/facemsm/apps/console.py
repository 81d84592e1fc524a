"""What commands show beside their results: progress, warnings, counts and durations; and how they are stopped."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from facemsm.errors import printable
from facemsm.typing import T


def track(items: Sequence[T], what: str) -> Iterable[T]:
    """The items, with a bar on stderr if that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, what, console=console, transient=True, disable=not console.is_terminal)


def tell(line: str) -> None:
    """A line on stdout, at once."""
    print(printable(line), flush=True)


def emit(text: str) -> None:
    """Results on stdout, at once.

    Raises:
        BrokenPipeError: nobody reads them any more.
    """
    print(text, end="", flush=True)
    if getattr(sys.stdout, "unread", False):
        raise BrokenPipeError


def warn(line: str) -> None:
    """A line on stderr; a run goes on where nobody can read it."""
    with suppress(OSError):
        print(printable(line), file=sys.stderr)


def tell_written(paths: Iterable[Path], *, plots: bool) -> None:
    """A line for each file, and one that says why there are no ``plots`` if there should be some."""
    paths = list(paths)
    if plots and not any(path.suffix == ".png" for path in paths):
        warn('no plots, as matplotlib is not installed: pip install "facemsm[plots]"')
    for path in paths:
        tell(f"written: {path}")


def tell_model(folder: Path) -> None:
    """Where a model was written, and how large its files are."""
    size = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".onnx", ".safetensors"))
    tell(f"model: {folder} ({size / 1e6:.1f} MB)")


def plural(count: int, noun: str) -> str:
    """``1 face``, ``2 faces``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """In the largest unit of which it has at least two."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, with which schedulers end a job, raise ``KeyboardInterrupt(SIGTERM)`` as Ctrl-C does."""

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
