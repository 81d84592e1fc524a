"""What stage 2 saw, turned into probabilities: that a point is right, and that something hides it.

Two logistic regressions on what heatmaps, neighbours and the shape say of a point. Everything is fitted on faces that
no stage was trained on, by ``facemsm calibrate``; the numbers live in ``model.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from facemsm.data.sample import VISIBLE
from facemsm.errors import FacemsmError
from facemsm.evaluation.metrics import normaliser
from facemsm.geometry import apply_affine, invert
from facemsm.schemes import LandmarkScheme
from facemsm.shapes.posterior import Noise, Posterior, ShapePrior, head_turn, observation_covariance, posterior
from facemsm.typing import BoolArray, FloatArray, Image

Array = NDArray[np.float64]
Method = Literal["exemplars", "posterior"]

CORRECT = 0.05
"""A point is right below this error, as a share of :func:`face_scale`."""

FEATURES = (
    *("doubt", "doubt²", "doubt near", "doubt around", "doubt × near", "doubt of the face"),
    *("spread", "spread near", "variance", "moved", "surprise", "turned", "turned²", "profile"),
    *("fine detail", "coarse detail", "fine detail²", "coarse detail²", "doubt of the face²", "doubt of an eye"),
)
OF_ERRORS = (
    *("turned", "turned²", "profile", "fine detail²", "coarse detail²", "doubt of the face²", "doubt of an eye"),
)
"""``FEATURES`` that tell how large errors are. Whether something hides a point is told without them: they are the same
all over a face, and what a few faces have in common would pass for a sign of it."""

_NEAR, _AROUND = 8.0, 20.0  # px between points of the mean shape, that count as neighbours
_PROFILE = 0.7  # head_turn from which an eye corner is hidden, mostly
_EMPTY_SPREAD = 0.1  # px²
_FLAT = 0.01  # grey levels, of an image without any detail


def face_scale(points: NDArray[np.floating], scheme: LandmarkScheme) -> Array:
    """(N,) px, what errors are compared with: the inter-ocular distance, and the root of the tight box's area where an
    eye corner is unlabelled, as in profiles. Points are (N, L, 2), NaN where unlabelled."""
    eyes = normaliser(points, scheme, "inter-ocular")
    return np.where(np.isfinite(eyes), eyes, normaliser(points, scheme, "box"))


class Judgement(NamedTuple):
    """What is thought of stage 2's points.

    Attributes:
        points: (M, L, 2) float32 canonical pixels, the posterior's.
        scores: (M, L) float32, probability that a point is right.
        occlusion: (M, L) float32, probability that it is hidden.
    """

    points: FloatArray
    scores: FloatArray
    occlusion: FloatArray


@dataclass(frozen=True, eq=False)
class Logistic:
    """A logistic regression on ``FEATURES``.

    Attributes:
        weights: (F,).
        landmarks: (L,) a bias for each landmark.
    """

    weights: Array
    landmarks: Array

    def __call__(self, features: Array) -> FloatArray:
        """Probabilities (M, L) of features (M, L, F)."""
        logit = features @ self.weights + self.landmarks
        return np.asarray(1 / (1 + np.exp(-np.clip(logit, -30, 30))), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Fitted numbers of one model.

    Attributes:
        noise: a, b and c of :func:`facemsm.shapes.posterior.observation_covariance`.
        correct: that a point is right: nearer to the truth than ``CORRECT`` of :func:`face_scale`.
        hidden: that something is in front of it.
        threshold: probability of ``hidden`` from which a point is flagged as occluded.
        method: the form of stage 3 that errs less on the held-out faces.
    """

    noise: Noise
    correct: Logistic
    hidden: Logistic
    threshold: float
    method: Method

    def judge(
        self,
        points: NDArray[np.floating],
        scores: NDArray[np.floating],
        spread: NDArray[np.floating],
        details: Array,
        prior: ShapePrior,
        scheme: LandmarkScheme,
    ) -> Judgement:
        """Posterior shapes and probabilities.

        Args:
            points: (M, L, 2) of stage 2, canonical pixels.
            scores: (M, L) relative to a perfect heatmap.
            spread: (M, L, 3) of the heatmaps.
            details: (M, 2) of the canonical images, see :func:`detail`.
            prior: of the same model.
            scheme: of the same model.
        """
        found = posterior(points, observation_covariance(points, scores, spread, self.noise, scheme), prior)
        features = describe(points, scores, spread, details, found, prior, scheme)
        return Judgement(found.points.astype(np.float32), self.correct(features), self.hidden(features))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``model.json``."""

        def plain(model: Logistic) -> dict[str, Any]:
            return {
                "weights": {name: _short(w) for name, w in zip(FEATURES, model.weights, strict=True)},
                "landmarks": [_short(b) for b in model.landmarks],
            }

        return {
            "method": self.method,
            "noise": [_short(value) for value in self.noise],
            "threshold": _short(self.threshold),
            "correct": plain(self.correct),
            "hidden": plain(self.hidden),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], count: int) -> Calibration:
        """The inverse of :meth:`to_dict`, for ``count`` landmarks.

        Raises:
            FacemsmError: a field is missing or of the wrong kind.
        """

        def logistic(name: str) -> Logistic:
            named = fields[name]["weights"]
            if not set(named) <= set(FEATURES):
                raise ValueError(f"{name} has unknown features")
            # a feature that came after the model was calibrated has no weight
            weights = np.array([named.get(feature, 0.0) for feature in FEATURES], np.float64)
            landmarks = np.array(fields[name]["landmarks"], np.float64)
            if landmarks.shape != (count,) or not np.isfinite(np.concatenate((weights, landmarks))).all():
                raise ValueError(f"{name} is not {count} finite numbers")
            return Logistic(weights, landmarks)

        try:
            a, b, c = (float(value) for value in fields["noise"])
            method = fields["method"]
            if method not in ("exemplars", "posterior"):
                raise ValueError(f"method is {method!r}")
            return cls((a, b, c), logistic("correct"), logistic("hidden"), float(fields["threshold"]), method)
        except (KeyError, TypeError, ValueError) as error:
            raise FacemsmError(
                f"calibration: {type(error).__name__}: {error}; run 'facemsm calibrate' on the model again"
            ) from error


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def detail(faces: Image) -> Array:
    """(M, 2) how much fine and coarse detail canonical images (M, S, S, 3) show: little in blurred or tiny photos.

    Logs of the mean difference, in grey levels, between an image and its half, and between that and its half.
    """
    return np.log(np.maximum([_lost(image) for image in faces], _FLAT)).reshape(-1, 2)


def _lost(image: Image) -> tuple[float, float]:
    whole = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    half, quarter = (cv2.resize(whole, None, fx=f, fy=f, interpolation=cv2.INTER_AREA) for f in (0.5, 0.25))
    pairs = ((whole, half), (half, quarter))
    fine, coarse = (cv2.norm(a, cv2.resize(b, (a.shape[1], a.shape[0])), cv2.NORM_L1) / a.size for a, b in pairs)
    return fine, coarse


def describe(
    points: NDArray[np.floating],
    scores: NDArray[np.floating],
    spread: NDArray[np.floating],
    details: Array,
    found: Posterior,
    prior: ShapePrior,
    scheme: LandmarkScheme,
) -> Array:
    """``FEATURES`` (M, L, F) of points; arguments as for :meth:`Calibration.judge`, and the posterior."""
    doubt = 1 - scores.astype(np.float64)
    width = np.log(np.maximum(spread[..., 0] + spread[..., 2], _EMPTY_SPREAD)) / 2
    near, around = _neighbours(prior, _NEAR), _neighbours(prior, _AROUND)
    doubt_near = _averaged(near, doubt)
    turned = head_turn(found.points, scheme)[:, None]
    features = (
        *(doubt, doubt**2, doubt_near, _averaged(around, doubt), doubt * doubt_near, doubt.mean(1)[:, None]),
        *(width, _averaged(near, width), np.log(found.variance) / 2),
        np.log1p(np.linalg.norm(found.points - points, axis=-1)),
        np.log1p(found.surprise),
        *(turned, turned**2, 1 / (1 + np.exp((_PROFILE - turned) / 0.05))),  # where errors are compared with the box
        *details.T[..., None],
        *details.T[..., None] ** 2,
        doubt.mean(1)[:, None] ** 2,
        np.maximum(*(doubt[:, list(eye)].mean(1) for eye in (scheme.right_eye, scheme.left_eye)))[:, None],
    )
    table = np.empty((*doubt.shape, len(features)))
    for column, feature in enumerate(features):
        table[..., column] = feature
    return table


@lru_cache(8)
def _neighbours(prior: ShapePrior, reach: float) -> Array:
    """(L, L) rows of shares that add up to 1, falling with the distance in the mean shape; none for a point itself."""
    mean = prior.mean.astype(np.float64)
    distance = np.linalg.norm(mean[:, None] - mean, axis=-1)
    shares = np.exp(-0.5 * (distance / reach) ** 2)
    np.fill_diagonal(shares, 1e-12)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _averaged(shares: Array, values: Array) -> Array:
    # one product a face: that of all faces would be rounded differently for different numbers of faces
    return np.asarray((shares @ values[..., None])[..., 0])


# --- Fitting ---------------------------------------------------------------------------------------------------------


LOOKS = ("as they are", "behind painted occluders", "in poor photos", "mostly covered")
"""How faces are looked at."""

HARM = 5.0
"""How much more a loss at visible points counts than a gain anywhere, when the noise is fitted."""

FOLDS = 5
"""Parts of the faces; each is judged by what was fitted on the others."""


@dataclass(frozen=True, eq=False)
class Observations:
    """What stages 1 and 2 made of M faces with known truth; the same face may be there several times.

    Attributes:
        points, scores, spread, details: as for :meth:`Calibration.judge`.
        to_photo: (M, 2, 3), canonical to photo pixels.
        truth: (M, L, 2) photo pixels, NaN where unlabelled.
        visibility: (M, L) int8, as in ``FaceSample``.
        kind: (M,) of ``LOOKS``.
        fold: (M,) from 0 to ``FOLDS`` - 1, the same for all observations of a face.
    """

    points: FloatArray
    scores: FloatArray
    spread: FloatArray
    details: Array
    to_photo: Array
    truth: FloatArray
    visibility: NDArray[np.int8]
    kind: NDArray[np.int64]
    fold: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.points)

    def take(self, which: NDArray[Any]) -> Observations:
        """Some of them, by mask or index."""
        return Observations(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def fit_noise(seen: Observations, prior: ShapePrior, scheme: LandmarkScheme) -> Noise:
    """The noise whose posterior comes nearest to the truth, in canonical pixels. Needs SciPy.

    Points that are there to be seen are not to become worse: what they lose counts ``HARM`` times.
    """
    from scipy.optimize import minimize

    truth = apply_affine(invert(seen.to_photo), seen.truth)
    before = np.linalg.norm(seen.points - truth, axis=-1)
    clear = (seen.visibility == VISIBLE) & np.isfinite(before)

    def error(noise: Array) -> float:
        a, b, c = noise.tolist()
        covariance = observation_covariance(seen.points, seen.scores, seen.spread, (a, b, c), scheme)
        off = np.linalg.norm(posterior(seen.points, covariance, prior).points - truth, axis=-1)
        harm = float((off - before)[clear].mean()) if clear.any() else 0.0
        return float(np.nanmean(off)) + HARM * max(harm, 0.0)

    corners = np.array([(-4.5, 8.0, 6.0), (-3.5, 8.0, 6.0), (-4.5, 11.0, 6.0), (-4.5, 8.0, 12.0)])
    limits = [(-12.0, 6.0), (0.0, 30.0), (0.0, 30.0)]
    best = minimize(
        error,
        corners[0],
        method="Nelder-Mead",
        bounds=limits,
        options={"initial_simplex": corners, "maxfev": 70, "xatol": 0.05, "fatol": 1e-4},
    )
    a, b, c = best.x.tolist()
    return a, b, c


def fit_logistic(features: Array, right: BoolArray, known: BoolArray, scheme: LandmarkScheme) -> Logistic:
    """Logistic regression with shrunken weights, and biases that mirrored landmarks share, by Newton's method.

    Args:
        features: (M, L, F).
        right: (M, L) what is to be predicted.
        known: (M, L) where that is known.
        scheme: which landmarks are each other's mirror images.
    """
    _, group = np.unique(np.minimum(np.arange(scheme.count), scheme.flip), return_inverse=True)
    groups, count = group.max() + 1, features.shape[-1]
    x, y = features[known], right[known].astype(np.float64)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    deviation[deviation < 1e-6] = 1.0  # a feature that is always the same: the ridge keeps its weight at 0
    bias = np.eye(groups)[np.broadcast_to(group, known.shape)[known]]
    design = np.concatenate((np.ones((len(x), 1)), (x - mean) / deviation, bias), axis=1)
    ridge = np.concatenate(([1e-3], np.full(count, 1.0), np.full(groups, 20.0)))
    theta = np.zeros(design.shape[1])
    for _ in range(10):
        p = 1 / (1 + np.exp(-np.clip(design @ theta, -30, 30)))
        gradient = design.T @ (y - p) - ridge * theta
        curvature = (design * (p * (1 - p))[:, None]).T @ design + np.diag(ridge)
        theta = theta + np.linalg.solve(curvature, gradient)
    weights = theta[1 : 1 + count] / deviation
    return Logistic(weights, theta[0] - weights @ mean + theta[1 + count :][group])
