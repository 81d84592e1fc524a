"""Labels made by a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from facemsm.aligner import Aligner
from facemsm.apps.cli import app
from facemsm.assets import SAMPLE, SAMPLE_BOX
from facemsm.data.catalogue import load_dataset
from facemsm.data.sample import FaceSample
from facemsm.evaluation.pseudo_labels import Rejection, label
from facemsm.schemes import VISIBLE


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    return Aligner.from_pretrained("68")


@pytest.fixture
def unlabelled() -> FaceSample:
    return FaceSample("sample_0", SAMPLE, SAMPLE_BOX, "detector", np.full((68, 2), np.nan, np.float32))


def test_a_face_gets_the_points_that_the_model_finds(aligner: Aligner, unlabelled: FaceSample) -> None:
    (face,) = label(aligner, [unlabelled])
    assert face
    found = aligner.align(SAMPLE, [SAMPLE_BOX])[0].points
    size = np.ptp(found, axis=0).max()
    assert np.linalg.norm(face.points - found, axis=1).mean() < 0.01 * size  # views mirrored back, turned back
    np.testing.assert_allclose(face.box, [*face.points.min(0), *face.points.max(0)])
    assert face.visibility is not None
    assert (face.visibility == VISIBLE).mean() > 0.9


def test_doubtful_faces_are_left_out(aligner: Aligner, unlabelled: FaceSample) -> None:
    assert [*label(aligner, [unlabelled], rejection=Rejection(spread=1e-4))] == [None]
    assert [*label(aligner, [unlabelled], rejection=Rejection(score=1.01))] == [None]
    elsewhere = replace(unlabelled, points=np.zeros((68, 2), np.float32))
    assert [*label(aligner, [elsewhere])] == [None]


def test_the_command_writes_what_training_reads(tmp_path: Path) -> None:
    output = tmp_path / "faces.json"
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    result = CliRunner().invoke(app, ["data", "label", str(SAMPLE), str(broken), "-o", str(output)])
    assert result.exit_code == 0, result.output
    assert f"{output}: 1 faces; 0 left out" in result.output
    assert str(broken) in result.output
    (face,) = load_dataset("coco", output, "all", "gt", "68")
    assert np.isfinite(face.points).all()


def test_a_broken_photo_of_a_data_set_is_told_and_skipped(tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(SAMPLE.read_bytes())
    photos = [str(tmp_path / name) for name in ("a.jpg", "b.jpg")]
    assert CliRunner().invoke(app, ["data", "label", *photos, "-o", str(first)]).exit_code == 0
    (tmp_path / "a.jpg").write_bytes(b"no photo")
    result = CliRunner().invoke(app, ["data", "label", "--data", f"ytf={tmp_path}:train", "-o", str(second)])
    assert result.exit_code != 0  # there is no train.json
    first.rename(tmp_path / "train.json")
    result = CliRunner().invoke(app, ["data", "label", "--data", f"ytf={tmp_path}:train", "-o", str(second)])
    assert result.exit_code == 0, result.output
    assert f"{second}: 1 faces; 0 left out as doubtful, 1 because of their photo" in result.output
    assert "a.jpg" in result.output


def test_nothing_to_label_is_said(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["data", "label", "-o", str(tmp_path / "faces.json")])
    assert result.exit_code != 0
    assert "nothing to label" in str(result.exception)
