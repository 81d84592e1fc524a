"""What the API says, as its description shows it."""

from __future__ import annotations

import base64
from collections.abc import Collection
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from facemsm.aligner import Aligner
from facemsm.face import Face, rounded
from facemsm.geometry import box_to_crop
from facemsm.imaging.drawing import LOW_SCORE, score_colours
from facemsm.imaging.warping import warp
from facemsm.schemes import LandmarkScheme
from facemsm.serve.limits import Limits
from facemsm.typing import Image, Method

Extra = Literal["crop", "canonical", "heatmaps", "measures"]

COLOURS = 64


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str = Field(description="One line: what is wrong and what to do.")


class MeasuresAnswer(BaseModel):
    """Head pose in degrees, eye and mouth openness; null for what the landmarks do not tell."""

    yaw: float | None = Field(description="Positive when the face points to the right side of the photo.")
    pitch: float | None = Field(description="Positive when it points up.")
    roll: float | None = Field(description="Positive clockwise in the photo.")
    right_eye_openness: float | None = Field(description="Of the person's right eye: height over width.")
    left_eye_openness: float | None
    mouth_openness: float | None = Field(description="Height over width between the inner lips.")


class FaceAnswer(BaseModel):
    """One face. Coordinates are pixels of the upright photo, 0-based pixel centres."""

    box: list[float] = Field(description="x_min, y_min, x_max, y_max, given or found.")
    detection_score: float | None = Field(description="The detector's confidence; null for a given box.")
    score: float = Field(
        description="0 to 1, the mean of the landmarks' scores: the share of them that is expected to be right. What "
        "is no face is near 0."
    )
    points: list[list[float]] = Field(description="x, y of every landmark.")
    scores: list[float] = Field(
        description="0 to 1. By a calibrated model the probability that a landmark lies within 5 % of the inter-ocular "
        "distance of the truth; otherwise how surely it was seen."
    )
    occluded: list[int] = Field(
        description="1 where something hides a landmark; if the model is not calibrated, where it was rebuilt from the "
        "others rather than seen."
    )
    intensity: list[float] = Field(
        description="0 to 1, how bright each heatmap is about its peak (Eq. 9). Thresholds are shares of the face's "
        "highest."
    )
    rebuilt: list[int] | None = Field(
        description="1 where the paper's stage 3 took a landmark from the others; null where stage 3 weighs all."
    )
    preliminary: list[list[float]] = Field(description="The landmarks before stage 3.")
    theta: list[list[float]] = Field(description="2 x 3, canonical face to crop in normalised coordinates.")
    measures: MeasuresAnswer | None = Field(None, description="If they were asked for.")
    crop: str | None = Field(None, description="What stage 1 sees: a PNG as a data URL.")
    canonical: str | None = Field(None, description="What stage 2 sees: a PNG as a data URL.")
    heatmaps: str | None = Field(
        None, description="Stage 2's heatmaps from first to last landmark, below each other: a grey PNG as a data URL."
    )


class AlignAnswer(BaseModel):
    """The faces of a photo: those of the given boxes in their order, or those found, best first."""

    width: int = Field(description="Of the upright photo, pixels.")
    height: int
    scheme: str = Field(description="Name of the landmark scheme.")
    method: Method = Field(description="By which the landmarks were found.")
    faces_found: int | None = Field(
        description="By the detector; those beyond the server's limit, the least certain, were left out, and those "
        "with a score below min_score. Null for given boxes."
    )
    faces: list[FaceAnswer]


class Thresholds(BaseModel):
    """Shares of a face's best score (Eq. 9) below which the paper's stage 3 rebuilds a landmark."""

    contour: float
    features: float
    minimum_reliable: float = Field(description="Share of landmarks that are kept even if their scores are too low.")


class LimitsAnswer(BaseModel):
    """What is refused beyond."""

    upload_bytes: int
    pixels: int
    faces: int
    seconds: float


class ModelAnswer(BaseModel):
    """What the page has to know before it sees a photo."""

    weights: str
    checksum: str
    models: list[str] = Field(description="Names of the weights that a request may ask for, the default first.")
    scheme: str
    labels: list[str] = Field(description="Name of every landmark, or of its group where the scheme has no names.")
    method: Method = Field(description="How landmarks are found where a request does not say.")
    methods: list[Method] = Field(description="What a request may ask for.")
    contour: list[int] = Field(description="Landmarks on the face's outline; they have a threshold of their own.")
    edges: list[list[int]] = Field(description="Lines of the skeleton.")
    thresholds: Thresholds
    low_score: float = Field(description="Faces with a lower score are hardly faces, or hardly to be seen.")
    colours: list[list[int]] = Field(description="Red, green, blue of scores from 0 to 1.")
    limits: LimitsAnswer


def model_answer(aligner: Aligner, models: Collection[str], limits: Limits) -> ModelAnswer:
    """Describe an aligner, one of ``models``."""
    scheme, settings = aligner.scheme, aligner.settings.reconstruction
    return ModelAnswer(
        weights=aligner.model.name,
        checksum=aligner.model.checksum,
        models=list(models),
        scheme=scheme.name,
        labels=_labels(scheme),
        method=aligner.method,
        methods=["calibrated", "paper"] if aligner.model.calibration else ["paper"],
        contour=list(scheme.contour),
        edges=[list(edge) for edge in scheme.edges],
        thresholds=Thresholds(
            contour=settings.contour_threshold,
            features=settings.feature_threshold,
            minimum_reliable=settings.minimum_reliable,
        ),
        low_score=LOW_SCORE,
        colours=score_colours(np.linspace(0, 1, COLOURS, dtype=np.float32)).tolist(),
        limits=LimitsAnswer(
            upload_bytes=limits.upload_bytes, pixels=limits.pixels, faces=limits.faces, seconds=limits.seconds
        ),
    )


def face_answer(face: Face, image: Image, extras: set[Extra], size: int, scheme: LandmarkScheme) -> FaceAnswer:
    """Describe a face of a photo, with what else was asked for; ``size`` is stage 1's.

    Raises:
        FacemsmError: measures of a scheme that says nothing of the 68 points.
    """
    pictures: dict[str, str] = {}
    if "crop" in extras:
        pictures["crop"] = _png(warp(image, box_to_crop(face.box, size), size))
    if "canonical" in extras and face.canonical is not None:
        pictures["canonical"] = _png(face.canonical)
    if "heatmaps" in extras and face.heatmaps is not None:
        grey = np.round(np.clip(face.heatmaps, 0, 1) * 255).astype(np.uint8)
        pictures["heatmaps"] = _png(grey.reshape(-1, grey.shape[-1]))
    content = {
        **face.to_dict(measures="measures" in extras, scheme=scheme),
        "box": [float(str(value)) for value in face.box],  # shortest, yet sent back it gives the same face exactly
        "intensity": [] if face.intensity is None else rounded(face.intensity, 6),
        "rebuilt": None if face.rebuilt is None else face.rebuilt.astype(int).tolist(),
        **pictures,
    }
    return FaceAnswer.model_validate(content)


def _labels(scheme: LandmarkScheme) -> list[str]:
    if scheme.names:
        return list(scheme.names)
    labels = ["feature"] * scheme.count
    for group, points in (
        ("contour", scheme.contour),
        ("right eye", scheme.right_eye),
        ("left eye", scheme.left_eye),
        ("mouth", scheme.mouth),
    ):
        for point in points:
            labels[point] = group
    return labels


def _png(image: NDArray[np.uint8]) -> str:
    """A data URL of a grey (H, W) or RGB (H, W, 3) picture."""
    bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()
