from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("facemsm", deadline=None, derandomize=bool(os.environ.get("CI")))  # slow machines are fine
settings.load_profile("facemsm")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real annotated faces: FACEMSM_DATA, else ``shared/data`` beside the repository."""
    root = Path(os.environ.get("FACEMSM_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"no data at {root}; set FACEMSM_DATA to run this test")
    return root
