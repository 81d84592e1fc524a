"""Training examples for stage 2: canonical faces, jittered, with the profiles of their target heatmaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facemsm.data.augment import Augmentation, augment_crop, jitter_matrix, take_crop
from facemsm.data.sample import OCCLUDED, FaceSample
from facemsm.geometry import Matrix, canonical_matrix, compose
from facemsm.heatmaps import HeatmapCodec
from facemsm.schemes import LandmarkScheme
from facemsm.training.stream import Example


@dataclass(frozen=True)
class HourglassExamples:
    """Makes examples; picklable, for loader processes.

    The paper trains stage 2 on crops by ground-truth boxes with ±30° and ±10 % jitter (Section IV-C). The crop here
    is the ground-truth canonical face, what a perfect stage 1 hands over; the jitter is what stage 1 may get wrong.

    Attributes:
        codecs: of each stack's heatmaps.
        augmentation: None for validation.
        occluded_peak: height of the target peak of an occluded point; below 1 the score learns to tell. 1 is the paper.
    """

    scheme: LandmarkScheme
    codecs: tuple[HeatmapCodec, ...]
    augmentation: Augmentation | None
    occluded_peak: float = 1.0

    def frame(self, face: FaceSample) -> Matrix:
        """Photo pixels to those of the crop before it is jittered."""
        return canonical_matrix(face.points.astype(np.float64), self.scheme, self.codecs[-1].input_size)

    def __call__(self, face: FaceSample, rng: np.random.Generator) -> Example:
        """One example.

        Returns:
            ``image`` (S, S, 3) uint8; ``points`` (L, 2) float32 canonical px, NaN where unlabelled; ``labelled`` (L,)
            float32, 1 where a target exists; ``columns_i``, ``rows_i`` (L, size) float32, the target profiles of stack
            i; ``name``.
        """
        size = self.codecs[-1].input_size
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
        example: Example = {
            "image": crop.image,
            "points": crop.points,
            "labelled": inside.astype(np.float32),
            "name": face.name,
        }
        for i, codec in enumerate(self.codecs):
            columns, rows = codec.profiles(crop.points)
            example[f"columns_{i}"], example[f"rows_{i}"] = columns, rows * height[:, None]
        return example
