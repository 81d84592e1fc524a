from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from facemsm.aligner import Aligner
from facemsm.data.catalogue import load_dataset
from facemsm.data.coco import write_coco
from facemsm.data.sample import FaceSample
from facemsm.errors import FacemsmError
from facemsm.evaluation.conditions import Perturbation
from facemsm.evaluation.evaluate import matching_detection, run_aligner
from facemsm.evaluation.predictions import Predictions, load_predictions, save_predictions
from facemsm.evaluation.report import BEFORE, FINAL, Evaluation, draw_plots, markdown, measure
from facemsm.face import Face
from facemsm.geometry import apply_affine, shifted, tight_box
from facemsm.results.tables import write_pts
from facemsm.schemes import LandmarkScheme, get_scheme
from facemsm.shapes.conventions import Convention
from facemsm.stages import Settings
from facemsm.typing import FloatArray, Image, PathLike
from official_files import write_cofw68

WIDTH, HEIGHT = 160, 120
THREE = LandmarkScheme("3", 3, ((0, 1),), right_eye=(0,), left_eye=(1,), mouth=(2,))
THREE_TOML = 'name = "3"\ncount = 3\nflip = [[0, 1]]\nright_eye = [0]\nleft_eye = [1]\nmouth = [2]\n'
TRUTH = np.array([[60, 50], [90, 50], [75, 80]], np.float32)


