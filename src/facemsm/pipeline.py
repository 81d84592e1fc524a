"""Many photos, from a folder to lines of results: listed one by one, split between machines, aligned on all cores.

Memory does not grow with the number of photos, but for the names in one folder, which are sorted, and for paths that
lie within each other, whose photos are remembered.
"""

from __future__ import annotations

import glob
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePath
from typing import Literal, TypeVar

from facemsm.detectors import FaceDetector, get_detector
from facemsm.drawing import draw_faces
from facemsm.errors import FacemsmError
from facemsm.face import check_boxes
from facemsm.images import IMAGE_SUFFIXES, read_image, write_image
from facemsm.results import PhotoResult, checksum, to_line
from facemsm.typing import FloatArray, Image, PathLike

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4
"""Photos in work or done for each thread while an earlier one is waited for."""


def find_photos(paths: Sequence[Path], skip: Path, report: Callable[[str], None]) -> Iterator[Path]:
    """The photos that the paths name, each once, and to ``report`` one line for each path that names none.

    A path that exists and is no folder is taken as a photo whatever its suffix. Folders are searched with their
    subfolders, in order of their names; hidden files and the folder ``skip`` (earlier pictures) are left out.
    """
    if not _may_overlap(paths):
        yield from _all_photos(paths, skip, report)
        return
    seen = set()
    for photo in _all_photos(paths, skip, report):
        if photo not in seen:
            seen.add(photo)
            yield photo


def common_folder(paths: Sequence[Path]) -> Path:
    """The folder that holds all that the paths name: folders, photos, patterns. ``Path()`` on two drives of Windows."""
    folders = []
    for path in paths:
        folder = path
        while not os.path.isdir(folder) and (folder == path or _is_pattern(folder)):  # noqa: PTH112
            folder = folder.parent
        folders.append(os.path.abspath(folder))  # noqa: PTH100  (links keep their names)
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:
        return Path()


def inside(photo: Path, folder: Path) -> PurePath:
    """The photo's path within the folder, or its whole path without the anchor if it is elsewhere."""
    absolute = Path(os.path.abspath(photo))  # noqa: PTH100
    if absolute.is_relative_to(folder):
        return absolute.relative_to(folder)
    return PurePath(absolute.drive.rstrip(":"), *absolute.parts[1:])


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``index`` (from 1) of ``count`` parts of any set of photos. A photo's path alone decides which it is in."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``3/16``.

        Raises:
            FacemsmError: it is something else.
        """
        index, _, count = text.partition("/")
        if index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
            return cls(int(index), int(count))
        raise FacemsmError(f"--shard {text!r}: expected K/N with K from 1 to N, such as 3/16")

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"

    def __contains__(self, path: PurePath) -> bool:
        return checksum(path.as_posix()) % self.count == self.index - 1


class OutputNames:
    """A name for what is written about a photo: its path within ``folder``, without suffix.

    Photos of a folder that differ in nothing but their suffix keep it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._doubled = lru_cache(16)(_doubled_stems)

    def __call__(self, photo: Path) -> str:
        """The name, with forward slashes."""
        path = inside(photo, self._folder)
        short = _is_photo(path.name) and not _is_photo(path.stem)
        short = short and path.stem.lower() not in self._doubled(photo.parent)
        return (path.with_suffix("") if short else path).as_posix()


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo to align, and its face boxes (N, 4) unless they are to be detected."""

    path: Path
    boxes: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a photo.

    Attributes:
        image: its path as the user gave it, with forward slashes.
        line: its line in ``landmarks.jsonl``; None if it failed.
        faces: how many were found.
        failure: why it failed, one line that begins with the path.
        picture: where the landmarks were drawn.
    """

    image: str
    line: str | None = None
    faces: int = 0
    failure: str | None = None
    picture: str | None = None


