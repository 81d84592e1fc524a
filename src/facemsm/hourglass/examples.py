"""Training examples for stage 2: canonical faces, jittered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facemsm.data.augment import Augmentation, augment_crop, jitter_matrix, take_crop
from facemsm.data.sample import OCCLUDED, FaceSample
from facemsm.geometry import Matrix, box_scale, canonical_matrix, compose
from facemsm.schemes import LandmarkScheme
from facemsm.training.stream import Example


@dataclass(frozen=True)
class HourglassExamples:
    """Makes examples; picklable, for loader processes.

    The paper trains stage 2 on crops by ground-truth boxes with ±30° and ±10 % jitter (Section IV-C). The crop here
    is the ground-truth canonical face, what a perfect stage 1 hands over; the jitter is what stage 1 may get wrong.

    Attributes:
        size: side of the canonical face, px.
        augmentation: None for validation.
        occluded_peak: height of the target peak of an occluded point; below 1 the score learns to tell. 1 is the paper.
        conventions: names that faces' ``convention`` may have; ``convention`` below is an index into them.
    """

    scheme: LandmarkScheme
    size: int
    augmentation: Augmentation | None
    occluded_peak: float = 1.0
    conventions: tuple[str, ...] = ()

    def frame(self, face: FaceSample) -> Matrix:
        """Photo pixels to those of the crop before it is jittered."""
        return canonical_matrix(face.points.astype(np.float64), self.scheme, self.size)

    def __call__(self, face: FaceSample, rng: np.random.Generator) -> Example:
        """One example.

        Returns:
            ``image`` (S, S, 3) uint8; ``points`` (L, 2) float32 canonical px, NaN where unlabelled; ``labelled`` (L,)
            float32, 1 where a target exists; ``peak`` (L,) float32, height of the targets; ``convention``, an index;
            ``shift`` (2, 2) float32, which takes a shift in the photo, as a share of the face's size, to canonical px;
            ``name``.
        """
        size = self.size
        matrix, flipped = self.frame(face), False
        if self.augmentation:
            jitter, flipped = jitter_matrix(self.augmentation, rng, size)
            matrix = compose(jitter, matrix)
        crop = take_crop(
            face.load(), face.points, face.visibility, matrix, size, flip_table=self.scheme.flip, flipped=flipped
        )
        if self.augmentation:
            crop = augment_crop(crop, self.augmentation, rng, self.scheme)
        inside = ((crop.points > -0.5) & (crop.points < size - 0.5)).all(1)  # False for NaN
        height = np.ones(self.scheme.count, np.float32)
        if crop.visibility is not None:
            height[crop.visibility == OCCLUDED] = self.occluded_peak
        return {
            "image": crop.image,
            "points": crop.points,
            "labelled": inside.astype(np.float32),
            "peak": height,
            "convention": self.conventions.index(face.convention) if self.conventions else 0,
            "shift": (matrix[:, :2] * box_scale(face.points)).astype(np.float32),
            "name": face.name,
        }
