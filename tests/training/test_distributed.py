"""Training in two processes that ``torchrun`` starts, compared with training in one.

This file is both: the tests, and what each of the processes runs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from facemsm.apps.cli import main
from facemsm.data.augment import Augmentation
from facemsm.data.sources import Source
from facemsm.errors import FacemsmError
from facemsm.hourglass.network import HourglassConfig
from facemsm.hourglass.training import HourglassModule, HourglassTraining
from facemsm.schemes import get_scheme
from facemsm.stgan.training import STGANModule, STGANTraining
from facemsm.training.config import Schedule
from facemsm.training.faces import load_faces
from facemsm.training.run import AtomicCheckpointIO, StageModule, fit
from synthetic_faces import write_faces

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SCHEDULE = Schedule(
    steps=6,
    batch_size=4,
    learning_rate=1e-4,
    decay="cosine",
    warmup=2,
    ema=0.9,
    validate_every=4,
    workers=0,
    threads=1,
)
TURNED = Augmentation(rotation=10.0, scale=0.0)  # no point leaves the crop, so that each face counts alike
LEFT_AT = 3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform == "win32" or not torch.distributed.is_available(), reason="needs torch.distributed"
    ),
]


def hourglass(data: Path) -> StageModule:
    network = HourglassConfig(68, width=8, stacks=2, depth=2, stem=4, body_size=32, deconvolution=2)
    config = HourglassTraining(network, SCHEDULE, TURNED, loss="weighted", coordinate=0.1)
    faces = load_faces([Source("aflw2000", str(data), "train")], box_source="gt", holdout=0.3)
    return HourglassModule(config, get_scheme("68"), faces)


def stgan(data: Path) -> StageModule:
    config = STGANTraining(SCHEDULE, TURNED, alone=0.4)  # the discriminator joins at the third of six steps
    faces = load_faces([Source("aflw2000", str(data), "train")], box_source="provided", holdout=0.3)
    return STGANModule(config, get_scheme("68"), faces)


def prepare(patch: pytest.MonkeyPatch) -> None:
    """Table II's discriminator is thirty times the generator and would take most of the time."""
    patch.setattr("facemsm.stgan.networks.DISCRIMINATOR_WIDTHS", (4, 4, 8, 8, 8, 8))


def watch(module: Any, act: Callable[[int, Any], object] = lambda *_: None) -> list[Any]:
    """The faces of each step as they come, with a checksum of their pixels; ``act`` happens before the step."""
    original: Any = module.training_step
    seen: list[Any] = []

    def training_step(batch: Any, batch_idx: int) -> Any:
        seen.append(list(zip(batch["name"], batch["image"].long().sum((1, 2, 3)).tolist(), strict=True)))
        act(len(seen), batch)
        return original(batch, batch_idx)

    module.training_step = training_step
    return seen


def train(module: Any, folder: Path, *, resume: bool = False) -> None:
    """With frozen batch normalisation, which on CPUs sees a process's own faces only; all else must be the same."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    fit(module, module.config, folder, resume=resume, progress=False)


# --- What each of the two processes runs -----------------------------------------------------------------------------


def run_jobs(data: Path, out: Path) -> None:
    rank = int(os.environ["RANK"])
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        report: dict[str, Any] = {}
        weights = {}
        for job, build in (("hourglass", hourglass), ("stgan", stgan), ("resumed", hourglass)):
            module = build(data)
            report[job] = watch(module)
            folder = out / (job if job == "resumed" else f"{job}-{rank}")  # to see what the second process writes
            train(module, folder, resume=job == "resumed")
            weights[job] = module.state_dict()

        def spoil(step: int, batch: Any) -> None:
            if (step, rank) == (2, 1):
                batch["peak"].fill_(torch.nan)

        def ask(step: int, _: Any) -> None:
            if (step, rank) == (2, 1):  # as by a queue that asks every process, and torchrun, which passes it on
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGTERM)

        for job, act in (("nan", spoil), ("asked", ask)):
            module = hourglass(data)
            seen = watch(module, act)
            try:
                train(module, out / job)
            except (FacemsmError, SystemExit) as end:
                report[job] = {"steps": len(seen), "end": type(end).__name__, "says": str(end), "last": seen[-1]}
    (out / f"report-{rank}.json").write_text(json.dumps(report))
    torch.save(weights, out / f"weights-{rank}.pt")


# --- The tests -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    write_faces(folder, 14)
    return folder


@pytest.fixture(scope="module")
def alone(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Runs of one process: folder, and each stage's faces by step."""
    out, seen = tmp_path_factory.mktemp("alone"), {}
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        for build in (hourglass, stgan):
            module = build(drawn)
            seen[build.__name__] = watch(module)
            train(module, out / build.__name__)
        stopped = hourglass(drawn)
        watch(stopped, lambda step, _: signal.raise_signal(signal.SIGTERM) if step == LEFT_AT else None)
        with pytest.raises(FacemsmError, match="stopped and saved"):
            train(stopped, out / "stopped")
    return out, seen


