"""What aligning a face returns, and the check of the boxes it starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facemsm.errors import FacemsmError
from facemsm.schemes import OCCLUDED, VISIBLE, coco_annotation
from facemsm.typing import BoolArray, FloatArray, Image

if TYPE_CHECKING:
    import pandas

    from facemsm.imaging.io import ImageSource
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

    Example::

        >>> (face,) = facemsm.Aligner.from_pretrained("68").align("photo.jpg")
        >>> face.points.shape, face.score > 0.5
        ((68, 2), True)
        >>> drawn = face.draw(facemsm.read_image("photo.jpg"))
        >>> face.to_coco()["num_keypoints"]
        68
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

    @property
    def score(self) -> float:
        """The mean of ``scores``. By a calibrated model it is the share of the points that is expected to be right:
        above 0.5 most points are, and what is no face is near 0."""
        return float(self.scores.mean())

    def draw(self, image: ImageSource, scheme: LandmarkScheme | None = None) -> Image:
        """A copy of its photo (H, W, 3) uint8 RGB with the landmarks, by :func:`facemsm.imaging.drawing.draw_faces`.

        Args:
            image: the photo, given as to :meth:`facemsm.Aligner.align`: a path, bytes, a PIL picture or an array.
            scheme: of the points, for the lines between them; by default the built-in one with as many points.

        Raises:
            FacemsmError: no built-in scheme has as many points, or the image cannot be used.
        """
        from facemsm.imaging.drawing import draw_faces

        return draw_faces(image, self, scheme)

    def to_dataframe(self) -> pandas.DataFrame:
        """One row per landmark, with ``x``, ``y`` (photo pixels), ``score`` and ``occluded``.

        Raises:
            FacemsmError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise FacemsmError("tables need pandas: pip install pandas") from error
        columns = {"x": self.points[:, 0], "y": self.points[:, 1], "score": self.scores, "occluded": self.occluded}
        return pandas.DataFrame(columns).rename_axis("landmark")

    def to_dict(self, *, measures: bool = False, scheme: LandmarkScheme | None = None) -> dict[str, Any]:
        """The face in a line of ``landmarks.jsonl``: plain numbers, coordinates to 0.001 px.

        Args:
            measures: with head pose, eye and mouth openness, see :func:`facemsm.shapes.measures.face_measures`.
            scheme: of the points, for the measures; by default the built-in one with as many points.

        Raises:
            FacemsmError: measures of a scheme that says nothing of the 68 points.
        """
        content = {
            "box": rounded(self.box),
            "detection_score": None if self.detection_score is None else round(self.detection_score, 3),
            "score": round(self.score, 3),
            "points": rounded(self.points),
            "scores": rounded(self.scores),
            "occluded": self.occluded.astype(int).tolist(),
            "preliminary": rounded(self.preliminary),
            "theta": rounded(self.theta, 6),
        }
        if measures:
            from facemsm.shapes.measures import face_measures

            content["measures"] = face_measures(self.points, scheme)
        return content

    def to_coco(self, image_id: int = 1, annotation_id: int = 1) -> dict[str, Any]:
        """A COCO keypoint annotation: visibility 1 where a point is occluded, 2 elsewhere, and the face's score.

        :func:`facemsm.to_coco` makes whole documents.
        """
        visibility = np.where(self.occluded, OCCLUDED, VISIBLE)
        annotation = coco_annotation(annotation_id, image_id, self.points, visibility, self.box)
        return {**annotation, "score": round(self.score, 3)}

    def __repr__(self) -> str:
        x, y = np.round((self.box[:2] + self.box[2:]) / 2)
        return (
            f"<Face at ({x:.0f}, {y:.0f}): {len(self.points)} points, {int(self.occluded.sum())} hidden, "
            f"score {self.score:.2f}>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: a sketch of the points. A face does not hold its photo."""
        from facemsm.imaging.drawing import sketch

        return sketch(self)


def rounded(array: NDArray[Any], digits: int = 3) -> list[Any]:
    """Plain numbers for JSON and CSV; floating ones to so many digits."""
    rounded: list[Any] = (
        np.asarray(array, np.float64).round(digits).tolist() if array.dtype.kind == "f" else array.tolist()
    )
    return rounded
