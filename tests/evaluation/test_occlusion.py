from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from facemsm.errors import FacemsmError
from facemsm.evaluation import occlusion

Array = NDArray[np.float64]

# coarse values, so that ties are common
coarse = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=60)
unit = arrays(
    float, st.integers(1, 60), elements=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]))
)


def test_flags_by_hand() -> None:
    flags = np.array([[1, 1, 0], [1, 0, 0]])
    occluded = np.array([[1, 0, 0], [1, 1, 1]], bool)
    assert occlusion.precision_recall(flags, occluded) == (2 / 3, 2 / 4)
    precision, recall = occlusion.precision_recall(np.zeros((2, 3)), occluded)
    assert np.isnan(precision)
    assert recall == 0
    assert np.isnan(occlusion.precision_recall(flags, np.zeros((2, 3)))[1])


def test_curve_by_hand_with_a_tie() -> None:
    scores = np.array([0.9, 0.2, 0.5, 0.5, 0.1])
    occluded = np.array([1, 1, 0, 1, 0])
    precision, recall, threshold = occlusion.precision_recall_curve(scores, occluded)
    np.testing.assert_allclose(threshold, [0.9, 0.5, 0.2, 0.1])
    np.testing.assert_allclose(precision, [1, 2 / 3, 3 / 4, 3 / 5])
    np.testing.assert_allclose(recall, [1 / 3, 2 / 3, 1, 1])
    assert occlusion.average_precision(scores, occluded) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert occlusion.recall_at_precision(scores, occluded) == pytest.approx((1 / 3, 0.9))
    # precision dips to 2/3 at 0.5 and comes back at 0.2: the later threshold counts
    assert occlusion.recall_at_precision(scores, occluded, 0.75) == (1, 0.2)
    assert occlusion.recall_at_precision(-scores, occluded) == (0, np.inf)


