from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from facemsm.apps.cli import main
from facemsm.assets import SAMPLE
from facemsm.results.jsonl import read_results

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
pytestmark = [pytest.mark.ray, pytest.mark.slow]

PHOTOS = 24
FATAL = "13.jpg"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two workers, of which the first to read ``FATAL`` dies of it; the file that it leaves."""
    trace = tmp_path_factory.mktemp("ray") / "died"

    def setup() -> None:
        from facemsm.batch import pipeline
        from facemsm.imaging import io as images

        read = images.read_image

        def read_or_die(path: Path) -> object:
            if path.name == FATAL and not trace.exists():
                trace.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            return read(path)

        vars(pipeline)["read_image"] = read_or_die

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=80 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        runtime_env={"worker_process_setup_hook": setup, "env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
    )
    yield trace
    ray.shutdown()


def test_a_worker_dies_and_nothing_is_lost(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(PHOTOS):
        (folder / f"{i}.jpg").symlink_to(SAMPLE)
    (folder / "5 broken.jpg").write_text("no photo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("facemsm.batch.ray.BLOCK", 4)

    def align(*args: str) -> str:
        monkeypatch.setattr(sys, "argv", ["facemsm", "align", "in", *args])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        assert exit_.value.code == 1
        assert "5 broken.jpg: is not a JPEG" in err
        return out

    out = align("--output", "ray", "--ray", "local", "--threads", "2")
    assert cluster.read_text() != str(os.getpid())
    assert f"{PHOTOS} photos read" in out
    assert f"{PHOTOS} faces" in out
    align("--output", "threads", "--threads", "1")
    assert Path("ray/landmarks.jsonl").read_bytes() == Path("threads/landmarks.jsonl").read_bytes()
    assert "24 finished before" in align("--output", "ray", "--resume", "--ray", "local")


def test_align_dataset(cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    from facemsm.batch.ray import align_dataset

    monkeypatch.chdir(tmp_path)
    rows = [
        {"image": str(SAMPLE), "boxes": [180.0, 87.0, 273.0, 179.0] * 2},
        {"image": str(SAMPLE), "boxes": None},
        {"image": "none.jpg", "boxes": None},
    ]
    done = align_dataset(ray.data.from_items(rows), workers=1, drawn="drawn").take_all()
    assert sorted(row["faces"] for row in done) == [0, 1, 2]
    (failed,) = (row for row in done if row["failure"])
    assert failed["failure"].startswith("none.jpg: no such file")
    (tmp_path / "lines.jsonl").write_text("".join(row["line"] or "" for row in done))
    assert sorted(len(result.faces) for result in read_results(tmp_path / "lines.jsonl")) == [1, 2]
