"""One split of one data set, as the command line names it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from facemsm.data.pack import PackedCrop
from facemsm.data.sample import FaceSample
from facemsm.errors import FacemsmError


@dataclass(frozen=True)
class Source:
    """One split of one data set, as training uses it.

    Attributes:
        name, root, split: as in :func:`facemsm.data.catalogue.load_dataset`.
        share: how often its faces are seen in each epoch: a fraction, drawn anew every time, or more than once.
        until: fraction of the run after which the source is left out, for labels good enough to begin with only.
    """

    name: str
    root: str
    split: str
    share: float = 1.0
    until: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read ``NAME=ROOT:SPLIT[@SHARE[@UNTIL]]``, e.g. ``ytf=data/ytf:train@0.25@0.6``.

        Raises:
            FacemsmError: the text is of another form.
        """
        name, equals, rest = text.partition("=")
        place, *numbers = rest.split("@")
        root, colon, split = place.rpartition(":")
        try:
            share, until = ([float(n) for n in numbers] + [1.0, 1.0])[:2]
        except ValueError:
            share = until = -1.0
        if not (equals and colon and root and split and 0 < share <= 100 and 0 < until <= 1 and len(numbers) <= 2):
            raise FacemsmError(
                f"data {text!r}: expected NAME=ROOT:SPLIT[@SHARE[@UNTIL]], SHARE above 0 up to 100, UNTIL up to 1"
            )
        return cls(name, root, split, share, until)


def faces_per_photo(faces: Iterable[FaceSample]) -> Counter[Path]:
    """How many faces each photo shows, of those in files of their own."""
    return Counter(face.image for face in faces if isinstance(face.image, Path))


def photo_key(face: FaceSample, shared: Mapping[Path, int]) -> str:
    """What the faces of one photo have in common: the file, or AFW's name without the face's number.

    Args:
        face: one of a data set.
        shared: of :func:`faces_per_photo` for the data set.
    """
    if isinstance(face.image, PackedCrop):
        return face.image.photo
    if isinstance(face.image, Path) and shared[face.image] > 1:
        return face.image.name
    return face.name.rsplit("_", 1)[0] if face.name.startswith("afw/") else face.name
