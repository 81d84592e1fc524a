"""docs/own-data.md from its first command to its last: ten drawn photos, five points each, and an aligned face."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facemsm import Aligner, get_scheme
from facemsm.apps.cli import main
from facemsm.data.coco import write_coco
from facemsm.data.sample import FaceSample
from facemsm.evaluation.speed import _samples
from facemsm.geometry import tight_box
from facemsm.imaging.io import read_image
from facemsm.results.jsonl import read_results
from facemsm.results.tables import write_pts
from facemsm.schemes import SCHEME_68, relation
from facemsm.shapes.measures import as_68
from synthetic_faces import write_faces

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/own-data.md").read_text(encoding="utf-8")
SHORT = {
    "stgan": "--holdout 0.3 --no-progress --set schedule.batch_size=2",
    "hourglass": "--holdout 0.3 --no-progress --set schedule.batch_size=2 --set network.width=8 --set network.stem=4",
    "dictionary": "",
}
STEPS = " ".join(f"--set schedule.{one}" for one in ("steps=2", "workers=0", "threads=1", "precision=32-true"))

Run = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs a command line in a folder of its own; exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("facemsm.stgan.networks.DISCRIMINATOR_WIDTHS", (4, 4, 8, 8, 8, 8))

    def run_line(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        return int(code), *capfd.readouterr()

    return run_line


@pytest.mark.slow
@pytest.mark.train
def test_own_data_from_ten_photos_to_an_aligned_face(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("onnxscript")
    (text,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    Path("five.toml").write_text(text, encoding="utf-8")
    five = get_scheme("five.toml")
    drawn = write_faces(tmp_path / "drawn", 40)
    Path("photos").mkdir()
    for face in as_five(drawn[:10]):
        shutil.copy(f"drawn/images/{face.name}", "photos")
        write_pts(Path("photos", face.name).with_suffix(".pts"), face.points)
    shutil.copy(ROOT / "src/facemsm/assets/sample.jpg", "photos")  # without points: it is to be aligned only

    assert run("facemsm data convert pts photos/ faces.json --scheme five.toml")[0] == 0
    shutil.copy("faces.json", "test.json")
    ran = []
    for line in (line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()):
        stage = re.match(r"facemsm train (\w+)", line)
        if line.startswith("facemsm data label") or not line.startswith("facemsm"):
            continue
        line = line.partition("  #")[0]
        if stage:
            line += f" {SHORT[stage[1]]} {STEPS if stage[1] != 'dictionary' else ''}"
        code, out, err = run(line)
        ran.append(" ".join(shlex.split(line)[1:3]))
        if line.startswith("facemsm calibrate"):  # ten faces are too few, and that is said
            assert (code, err.count("\n")) == (2, 1)
            assert re.search(r"only \d faces are held out, at least 20 are needed", err)
            continue
        assert code == 0, f"{line}: {out} {err}"
        if line.startswith("facemsm export"):
            assert err == ""
            assert out.splitlines() == [out.strip()]  # the model's folder; nothing of the exporter
    assert {"train stgan", "train hourglass", "train dictionary", "export --stgan", "evaluate coco"} <= set(ran)

    (results,) = Path("facemsm-out").glob("*/landmarks.jsonl")
    aligned = [face for photo in read_results(results) for face in photo.faces]
    assert aligned
    assert all(face.points.shape == (5, 2) for face in aligned)
    aligner = Aligner.from_pretrained("runs/model")
    assert aligner.scheme == five
    photo = read_image("photos/face_0.png")
    (found,) = aligner.align(photo, tight_box(drawn[0].points)[None])
    np.testing.assert_allclose(as_68(found.points, aligner.scheme)[[30, 48, 54]], found.points[2:], atol=1e-3)

    # what takes a model must not look its scheme up by its name
    assert run("facemsm quantise runs/model -o runs/int8 --data coco=faces.json:all --faces 4")[0] == 0
    assert len(_samples(aligner, "coco=faces.json:all", 3)) == 3
    line = "facemsm data label --data coco=faces.json:all --weights runs/model -o new.json"
    assert run(f"{line} --score 0 --spread 99 --change 99")[0] == 0
    write_coco(as_five(drawn), Path("more.json"), five)
    code, out, err = run("facemsm calibrate runs/model --data coco=more.json:all --holdout 0.8")
    assert code == 0, err
    assert "calibrated: runs/model" in out
    assert Aligner.from_pretrained("runs/model").method == "calibrated"


def as_five(faces: Sequence[FaceSample]) -> list[FaceSample]:
    weights = relation(SCHEME_68, get_scheme("five.toml"))
    return [replace(face, points=weights @ face.points) for face in faces]
