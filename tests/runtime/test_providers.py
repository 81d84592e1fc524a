"""Accelerators: the provider that was asked for runs the networks, or a line says what is missing."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import onnxruntime
import pytest

from facemsm import Aligner, FacemsmError
from facemsm.assets import SAMPLE
from facemsm.detectors import get_detector
from facemsm.runtime.providers import CPU, PROVIDERS, execution_providers
from facemsm.runtime.session import Session
from facemsm.weights import WEIGHTS

BOX = [180.0, 87.0, 273.0, 179.0]
NETWORK = WEIGHTS / "68" / "stgan.onnx"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the installed ONNX Runtime had CUDA and nothing else."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])


@pytest.mark.usefixtures("cuda")
def test_names_options_and_order() -> None:
    assert execution_providers(["CUDA"]) == [("CUDAExecutionProvider", {}), (CPU, {})]
    assert execution_providers("cuda") == execution_providers(["cuda", "cpu"]) == execution_providers(["CUDA"])
    given: list[Any] = ["cpu", ("CUDAExecutionProvider", {"device_id": 1})]
    assert execution_providers(given) == [("CUDAExecutionProvider", {"device_id": 1}), (CPU, {})]
    assert execution_providers(["cpu"]) == [(CPU, {})]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("cuda", "pip install onnxruntime-gpu"),
        ("coreml", "pip install onnxruntime on macOS"),
        ("directml", "pip install onnxruntime-directml"),
        ("openvino", "pip install onnxruntime-openvino"),
        ("CUDAExecutionProvider", "pip install onnxruntime-gpu"),
        ("tpu", "choose from cpu, cuda"),
    ],
)
def test_a_missing_provider_is_one_line_with_its_package(
    name: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    for make in (lambda: Aligner.from_pretrained(providers=[name]), lambda: get_detector(providers=[name])):
        with pytest.raises(FacemsmError, match=remedy) as caught:
            make()
        assert str(caught.value).startswith(f"provider {name!r}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("provider", [5, None, (), ("cpu",), ("cpu", 5)])
def test_what_names_no_provider(provider: object) -> None:
    with pytest.raises(FacemsmError, match=r"provider .*: give a name, or \(\"cuda\""):
        Aligner.from_pretrained(providers=[provider])  # type: ignore[list-item]


@pytest.mark.usefixtures("cuda")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_no_silent_cpu(capfd: pytest.CaptureFixture[str]) -> None:
    if "CUDAExecutionProvider" in onnxruntime.InferenceSession(str(NETWORK)).get_providers():
        pytest.skip("CUDA starts here")
    with pytest.raises(FacemsmError, match="provider 'CUDAExecutionProvider' does not start"):
        Session(NETWORK, providers=["cuda"])
    assert "Falling back" not in capfd.readouterr().out


def test_named_or_not_the_cpu_gives_the_same_numbers() -> None:
    default, named = Aligner.from_pretrained(), Aligner.from_pretrained(providers=["cpu"])
    for twin in (named, pickle.loads(pickle.dumps(named))):
        assert twin.providers == ["cpu"]
        for one, other in zip(default.align(SAMPLE, [BOX] * 3), twin.align(SAMPLE, [BOX] * 3), strict=True):
            np.testing.assert_allclose(one.points, other.points, atol=1e-3)
        np.testing.assert_array_equal(default.align(SAMPLE)[0].box, twin.align(SAMPLE)[0].box)
    assert set(PROVIDERS) == {"cpu", "cuda", "coreml", "directml", "openvino"}
