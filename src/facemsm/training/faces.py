"""Which faces a run learns from, and which it is validated on."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from facemsm.aligner import Aligner
from facemsm.data.catalogue import find_dataset, load_dataset
from facemsm.data.completion import Completion, to_68
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.data.sources import Source, faces_per_photo, photo_key
from facemsm.errors import FacemsmError
from facemsm.geometry import tight_box
from facemsm.schemes import LandmarkScheme, get_scheme
from facemsm.shapes.dictionary import ShapeDictionary, build_dictionary
from facemsm.typing import IntArray, PathLike

DICTIONARY_SIZE = 500
"""N of Section IV-C."""


@dataclass(frozen=True)
class Faces:
    """Training and validation faces of a run, and how often each source's are seen."""

    training: Sequence[FaceSample]
    validation: Sequence[FaceSample]
    source: IntArray
    """(len(training),) index into ``sources``."""
    sources: tuple[Source, ...]

    @property
    def conventions(self) -> tuple[str, ...]:
        """Names of the data sets whose conventions the labels follow, each once, without their parts."""
        return tuple(dict.fromkeys(face.data_set for face in self.training))

    @property
    def epoch_size(self) -> int:
        """Faces in a full epoch, every source taking part."""
        counts = np.bincount(self.source, minlength=len(self.sources))
        return int(sum(round(n * s.share) for n, s in zip(counts, self.sources, strict=True)))

    def epoch(self, number: int, progress: float, seed: int) -> IntArray:
        """Indices of the training faces of an epoch, in order; the same numbers give the same faces.

        Args:
            number: which epoch.
            progress: fraction of the run that lies behind.
            seed: of the run.
        """
        rng = np.random.default_rng((seed, number))
        chosen = []
        for i, source in enumerate(self.sources):
            members = np.flatnonzero(self.source == i)
            if progress < source.until:
                chosen.append(np.resize(rng.permutation(members), round(len(members) * source.share)))
        if not chosen:
            raise FacemsmError("every --data source leaves before the run ends: let one stay, without a second @")
        return rng.permutation(np.concatenate(chosen))


def load_faces(
    sources: Sequence[Source],
    *,
    box_source: BoxSource,
    scheme: PathLike | LandmarkScheme | None = None,
    holdout: float = 0.1,
    exclude: Sequence[str] = (),
    complete: Source | None = None,
) -> Faces:
    """Load every source and set aside a part of each full-share source for validation.

    A face is held out by a checksum of its photo's name, so the choice is the same in every run and all faces of a
    photo (AFW's ``name_1``, ``name_2``; lines of WFLW that name the same file) fall on the same side.

    Args:
        sources: where the faces come from; those with ``share`` below 1 are for training only.
        box_source: which boxes the samples carry.
        scheme: landmark scheme of the run; sources of another are refused, but 98 points serve as 68.
        holdout: fraction of the photos to validate on.
        exclude: names of samples to leave out altogether, e.g. near copies of test photos.
        complete: faces with 98 points, from which those with 68 learn where the other points are
            (:mod:`facemsm.data.completion`); for runs on scheme 98.

    Raises:
        FacemsmError: a source cannot be read, a name to exclude does not exist, or nothing is left to train on.
    """
    landmarks = None if scheme is None else get_scheme(scheme)
    points = landmarks.name if landmarks else None
    training: list[FaceSample] = []
    validation: list[FaceSample] = []
    owner: list[int] = []
    unknown = set(exclude)
    completion = _learn_completion(complete, points) if complete else None
    for i, source in enumerate(sources):
        if completion and find_dataset(source.name).scheme == "68":
            known = load_dataset(source.name, source.root, source.split, box_source)
            samples = [completion.face(face) for face in known]
        elif points == "68" and find_dataset(source.name).scheme == "98":
            known = load_dataset(source.name, source.root, source.split, box_source)
            samples = [replace(face, points=to_68(face.points)) for face in known]
        else:
            samples = load_dataset(source.name, source.root, source.split, box_source, landmarks)
        shared = faces_per_photo(samples)
        for face in samples:
            unknown.discard(face.name)
            if face.name in exclude:
                continue
            key = photo_key(face, shared)
            if source.share >= 1 and zlib.crc32(key.encode()) % 1000 < 1000 * holdout:
                validation.append(face)
            else:
                training.append(face)
                owner.append(i)
    if unknown:
        raise FacemsmError(f"exclude: no face is called {min(unknown)!r} in the training data")
    if not training:
        raise FacemsmError("no faces to train on: name at least one source with --data")
    return Faces(training, validation, np.array(owner), tuple(sources))


