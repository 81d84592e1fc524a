"""The mean of runs' weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from facemsm import FacemsmError  # noqa: E402
from facemsm.apps.train import app  # noqa: E402
from facemsm.hourglass.network import HourglassConfig, StackedHourglass  # noqa: E402
from facemsm.hourglass.training import HourglassTraining, load_hourglass  # noqa: E402
from facemsm.schemes import SCHEME_29, SCHEME_68, LandmarkScheme  # noqa: E402
from facemsm.stgan.networks import Generator  # noqa: E402
from facemsm.stgan.training import STGANTraining  # noqa: E402
from facemsm.training.config import as_json  # noqa: E402
from facemsm.training.mean import mean_of_runs  # noqa: E402
from facemsm.training.weights import load_weights, read_notes, save_weights, write_tensors  # noqa: E402


def write_run(folder: Path, seed: int, scheme: LandmarkScheme = SCHEME_68, sigma: float = 1.5, **network: Any) -> Path:
    """A run that ended with random weights, after ``seed`` batches."""
    torch.manual_seed(seed)
    shape = HourglassConfig(68, **{"width": 16, "depth": 1, "stem": 8, **network})
    made = StackedHourglass(shape)
    for name, buffer in made.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.fill_(seed)
    folder.mkdir()
    save_weights(made, folder / "best.safetensors", scheme, {"300w": [seed / 100, 0.0]})
    (folder / "config.json").write_text(as_json(HourglassTraining(shape, sigma=sigma)), encoding="utf-8")
    return folder


@pytest.mark.parametrize("shares", [(), (1, 1, 1), (0.25, 0.75, 1)])
def test_every_weight_is_the_mean_and_the_rest_is_the_first_runs(tmp_path: Path, shares: Sequence[float]) -> None:
    runs = [write_run(tmp_path / str(seed), seed) for seed in (1, 2, 3)]
    mean_of_runs(tmp_path / "mean", runs, shares=shares)
    found, *parts = (load_hourglass(run, 68).state_dict() for run in (tmp_path / "mean", *runs))
    weights = torch.tensor(shares or (1, 1, 1), dtype=torch.float64)
    weights /= weights.sum()
    for name, tensor in found.items():
        if tensor.is_floating_point():
            expected = sum(weight * part[name].double() for weight, part in zip(weights, parts, strict=True))
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)
        else:
            assert int(tensor) == 1
    assert read_notes(tmp_path / "mean" / "best.safetensors") == read_notes(runs[0] / "best.safetensors")
    assert json.loads((tmp_path / "mean" / "config.json").read_text()) == json.loads(
        (runs[0] / "config.json").read_text()
    )


def test_float16_weights_come_out_in_float32(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(seed), seed) for seed in (1, 2)]
    for run in runs:
        halved = load_hourglass(run, 68).half()
        save_weights(halved, run / "best.safetensors", SCHEME_68)
    mean_of_runs(tmp_path / "mean", runs)
    found = load_file(tmp_path / "mean" / "best.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32, torch.int64}


def test_sums_lose_nothing_to_float16(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(seed), seed) for seed in range(1, 6)]
    for run in runs:
        save_weights(load_hourglass(run, 68).half(), run / "best.safetensors", SCHEME_68)
    mean_of_runs(tmp_path / "mean", runs)
    found, *parts = (load_file(run / "best.safetensors") for run in (tmp_path / "mean", *runs))
    for name, tensor in found.items():
        if tensor.is_floating_point():
            expected = torch.stack([part[name].double() for part in parts]).mean(0)
            torch.testing.assert_close(tensor, expected.float(), rtol=2e-7, atol=1e-12)


def test_the_mean_of_a_run_with_itself_is_the_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1)
    mean_of_runs(tmp_path / "mean", [run, run], shares=(0.1, 0.7))
    for name, tensor in load_hourglass(run, 68).state_dict().items():
        assert torch.equal(load_hourglass(tmp_path / "mean", 68).state_dict()[name], tensor)


def test_stage_1_has_a_mean_too(tmp_path: Path) -> None:
    runs = [tmp_path / "a", tmp_path / "b"]
    for run in runs:
        run.mkdir()
        save_weights(Generator(), run / "best.safetensors")
        (run / "config.json").write_text(as_json(STGANTraining()), encoding="utf-8")
    mean_of_runs(tmp_path / "mean", runs)
    load_weights(Generator(), tmp_path / "mean" / "best.safetensors")


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"width": 24}, "another network"),
        ({"sigma": 2.0}, "another sigma"),
        ({"scheme": SCHEME_29}, "another landmark scheme"),
    ],
)
def test_runs_that_do_not_fit_are_refused(tmp_path: Path, other: dict[str, Any], says: str) -> None:
    runs = [write_run(tmp_path / "a", 1), write_run(tmp_path / "b", 2, **other)]
    with pytest.raises(FacemsmError, match=f"{re.escape(str(runs[1]))}: .*{says}"):
        mean_of_runs(tmp_path / "mean", runs)
    assert not (tmp_path / "mean").exists()


def test_own_schemes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    scheme = replace(SCHEME_68, name="mine")
    other = replace(scheme, names=("tip", *scheme.names[1:]))
    runs = [write_run(tmp_path / "a", 1, scheme), write_run(tmp_path / "b", 2, other)]
    mean_of_runs(tmp_path / "same", [runs[0], runs[0]])
    with pytest.raises(FacemsmError, match="another landmark scheme"):
        mean_of_runs(tmp_path / "mean", runs)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "stem.0.weight"},
            "other tensors",
        ),
        (lambda tensors: {**tensors, "stem.0.weight": tensors["stem.0.weight"][1:]}, "other tensors"),
        (lambda tensors: {**tensors, "stem.0.weight": tensors["stem.0.weight"].int()}, "other tensors"),
        (lambda tensors: {**tensors, "stem.0.weight": tensors["stem.0.weight"] * float("nan")}, "not finite"),
        (lambda tensors: {**tensors, "stem.0.weight": tensors["stem.0.weight"] / 0}, "not finite"),
    ],
)
def test_weights_that_make_no_mean_are_refused(tmp_path: Path, change: Callable[..., Any], says: str) -> None:
    runs = [write_run(tmp_path / str(seed), seed) for seed in (1, 2)]
    path = runs[1] / "best.safetensors"
    write_tensors(path, change(load_file(path)), read_notes(path))
    with pytest.raises(FacemsmError, match=f"{re.escape(str(runs[1]))}: .*{says}"):
        mean_of_runs(tmp_path / "mean", runs)
    assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize("shares", [(1e308, 1e308), (5e-324, 5e-324)])
def test_the_size_of_shares_does_not_matter(tmp_path: Path, shares: Sequence[float]) -> None:
    runs = [write_run(tmp_path / str(seed), seed) for seed in (1, 2)]
    for name, given in (("a", ()), ("b", shares)):
        mean_of_runs(tmp_path / name, runs, shares=given)
    assert (tmp_path / "a/best.safetensors").read_bytes() == (tmp_path / "b/best.safetensors").read_bytes()


def test_an_output_that_cannot_be_written_is_one_line_and_leaves_no_half(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(seed), seed) for seed in (1, 2)]
    (tmp_path / "file").write_bytes(b"")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FacemsmError, match="file"):
            mean_of_runs(output, runs)
    (tmp_path / "mean/config.json").mkdir(parents=True)
    with pytest.raises(FacemsmError, match=r"config\.json"):
        mean_of_runs(tmp_path / "mean", runs)
    assert [path.name for path in (tmp_path / "mean").iterdir()] == ["config.json"]


@pytest.mark.parametrize("shares", [(1,), (1, 0), (1, -1), (1, float("nan")), (1, float("inf"))])
def test_shares_that_make_no_mean_are_refused(tmp_path: Path, shares: Sequence[float]) -> None:
    runs = [write_run(tmp_path / str(seed), seed) for seed in (1, 2)]
    with pytest.raises(FacemsmError, match="share"):
        mean_of_runs(tmp_path / "mean", runs, shares=shares)


def test_one_run_or_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1)
    with pytest.raises(FacemsmError, match="at least two runs"):
        mean_of_runs(tmp_path / "mean", [run])
    for named in (tmp_path / "missing", run / "best.safetensors"):
        with pytest.raises(FacemsmError, match="no such file; name the run's folder"):
            mean_of_runs(tmp_path / "mean", [run, named])
    broken = write_run(tmp_path / "broken", 2)
    (broken / "best.safetensors").write_bytes(b"{}")
    with pytest.raises(FacemsmError, match=r"broken.*cannot be read as weights"):
        mean_of_runs(tmp_path / "mean", [run, broken])


@pytest.mark.parametrize("file", ["best.safetensors", "last.ckpt"])
def test_a_run_is_not_overwritten(tmp_path: Path, file: str) -> None:
    runs = [write_run(tmp_path / str(seed), seed) for seed in (1, 2)]
    output = tmp_path / "mean"
    output.mkdir()
    (output / file).write_bytes(b"kept")
    with pytest.raises(FacemsmError, match="holds a run already"):
        mean_of_runs(output, runs)
    assert [path.name for path in output.iterdir()] == [file]
    assert (output / file).read_bytes() == b"kept"


def test_the_command(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(seed), seed) for seed in (1, 2)]
    arguments = ["mean", *map(str, runs), "-o", str(tmp_path / "mean"), "--share", "1", "--share", "3"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "mean of 2 runs" in result.output
    load_hourglass(tmp_path / "mean", 68)
