"""Confidence: the probabilities that a point is right and that it is occluded, from what stage 2 found.

Two logistic regressions on what heatmaps, neighbours and the shape say of a point. Everything is fitted on faces that
no stage was trained on, by ``facemsm calibrate``; the numbers live in ``model.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from facemsm.errors import FacemsmError, check_number, short
from facemsm.schemes import LandmarkScheme
from facemsm.shapes.posterior import Noise, Posterior, ShapePrior, observation_covariance, posterior, yaw_proxy
from facemsm.typing import Array, FloatArray, Image

Stage3 = Literal["exemplars", "posterior"]

CORRECT = 0.05
"""A point is right below this error, as a share of :func:`face_scale`."""

FEATURES = (
    *("uncertainty", "uncertainty²", "uncertainty near", "uncertainty around", "uncertainty × near"),
    *("uncertainty of the face", "spread", "spread near", "variance", "moved", "mahalanobis"),
    *("turned", "turned²", "profile", "fine detail", "coarse detail", "fine detail²", "coarse detail²"),
    *("uncertainty of the face²", "uncertainty of an eye"),
)
OF_ERRORS = (
    *("turned", "turned²", "profile", "fine detail²", "coarse detail²"),
    *("uncertainty of the face²", "uncertainty of an eye"),
)
"""``FEATURES`` of the size of errors only. Occlusion is predicted without them: they are the same for all points of a
face, and with few faces to fit on, properties of single faces would be taken for signs of occlusion."""

NEAR, AROUND = 8.0, 20.0  # px between points of the mean shape, that count as neighbours
PROFILE, PROFILE_SLOPE = 0.7, 0.05  # head_turn from which an eye corner is hidden, mostly
EMPTY_SPREAD = 0.1  # px²
FLAT = 0.01  # grey levels, of an image without any detail
UNLIMITED = np.array([[-np.inf], [np.inf]]) * np.ones(len(FEATURES))
_LARGEST_NOISE = 100.0  # its exponential, squared, is still a number
_LARGEST_WEIGHT = 1e6


class Confidence(NamedTuple):
    """Posterior points and probabilities of N faces.

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
        limits: (2, F) least and largest values of the features: what lies beyond counts as these, because a line that
            was fitted says nothing of faces unlike those it was fitted on. Infinite where there are none.
    """

    weights: Array
    landmarks: Array
    limits: Array = field(default_factory=UNLIMITED.copy)

    def __call__(self, features: Array) -> FloatArray:
        """Probabilities (M, L) of features (M, L, F)."""
        logit = np.clip(features, *self.limits) @ self.weights + self.landmarks
        return np.asarray(1 / (1 + np.exp(-np.clip(logit, -30, 30))), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Calibration:
    """The fitted parameters of one model's confidence.

    Attributes:
        noise: a, b and c of :func:`facemsm.shapes.posterior.observation_covariance`.
        correct: that a point is right: nearer to the truth than ``CORRECT`` of :func:`face_scale`.
        hidden: that something is in front of it.
        threshold: probability of ``hidden`` from which a point is flagged as occluded.
        stage3: the form of stage 3 that errs less on the held-out faces: the paper's exemplars or the posterior.
    """

    noise: Noise
    correct: Logistic
    hidden: Logistic
    threshold: float
    stage3: Stage3

    def predict(
        self,
        points: NDArray[np.floating],
        scores: NDArray[np.floating],
        spread: NDArray[np.floating],
        details: Array,
        prior: ShapePrior,
        scheme: LandmarkScheme,
    ) -> Confidence:
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
        return Confidence(found.points.astype(np.float32), self.correct(features), self.hidden(features))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``model.json``."""

        def plain(model: Logistic) -> dict[str, Any]:
            return {
                "weights": {name: _short(w) for name, w in zip(FEATURES, model.weights, strict=True)},
                "landmarks": [_short(b) for b in model.landmarks],
                "limits": {
                    name: [_short(value) for value in both]
                    for name, both in zip(FEATURES, model.limits.T, strict=True)
                    if np.isfinite(both).all()
                },
            }

        return {
            "method": self.stage3,
            "noise": [_short(value) for value in self.noise],
            "threshold": _short(self.threshold),
            "correct": plain(self.correct),
            "hidden": plain(self.hidden),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], count: int) -> Calibration:
        """The inverse of :meth:`to_dict`, for ``count`` landmarks.

        Raises:
            FacemsmError: a field is missing, of the wrong kind or out of range; names it.
        """
        try:
            stage3 = fields["method"]
            if stage3 not in get_args(Stage3):
                raise FacemsmError(f"method is {short(stage3)}, choose from {', '.join(get_args(Stage3))}")
            a, b, c = _numbers("noise", fields["noise"], 3, _LARGEST_NOISE)
            check_number("threshold", fields["threshold"], 0, 1)
            correct, hidden = (_logistic(name, fields[name], count) for name in ("correct", "hidden"))
            return cls((a, b, c), correct, hidden, float(fields["threshold"]), stage3)
        except FacemsmError as error:
            raise FacemsmError(f"calibration.{error}; run 'facemsm calibrate' on the model again") from error
        except KeyError as error:
            raise FacemsmError(
                f"calibration.{error.args[0]} is missing; run 'facemsm calibrate' on the model again"
            ) from error


