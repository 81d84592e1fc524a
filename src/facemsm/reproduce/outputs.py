"""Cached outputs of stages 1 and 2 on annotated faces; stage 3 and all measures start from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from facemsm.data.occluders import OCCLUDERS, hide, occlude
from facemsm.data.reading import read_npz
from facemsm.data.sample import FaceSample, face_rng
from facemsm.errors import FacemsmError
from facemsm.evaluation.conditions import Perturbation
from facemsm.files import atomic_write
from facemsm.geometry import (
    Normaliser,
    apply_affine,
    box_to_crop,
    normaliser,
    tight_box,
)
from facemsm.imaging.warping import warp
from facemsm.schemes import OCCLUDED, UNLABELLED, LandmarkScheme
from facemsm.shapes.dictionary import ShapeDictionary
from facemsm.shapes.reconstruction import Reconstruction, reconstruct
from facemsm.stages import StageOutputs
from facemsm.typing import BoolArray, FloatArray, Image

SIZE = 128
"""Side of crops and canonical images in pixels."""

BATCH = 16
PERTURBATION = Perturbation(shift=0.15, scale=0.25, rotation=30.0)
OCCLUDED_SIZE, OCCLUDED_MARGIN = 256, 2.2
"""Side in pixels of the photo that an occluder is drawn on, and in sides of the face's tight box."""


class StageRunner(Protocol):
    """Stages 1 and 2 of the aligner, or of networks trained here."""

    @property
    def scheme(self) -> LandmarkScheme:
        """The landmarks that are found."""

    def run_stages(self, photos: Sequence[Image], boxes: FloatArray) -> StageOutputs:
        """Lines 1 to 4 of Algorithm 2 for a face in each photo, as :meth:`facemsm.Aligner.run_stages`."""


# --- Conditions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ShownFace:
    """A face under a condition: photo, box (4,), truth (L, 2) and its visibility (L,), all in one frame."""

    image: Image
    box: FloatArray
    points: FloatArray
    visibility: NDArray[np.int8]


def _as_given(sample: FaceSample, scheme: LandmarkScheme) -> ShownFace:
    unknown = np.full(scheme.count, UNLABELLED, np.int8)
    return ShownFace(
        sample.load(), sample.box, sample.points, unknown if sample.visibility is None else sample.visibility
    )


def _perturbed(sample: FaceSample, scheme: LandmarkScheme) -> ShownFace:
    face = _as_given(sample, scheme)
    image, box, to_rotated = PERTURBATION.apply(face.image, face.box, sample.name)
    return replace(face, image=image, box=box, points=apply_affine(to_rotated, face.points).astype(np.float32))


def _occluded(sample: FaceSample, scheme: LandmarkScheme) -> ShownFace:
    """One occluder, chosen by the face's name, drawn on a crop with a wide margin, which then is the photo."""
    face = _as_given(sample, scheme)
    rng = face_rng(sample.name)
    matrix = box_to_crop(tight_box(face.points), OCCLUDED_SIZE, OCCLUDED_MARGIN)
    points = apply_affine(matrix, face.points).astype(np.float32)
    image = warp(face.image, matrix, OCCLUDED_SIZE)
    kinds = list(OCCLUDERS)
    kind = kinds[rng.integers(len(kinds))]
    image, covered = occlude(image, points, scheme, {name: float(name == kind) for name in kinds}, rng)
    # where the set does not say, what is drawn is all that is known to be hidden
    visibility = hide(points, face.visibility if (face.visibility == OCCLUDED).any() else None, covered)
    box = apply_affine(matrix, face.box.reshape(2, 2)).astype(np.float32).ravel()
    return ShownFace(image, box, points, visibility)


CONDITIONS: Mapping[str, Callable[[FaceSample, LandmarkScheme], ShownFace]] = {
    "as given": _as_given,
    "perturbed boxes": _perturbed,
    "drawn occluders": _occluded,
}
"""Ways a face is shown. Perturbed: as ``facemsm evaluate --perturb 0.15,0.25,30``."""

GIVEN, PERTURBED_BOXES, DRAWN_OCCLUDERS = CONDITIONS


