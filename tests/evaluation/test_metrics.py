from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from facemsm.errors import FacemsmError
from facemsm.evaluation import metrics
from facemsm.geometry import NORMALISERS, Normaliser, normaliser
from facemsm.schemes import LandmarkScheme, get_scheme
from facemsm.typing import Array

# Eye centres (2, 0) and (10, 0), outer corners (0, 0) and (12, 0), box 12 x 6: normalisers 8, 12, sqrt(72), 9.
SCHEME = LandmarkScheme(
    name="tiny",
    count=6,
    flip_pairs=((0, 3), (1, 2)),
    right_eye=(0, 1),
    left_eye=(2, 3),
    mouth=(4,),
    eye_corners=(0, 3),
    contour=(5,),
)
FACE = np.array([[0, 0], [4, 0], [8, 0], [12, 0], [6, 4], [6, 6]], float)
LENGTHS: dict[Normaliser, float] = {"inter-pupil": 8, "inter-ocular": 12, "box": 72**0.5, "face-size": 9}
NAN = float("nan")
INF = float("inf")

kinds = st.sampled_from(NORMALISERS)
some_errors = arrays(float, st.integers(1, 40), elements=st.floats(0, 0.3, allow_subnormal=False))


def test_point_errors_by_hand() -> None:
    truth = np.array([[[0, 0], [1, 1], [NAN, NAN], [NAN, NAN], [5, 5]]], float)
    predicted = np.array([[[3, 4], [1, 1], [9, 9], [NAN, NAN], [NAN, 5]]], float)
    # with truth: distance; without truth: not counted, predicted or not; truth without prediction: a miss
    np.testing.assert_array_equal(metrics.point_errors(predicted, truth), [[5, 0, NAN, NAN, INF]])


@pytest.mark.parametrize("kind", NORMALISERS)
def test_normalisers_by_hand(kind: Normaliser) -> None:
    two = np.stack([FACE, 3 * FACE + 7])
    np.testing.assert_allclose(normaliser(two, SCHEME, kind), [LENGTHS[kind], 3 * LENGTHS[kind]])


def test_normalisers_of_the_published_schemes() -> None:
    rng = np.random.default_rng(0)
    for name, right, left, corners in (
        ("68", slice(36, 42), slice(42, 48), (36, 45)),
        ("98", slice(96, 97), slice(97, 98), (60, 72)),
        ("29", slice(16, 17), slice(17, 18), (8, 9)),
    ):
        scheme = get_scheme(name)
        points = rng.normal(size=(5, scheme.count, 2))
        pupil = np.linalg.norm(points[:, right].mean(1) - points[:, left].mean(1), axis=1)
        ocular = np.linalg.norm(points[:, corners[0]] - points[:, corners[1]], axis=1)
        np.testing.assert_allclose(normaliser(points, scheme, "inter-pupil"), pupil)
        np.testing.assert_allclose(normaliser(points, scheme, "inter-ocular"), ocular)


def test_normaliser_is_nan_where_it_cannot_be_computed() -> None:
    inner_missing, corner_missing, nothing = FACE.copy(), FACE.copy(), np.full_like(FACE, NAN)
    inner_missing[1], corner_missing[0] = NAN, NAN
    same_place = np.zeros_like(FACE)
    faces = np.stack([inner_missing, corner_missing, nothing, same_place])
    isnan = {kind: np.isnan(normaliser(faces, SCHEME, kind)).tolist() for kind in NORMALISERS}
    assert isnan == {
        "inter-pupil": [True, True, True, True],
        "inter-ocular": [False, True, True, True],
        "box": [False, False, True, True],
        "face-size": [False, False, True, True],
    }


@pytest.mark.parametrize("kind", NORMALISERS)
def test_nme_by_hand(kind: Normaliser) -> None:
    predicted = FACE.copy()
    predicted[4] += (3, 4)  # 5 px
    predicted[5] += (0, 1)  # 1 px
    assert metrics.nme(predicted[None], FACE[None], SCHEME, kind) == pytest.approx([6 / 6 / LENGTHS[kind]])
    only_last = np.arange(6) == 5
    assert metrics.nme(predicted[None], FACE[None], SCHEME, kind, only_last) == pytest.approx([1 / LENGTHS[kind]])
    assert np.isnan(metrics.nme(predicted[None], FACE[None], SCHEME, kind, np.zeros((1, 6), bool)))


def test_nme_counts_labelled_points_only() -> None:
    truth, predicted = FACE.copy(), FACE.copy()
    truth[5] = NAN
    predicted[4] += (3, 4)
    predicted[5] = 1e6
    assert metrics.nme(predicted[None], truth[None], SCHEME, "inter-ocular") == pytest.approx([5 / 5 / 12])