def blobs(points: FloatArray) -> Image:
    """A photo with a soft spot at each of three points, in red, green and blue."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    spots = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / 18.0) for px, py in points.tolist()]
    return np.round(255 * np.stack(spots, axis=-1)).astype(np.uint8)


def sample(i: int = 0, visibility: list[int] | None = None, points: FloatArray | None = None) -> FaceSample:
    """Face number i, shifted by i pixels."""
    points = TRUTH + i if points is None else points
    return FaceSample(
        name=f"face/{i}",
        image=lambda: blobs(TRUTH + i),
        box=tight_box(points),
        box_source="gt",
        points=points,
        visibility=None if visibility is None else np.array(visibility, np.int8),
    )


class SpotAligner:
    """Finds the spots of :func:`blobs` wherever they are; stage 3 corrects an x that is 3 too high."""

    description = {"weights": "spots", "checksum": "0" * 64}  # noqa: RUF012
    scheme = THREE
    settings = Settings()
    model = SimpleNamespace(
        conventions={"aflw2000": (0.01, 0.0)},
        convention=lambda name: Convention((0.01, 0.0)) if name.startswith("aflw2000") else None,
    )
    seen: list[tuple[Image, FloatArray]]

    def __init__(self, **options: Any) -> None:
        self.seen = []
        self.settings = options.get("settings", self.settings)

    @classmethod
    def from_pretrained(cls, name: PathLike = "68", **options: Any) -> SpotAligner:  # noqa: ARG003
        return cls(**options)

    def align(self, image: Image, boxes: ArrayLike | None = None) -> list[Face]:
        faces = []
        for box in np.asarray(boxes, np.float32):
            self.seen.append((image, box))
            weights = image.astype(float) / image.sum(axis=(0, 1))
            grid = np.indices(image.shape[:2])[::-1, ..., None]  # x, y
            points = (weights * grid).sum(axis=(1, 2)).T.astype(np.float32)
            scores = np.array([0.9, 0.8, 0.1], np.float32)
            preliminary = points + np.array([3, 0], np.float32)
            faces.append(Face(points, scores, scores < 0.5, box, np.eye(2, 3, dtype=np.float32), preliminary))
        return faces


def spots(**options: Any) -> Aligner:
    return cast(Aligner, SpotAligner(**options))


class OneBox:
    """A detector that always finds the same boxes."""

    name = "one box"

    def __init__(self, *boxes: list[float]) -> None:
        self.boxes = np.array([[*box, 0.9] for box in boxes], np.float32).reshape(-1, 5)

    def detect(self, image: Image) -> FloatArray:  # noqa: ARG002
        return self.boxes


# --- Running ---------------------------------------------------------------------------------------------------------


def test_faces_are_aligned_by_their_own_boxes() -> None:
    aligner = SpotAligner()
    predictions = run_aligner(cast(Aligner, aligner), [sample(0), sample(5)])
    assert predictions.names == ("face/0", "face/5")
    np.testing.assert_allclose(predictions.points, [TRUTH, TRUTH + 5], atol=0.01)
    assert predictions.preliminary is not None
    np.testing.assert_allclose(predictions.preliminary[..., 0] - predictions.points[..., 0], 3, atol=1e-4)
    assert predictions.occluded.tolist() == [[False, False, True]] * 2
    assert [box.tolist() for _, box in aligner.seen] == [[60, 50, 90, 80], [65, 55, 95, 85]]


def test_without_stage_3_there_is_nothing_before_it() -> None:
    assert run_aligner(spots(settings=Settings(stages=(1, 2))), [sample()]).preliminary is None


@pytest.mark.parametrize("text", ["0.15,0.25,30", "0,0,180", "0.1,0,0"])
def test_perturbed_boxes_leave_points_in_the_photo_as_it_is(text: str) -> None:
    samples = [sample(i) for i in range(0, 20, 4)]
    predictions = run_aligner(spots(), samples, perturbation=Perturbation.parse(text))
    np.testing.assert_allclose(predictions.points, [s.points for s in samples], atol=0.05)


def test_a_turned_photo_keeps_its_faces_and_the_box_goes_with_them() -> None:
    perturbation = Perturbation(0, 0, 60)
    turned, box, matrix = perturbation.apply(blobs(TRUTH), tight_box(TRUTH), "a")
    angle = np.arctan2(matrix[1, 0], matrix[0, 0])
    assert 0.1 < abs(angle) < np.pi / 3
    np.testing.assert_allclose(np.linalg.det(matrix[:, :2]), 1)
    found = SpotAligner().align(turned, [box])[0].points
    np.testing.assert_allclose(found, apply_affine(matrix, TRUTH), atol=0.05)
    centre = apply_affine(matrix, np.array([[75.0, 65.0]]))[0]
    np.testing.assert_allclose(box, [*(centre - 15), *(centre + 15)], atol=1e-3)
    edges = np.array([[0, 0], [WIDTH, 0], [0, HEIGHT], [WIDTH, HEIGHT]]) - 0.5
    corners = apply_affine(matrix, edges)  # the photo fits into the turned one, edge to edge
    np.testing.assert_allclose(corners.min(axis=0), -0.5, atol=1e-6)
    room = np.array(turned.shape[1::-1]) - 0.5 - corners.max(axis=0)
    assert (room >= -1e-6).all()
    assert (room < 1).all()


@given(name=st.text(max_size=20), seed=st.integers(0, 2**31))
def test_boxes_are_perturbed_within_the_stated_amounts(name: str, seed: int) -> None:
    box = np.array([10, 20, 50, 100], np.float32)
    photo = np.zeros((4, 5, 3), np.uint8)
    _, perturbed, matrix = Perturbation(0.2, 0.3, 0, seed).apply(photo, box, name)
    np.testing.assert_array_equal(matrix, np.eye(2, 3))
    extent, moved = perturbed[2:] - perturbed[:2], (perturbed[:2] + perturbed[2:]) / 2 - (30, 60)
    assert extent[0] / 40 == pytest.approx(extent[1] / 80, abs=1e-4)
    assert abs(extent[0] / 40 - 1) <= 0.3 + 1e-4
    assert (np.abs(moved / (40, 80)) <= 0.2 + 1e-4).all()
    _, again, _ = Perturbation(0.2, 0.3, 0, seed).apply(photo, box, name)
    np.testing.assert_array_equal(again, perturbed)
    for other in ((seed + 1, name), (seed, name + "x")):
        _, different, _ = Perturbation(0.2, 0.3, 0, other[0]).apply(photo, box, other[1])
        assert (different != perturbed).any()


def test_the_amounts_do_not_depend_on_which_faces_are_run() -> None:
    perturbation = Perturbation(0.15, 0.25, 30)
    together, alone = SpotAligner(), SpotAligner()
    run_aligner(cast(Aligner, together), [sample(0), sample(5)], perturbation=perturbation)
    run_aligner(cast(Aligner, alone), [sample(5)], perturbation=perturbation)
    np.testing.assert_array_equal(together.seen[1][1], alone.seen[0][1])
    np.testing.assert_array_equal(together.seen[1][0], alone.seen[0][0])


@pytest.mark.parametrize("text", ["", "1,2", "0.1,0.1,a", "-0.1,0,0", "0,1,0", "0,0,181", "nan,0,0", "0,0,0,0"])
def test_perturbations_that_make_no_sense(text: str) -> None:
    with pytest.raises(FacemsmError, match=r"expected shift,scale,rotation such as 0\.15,0\.25,30"):
        Perturbation.parse(text)


def test_the_detection_that_overlaps_the_face_most_is_its_own() -> None:
    detections = OneBox([0, 0, 20, 20], [55, 50, 90, 80], [60, 50, 90, 81]).boxes
    found = matching_detection(detections, TRUTH)
    assert found is not None
    assert found.tolist() == [60, 50, 90, 81]
    assert matching_detection(detections[:1], TRUTH) is None
    assert matching_detection(detections[:0], TRUTH) is None
    # tight box 30 x 30: a box of 3 or 4 times that area around it has an IoU of 1/3 or 1/4
    assert matching_detection(OneBox([45, 50, 135, 80]).boxes, TRUTH) is not None
    assert matching_detection(OneBox([30, 50, 150, 80]).boxes, TRUTH) is None


def test_a_face_the_detector_misses_is_missed() -> None:
    aligner = SpotAligner()
    samples = [sample(0), sample(60)]
    predictions = run_aligner(cast(Aligner, aligner), samples, OneBox([58, 48, 92, 84]))
    assert [box.tolist() for _, box in aligner.seen] == [[58, 48, 92, 84]]
    assert np.isfinite(predictions.points[0]).all()
    assert np.isnan(predictions.points[1]).all()
    report = measure(Evaluation.of(samples, predictions, THREE))
    assert report["missed"] == 1
    summary = report["errors"]["box"][FINAL]["summary"]
    assert (summary["faces"], summary["missed"], summary["fr@10"]) == (2, 1, 50)
    assert summary["nme"] == pytest.approx(0, abs=0.05)


def test_an_error_names_the_face() -> None:
    broken = FaceSample("a/7", Path("nowhere.jpg"), tight_box(TRUTH), "gt", TRUTH)
    with pytest.raises(FacemsmError, match=r"^face a/7: nowhere\.jpg"):
        run_aligner(spots(), [broken])


# --- Predictions on disk ---------------------------------------------------------------------------------------------


def predictions(**changes: Any) -> Predictions:
    rng, n = np.random.default_rng(0), 3
    points = (TRUTH + rng.normal(size=(n, 3, 2))).astype(np.float32)
    values: dict[str, Any] = {
        "method": "m",
        "names": tuple(f"face/{i}" for i in range(n)),
        "points": points,
        "occluded": rng.random((n, 3)) < 0.5,
        "scores": rng.random((n, 3)).astype(np.float32),
        "preliminary": points + 1,
        "origin": {"weights": {"checksum": "ü"}, "perturbation": None},
    }
    return Predictions(**{**values, **changes})


@pytest.mark.parametrize("without", [[], ["scores"], ["scores", "preliminary"]])
def test_predictions_come_back_as_they_were(tmp_path: Path, without: list[str]) -> None:
    saved = predictions(**dict.fromkeys(without))
    save_predictions(tmp_path / "new" / "p.npz", saved)
    loaded = load_predictions(tmp_path / "new" / "p.npz", 3)
    assert (loaded.method, loaded.names, loaded.origin) == (saved.method, saved.names, saved.origin)
    for name in ("points", "occluded", "scores", "preliminary"):
        before, after = getattr(saved, name), getattr(loaded, name)
        assert (before is None) == (after is None)
        if before is not None:
            np.testing.assert_array_equal(after, before)
            assert after.dtype == before.dtype


def test_predictions_are_taken_by_name() -> None:
    mine = predictions()
    chosen = mine.for_faces(["face/2", "unknown", "face/0"])
    np.testing.assert_array_equal(chosen.points[[0, 2]], mine.points[[2, 0]])
    assert np.isnan(chosen.points[1]).all()
    assert not chosen.occluded[1].any()
    assert chosen.scores is not None
    assert np.isnan(chosen.scores[1]).all()
    assert np.isfinite(mine.points).all()  # the original is as it was
    with pytest.raises(FacemsmError, match=r"none of the predictions \('face/0', ...\) is for a face .* \('x', ...\)"):
        mine.for_faces(["x"])


@pytest.mark.slow
def test_prediction_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    with pytest.raises(FacemsmError, match=r"p\.npz: no such file"):
        load_predictions(path, 3)
    with pytest.raises(FacemsmError, match=r"give it that ending"):
        save_predictions(tmp_path / "p.txt", predictions())
    save_predictions(path, predictions())
    with pytest.raises(FacemsmError, match="has 3 points per face, expected 68"):
        load_predictions(path, 68)
    whole = path.read_bytes()
    for damaged in (b"", b"no zip", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(FacemsmError, match=r"p\.npz: "):
            load_predictions(path, 3)
    for change in (
        {"names": np.array(["a", "a", "b"])},
        {"names": np.array(["a"])},
        {"points": np.zeros((3, 3))},
        {"scores": np.zeros((3, 2), np.float32)},
        {"origin": np.array("[")},
        {"origin": np.array("3")},
    ):
        save_predictions(path, predictions())
        with np.load(path) as file:
            arrays = {**dict(file), **change}
        np.savez(path, **arrays)
        with pytest.raises(FacemsmError, match="not a file of predictions, or damaged"):
            load_predictions(path, 3)
    for array in (
        npy("'<f4'", "(1000000000000, 68, 2)"),
        npy("'<f4'", "(10000000, 68, 2)"),
        npy("'<f4'", "(-1, 68, 2)"),
        npy("'<f4'", "(" * 9000),
        npy("'<f4'", "(9,,)"),
        npy("__import__('os')", "(1,)"),
        npy("'|O'", "(1,)", b"cos\nabort\n(tR."),
        npy("'<f4'", f"({'9' * 5000},)"),
        bytes(1 << 27),  # three of them are too much
    ):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("points", "names", "method"):
                archive.writestr(f"{name}.npy", array)
        with pytest.raises(FacemsmError, match=r"p\.npz: not a readable \.npz file \(.+\)"):
            load_predictions(path, 3)


def npy(kind: str, shape: str, content: bytes = b"") -> bytes:
    """An array as its header says it is."""
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + content


# --- Figures ---------------------------------------------------------------------------------------------------------


def offset(*errors: float, before: float | None = None, scores: ArrayLike | None = None) -> Predictions:
    """Faces 0, 1, ... of :func:`sample`, every point off by so many pixels in x."""
    n = len(errors)
    truth = np.stack([TRUTH + i for i in range(n)])
    shift = np.array([1, 0], np.float32)
    return Predictions(
        "offset",
        tuple(f"face/{i}" for i in range(n)),
        truth + np.array(errors, np.float32)[:, None, None] * shift,
        np.zeros((n, 3), bool),
        None if scores is None else np.broadcast_to(np.asarray(scores, np.float32), (n, 3)),
        None if before is None else truth + before * shift,
    )


def test_figures_by_hand() -> None:
    # eyes 30 apart, tight box 30 x 30: 1.5 px are 5 %, 3 px 10 %
    report = measure(Evaluation.of([sample(0), sample(1)], offset(1.5, 3.0, before=6.0), THREE))
    assert list(report["errors"]) == ["inter-pupil", "inter-ocular", "box"]
    for entry in report["errors"].values():
        summary = entry[FINAL]["summary"]
        assert (summary["nme"], summary["fr@8"], summary["fr@10"]) == (7.5, 50, 50)
        assert (summary["auc@8"], summary["auc@10"]) == (0.1875, 0.25)
        assert entry[BEFORE]["summary"]["nme"] == 20
        assert entry[FINAL]["groups"] == {"contour": None, "features": 7.5}
        assert entry[FINAL]["per landmark"] == [7.5, 7.5, 7.5]
    assert report["occlusion"] is None
    assert report["calibration"] is None
    assert (report["faces"], report["missed"]) == (2, 0)


def test_visible_and_occluded_points_apart() -> None:
    samples = [sample(0, [2, 2, 1]), sample(1, [2, 1, 1]), sample(2)]  # of the third the data set does not say
    final = offset(0, 0, 0, before=3.0, scores=[0.9, 0.3, 0.1])
    final.points[:, 2, 0] += 1.5
    final.occluded[:, 2] = True
    report = measure(Evaluation.of(samples, final, THREE), ["box"])
    groups = report["errors"]["box"][FINAL]["groups"]
    assert groups["visible"] == 0
    assert groups["occluded"] == pytest.approx(10 / 3)  # 5, 0 and 5 % of the box
    assert report["errors"]["box"][BEFORE]["groups"]["occluded"] == 10
    found = report["occlusion"]
    assert (found["points"], found["occluded"]) == (6, 3)
    assert found["flags"] == {"precision": 1, "recall": pytest.approx(2 / 3)}
    # by rising score: both third points are occluded, then one of the second points (tied) is
    assert found["scores"]["average precision"] == pytest.approx(2 / 3 + 1 / 3 * 3 / 4, abs=1e-6)
    assert found["scores"]["recall@80P"] == pytest.approx(2 / 3, abs=1e-6)
    assert found["scores"]["recall@90P"] == found["scores"]["recall@80P"]
    assert found["scores"]["threshold@80P"] == found["scores"]["threshold@90P"] == pytest.approx(0.9)
    text = markdown(report)
    assert "change by stage 3 |       - |    -8.33 |  -10.00 |    -6.67" in text
    for precision in (80, 90):
        assert f"recall 66.7 % at {precision} % precision (flagging from 0.900 on)" in text


def test_a_data_set_that_calls_every_point_visible_does_not_tell() -> None:
    report = measure(Evaluation.of([sample(0, [2, 2, 2])], offset(0, scores=1), THREE))
    assert report["occlusion"] is None
    assert "visible" not in report["errors"]["box"][FINAL]["groups"]


def test_missed_faces_are_in_no_mean() -> None:
    samples = [sample(0, [2, 2, 1]), sample(1, [2, 2, 1])]
    predicted = offset(1.5, 0, scores=[0.9, 0.9, 0.2]).for_faces(["face/0", "unknown"])
    report = measure(Evaluation(predicted, *_truth(samples), THREE), ["box"])
    entry = report["errors"]["box"][FINAL]
    assert entry["per landmark"] == [5, 5, 5]
    assert entry["groups"] == {"contour": None, "features": 5, "visible": 5, "occluded": 5}
    assert (report["occlusion"]["points"], report["missed"]) == (3, 1)
    assert sum(report["calibration"]["count"]) == 3


def _truth(samples: list[FaceSample]) -> tuple[FloatArray, Any]:
    return np.stack([s.points for s in samples]), np.stack([s.visibility for s in samples if s.visibility is not None])


def test_if_every_face_is_missed_figures_are_none() -> None:
    none = offset(0, 0)
    none.points[:] = np.nan
    report = measure(Evaluation.of([sample(0), sample(1)], none, THREE), ["box"])
    summary = report["errors"]["box"][FINAL]["summary"]
    assert summary["nme"] is None
    assert summary["fr@10"] == 100
    json.dumps(report, allow_nan=False)
    assert "| box        | final  |   - |" in markdown(report)


def test_normalisers_that_the_data_do_not_allow() -> None:
    one_eye = TRUTH.copy()
    one_eye[0] = np.nan
    evaluation = Evaluation.of([sample(0, points=one_eye)], offset(0, scores=1), THREE)
    report = measure(evaluation)
    assert list(report["errors"]) == ["box"]
    assert report["calibration"]["correct"] == "error < 5 % of box"
    with pytest.raises(FacemsmError, match="normaliser inter-ocular: no face can be scored"):
        measure(evaluation, ["inter-ocular"])
    mixed = measure(Evaluation.of([sample(0, points=one_eye), sample(1)], offset(0, 0, scores=1), THREE))
    summary = mixed["errors"]["inter-ocular"][FINAL]["summary"]
    assert (summary["faces"], summary["unscored"]) == (1, 1)
    assert mixed["calibration"]["correct"] == "error < 5 % of inter-ocular, box without it"


def test_a_probability_of_occlusion_is_taken_instead_of_the_scores(tmp_path: Path) -> None:
    samples = [sample(0, [2, 2, 1]), sample(1, [2, 1, 1])]
    found = offset(0, 0, scores=[0.1, 0.5, 0.9])
    found = replace(found, occlusion=np.array([[0.1, 0.4, 0.9], [0.2, 0.8, 0.9]], np.float32))
    save_predictions(tmp_path / "a.npz", found)
    loaded = load_predictions(tmp_path / "a.npz", 3)
    report = measure(Evaluation.of(samples, loaded, THREE), ["box"])
    assert report["occlusion"]["scores"]["average precision"] == 1
    assert report["occlusion"]["scores"]["threshold@80P"] == pytest.approx(0.8)


def test_calibration_by_hand() -> None:
    # face 0 is right (error 0), face 1 wrong (10 %); all claim 0.8, half keep it
    report = measure(Evaluation.of([sample(0), sample(1)], offset(0, 3.0, scores=0.8), THREE))
    assert report["calibration"]["correct"] == "error < 5 % of inter-ocular"
    assert report["calibration"]["ece"] == pytest.approx(0.3, abs=1e-6)
    assert "ECE 30.00 %" in markdown(report)


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    samples = [sample(0, [2, 2, 1]), sample(1, [2, 1, 1])]
    evaluation = Evaluation.of(samples, offset(1.5, 3.0, before=6.0, scores=[0.9, 0.3, 0.1]), THREE)
    written = draw_plots(evaluation, ["box", "inter-pupil"], tmp_path / "x")
    assert [path.name for path in written] == [
        "x-ced-box.png",
        "x-ced-inter-pupil.png",
        "x-precision-recall.png",
        "x-reliability.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


# --- The command -----------------------------------------------------------------------------------------------------

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, command: Run, tmp_path: Path) -> Run:
    """Runs ``facemsm evaluate ARGS`` in an empty folder with the stand-in; exit code, stdout, stderr."""
    monkeypatch.setattr("facemsm.evaluation.dataset.Aligner", SpotAligner)
    monkeypatch.chdir(tmp_path)
    return partial(command, "evaluate")


@pytest.fixture
def faces(tmp_path: Path) -> list[str]:
    """Arguments that name a COCO file of six faces; points are marked up to half a pixel wrong."""
    (tmp_path / "3.toml").write_text(THREE_TOML)
    rng = np.random.default_rng(0)
    samples = []
    for i in range(6):
        labels = (TRUTH + i + rng.uniform(-0.5, 0.5, TRUTH.shape)).astype(np.float32)
        samples.append(sample(i, [2, 2, 1 if i % 2 else 2], labels))
    write_coco(samples, tmp_path / "faces.json", THREE)
    return ["coco", "faces.json", "--scheme", "3.toml"]


def test_a_run_and_its_record(run: Run, faces: list[str]) -> None:
    code, out, err = run(*faces, "--perturb", "0.15,0.25,30", "--seed", "3", "--limit", "4", "-o", "out")
    assert (code, err) == (0, "")
    report = json.loads(Path("out/coco-all.json").read_text())
    assert 0 < report["errors"]["inter-ocular"][FINAL]["summary"]["nme"] < 3
    assert report["run"]["faces"] == {"used": 4, "there": 6, "published": None}
    assert report["run"]["thresholds (%)"] == [8, 10]
    assert report["run"]["normalisers"] == ["inter-pupil", "inter-ocular", "box"]
    made = report["run"]["predictions"]
    assert made["weights"] == SpotAligner.description
    assert made["boxes"] == "provided"
    assert made["perturbation"] == {"shift": 0.15, "scale": 0.25, "rotation": 30.0, "seed": 3}
    assert {"commit", "machine"} <= set(made) & set(report["run"])
    text = Path("out/coco-all.md").read_text(encoding="utf-8")
    assert out.startswith(text)
    assert "| predictions: perturbation: rotation | 30.0" in text
    for line in out[len(text) :].split("\n"):
        if line:
            assert Path(line.removeprefix("written: ")).is_file()


@pytest.mark.slow
def test_the_same_run_gives_the_same_files_and_so_does_scoring_it_again(run: Run, faces: list[str]) -> None:
    perturbed = ["--perturb", "0.15,0.25,30", "--boxes", "gt"]
    assert run(*faces, *perturbed, "-o", "a", "--save-predictions", "p.npz")[0] == 0
    assert run(*faces, *perturbed, "-o", "b")[0] == 0
    assert run(*faces, "--predictions", "p.npz", "-o", "c")[0] == 0
    names = sorted(path.name for path in Path("a").iterdir())
    assert {"coco-all.json", "coco-all.md"} <= set(names)
    for folder in (Path("b"), Path("c")):
        assert sorted(path.name for path in folder.iterdir()) == names
        for name in names:
            assert (folder / name).read_bytes() == (Path("a") / name).read_bytes()


def test_without_matplotlib_there_are_no_plots(run: Run, faces: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facemsm.evaluation.report.find_spec", lambda _: None)
    code, out, err = run(*faces)
    assert code == 0
    assert err.count("\n") == 1
    assert "no plots, as matplotlib is not installed" in err
    assert "written: facemsm-out/evaluation/coco-all.md" in out.replace("\\", "/")
    assert not list(Path("facemsm-out/evaluation").glob("*.png"))


def test_boxes_of_a_detector(run: Run, faces: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facemsm.evaluation.dataset.get_detector", lambda: OneBox())
    code, out, _ = run(*faces, "--boxes", "detector", "--stages", "1,2")
    assert code == 0
    report = json.loads(Path("facemsm-out/evaluation/coco-all.json").read_text())
    assert report["missed"] == 6
    assert report["run"]["predictions"]["boxes"] == "detector (one box)"
    assert BEFORE not in report["errors"]["box"]
    assert "| box          | final  |   - |" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["300w", "."], "300w has several splits: say --split train, common"),
        (["cofw", ".", "--split", "no"], "cofw has no split 'no'"),
        (["nothing", "."], "no data set 'nothing'"),
        (["coco", "faces.json"], "coco may have any landmark scheme"),
        (["FACES", "--normaliser", "width"], "unknown normaliser 'width': use one of inter-pupil"),
        (["FACES", "--perturb", "1"], "expected shift,scale,rotation"),
        (["FACES", "--perturb", ""], "the argument after '--perturb' is empty"),
        (["FACES", "--stages", "a"], "--stages 'a'"),
        (["FACES", "--save-predictions", "p.txt", "--weights", "none"], "p.txt: predictions are saved as .npz"),
        (["FACES", "--predictions", "p.npz", "--boxes", "gt"], "--boxes makes no sense with --predictions"),
        (["FACES", "--predictions", "p.npz", "--save-predictions", "q.npz"], "--save-predictions makes no sense"),
        (["FACES", "--predictions", "none.npz"], "none.npz: no such file"),
        (["FACES", "--predictions", "other.npz"], "other.npz: holds predictions for wflw, not coco"),
        (["coco", "faces.json", "--scheme", "68"], "faces.json"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(run: Run, faces: list[str], args: list[str], words: str) -> None:
    save_predictions(Path("other.npz"), predictions(origin={"data set": "wflw"}))
    code, out, err = run(*(faces if args[0] == "FACES" else args[:1]), *args[1:])
    assert (code, out) == (2, "")
    assert err.startswith("facemsm: ")
    assert words in err
    assert err.count("\n") == 1


def test_weights_of_another_scheme(run: Run, faces: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpotAligner, "scheme", get_scheme("68"))
    assert run(*faces)[2] == "facemsm: weights '68' find scheme 68, the faces have 3\n"


def test_a_published_file_is_scored_without_photos(run: Run, tmp_path: Path) -> None:
    write_cofw68(tmp_path, 4)
    truth = [s.points for s in load_dataset("cofw68", tmp_path, "test")]
    lines = []
    for number in (4, 1, 2):  # any order; the third is missing
        x, y = (truth[number - 1] + 1 + (number == 4)).T
        lines += [str(number), " ".join(map(str, x)), " ".join(map(str, y)), " ".join(["0"] * 68)]
    Path("Method.txt").write_text("\n".join(lines))
    code, _, err = run("cofw68", str(tmp_path), "--predictions", "Method.txt", "--normaliser", "box")
    assert (code, err) == (0, "")
    report = json.loads(Path("facemsm-out/evaluation/cofw68-test.json").read_text())
    assert (report["faces"], report["missed"]) == (4, 1)
    assert report["run"]["predictions"] == {"file": "Method.txt", "data set": "cofw68", "convention": None}
    summary = report["errors"]["box"][FINAL]["summary"]
    size = np.sqrt(np.prod(np.ptp(truth[3], axis=0)))
    assert summary["nme"] == pytest.approx(np.sqrt(2) / size * 100 / 3, abs=1e-4)
    assert (summary["missed"], summary["fr@10"]) == (1, 25)


@pytest.mark.parametrize(
    ("name", "pupil", "ocular", "failures", "flags"),
    [
        ("CFSS_CFOW68.txt", "8.80", "6.28", "9.07", "precision undefined, recall 0.0 %"),
        ("HPM_HelenLfpw_COFW68test.txt", "9.40", "6.72", "6.71", "precision 80.7 %, recall 34.1 %"),
    ],
)
def test_published_predictions_give_the_published_figures(
    run: Run, data_root: Path, name: str, pupil: str, ocular: str, failures: str, flags: str
) -> None:
    root = data_root / "cofw68"
    if not root.is_dir():
        pytest.skip(f"no COFW-68 at {root}")
    code, out, _ = run("cofw68", str(root), "--predictions", str(root / "Results" / name))
    assert code == 0
    assert f"Flags: {flags}" in out
    errors = json.loads(Path("facemsm-out/evaluation/cofw68-test.json").read_text())["errors"]
    assert f"{errors['inter-pupil'][FINAL]['summary']['nme']:.2f}" == pupil
    assert f"{errors['inter-ocular'][FINAL]['summary']['nme']:.2f}" == ocular
    cells = [line.replace(" ", "").split("|") for line in out.splitlines() if line.startswith("| inter-ocular | final")]
    assert (cells[0][3], cells[0][7]) == (ocular, failures)


def test_labels_without_photos_are_scored(run: Run, tmp_path: Path) -> None:
    """Also by thresholds of one's own; to run a model on them is an error that names the photo."""
    truth = np.random.default_rng(0).uniform(20, 90, (4, 68, 2)).astype(np.float32)
    names = [f"a{i}" for i in range(4)]
    for name, points in zip(names, truth, strict=True):
        write_pts(tmp_path / "labels" / f"{name}.pts", points)
    width = np.linalg.norm(truth[:, 36] - truth[:, 45], axis=1)[:, None, None]
    moved = (truth + np.array([0.01, 0.05, 0.075, 0.2])[:, None, None] * width * (1, 0)).astype(np.float32)
    save_predictions(tmp_path / "p.npz", Predictions("m", names, moved, np.zeros((4, 68), np.bool_)))
    args = ["pts", str(tmp_path / "labels"), "--scheme", "68"]
    scored = [*args, "--predictions", str(tmp_path / "p.npz"), "--normaliser", "inter-ocular"]
    code, out, err = run(*scored, "--threshold", "7", "--threshold", "7.8")
    assert (code, err) == (0, "")
    assert "FR@7 | FR@7.8 | AUC@7 | AUC@7.8" in " ".join(out.split())
    report = json.loads(Path("facemsm-out/evaluation/pts-all.json").read_text())
    assert report["run"]["thresholds (%)"] == [7, 7.8]
    assert "| predictions: convention | none" in out  # as in files of the time before there were any
    assert list(report["errors"]["inter-ocular"]) == [FINAL]
    summary = report["errors"]["inter-ocular"][FINAL]["summary"]
    assert (summary["fr@7"], summary["fr@7.8"]) == (50, 25)
    assert summary["auc@7"] == pytest.approx((6 + 2) / 7 / 4, abs=1e-4)
    assert "fr@8" not in summary
    code, _, err = run(*scored, "--threshold", "0")
    assert code == 2
    code, _, err = run(*args)
    assert (code, err.count("\n")) == (2, 1)
    assert "a0.pts: expected one photo" in err


