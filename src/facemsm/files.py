"""Files that appear whole or not at all, folders for what is written, text files read strictly, names of files."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from functools import lru_cache
from itertools import count
from pathlib import Path

from facemsm.errors import AbsentError, FacemsmError, StorageError
from facemsm.typing import PathLike

OUTPUT = Path("facemsm-out")
"""Where commands write by default."""

_STORAGE = {getattr(errno, name, -1) for name in ("ENOSPC", "EDQUOT", "EROFS", "EIO", "ENODEV", "ENXIO", "ESTALE")}


_LARGEST_PIPE = 1 << 28
"""Bytes that are read of one: lines for a hundred thousand faces."""


def new_folder(root: Path = OUTPUT) -> Path:
    """Make ``root/2026-11-28-1``, or the next number that no run of that day has.

    Raises:
        FacemsmError: it cannot be made.
    """
    day = date.today().isoformat()
    try:
        root.mkdir(parents=True, exist_ok=True)
        taken = [int(path.name.rpartition("-")[2]) for path in _numbered(root) if path.name.startswith(day)]
        for number in count(max(taken, default=0) + 1):
            folder = root / f"{day}-{number}"
            with suppress(FileExistsError):  # another run was faster
                folder.mkdir()
                return folder
    except OSError as error:
        raise FacemsmError(f"{root}: cannot be written ({error.strerror}); choose another --output") from error
    raise AssertionError("numbers do not end")


def newest_folder(file: str, root: Path = OUTPUT) -> Path | None:
    """The newest folder of :func:`new_folder` that holds ``file``."""
    folders = (path for path in _numbered(root) if (path / file).is_file())
    return max(folders, key=lambda path: (path.name[:10], int(path.name[11:])), default=None)


def _numbered(root: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from (path for path in root.iterdir() if re.fullmatch(r"\d{4}-\d\d-\d\d-\d{1,9}", path.name, re.ASCII))


def name_hash(name: str) -> int:
    """64 bits that are the same for a name on every machine."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest(), "big")


def identity(path: PathLike, folder: PathLike = "") -> str:
    """One name for all spellings of a path: absolute, links among its folders followed.

    A link in the last place keeps its own name: photos may link to one file and be meant as several.

    Args:
        path: need not exist.
        folder: where relative paths start, if not here.
    """
    # without pathlib, which takes several times as long: names come by the million
    head, name = os.path.split(os.path.join(os.getcwd(), folder, path))  # noqa: PTH109, PTH118
    if name in ("", ".", ".."):
        head, name = os.path.join(head, name), ""  # noqa: PTH118
    return os.path.normcase(os.path.join(_real(head), name) if name else _real(head))  # noqa: PTH118


_real = lru_cache(1024)(os.path.realpath)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; at the end it takes the place of ``path`` in one step.

    Missing folders are made. An interrupted writer leaves ``path`` as it was.

    Raises:
        StorageError: the disk is full, broken, or may only be read.
        FacemsmError: the file or its folder cannot be written for another reason.
    """
    # a name that no search for photos finds, and not too long where ``path`` is not
    temporary = path.with_name(f".{name_hash(path.name):016x}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        kind = StorageError if error.errno in _STORAGE else FacemsmError
        raise kind(f"{path}: cannot be written ({error.strerror}); choose another place") from error
    except ValueError as error:
        if "\0" not in str(path):
            raise
        raise FacemsmError(f"{str(path)!r}: cannot be written (is no file name)") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def reading(path: PathLike) -> Iterator[None]:
    """Turn what fails within the block, which reads a file and does nothing else, into an error that names the file.

    Raises:
        AbsentError: there is no such file.
        FacemsmError: it cannot be read.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise AbsentError(f"{path}: no such file") from error
    except OSError as error:
        raise FacemsmError(f"{path}: cannot be read ({error.strerror or error})") from error
    except FacemsmError:
        raise
    except ValueError as error:  # a character that no name has
        raise FacemsmError(f"{str(path)!r}: cannot be read (is no file name)") from error


