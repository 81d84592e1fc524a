"""``facemsm calibrate``: fit what a model says about its points, on faces that it was not trained on."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facemsm.typing import Array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from facemsm.aligner import Aligner
    from facemsm.confidence.fitting import Observations
    from facemsm.confidence.model import Calibration, Method
    from facemsm.data.sample import FaceSample
    from facemsm.schemes import LandmarkScheme
    from facemsm.shapes.dictionary import ShapeDictionary
    from facemsm.shapes.posterior import Noise, ShapePrior

app = typer.Typer(add_completion=False)

TIMES = (8, 3, 3, 1)
"""How often a held-out face is looked at in each of ``LOOKS``; all but once with a perturbed box."""

FAIR = 2
"""Of ``LOOKS``, those whose points are fair to ask for: the others teach what not to trust."""

FITTED = 1200
"""Looks at faces that the noise is fitted on, for speed."""

KINDS = ("mask", "hand", "glasses", "patch", "hair")
PRECISION = 0.8
"""Of the points that are flagged as occluded, so many are to be."""


@app.command()
def calibrate(
    model: Annotated[Path, typer.Argument(help="Model folder; its model.json is rewritten.")],
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            metavar="NAME=ROOT:SPLIT",
            help="The faces that the model was trained on; may be given several times. Stage 3's shapes are learned "
            "from those it saw, everything else from those held out.",
        ),
    ],
    exclude: Annotated[list[str] | None, typer.Option(help="Name of a face to leave out; may be repeated.")] = None,
    complete: Annotated[
        str | None,
        typer.Option(metavar="NAME=ROOT:SPLIT", help="As in training, for scheme 98: where faces get 98 points from."),
    ] = None,
    holdout: Annotated[float, typer.Option(min=0.01, max=0.9, help="Fraction held out in training.")] = 0.1,
) -> None:
    """Fit stage 3's posterior, the probabilities that points are right, and those that they are hidden.

    Faces that training held out are looked at several times, with spoilt boxes and behind painted occluders. In the
    printed figures every fifth of them is judged by what was fitted on the others; but for the three numbers of the
    noise, which are fitted on all. Needs the extra 'train'.
    """
    from dataclasses import replace

    import numpy as np

    from facemsm.aligner import Aligner
    from facemsm.confidence.fitting import FOLDS, fit_noise
    from facemsm.data.sources import Source
    from facemsm.errors import FacemsmError
    from facemsm.geometry import apply_affine, canonical_matrix
    from facemsm.runtime.model import DICTIONARY, PRIOR, write_calibration
    from facemsm.shapes.dictionary import ShapeDictionary
    from facemsm.shapes.posterior import learn_prior
    from facemsm.training.faces import load_faces

    aligner = Aligner.from_pretrained(model, stages=(1, 2))
    scheme, size = aligner.scheme, aligner.model.codec.input_size
    faces = load_faces(
        [Source.parse(text) for text in data],
        box_source="provided",
        scheme=scheme.name,
        holdout=holdout,
        exclude=exclude or [],
        complete=Source.parse(complete) if complete else None,
    )
    if len(faces.validation) < 20:
        raise FacemsmError(f"only {len(faces.validation)} faces are held out, at least 20 are needed: give more --data")
    dictionary = ShapeDictionary.load(aligner.model.path(DICTIONARY))
    shapes = np.stack([face.points for face in faces.training]).astype(np.float64)
    shapes = apply_affine(canonical_matrix(shapes, scheme, size), shapes)
    prior = learn_prior(np.concatenate((shapes, dictionary.shapes)), scheme, size=size)
    typer.echo(f"prior over shapes: {len(shapes)} training faces and {len(dictionary.shapes)} exemplars")

    seen = _observe(aligner, faces.validation)
    typer.echo(f"{len(faces.validation)} faces held out, looked at {sum(TIMES)} times each")
    good = np.flatnonzero(seen.kind < FAIR)
    noise = fit_noise(seen.take(good[np.linspace(0, len(good) - 1, min(len(good), FITTED)).astype(int)]), prior, scheme)
    typer.echo(f"log of noise: {noise[0]:.2f} {noise[1]:+.2f} (1 - score) {-noise[2]:+.2f} turn")
    parts = [_fit(seen.take(seen.fold != fold), prior, scheme, noise) for fold in range(FOLDS)]
    method, threshold = _report(seen, parts, prior, dictionary, scheme)
    fitted = replace(_fit(seen, prior, scheme, noise), method=method, threshold=threshold)
    folder = aligner.model.folder
    prior.save(folder / PRIOR)
    write_calibration(folder, fitted)
    typer.echo(f"\nstage 3 by {method}, occluded from a probability of {threshold:.3f}; calibrated: {folder}")


def _observe(aligner: Aligner, faces: Sequence[FaceSample]) -> Observations:
    """Stages 1 and 2 on every face, as often as ``TIMES`` says.

    Where some data set says which points are hidden, only its faces teach that: elsewhere hidden points pass for seen.
    """
    import numpy as np

    from facemsm.confidence.fitting import FOLDS, Observations
    from facemsm.confidence.model import detail
    from facemsm.evaluation.conditions import Perturbation, in_poor_photo, mostly_covered, painted
    from facemsm.geometry import compose, invert, similarity
    from facemsm.schemes import UNLABELLED

    ways: tuple[Callable[[FaceSample, int], FaceSample], ...] = (  # in the order of LOOKS
        lambda face, _: face,
        lambda face, seed: painted(face, aligner.scheme, KINDS, seed),
        in_poor_photo,
        mostly_covered,
    )

    def looks() -> Iterator[tuple[FaceSample, int, Perturbation | None]]:
        for seed, kind in enumerate(np.repeat(np.arange(len(TIMES)), TIMES).tolist()):
            spoil = Perturbation(0.08, 0.12, 15, seed) if seed else None
            for face in faces:
                yield ways[kind](face, seed), kind, spoil

    marked = {face.name for face in faces if face.visibility is not None} or {face.name for face in faces}
    rows = []
    for face, kind, spoil in looks():
        image, box, turned = face.load(), face.box, similarity()
        if spoil:
            image, box, turned = spoil.apply(image, box, face.name)
        found = aligner.observe(image, box[None])
        visibility = face.visibility if face.name in marked else None
        if visibility is None:
            visibility = np.full(len(face.points), UNLABELLED, np.int8)
        fold = zlib.crc32(face.name.encode()) % FOLDS
        row = (found.points[0], found.scores[0], found.spread[0], detail(found.canonical)[0])
        rows.append((*row, compose(invert(turned), found.to_photo[0]), face.points, visibility, kind, fold))
    return Observations(*(np.array(column) for column in zip(*rows, strict=True)))


def _fit(seen: Observations, prior: ShapePrior, scheme: LandmarkScheme, noise: Noise) -> Calibration:
    import numpy as np

    from facemsm.confidence.fitting import LOOKS, fit_logistic
    from facemsm.confidence.model import CORRECT, FEATURES, OF_ERRORS, Calibration, describe
    from facemsm.schemes import OCCLUDED, UNLABELLED
    from facemsm.shapes.posterior import observation_covariance, posterior

    covariance = observation_covariance(seen.points, seen.scores, seen.spread, noise, scheme)
    found = posterior(seen.points, covariance, prior)
    features = describe(seen.points, seen.scores, seen.spread, seen.details, found, prior, scheme)
    errors = _errors(seen, found.points, scheme)
    correct = fit_logistic(features, errors < CORRECT, np.isfinite(errors), scheme)
    # rectangles over most of a face teach what not to trust, but not how a face looks behind a thing of life
    told = (seen.visibility != UNLABELLED) & (seen.kind != len(LOOKS) - 1)[:, None]
    features[..., [FEATURES.index(name) for name in OF_ERRORS]] = 0
    hidden = fit_logistic(features, seen.visibility == OCCLUDED, told, scheme)
    return Calibration(noise, correct, hidden, 0.5, "posterior")


def _errors(seen: Observations, points: NDArray[np.floating], scheme: LandmarkScheme) -> Array:
    """(M, L) errors of canonical points, as a share of the face."""
    from facemsm.evaluation.metrics import point_errors
    from facemsm.geometry import apply_affine, face_scale

    return point_errors(apply_affine(seen.to_photo, points), seen.truth) / face_scale(seen.truth, scheme)[:, None]


def _report(
    seen: Observations,
    parts: Sequence[Calibration],
    prior: ShapePrior,
    dictionary: ShapeDictionary,
    scheme: LandmarkScheme,
) -> tuple[Method, float]:
    """Print what each fit makes of the faces that it left out; the better stage 3, and a threshold of flags."""
    import numpy as np

    from facemsm.confidence.fitting import LOOKS
    from facemsm.confidence.model import CORRECT
    from facemsm.evaluation import occlusion
    from facemsm.schemes import OCCLUDED, UNLABELLED
    from facemsm.shapes.reconstruction import Reconstruction, reconstruct

    rebuilt, _ = reconstruct(seen.points, seen.scores, dictionary, Reconstruction())
    judged, scores, hidden = seen.points.copy(), seen.scores.copy(), np.zeros_like(seen.scores)
    for fold, fitted in enumerate(parts):
        rows = seen.fold == fold
        left = seen.take(rows)
        judgement = fitted.judge(left.points, left.scores, left.spread, left.details, prior, scheme)
        judged[rows], scores[rows], hidden[rows] = judgement

    errors = {
        name: _errors(seen, points, scheme)
        for name, points in (("none", seen.points), ("exemplars", rebuilt), ("posterior", judged))
    }
    told, truly = seen.visibility != UNLABELLED, seen.visibility == OCCLUDED
    for look, title in enumerate(LOOKS):
        rows = seen.kind == look
        typer.echo(f"\nheld-out faces {title}; errors in % of the inter-ocular distance, or of the box in profiles")
        typer.echo("stage 3         all  visible   hidden")
        for name, found in errors.items():
            groups = (np.isfinite(found), told & ~truly, told & truly)
            means = [100 * found[group & rows[:, None]].mean() for group in groups if (group & rows[:, None]).any()]
            typer.echo(f"{name:10s}" + "".join(f"{mean:9.3f}" for mean in means))
        known, told_here = np.isfinite(errors["none"]) & rows[:, None], told & rows[:, None]
        for name, stated, doubts, found in (
            ("Eq. 9", seen.scores, 1 - seen.scores, errors["none"]),
            ("calibrated", scores, hidden, errors["posterior"]),
        ):
            ece = occlusion.reliability(stated[known], found[known] < CORRECT).expected_calibration_error
            line = f"{name}: calibration error {100 * ece:.2f} %"
            if truly[told_here].any():
                pair = doubts[told_here], truly[told_here]
                recall, _ = occlusion.recall_at_precision(*pair, PRECISION)
                line += f"; hidden points: average precision {100 * occlusion.average_precision(*pair):.1f} %, "
                line += f"recall {100 * recall:.1f} % at {100 * PRECISION:g} % (base rate {100 * pair[1].mean():.1f} %)"
            typer.echo(line)

    # The flags' precision as the probabilities promise it: what labels say of the few surest points is mostly chance.
    plain = seen.kind == 0
    natural = told & plain[:, None] if truly[plain].any() else told
    ranked = np.sort(hidden[natural])[::-1]
    promised = np.flatnonzero(np.cumsum(ranked) >= PRECISION * np.arange(1, len(ranked) + 1))
    threshold = float(ranked[promised[-1]]) if len(promised) else 0.5
    good = seen.kind < FAIR
    better = np.nanmean(errors["posterior"][good]) <= np.nanmean(errors["exemplars"][good])
    return "posterior" if better else "exemplars", threshold
