"""Stage 3 alone, on true shapes whose hidden points are known: each reading of Section III-C, and a Gaussian prior."""

from __future__ import annotations

import numpy as np

from facemsm.evaluation.metrics import point_errors
from facemsm.geometry import Matrix, apply_affine, canonical_matrix, similarity
from facemsm.reproduce.outputs import SIZE
from facemsm.reproduce.render import Block, ours, table, text
from facemsm.reproduce.tables import Sets, published_predictions
from facemsm.reproduce.workspace import Workspace
from facemsm.schemes import OCCLUDED, get_scheme
from facemsm.shapes.dictionary import ShapeDictionary
from facemsm.shapes.posterior import ShapePrior, posterior
from facemsm.shapes.reconstruction import Reconstruction, reconstruct
from facemsm.typing import Array, BoolArray

MOVED = (10.0, 30.0)
"""How far hidden points are moved, in any direction, px of the canonical image."""

NOISE, NOISE_PUBLISHED = 1.0, 2.0
"""Standard deviations of visible points: of the noise added to true ones, and what published ones are taken for."""

OFF = (2.0, 0.04, 3.0)
"""Standard deviations of what stage 1 leaves: shift in px, growth, turn in degrees."""

READINGS = {
    "the paper's: exemplars as they are, λ 60": Reconstruction(aligned=False),
    "exemplars aligned, λ 60": Reconstruction(),
    "exemplars aligned, λ 300": Reconstruction(ridge=300.0),
}

WEIGHED = {"Gaussian, hidden points ignored": 1e3, "Gaussian, hidden points observed with 5 px": 5.0}
"""Standard deviation of a hidden point, px."""


def readings(workspace: Workspace, there: Sets, name: str, scheme: str) -> list[Block]:  # noqa: ARG001
    """Mean error of the hidden points, px, for every reading, stage 2 and frame."""
    landmarks, rng = get_scheme(scheme), np.random.default_rng(0)
    faces = workspace.every(*there[0])
    photo = np.stack([face.points for face in faces]).astype(np.float64)
    hidden = np.stack([face.visibility == OCCLUDED for face in faces])
    to_canonical = canonical_matrix(photo, landmarks, SIZE)
    perfect = apply_affine(to_canonical, photo)
    off = _off(len(faces), rng)

    direction, far = rng.uniform(0, 2 * np.pi, hidden.shape), rng.uniform(*MOVED, hidden.shape)
    moved = np.stack((far * np.cos(direction), far * np.sin(direction)), axis=-1)
    located = {
        "moved": (perfect + np.where(hidden[..., None], moved, rng.normal(0, NOISE, moved.shape)), NOISE),
        **{
            file.partition("_")[0]: (apply_affine(to_canonical, points), NOISE_PUBLISHED)
            for file, (_, points) in published_predictions(workspace).items()
        },
    }
    dictionary, prior = workspace.dictionary(scheme), workspace.prior(scheme)
    columns = {}
    for stage2, (points, noise) in located.items():
        for frame, matrix in (("perfect stage 1", None), ("stage 1 off", off)):
            shown, truth = (p if matrix is None else apply_affine(matrix, p) for p in (points, perfect))
            found = {"no stage 3": shown, **rebuilt(shown, hidden, noise, dictionary, prior)}
            columns[f"{stage2}, {frame}"] = {
                reading: float(point_errors(after, truth)[hidden].mean()) for reading, after in found.items()
            }
    rows = [[reading, *(ours(column[reading]) for column in columns.values())] for reading in found]
    shift, growth, turn = OFF
    return [
        table(["stage 3", *columns], rows),
        text(
            f"Mean error of the {hidden.sum()} hidden points, px of the {SIZE} px canonical image; which are hidden is "
            f"known. Moved: hidden points {MOVED[0]:g} to {MOVED[1]:g} px from the truth, visible ones with a noise of "
            f"{NOISE:g} px. The others are published predictions, whose visible points the Gaussian takes to be "
            f"{NOISE_PUBLISHED:g} px off. A perfect stage 1 cuts the face by its true box, of which hidden points are "
            "a part: exemplars that keep their place are told where these must be. Stage 1 off: by "
            f"{shift:g} px, {100 * growth:g} % and {turn:g}° (standard deviations)."
        ),
    ]


def rebuilt(
    points: Array, hidden: BoolArray, noise: float, dictionary: ShapeDictionary, prior: ShapePrior | None
) -> dict[str, Array]:
    """Stage 3 by every reading.

    Args:
        points: (N, L, 2), canonical pixels.
        hidden: (N, L), the points to rebuild; all others are reliable.
        noise: standard deviation of those, px.
        dictionary, prior: of the same scheme; without a prior there are exemplars only.

    Returns:
        (N, L, 2) for each.
    """
    found: dict[str, Array] = {}
    for reading, settings in READINGS.items():
        shapes, _ = reconstruct(points.astype(np.float32), np.where(hidden, 0.0, 1.0), dictionary, settings)
        found[reading] = shapes.astype(np.float64)
    for reading, deviation in WEIGHED.items() if prior else ():
        assert prior
        covariance = np.where(hidden, deviation, noise)[..., None] ** 2 * np.array([1.0, 0.0, 1.0])
        found[reading] = posterior(points, covariance, prior).points
    return found


def _off(count: int, rng: np.random.Generator) -> Matrix:
    """(N, 2, 3): what stage 1 leaves, at random."""
    shift, growth, turn = OFF
    middle = 2 * [(SIZE - 1) / 2]
    return np.stack(
        [
            similarity(np.deg2rad(rng.normal(0, turn)), 1 + rng.normal(0, growth), rng.normal(0, shift, 2), middle)
            for _ in range(count)
        ]
    )
