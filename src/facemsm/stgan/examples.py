"""Training examples for stage 1: a crop as a detector might give it, and the θ* that makes it canonical."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from facemsm.data.augment import Augmentation, augment_crop, jitter_matrix, take_crop
from facemsm.data.sample import FaceSample
from facemsm.geometry import (
    Matrix,
    box_to_crop,
    canonical_matrix,
    compose,
    invert,
    normalised_to_pixels,
    pixels_to_normalised,
)
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
    _canonical: dict[FaceSample, Matrix] = field(default_factory=dict, repr=False, compare=False)

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
        # The canonical frame rotates and scales with the face, and a mirrored face has it mirrored.
        theta = compose(pixels_to_normalised(self.size, self.size), compose(matrix, self._to_photo(face)))
        if flipped:
            theta[:, 0] *= -1
        if not self.fixed:
            crop = augment_crop(crop, self.augmentation, rng, self.scheme)
        return {"image": crop.image, "theta": theta.astype(np.float32), "name": face.name}

    def _to_photo(self, face: FaceSample) -> Matrix:
        """Normalised canonical coordinates to photo pixels; the same each time a face comes up."""
        if face not in self._canonical:
            canonical = canonical_matrix(face.points.astype(np.float64), self.scheme, self.size)
            self._canonical[face] = compose(invert(canonical), normalised_to_pixels(self.size, self.size))
        return self._canonical[face]
