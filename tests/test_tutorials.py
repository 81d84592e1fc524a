"""The tutorials, from their first command to their last: each block runs where the one before it left off."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from facemsm.apps import cli
from facemsm.assets import SAMPLE
from facemsm.evaluation import speed
from facemsm.imaging.io import read_image
from facemsm.video.io import VideoWriter
from official_files import write_300w

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "docs/tutorials"

SHORT = (
    "--no-progress --set schedule.batch_size=2 --set schedule.steps=2 --set schedule.workers=0 --set schedule.threads=1"
)
SHORTER = {
    "train stgan": SHORT + " --set schedule.precision=32-true --holdout 0.5",
    "train hourglass": SHORT
    + " --set schedule.precision=32-true --holdout 0.5 --set network.width=8 --set network.stem=4",
    "benchmark": "--faces 1",
}
"""What makes commands that take long short."""

NEEDS = {"research.md": ("lightning", "onnxscript", "matplotlib", "scipy"), "apps.md": ("fastapi", "jsonschema")}


def lines(text: str) -> list[str]:
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the readers have."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE, tmp_path / "photo.jpg")
    for name in ("holiday/a.jpg", "holiday/b.jpg", "photos/a.jpg", "photos/b.jpg", "photos/trial/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLE, tmp_path / name)
    video = VideoWriter(tmp_path / "talk.mp4", 30.0, 512, 512)
    for number in range(3):
        video.write(read_image(SAMPLE), number / 30)
    video.finish()
    return tmp_path


@contextmanager
def server() -> Iterator[str]:
    """The address of ``facemsm serve``."""
    command = [sys.executable, "-m", "facemsm", "serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[1]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(TUTORIALS.glob("*.md")), ids=lambda page: page.name)
def test_a_tutorial_runs(page: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in NEEDS.get(page.name, ()):
        pytest.importorskip(module)
    monkeypatch.setattr(speed, "BATCHES", (1,))
    monkeypatch.setattr(speed, "ROUNDS", 1)
    if page.name == "research.md":
        monkeypatch.setattr("facemsm.stgan.networks.DISCRIMINATOR_WIDTHS", (4, 4, 8, 8, 8, 8))
        write_300w(desk / "data/300w")
    text = page.read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    address = "http://127.0.0.1:8000"
    with server() if "facemsm serve\n" in text else contextmanager(lambda: iter([address]))() as served:
        for language, block in re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            block = block.replace(address, served)
            if language == "python":
                exec(compile(block, page.name, "exec"), names)
                continue
            assert language == "sh", f"{page.name}: nothing runs blocks of {language}"
            for line in lines(block):
                run_line(line, monkeypatch)


def run_line(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if line.startswith(("pip install", "facemsm serve", "facemsm video --show")):
        return  # done, running, and without a camera
    if not line.startswith("facemsm "):
        subprocess.run(["bash", "-ec", line], check=True)
        return
    if "--ray" in line and not find_spec("ray"):
        return
    words = shlex.split(line)
    for name, more in SHORTER.items():
        if line.startswith(f"facemsm {name}"):
            words += shlex.split(more)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert not exit_.value.code, line


def test_every_tutorial_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in TUTORIALS.glob("*.md"):
        assert f"tutorials/{page.name}" in navigation
        assert f"(tutorials/{page.name})" in (ROOT / "docs/index.md").read_text(encoding="utf-8")
