"""Using facemsm needs none of the training libraries, nor does it wait for them."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

HEAVY = {"h5py", "lightning", "matplotlib", "onnx", "onnxscript", "scipy", "sklearn", "tensorboard", "torch"}


def imported(code: str, folder: Path) -> set[str]:
    """Modules loaded once a fresh interpreter has run the code, the packages that hold them included."""
    report = "import json, sys\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "module",
    [
        "facemsm",
        "facemsm.schemes",
        "facemsm.geometry",
        "facemsm.heatmaps",
        "facemsm.apps.cli",
        "facemsm.apps.align",
        "facemsm.apps.evaluate",
    ],
)
def test_importing_stays_light(module: str, tmp_path: Path) -> None:
    assert "facemsm" in (modules := imported(f"import {module}", tmp_path))
    assert modules & HEAVY == set()


def test_inference_loads_neither_evaluation_nor_training(tmp_path: Path) -> None:
    code = """
import facemsm
from facemsm.assets import SAMPLE
assert facemsm.Aligner.from_pretrained("68").align(SAMPLE)
"""
    modules = imported(code, tmp_path)
    rooms = {".".join(name.split(".")[:2]) for name in modules}
    assert rooms & {"facemsm.apps", "facemsm.data", "facemsm.evaluation", "facemsm.export", "facemsm.training"} == set()
    assert modules & HEAVY == set()


def test_align_stays_light(tmp_path: Path) -> None:
    code = """
import sys
from facemsm.apps.cli import main
sys.argv = ["facemsm", "align", "--draw"]
try:
    main()
except SystemExit as error:
    assert not error.code, error
"""
    assert imported(code, tmp_path) & HEAVY == set()
    assert list(tmp_path.rglob("*.jpg"))


EXTRAS = "av fastapi h5py lightning matplotlib onnx pandas pillow_heif pyarrow ray scipy segno sklearn torch uvicorn"


def test_every_public_name_is_there_without_extras(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRAS.split()}))
import facemsm
from facemsm import *
assert set(dir(facemsm)) == set(facemsm.__all__) <= set(globals())
try:
    align_dataset(None)
except FacemsmError as error:
    assert "facemsm[ray]" in str(error)
else:
    raise AssertionError
"""
    assert "facemsm.batch.ray" in imported(code, tmp_path)


def test_the_check_sees_what_is_imported(tmp_path: Path) -> None:
    assert "decimal" in imported("import decimal", tmp_path)
    assert "decimal" not in imported("import json", tmp_path)


def test_the_command_is_installed() -> None:
    (script,) = entry_points(group="console_scripts", name="facemsm")
    assert callable(script.load())
