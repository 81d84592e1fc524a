"""Which photos a run has: found in folders and patterns, shared out between machines, named for output."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path, PurePath

from facemsm.errors import FacemsmError
from facemsm.files import OUTPUT, identity, name_hash
from facemsm.imaging.io import IMAGE_SUFFIXES
from facemsm.results.run import is_drawn

_PHOTO = "files cannot be read; save them as JPEG, PNG or TIFF"
_VIDEO = "files are videos; facemsm video takes one at a time"
_UNREAD = {
    **dict.fromkeys((".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef", ".nrw"), _PHOTO),
    **dict.fromkeys((".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".srw", ".x3f"), _PHOTO),
    **dict.fromkeys((".eps", ".heics", ".j2k", ".jp2", ".pdf", ".psb", ".psd", ".svg", ".xcf"), _PHOTO),
    **dict.fromkeys((".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".mts", ".webm", ".wmv"), _VIDEO),
}
"""What is said of files that may show faces and are no photos to us, by suffix in lower case."""

LONGEST = 200
"""Bytes of a name for output. File systems take 255, for a name with what is put before and behind it."""


STREAM = Path("-")
"""Standard input in the place of a photo, standard output in that of a folder. (A file of that name: ``$PWD/-``.)"""


def find_photos(
    paths: Sequence[Path], report: Callable[[str], None], left_out: Callable[[str, int], None] = lambda *_: None
) -> Iterator[Path]:
    """The photos that the paths name, each once, and to ``report`` one line for each path that names none.

    ``STREAM`` is a photo, and so is a path that exists and is no folder, whatever its suffix. The folders that exist at
    the beginning of a pattern are taken by their names, with whatever brackets. Folders, and ``**`` in patterns, are
    searched with their subfolders, linked ones too, in order of their names; hidden files are left out. So are, with
    lines to ``left_out``, folders of what earlier runs wrote, links that lead back to a folder around the search, and
    pictures and videos of kinds that cannot be read, these in one line for each kind and path, with how many files it
    speaks of.
    """
    photos = _Search(report, left_out).photos(paths)
    if not _may_overlap(paths):
        yield from photos
        return
    seen = set()
    for photo in photos:
        if (name := name_hash(identity(photo))) not in seen:
            seen.add(name)
            yield photo


def common_folder(paths: Sequence[Path]) -> Path:
    """The folder that holds all that the paths name: folders, photos, patterns. ``Path()`` on two drives of Windows."""
    folders = []
    for path in paths:
        folder = path if os.path.isdir(path) and path != STREAM else _folder_of(path)  # noqa: PTH112
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
        return name_hash(path.as_posix()) % self.count == self.index - 1


class OutputNames:
    """A name for what is written about a photo: its path within ``folder``, without suffix. No two photos share one.

    Photos of a folder that differ in nothing but their suffix keep it. A name without a photo's suffix, or of more
    than ``LONGEST`` bytes, ends in a checksum.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._doubled_stems = lru_cache(16)(_doubled_stems)

    def __call__(self, photo: Path) -> str:
        """The name, with forward slashes."""
        path = inside(photo, self._folder)
        name, marked = path.name, not _is_photo(path.name)
        # a photo that was deleted since keeps its suffix: what it was doubled with is not known
        if not marked and not _is_photo(path.stem) and os.path.lexists(photo):
            name = name if path.stem.lower() in self._doubled_stems(photo.parent) else path.stem
        if marked or len(name.encode()) > LONGEST:
            name = f"{name.encode()[: LONGEST - 17].decode(errors='ignore')}~{name_hash(path.name):016x}"
        return path.with_name(name).as_posix()


