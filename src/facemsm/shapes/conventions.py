"""Label conventions: where each data set's labels lie, measured from the consensus of all sets.

300-W, MERL-RAV and WFLW mean different places by the same landmark: the contour runs higher or lower, eyebrows are
drawn along their middle or their edge. Label adaptation (Wood et al., ICCV 2021) tells such habits from errors by a map
from the points that a model finds to those that a data set's annotators would have marked. Theirs is a small network;
here it is a shift in the photo and a linear function of the face's shape, the same for a face and its mirror image.
Parts of a set that were labelled apart, as 300-W's LFPW, HELEN and AFW, have conventions of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facemsm.errors import FacemsmError, short
from facemsm.files import atomic_write, read_bytes
from facemsm.geometry import Matrix, apply_affine, box_scale, fit_similarity, invert, shifted
from facemsm.schemes import LandmarkScheme
from facemsm.shapes.dictionary import FARTHEST, LARGEST_FILE
from facemsm.shapes.posterior import POSES, ShapePrior
from facemsm.typing import Array, FloatArray

RIDGE = 200.0
"""What an offset of 1 px for one standard deviation of a mode costs a fit, px²; chosen on faces held out."""

LEAST_FACES = 200
"""Of a data set, for its convention to depend on shape; with fewer it is a shift ..."""

FEWEST_FACES = 20
"""... and with fewer than these it has none."""

FARTHEST_MODE = 3.0
"""Standard deviations up to which a convention follows a mode; what lies beyond was not seen in a fit."""


@dataclass(frozen=True, eq=False)
class Convention:
    """Of one data set, or of a part of one.

    Attributes:
        shift: x and y in the photo, in shares of :func:`facemsm.geometry.box_scale`.
        prior: its mean and modes describe a face's shape; None where the convention is a shift alone.
        weights: (K + 1, L, 2) float32 canonical pixels: how far the labels lie off at the mean shape, and what a
            standard deviation of each of the K modes adds to that.
    """

    shift: tuple[float, float]
    prior: ShapePrior | None = None
    weights: FloatArray | None = None

    def to_labels(self, points: NDArray[np.floating]) -> Array:
        """Where the data set's labels would be.

        Args:
            points: (N, L, 2) photo pixels, the consensus.

        Returns:
            (N, L, 2) photo pixels.
        """
        found = np.asarray(points, float)
        if self.prior and self.weights is not None:
            to_mean, described = _describe(found, self.prior)
            linear = invert(to_mean)
            linear[..., 2] = 0
            found = found + apply_affine(linear, np.tensordot(described, self.weights, 1))
        return shifted(found, self.shift)

    def to_consensus(self, labels: NDArray[np.floating], found: NDArray[np.floating]) -> Array:
        """Labels where the consensus would have them.

        By the shape that a model found, and not by the labels' own: the noise in a label would otherwise pass for the
        habit that goes with it.

        Args:
            labels: (N, L, 2) photo pixels, NaN where unlabelled.
            found: (N, L, 2) photo pixels, what the model finds on the same faces.

        Returns:
            (N, L, 2) photo pixels, NaN where unlabelled.
        """
        return np.asarray(labels - (self.to_labels(found) - found))


def fit_conventions(
    found: NDArray[np.floating],
    labels: NDArray[np.floating],
    sets: Sequence[str],
    prior: ShapePrior,
    scheme: LandmarkScheme,
) -> dict[str, Convention]:
    """Learn conventions from what a model finds on the training faces of data sets.

    What the labels of all sets have in common, seen from the points found, is the model's own error and no convention;
    but for a shift in x, which a model that learned from mirrored photos cannot have.

    Args:
        found: (N, L, 2) photo pixels, points of the model.
        labels: (N, L, 2) photo pixels, NaN where unlabelled.
        sets: names of the N faces' data sets, with the part where a set has any: ``300w/lfpw``.
        prior: describes their shapes.
        scheme: of the landmarks.

    Returns:
        A convention for each set and each part with ``FEWEST_FACES`` or more. What a part's faces do not say is as in
        its set.
    """
    found, labels = np.asarray(found, float), np.asarray(labels, float)
    whole = [name.partition("/")[0] for name in sets]
    fitted = _fit_sets(found, labels, whole, prior, scheme)
    for name in dict.fromkeys(sets):
        own = np.array(sets, object) == name
        if name in whole or own.sum() < FEWEST_FACES:
            continue
        convention = fitted[name.partition("/")[0]]
        rest = convention.to_consensus(labels[own], found[own])
        x, y = np.nanmean(np.nanmean(rest - found[own], axis=1) / box_scale(found[own])[:, None], axis=0).tolist()
        weights = convention.weights
        if weights is not None and own.sum() >= LEAST_FACES:
            weights = weights + _regress(found[own], shifted(rest, (-x, -y)), prior, scheme)
        fitted[name] = Convention((convention.shift[0] + x, convention.shift[1] + y), convention.prior, weights)
    return fitted


def known_as(name: str, known: Collection[str]) -> str | None:
    """The name itself or, for a part that is not known, that of its data set; None if neither is known."""
    return next((one for one in (name, name.partition("/")[0]) if one in known), None)


def _fit_sets(
    found: NDArray[np.floating],
    labels: NDArray[np.floating],
    sets: Sequence[str],
    prior: ShapePrior,
    scheme: LandmarkScheme,
) -> dict[str, Convention]:
    """Conventions of data sets with ``FEWEST_FACES`` or more."""
    names = np.array(sets, object)
    known = [name for name in dict.fromkeys(sets) if (names == name).sum() >= FEWEST_FACES]
    if not known:
        return {}
    offsets = np.nanmean(labels - found, axis=1) / box_scale(found)[:, None]
    offsets[:, 1] -= np.nanmean(offsets[np.isin(names, known), 1])
    centred, shifts = labels.copy(), {}
    for name in known:
        x, y = np.nanmean(offsets[names == name], axis=0).tolist()
        shifts[name] = (x, y)
        centred[names == name] = shifted(labels[names == name], (-x, -y))
    fitted = {name: Convention(shift) for name, shift in shifts.items()}
    many = [name for name in known if (names == name).sum() >= LEAST_FACES]
    common = _regress(found, centred, prior, scheme) if many else 0.0
    for name in many:
        weights = _regress(found[names == name], centred[names == name], prior, scheme) - common
        fitted[name] = Convention(shifts[name], prior, weights)
    return fitted


def _regress(
    found: NDArray[np.floating], labels: NDArray[np.floating], prior: ShapePrior, scheme: LandmarkScheme
) -> FloatArray:
    """Weights (K + 1, L, 2) from faces and their mirror images, landmark by landmark, by ridge regression."""
    to_mean, described = _describe(found, prior)
    offsets = apply_affine(to_mean, labels) - apply_affine(to_mean, found)
    mirrored = _describe((found * [-1, 1])[:, scheme.flip], prior)[1]
    described = np.concatenate((described, mirrored))
    offsets = np.concatenate((offsets, (offsets * [-1, 1])[:, scheme.flip]))
    penalty = RIDGE * np.eye(described.shape[1])
    penalty[0, 0] = 0
    weights = np.zeros((described.shape[1], scheme.count, 2), np.float32)
    for landmark in range(scheme.count):
        known = np.isfinite(offsets[:, landmark]).all(-1)
        if known.any():
            rows = described[known]
            weights[:, landmark] = np.linalg.solve(rows.T @ rows + penalty, rows.T @ offsets[known, landmark])
    return weights


def _describe(points: NDArray[np.floating], prior: ShapePrior) -> tuple[Matrix, Array]:
    """Shapes (N, L, 2) by the modes of a prior, without those of pose.

    Returns:
        (N, 2, 3), the similarity that takes each face to the mean shape; (N, K + 1), a 1 and how many standard
        deviations of each mode the face shows.
    """
    mean, modes, residual = prior.exact
    basis = modes[..., :-POSES].reshape(mean.size, -1)
    weighed = basis / np.repeat(residual, 2)[:, None]
    to_mean = fit_similarity(points, np.broadcast_to(mean, points.shape))
    offsets = (apply_affine(to_mean, points) - mean).reshape(len(points), mean.size)
    found = np.linalg.solve(weighed.T @ basis + np.eye(basis.shape[1]), (offsets @ weighed).T).T
    return to_mean, np.insert(np.clip(found, -FARTHEST_MODE, FARTHEST_MODE), 0, 1.0, axis=1)


def save_conventions(path: Path, conventions: Mapping[str, Convention]) -> bool:
    """Write the weights of those that have any, as a safetensors file by the sets' names.

    Returns:
        Whether any has; if none, there is no file.

    Raises:
        FacemsmError: it cannot be written.
    """
    from safetensors.numpy import save

    weights = {name: one.weights for name, one in conventions.items() if one.weights is not None}
    if not weights:
        path.unlink(missing_ok=True)
        return False
    with atomic_write(path) as partial:
        partial.write_bytes(save(weights))
    return True


def load_conventions(path: Path, prior: ShapePrior) -> dict[str, FloatArray]:
    """Read what :func:`save_conventions` wrote.

    Raises:
        FacemsmError: it cannot be read, is something else, or goes with another prior.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = read_bytes(path, LARGEST_FILE)
    try:
        weights = {name: np.asarray(tensor, np.float32) for name, tensor in load(content).items()}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise FacemsmError(f"{path}: not a file of conventions, or a damaged one ({type(error).__name__})") from error
    shape = (prior.modes.shape[-1] - POSES + 1, *prior.mean.shape)
    for name, tensor in weights.items():
        if tensor.shape != shape or not (np.abs(tensor) < FARTHEST).all():  # NaN is not below either
            raise FacemsmError(f"{path}: {short(name)} does not go with the model; calibrate the model again")
    return weights
