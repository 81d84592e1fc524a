"""Training examples for stage 1: a crop as a detector might give it, and the θ* that makes it canonical."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facemsm.data.augment import Augmentation, augment_crop, jitter_matrix, take_crop
from facemsm.data.sample import FaceSample
from facemsm.geometry import box_to_crop, canonical_matrix, compose, invert, matrix_to_theta
from facemsm.schemes import LandmarkScheme
from facemsm.training.stream import Example


@dataclass(frozen=True)
class CropExamples:
    """Makes examples; picklable, for loader processes.

    Attributes:
        size: side of the crop, px.
        augmentation: how the crop is jittered and disturbed; its shift and scale stand for what detectors get wrong.
        fixed: for validation: the same geometric jitter every time, no flip, colours and occluders as they are.
    """

    scheme: LandmarkScheme
    size: int
    augmentation: Augmentation
    fixed: bool = False

    def __call__(self, face: FaceSample, rng: np.random.Generator) -> Example:
        """One example.

        Returns:
            ``image`` (size, size, 3) uint8; ``theta`` (2, 3) float32, canonical to crop (Eq. 1); ``name``.
        """
        jitter, flipped = jitter_matrix(self.augmentation, rng, self.size)
        matrix = compose(jitter, box_to_crop(face.box, self.size))
        crop = take_crop(
            face.load(), face.points, face.visibility, matrix, self.size, flip_table=self.scheme.flip, flipped=flipped
        )
        canonical = canonical_matrix(crop.points.astype(np.float64), self.scheme, self.size)
        if not self.fixed:
            crop = augment_crop(crop, self.augmentation, rng, self.scheme)
        theta = matrix_to_theta(invert(canonical), self.size)
        return {"image": crop.image, "theta": theta.astype(np.float32), "name": face.name}
