"""The points do not depend on which instruction sets the processor has beyond AVX2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TOOL = Path(__file__).parents[1] / "benchmarks" / "older_processor.py"
ALIGN = """
from facemsm import Aligner
from facemsm.assets import SAMPLE
from facemsm.imaging.io import read_image
from facemsm.provenance import instruction_sets
(face,) = Aligner.from_pretrained("68").align(read_image(SAMPLE))
print(instruction_sets(), face.box.tobytes().hex(), face.points.tobytes().hex(), face.scores.tobytes().hex(), sep=";")
"""


def _run(*words: str) -> list[str]:
    run = subprocess.run([*words, sys.executable, "-c", ALIGN], capture_output=True, text=True, check=False)
    assert not run.returncode, run.stderr
    return run.stdout.strip().split(";")


def test_points_are_the_same_to_the_bit_without_avx512_vnni_and_amx() -> None:
    older = (sys.executable, str(TOOL), "avx2")
    trial = subprocess.run([*older, "true"], capture_output=True, text=True, check=False)
    if trial.returncode:
        pytest.skip(f"this system hides no instruction sets: {trial.stderr.strip()[-200:]}")
    here, there = _run(), _run(*older)
    if "avx2" not in here[0]:
        pytest.skip("this processor has no AVX2")
    assert there[0] == "avx2"
    assert there[1:] == here[1:]


def test_it_works_without_avx() -> None:
    """Floats are rounded otherwise there, and so may be what is made bytes of them."""
    older = (sys.executable, str(TOOL), "sse4")
    if subprocess.run([*older, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system hides no instruction sets")
    (_, *here), (_, *there) = _run(), _run(*older)
    one, other = (np.frombuffer(bytes.fromhex(face[1]), np.float32) for face in (here, there))
    np.testing.assert_allclose(one, other, atol=0.5)