class _Search:
    """A search for photos. Of the files under a path that cannot be read it keeps the first of each kind, and their
    number."""

    def __init__(self, report: Callable[[str], None], left_out: Callable[[str, int], None]) -> None:
        self._report, self._left_out = report, left_out
        self._first: dict[str, Path] = {}
        self._count: Counter[str] = Counter()

    def photos(self, paths: Sequence[Path]) -> Iterator[Path]:
        for path in paths:
            found: Iterable[Path] = [path]
            if path == STREAM:
                pass
            elif os.path.isdir(path):  # noqa: PTH112  (unlike Path.is_dir it never raises)
                found = self._inside(path)
            elif not os.path.exists(path) and _is_pattern(path):  # noqa: PTH110
                found = self._matching(path)
            empty = True
            for photo in found:
                empty = False
                try:
                    str(photo).encode()
                except UnicodeEncodeError:
                    self._report(f"{str(photo)!a}: its name is not UTF-8; rename it")
                else:
                    yield photo
            for kind, first in self._first.items():
                more = f" and {self._count[kind] - 1} more" if self._count[kind] > 1 else ""
                self._left_out(f"{first}{more}: left out, {kind} {_UNREAD[kind]}", self._count[kind])
            self._first, self._count = {}, Counter()
            if empty:
                self._report(f"{path}: no photo there; photos are {', '.join(IMAGE_SUFFIXES)} files")

    def _sift(self, folder: str, names: Iterable[str]) -> Iterator[Path]:
        """Those of the names in the folder that are photos'."""
        for name in names:
            if _is_photo(name):
                yield Path(folder, name)
            elif (kind := PurePath(name).suffix.lower()) in _UNREAD and not _is_hidden(name):
                self._first.setdefault(kind, Path(folder, name))
                self._count[kind] += 1

    def _matching(self, path: Path) -> Iterator[Path]:
        folder = _folder_of(path)
        parts = path.relative_to(folder).parts
        depth = parts.index("**") if "**" in parts else len(parts)
        names = sorted(glob.glob(str(Path(glob.escape(str(folder)), *parts[:depth]))))  # noqa: PTH207
        if depth == len(parts):
            yield from self._sift("", [name for name in names if not os.path.isdir(name)])  # noqa: PTH112
            return
        for name in names:  # glob's own ** follows links that lead back, without end
            yield from self._inside(Path(name), parts[depth:])

    def _inside(self, folder: Path, pattern: Sequence[str] = ("**",)) -> Iterator[Path]:
        def unreadable(error: OSError) -> None:
            self._report(f"{error.filename}: cannot be read ({error.strerror})")

        def leads_on(path: Path, real_parent: Path) -> bool:
            """Whether a folder is none that the search comes to, or came to, by another name."""
            real = path.resolve()
            if real == real_parent / path.name:  # no link
                return True
            if any(real.is_relative_to(other) for other in searched):
                return False
            if any(other.is_relative_to(real) for other in searched):
                around = "left out, it is a link to a folder around the search; give that folder instead"
                self._left_out(f"{path}: {around}", 0)
                return False
            searched.append(real)
            return True

        searched = [folder.resolve()]
        for root, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
            written = sorted(name for name in folders if name == OUTPUT.name or is_drawn(name, files))
            for name in written:
                self._left_out(f"{Path(root, name)}: left out, it holds what earlier runs wrote", 0)
            real_root = Path(root).resolve()
            folders[:] = [
                name
                for name in sorted(folders)
                if name[0] != "." and name not in written and leads_on(Path(root, name), real_root)
            ]
            if pattern != ("**",):
                files = [name for name in files if _fits(Path(root, name).relative_to(folder).parts, pattern)]
            yield from self._sift(root, sorted(files))


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path fits a pattern, both without their folder; ``**`` stands for any number of parts."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatch(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _may_overlap(paths: Sequence[Path]) -> bool:
    """Whether a photo may be found twice: under two of the paths, or by two names under one."""
    if len(paths) < 2:
        return any("**" in path.parts for path in paths)
    named = [Path(os.path.realpath(path)) for path in paths]
    return (
        len(set(named)) < len(named)
        or any(map(_is_pattern, paths))
        or any(not set(named).isdisjoint(path.parents) for path in named)
    )


def _folder_of(path: Path) -> Path:
    """The folder that a photo is in; of a pattern the last one that is there."""
    folder = path.parent
    while not os.path.isdir(folder) and _is_pattern(folder):  # noqa: PTH112
        folder = folder.parent
    return folder


def _is_pattern(path: Path) -> bool:
    return any(c in str(path) for c in "*?[")


def _is_photo(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not _is_hidden(name)


def _is_hidden(name: str) -> bool:
    return os.path.basename(name).startswith(".")  # noqa: PTH119


def _doubled_stems(folder: Path) -> frozenset[str]:
    """What the names of several photos in the folder are without their suffixes, in lower case."""
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return frozenset()
    uses = Counter(PurePath(name).stem.lower() for name in names if _is_photo(name))
    return frozenset(stem for stem, count in uses.items() if count > 1)