# --- Outputs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CachedOutputs:
    """Outputs of stages 1 and 2 for N faces, row by row.

    Attributes:
        names: of the faces.
        truth: (N, L, 2) float32 photo pixels, NaN where unlabelled.
        visibility: (N, L) int8 as in ``FaceSample``; ``UNLABELLED`` where nothing is known.
        boxes: (N, 4) float32 photo pixels.
        canonical: (N, L, 2) float32, stage 2's points in canonical pixels.
        scores: (N, L) float32, Eq. 9; 1 of a network without heatmaps.
        to_photo: (N, 2, 3) float64, canonical to photo.
    """

    names: tuple[str, ...]
    truth: FloatArray
    visibility: NDArray[np.int8]
    boxes: FloatArray
    canonical: FloatArray
    scores: FloatArray
    to_photo: NDArray[np.float64]

    def take(self, names: Iterable[str]) -> CachedOutputs:
        """The faces of these names, in their order; names that are not there are left out."""
        row = {name: i for i, name in enumerate(self.names)}
        rows = [row[name] for name in names if name in row]
        arrays = {field.name: getattr(self, field.name)[rows] for field in fields(self) if field.name != "names"}
        return CachedOutputs(tuple(self.names[i] for i in rows), **arrays)

    def points(self, dictionary: ShapeDictionary | None = None, settings: Reconstruction | None = None) -> FloatArray:
        """(N, L, 2) photo pixels: stage 2's points, or stage 3's if there is a dictionary."""
        canonical = self.canonical
        if dictionary is not None:
            canonical, _ = reconstruct(canonical, self.scores, dictionary, settings or Reconstruction())
        return np.asarray(apply_affine(self.to_photo, canonical), np.float32)

    @property
    def hidden(self) -> BoolArray:
        """(N, L) points known to be occluded."""
        return np.asarray(self.visibility == OCCLUDED)

    def normaliser(self, scheme: LandmarkScheme) -> Normaliser:
        """Inter-ocular if every face has it, else box: profiles show one eye only."""
        every = np.isfinite(normaliser(self.truth, scheme, "inter-ocular")).all()
        return "inter-ocular" if every else "box"

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file, whole or not at all."""
        arrays = {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stub takes names for allow_pickle

    @classmethod
    def load(cls, path: Path) -> CachedOutputs:
        """Read what :meth:`save` wrote.

        Raises:
            FacemsmError: it is damaged.
        """
        try:
            arrays = read_npz(path, (field.name for field in fields(cls)))
            return cls(tuple(str(name) for name in arrays.pop("names")), **arrays)
        except (FacemsmError, TypeError, KeyError) as error:
            raise FacemsmError(f"{path}: damaged; remove it and run again") from error


def locate(stages: StageRunner, samples: Iterable[FaceSample], condition: str) -> CachedOutputs:
    """Run stages 1 and 2 on every face.

    Raises:
        FacemsmError: a photo cannot be read or a box not be used.
    """
    outputs: list[StageOutputs] = []
    faces: list[ShownFace] = []
    names: list[str] = []
    show = CONDITIONS[condition]
    for batch in _batches(samples):
        shown = [show(sample, stages.scheme) for sample in batch]
        outputs.append(stages.run_stages([face.image for face in shown], np.stack([face.box for face in shown])))
        faces += [replace(face, image=face.image[:0]) for face in shown]  # the photos are not needed again
        names += [sample.name for sample in batch]
    return CachedOutputs(
        tuple(names),
        truth=np.stack([face.points for face in faces]),
        visibility=np.stack([face.visibility for face in faces]),
        boxes=np.stack([face.box for face in faces]),
        canonical=np.concatenate([found.points for found in outputs]),
        scores=np.concatenate([found.scores for found in outputs]),
        to_photo=np.concatenate([found.to_photo for found in outputs]),
    )


def _batches(samples: Iterable[FaceSample]) -> Iterator[list[FaceSample]]:
    rest = iter(samples)
    yield from iter(partial(lambda: list(islice(rest, BATCH))), [])
