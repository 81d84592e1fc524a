from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from facemsm import Aligner, FacemsmError
from facemsm.apps.cli import main
from facemsm.assets import SAMPLE
from facemsm.confidence.fitting import fit_logistic
from facemsm.confidence.model import FEATURES, UNLIMITED, Calibration, Logistic, describe, detail
from facemsm.data.sample import FaceSample
from facemsm.evaluation.conditions import in_poor_photo, mostly_covered, painted
from facemsm.evaluation.occlusion import average_precision, reliability
from facemsm.evaluation.predictions import Predictions
from facemsm.evaluation.report import Evaluation
from facemsm.geometry import face_scale, similarity, tight_box
from facemsm.imaging.io import read_image, write_image
from facemsm.runtime.model import CONVENTIONS, MANIFEST, load_model, write_calibration
from facemsm.schemes import OCCLUDED, SCHEME_68, VISIBLE
from facemsm.shapes.posterior import ShapePrior, learn_prior, observation_covariance, posterior
from facemsm.stages import Settings
from facemsm.weights import WEIGHTS
from synthetic_faces import draw_face, mean_shape

NOISE = (-2.0, 6.0, 5.0)
FRONTAL = 40 * mean_shape().astype(np.float64) + (63.5, 40)


@pytest.fixture(scope="module")
def prior() -> ShapePrior:
    rng = np.random.default_rng(0)
    smiles = [40 * mean_shape(rng.normal(0, 0.05), 1 + rng.normal(0, 0.05)) + (63.5, 40) for _ in range(200)]
    return learn_prior(np.array(smiles) + rng.normal(0, 1.5, (200, 68, 2)), SCHEME_68, rank=8)


