"""Calibrating a model: its confidence is fitted on the faces that its training held out."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facemsm.aligner import Aligner
from facemsm.confidence.fitting import FITTING_CONDITIONS, FOLDS, Observations, fit_logistic, fit_noise
from facemsm.confidence.model import CORRECT, FEATURES, OF_ERRORS, Calibration, Logistic, Stage3, describe, detail
from facemsm.data.occluders import OCCLUDERS
from facemsm.data.sample import FaceSample, evenly_chosen
from facemsm.data.sources import Source
from facemsm.errors import FacemsmError
from facemsm.evaluation import occlusion
from facemsm.evaluation.conditions import Perturbation, in_poor_photo, mostly_covered, painted
from facemsm.evaluation.metrics import point_errors
from facemsm.geometry import apply_affine, canonical_matrix, compose, face_scale, invert, similarity
from facemsm.runtime.model import write_calibration
from facemsm.schemes import OCCLUDED, UNLABELLED, LandmarkScheme
from facemsm.shapes.conventions import Convention, fit_conventions, known_as
from facemsm.shapes.dictionary import ShapeDictionary
from facemsm.shapes.posterior import Noise, Posterior, ShapePrior, learn_prior, observation_covariance, posterior
from facemsm.shapes.reconstruction import Reconstruction, reconstruct
from facemsm.training.faces import Faces, load_faces
from facemsm.typing import Array

TIMES = (8, 3, 3, 1)
"""How often a held-out face is shown in each of ``FITTING_CONDITIONS``; all but once with a perturbed box."""

FAIR = 2
"""Of ``FITTING_CONDITIONS``, those whose points are fair to ask for: the others teach what not to trust."""

FITTED = 1200
"""Observations that the noise is fitted on, for speed."""

LEAST = 20
"""Held-out faces; with fewer, a fold would have too few to learn from."""

PRECISION = 0.8
"""Of the points that are flagged as occluded, so many are to be."""


def calibrate_model(
    model: Path,
    sources: Sequence[Source],
    *,
    exclude: Sequence[str] = (),
    complete: Source | None = None,
    holdout: float = 0.1,
    report: Callable[[str], None] = print,
) -> None:
    """Fit stage 3's posterior, label conventions, and the probabilities that points are right and occluded; rewrite
    ``model.json``.

    Args:
        model: a model folder.
        sources: the faces that it was trained on. Shapes and conventions are learned from those it saw, all else from
            those held out.
        exclude, complete, holdout: as in training, see :func:`facemsm.training.faces.load_faces`.
        report: takes the lines that say what was found.

    Raises:
        FacemsmError: fewer than ``LEAST`` faces are held out, or something cannot be read or written.
    """
    aligner = Aligner.from_pretrained(model, stages=(1, 2))
    scheme, size = aligner.scheme, aligner.model.codec.input_size
    faces = load_faces(
        sources, box_source="provided", scheme=scheme, holdout=holdout, exclude=exclude, complete=complete
    )
    if len(faces.validation) < LEAST:
        raise FacemsmError(
            f"only {len(faces.validation)} faces are held out, at least {LEAST} are needed: give more data, or train "
            "and calibrate with a higher --holdout"
        )
    dictionary = aligner.model.dictionary()
    shapes = np.stack([face.points for face in faces.training]).astype(np.float64)
    shapes = apply_affine(canonical_matrix(shapes, scheme, size), shapes)
    prior = learn_prior(np.concatenate((shapes, dictionary.shapes)), scheme, size=size)
    report(f"prior over shapes: {len(shapes)} training faces and {len(dictionary.shapes)} exemplars")

    if complete:  # labels that were completed are nobody's habit
        conventions = {name: Convention(shift) for name, shift in aligner.model.conventions.items()}
    else:
        conventions = _fit_conventions(report, aligner, faces, prior)
    seen = _observe(aligner, faces.validation, conventions)
    report(f"{len(faces.validation)} faces held out, each shown {sum(TIMES)} times")
    good = np.flatnonzero(seen.kind < FAIR)
    noise = fit_noise(seen.take(np.array(evenly_chosen(good.tolist(), FITTED))), prior, scheme)
    report(f"log of noise: {noise[0]:.2f} {noise[1]:+.2f} (1 - score) {-noise[2]:+.2f} yaw")
    parts = [_fit(seen.take(seen.fold != fold), prior, scheme, noise) for fold in range(FOLDS)]
    stage3, threshold = _report(report, seen, parts, prior, dictionary, scheme)
    _report_left_out(report, seen, prior, scheme, noise)
    fitted = replace(_fit(seen, prior, scheme, noise), stage3=stage3, threshold=threshold)
    folder = aligner.model.folder
    write_calibration(folder, fitted, prior, conventions)
    report(f"\nstage 3 by {stage3}, occluded from a probability of {threshold:.3f}; calibrated: {folder}")


def _fit_conventions(
    report: Callable[[str], None], aligner: Aligner, faces: Faces, prior: ShapePrior
) -> dict[str, Convention]:
    """The training sets' conventions, fitted on the faces that training saw; print what they say of those held out."""

    def found(part: Sequence[FaceSample]) -> tuple[Array, Array, list[str]]:
        points = [aligner.align(face.load(), face.box[None])[0].points for face in part]
        return np.array(points), np.array([face.points for face in part]), [face.convention for face in part]

    scheme = aligner.scheme
    conventions = fit_conventions(*found(faces.training), prior, scheme)
    points, labels, sets = found(faces.validation)
    report("\nlabel conventions, held-out faces; errors in % of the inter-ocular distance, or of the box in profiles")
    report("set          faces    as it is  by a shift  by shift and shape")
    for name, convention in conventions.items():
        own = np.array([name in (one, one.partition("/")[0]) for one in sets])
        if own.any():
            moved = points[own], Convention(convention.shift).to_labels(points[own]), convention.to_labels(points[own])
            errors = [point_errors(one, labels[own]) / face_scale(labels[own], scheme)[:, None] for one in moved]
            means = "".join(f"{100 * np.nanmean(one):11.3f}" for one in errors)
            report(f"{name:12s} {own.sum():5d} {means}")
    return conventions


