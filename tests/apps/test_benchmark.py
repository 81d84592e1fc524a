from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from facemsm import FacemsmError
from facemsm.apps.benchmark import app
from facemsm.evaluation import speed
from facemsm.evaluation.speed import Finder, _compare, _network
from facemsm.typing import FloatArray
from facemsm.weights import WEIGHTS


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "BATCHES", (1, 2))
    monkeypatch.setattr(speed, "ROUNDS", 2)


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_the_default_run(tmp_path: Path) -> None:
    network = WEIGHTS / "68" / "stgan.onnx"
    run = CliRunner().invoke(app, ["--faces", "2", "--onnx", str(network), "-o", str(tmp_path)])
    assert run.exit_code == 0, run.output
    report = json.loads((tmp_path / "benchmark.json").read_text())
    assert {"machine", "commit", "stages", "batches", "methods"} <= set(report)
    assert report["stages"]["all stages, box to landmarks"] > report["stages"]["stage 2, network and reading"] / 2
    assert set(report["batches"]) == {"1", "2"}
    methods = {row["method"]: row for row in report["methods"]}
    assert methods["facemsm 68"]["ratio"] == 1
    assert methods["facemsm 68"]["inter-ocular NME, %"] is None  # the sample photo has no labels
    assert methods["facemsm 68"]["MB"] == pytest.approx(
        sum(f.stat().st_size for f in network.parent.glob("*.onnx")) / 1e6
    )
    assert methods["stgan.onnx"]["ratio"] < 1
    assert (tmp_path / "benchmark.md").read_text() in run.output
    if "start" in report:
        assert report["start"]["peak memory, MB"] < 250


def test_methods_take_turns_and_errors_stand_beside_times() -> None:
    from facemsm import Aligner
    from facemsm.data.sample import FaceSample

    aligner = Aligner.from_pretrained("68")
    rng = np.random.default_rng(0)
    photo = np.zeros((100, 100, 3), np.uint8)
    samples = [
        FaceSample(str(i), lambda: photo, np.array([0, 0, 99, 99], np.float32), "gt", points, None, {})
        for i, points in enumerate(rng.uniform(0, 99, (3, 68, 2)).astype(np.float32))
    ]
    turns: list[str] = []
    truth = iter([samples[0].points, *(sample.points for sample in samples)])

    def perfect(*_: object) -> FloatArray:
        turns.append("perfect")
        return next(truth)

    def silent(*_: object) -> None:
        turns.append("silent")

    methods = [Finder("perfect", perfect, 1.0, ""), Finder("silent", silent, None, "")]
    rows = _compare(methods, samples, [photo] * 3, aligner, labelled=True)
    assert turns == ["perfect", "silent"] * 4  # the first turn warms up
    assert [row["inter-ocular NME, %"] for row in rows] == [0.0, None]


def test_a_file_that_is_no_network_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(FacemsmError, match=r"x\.onnx"):
        _network(tmp_path / "x.onnx")
