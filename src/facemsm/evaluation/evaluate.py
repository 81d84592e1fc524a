"""Running the aligner over annotated faces, with the boxes given, found by a detector, or perturbed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from facemsm.data.sample import FaceSample
from facemsm.detectors import FaceDetector
from facemsm.detectors.boxes import overlaps
from facemsm.errors import FacemsmError
from facemsm.evaluation.conditions import Perturbation
from facemsm.evaluation.predictions import Predictions
from facemsm.evaluation.report import Evaluation, measure
from facemsm.face import Face
from facemsm.geometry import Normaliser, apply_affine, invert, similarity, tight_box
from facemsm.shapes.conventions import Convention
from facemsm.typing import FloatArray

if TYPE_CHECKING:
    from facemsm.aligner import Aligner

LEAST_OVERLAP = 0.3
"""A detection is of the annotated face if its IoU with the tight box of the landmarks is at least this."""


def evaluate(
    aligner: Aligner,
    samples: Sequence[FaceSample],
    *,
    detector: FaceDetector | None = None,
    perturbation: Perturbation | None = None,
    normalisers: Sequence[Normaliser] = (),
    thresholds: Sequence[float] = (),
) -> dict[str, Any]:
    """Measure an aligner on annotated faces, as ``facemsm evaluate`` does.

    Args:
        aligner, detector, perturbation: as for :func:`run_aligner`.
        samples: of the aligner's scheme, by :func:`facemsm.load_dataset`.
        normalisers, thresholds: as for :func:`facemsm.evaluation.report.measure`.

    Returns:
        The figures of :func:`facemsm.evaluation.report.measure`.

    Raises:
        FacemsmError: as those.
    """
    predictions = run_aligner(aligner, samples, detector, perturbation)
    return measure(Evaluation.of(samples, predictions, aligner.scheme), normalisers, thresholds)


def run_aligner(
    aligner: Aligner,
    samples: Iterable[FaceSample],
    detector: FaceDetector | None = None,
    perturbation: Perturbation | None = None,
) -> Predictions:
    """Align every face. Where the model knows the conventions of all labels, points are given in those, too, unless the
    aligner's settings ask for one, which its points are in then.

    Args:
        aligner: with any weights.
        samples: the faces; their photos are opened one by one.
        detector: finds the faces; their own boxes are used if None. Of its boxes the one that overlaps the tight box
            of a face's landmarks most is taken, if by ``LEAST_OVERLAP``; otherwise the face is missed.
        perturbation: perturbs the boxes, the detector's too.

    Returns:
        Predictions in the order of the samples, in pixels of the photos as they are, without ``origin``.

    Raises:
        FacemsmError: a photo cannot be read or a box not be used; the message names the face.
    """
    known: dict[str, Convention | None] = {}
    names, conventions, found = [], [], []
    for sample in samples:
        names.append(sample.name)
        conventions.append(sample.convention)
        if sample.convention not in known and not aligner.settings.convention:
            known[sample.convention] = aligner.model.convention(sample.convention)
        try:
            found.append(_align(aligner, sample, detector, perturbation))
        except FacemsmError as error:
            raise FacemsmError(f"face {sample.name}: {error}") from error
    count = aligner.scheme.count

    def stack(values: str, *shape: int) -> FloatArray:
        gap = np.full((count, *shape), np.nan, np.float32)
        return np.array([gap if face is None else getattr(face, values) for face in found], np.float32)

    points = stack("points", 2)
    own = None
    if known and all(known.values()):
        own = points.copy()
        for name, convention in known.items():
            theirs = np.array(conventions) == name
            own[theirs] = cast(Convention, convention).to_labels(points[theirs])
    return Predictions(
        method="facemsm",
        names=tuple(names),
        points=points,
        occluded=stack("occluded") == 1,
        scores=stack("scores"),
        preliminary=stack("preliminary", 2) if 3 in aligner.settings.stages else None,
        occlusion=stack("occlusion") if any(face and face.occlusion is not None for face in found) else None,
        own=own,
    )


def _align(
    aligner: Aligner, sample: FaceSample, detector: FaceDetector | None, perturbation: Perturbation | None
) -> Face | None:
    image, box, to_photo = sample.load(), sample.box, similarity(0.0)
    if detector is not None:
        match = matching_detection(detector.detect(image), sample.points)
        if match is None:
            return None
        box = match
    if perturbation is not None:
        image, box, to_rotated = perturbation.apply(image, box, sample.name)
        to_photo = invert(to_rotated)
    face = aligner.align(image, box[None])[0]
    return replace(
        face,
        points=apply_affine(to_photo, face.points).astype(np.float32),
        preliminary=apply_affine(to_photo, face.preliminary).astype(np.float32),
    )


def matching_detection(detections: FloatArray, points: FloatArray) -> FloatArray | None:
    """The box (4,) that overlaps a face's tight box most, None if all overlap it less than ``LEAST_OVERLAP``.

    Args:
        detections: (N, 5) from a face detector.
        points: (L, 2) true landmarks, NaN where unlabelled.
    """
    overlap = overlaps(tight_box(points), detections[:, :4])
    return detections[overlap.argmax(), :4] if (overlap >= LEAST_OVERLAP).any() else None
