from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # PyTorch's: the workers share the cores already

CI = bool(os.environ.get("CI"))
NEED_TORCH = ("training", "stgan", "hourglass", "resnet50", "reproduce", "export")
"""Folders whose tests import PyTorch, all of them; each has the marker ``train``."""

settings.register_profile("facemsm", deadline=None, derandomize=CI, max_examples=100 if CI else 25)
settings.load_profile("facemsm")  # no deadline: slow machines are fine

collect_ignore = [] if find_spec("torch") else list(NEED_TORCH)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name in NEED_TORCH:
            item.add_marker("train")
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
        if {"browser", "ray"} & {mark.name for mark in item.iter_markers()}:
            item.add_marker("slow")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real annotated faces: FACEMSM_DATA, else ``shared/data`` beside the repository."""
    root = Path(os.environ.get("FACEMSM_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"no data at {root}; set FACEMSM_DATA to run this test")
    return root


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs ``facemsm ARGS``; exit code, stdout, stderr."""
    from facemsm.apps.cli import main

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["facemsm", *args])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(exit_.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, run by Playwright: the one that FACEMSM_CHROMIUM names or that is on the PATH."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("FACEMSM_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if path is None:
        pytest.skip("no Chromium on this machine")
    media = ["use-fake-device-for-media-stream", "use-fake-ui-for-media-stream"]
    switches = [f"--{name}" for name in (*media, "autoplay-policy=no-user-gesture-required")]
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=switches)
        yield browser
        browser.close()


@pytest.fixture
def faults() -> list[str]:
    """What a page complained of, or asked elsewhere."""
    return []


@pytest.fixture
def page(host: str, browser: Any, request: pytest.FixtureRequest, faults: list[str]) -> Iterator[Any]:
    """The page of ``host``, which the module serves, loaded; it may not complain in the console nor ask any other."""
    context = browser.new_context(base_url=host, **getattr(request, "param", {}))
    context.set_default_timeout(60_000)
    context.on("request", lambda r: None if r.url.startswith((host, "data:", "blob:")) else faults.append(r.url))
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.goto(host)
    page.wait_for_selector("body[data-loaded]")
    yield page
    context.close()
    assert faults == []
