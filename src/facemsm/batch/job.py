"""A run over photos, from their names to the files of results: the work of ``facemsm align``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from facemsm.batch.photos import STREAM, OutputNames, Shard, common_folder, find_photos, inside
from facemsm.batch.pipeline import Outcome, Photo, PhotoAligner, in_order
from facemsm.errors import FacemsmError, StorageError
from facemsm.files import atomic_write, new_folder, newest_folder
from facemsm.results.boxes import boxes_checksum, match_boxes, read_boxes
from facemsm.results.coco import to_coco
from facemsm.results.jsonl import PhotoResult, PhotoSet, ResultsFile, read_results
from facemsm.results.label_studio import label_studio_tasks
from facemsm.results.run import DRAWN, PTS, SUFFIX, Run
from facemsm.results.tables import write_csv, write_pts


class Job:
    """Photos that are found, aligned and recorded; what an earlier part of the run did is not done again.

    Args:
        sources: photos, folders (with their subfolders) and patterns; ``-`` is a name for ``piped``.
        output: folder for everything that is written; None for a new one or, to resume, the newest one.
        warn: takes a line about a photo that cannot be used, or has no face, or was left out.
        record: False to write no file; each outcome has its line.
        draw: also draw the landmarks into copies of the photos.
        resume: continue the run in the folder.
        shard: only this part of the photos, into a file of its own.
        boxes: a file of face boxes instead of the detector's, see :func:`facemsm.results.boxes.read_boxes`.
        piped: what the photo ``-`` holds.
        threads: photos that are worked on at once; for a single photo, threads of the networks.
        ray: address of a Ray cluster to work on, see :func:`facemsm.batch.ray.align_photos`.
        workers: there.
        options: as for :class:`facemsm.batch.pipeline.PhotoAligner`.

    Attributes:
        folder: where everything is written.
        tally: photos ``read``, ``failed``, ``faceless`` and finished ``before``; ``faces``, those with a ``low`` score
            and those ``left out``; pictures ``drawn``; files ``skipped`` for their kind.
        picture: the last one that was drawn.

    Raises:
        FacemsmError: boxes or weights cannot be used, or the folder holds another run.
    """

    def __init__(
        self,
        sources: Sequence[Path],
        output: Path | None,
        warn: Callable[[str], None],
        *,
        record: bool = True,
        draw: bool = False,
        resume: bool = False,
        shard: Shard | None = None,
        boxes: Path | None = None,
        piped: bytes | None = None,
        threads: int = 1,
        ray: str | None = None,
        workers: int | None = None,
        **options: Any,
    ) -> None:
        self.folder = Path()
        self.tally: Counter[str] = Counter()
        self.picture: str | None = None
        self._sources, self._shard, self._common, self._piped = sources, shard, common_folder(sources), piped
        self._warn, self._ray, self._workers = warn, ray, workers
        self._measures = bool(options.get("measures"))
        self._listed: list[Path] | None = None
        self._boxes: dict[Path, Any] | None = None
        photos = self._find(self._failed, self._skipped)
        if boxes:
            self._listed, found = list(photos), read_boxes(boxes)
            self._boxes = match_boxes(found, self._listed, boxes)
            options |= {"boxes": boxes, "boxes_checksum": boxes_checksum(found)}
            photos = iter(self._listed)
        first = list(islice(photos, 2))
        self._photos = chain(first, photos)
        self._threads = threads if len(first) > 1 else 1
        self._work = PhotoAligner(**options, threads=1 if self._threads > 1 else threads)
        self.scheme = self._work.scheme
        name = f"landmarks{f'-{shard}' if shard else ''}"
        self._run = Run(Path.cwd(), self._common, draw, self._work.settings)
        self._results: ResultsFile | None = None
        self._done = PhotoSet()
        if record:
            self.folder = output or (newest_folder(name + SUFFIX) if resume else None) or new_folder()
            path = self.folder / f"{name}.jsonl"
            self._results = ResultsFile(path, self.scheme.name, resume=resume, run=self._run)
            self._run, self._done = self._results.run or self._run, self._results.done
        drawn = self.folder / DRAWN if self._run.draw else None
        self._options = options | {"drawn": drawn, "folder": self._run.common}
        self._work.draw_into(drawn, self._run.common)

    def outcomes(self) -> Generator[Outcome, None, None]:
        """Do the work: what became of each photo, in their order, once it is recorded. Close it to stop.

        Raises:
            FacemsmError: nothing can be written any more, or what is wrong is not one photo's.
        """
        if self._ray:
            from facemsm.batch.ray import align_photos

            done = align_photos(self._todo(), self._options, address=self._ray, workers=self._workers)
        else:
            done = in_order(self._work, self._todo(), self._threads)
        try:
            with closing(done):
                for outcome in done:
                    self._count(outcome)
                    if self._results and outcome.line is not None:
                        self._results.append_line(outcome.line)
                    yield outcome
        finally:
            if self._results:
                self._results.close()

    def left(self) -> int:
        """How many photos there are to work on; looks through all folders once more."""
        found = self._find(lambda _: None, lambda *_: None) if self._listed is None else self._listed
        return sum(photo not in self._done for photo in found)

    def _find(self, report: Callable[[str], None], left_out: Callable[[str, int], None]) -> Iterator[Path]:
        photos = find_photos(self._sources, report, left_out)
        part = self._shard
        return (photo for photo in photos if inside(photo, self._common) in part) if part else photos

    def _todo(self) -> Iterator[Photo]:
        moved = self._run.folder != Path.cwd()
        for photo in self._photos:
            if photo in self._done:
                if self._done.changed(photo):
                    self._failed(f"{photo}: is not the file any more whose results are there; choose another --output")
                else:
                    self.tally["before"] += 1
            else:  # a relative name would mean another photo beside those of a run that began in another folder
                named = photo.absolute() if moved and photo != STREAM else photo
                data = self._piped if photo == STREAM else None
                yield Photo(named, None if self._boxes is None else self._boxes.get(photo), data)

    def _failed(self, line: str) -> None:
        self._warn(line)
        self.tally["failed"] += 1

    def _skipped(self, line: str, files: int) -> None:
        self._warn(line)
        self.tally["skipped"] += files

    def _count(self, outcome: Outcome) -> None:
        if outcome.line is None:
            self._failed(outcome.failure or outcome.image)
            return
        if not outcome.faces:
            low = f", {n} low score{'' if n == 1 else 's'} left out" if (n := outcome.left_out) else ""
            self._warn(f"{Path(outcome.image)}: no face found{low}")
        counts = {"read": 1, "faces": outcome.faces, "low": outcome.low, "left out": outcome.left_out}
        self.tally.update(counts, faceless=not outcome.faces, drawn=outcome.picture is not None)
        self.picture = outcome.picture or self.picture

    def convert(self, format: str = "json") -> list[Path]:
        """Write the record in another format, too; the files that there are now, the record first.

        Args:
            format: ``csv``, ``pts``, ``coco`` or ``label-studio``; ``json`` is the record itself. Formats that an
                earlier part of the run wrote are brought up to date, too.

        Raises:
            FacemsmError: a file cannot be written.
        """
        if not self._results:
            return []
        record, scheme, run = self._results.path, self.scheme, self._run
        written = [record]
        table, folder = record.with_suffix(".csv"), record.with_name(PTS)
        if format == "csv" or table.exists():
            write_csv(table, read_results(record), scheme.count, measures=scheme if self._measures else None)
            written.append(table)
        documents: dict[str, Callable[[list[PhotoResult]], Any]] = {
            "coco": lambda photos: to_coco(photos, scheme=scheme),
            "label-studio": lambda photos: label_studio_tasks(photos, scheme),
        }
        for kind, document in documents.items():
            path = record.with_suffix(f".{kind}.json")
            if format == kind or path.exists():
                photos = [
                    replace(photo, image=inside(run.folder / photo.image, run.common).as_posix())
                    for photo in read_results(record)
                ]
                with atomic_write(path) as temporary:
                    temporary.write_text(json.dumps(document(photos)), encoding="utf-8")
                written.append(path)
        if format == "pts" or folder.is_dir():
            name = OutputNames(run.common)
            for result in read_results(record):
                try:
                    for i, face in enumerate(result.faces, 1):
                        write_pts(folder / f"{name(run.folder / result.image)}_{i}.pts", face.points)
                except FacemsmError as error:  # one name must not cost the others  # noqa: PERF203
                    if isinstance(error, StorageError):
                        raise
                    self._failed(str(error))
            written += [folder] if folder.is_dir() else []
        return written
