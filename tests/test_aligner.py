from __future__ import annotations

import copy
import json
import multiprocessing
import pickle
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from facemsm import Aligner, Face, FacemsmError
from facemsm.assets import SAMPLE
from facemsm.confidence.model import FEATURES, Calibration, Logistic
from facemsm.geometry import apply_affine, box_scale, box_to_crop, compose, invert, similarity, theta_to_matrix
from facemsm.imaging.io import read_image
from facemsm.imaging.warping import warp
from facemsm.runtime.model import MANIFEST, write_calibration
from facemsm.schemes import SCHEME_68
from facemsm.shapes.dictionary import ShapeDictionary
from facemsm.shapes.posterior import learn_prior
from facemsm.shapes.reconstruction import Reconstruction
from facemsm.stages import Settings
from facemsm.typing import FloatArray, Image
from facemsm.weights import WEIGHTS

BOX = [180.0, 87.0, 273.0, 179.0]


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    return Aligner.from_pretrained("68", keep=("heatmaps", "canonical"))


@pytest.fixture(scope="module")
def uncalibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled networks without a calibration."""
    folder = Path(shutil.copytree(WEIGHTS / "68", tmp_path_factory.mktemp("uncalibrated") / "model"))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.pop("calibration", None)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def calibrated(uncalibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with one made by hand: a point is right if it is bright, and hidden if its neighbours are dark, too."""
    folder = Path(shutil.copytree(uncalibrated, tmp_path_factory.mktemp("calibrated") / "model"))
    prior = learn_prior(ShapeDictionary.load(folder / "dictionary.safetensors").shapes, SCHEME_68)
    names = ("uncertainty", "uncertainty near")
    uncertain, near = (np.array([float(name == feature) for feature in FEATURES]) for name in names)
    correct, hidden = Logistic(-5 * uncertain, np.full(68, 2.0)), Logistic(8 * uncertain + 8 * near, np.full(68, -4.0))
    write_calibration(folder, Calibration((-2.0, 8.0, 5.0), correct, hidden, 0.5, "posterior"), prior)
    return folder


@pytest.fixture(scope="module")
def photo() -> Image:
    return read_image(SAMPLE)


@pytest.fixture(scope="module")
def face(aligner: Aligner, photo: Image) -> Face:
    return aligner.align(photo, [BOX])[0]


def distance(a: FloatArray, b: FloatArray) -> float:
    return float(np.linalg.norm(a - b, axis=-1).mean())


def inter_ocular(points: FloatArray) -> float:
    return float(np.linalg.norm(points[36] - points[45]))


def test_what_a_face_holds(face: Face) -> None:
    assert [a.shape for a in (face.points, face.scores, face.occluded)] == [(68, 2), (68,), (68,)]
    assert [str(a.dtype) for a in (face.points, face.scores, face.occluded)] == ["float32", "float32", "bool"]
    assert face.scores.min() >= 0
    assert face.scores.max() <= 1
    assert face.box.tolist() == BOX
    assert face.theta.shape == (2, 3)
    assert face.heatmaps is not None
    assert face.heatmaps.shape == (68, 64, 64)
    assert face.canonical is not None
    assert face.canonical.shape == (128, 128, 3)


def test_landmarks_lie_where_the_face_has_them(face: Face) -> None:
    right_eye, left_eye, mouth = (face.points[s].mean(0) for s in (slice(36, 42), slice(42, 48), slice(48, 68)))
    # measured by hand in the photo, in pixels
    assert np.linalg.norm(right_eye - (204, 101)) < 6
    assert np.linalg.norm(left_eye - (247, 103)) < 6
    assert np.linalg.norm(mouth - (224, 146)) < 6


def test_detector_and_box_agree(aligner: Aligner, face: Face) -> None:
    (found,) = aligner.align(SAMPLE)
    assert found.detection_score is not None
    assert distance(found.points, face.points) < 0.05 * inter_ocular(face.points)


