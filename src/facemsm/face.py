"""What aligning a face returns, and the check of the boxes it starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from facemsm.errors import FacemsmError
from facemsm.typing import BoolArray, FloatArray, Image

if TYPE_CHECKING:
    import pandas

    from facemsm.schemes import LandmarkScheme


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One aligned face. Points and boxes are in photo pixels, 0-based pixel centres.

    Attributes:
        points: (L, 2) float32.
        scores: (L,) float32 in [0, 1]. By a calibrated model the probability that the point lies within 5 % of the
            inter-ocular distance of the truth; otherwise how surely it was seen (Eq. 9).
        occluded: (L,) bool, True where something hides the point. Without a calibration, where the point was rebuilt
            from the others (stage 3) rather than seen.
        box: (4,) float32, the box it was given or found, ``[x_min, y_min, x_max, y_max]``.
        theta: (2, 3) float32, Eq. 1: canonical to crop, normalised coordinates.
        preliminary: (L, 2) float32, stage 2's points before stage 3.
        detection_score: the detector's confidence; None for a given box.
        heatmaps: (L, 64, 64) float32, only if asked for.
        canonical: (128, 128, 3) uint8 RGB, the face as stage 2 saw it; only if asked for.
        occlusion: (L,) float32, the probability that something hides the point; None without a calibration.
        intensity: (L,) float32 in [0, 1], Eq. 9 as it is: how bright the heatmap is about its peak. Thresholds of stage
            3 are shares of the face's highest.
        rebuilt: (L,) bool, where stage 3 by exemplars took the point from the others; None by the posterior, which
            weighs all points, and without stage 3.
    """

    points: FloatArray
    scores: FloatArray
    occluded: BoolArray
    box: FloatArray
    theta: FloatArray
    preliminary: FloatArray
    detection_score: float | None = None
    heatmaps: FloatArray | None = None
    canonical: Image | None = None
    occlusion: FloatArray | None = None
    intensity: FloatArray | None = None
    rebuilt: BoolArray | None = None

    def draw(self, image: Image, scheme: LandmarkScheme | None = None) -> Image:
        """A copy of its photo (H, W, 3) uint8 RGB with the landmarks, by :func:`facemsm.drawing.draw_faces`.

        Args:
            image: the photo.
            scheme: of the points, for the lines between them; by default the built-in one with as many points.

        Raises:
            FacemsmError: no built-in scheme has as many points.
        """
        from facemsm.drawing import draw_faces
        from facemsm.schemes import get_scheme

        return draw_faces(image, [self], scheme or get_scheme(str(len(self.points))))

    def to_dataframe(self) -> pandas.DataFrame:
        """One row a landmark, as :func:`facemsm.to_dataframe` makes it of several faces."""
        from facemsm.records import to_dataframe

        return to_dataframe([self]).drop(columns="face").set_index("landmark")

    def to_coco(self, image_id: int = 1, annotation_id: int = 1) -> dict[str, Any]:
        """A COCO keypoint annotation; :func:`facemsm.to_coco` makes whole documents."""
        from facemsm.records import annotation

        return annotation(self, image_id, annotation_id)

    def __repr__(self) -> str:
        x, y = np.round((self.box[:2] + self.box[2:]) / 2)
        return (
            f"<Face at ({x:.0f}, {y:.0f}): {len(self.points)} points, {int(self.occluded.sum())} hidden, "
            f"mean score {self.scores.mean():.2f}>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: a sketch of the points. A face does not hold its photo."""
        from facemsm.records import sketch

        return sketch(self)


def check_boxes(boxes: ArrayLike, image_shape: tuple[int, ...], where: str = "image") -> FloatArray:
    """Boxes from outside as (N, 4) float32; an empty list gives (0, 4). A box may reach past the photo.

    Args:
        boxes: ``[[x_min, y_min, x_max, y_max], ...]`` in photo pixels.
        image_shape: (H, W, ...) of the photo.
        where: begins the message of an error, usually the photo's path.

    Raises:
        FacemsmError: not N rows of four numbers, or a box that is not finite, has no area, or lies outside the photo.
    """
    try:
        array = np.asarray(boxes, np.float64)
    except (TypeError, ValueError):
        array = np.empty(())
    if array.size == 0 and array.ndim in (1, 2):
        return np.zeros((0, 4), np.float32)
    if array.ndim != 2 or array.shape[1] != 4:
        raise FacemsmError(f"{where}: boxes must be a list of [x_min, y_min, x_max, y_max], one for each face")
    height, width = image_shape[:2]
    low, high = array[:, :2], array[:, 2:]
    for wrong, reason in (
        (~np.isfinite(array).all(axis=1), "is not finite; give four numbers"),
        ((high <= low).any(axis=1), "has no area; the order is x_min, y_min, x_max, y_max"),
        (
            ((high <= -0.5) | (low >= (width - 0.5, height - 0.5))).any(axis=1),
            f"lies outside the {width}x{height} photo",
        ),
    ):
        if wrong.any():
            i = int(wrong.argmax())
            box = ", ".join(f"{value:g}" for value in array[i])
            raise FacemsmError(f"{where}: box {i + 1} of {len(array)}, [{box}], {reason}")
    return array.astype(np.float32)