@pytest.mark.parametrize("hits", [4, 8, 12, 28, 80])
def test_precision_that_is_exactly_the_aim_counts(hits: int) -> None:
    occluded = np.arange(hits * 5 // 4) < hits
    scores = np.ones(len(occluded))  # all tied: flagged together or not at all
    assert occlusion.recall_at_precision(scores, occluded, 0.8) == (1, 1)
    assert occlusion.recall_at_precision(scores, occluded, 0.8 + 1e-9) == (0, np.inf)


@pytest.mark.slow
@given(coarse)
def test_average_precision_agrees_with_scikit_learn(points: list[tuple[int, bool]]) -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    scores, occluded = (np.array(column) for column in zip(*points, strict=True))
    assume(occluded.any())
    assert occlusion.average_precision(scores, occluded) == pytest.approx(
        sklearn_metrics.average_precision_score(occluded, scores)
    )
    p, r, t = sklearn_metrics.precision_recall_curve(occluded, scores)
    precision, recall, threshold = occlusion.precision_recall_curve(scores, occluded)
    np.testing.assert_allclose(precision, p[-2::-1])
    np.testing.assert_allclose(recall, r[-2::-1])
    np.testing.assert_allclose(threshold, t[::-1])


@given(coarse, st.floats(0.05, 1), st.randoms())
def test_recall_at_precision_is_what_its_threshold_gives(
    points: list[tuple[int, bool]], aim: float, random: Any
) -> None:
    scores, occluded = (np.array(column) for column in zip(*points, strict=True))
    assume(occluded.any())
    recall, threshold = occlusion.recall_at_precision(scores, occluded, aim)
    reached = [occlusion.precision_recall(scores >= t, occluded) for t in np.unique(scores)]
    assert recall == max((r for p, r in reached if p >= aim), default=0)
    if recall:
        assert occlusion.precision_recall(scores >= threshold, occluded)[1] == recall
    random.shuffle(points)
    scores, occluded = (np.array(column) for column in zip(*points, strict=True))
    assert occlusion.recall_at_precision(scores, occluded, aim) == (recall, threshold)  # order in a tie does not matter


def test_reliability_by_hand() -> None:
    confidence = np.array([0.0, 0.1, 0.5, 0.6, 1.0])
    correct = np.array([0, 1, 0, 1, 1])
    bins = occlusion.reliability(confidence, correct, bins=4)
    np.testing.assert_allclose(bins.edges, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(bins.count, [2, 0, 2, 1])
    np.testing.assert_allclose(bins.confidence, [0.05, np.nan, 0.55, 1])
    np.testing.assert_allclose(bins.accuracy, [0.5, np.nan, 0.5, 1])
    assert bins.expected_calibration_error == pytest.approx((2 * 0.45 + 2 * 0.05) / 5)

    halves = occlusion.reliability(confidence, correct, bins=2, kind="equal-mass")
    np.testing.assert_allclose(halves.edges, [0, 0.5, 1])
    np.testing.assert_array_equal(halves.count, [2, 3])
    assert halves.expected_calibration_error == pytest.approx((2 * abs(1 / 2 - 0.05) + 3 * abs(2 / 3 - 0.7)) / 5)


def test_edges_of_equal_mass_are_confidences_that_occur() -> None:
    assert occlusion.reliability([0.2, 0.4], [0, 1], 2, "equal-mass").edges.tolist() == [0, 0.4, 1]


def test_equal_mass_bins_are_equal_without_ties_and_whole_with_them() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(1000) ** 3
    assert set(occlusion.reliability(confidence, confidence > 0.5, 10, "equal-mass").count) <= {99, 100, 101}
    constant = occlusion.reliability(np.full(8, 0.7), np.arange(8) < 2, 10, "equal-mass")
    assert constant.count.tolist() == [0, 8]
    assert constant.expected_calibration_error == pytest.approx(0.7 - 0.25)


@given(unit, st.integers(1, 12), st.sampled_from(["equal-width", "equal-mass"]), st.randoms())
def test_reliability_properties(confidence: Array, bins: int, kind: occlusion.Bins, random: Any) -> None:
    correct = confidence > 0.4
    diagram = occlusion.reliability(confidence, correct, bins, kind)
    assert len(diagram.edges) == len(diagram.count) + 1 <= bins + 1
    assert diagram.count.sum() == len(confidence)
    inside = diagram.count > 0
    assert (diagram.edges[:-1][inside] <= diagram.confidence[inside] + 1e-12).all()
    assert (diagram.confidence[inside] <= diagram.edges[1:][inside] + 1e-12).all()
    error = diagram.expected_calibration_error
    # splitting the predictions can only reveal more: one bin is the lower bound
    assert abs(confidence.mean() - correct.mean()) - 1e-9 <= error <= 1
    order = list(range(len(confidence)))
    random.shuffle(order)
    again = occlusion.reliability(confidence[order], correct[order], bins, kind)
    assert again.expected_calibration_error == pytest.approx(error, abs=1e-12)


def test_calibrated_scores_have_a_small_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(100_000)
    correct = rng.random(100_000) < confidence
    assert occlusion.reliability(confidence, correct).expected_calibration_error < 0.01
    assert occlusion.reliability(confidence, ~correct).expected_calibration_error == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: occlusion.precision_recall([0, 1], [0, 1, 1]), "one shape"),
        (lambda: occlusion.precision_recall([0, 0.5], [0, 1]), "flags must be true or false"),
        (lambda: occlusion.precision_recall([0, 1], [0, 2]), "truth must be true or false"),
        (lambda: occlusion.average_precision([0.1, np.nan], [0, 1]), "not finite"),
        (lambda: occlusion.average_precision([0.1, 0.2], [0, 0]), "no point is occluded"),
        (lambda: occlusion.average_precision([], []), "no point is occluded"),
        (lambda: occlusion.reliability([], []), "at least one"),
        (lambda: occlusion.reliability([1.2], [1]), "from 0 to 1"),
        (lambda: occlusion.reliability([np.nan], [1]), "from 0 to 1"),
        (lambda: occlusion.reliability([0.2], [1], bins=0), "bins is 0"),
        (lambda: occlusion.reliability([0.2], [1], kind="deciles"), "equal-width"),  # type: ignore[arg-type]
    ],
)
def test_unusable_input_is_explained(call: Any, words: str) -> None:
    with pytest.raises(FacemsmError) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
