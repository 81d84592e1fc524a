"""MATLAB files: version 5, read here, and version 7.3, which is HDF5 and needs h5py (extra ``train``).

Version 5 is read without SciPy because ``scipy.io.loadmat`` can crash the interpreter on a damaged file.
Format: MathWorks, "MAT-File Format", Level 5.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemsm.errors import FacemsmError
from facemsm.files import read_bytes, reading

_HDF5 = b"\x89HDF\r\n\x1a\n"
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MOST_BYTES = 1 << 24  # of a variable: the boxes of 300-W have less than 1 MiB, its points 100 kB
_MOST_BYTES_73 = 1 << 26  # of an array in HDF5: a photo of 20 megapixels
_CELL, _STRUCT, _CHAR, _NUMERIC = 1, 2, 4, range(6, 16)


def load_mat5(path: Path, name: str) -> Any:
    """The variable ``name`` of a MATLAB 5 file.

    Returns:
        Numbers as float64 array of at least two dimensions, text as str, a cell as list of its elements in MATLAB's
        order, a struct array as list of dicts.

    Raises:
        AbsentError: no such file.
        FacemsmError: unreadable, another version, damaged, or no such variable.
    """
    if is_hdf5(path):
        raise FacemsmError(f"{path}: is a MATLAB 7.3 file, expected version 5; save it with -v7 in MATLAB")
    data = read_bytes(path, _MOST_BYTES)
    try:
        order = {b"IM": "<", b"MI": ">"}[data[126:128]]
        for kind, content in _elements(data[128:], order):
            if kind == _COMPRESSED:
                unpack = zlib.decompressobj()
                start = unpack.decompress(content, 1024)
                if _name(start[8:], order) != name:
                    continue
                kind, content = next(_elements(start + _rest(unpack), order))
            if kind == _MATRIX and _name(content, order) == name:
                return _matrix(content, order)[1]
    except (ValueError, LookupError, StopIteration, RecursionError, OverflowError, zlib.error) as error:
        raise FacemsmError(f"{path}: not a MATLAB 5 file, or damaged ({_one_line(error)})") from error
    raise FacemsmError(f"{path}: has no variable {name!r}")


def load_mat5_numbers(path: Path, name: str) -> Any:
    """As :func:`load_mat5`, for a variable that must be an array of numbers.

    Raises:
        FacemsmError: as there, or it is none.
    """
    value = load_mat5(path, name)
    if not isinstance(value, np.ndarray):
        raise FacemsmError(f"{path}: {name} is {type(value).__name__}, expected numbers")
    return value


@contextmanager
def open_mat73(path: Path) -> Iterator[Any]:
    """A MATLAB 7.3 file as an open ``h5py.File``. Anything that fails inside the block is blamed on the file.

    Raises:
        FacemsmError: unreadable, another version, damaged, or without what the block asked of it.
    """
    if not is_hdf5(path):
        raise FacemsmError(f"{path}: is not a MATLAB 7.3 (HDF5) file; use the data set's original file")
    try:
        import h5py
    except ImportError as error:
        raise FacemsmError(f'{path}: reading it needs h5py: pip install "facemsm[train]"') from error
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FacemsmError:
        raise
    except Exception as error:  # a damaged file makes h5py raise nearly anything
        raise FacemsmError(f"{path}: damaged, or not what it should be ({_one_line(error)})") from error


def read_array(dataset: Any) -> NDArray[Any]:
    """The array of an HDF5 dataset.

    Raises:
        FacemsmError: it would take more than 64 MiB.
    """
    if dataset.size * dataset.dtype.itemsize > _MOST_BYTES_73:
        raise FacemsmError(f"{dataset.file.filename}: {dataset.name} has more than {_MOST_BYTES_73 >> 20} MiB")
    return np.asarray(dataset[()])


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5, with or without the 512-byte block MATLAB puts before it.

    Raises:
        AbsentError: no such file.
        FacemsmError: it cannot be read.
    """
    with reading(path), path.open("rb") as file:
        start = file.read(512 + len(_HDF5))
    return start.startswith(_HDF5) or start[512:] == _HDF5


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and content of one data element after the other."""
    at = 0
    while at < len(data):
        kind, size = (int(word) for word in np.frombuffer(data[at : at + 8], f"{order}u4"))  # ValueError if cut short
        if kind >> 16:  # a small element: its size shares a word with its type, its content follows at once
            kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            start, end = at + 8, at + 8 + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > min(end, len(data)):
            raise ValueError("cut short")
        yield kind, data[start : start + size]
        at = end


def _rest(unpack: Any) -> bytes:
    """What is left to unpack of a compressed element."""
    data: bytes = unpack.decompress(unpack.unconsumed_tail, _MOST_BYTES)
    if not unpack.eof:
        raise ValueError(f"unpacks to more than {_MOST_BYTES >> 20} MiB, or is cut short")
    return data


def _name(data: bytes, order: str) -> str:
    """The name of a matrix element, of which only the beginning need be there."""
    if not data:
        return ""
    elements = _elements(data, order)
    next(elements), next(elements)  # flags, dimensions
    return next(elements)[1].decode()


def _matrix(data: bytes, order: str) -> tuple[str, Any]:
    """Name and value of a matrix element."""
    if not data:  # how an empty cell is written
        return "", np.empty((0, 0))
    (_, flags), (_, dimensions), (_, name), *parts = _elements(data, order)
    kind = int(np.frombuffer(flags, f"{order}u4")[0]) & 0xFF
    shape = [int(length) for length in np.frombuffer(dimensions, f"{order}i4")]
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"dimensions {shape[:8]}")
    value: Any
    if kind in _NUMERIC:
        stored, content = parts[0] if parts else (9, b"")
        value = np.frombuffer(content, order + _NUMBERS[stored]).astype(np.float64).reshape(shape, order="F")
    elif kind == _CHAR:
        stored, content = parts[0] if parts else (16, b"")
        wide = "utf-16-le" if order == "<" else "utf-16-be"
        value = content.decode(wide if stored in (4, 17) else "utf-8")
    elif kind == _CELL:
        value = [_child(part, order) for part in parts]
        if len(value) != math.prod(shape):
            raise ValueError(f"{len(value)} elements in a cell of {math.prod(shape)}")
    elif kind == _STRUCT and len(parts) >= 2:
        (_, length), (_, names), *children = parts
        step = int(np.frombuffer(length, f"{order}i4")[0])
        fields = [names[i : i + step].split(b"\0")[0].decode() for i in range(0, len(names), step)]
        if len(children) != len(fields) * math.prod(shape):
            raise ValueError(f"{len(children)} values for {len(fields)} fields")
        values = [_child(part, order) for part in children]
        starts = range(0, len(values), len(fields) or 1)
        value = [dict(zip(fields, values[i : i + len(fields)], strict=True)) for i in starts]
    else:
        raise ValueError(f"a variable of class {kind}")
    return name.decode(), value


def _child(part: tuple[int, bytes], order: str) -> Any:
    kind, content = part
    if kind != _MATRIX:
        raise ValueError(f"an element of type {kind} in a cell")
    return _matrix(content, order)[1]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
