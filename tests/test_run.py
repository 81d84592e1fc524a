"""``run.py`` builds an environment once, and not half of one. No environment is built here: pip is replaced."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Commands = list[list[str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, for a repository in ``tmp_path``."""
    spec = importlib.util.spec_from_file_location("run", Path(__file__).parents[1] / "run.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "pyproject.toml").write_text("1")
    (tmp_path / "constraints.txt").write_text("1")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "cpu_torch", list)
    return module


@pytest.fixture
def commands(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """What is run instead of being run."""
    ran: Commands = []

    def record(command: Sequence[str], **_: object) -> int:
        ran.append(list(command))
        return 0

    def make(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        Path(command[-1]).mkdir()
        return subprocess.CompletedProcess(command, record(command), b"")

    monkeypatch.setattr(run.subprocess, "call", record)
    monkeypatch.setattr(run.subprocess, "run", make)
    return ran


def words(commands: Commands) -> list[str]:
    """What was run: ``venv``, ``pip`` or a program with its arguments."""
    names = []
    for command in commands:
        program = Path(command[0]).stem
        names.append(command[2] if command[1] == "-m" else " ".join([program, *command[1:]]))
    commands.clear()
    return names


def test_the_second_call_reuses_the_environment(run: ModuleType, commands: Commands) -> None:
    assert run.main(["align", "a.jpg"]) == 0
    assert words(commands) == ["venv", "pip", "facemsm align --draw a.jpg"]
    assert run.main(["align"]) == 0
    assert words(commands) == ["facemsm align --draw"]


def test_each_command_has_an_environment_of_its_own(run: ModuleType, commands: Commands) -> None:
    run.main(["align"])
    assert commands[1][-2:] == ["-e", "."]
    words(commands)
    run.main(["test", "-x"])
    assert commands[1][-2:] == ["-e", ".[train,serve,dev,browser,docs]"]
    assert words(commands) == ["venv", "pip", "pytest -x"]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_new_dependencies_mean_a_new_environment(run: ModuleType, commands: Commands, name: str) -> None:
    run.main(["align"])
    words(commands)
    (run.ROOT / name).write_text("2")
    run.main(["align"])
    assert words(commands)[:2] == ["venv", "pip"]


def test_an_interrupted_build_is_made_anew(
    run: ModuleType, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    record: Any = run.subprocess.call

    def interrupt(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(run.subprocess, "call", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.main(["align"])
    monkeypatch.setattr(run.subprocess, "call", record)
    words(commands)
    run.main(["align"])
    assert words(commands) == ["venv", "pip", "facemsm align --draw"]


def test_pips_last_lines_are_shown(run: ModuleType, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, stdout: Any, **__: object) -> int:
        stdout.write(b"first\n" + b"more\n" * 9 + b"No matching distribution\n")
        return 1

    monkeypatch.setattr(run.subprocess, "call", fail)
    with pytest.raises(SystemExit, match=r"^run\.py: pip failed; (.|\n)*No matching distribution$") as caught:
        run.main(["align"])
    assert "first" not in str(caught.value)
    assert words(commands) == ["venv"]


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 15, 0)])
def test_a_python_that_cannot_run_it(
    run: ModuleType, commands: Commands, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(run.sys, "version_info", version)
    with pytest.raises(SystemExit, match=r"needs Python 3\.10 to 3\.14, this is 3\.\d+$"):
        run.main(["align"])
    assert not commands


def test_a_python_without_venv(run: ModuleType, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else object())
    with pytest.raises(SystemExit, match="lacks its venv module"):
        run.main(["align"])
    assert not commands


def test_the_exit_code_is_the_commands(run: ModuleType, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    run.main(["align"])
    monkeypatch.setattr(run.subprocess, "call", lambda *_, **__: 3)
    assert run.main(["align"]) == 3
    assert commands


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["fly"], 2), (["--help"], 0)])
def test_anything_else_prints_the_usage(
    run: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int
) -> None:
    assert run.main(arguments) == code
    assert "run.py align [PHOTO ...]" in capsys.readouterr().out
