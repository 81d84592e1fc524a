"""What the trainings of networks that find landmarks on canonical faces share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from facemsm.data.augment import Augmentation, augment_crop, deformed, jitter_matrix, take_crop
from facemsm.data.sample import FaceSample
from facemsm.geometry import Matrix, box_scale, canonical_matrix, compose
from facemsm.imaging.drawing import SHIFT, fixed
from facemsm.schemes import OCCLUDED, LandmarkScheme
from facemsm.training.config import Schedule
from facemsm.training.run import PICTURED, StageModule
from facemsm.training.stream import Example
from facemsm.typing import Image

LITE_SCHEDULE = Schedule(
    epochs=60, learning_rate=1e-3, decay="cosine", warmup=200, weight_decay=0.01, ema=0.999, precision="auto"
)
LITE_AUGMENTATION = replace(Augmentation.full(), scale=0.15, shift=0.05)
"""Of the preset ``lite``."""


def images_to_tensor(images: Tensor) -> Tensor:
    """(N, S, S, 3) uint8 to (N, 3, S, S) float32 in [0, 1], in channels-last order, which CPUs convolve faster."""
    return images.permute(0, 3, 1, 2).float() / 255


def canonical_errors(
    predicted: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], scheme: LandmarkScheme
) -> dict[str, Tensor]:
    """Per-face errors in per cent: ``box`` and ``inter-ocular``; NaN where a face has no such normaliser."""
    from facemsm.evaluation.metrics import nme

    kinds: tuple[Any, ...] = ("box", "inter-ocular")
    return {kind: torch.from_numpy(100 * nme(predicted, truth, scheme, kind)) for kind in kinds}


@dataclass(frozen=True)
class CanonicalExamples:
    """Makes examples; picklable, for loader processes.

    The paper trains stage 2 on crops by ground-truth boxes with ±30° and ±10 % jitter (Section IV-C). The crop here
    is the ground-truth canonical face, what a perfect stage 1 hands over; the jitter is what stage 1 may get wrong.

    Attributes:
        size: side of the canonical face, px.
        augmentation: None for validation.
        occluded_peak: height of the target peak of an occluded point; below 1 the score learns it. 1 is the paper's.
        conventions: names that faces' ``data_set`` may have; ``convention`` below is an index into them.
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
            crop = deformed(crop, self.augmentation.deform, rng)
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
            "convention": self.conventions.index(face.data_set) if face.data_set in self.conventions else 0,
            "shift": (matrix[:, :2] * box_scale(face.points)).astype(np.float32),
            "name": face.name,
        }


class LandmarkModule(StageModule):
    """A network that finds landmarks on canonical faces, in training."""

    scheme: LandmarkScheme

    def picture(self, batch: dict[str, Any], predicted: Tensor) -> Image:
        """Canonical faces at twice their size: true points green, predicted ones red."""
        zoom = 2
        tiles = []
        for image, *both in list(zip(batch["image"], batch["points"], predicted, strict=True))[:PICTURED]:
            tile = cv2.resize(image.cpu().numpy(), None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
            for points, colour, size in zip(both, ((0, 255, 0), (255, 0, 0)), (5, 3), strict=True):
                known = points[~points.isnan().any(1)].cpu().numpy()
                dots = list(fixed(zoom * (known + 0.5) - 0.5)[:, None])
                cv2.polylines(tile, dots, True, colour, size, cv2.LINE_AA, SHIFT)
            tiles.append(tile)
        return np.concatenate(tiles, axis=1)
