"""Read all of a data set and say everything that is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from facemsm.data.catalogue import dataset_scheme, find_dataset, read_items
from facemsm.data.reading import NoPhoto, Skipped, collect_errors, try_read
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import AbsentError, FacemsmError
from facemsm.schemes import OCCLUDED, VISIBLE, LandmarkScheme
from facemsm.typing import PathLike, Progress, untracked

_Sizes = Mapping[object, tuple[int, int]]


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
        visibility: number of points that are ``visible``, ``occluded``, ``unlabelled``, or ``labelled`` where the data
            set does not say which are occluded.
        warnings: one line for each thing that can hardly be meant, such as points far outside their photos.
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
    visibility: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
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
    sizes = _check_photos(check, list(samples.values()), progress)
    check.visibility = _count_visibility(check.samples)
    check.warnings = _warnings(check.samples, sizes, dataset_scheme(name, scheme))
    return check


def _check_photos(check: Check, samples: Sequence[FaceSample], progress: Progress) -> _Sizes:
    """Decode each photo once; their widths and heights."""
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
    found = {image: size for image, size in sizes.items() if not isinstance(size, FacemsmError)}
    check.photos = len(found)
    return found


def _count_visibility(samples: Sequence[FaceSample]) -> Counter[str]:
    count: Counter[str] = Counter()
    for sample in samples:
        located = int(np.isfinite(sample.points[:, 0]).sum())
        occluded = 0 if sample.visibility is None else int(np.count_nonzero(sample.visibility == OCCLUDED))
        count["labelled" if sample.visibility is None else "visible"] += located - occluded
        count["occluded"] += occluded
        count["unlabelled"] += len(sample.points) - located
    return +count


def _warnings(samples: Sequence[FaceSample], sizes: _Sizes, scheme: LandmarkScheme) -> list[str]:
    """What can hardly be meant, one line each."""

    def faces(suspicious: Callable[[FaceSample], bool], what: str) -> str:
        found = [sample.name for sample in samples if suspicious(sample)]
        return f"{len(found)} of {len(samples)} faces {what}, such as {found[0]}" if found else ""

    def all_hidden(sample: FaceSample) -> bool:
        return sample.visibility is not None and not np.any(sample.visibility == VISIBLE)

    def far_outside(sample: FaceSample) -> bool:
        if sample.image not in sizes:
            return False
        beyond = np.maximum(-sample.points, sample.points - sizes[sample.image])
        return bool(np.any(beyond > np.max(sample.box[2:] - sample.box[:2]) / 2))

    def at_one_place(sample: FaceSample) -> bool:
        labelled = sample.points[np.isfinite(sample.points[:, 0])]
        _, repeats = np.unique(labelled, axis=0, return_counts=True)
        return bool(repeats.max() > max(3, len(labelled) // 4))

    def tiny(sample: FaceSample) -> bool:
        return bool(np.max(np.nanmax(sample.points, axis=0) - np.nanmin(sample.points, axis=0)) <= 2)

    def mirrored(sample: FaceSample) -> bool:
        eyes = [sample.points[list(eye), 0] for eye in (scheme.right_eye, scheme.left_eye)]
        return bool(np.mean(eyes[0]) > np.mean(eyes[1]))  # NaN, an unlabelled eye, is not greater

    warnings = [
        faces(all_hidden, "have no visible point (v = 2); v = 1 means occluded, v = 0 unlabelled"),
        faces(far_outside, "have points further outside their photo than half a face"),
        faces(at_one_place, "have many points at one place; unlabelled ones are v = 0 or empty"),
        faces(tiny, "are at most 2 px large; coordinates are pixels, no shares of the photo"),
    ]
    if sum(map(mirrored, samples)) > len(samples) / 2:
        warnings.append(
            faces(mirrored, "have the right eye right of the left one; right and left are the person's own")
        )
    return list(filter(None, warnings))
