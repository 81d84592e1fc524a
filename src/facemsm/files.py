"""Files that appear whole or not at all, and text files read strictly."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from facemsm.errors import AbsentError, FacemsmError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; at the end it takes the place of ``path`` in one step.

    Missing folders are made. An interrupted writer leaves ``path`` as it was.

    Raises:
        FacemsmError: the file or its folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")  # a name that no search for photos finds
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise FacemsmError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """The text of a file, UTF-8 with or without a byte-order mark.

    Raises:
        AbsentError: there is no such file.
        FacemsmError: it cannot be read or is not text.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise AbsentError(f"{path}: no such file") from error
    except OSError as error:
        raise FacemsmError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise FacemsmError(f"{path}: is not a text file (byte {error.start} is not UTF-8)") from error


Row = tuple[int, dict[str, str]]
"""Line number and fields by column of a row of a CSV file."""


def read_table(path: Path) -> tuple[list[str], list[Row]]:
    """The header of a CSV file and its rows; every row has every column.

    Raises:
        FacemsmError: as :func:`read_rows`, or a row is broken.
    """
    header, rows = read_rows(path)
    sound = [row for row in rows if not isinstance(row, FacemsmError)]
    if len(sound) < len(rows):
        raise next(row for row in rows if isinstance(row, FacemsmError))
    return header, sound


def read_rows(path: Path) -> tuple[list[str], list[Row | FacemsmError]]:
    """As :func:`read_table`, with the error in the place of a row that has another number of fields or is not CSV.

    Raises:
        FacemsmError: unreadable, no header, or a column named twice.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
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