def _logistic(name: str, fields: Any, count: int) -> Logistic:
    if not isinstance(fields, dict) or not isinstance(fields.get("weights"), dict):
        raise FacemsmError(f"{name} is {short(fields)}, expected weights and landmarks")
    named = {_renamed(feature): weight for feature, weight in fields["weights"].items()}
    if unknown := set(named) - set(FEATURES):
        raise FacemsmError(f"{name}.weights names the unknown feature {short(min(unknown))}")
    for feature, weight in named.items():
        check_number(f"{name}.weights[{feature!r}]", weight, -_LARGEST_WEIGHT, _LARGEST_WEIGHT)
    # a feature that came after the model was calibrated has no weight
    weights = np.array([named.get(feature, 0.0) for feature in FEATURES], np.float64)
    limits = UNLIMITED.copy()
    given = fields.get("limits", {})  # none in models that were calibrated before there were any
    if not isinstance(given, dict) or set(given) - set(FEATURES):
        raise FacemsmError(f"{name}.limits is {short(given)}, expected limits of features")
    for feature, both in given.items():
        low, high = _numbers(f"{name}.limits[{feature!r}]", both, 2, _LARGEST_WEIGHT)
        if low > high:
            raise FacemsmError(f"{name}.limits[{feature!r}] is {short(both)}, expected the lower one first")
        limits[:, FEATURES.index(feature)] = low, high
    return Logistic(weights, _numbers(f"{name}.landmarks", fields.get("landmarks"), count, _LARGEST_WEIGHT), limits)


def _numbers(name: str, values: Any, count: int, largest: float) -> Array:
    if not isinstance(values, list) or len(values) != count:
        raise FacemsmError(f"{name} is {short(values)}, expected {count} numbers")
    for i, value in enumerate(values):
        check_number(f"{name}[{i}]", value, -largest, largest)
    return np.array(values, np.float64)


def _renamed(feature: str) -> str:
    """The name that a feature has now; earlier models say doubt and surprise."""
    return feature.replace("doubt", "uncertainty").replace("surprise", "mahalanobis")


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def detail(faces: Image) -> Array:
    """(M, 2) how much fine and coarse detail canonical images (M, S, S, 3) show: little in blurred or tiny photos.

    Logs of the mean difference, in grey levels, between an image and its half, and between that and its half.
    """
    return np.log(np.maximum([_lost(image) for image in faces], FLAT)).reshape(-1, 2)


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
    """``FEATURES`` (M, L, F) of points; arguments as for :meth:`Calibration.predict`, and the posterior."""
    uncertainty = 1 - scores.astype(np.float64)
    width = np.log(np.maximum(spread[..., 0] + spread[..., 2], EMPTY_SPREAD)) / 2
    near, around = neighbour_shares(prior, NEAR), neighbour_shares(prior, AROUND)
    uncertainty_near = _averaged(near, uncertainty)
    turned = yaw_proxy(found.points, scheme)[:, None]
    features = (
        *(uncertainty, uncertainty**2, uncertainty_near, _averaged(around, uncertainty)),
        *(uncertainty * uncertainty_near, uncertainty.mean(1)[:, None]),
        *(width, _averaged(near, width), np.log(found.variance) / 2),
        np.log1p(np.linalg.norm(found.points - points, axis=-1)),
        np.log1p(found.mahalanobis),
        *(turned, turned**2),
        1 / (1 + np.exp((PROFILE - turned) / PROFILE_SLOPE)),  # where errors are compared with the box
        *details.T[..., None],
        *details.T[..., None] ** 2,
        uncertainty.mean(1)[:, None] ** 2,
        np.maximum(*(uncertainty[:, list(eye)].mean(1) for eye in (scheme.right_eye, scheme.left_eye)))[:, None],
    )
    table = np.empty((*uncertainty.shape, len(features)))
    for column, feature in enumerate(features):
        table[..., column] = feature
    return table


@lru_cache(8)
def neighbour_shares(prior: ShapePrior, reach: float) -> Array:
    """(L, L) rows of shares that add up to 1, falling with the distance in the mean shape; none for a point itself."""
    mean = prior.mean.astype(np.float64)
    distance = np.linalg.norm(mean[:, None] - mean, axis=-1)
    shares = np.exp(-0.5 * (distance / reach) ** 2)
    np.fill_diagonal(shares, 1e-12)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _averaged(shares: Array, values: Array) -> Array:
    # one product a face: that of all faces would be rounded differently for different numbers of faces
    return np.asarray((shares @ values[..., None])[..., 0])