def to_consensus(faces: Faces, model: PathLike, scheme: LandmarkScheme) -> Faces:
    """Labels moved from the conventions of their data sets to the consensus of a model's training sets.

    Args:
        faces: those of data sets that the model does not know stay as they are.
        model: a bundled model's name or a model folder; runs once on every face, stages 1 and 2.
        scheme: the faces' landmarks, which must be the model's.

    Raises:
        FacemsmError: no such model, or one of other landmarks, or a photo cannot be read.
    """
    aligner = Aligner.from_pretrained(model, stages=(1, 2))
    if aligner.scheme != scheme:
        raise FacemsmError(f"{model}: knows conventions of scheme {aligner.scheme.name}, the faces have {scheme.name}")
    names = {face.convention for face in (*faces.training, *faces.validation)}
    known = {name: aligner.model.convention(name) for name in names}

    def moved(face: FaceSample) -> FaceSample:
        convention = known[face.convention]
        if convention is None:
            return face
        (found,) = aligner.align(face.load(), tight_box(face.points)[None])
        points = convention.to_consensus(face.points[None], found.points[None])[0].astype(np.float32)
        return replace(face, points=points)

    return replace(
        faces,
        training=[moved(face) for face in faces.training],
        validation=[moved(face) for face in faces.validation],
    )


def _learn_completion(source: Source, scheme: str | None) -> Completion:
    if scheme != "98" or find_dataset(source.name).scheme != "98":
        raise FacemsmError("faces are completed to scheme 98 by a data set of scheme 98 only, such as wflw")
    return Completion.learn(np.stack([f.points for f in load_dataset(source.name, source.root, source.split, "gt")]))


def train_dictionary(
    output: Path,
    sources: Sequence[Source],
    *,
    scheme: PathLike | LandmarkScheme = "68",
    complete: Source | None = None,
    count: int | None = None,
    mirror: bool = True,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> ShapeDictionary:
    """Build stage 3's dictionary from faces of data sets and write it, as ``facemsm train dictionary`` does.

    Args:
        output: the safetensors file.
        sources, scheme, complete: the faces, see :func:`load_faces`.
        count: N, the number of exemplars; by default 500, or all shapes if there are no more.
        mirror, seed: as for :func:`facemsm.shapes.dictionary.build_dictionary`.
        say: takes a line that says what was made. Faces with unlabelled points are left out.

    Raises:
        FacemsmError: no face has all points, or as those functions.
    """
    landmarks = get_scheme(scheme)
    faces = load_faces(sources, box_source="gt", scheme=landmarks, holdout=0.0, complete=complete)
    points = np.stack([face.points for face in faces.training])
    whole = points[np.isfinite(points).all(axis=(1, 2))]
    if not len(whole):
        raise FacemsmError(f"{output}: not written, none of the {len(points)} faces has all points labelled")
    count = min(DICTIONARY_SIZE, len(whole) * (1 + mirror)) if count is None else count
    built = build_dictionary(whole, landmarks, count=count, mirror=mirror, seed=seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    built.save(output)
    left_out = f", {len(points) - len(whole)} with unlabelled points left out" if len(whole) < len(points) else ""
    say(f"{count} shapes from {len(whole)} faces{left_out}: {output}")
    return built
