"""Labels made by a model: for faces without any, or with poor ones.

Each face is aligned in several views (rotated, scaled, shifted, every other one mirrored) and the points are averaged.
Faces whose views disagree are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from facemsm.aligner import Aligner
from facemsm.data.augment import Augmentation, jitter_matrix
from facemsm.data.catalogue import load_dataset
from facemsm.data.coco import write_coco
from facemsm.data.reading import try_read
from facemsm.data.sample import FaceSample
from facemsm.data.sources import Source
from facemsm.errors import FacemsmError
from facemsm.geometry import apply_affine, box_scale, box_to_crop, compose, invert, tight_box
from facemsm.imaging.io import read_image
from facemsm.imaging.warping import warp
from facemsm.schemes import OCCLUDED, VISIBLE
from facemsm.typing import FloatArray, Image, Progress, untracked

VIEW_SIDE = 384
"""Side of a view, px: three times that of what the networks take, so that it costs no detail."""
VIEW_MARGIN = 2.0
"""Side of a view over the box's larger side: room for stage 1's crop wherever the jitter puts it."""
JITTER = Augmentation(rotation=12.0, scale=0.1, shift=0.03)
"""How views differ; :func:`~facemsm.data.augment.jitter_matrix` alone is used."""


@dataclass(frozen=True)
class Rejection:
    """Which faces are left out.

    Attributes:
        spread: largest root mean square distance of a face's points from their mean over the views, as a share of the
            root of its tight box's area.
        score: least mean score.
        change: largest mean distance from the labels it had, where it had any, as the same share.
    """

    spread: float = 0.02
    score: float = 0.5
    change: float = 0.08


@dataclass(frozen=True)
class Labelled:
    """How many faces were labelled, left out as doubtful, and left out because of their photo."""

    kept: int
    doubtful: int
    broken: int


def label_files(
    output: Path,
    photos: Sequence[Path] = (),
    sources: Sequence[Source] = (),
    *,
    weights: str = "68",
    views: int = 6,
    rejection: Rejection | None = None,
    smallest: float = 40.0,
    warn: Callable[[str], None] = lambda _: None,
    progress: Progress = untracked,
) -> Labelled:
    """Label the faces of photos and of data sets by a model, and write them as COCO keypoints.

    Args:
        output: the file to write.
        photos: every face that the detector finds in them is labelled.
        sources: data sets to be labelled anew.
        weights: a bundled model's name or a folder.
        views, rejection: as for :func:`label`.
        smallest: boxes of the detector with a shorter side are left out, px.
        warn: takes a line for each photo that cannot be read.
        progress: shows photos and faces.

    Raises:
        FacemsmError: nothing to label, no face was kept, or a file cannot be read or written.
    """
    if not photos and not sources:
        raise FacemsmError("nothing to label: name photos, or a data set with --data NAME=ROOT:SPLIT")
    aligner = Aligner.from_pretrained(weights)
    samples = [s for at in sources for s in load_dataset(at.name, at.root, at.split, "gt", aligner.scheme)]
    nothing = np.full((aligner.scheme.count, 2), np.nan, np.float32)
    for photo in progress(photos, "photos"):
        try:
            boxes = aligner.detector.detect(read_image(photo))[:, :4]
        except FacemsmError as error:
            warn(str(error))
            continue
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).min(1) >= smallest]
        samples += [FaceSample(f"{photo.stem}_{i}", photo, box, "detector", nothing) for i, box in enumerate(boxes)]
    kept, broken = [], 0
    for sample in progress(samples, "faces"):
        face = try_read(next, label(aligner, [sample], views, rejection))
        if isinstance(face, FacemsmError):
            warn(str(face))
            broken += 1
        elif face:
            kept.append(face)
    if not kept:
        raise FacemsmError(f"{output}: not written, all of the {len(samples)} faces were left out")
    write_coco(kept, output, aligner.scheme)
    return Labelled(len(kept), len(samples) - len(kept) - broken, broken)


def label(
    aligner: Aligner, samples: Iterable[FaceSample], views: int = 6, rejection: Rejection | None = None
) -> Iterator[FaceSample | None]:
    """Label faces anew.

    Args:
        aligner: with all stages; hidden points come from stage 3.
        samples: whose box and, if any, points (L, 2) are used; points are NaN where there are none.
        views: how many of each face.
        rejection: which faces are left out.

    Yields:
        For each sample one whose points, photo pixels, visibility and box (tight) are the model's; None if it is
        left out.

    Raises:
        FacemsmError: a photo cannot be read.
    """
    rejection = rejection or Rejection()
    for sample in samples:
        points, scores, hidden = _views(aligner, sample.load(), sample.box, views)
        mean = points.mean(0)
        size = float(box_scale(mean))
        spread = float(np.sqrt(np.square(points - mean).sum(-1).mean())) / size
        known = np.isfinite(sample.points).all(1)
        change = float(np.linalg.norm(mean - sample.points, axis=1)[known].mean()) / size if known.any() else 0.0
        if spread > rejection.spread or scores.mean() < rejection.score or change > rejection.change:
            yield None
            continue
        visibility = np.where(hidden.mean(0) > 0.5, OCCLUDED, VISIBLE).astype(np.int8)
        yield replace(sample, points=mean, visibility=visibility, box=tight_box(mean), box_source="gt")


def _views(aligner: Aligner, photo: Image, box: FloatArray, count: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Points (count, L, 2) in photo pixels, scores (count, L) and occlusion flags (count, L) of each view."""
    rng = np.random.default_rng(0)
    to_view = box_to_crop(box, VIEW_SIDE, VIEW_MARGIN)
    middle = (box[:2] + box[2:]) / 2
    views, boxes, back, order = [], [], [], []
    for index in range(count):
        jitter, flipped = jitter_matrix(replace(JITTER, flip=float(index % 2)), rng, VIEW_SIDE)
        matrix = compose(jitter, to_view)
        centre = apply_affine(matrix, middle[None])[0]
        views.append(warp(photo, matrix, VIEW_SIDE))
        boxes.append(np.concatenate((centre - VIEW_SIDE / VIEW_MARGIN / 2, centre + VIEW_SIDE / VIEW_MARGIN / 2))[None])
        back.append(invert(matrix))
        order.append(aligner.scheme.flip if flipped else np.arange(aligner.scheme.count))
    faces = [found[0] for found in aligner.align_batch(views, boxes)]
    points = [apply_affine(matrix, face.points)[own] for matrix, face, own in zip(back, faces, order, strict=True)]
    scores = [face.scores[own] for face, own in zip(faces, order, strict=True)]
    hidden = [face.occluded[own] for face, own in zip(faces, order, strict=True)]
    return np.array(points, np.float32), np.array(scores, np.float32), np.array(hidden, np.float32)
