"""Alignment results on disk.

``landmarks.jsonl`` is the record of a run: one line per photo, in the order they were read, each a JSON object;
``landmarks.csv``, ``.pts`` files and documents for annotation tools are made from it. ``docs/formats.md`` describes
them, and ``landmarks.schema.json`` beside this module is the JSON Schema of a line.

A line is appended in one step when its photo is done, so an interrupted run leaves whole lines and can be continued;
files of several runs are joined by putting one behind the other. ``landmarks.run.json`` beside it says what the lines
were made with (:mod:`facemsm.results.run`).
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facemsm.errors import FacemsmError
from facemsm.face import Face
from facemsm.files import identity, name_hash, reading
from facemsm.results.run import Run
from facemsm.schemes import LandmarkScheme
from facemsm.typing import FloatArray, PathLike

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


@dataclass(frozen=True, slots=True)
class PhotoResult:
    """The faces of one photo.

    Attributes:
        image: the photo's path as the user gave it, with forward slashes.
        width, height: of the upright photo, pixels.
        scheme: name of the landmark scheme.
        faces: one each, in the order of the boxes; empty without a face.
        bytes: of the photo's file, by which it is known again; None if it is not known.
    """

    image: str
    width: int
    height: int
    scheme: str
    faces: Sequence[Face]
    bytes: int | None = None


class PhotoSet:
    """Photos, at 16 bytes each: a million names would take 200 MB. All spellings of a photo's path are one.

    Two of a million photos are taken for the same one with a probability of 3e-8.

    Args:
        photos: path and ``PhotoResult.bytes`` of each; of two of one path the later counts.
        folder: where relative paths start, if not here.
    """

    def __init__(self, photos: Iterable[tuple[PathLike, int | None]] = (), folder: PathLike = "") -> None:
        entries = ((name_hash(identity(photo, folder)), -1 if size is None else size) for photo, size in photos)
        table = np.fromiter(entries, [("name", np.uint64), ("bytes", np.int64)])[::-1]
        self._sums, first = np.unique(table["name"], return_index=True)
        self._bytes = table["bytes"][first]

    def __len__(self) -> int:
        return len(self._sums)

    def __contains__(self, photo: PathLike) -> bool:
        return self._find(photo) is not None

    def changed(self, photo: PathLike) -> bool:
        """Whether a photo of the set is now another file, by its size."""
        i = self._find(photo)
        if i is None or self._bytes[i] < 0:
            return False
        try:
            return bool(Path(photo).stat().st_size != self._bytes[i])
        except OSError:  # there is none
            return False

    def _find(self, photo: PathLike) -> int | None:
        if not len(self._sums):
            return None
        value = np.uint64(name_hash(identity(photo)))
        i = int(np.searchsorted(self._sums, value))
        return i if i < len(self._sums) and self._sums[i] == value else None


class ResultsFile:
    """An open ``landmarks.jsonl`` that results are appended to. It is locked, and never moved or overwritten.

    Attributes:
        path: the file.
        run: what the results are made with, see :meth:`facemsm.results.run.Run.settle`.
        done: photos (``PhotoResult.image``) that it held when it was opened.
    """

    def __init__(self, path: Path, scheme: str, *, resume: bool = False, run: Run | None = None) -> None:
        """Open ``path`` and make its folder.

        Args:
            path: the file.
            scheme: name of the landmark scheme.
            resume: continue the results of an earlier run, if there are any.
            run: what this run makes them with, to be kept beside the file.

        Raises:
            FacemsmError: it cannot be written, another process is writing to it, it holds results that are not to be
                continued, or resuming meets a line that is not a result, another scheme or other settings.
        """
        self.path, self.run = path, run
        self.done = PhotoSet()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_fifo():  # which would wait for a reader
                raise FacemsmError(f"{path}: is a pipe; choose another --output, or - for standard output")
            self._open()
            if resume:
                self._drop_unfinished_line()
            empty = not (path.is_file() and path.stat().st_size)
        except OSError as error:
            raise FacemsmError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error
        try:
            if not resume and not empty:
                way = "add --resume to continue them, or choose" if run else "choose"
                raise FacemsmError(f"{path}: holds an earlier run's results; {way} another --output")
            if run:
                self.run = run = run.settle(path, empty=empty)
            if resume:
                self.done = PhotoSet(self._earlier(scheme), run.folder if run else "")
        except FacemsmError:
            self.close()
            raise

    def append(self, result: PhotoResult) -> None:
        """Add one photo's results.

        Raises:
            FacemsmError: it cannot be written, e.g. the disk is full.
        """
        self.append_line(to_line(result))

    def append_line(self, line: str) -> None:
        """Add one photo's results, a line of :func:`to_line`. Raises as :meth:`append`."""
        data = line.encode()
        try:
            written = self._file.write(data)
        except OSError as error:
            raise FacemsmError(f"{self.path}: cannot be written ({error.strerror})") from error
        if written != len(data):
            raise FacemsmError(f"{self.path}: cannot be written (the disk is full)")

    def close(self) -> None:
        """Close the file; nothing is pending."""
        self._file.close()

    def _open(self) -> None:
        self._file = self.path.open("ab", buffering=0)
        try:  # a scheduler may start a job again that still runs; the lock ends with the process
            if sys.platform == "win32":
                self._file.seek(1 << 62)  # far behind the end: nobody may read what is locked
                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            self.close()
            raise FacemsmError(
                f"{self.path}: another process is writing to it; wait for it or choose another --output"
            ) from error
        except OSError:  # a file system without locks
            pass

    def _earlier(self, scheme: str) -> Iterator[tuple[str, int | None]]:
        for record, where in _records(self.path):
            if record["scheme"] != scheme:
                raise FacemsmError(
                    f"{where}: holds {record['scheme']}-point results, not {scheme}; choose another --output"
                )
            yield record["image"], _bytes(record)

    def _drop_unfinished_line(self) -> None:
        size = self.path.stat().st_size
        with self.path.open("r+b") as file:
            while size:  # back in blocks, as a file of a million photos does not fit in memory
                start = max(0, size - (1 << 16))
                file.seek(start)
                newline = file.read(size - start).rfind(b"\n")
                if newline >= 0:
                    file.truncate(start + newline + 1)
                    return
                size = start
            file.truncate(0)