def test_boxes_may_be_loose_and_faces_turned(aligner: Aligner, photo: Image, face: Face) -> None:
    loose = aligner.align(photo, [[168.0, 60.0, 290.0, 195.0]])[0]
    assert distance(loose.points, face.points) < 0.05 * inter_ocular(face.points)
    turn = similarity(np.deg2rad(25), centre=(227, 130))
    turned = aligner.align(warp(photo, turn, 512), [BOX])[0]
    expected = apply_affine(turn, face.points).astype(np.float32)
    assert distance(turned.points, expected) < 0.06 * inter_ocular(face.points)


@pytest.mark.parametrize("angle", [90, 180, -140])
def test_a_face_may_lie_or_stand_on_its_head(aligner: Aligner, photo: Image, face: Face, angle: float) -> None:
    turn = similarity(np.deg2rad(angle), centre=(227, 133))
    (turned,) = aligner.align(warp(photo, turn, 512), [BOX])
    expected = apply_affine(turn, face.points).astype(np.float32)
    assert distance(turned.points, expected) < 0.06 * inter_ocular(face.points)
    test_theta_takes_canonical_points_to_the_photo(aligner, turned)
    (as_the_paper,) = Aligner(aligner.model, settings=Settings(retry=False)).align(warp(photo, turn, 512), [BOX])
    assert distance(as_the_paper.points, expected) > 0.3 * inter_ocular(face.points)


def test_batch_gives_the_same_numbers_as_one_by_one(aligner: Aligner, photo: Image) -> None:
    small = np.ascontiguousarray(photo[20:300, 100:360])
    boxes = [[BOX, [175.0, 70.0, 280.0, 185.0]], [[80.0, 67.0, 173.0, 159.0]], []]
    images: list[Path | Image] = [photo, small, SAMPLE]
    many = aligner.align_batch(images, boxes)
    assert [len(faces) for faces in many] == [2, 1, 0]
    single = [aligner.align(image, given) for image, given in zip(images, boxes, strict=True)]
    for together, alone in zip(many, single, strict=True):
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a.points, b.points, atol=1e-3)
            np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
            assert (a.occluded == b.occluded).all()