def seen(count: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Points, scores, spread, what was hidden and the truth: a run of neighbours is dark and far off."""
    rng = np.random.default_rng(seed)
    truth = FRONTAL + rng.normal(0, 1.5, (count, 68, 2)) + rng.normal(0, 3, (count, 1, 2))
    start = rng.integers(0, 60, (count, 1))
    hidden = (np.arange(68) >= start) & (np.arange(68) < start + 8)
    scores = np.where(hidden, rng.normal(0.45, 0.12, hidden.shape), rng.normal(0.8, 0.12, hidden.shape)).clip(0.01, 1)
    scale = np.exp(-2.0 + 5 * (1 - scores))
    points = truth + rng.normal(size=truth.shape) * 4 * np.sqrt(scale)[..., None]
    return points, scores, np.broadcast_to(np.array([4.0, 0, 4.0]), (*hidden.shape, 3)), hidden, truth


def fitted(prior: ShapePrior, method: Any = "posterior") -> Calibration:
    points, scores, spread, hidden, truth = seen(150)
    found = posterior(points, observation_covariance(points, scores, spread, NOISE, SCHEME_68), prior)
    features = describe(points, scores, spread, np.zeros((len(points), 2)), found, prior, SCHEME_68)
    right = np.linalg.norm(found.points - truth, axis=-1) < 0.05 * face_scale(truth, SCHEME_68)[:, None]
    everywhere = np.ones_like(hidden)
    correct = fit_logistic(features, right, everywhere, SCHEME_68)
    return Calibration(NOISE, correct, fit_logistic(features, hidden, everywhere, SCHEME_68), 0.5, method)


@pytest.fixture(scope="module")
def calibration(prior: ShapePrior) -> Calibration:
    return fitted(prior)


# --- Probabilities ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_scores_of_other_faces_keep_what_they_promise(calibration: Calibration, prior: ShapePrior) -> None:
    points, scores, spread, _, truth = seen(150, seed=1)
    found = calibration.predict(points, scores, spread, np.zeros((len(points), 2)), prior, SCHEME_68)
    right = np.linalg.norm(found.points - truth, axis=-1) < 0.05 * face_scale(truth, SCHEME_68)[:, None]
    assert 0.2 < right.mean() < 0.98
    assert reliability(found.scores, right).expected_calibration_error < 0.03
    assert reliability(scores, right).expected_calibration_error > 0.05
    assert np.linalg.norm(found.points - truth, axis=-1).mean() < np.linalg.norm(points - truth, axis=-1).mean()


def test_neighbours_tell_what_is_hidden(calibration: Calibration, prior: ShapePrior) -> None:
    points, scores, spread, hidden, _ = seen(150, seed=1)
    occlusion = calibration.predict(points, scores, spread, np.zeros((len(points), 2)), prior, SCHEME_68).occlusion
    assert average_precision(occlusion, hidden) > average_precision(1 - scores, hidden) + 0.02
    assert reliability(occlusion, hidden).expected_calibration_error < 0.03


def test_faces_do_not_influence_each_other(calibration: Calibration, prior: ShapePrior) -> None:
    points, scores, spread, *_ = seen(11)
    together = calibration.predict(points, scores, spread, np.zeros((len(points), 2)), prior, SCHEME_68)
    for i in (0, 10):
        one_face = slice(i, i + 1)
        alone = calibration.predict(
            points[one_face], scores[one_face], spread[one_face], np.zeros((1, 2)), prior, SCHEME_68
        )
        for many, one in zip(together, alone, strict=True):
            np.testing.assert_array_equal(many[i], one[0])


def test_hopeless_input_gives_numbers(calibration: Calibration, prior: ShapePrior) -> None:
    """Empty heatmaps: all points in one place, no score, no spread."""
    found = calibration.predict(
        np.zeros((1, 68, 2)), np.zeros((1, 68)), np.zeros((1, 68, 3)), np.zeros((1, 2)), prior, SCHEME_68
    )
    assert all(np.isfinite(part).all() for part in found)
    assert ((found.scores >= 0) & (found.scores <= 1)).all()


def test_the_scale_of_a_profile_is_its_box() -> None:
    profile = FRONTAL.copy()
    profile[45] = np.nan
    scale = face_scale(np.stack((FRONTAL, profile)), SCHEME_68)
    assert scale[0] == pytest.approx(np.linalg.norm(FRONTAL[36] - FRONTAL[45]))
    assert scale[1] == pytest.approx(np.sqrt(np.prod(np.nanmax(profile, axis=0) - np.nanmin(profile, axis=0))))


@pytest.mark.slow
def test_logistic_regression_recovers_its_own() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1200, 68, len(FEATURES))) + 1
    weights = np.linspace(-1, 1, len(FEATURES))
    model = Logistic(weights, np.where(np.isin(np.arange(68), SCHEME_68.contour), 1.0, -1.0))
    truth = rng.random((1200, 68)) < model(features)
    found = fit_logistic(features, truth, np.ones((1200, 68), bool), SCHEME_68)
    np.testing.assert_allclose(found.weights, weights, atol=0.1)
    np.testing.assert_allclose(found.landmarks, model.landmarks, atol=0.35)
    np.testing.assert_array_equal(found.landmarks, found.landmarks[SCHEME_68.flip])  # left and right share a bias


def test_what_lies_beyond_the_faces_that_were_fitted_counts_as_their_last(calibration: Calibration) -> None:
    limits = calibration.correct.limits
    middle = np.broadcast_to(limits.mean(0), (1, 68, len(FEATURES)))
    assert (limits[0] < limits[1]).any()
    for limit, outwards in zip(limits, (-1e3, 1e3), strict=True):
        at = np.broadcast_to(limit, middle.shape)
        np.testing.assert_array_equal(calibration.correct(at + outwards), calibration.correct(at))
        assert (calibration.correct(at) != calibration.correct(middle)).any()
    unlimited = replace(calibration.correct, limits=UNLIMITED)
    np.testing.assert_array_equal(unlimited(middle), calibration.correct(middle))
    assert (unlimited(middle + 1e3) != calibration.correct(middle + 1e3)).any()


# --- On disk ---------------------------------------------------------------------------------------------------------


def test_plain_values_and_back(calibration: Calibration, prior: ShapePrior) -> None:
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())), 68)
    points, scores, spread, *_ = seen(3)
    for one, other in zip(
        calibration.predict(points, scores, spread, np.zeros((len(points), 2)), prior, SCHEME_68),
        again.predict(points, scores, spread, np.zeros((len(points), 2)), prior, SCHEME_68),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=2e-3)
    assert (again.stage3, again.threshold) == ("posterior", 0.5)
    np.testing.assert_allclose(again.correct.limits, calibration.correct.limits, rtol=1e-5)
    fields = calibration.to_dict()
    del fields["correct"]["limits"]  # models of before have none
    np.testing.assert_array_equal(Calibration.from_dict(fields, 68).correct.limits, UNLIMITED)


@pytest.mark.parametrize(
    "change",
    [
        {"noise": [1]},
        {"method": "magic"},
        {"hidden": 3},
        {"correct": {"weights": {}, "landmarks": []}},
        {"noise": "abc"},
        {"hidden": {"weights": {}, "landmarks": [0.0] * 68, "limits": {"moved": [2, 1]}}},
        {"hidden": {"weights": {}, "landmarks": [0.0] * 68, "limits": {"moved": [1]}}},
        {"hidden": {"weights": {}, "landmarks": [0.0] * 68, "limits": {"of a later version": [1, 2]}}},
        {"hidden": {"weights": {}, "landmarks": [0.0] * 68, "limits": 3}},
    ],
)
def test_damaged_values_are_refused(calibration: Calibration, change: dict[str, Any]) -> None:
    with pytest.raises(FacemsmError, match=r"calibration\.(noise|method|hidden|correct)"):
        Calibration.from_dict({**calibration.to_dict(), **change}, 68)
    with pytest.raises(FacemsmError, match=r"calibration\.(noise|method|hidden|correct)"):
        Calibration.from_dict(calibration.to_dict(), 67)


def test_features_of_other_versions(calibration: Calibration) -> None:
    fields = calibration.to_dict()
    del fields["hidden"]["weights"]["profile"]
    older = Calibration.from_dict(fields, 68)
    assert older.hidden.weights[FEATURES.index("profile")] == 0
    others = np.array(FEATURES) != "profile"
    np.testing.assert_allclose(older.hidden.weights[others], calibration.hidden.weights[others], rtol=1e-4, atol=1e-6)
    fields["hidden"]["weights"]["of a later version"] = 1.0
    with pytest.raises(FacemsmError, match="unknown feature"):
        Calibration.from_dict(fields, 68)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The bundled networks without a calibration."""
    folder = Path(shutil.copytree(WEIGHTS / "68", tmp_path / "model"))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.pop("calibration", None)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_a_model_carries_its_calibration(model: Path, calibration: Calibration, prior: ShapePrior) -> None:
    assert load_model(model).calibration is None
    with pytest.raises(FacemsmError, match="has no calibration"):
        Aligner.from_pretrained(model, method="calibrated")
    write_calibration(model, calibration, prior)
    assert load_model(model).calibration is not None
    assert Aligner.from_pretrained(model).method == "calibrated"
    (model / "prior.safetensors").write_bytes(b"")
    with pytest.raises(FacemsmError, match=r"prior\.safetensors: truncated or altered"):
        load_model(model)


def test_calibrating_again_leaves_a_whole_model_wherever_it_is_interrupted(
    model: Path, calibration: Calibration, prior: ShapePrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_calibration(model, calibration, prior)
    other = replace(prior, mean=prior.mean + 1)

    def full(*_: object) -> None:
        raise FacemsmError("no space left")

    with monkeypatch.context() as disk:
        disk.setattr("facemsm.runtime.model.save_conventions", full)
        with pytest.raises(FacemsmError, match="no space left"):
            write_calibration(model, calibration, other)
    assert load_model(model).calibration is None
    write_calibration(model, calibration, other)
    assert load_model(model).calibration is not None


# --- Painted occluders and the command -------------------------------------------------------------------------------


def face(folder: Path, i: int, visibility: list[int] | None = None) -> FaceSample:
    placement = similarity(0.05 * (i % 5 - 2), 24 + i % 7, (78 + i % 3, 66))
    image, points = draw_face(mean_shape(0.05 * (i % 3), 1 + 0.05 * (i % 4)), placement)
    write_image(folder / f"{i}.png", image)
    seen = None if visibility is None else np.array(visibility, np.int8)
    return FaceSample(f"face/{i}", folder / f"{i}.png", tight_box(points), "gt", points, seen)


@pytest.mark.parametrize("kind", ["mask", "hand", "glasses"])
def test_painted_faces(tmp_path: Path, kind: str) -> None:
    bare = face(tmp_path, 0)
    over = painted(bare, SCHEME_68, [kind])
    changed = np.abs(over.load().astype(int) - bare.load()).max(axis=-1) > 12
    assert over.load().shape == bare.load().shape
    np.testing.assert_array_equal(over.load(), painted(bare, SCHEME_68, [kind]).load())
    assert over.visibility is not None
    hidden = over.visibility == OCCLUDED
    assert 0 < hidden.sum() < 68
    x, y = np.rint(bare.points[hidden]).astype(int).T
    assert changed[y, x].mean() > 0.8
    assert (over.visibility[~hidden] == VISIBLE).all()
    other = painted(bare, SCHEME_68, [kind], seed=1)
    assert (other.load() != over.load()).any()


def test_paint_over_a_profile_and_over_labels(tmp_path: Path) -> None:
    bare = face(tmp_path, 0, [2] * 67 + [1])
    bare.points[36:42] = np.nan
    assert bare.visibility is not None
    bare.visibility[36:42] = 0
    over = painted(bare, SCHEME_68, ["glasses"])  # cannot be placed on one eye, so it is a hand
    assert over.visibility is not None
    assert (over.visibility[36:42] == 0).all()
    assert over.visibility[67] == OCCLUDED
    assert (over.visibility == OCCLUDED).sum() > 1


def test_a_poor_photo_of_a_face(tmp_path: Path) -> None:
    sample = face(tmp_path, 0)
    poor = [in_poor_photo(sample, seed) for seed in range(12)]
    photos = [one.load() for one in poor]
    assert {photo.shape for photo in photos} == {sample.load().shape}
    assert all(one.box is sample.box and one.points is sample.points for one in poor)
    assert len({photo.tobytes() for photo in photos}) == 12
    np.testing.assert_array_equal(photos[3], in_poor_photo(sample, 3).load())


def test_a_face_that_is_mostly_covered(tmp_path: Path) -> None:
    sample = face(tmp_path, 0)
    hidden = []
    for seed in range(12):
        over = mostly_covered(sample, seed)
        changed = (over.load() != sample.load()).any(-1)
        assert over.visibility is not None
        covered = over.visibility == OCCLUDED
        x, y = np.round(sample.points).astype(int).T
        np.testing.assert_array_equal(changed[y, x], covered)
        hidden.append(covered.mean())
    assert min(hidden) > 0.1
    assert max(hidden) < 1
    assert len({*hidden}) > 6


def test_detail_tells_sharp_from_blurred() -> None:
    sharp = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    blurred = [np.asarray(cv2.GaussianBlur(sharp, (0, 0), sigma), np.uint8) for sigma in (2, 6)]
    found = detail(np.stack([sharp, *blurred, np.zeros_like(sharp)]))
    assert found.shape == (4, 2)
    assert np.isfinite(found).all()
    assert (np.diff(found, axis=0) < 0).all()
    np.testing.assert_array_equal(found[1:2], detail(blurred[0][None]))


def test_scores_know_a_blurred_face() -> None:
    """It is found, but hardly to 5 % of the distance between its eyes."""
    aligner, photo = Aligner.from_pretrained(), read_image(SAMPLE)
    box = aligner.align(photo)[0].box
    side = float((box[2:] - box[:2]).max())
    scores = [
        aligner.align(np.asarray(cv2.GaussianBlur(photo, (0, 0), share * side), np.uint8), [box])[0].scores.mean()
        for share in (0.005, 0.04, 0.08)
    ]
    assert scores[0] - 0.1 > scores[1] > scores[2] + 0.1


def test_the_same_points_clean_and_behind_something(tmp_path: Path) -> None:
    from facemsm.evaluation.report import compare_painted

    bare = [face(tmp_path, i) for i in range(2)]
    over = [painted(sample, SCHEME_68) for sample in bare]
    truth = np.stack([sample.points for sample in bare])
    hidden = np.stack([sample.visibility == OCCLUDED for sample in over])
    side = np.sqrt(np.prod(truth.max(axis=1) - truth.min(axis=1), axis=1))[:, None]

    def off(share: NDArray[Any]) -> Evaluation:
        points = truth + (share * side)[..., None] * np.array([1.0, 0.0])
        names = [sample.name for sample in bare]
        predictions = Predictions("test", names, points.astype(np.float32), hidden, None, truth)
        return Evaluation.of(over, predictions, SCHEME_68)

    rows = compare_painted(off(np.where(hidden, 0.06, 0.02)), off(np.full((2, 68), 0.02)), ["box"])
    found = {(row["points"], row["group"]): (row["clean"], row["occluded"]) for row in rows}
    assert found["final", "hidden"] == pytest.approx((2, 6), rel=1e-4)
    assert found["final", "visible"] == pytest.approx((2, 2), rel=1e-4)
    assert found["before stage 3", "all"] == (0, 0)
    assert [row["ratio"] for row in rows if row["points"] == "final"][2] == pytest.approx(3, rel=1e-4)


@pytest.mark.slow
def test_the_command(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("scipy")
    from facemsm.data.coco import write_coco
    from facemsm.training import calibration as fit

    monkeypatch.setattr(fit, "TIMES", (1, 1, 1, 1))  # for speed
    monkeypatch.setattr("facemsm.shapes.conventions.LEAST_FACES", 20)

    rng = np.random.default_rng(0)
    samples = [face(tmp_path, i, np.where(rng.random(68) < 0.1, 1, 2).tolist()) for i in range(50)]
    write_coco(samples, tmp_path / "train.json", SCHEME_68)

    def run(*options: str) -> int:
        arguments = ["facemsm", "calibrate", str(model), "--data", f"aflw2000={tmp_path}:train", *options]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0)

    assert run("--holdout", "0.1") == 2
    assert "held out, at least 20 are needed" in capsys.readouterr().err
    for _ in range(2):  # a calibrated model can be calibrated again
        assert run("--holdout", "0.5") == 0
        out = capsys.readouterr().out
        assert "calibration error" in out
        assert "by shift and shape" in out
    (found,) = Aligner.from_pretrained(model).align(samples[0].load(), [samples[0].box])
    assert found.occlusion is not None
    assert (found.occluded == (found.occlusion >= load_model(model).calibration.threshold)).all()  # type: ignore[union-attr]
    # the convention goes with the prior, and is gone with it
    convention = load_model(model).convention("aflw2000")
    assert convention is not None
    assert convention.weights is not None
    settings = Settings(convention="aflw2000")
    (own,) = Aligner.from_pretrained(model, settings=settings).align(samples[0].load(), [samples[0].box])
    np.testing.assert_allclose(own.points, convention.to_labels(found.points[None])[0], atol=1e-3)
    prior = load_model(model).prior()
    assert prior is not None
    (model / CONVENTIONS).write_bytes(b"")
    with pytest.raises(FacemsmError, match=r"conventions\.safetensors: truncated or altered"):
        load_model(model)
    calibration = Calibration.from_dict(json.loads((model / MANIFEST).read_text())["calibration"], 68)
    write_calibration(model, calibration, prior)
    assert not (model / CONVENTIONS).exists()
    convention = load_model(model).convention("aflw2000")
    assert convention is not None
    assert convention.weights is None