def read_results(path: PathLike, content: bytes | None = None) -> Iterator[PhotoResult]:
    """The photos of a ``landmarks.jsonl``, one at a time.

    Args:
        path: the file.
        content: its bytes, if they were read before.

    Raises:
        FacemsmError: the file cannot be read, or a line is not a result; the message names file and line.
    """
    for record, where in _records(Path(path), content):
        yield _from_json(record, where)


def to_line(result: PhotoResult, *, measures: LandmarkScheme | None = None) -> str:
    """The line of one photo in ``landmarks.jsonl``, with its line break.

    If the points' scheme is given for them, with measures as :meth:`facemsm.Face.to_dict`; raises as that.
    """
    return as_line(
        {
            "image": result.image,
            **({} if result.bytes is None else {"bytes": result.bytes}),
            "width": result.width,
            "height": result.height,
            "scheme": result.scheme,
            "faces": [face.to_dict(measures=measures is not None, scheme=measures) for face in result.faces],
        }
    )


def as_line(record: Mapping[str, Any]) -> str:
    """A record as one line of JSON, with its line break."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def _records(path: Path, content: bytes | None = None) -> Iterator[tuple[dict[str, Any], str]]:
    """Each line's JSON object, with an image and a scheme, and ``path:line`` for messages."""
    with reading(path), path.open("rb") if content is None else io.BytesIO(content) as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                if not isinstance(record["image"], str) or not isinstance(record["scheme"], str):
                    raise TypeError("image and scheme are text")
            except _BROKEN as error:
                raise _no_result(f"{path}:{number}", error) from error
            yield record, f"{path}:{number}"


def _from_json(record: Mapping[str, Any], where: str) -> PhotoResult:
    def array(face: Mapping[str, Any], key: str, *shape: int) -> FloatArray:
        with np.errstate(over="ignore"):  # beyond float32 is not finite, either
            values = np.asarray(face[key], np.float32).reshape(shape)
        if not np.isfinite(values).all():
            raise ValueError(f"{key} is not finite")
        return values

    try:
        faces = [
            Face(
                points=array(face, "points", -1, 2),
                scores=array(face, "scores", -1),
                occluded=np.asarray(face["occluded"], np.bool_),
                box=array(face, "box", 4),
                theta=array(face, "theta", 2, 3),
                preliminary=array(face, "preliminary", -1, 2),
                detection_score=None if face["detection_score"] is None else float(face["detection_score"]),
            )
            for face in record["faces"]
        ]
        size = int(record["width"]), int(record["height"])
        return PhotoResult(record["image"], *size, record["scheme"], faces, _bytes(record))
    except _BROKEN as error:
        raise _no_result(where, error) from error


def _bytes(record: Mapping[str, Any]) -> int | None:
    value = record.get("bytes")
    return value if type(value) is int and 0 <= value < 1 << 62 else None


_BROKEN = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What JSON of any content raises when it is taken for a result."""


def _no_result(where: str, error: Exception) -> FacemsmError:
    return FacemsmError(f"{where}: is not a line of alignment results ({type(error).__name__}: {str(error)[:200]})")