def test_threads_share_the_faces(photo: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = [BOX, [175.0, 70.0, 280.0, 185.0], [170.0, 80.0, 270.0, 180.0]]
    alone = Aligner.from_pretrained("68").align(photo, boxes)
    several = Aligner.from_pretrained("68", threads=2)
    seen: list[tuple[int, int]] = []
    work = several._align

    def noted(jobs: Sequence[Any], settings: Settings) -> list[Face]:
        seen.append((threading.get_ident(), len(jobs)))
        return work(jobs, settings)

    monkeypatch.setattr(several, "_align", noted)
    shared = several.align(photo, boxes)
    assert sorted(count for _, count in seen) == [1, 2]
    assert threading.get_ident() not in {thread for thread, _ in seen}
    for a, b in zip(shared, alone, strict=True):
        assert (a.points == b.points).all()
        assert (a.scores == b.scores).all()


def test_more_faces_than_fit_one_batch(aligner: Aligner, photo: Image, face: Face) -> None:
    faces = aligner.align(photo, [BOX] * 33)
    assert len(faces) == 33
    np.testing.assert_allclose(faces[32].points, face.points, atol=1e-3)


def test_theta_takes_canonical_points_to_the_photo(aligner: Aligner, face: Face) -> None:
    """Eq. 2: θ maps the canonical face's points to the crop; the crop's map takes them on to the photo."""
    assert face.heatmaps is not None
    canonical = aligner.model.codec.decode(face.heatmaps).points
    crop_to_photo = invert(box_to_crop(face.box, 128))
    to_photo = compose(crop_to_photo, theta_to_matrix(face.theta.astype(np.float64), 128))
    np.testing.assert_allclose(apply_affine(to_photo, canonical), face.preliminary, atol=0.01)


def test_stages_off(photo: Image, face: Face, uncalibrated: Path) -> None:
    without_shapes = Aligner.from_pretrained(uncalibrated, stages=(1, 2)).align(photo, [BOX])[0]
    assert not without_shapes.occluded.any()
    np.testing.assert_array_equal(without_shapes.points, without_shapes.preliminary)
    np.testing.assert_allclose(without_shapes.points, face.preliminary, atol=1e-3)
    without_turn = Aligner.from_pretrained("68", stages=(2,)).align(photo, [BOX])[0]
    np.testing.assert_allclose(without_turn.theta, [[0.8, 0, 0], [0, 0.8, 0]], atol=1e-6)
    assert without_turn.heatmaps is None


def test_a_calibrated_model_says_what_it_knows(photo: Image, uncalibrated: Path, calibrated: Path) -> None:
    behind = photo.copy()
    behind[125:190, 160:300] = 40  # a dark card over mouth and chin
    (face,) = Aligner.from_pretrained(calibrated).align(behind, [BOX])
    (raw,) = Aligner.from_pretrained(uncalibrated).align(behind, [BOX])
    assert raw.occlusion is None
    assert raw.intensity is not None
    assert face.occlusion is not None
    assert face.occluded[48:68].mean() > 0.8
    assert not face.occluded[36:48].any()
    np.testing.assert_array_equal(face.occluded, face.occlusion >= 0.5)
    np.testing.assert_allclose(face.scores, 1 / (1 + np.exp(5 * (1 - raw.intensity) - 2)), atol=1e-4)
    np.testing.assert_allclose(face.preliminary, raw.preliminary, atol=1e-3)
    (seen,) = Aligner.from_pretrained(calibrated, stages=(1, 2)).align(behind, [BOX])
    np.testing.assert_array_equal(seen.points, seen.preliminary)
    np.testing.assert_allclose(seen.scores, face.scores, atol=1e-4)


def test_both_methods(photo: Image, uncalibrated: Path, calibrated: Path) -> None:
    strict = {"contour": 0.95, "features": 0.95}
    (bare,) = Aligner.from_pretrained(uncalibrated, method="paper", thresholds=strict).align(photo, [BOX])
    aligner = Aligner.from_pretrained(calibrated)
    assert aligner.method == "calibrated"
    per_call = Settings("paper", reconstruction=Reconstruction.with_thresholds(strict))
    for paper in (
        Aligner.from_pretrained(calibrated, method="paper", thresholds=strict).align(photo, [BOX])[0],
        aligner.align(photo, [BOX], settings=per_call)[0],
    ):
        for name in ("points", "scores", "occluded", "rebuilt"):
            np.testing.assert_array_equal(getattr(paper, name), getattr(bare, name))
    (face,) = aligner.align(photo, [BOX])  # one call's settings do not stay
    moved = np.linalg.norm(face.points - face.preliminary, axis=1)
    assert face.rebuilt is None
    assert (moved > 0).mean() > 0.9
    assert moved.mean() < 0.05 * inter_ocular(face.points)


def test_a_calibrated_batch_gives_the_same_numbers(photo: Image, calibrated: Path) -> None:
    aligner = Aligner.from_pretrained(calibrated)
    boxes = [BOX, [175.0, 70.0, 280.0, 185.0], [168.0, 60.0, 290.0, 195.0]]
    for together, box in zip(aligner.align(photo, boxes), boxes, strict=True):
        (alone,) = aligner.align(photo, [box])
        np.testing.assert_allclose(together.points, alone.points, atol=1e-3)
        np.testing.assert_allclose(together.scores, alone.scores, atol=1e-4)
        assert together.occlusion is not None
        assert alone.occlusion is not None
        np.testing.assert_allclose(together.occlusion, alone.occlusion, atol=1e-4)


def test_only_flagged_points_are_rebuilt(photo: Image, uncalibrated: Path) -> None:
    strict = Aligner.from_pretrained(uncalibrated, method="paper", thresholds={"contour": 0.95, "features": 0.95})
    face = strict.align(photo, [BOX])[0]
    moved = np.linalg.norm(face.points - face.preliminary, axis=1) > 1e-3
    assert face.occluded.any()
    assert not (moved & ~face.occluded).any()
    never = Aligner.from_pretrained(uncalibrated, method="paper", thresholds={"contour": 0.0, "features": 0.0}).align(
        photo, [BOX]
    )[0]
    assert not never.occluded.any()


def test_photos_without_faces(aligner: Aligner) -> None:
    assert aligner.align(np.zeros((1, 1, 3), np.uint8)) == []
    assert aligner.align(np.full((200, 300, 3), 127, np.uint8)) == []
    assert aligner.align_batch([]) == []


def test_a_box_reaching_past_the_photo_is_aligned(aligner: Aligner, photo: Image) -> None:
    cut = np.ascontiguousarray(photo[100:, 200:])
    (half,) = aligner.align(cut, [[-20.0, -25.0, 75.0, 85.0]])
    assert np.isfinite(half.points).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stages": (1, 3)}, "stages"),
        ({"stages": (2, 4)}, "stages"),
        ({"keep": ("everything",)}, "keep"),
        ({"method": "paper", "thresholds": {"nose": 0.5}}, "thresholds"),
        ({"thresholds": {"contour": 0.5}}, "method='paper'"),
        ({"method": "magic"}, "method is 'magic'"),
        ({"settings": Settings(), "stages": (1, 2, 3)}, "^stages is given beside settings"),
        ({"settings": Settings(), "method": "paper"}, "^method is given beside settings"),
        ({"settings": Settings(method="paper"), "thresholds": {"contour": 0.5}}, "^thresholds is given beside"),
        ({"threads": 0}, "threads"),
        ({"threads": 10**9}, "threads is 1000000000, expected a whole number from 1 to 1024"),
        ({"name": "67"}, "no model '67'"),
        ({"name": None}, "no model None: bundled are 68, 68-large, 98"),
        ({"name": b"68"}, "no model b'68'"),
        ({"stages": "1,2"}, "stages are '1,2'"),
        ({"stages": 2}, "stages are 2"),
        ({"stages": [[2]]}, "stages are"),
        ({"keep": "heatmaps"}, "keep is 'heatmaps'"),
        ({"keep": None}, "keep is None"),
        ({"threads": "2"}, "threads is '2', expected a whole number"),
        ({"threads": None}, "threads is None"),
        ({"method": "paper", "thresholds": {"contour": "x"}}, "contour_threshold is 'x', expected a number"),
        ({"method": "paper", "thresholds": 0.5}, "thresholds are 0.5"),
        ({"detector": "nobody"}, "unknown face detector 'nobody'"),
        ({"detector": 5}, "detector is 5"),
        ({"settings": {"method": "paper"}}, "settings are"),
    ],
)
def test_unknown_options_are_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(FacemsmError, match=said):
        Aligner.from_pretrained(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "boxes", [[[0, 0, np.nan, 9]], [[50, 50, 10, 90]], [[9000, 9000, 9100, 9100]], [[1, 2, 3]], "face"]
)
def test_bad_boxes_are_refused(aligner: Aligner, photo: Image, boxes: object) -> None:
    with pytest.raises(FacemsmError, match="box"):
        aligner.align(photo, boxes)  # type: ignore[arg-type]