def test_groups_and_landmarks_by_hand() -> None:
    errors = np.array([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, NAN, 10], [NAN] * 6], float)
    np.testing.assert_allclose(metrics.per_landmark(errors), [1, 2, 3, 4, 5, 8])
    occluded = np.array([[0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 1, 1], [1] * 6], bool)
    groups = metrics.per_group(errors, SCHEME, occluded)
    assert groups == pytest.approx({"contour": 8, "features": 25 / 9, "visible": 21 / 8, "occluded": 20 / 3})
    assert list(metrics.per_group(errors, SCHEME)) == ["contour", "features"]
    assert np.isnan(metrics.per_group(errors, SCHEME, np.zeros_like(occluded))["occluded"])
    assert np.isnan(metrics.per_landmark(np.full((2, 3), NAN))).all()


def test_rates_by_hand() -> None:
    errors = [0.02, 0.08, 0.10, NAN, INF]
    assert metrics.failure_rate(errors, 0.08) == 3 / 4  # "0.08 or greater" fails; NaN is not a face
    assert metrics.failure_rate(errors, 0.2) == 1 / 4
    assert metrics.auc(errors, 0.10) == pytest.approx((0.08 + 0.02) / 0.10 / 4)
    x, share = metrics.ced([0.3, 0.1, 0.3, INF, NAN])
    np.testing.assert_array_equal(x, [0, 0.1, 0.3])
    np.testing.assert_array_equal(share, [0, 0.25, 0.75])
    assert metrics.ced([0.0, 0.5])[1].tolist() == [0.5, 1]


def test_summary_by_hand() -> None:
    summary = metrics.summarise([0.02, 0.04, 0.09, NAN, INF], thresholds=(5, 8, 10))
    low, high = summary.pop("nme low"), summary.pop("nme high")
    assert 2 <= low < 5 < high <= 9
    assert summary == pytest.approx(
        {
            "faces": 4,
            "unscored": 1,
            "missed": 1,
            "nme": 5,
            "median": 4,
            "fr@5": 50,
            "fr@8": 50,
            "fr@10": 25,
            "auc@5": 4 / 5 / 4,
            "auc@8": 10 / 8 / 4,
            "auc@10": 15 / 10 / 4,
        }
    )
    assert "fr@7.5" in metrics.summarise([0.1], thresholds=[7.5])
    nobody_found = metrics.summarise([INF, INF])
    assert nobody_found["missed"] == 2
    assert nobody_found["fr@8"] == 100
    assert np.isnan(nobody_found["nme"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.point_errors(np.zeros((2, 3, 2)), np.zeros((2, 4, 2))), "(2, 4, 2)"),
        (lambda: metrics.point_errors(np.zeros((3, 2)), np.zeros((3, 2))), "faces, points, 2"),
        (lambda: normaliser(np.zeros((2, 68, 2)), SCHEME, "box"), "(faces, 6, 2)"),
        (lambda: normaliser(FACE[None], SCHEME, "iod"), "inter-ocular"),  # type: ignore[arg-type]
        (lambda: metrics.failure_rate([NAN], 0.1), "no face"),
        (lambda: metrics.auc([], 0.1), "no face"),
        (lambda: metrics.auc([0.1], 0), "greater than 0"),
        (lambda: metrics.ced(np.zeros((2, 2))), "one number per face"),
        (lambda: metrics.bootstrap_interval([0.1], level=95), "between 0 and 1"),
    ],
)
def test_unusable_input_is_explained(call: Any, words: str) -> None:
    with pytest.raises(FacemsmError) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    kind=kinds,
    noise=arrays(float, (2, 6, 2), elements=st.floats(-5, 5)),
    scale=st.floats(0.1, 50),
    turn=st.floats(-np.pi, np.pi),
    shift=arrays(float, 2, elements=st.floats(-500, 500)),
)
def test_nme_does_not_depend_on_the_photo_frame(
    kind: Normaliser, noise: Array, scale: float, turn: float, shift: Array
) -> None:
    truth, predicted = np.stack([FACE, FACE * 2]), np.stack([FACE, FACE * 2]) + noise
    if kind in ("box", "face-size"):
        turn = round(turn / (np.pi / 2)) * np.pi / 2  # an upright box only survives quarter turns
    cos, sin = np.cos(turn), np.sin(turn)
    move = scale * np.array([[cos, sin], [-sin, cos]])
    before = metrics.nme(predicted, truth, SCHEME, kind)
    after = metrics.nme(predicted @ move + shift, truth @ move + shift, SCHEME, kind)
    np.testing.assert_allclose(after, before, rtol=1e-8, atol=1e-9)