@pytest.fixture(scope="module")
def together(drawn: Path, alone: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any], str]:
    """The same in two processes: folder, each process's report, and what they printed."""
    out = tmp_path_factory.mktemp("together")
    shutil.copytree(alone[0] / "stopped", out / "resumed")
    done = start(__file__, drawn, out, cwd=out)
    printed, errors = done.communicate(timeout=600)
    assert done.returncode == 0, errors
    return out, [json.loads((out / f"report-{rank}.json").read_text()) for rank in (0, 1)], printed


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*TORCHRUN, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def checkpoint(folder: Path) -> dict[str, Any]:
    return AtomicCheckpointIO().load_checkpoint(folder / "last.ckpt")


def tensors(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """All tensors of floats in a checkpoint: weights, their running mean, and Adam's of gradients and their squares."""
    if isinstance(value, torch.Tensor):
        return {name: value} if value.is_floating_point() else {}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {key: tensor for k, v in items for key, tensor in tensors(v, f"{name}.{k}").items()}


def assert_same_run(one: Path, two: Path) -> None:
    """To a twentieth of a step in the weights and 1 % in the gradients: sums are rounded in another order."""
    expected, got = tensors(checkpoint(one)), tensors(checkpoint(two))
    assert expected.keys() == got.keys()
    assert any("exp_avg_sq" in name for name in expected)
    for name, tensor in expected.items():
        tolerance = 0.01 * float(tensor.abs().max()) if "exp_avg" in name else SCHEDULE.learning_rate / 20
        assert float((tensor - got[name]).abs().max()) <= tolerance, name


@pytest.mark.parametrize("job", ["hourglass", "stgan"])
def test_two_processes_share_the_faces_of_every_step(job: str, alone: Any, together: Any) -> None:
    first, second = (report[job] for report in together[1])
    assert [[*a, *b] for a, b in zip(first, second, strict=True)] == [
        [list(face) for face in step] for step in alone[1][job]
    ]
    assert all(len(step) == 2 for step in (*first, *second))


@pytest.mark.parametrize("job", ["hourglass", "stgan"])
def test_two_processes_train_as_one_does(job: str, alone: Any, together: Any) -> None:
    assert_same_run(alone[0] / job, together[0] / f"{job}-0")


def test_a_run_of_one_process_is_resumed_by_two(alone: Any, together: Any) -> None:
    assert len(together[1][0]["resumed"]) == SCHEDULE.steps - LEFT_AT
    assert_same_run(alone[0] / "hourglass", together[0] / "resumed")


def test_both_processes_hold_the_same_weights(together: Any) -> None:
    first, second = (torch.load(together[0] / f"weights-{rank}.pt", weights_only=True) for rank in (0, 1))
    for job, weights in first.items():
        assert all(torch.equal(tensor, second[job][name]) for name, tensor in weights.items()), job


def test_the_first_process_alone_writes_and_prints(together: Any) -> None:
    out, _, printed = together
    for job in ("hourglass", "stgan"):
        assert len(list((out / f"{job}-0").iterdir())) == 5
        assert list((out / f"{job}-1").iterdir()) == []
    assert re.findall(r"step (\d+)", printed) == ["4", "6"] * 3


def test_a_loss_that_is_no_number_stops_both(together: Any) -> None:
    first, second = (report["nan"] for report in together[1])
    assert (first["end"], second["end"]) == ("SystemExit", "FacemsmError")
    assert first["steps"] == second["steps"] == 2
    assert f"step 2: the loss is nan on the faces {', '.join(name for name, _ in second['last'])}; " in second["says"]
    assert not (together[0] / "nan" / "last.ckpt").exists()


def test_a_request_to_one_process_stops_and_saves_both(together: Any) -> None:
    first, second = (report["asked"] for report in together[1])
    assert (first["end"], second["end"]) == ("FacemsmError", "SystemExit")
    assert "stopped and saved after step 2 of 6" in first["says"]
    assert checkpoint(together[0] / "asked")["batches_done"] == 2


def test_torchrun_starts_and_stops_the_command(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line in the documentation, with batch normalisation as it is; one process then resumes what two began."""
    settings = ["network.width=8", "network.stem=4", "schedule.batch_size=4", "schedule.threads=1"]
    settings += ["schedule.steps=1000", "schedule.validate_every=2"]
    command = ["train", "hourglass", "--data", f"aflw2000={drawn}:train", "--holdout", "0.3", "--no-progress"]
    command += ["-o", "run", *(f"--set={setting}" for setting in settings)]
    run = start("-m", "facemsm", *command, cwd=tmp_path)
    history = tmp_path / "run" / "history.csv"
    while not history.exists() and run.poll() is None:
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    printed, errors = run.communicate(timeout=600)
    (done,) = re.findall(r"facemsm: run: stopped and saved after step (\d+) of 1000", errors)
    assert printed.count("training faces") == 1
    assert checkpoint(tmp_path / "run")["batches_done"] == int(done)

    monkeypatch.chdir(tmp_path)
    more = ["--resume", f"--set=schedule.steps={int(done) + 1}"]
    monkeypatch.setattr(sys, "argv", ["facemsm", *command, *more])
    with pytest.raises(SystemExit) as caught:
        main()
    assert not caught.value.code
    steps = [int(line.split(",")[0]) for line in history.read_text().splitlines()[1:]]
    assert steps == sorted(set(steps))
    assert steps[-1] == checkpoint(tmp_path / "run")["batches_done"] == int(done) + 1


@pytest.mark.slow
def test_the_command_starts_its_processes_itself(drawn: Path, tmp_path: Path) -> None:
    """By Lightning, which runs the command again for each further device."""
    settings = ["network.width=8", "network.stem=4", "schedule.batch_size=4", "schedule.threads=1", "schedule.steps=2"]
    command = ["train", "hourglass", "--data", f"aflw2000={drawn}:train", "--holdout", "0.3", "--no-progress"]
    command += ["--devices", "2", "-o", "run", *(f"--set={setting}" for setting in settings)]
    run = subprocess.run(
        [sys.executable, "-m", "facemsm", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert run.stdout.count("training faces") == 1
    assert checkpoint(tmp_path / "run")["batches_done"] == 2
    assert (tmp_path / "run" / "best.safetensors").is_file()


def test_devices_that_cannot_be(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = hourglass(drawn)
    with pytest.raises(FacemsmError, match=r"schedule\.batch_size 4 cannot be shared by 3 processes"):
        fit(module, module.config, tmp_path / "run", devices=3, progress=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(FacemsmError, match="--devices 2: there are 1 GPUs"):
        fit(module, module.config, tmp_path / "run", devices=2, progress=False)
    for name in ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    with pytest.raises(FacemsmError, match="leave --devices out"):
        fit(module, module.config, tmp_path / "run", devices=2, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_batch_that_cannot_be_shared_is_refused(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(FacemsmError, match=r"schedule\.batch_size 4 cannot be shared by 6 processes"):
        train(hourglass(drawn), tmp_path / "run")
    assert not (tmp_path / "run").exists()


if __name__ == "__main__":
    run_jobs(Path(sys.argv[1]), Path(sys.argv[2]))