def test_the_largest_and_smallest_boxes_give_finite_points(aligner: Aligner, photo: Image) -> None:
    extremes = [[0, 0, 1e6, 1e6], [-1e6, -1e6, 1e6, 1e6], [100, 100, 100 + 1e-9, 100 + 1e-9], [100, 0, 100.5, 1e6]]
    for face in aligner.align(photo, extremes):
        assert np.isfinite(face.points).all()


def test_a_detector_by_its_name(aligner: Aligner, photo: Image) -> None:
    (found,) = Aligner.from_pretrained("68", detector="centerface").align(photo)
    (face,) = aligner.align(photo)
    np.testing.assert_array_equal(found.points, face.points)


def test_photos_and_boxes_of_generators(aligner: Aligner, photo: Image) -> None:
    ((made,),) = aligner.align_batch((image for image in [photo]), (boxes for boxes in [[BOX]]))
    np.testing.assert_array_equal(made.points, aligner.align(photo, [BOX])[0].points)


def test_as_many_box_lists_as_photos(aligner: Aligner, photo: Image) -> None:
    with pytest.raises(FacemsmError, match="2 photos, but there are 1"):
        aligner.align_batch([photo], [None, None])


def test_points_in_the_convention_of_a_data_set(uncalibrated: Path, photo: Image, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(uncalibrated, tmp_path / "model"))
    fields = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**fields, "conventions": {"300w": [0.01, -0.002]}}))
    aligner = Aligner.from_pretrained(folder)
    (consensus,) = aligner.align(photo, [BOX])
    (own,) = aligner.align(photo, [BOX], settings=Settings(convention="300w"))
    scale = box_scale(consensus.points)
    np.testing.assert_allclose(own.points - consensus.points, np.full((68, 2), (0.01, -0.002)) * scale, atol=1e-3)
    for unknown in ("cofw", "300w/lfpw"):
        with pytest.raises(FacemsmError, match=f"no convention '{unknown}': the model knows 300w"):
            aligner.align(photo, [BOX], settings=Settings(convention=unknown))
    for wrong in ("", 3, ["300w"]):
        with pytest.raises(FacemsmError, match=r"convention is .*: give the name of a data set, or None"):
            Settings(convention=cast(Any, wrong))


