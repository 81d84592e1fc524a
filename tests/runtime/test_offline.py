"""Nothing of a run asks for a network, or writes anywhere but into its output folder: no dependency either."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOCKETS = """
import sys
def refuse(event, arguments):
    if event.startswith("socket."):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(refuse)
"""

ALIGN = """
from facemsm import Aligner
from facemsm.assets import SAMPLE
assert len(Aligner.from_pretrained("68", threads=2).align(SAMPLE)) == 1
"""

COMMAND = """
from facemsm.apps.cli import main
sys.argv = ["facemsm", "align", "--draw", "-o", "output"]
try:
    main()
except SystemExit as error:
    assert not error.code, error
"""


def surroundings(folder: Path) -> dict[str, str]:
    """An environment without what a user has set, whose home and temporary folder are empty."""
    ours = (
        "ORT_",
        "RAY_",
        "XDG_",
        "OPENCV_",
        "FACEMSM_",
        "MPL",
        "HOME",
        "TMP",
        "TEMP",
        "APPDATA",
        "LOCALAPPDATA",
        "USERPROFILE",
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    for name in ("home", "temporary"):
        (folder / name).mkdir()
    homes = dict.fromkeys(("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA"), str(folder / "home"))
    temporary = dict.fromkeys(("TMPDIR", "TMP", "TEMP"), str(folder / "temporary"))
    return {**kept, **homes, **temporary, "PYTHONDONTWRITEBYTECODE": "1"}


def traced(folder: Path) -> list[str]:
    """The beginning of a command that notes what a process asks of the system, where there is such a program."""
    probe = ["strace", "-f", "-qq", "-e", "trace=network,openat,creat,mkdir,mkdirat", "-o", str(folder / "trace")]
    if not shutil.which("strace") or subprocess.run([*probe, "true"], capture_output=True, check=False).returncode:
        return []
    return probe


PLOT = """
from pathlib import Path
from facemsm.evaluation.plots import new_figure
Path("output").mkdir()
with new_figure("output/plot.png") as figure:
    figure.subplots().set_title("a word")
"""


@pytest.mark.parametrize(
    ("code", "written"),
    [(ALIGN, set()), (COMMAND, {"output"}), (PLOT, {"output"})],
    ids=["Python", "command", "plot"],
)
def test_nothing_is_sent_and_nothing_is_written_elsewhere(code: str, written: set[str], tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    if code == PLOT:
        pytest.importorskip("matplotlib")
    environment, trace = surroundings(tmp_path), traced(tmp_path)
    run = subprocess.run(
        [*trace, sys.executable, "-c", SOCKETS + code],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert {path.name for path in work.iterdir()} == written
    assert [*(tmp_path / "home").rglob("*"), *(tmp_path / "temporary").rglob("*")] == []
    if trace:
        calls = (tmp_path / "trace").read_text(errors="replace")
        assert not re.search(r"AF_INET", calls)
        opened = re.findall(r'openat\([^"]*"([^"]+)", \S*(?:O_WRONLY|O_RDWR|O_CREAT)\S*(?:, \d+)?\) = \d', calls)
        made = re.findall(r'(?:creat|mkdir|mkdirat)\([^"]*"([^"]+)", \d+\) = \d', calls)
        elsewhere = {Path(work, path) for path in (*opened, *made)} - {Path("/dev/null")}
        own = (work / "output", *((tmp_path / "temporary",) if code == PLOT else ()))  # which is empty again
        assert {path for path in elsewhere if not any(map(path.is_relative_to, own))} == set()


@pytest.mark.parametrize("module", ["facemsm.runtime.session", "facemsm.serve.app", "facemsm.export.onnx"])
@pytest.mark.slow
def test_onnx_runtime_is_told_before_it_is_loaded(module: str, tmp_path: Path) -> None:
    pytest.importorskip({"facemsm.serve.app": "fastapi", "facemsm.export.onnx": "torch"}.get(module, "numpy"))
    code = f"""
import os, sys
told = []
def listen(event, arguments):
    if event == "import" and arguments[0] == "onnxruntime":
        told.append(os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.addaudithook(listen)
import {module}, facemsm.runtime.session
assert told and set(told) == {{"1"}}, told
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=surroundings(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_a_choice_of_the_user_s_own_stays(tmp_path: Path) -> None:
    code = "import os, facemsm; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {**surroundings(tmp_path), "ORT_DISABLE_TELEMETRY": "true"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "true"