def _observe(aligner: Aligner, faces: Sequence[FaceSample], conventions: Mapping[str, Convention]) -> Observations:
    """Stages 1 and 2 on every face, as often as ``TIMES`` says. A score is for the consensus: labels are moved to it.

    Where some data set says which points are hidden, only its faces teach that: elsewhere they pass for visible.
    """
    ways: tuple[Callable[[FaceSample, int], FaceSample], ...] = (  # in the order of FITTING_CONDITIONS
        lambda face, _: face,
        lambda face, seed: painted(face, aligner.scheme, tuple(OCCLUDERS), seed),
        in_poor_photo,
        mostly_covered,
    )

    def shown() -> Iterator[tuple[FaceSample, int, Perturbation | None]]:
        for seed, kind in enumerate(np.repeat(np.arange(len(TIMES)), TIMES).tolist()):
            perturb = Perturbation(0.08, 0.12, 15, seed) if seed else None
            for face in faces:
                yield ways[kind](face, seed), kind, perturb

    marked = {face.name for face in faces if face.visibility is not None} or {face.name for face in faces}
    rows = []
    for face, kind, perturb in shown():
        image, box, to_rotated = face.load(), face.box, similarity()
        if perturb:
            image, box, to_rotated = perturb.apply(image, box, face.name)
        found = aligner.run_stages([image], box[None])
        visibility = face.visibility if face.name in marked else None
        if visibility is None:
            visibility = np.full(len(face.points), UNLABELLED, np.int8)
        fold = zlib.crc32(face.name.encode()) % FOLDS
        assert found.spread is not None
        truth, to_photo = face.points, compose(invert(to_rotated), found.to_photo[0])
        if known := known_as(face.convention, conventions):
            truth = (
                conventions[known].to_consensus(truth[None], apply_affine(to_photo, found.points))[0].astype(np.float32)
            )
        row = (found.points[0], found.scores[0], found.spread[0], detail(found.canonical)[0])
        rows.append((*row, to_photo, truth, visibility, kind, fold, _part(face)))
    return Observations(*(np.array(column) for column in zip(*rows, strict=True)))


def _part(face: FaceSample) -> str:
    """The data set, or the part of it."""
    return face.convention.rpartition("/")[2]


def _fit(seen: Observations, prior: ShapePrior, scheme: LandmarkScheme, noise: Noise) -> Calibration:
    """Both logistic regressions, on posteriors by the noise."""
    correct, features = _fit_correct(seen, prior, scheme, noise)
    # rectangles over most of a face show which points not to trust, but real occluders look different
    labelled = (seen.visibility != UNLABELLED) & (seen.kind != len(FITTING_CONDITIONS) - 1)[:, None]
    features[..., [FEATURES.index(name) for name in OF_ERRORS]] = 0
    hidden = fit_logistic(features, seen.visibility == OCCLUDED, labelled, scheme)
    return Calibration(noise, correct, hidden, 0.5, "posterior")


def _fit_correct(seen: Observations, prior: ShapePrior, scheme: LandmarkScheme, noise: Noise) -> tuple[Logistic, Array]:
    """That points are right, and the features it was fitted on."""
    found, features = _described(seen, prior, scheme, noise)
    errors = _errors(seen, found.points, scheme)
    return fit_logistic(features, errors < CORRECT, np.isfinite(errors), scheme), features