@given(some_errors, st.floats(0.001, 0.4), st.floats(0.001, 0.4))
def test_rates_are_monotone_in_the_threshold(errors: Array, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert metrics.auc(errors, low) <= metrics.auc(errors, high) + 1e-12
    assert metrics.failure_rate(errors, low) >= metrics.failure_rate(errors, high)
    assert metrics.auc(errors, high) <= 1 - metrics.failure_rate(errors, high) + 1e-12


@given(some_errors, st.floats(0.001, 0.4))
def test_auc_is_the_integral_of_the_ced_curve(errors: Array, threshold: float) -> None:
    x, share = metrics.ced(errors)
    assert (np.diff(x) > 0).all()
    assert (np.diff(share) >= 0).all()
    assert share[-1] == 1
    below = x < threshold
    widths = np.diff(np.append(x[below], threshold))
    assert metrics.auc(errors, threshold) == pytest.approx((share[below] * widths).sum() / threshold, abs=1e-9)
    # the last step strictly below the threshold is what does not fail
    assert metrics.failure_rate(errors, threshold) == pytest.approx(1 - (share[below][-1] if below.any() else 0))


@given(some_errors)
def test_bootstrap_interval_is_sane(errors: Array) -> None:
    low, high = metrics.bootstrap_interval(errors, resamples=200)
    assert errors.min() - 1e-12 <= low <= high <= errors.max() + 1e-12
    assert metrics.bootstrap_interval(np.append(errors, NAN), resamples=200) == (low, high)


def test_bootstrap_interval_agrees_with_theory() -> None:
    errors = np.random.default_rng(1).normal(10, 2, size=400)
    low, high = metrics.bootstrap_interval(errors, level=0.90)
    half = 1.645 * errors.std() / 400**0.5
    assert (low, high) == pytest.approx((errors.mean() - half, errors.mean() + half), abs=0.02)
    assert metrics.bootstrap_interval(errors, level=0.90) == (low, high)
    assert metrics.bootstrap_interval(errors, level=0.90, seed=1) != (low, high)
    assert metrics.bootstrap_interval(errors, np.median, resamples=50)[0] < np.median(errors)

    drawn = []

    def count(sample: NDArray[Any], axis: int) -> NDArray[Any]:
        drawn.append(sample.shape[0])
        return np.zeros(sample.shape[1 - axis])

    metrics.bootstrap_interval(np.zeros(10_000), count, resamples=250)  # more than one block
    assert len(drawn) > 1
    assert sum(drawn) == 250


def test_plots_are_written_without_a_display(tmp_path: Path) -> None:
    from facemsm.evaluation import occlusion, plots

    hidden = np.array([0, 1, 0, 1, 1])
    scores = np.array([0.1, 0.9, 0.4, 0.4, 0.8])
    plots.plot_ced({"a": [0.01, 0.2], "b": [0.02, INF, NAN]}, tmp_path / "ced.svg", normaliser="box", threshold=7)
    plots.plot_precision_recall({"a": (scores, hidden)}, tmp_path / "pr.png", flags={"b": (0.5, 0.25)})
    plots.plot_reliability(occlusion.reliability(scores, hidden), tmp_path / "reliability.pdf", correct="occluded")
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("ced.svg", "pr.png", "reliability.pdf"))
    with pytest.raises(FacemsmError, match="end the name of a plot"):
        plots.plot_ced({"a": [0.01]}, tmp_path / "ced.xyz", normaliser="box")
    (tmp_path / "file").touch()
    with pytest.raises(FacemsmError, match="cannot be written"):
        plots.plot_ced({"a": [0.01]}, tmp_path / "file" / "ced.png", normaliser="box")
    with pytest.raises(FacemsmError, match="no curve"):
        plots.plot_ced({}, tmp_path / "ced.png", normaliser="box")
    assert not (tmp_path / "ced.png").exists()


def test_ced_plot_names_normaliser_and_threshold(tmp_path: Path) -> None:
    from matplotlib import rc_context

    from facemsm.evaluation import plots

    with rc_context({"svg.fonttype": "none"}):
        plots.plot_ced({"one": [0.01, 0.2, INF]}, tmp_path / "ced.svg", normaliser="inter-pupil", threshold=7.5)
    text = (tmp_path / "ced.svg").read_text(encoding="utf-8")
    assert "inter-pupil" in text
    assert "one: NME 10.50 %, FR@7.5 66.67 %, AUC@7.5 0.289, 1 missed" in text


def test_measures_import_nothing_heavy() -> None:
    code = (
        "import sys, facemsm.evaluation.plots, facemsm.evaluation.cofw68_results;"
        "print({'torch', 'matplotlib', 'scipy', 'h5py', 'sklearn'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
