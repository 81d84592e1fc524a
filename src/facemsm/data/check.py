"""Read all of a data set and say everything that is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from facemsm.data.catalogue import find_dataset, read_items
from facemsm.data.reading import NoPhoto, Skipped, collect_errors, try_read
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import AbsentError, FacemsmError
from facemsm.typing import PathLike, Progress, untracked


@dataclass
class Check:
    """What :func:`check_dataset` found.

    Attributes:
        faces: number of sound annotations in each split that was looked at.
        boxes: how many of them have a box provided by the data set.
        published: number of faces in each split as published, where known.
        samples: every face once, whatever splits it is in, photo readable or absent by design.
        photos: number of photos that were decoded.
        without_photo: faces whose photos are not at hand, by design of the data set (shapes, COFW-68).
        outside: points that lie outside their photo, by face name.
        skipped: faces and photos left out on purpose, by reason.
        problems: one line each: file, line and what was expected.
    """

    faces: dict[str, int] = field(default_factory=dict)
    boxes: dict[str, int] = field(default_factory=dict)
    published: dict[str, int | None] = field(default_factory=dict)
    samples: list[FaceSample] = field(default_factory=list)
    photos: int = 0
    without_photo: int = 0
    outside: dict[str, int] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def short(self) -> Mapping[str, tuple[int, int]]:
        """Splits with fewer faces than published: (faces here, faces published)."""
        published = ((split, self.faces[split], count) for split, count in self.published.items())
        return {split: (here, count) for split, here, count in published if count is not None and here < count}


def check_dataset(
    name: str,
    root: PathLike,
    splits: Sequence[str] = (),
    scheme: str | None = None,
    progress: Progress = untracked,
) -> Check:
    """Read every annotation, box and photo of a data set, and collect all faults instead of stopping at the first.

    A split that is not there at all counts as short, not as a fault, unless it was asked for or nothing is there.

    Args:
        name: a name in the catalogue.
        root: the folder (or file) the data set lies in.
        splits: which splits to look at; all of them when empty.
        scheme: landmark scheme, where the data set does not fix it.
        progress: wraps the faces while their photos are decoded.

    Raises:
        FacemsmError: unknown name, split or scheme.
    """
    dataset = find_dataset(name)
    check = Check()
    samples: dict[str, FaceSample] = {}
    skipped: set[Skipped] = set()
    problems: dict[str, None] = {}  # an ordered set: splits overlap, and both box sources read the same files
    absent: dict[str, None] = {}
    sources: tuple[BoxSource, ...] = ("gt", "provided") if dataset.provided_boxes else ("gt",)
    for split in splits or dataset.splits:
        check.published[split] = dataset.splits.get(split)
        for source in sources:
            items = list(collect_errors(read_items(name, root, split, source, scheme)))
            found = [item for item in items if isinstance(item, FaceSample)]
            (check.faces if source == "gt" else check.boxes)[split] = len(found)
            if source == "gt":
                samples.update((f"{sample.name} {sample.image}", sample) for sample in found)
            for item in items:
                if isinstance(item, Skipped):
                    skipped.add(item)
                elif isinstance(item, AbsentError):
                    absent.update({str(item): None} if source == "gt" else {})
                elif isinstance(item, FacemsmError):
                    problems[str(item)] = None
    if splits or not (samples or problems):
        problems.update(absent)
    check.skipped.update(item.reason for item in skipped)
    check.problems = list(problems)
    _check_photos(check, list(samples.values()), progress)
    return check


def _check_photos(check: Check, samples: Sequence[FaceSample], progress: Progress) -> None:
    sizes: dict[object, tuple[int, int] | FacemsmError] = {}
    for sample in progress(samples, "photos"):
        if isinstance(sample.image, NoPhoto):
            check.without_photo += 1
            check.samples.append(sample)
            continue
        if sample.image not in sizes:
            photo = try_read(sample.load)
            if isinstance(photo, FacemsmError):
                check.problems.append(str(photo))
            sizes[sample.image] = photo if isinstance(photo, FacemsmError) else (photo.shape[1], photo.shape[0])
        size = sizes[sample.image]
        if isinstance(size, FacemsmError):
            continue
        check.samples.append(sample)
        # a photo covers half a pixel beyond the centres of its outermost pixels; NaN (unlabelled) is not outside
        outside = (sample.points < -0.5) | (sample.points > np.subtract(size, 0.5))
        count = int(np.count_nonzero(outside.any(axis=1)))
        if count:
            check.outside[sample.name] = count
    check.photos = sum(not isinstance(size, FacemsmError) for size in sizes.values())