class PhotoAligner:
    """All that is done with one photo: read, find faces, align, draw. May be called by several threads at once.

    Args:
        weights, stages, stage3, thresholds, threads: as for :meth:`facemsm.Aligner.from_pretrained`.
        detector, detector_model: as for :func:`facemsm.detectors.get_detector`.
        boxes: the file that boxes were read from; a photo without boxes is then a failure.
        drawn: folder for pictures with the landmarks; None for no pictures.
        folder: what the names of pictures are relative to.

    Raises:
        FacemsmError: as those, or a picture cannot be written. What is wrong with a photo is an outcome.
    """

    def __init__(
        self,
        *,
        weights: str = "68",
        stages: Sequence[int] = (1, 2, 3),
        stage3: Literal["exemplars", "posterior"] | None = None,
        thresholds: Mapping[str, float] | None = None,
        detector: str | None = None,
        detector_model: Path | None = None,
        threads: int = 1,
        boxes: Path | None = None,
        drawn: PathLike | None = None,
        folder: PathLike | None = None,
    ) -> None:
        import cv2

        from facemsm.aligner import Aligner

        cv2.setNumThreads(threads)  # OpenCV would take all cores
        self._aligner = Aligner.from_pretrained(
            weights,
            detector=_PerThread(detector, detector_model) if detector or detector_model else None,
            stages=stages,
            stage3=stage3,
            thresholds=thresholds,
            threads=threads,
        )
        self.scheme = self._aligner.scheme
        self._boxes, self._drawn = boxes, Path(drawn) if drawn else None
        self._names = OutputNames(Path(folder or Path.cwd()))

    def __call__(self, photo: Photo) -> Outcome:
        """Align one photo."""
        path = photo.path
        name = path.as_posix()
        try:
            image = read_image(path)
            if self._boxes and photo.boxes is None:
                raise FacemsmError(f"{path}: has no box in {self._boxes}; add a row for it")
            given = None if photo.boxes is None else check_boxes(photo.boxes, image.shape, where=str(path))
            faces = self._aligner.align(image, given)
            line = to_line(PhotoResult(name, image.shape[1], image.shape[0], self.scheme.name, faces))
        except Exception as error:  # whatever is wrong with one photo, the rest goes on
            return Outcome(name, failure=_reason(path, error))
        picture = None
        if self._drawn and faces:
            picture = self._drawn / f"{self._names(path)}.jpg"
            write_image(picture, draw_faces(image, faces, self.scheme))
        return Outcome(name, line, len(faces), picture=None if picture is None else str(picture))


def in_order(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Generator[Result, None, None]:
    """``map(work, items)`` on several threads, the results in the items' order.

    Items are taken when a thread is about to need them, and no more than ``AHEAD`` a thread are on their way. Closing
    the iterator drops what has not begun and waits for the rest.
    """
    if threads == 1:
        yield from map(work, items)
        return
    # Threads are enough: reading, decoding and the networks run outside Python's lock, nine tenths of the time.
    items = iter(items)
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            pending.extend(pool.submit(work, item) for item in islice(items, AHEAD * threads))
            while pending:
                yield pending.popleft().result()
                pending.extend(pool.submit(work, item) for item in islice(items, 1))
        finally:
            for future in pending:
                future.cancel()


class _PerThread:
    """A detector for each thread: those of other libraries keep the photo in hand within themselves."""

    def __init__(self, name: str | None, model: Path | None) -> None:
        self._make: Callable[[], FaceDetector] = lambda: get_detector(name, model=model)
        self._local = threading.local()
        self._local.detector = self._make()
        self.name = self._local.detector.name

    def detect(self, image: Image) -> FloatArray:
        """See :meth:`facemsm.detectors.FaceDetector.detect`."""
        if not hasattr(self._local, "detector"):
            self._local.detector = self._make()
        found: FloatArray = self._local.detector.detect(image)
        return found


def _all_photos(paths: Sequence[Path], skip: Path, report: Callable[[str], None]) -> Iterator[Path]:
    for path in paths:
        found: Iterable[Path] = [path]
        if os.path.isdir(path):  # noqa: PTH112  (unlike Path.is_dir it never raises)
            found = _photos_in(path, skip, report)
        elif not os.path.exists(path) and _is_pattern(path):  # noqa: PTH110
            names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
            found = (Path(name) for name in names if _is_photo(os.path.basename(name)) and not os.path.isdir(name))  # noqa: PTH112, PTH119
        empty = True
        for photo in found:
            empty = False
            try:
                str(photo).encode()
            except UnicodeEncodeError:
                report(f"{str(photo)!a}: its name is not UTF-8; rename it")
            else:
                yield photo
        if empty:
            report(f"{path}: no photo there; photos are {', '.join(IMAGE_SUFFIXES)} files")


def _photos_in(folder: Path, skip: Path, report: Callable[[str], None]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        report(f"{error.filename}: cannot be read ({error.strerror})")

    skip = skip.resolve()
    for root, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if name[0] != "." and Path(root, name).resolve() != skip)
        files.sort()
        yield from (Path(root, name) for name in files if _is_photo(name))


def _may_overlap(paths: Sequence[Path]) -> bool:
    """Whether a photo may be found under two of the paths."""
    named = set(paths)
    return len(paths) > 1 and any(
        len(named) < len(paths) or _is_pattern(path) or not named.isdisjoint(path.parents) for path in paths
    )


def _is_pattern(path: Path) -> bool:
    return any(c in str(path) for c in "*?[")


def _is_photo(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def _doubled_stems(folder: Path) -> frozenset[str]:
    """What the names of several photos in the folder are without their suffixes, in lower case."""
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return frozenset()
    uses = Counter(PurePath(name).stem.lower() for name in names if _is_photo(name))
    return frozenset(stem for stem, count in uses.items() if count > 1)


def _reason(photo: Path, error: Exception) -> str:
    if not isinstance(error, FacemsmError):
        return f"{photo}: failed unexpectedly ({' '.join(repr(error).split())}); please report this"
    return str(error) if str(error).startswith(str(photo)) else f"{photo}: {error}"