def _described(seen: Observations, prior: ShapePrior, scheme: LandmarkScheme, noise: Noise) -> tuple[Posterior, Array]:
    """Posteriors, and ``FEATURES`` (M, L, F) of them."""
    covariance = observation_covariance(seen.points, seen.scores, seen.spread, noise, scheme)
    found = posterior(seen.points, covariance, prior)
    return found, describe(seen.points, seen.scores, seen.spread, seen.details, found, prior, scheme)


def _errors(seen: Observations, points: NDArray[np.floating], scheme: LandmarkScheme) -> Array:
    """(M, L) errors of canonical points, as a share of the face."""
    return point_errors(apply_affine(seen.to_photo, points), seen.truth) / face_scale(seen.truth, scheme)[:, None]


def _report(
    report: Callable[[str], None],
    seen: Observations,
    parts: Sequence[Calibration],
    prior: ShapePrior,
    dictionary: ShapeDictionary,
    scheme: LandmarkScheme,
) -> tuple[Stage3, float]:
    """Print what each fit makes of the faces that it left out; the better stage 3, and a threshold of flags."""
    rebuilt, _ = reconstruct(seen.points, seen.scores, dictionary, Reconstruction())
    refined, scores, hidden = seen.points.copy(), seen.scores.copy(), np.zeros_like(seen.scores)
    for fold, fitted in enumerate(parts):
        rows = seen.fold == fold
        left = seen.take(rows)
        confidence = fitted.predict(left.points, left.scores, left.spread, left.details, prior, scheme)
        refined[rows], scores[rows], hidden[rows] = confidence

    errors = {
        name: _errors(seen, points, scheme)
        for name, points in (("none", seen.points), ("exemplars", rebuilt), ("posterior", refined))
    }
    labelled, occluded = seen.visibility != UNLABELLED, seen.visibility == OCCLUDED
    for condition, title in enumerate(FITTING_CONDITIONS):
        rows = seen.kind == condition
        report(f"\nheld-out faces {title}; errors in % of the inter-ocular distance, or of the box in profiles")
        report("stage 3         all  visible   hidden")
        for name, found in errors.items():
            groups = (np.isfinite(found), labelled & ~occluded, labelled & occluded)
            means = [100 * found[group & rows[:, None]].mean() for group in groups if (group & rows[:, None]).any()]
            report(f"{name:10s}" + "".join(f"{mean:9.3f}" for mean in means))
        known, labelled_here = np.isfinite(errors["none"]) & rows[:, None], labelled & rows[:, None]
        for name, stated, uncertainty, found in (
            ("Eq. 9", seen.scores, 1 - seen.scores, errors["none"]),
            ("calibrated", scores, hidden, errors["posterior"]),
        ):
            ece = occlusion.reliability(stated[known], found[known] < CORRECT).expected_calibration_error
            line = f"{name}: calibration error {100 * ece:.2f} %"
            if occluded[labelled_here].any():
                pair = uncertainty[labelled_here], occluded[labelled_here]
                recall, _ = occlusion.recall_at_precision(*pair, PRECISION)
                line += f"; hidden points: average precision {100 * occlusion.average_precision(*pair):.1f} %, "
                line += f"recall {100 * recall:.1f} % at {100 * PRECISION:g} % (base rate {100 * pair[1].mean():.1f} %)"
            report(line)

    # The flags' precision as the probabilities promise it: what labels say of the few surest points is mostly chance.
    unperturbed = seen.kind == 0
    natural = labelled & unperturbed[:, None] if occluded[unperturbed].any() else labelled
    ranked = np.sort(hidden[natural])[::-1]
    promised = np.flatnonzero(np.cumsum(ranked) >= PRECISION * np.arange(1, len(ranked) + 1))
    threshold = float(ranked[promised[-1]]) if len(promised) else 0.5
    good = seen.kind < FAIR
    better = np.nanmean(errors["posterior"][good]) <= np.nanmean(errors["exemplars"][good])
    return "posterior" if better else "exemplars", threshold


def _report_left_out(
    report: Callable[[str], None], seen: Observations, prior: ShapePrior, scheme: LandmarkScheme, noise: Noise
) -> None:
    """Print how honest scores are on a data set that the fit knew nothing of, each set in turn."""
    sources = np.unique(seen.source)
    if len(sources) < 2:
        return
    report("\neach set left out of the fit in turn, its faces as they are and behind painted occluders")
    report("set          faces  calibration error")
    for source in sources:
        own = seen.source == source
        correct, _ = _fit_correct(seen.take(~own), prior, scheme, noise)
        line = f"{source:12s} {(own & (seen.kind == 0)).sum() // TIMES[0]:5d}"
        for condition in range(FAIR):
            left = seen.take(own & (seen.kind == condition))
            found, features = _described(left, prior, scheme, noise)
            errors = _errors(left, found.points, scheme)
            known = np.isfinite(errors)
            ece = occlusion.reliability(correct(features)[known], errors[known] < CORRECT).expected_calibration_error
            line += f"{100 * ece:9.2f} %"
        report(line)
