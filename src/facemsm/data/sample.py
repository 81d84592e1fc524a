"""One annotated face, whatever data set it came from."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from facemsm.imaging.io import read_image
from facemsm.typing import FloatArray, Image, T

BoxSource = Literal["gt", "provided", "detector"]


@dataclass(frozen=True, slots=True, eq=False)
class FaceSample:
    """One face of a data set. Photos are read only when ``load`` is called.

    Attributes:
        name: unique within its data set, for reports and saved predictions.
        image: path of the photo, or a function that returns it where a data set packs its photos in one file.
        box: (4,) float32, ``[x_min, y_min, x_max, y_max]`` in photo pixels (0-based pixel centres).
        box_source: ``gt`` (the data set's ground truth or, where it has none, tight around the labelled points),
            ``provided`` (by the data set) or ``detector``.
        points: (L, 2) float32, photo pixels, 0-based pixel centres; NaN where unlabelled.
        visibility: (L,) int8 with COCO's values ``VISIBLE``, ``OCCLUDED``, ``UNLABELLED``; None where the data set
            does not say.
        attributes: per-face flags of the data set, e.g. WFLW's ``{"pose": True, ...}``.
        convention: whose habit of placing points the labels follow: a data set's name, or that of a part of one after
            it, such as ``300w/lfpw``. Empty where no data set was named.
    """

    name: str
    image: Path | Callable[[], Image]
    box: FloatArray
    box_source: BoxSource
    points: FloatArray
    visibility: NDArray[np.int8] | None = None
    attributes: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    convention: str = ""

    @property
    def data_set(self) -> str:
        """``convention`` without the part."""
        return self.convention.partition("/")[0]

    def load(self) -> Image:
        """The photo, (H, W, 3) uint8 RGB.

        Raises:
            FacemsmError: the photo is missing or cannot be decoded.
        """
        return read_image(self.image) if isinstance(self.image, Path) else self.image()


def evenly_chosen(items: Sequence[T], count: int | None) -> list[T]:
    """``count`` of the items, at equal distances from the first to the last; all if there are no more, or for None."""
    if count is None or count >= len(items):
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).astype(int)]


def face_rng(name: str, seed: int = 0) -> np.random.Generator:
    """Random numbers that depend on a face's name and the seed alone, not on which other faces are used."""
    return np.random.default_rng((seed, zlib.crc32(name.encode())))
