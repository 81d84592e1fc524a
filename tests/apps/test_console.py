from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

import official_files as official
from facemsm import load_dataset
from facemsm.apps.cli import ALIASES, main
from facemsm.apps.console import duration, plural, sigterm_as_interrupt, tell, tell_model, tell_written, track, warn
from facemsm.evaluation.predictions import Predictions, save_predictions


def test_counts_and_durations() -> None:
    assert [plural(n, "face") for n in (0, 1, 2)] == ["0 faces", "1 face", "2 faces"]
    seconds = (0, 119, 120, 7200, 86400, 3 * 86400)
    assert [duration(s) for s in seconds] == [
        *("0 seconds", "119 seconds", "2.0 minutes", "2.0 hours", "24.0 hours", "3.0 days")
    ]


def test_progress_shows_nothing_but_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([1, 2, 3], "photos")) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")


def test_what_was_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell_written([tmp_path / "a.json", tmp_path / "a.png"], plots=True)
    assert capsys.readouterr() == (f"written: {tmp_path / 'a.json'}\nwritten: {tmp_path / 'a.png'}\n", "")
    tell_written([tmp_path / "a.json"], plots=True)
    assert "no plots, as matplotlib is not installed" in capsys.readouterr().err
    tell_written([tmp_path / "a.json"], plots=False)
    assert not capsys.readouterr().err
    (tmp_path / "stgan.onnx").write_bytes(bytes(1_200_000))
    (tmp_path / "model.json").write_bytes(bytes(900_000))
    tell_model(tmp_path)
    assert capsys.readouterr().out == f"model: {tmp_path} (1.2 MB)\n"


def test_names_command_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    tell("a\x1b[31m\nb.jpg")
    warn("a\x1b[31m\nb.jpg")
    assert capsys.readouterr() == (r"a\x1b[31m\nb.jpg" + "\n",) * 2


def test_a_warning_that_nobody_can_read_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, _: str) -> None:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Closed())
    warn("a.jpg: not a photo")


@pytest.mark.skipif(os.name == "nt", reason="Windows has another error for it")
@pytest.mark.parametrize(
    ("words", "files"),
    [
        (["data", "check"], {"300w-contact-sheet.jpg"}),
        (["data", "convert", "facemsm-out/a.json"], {"a.json"}),
        (["evaluate", "--predictions", "p.npz", "-o", "facemsm-out"], {"300w-challenge.json", "300w-challenge.md"}),
    ],
    ids=["check", "convert", "evaluate"],
)
def test_files_are_written_though_nobody_reads_what_is_said(
    words: list[str],
    files: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    official.write_300w(Path("300w"), {"ibug": ["a.jpg", "b.jpg"]})
    faces = load_dataset("300w", "300w", "challenge", "gt")
    points = np.stack([face.points for face in faces])
    save_predictions(Path("p.npz"), Predictions("m", [face.name for face in faces], points, points[..., 0] < 0))
    command = 2 if words[0] == "data" else 1
    split = ["--split", "challenge"]
    monkeypatch.setattr("sys.argv", ["facemsm", *words[:command], "300w", "300w", *words[command:], *split])
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr("sys.stdout", os.fdopen(write, "w"))
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert capsys.readouterr().err == ""
    assert files <= {path.name for path in Path("facemsm-out").iterdir()}


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without asking")
def test_sigterm_stops_as_ctrl_c_does() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as stopped, sigterm_as_interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.args == (signal.SIGTERM,)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder that somebody is in")
def test_a_folder_that_is_gone_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr("sys.argv", ["facemsm", "align", "a.jpg"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("facemsm: the current folder is gone")


@pytest.mark.parametrize("name", ALIASES)
def test_other_spellings_are_commands_that_the_help_does_not_list(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for words in (["--help"], [name, "--help"], [ALIASES[name], "--help"]):
        monkeypatch.setattr("sys.argv", ["facemsm", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        shown.append(capsys.readouterr().out)
    assert name not in shown[0]
    assert shown[1] == shown[2]
