from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

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
        if {"browser", "ray"} & {mark.name for mark in item.iter_markers()} or item.path.name == "test_distributed.py":
            item.add_marker("slow")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real annotated faces: FACEMSM_DATA, else ``shared/data`` beside the repository."""
    root = Path(os.environ.get("FACEMSM_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"no data at {root}; set FACEMSM_DATA to run this test")
    return root