def test_points_are_moved_to_a_convention_once() -> None:
    samples = [replace(sample(i), convention=name) for i, name in enumerate(("aflw2000", "aflw2000/part"))]
    found = run_aligner(spots(), samples)
    assert found.own is not None
    np.testing.assert_allclose(found.own, Convention((0.01, 0.0)).to_labels(found.points), atol=1e-4)
    assert run_aligner(spots(settings=Settings(convention="aflw2000")), samples).own is None
    unknown = [*samples, replace(sample(2), convention="cofw")]
    assert run_aligner(spots(), unknown).own is None  # an error over some of the faces would pass for that of all


def test_errors_in_the_sets_own_convention_stand_beside_the_plain_ones() -> None:
    """Labels that lie to the right by a known share of the face cost nothing in their own convention."""
    shift = (0.05, 0.0)
    samples = [sample(i) for i in range(3)]
    found = run_aligner(spots(settings=Settings(stages=(1, 2))), samples)
    found = replace(found, own=Convention(shift).to_labels(found.points).astype(np.float32))
    off = [replace(one, points=shifted(one.points, shift).astype(np.float32)) for one in samples]
    report = measure(Evaluation.of(off, found, THREE), ["box"])["errors"]["box"]
    assert list(report) == ["final", "in the set's convention"]
    assert report["final"]["summary"]["nme"] == pytest.approx(5.0, abs=0.1)
    assert report["in the set's convention"]["summary"]["nme"] == pytest.approx(0.0, abs=0.1)
    assert list(measure(Evaluation.of(off, replace(found, own=None), THREE), ["box"])["errors"]["box"]) == ["final"]
