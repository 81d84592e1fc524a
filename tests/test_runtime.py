from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facemsm import Aligner, FacemsmError
from facemsm.runtime.model import MANIFEST, WEIGHTS, bundled_models, load_model
from facemsm.runtime.session import Network

BUNDLED = WEIGHTS / "68"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLED, tmp_path / "model"))


def change(folder: Path, **fields: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **fields}))


def test_the_bundled_model() -> None:
    assert "68" in bundled_models()
    model = load_model("68")
    assert model.scheme.count == 68
    assert model.codec.input_size == 128
    assert {"preset", "commit", "data"} <= set(model.provenance)
    assert (BUNDLED / "MODEL_CARD.md").is_file()
    size = sum(file.stat().st_size for file in BUNDLED.iterdir() if file.suffix in (".onnx", ".safetensors"))
    assert size <= 12e6


def test_a_model_folder_of_ones_own(copy: Path) -> None:
    assert load_model(copy).checksum == load_model("68").checksum
    assert Aligner.from_pretrained(copy).scheme.count == 68


@pytest.mark.parametrize("file", ["stgan.onnx", "hourglass.onnx", "dictionary.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_damaged_files_are_refused_in_one_line(copy: Path, file: str, damage: str) -> None:
    path = copy / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-7] if damage == "truncated" else bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(FacemsmError) as raised:
        load_model(copy)
    assert file in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "fields",
    [{"format": 2}, {"scheme": {}}, {"codec": {"sigma_squared": 1}}, {"files": {}}, {"files": 3}, {"provenance": 1}],
)
def test_a_wrong_manifest_is_refused(copy: Path, fields: dict[str, Any]) -> None:
    change(copy, **fields)
    with pytest.raises(FacemsmError, match=MANIFEST):
        load_model(copy)


@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=200) | st.text(max_size=50).map(lambda text: json.dumps([text]).encode()))
def test_any_manifest_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("model")
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(FacemsmError):
        load_model(folder)


def test_a_file_that_is_no_network(tmp_path: Path) -> None:
    path = tmp_path / "stgan.onnx"
    path.write_bytes(b"not a network")
    with pytest.raises(FacemsmError, match=r"stgan\.onnx: not a network"):
        Network(path)


def test_export_computes_what_pytorch_does(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from dataclasses import asdict

    from facemsm.hourglass.network import HourglassConfig, StackedHourglass
    from facemsm.runtime.export import export_model, sample_crops
    from facemsm.stgan.networks import Generator
    from facemsm.training.run import save_weights

    torch.manual_seed(0)
    config = HourglassConfig(68, width=8, stem=4, depth=2, body_size=32, deconvolution=2)
    networks = {"stgan": Generator(0.8), "hourglass": StackedHourglass(config)}
    for stage, network in networks.items():
        (tmp_path / stage).mkdir()
        save_weights(network, tmp_path / stage / "best.safetensors")
        settings = {"network": asdict(config), "sigma": 1.25} if stage == "hourglass" else {}
        (tmp_path / stage / "config.json").write_text(json.dumps(settings))
    faces = sample_crops(4)
    export_model(
        tmp_path / "model",
        name="tiny",
        stgan=tmp_path / "stgan",
        hourglass=tmp_path / "hourglass",
        dictionary=BUNDLED / "dictionary.safetensors",
        faces=faces,
        provenance={"preset": "test"},
    )
    model = load_model(tmp_path / "model")
    assert (model.name, model.codec.sigma) == ("tiny", 1.25)
    pixels = torch.from_numpy(faces).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        theta = networks["stgan"].eval()(pixels).numpy()
        heatmaps = networks["hourglass"].eval()(pixels)[-1].numpy()
    np.testing.assert_allclose(Network(model.path("stgan.onnx"))(faces), theta, atol=1e-5)
    np.testing.assert_allclose(Network(model.path("hourglass.onnx"))(faces), heatmaps, atol=1e-4)
    one_by_one = np.concatenate([Network(model.path("hourglass.onnx"))(face[None]) for face in faces])
    np.testing.assert_allclose(one_by_one, heatmaps, atol=1e-4)


def test_export_refuses_stages_that_do_not_fit(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from facemsm.runtime.export import export_model, sample_crops

    (tmp_path / "hourglass").mkdir()
    with pytest.raises(FacemsmError, match=r"config\.json"):
        export_model(
            tmp_path / "model",
            name="x",
            stgan=tmp_path,
            hourglass=tmp_path / "hourglass",
            dictionary=BUNDLED / "dictionary.safetensors",
            faces=sample_crops(2),
            provenance={},
        )
    assert not (tmp_path / "model").exists()