def check_file(path: Path, most: int) -> None:
    """Refuse what is not a file of at most ``most`` bytes, before anything is read.

    Raises:
        AbsentError: there is no such file.
        FacemsmError: it cannot be looked at, is a folder, a pipe or the like, or larger.
    """
    with reading(path):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise FacemsmError(f"{path}: cannot be read (it is a folder, a pipe or a device); give a file")
    if status.st_size > most:
        raise FacemsmError(f"{path}: has {status.st_size} bytes, more than the {most} that are read")


def is_open_file(path: Path) -> bool:
    """Whether a path is what a shell passes on of its own: ``<(zcat faces.csv.gz)``, ``/dev/stdin``."""
    return path == Path("/dev/stdin") or re.fullmatch(r"/dev/fd|/proc/[^/]+/fd", str(path.parent)) is not None


def read_bytes(path: Path, most: int | None = None, *, named: bool = False) -> bytes:
    """The content of a file.

    Args:
        path: the file. A pipe is read if it is one of the shell's, see :func:`is_open_file`.
        most: bytes that it may have; what is no file is then refused too, as by :func:`check_file`.
        named: by the user, and not found in a folder: any pipe is read.

    Raises:
        AbsentError: there is no such file.
        FacemsmError: it cannot be read, or is another pipe, which may never begin.
    """
    if most is not None:
        check_file(path, most)
    pipe = path.is_fifo()
    if pipe and not (named or is_open_file(path)):
        raise FacemsmError(f"{path}: cannot be read (it is a pipe)")
    with reading(path), path.open("rb") as file:
        content = file.read(_LARGEST_PIPE + 1 if pipe else -1)
    if pipe and len(content) > _LARGEST_PIPE:
        raise FacemsmError(f"{path}: more than the {_LARGEST_PIPE} bytes that are read of a pipe; name a file")
    return content


def read_text(path: Path, *, named: bool = False) -> str:
    """The text of a file, UTF-8 with or without a byte-order mark.

    Args:
        path: the file; a pipe as by :func:`read_bytes`.
        named: as there.

    Raises:
        AbsentError: there is no such file.
        FacemsmError: as there, or it is not text.
    """
    try:
        return read_bytes(path, named=named).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FacemsmError(f"{path}: is not a text file (byte {error.start} is not UTF-8)") from error


Row = tuple[int, dict[str, str]]
"""Line number and fields by column of a row of a CSV file."""


def read_table(path: Path, text: str | None = None) -> tuple[list[str], list[Row]]:
    """The header of a CSV file and its rows; every row has every column.

    Args:
        path: the file.
        text: its content, if that was read before.

    Raises:
        FacemsmError: as :func:`read_rows`, or a row is broken.
    """
    header, rows = read_rows(path, text)
    sound = [row for row in rows if not isinstance(row, FacemsmError)]
    if len(sound) < len(rows):
        raise next(row for row in rows if isinstance(row, FacemsmError))
    return header, sound


def read_rows(path: Path, text: str | None = None) -> tuple[list[str], list[Row | FacemsmError]]:
    """As :func:`read_table`, with the error in the place of a row that has another number of fields or is not CSV.

    Raises:
        FacemsmError: unreadable, no header, or a column named twice.
    """
    text = read_text(path) if text is None else text
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    rows: list[Row | FacemsmError] = []
    try:
        header = [column.strip() for column in next(reader, [])]
        for row in filter(None, reader):
            n, fields = reader.line_num, (field.strip() for field in row)
            if len(row) == len(header):
                rows.append((n, dict(zip(header, fields, strict=True))))
            else:
                rows.append(FacemsmError(f"{path}:{n}: {len(row)} fields, expected {len(header)} as in line 1"))
    except csv.Error as error:
        rows.append(FacemsmError(f"{path}:{reader.line_num}: not valid CSV: {error}"))
    if not header or len(set(header)) < len(header):
        raise FacemsmError(f"{path}:1: expected a header line of distinct column names, such as image,x0,y0")
    return header, rows