def _points_of(aligner: Aligner, photo: Image) -> FloatArray:
    return np.stack([face.points for face in aligner.align(photo, [BOX] * 3)])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_used_aligner_survives_a_fork(photo: Image) -> None:
    """As in a DataLoader's workers, under gunicorn or in multiprocessing: threads do not survive a fork."""
    aligner, context = Aligner.from_pretrained("68", threads=2), multiprocessing.get_context("fork")
    here = _points_of(aligner, photo), [face.points for face in aligner.align(photo)]
    queue = context.Queue()  # nothing is pickled on the way in
    child = context.Process(
        target=lambda: queue.put((_points_of(aligner, photo), [face.points for face in aligner.align(photo)]))
    )
    child.start()
    there = queue.get(timeout=120)
    child.join(30)
    np.testing.assert_array_equal(here[0], there[0])
    np.testing.assert_array_equal(here[1], there[1])


def test_an_aligner_goes_to_a_new_process(photo: Image) -> None:
    aligner = Aligner.from_pretrained("68", threads=2)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply_async(_points_of, (aligner, photo)).get(timeout=120)
    np.testing.assert_array_equal(_points_of(aligner, photo), there)


@pytest.mark.parametrize("made", [copy.copy, copy.deepcopy, lambda aligner: pickle.loads(pickle.dumps(aligner))])
def test_copies_are_aligners_with_the_same_settings(made: Any, photo: Image) -> None:
    aligner = Aligner.from_pretrained("68", method="paper", threads=2, keep=("canonical",))
    (expected,) = aligner.align(photo, [BOX])
    twin = made(aligner)
    assert (twin.settings, twin.keep, twin.threads) == (aligner.settings, aligner.keep, 2)
    np.testing.assert_array_equal(twin.align(photo, [BOX])[0].points, expected.points)


def test_a_broken_photo_does_not_cost_the_others(aligner: Aligner, photo: Image, face: Face) -> None:
    photos: list[Any] = [photo, b"no photo", photo]
    boxes: list[Any] = [[face.box], None, [[9, 9, 1, 1]]]
    first, second, third = aligner.align_batch(photos, boxes, errors="return")
    assert isinstance(first, list)
    np.testing.assert_allclose(first[0].points, face.points, atol=1e-3)
    assert "image 1" in str(second)
    assert isinstance(third, FacemsmError)
    assert "has no area" in str(third)
    with pytest.raises(FacemsmError, match="image 1"):
        aligner.align_batch(photos, boxes)
    with pytest.raises(FacemsmError, match="choose raise or return"):
        aligner.align_batch(photos, boxes, errors="ignore")  # type: ignore[call-overload]
    for images in (None, "a.jpg", b"a", 5):
        with pytest.raises(FacemsmError, match="give a list of photos"):
            aligner.align_batch(images)  # type: ignore[arg-type]


def test_boxes_in_shares_of_the_photo_get_a_warning(aligner: Aligner, photo: Image) -> None:
    with pytest.warns(UserWarning, match="give pixels"):
        aligner.align(photo, [[0.3, 0.1, 0.6, 0.4]])
