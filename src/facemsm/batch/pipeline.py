"""Many photos, from a folder to lines of results: listed one by one, split between machines, aligned on all cores.

Memory does not grow with the number of photos, but for the names in one folder, which are sorted, and for paths that
lie within each other, whose photos are remembered.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from facemsm.batch.photos import OutputNames
from facemsm.detectors import DEFAULT, FaceDetector, get_detector
from facemsm.errors import FacemsmError, StorageError, printable
from facemsm.face import Face
from facemsm.files import read_bytes
from facemsm.geometry import check_boxes
from facemsm.imaging.decoding import decode_image
from facemsm.imaging.drawing import LOW_SCORE, draw_faces
from facemsm.imaging.io import read_image, write_image
from facemsm.results.jsonl import PhotoResult, to_line
from facemsm.shapes.measures import check_measured
from facemsm.stages import Settings
from facemsm.typing import FloatArray, Image, PathLike, Provider

Item = TypeVar("Item")
Result = TypeVar("Result")

CLEAR_FACE, LARGEST_DRAWN = 250, 1600
"""Size of a face, px, from which marks leave it visible, and longer side up to which a photo is enlarged for that."""

AHEAD = 4
"""Photos in work or done for each thread while an earlier one is waited for."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo to align, and its face boxes (N, 4) unless they are to be detected.

    Attributes:
        path: of its file.
        boxes: of its faces.
        data: what the file holds, where it is none: ``path`` is then just a name.
    """

    path: Path
    boxes: FloatArray | None = None
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a photo.

    Attributes:
        image: its path as the user gave it, with forward slashes.
        line: its line in ``landmarks.jsonl``; None if it failed.
        faces: how many were found, and are in the line.
        low: of these, how many have a score below ``LOW_SCORE``.
        left_out: how many were left out for their scores.
        failure: why it failed, one line that begins with the path.
        picture: where the landmarks were drawn.
    """

    image: str
    line: str | None = None
    faces: int = 0
    low: int = 0
    left_out: int = 0
    failure: str | None = None
    picture: str | None = None


class PhotoAligner:
    """All that is done with one photo: read, find faces, align, draw. May be called by several threads at once.

    Args:
        weights, settings, threads, providers: as for :meth:`facemsm.Aligner.from_pretrained`.
        detector, detector_model: as for :func:`facemsm.detectors.get_detector`.
        boxes: the file that boxes were read from; a photo without boxes is then a failure.
        boxes_checksum: of these boxes, :func:`facemsm.results.boxes.boxes_checksum`.
        drawn: folder for pictures with the landmarks; None for no pictures.
        folder: what the names of pictures are relative to.
        min_score: faces with a lower score are left out.
        min_size: so are boxes of the detector with a shorter side, photo pixels.
        measures: lines have head pose, eye and mouth openness.

    Raises:
        FacemsmError: as those, the points of the weights cannot be measured, or nothing can be written any more. What
            is wrong with a photo or its picture is an outcome.
    """

    def __init__(
        self,
        *,
        weights: str = "68",
        settings: Settings | None = None,
        detector: str | None = None,
        detector_model: Path | None = None,
        threads: int = 1,
        providers: Sequence[Provider] = (),
        boxes: Path | None = None,
        boxes_checksum: str = "",
        drawn: PathLike | None = None,
        folder: PathLike | None = None,
        min_score: float = 0.0,
        min_size: float = 0.0,
        measures: bool = False,
    ) -> None:
        import cv2

        from facemsm.aligner import Aligner

        cv2.setNumThreads(threads)  # OpenCV would take all cores
        finder: FaceDetector | None = None
        if detector or detector_model:
            finder = _PerThread(detector, detector_model, min_size, providers)
        elif min_size:
            finder = get_detector(min_size=min_size, providers=providers)
        self._aligner = Aligner.from_pretrained(
            weights, detector=finder, settings=settings, threads=threads, providers=providers
        )
        self.scheme = self._aligner.scheme
        if measures:
            check_measured(self.scheme)
        self._min_score, self._min_size, self._measures = min_score, min_size, measures
        self._boxes, self._drawn = boxes, Path(drawn) if drawn else None
        self._names = OutputNames(Path(folder or Path.cwd()))
        # names alone would take other content for the same
        self._sources: dict[str, str | None] = {"detector": None, "detector_model": None, "boxes": None}
        if boxes:
            self._sources["boxes"] = f"{boxes_checksum} ({'a pipe' if boxes.is_fifo() else boxes.name})"
        else:
            self._sources["detector"] = detector or DEFAULT
            if detector_model:
                checksum = hashlib.sha256(read_bytes(detector_model)).hexdigest()
                self._sources["detector_model"] = f"{checksum[:16]} ({detector_model.name})"

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the results, as JSON holds it: weights, settings, where boxes are from."""
        description = self._aligner.description
        settings = {
            **{name: description[name] for name in ("weights", "checksum", *(f.name for f in fields(Settings)))},
            **self._sources,
            "min_score": self._min_score,
            "min_size": self._min_size,
            "measures": self._measures,
        }
        content: dict[str, Any] = json.loads(json.dumps(settings))
        return content

    def draw_into(self, drawn: PathLike | None, folder: PathLike) -> None:
        """Change where pictures are written, and what their names are relative to."""
        self._drawn, self._names = Path(drawn) if drawn else None, OutputNames(Path(folder))

    def __call__(self, photo: Photo) -> Outcome:
        """Align one photo."""
        path = photo.path
        name = path.as_posix()
        try:
            image = read_image(path) if photo.data is None else decode_image(photo.data, name)
            if self._boxes and photo.boxes is None:
                raise FacemsmError(f"{path}: has no box in {self._boxes}; add a row for it")
            given = None if photo.boxes is None else check_boxes(photo.boxes, image.shape, where=str(path))
            found = self._aligner.align(image, given)
            faces = [face for face in found if face.score >= self._min_score]
            size, scheme = path.stat().st_size if photo.data is None else len(photo.data), self.scheme.name
            result = PhotoResult(name, image.shape[1], image.shape[0], scheme, faces, size)
            line = to_line(result, measures=self.scheme if self._measures else None)
            picture = self._draw(path, image, faces)
        except StorageError:  # no photo's fault
            raise
        except Exception as error:  # whatever is wrong with one photo, the rest goes on
            return Outcome(name, failure=_reason(path, error))
        low = sum(face.score < LOW_SCORE for face in faces)
        return Outcome(name, line, len(faces), low, len(found) - len(faces), picture=picture)

    def _draw(self, photo: Path, image: Image, faces: Sequence[Face]) -> str | None:
        if not self._drawn or not faces:
            return None
        picture = self._drawn / f"{self._names(photo)}.jpg"
        write_image(picture, draw_faces(*enlarged(image, faces), self.scheme))
        return str(picture)


def enlarged(image: Image, faces: Sequence[Face]) -> tuple[Image, Sequence[Face]]:
    """A photo and its faces, larger if marks would cover the faces and the photo is small enough."""
    sizes = [float(np.sqrt(np.prod(np.ptp(face.points, axis=0)))) for face in faces]
    scale = min(CLEAR_FACE / max(float(np.median(sizes)), 1), LARGEST_DRAWN / max(image.shape[:2]))
    if scale <= 1:
        return image, faces
    height, width = (round(scale * side) for side in image.shape[:2])
    factors = np.array([width / image.shape[1], height / image.shape[0]], np.float32)
    larger = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    return larger, [replace(face, points=(face.points + 0.5) * factors - 0.5) for face in faces]


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


class _PerThread(threading.local):
    """A detector for each thread: those of other libraries keep the photo in hand within themselves."""

    def __init__(self, name: str | None, model: Path | None, min_size: float, providers: Sequence[Provider]) -> None:
        detector = get_detector(name, model=model, min_size=min_size, providers=providers)  # anew in every thread
        self.name, self.detect = detector.name, detector.detect


def _reason(photo: Path, error: Exception) -> str:
    if not isinstance(error, FacemsmError):
        return printable(f"{photo}: failed unexpectedly ({' '.join(repr(error).split())[:500]}); please report this")
    return str(error) if str(error).startswith(printable(str(photo))) else printable(f"{photo}: {error}")
