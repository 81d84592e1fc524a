from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from facemsm import FacemsmError
from facemsm.runtime.model import Model, load_model
from facemsm.runtime.session import LANDMARKS, Network
from facemsm.typing import FloatArray
from facemsm.weights import WEIGHTS

BUNDLED = WEIGHTS / "68"


@pytest.mark.parametrize("config", [None, "", "[1]", "{}", '{"network": 3}', "[" * 100_000])
def test_export_refuses_stages_that_do_not_fit(config: str | None, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from facemsm.export.onnx import export_model, sample_crops

    (tmp_path / "hourglass").mkdir()
    if config is not None:
        (tmp_path / "hourglass/config.json").write_text(config)
    with pytest.raises(FacemsmError, match=r"config\.json"):
        export_model(
            tmp_path / "model",
            name="x",
            stgan=tmp_path,
            hourglass=[tmp_path / "hourglass"],
            dictionary=BUNDLED / "dictionary.safetensors",
            faces=sample_crops(2),
            provenance={},
        )
    assert not (tmp_path / "model").exists()


def export(folder: Path, network: Any, settings: dict[str, Any], *, mirror: bool = False) -> Model:
    """A model of an untrained stage 1, this stage 2 and the bundled shapes."""
    from facemsm.export.onnx import export_model, sample_crops
    from facemsm.stgan.networks import Generator
    from facemsm.training.weights import save_weights

    for stage, weights, config in (("stgan", Generator(0.8), {}), ("stage2", network, settings)):
        (folder / stage).mkdir()
        save_weights(weights, folder / stage / "best.safetensors")
        (folder / stage / "config.json").write_text(json.dumps(config))
    export_model(
        folder / "model",
        name="tiny",
        stgan=folder / "stgan",
        hourglass=[folder / "stage2"],
        dictionary=BUNDLED / "dictionary.safetensors",
        faces=sample_crops(4),
        provenance={"preset": "test"},
        mirror=mirror,
    )
    return load_model(folder / "model")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    """A small hourglass with random weights, and its export."""
    torch = pytest.importorskip("torch")
    from facemsm.hourglass.network import HourglassConfig, StackedHourglass

    torch.manual_seed(0)
    config = HourglassConfig(68, width=16, stem=4, depth=2, body_size=32, deconvolution=2)
    network = StackedHourglass(config).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias, 0, 0.2)
        elif isinstance(module, torch.nn.Conv2d) and module.out_channels == 68:
            torch.nn.init.normal_(module.weight, 0, 0.3)
    return network, export(tmp_path_factory.mktemp("tiny"), network, {"network": asdict(config), "sigma": 1.25})


@pytest.mark.slow
def test_export_computes_what_pytorch_does(tiny: tuple[Any, Model]) -> None:
    """Though stacks are joined, deconvolutions replaced and heatmaps read by other operators."""
    import torch

    from facemsm.export.onnx import sample_crops

    network, model = tiny
    assert (model.name, model.codec.sigma, model.codec.refinement) == ("tiny", 1.25, "mass")
    faces = sample_crops(5)
    with torch.inference_mode():
        heatmaps = network(torch.from_numpy(faces).permute(0, 3, 1, 2) / 255)[-1].numpy()
    expected = model.codec.decode(heatmaps)
    points, scores, spread, found = Network(model.path("hourglass.onnx"), [*LANDMARKS, "heatmaps"])(faces)
    np.testing.assert_allclose(found, heatmaps, atol=1e-3)
    np.testing.assert_allclose(points, expected.points, atol=1e-3)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(spread, expected.spread, atol=0.1)


@pytest.mark.slow
def test_several_networks_are_one_stage_2(tiny: tuple[Any, Model], tmp_path: Path) -> None:
    """Their means; where they disagree, the spread of a mixture of both, as if all their draws were thrown together."""
    import torch

    from facemsm.export.onnx import export_model, sample_crops
    from facemsm.export.quantise import Measured, quantise_model
    from facemsm.export.whole import export_whole
    from facemsm.hourglass.network import HourglassConfig, StackedHourglass
    from facemsm.training.weights import save_weights

    network, model = tiny
    runs = model.folder.parent
    torch.manual_seed(2)
    other = StackedHourglass(HourglassConfig(68, width=8, stem=4, depth=1, body_size=32, deconvolution=2)).eval()
    torch.nn.init.normal_(list(other.heads.parameters())[-2], 0, 0.3)
    save_weights(other, tmp_path / "best.safetensors")
    settings = {"network": asdict(other.config), "sigma": 1.25}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    faces = sample_crops(3)
    common: dict[str, Any] = {"name": "both", "stgan": runs / "stgan", "dictionary": BUNDLED / "dictionary.safetensors"}
    common |= {"faces": faces, "provenance": {"preset": "test"}}
    export_model(tmp_path / "both", hourglass=[runs / "stage2", tmp_path], **common)
    both = load_model(tmp_path / "both")
    found = []
    for each in (network, other):
        with torch.inference_mode():
            found.append(each(torch.from_numpy(faces).permute(0, 3, 1, 2) / 255)[-1].numpy())
    (points, scores, spread), (others, others_scores, others_spread) = map(model.codec.decode, found)
    names = [*LANDMARKS, "heatmaps"]
    mean, mean_scores, mixed, heatmaps = Network(both.path("hourglass.onnx"), names)(faces)
    np.testing.assert_allclose(heatmaps, found[0], atol=1e-3)
    np.testing.assert_allclose(mean, (points + others) / 2, atol=1e-3)
    np.testing.assert_allclose(mean_scores, (scores + others_scores) / 2, atol=1e-4)
    second = [value[..., [0, 0, 1]] * value[..., [0, 1, 1]] for value in (points, others, mean)]  # xx, xy, yy
    np.testing.assert_allclose(mixed, (spread + second[0] + others_spread + second[1]) / 2 - second[2], atol=0.2)

    # twice as many faces for stage 2 as for stage 1: what is in float shares memory by the names of sizes
    export_whole(replace(both, mirror=True), tmp_path / "whole.onnx")  # compares by itself

    quantise_model(both, tmp_path / "int8", faces=Measured(faces, faces))
    rough, rough_scores = Network(tmp_path / "int8" / "hourglass.onnx", ["heatmaps", "scores"])(faces)
    assert np.abs(rough - heatmaps).mean() < 0.05 * heatmaps.max()
    assert np.abs(rough_scores - mean_scores).mean() < 0.05 * mean_scores.max()

    (tmp_path / "config.json").write_text(json.dumps({**settings, "sigma": 2.0}))
    with pytest.raises(FacemsmError, match=r"sigma 2\.0, those of .*stage2 have 1\.25"):
        export_model(tmp_path / "unlike", hourglass=[runs / "stage2", tmp_path], **common)
    assert not (tmp_path / "unlike").exists()


@pytest.mark.slow
def test_other_shapes_of_hourglass(tmp_path: Path) -> None:
    """Sums written by deconvolutions of 4 × 4 or read by the stem itself, heatmaps in one part."""
    torch = pytest.importorskip("torch")
    from facemsm.export.onnx import sample_crops
    from facemsm.export.quantise import Measured, quantise_model
    from facemsm.hourglass.network import HourglassConfig, StackedHourglass

    torch.manual_seed(1)
    network = StackedHourglass(HourglassConfig(68, width=8, stem=4, depth=1, stacks=1)).eval()
    torch.nn.init.normal_(list(network.heads.parameters())[-2], 0, 0.3)  # of the convolution that emits heatmaps
    model, faces = export(tmp_path, network, {"network": asdict(network.config)}), sample_crops(3)  # compares by itself
    quantise_model(model, tmp_path / "int8", faces=Measured(faces, faces))
    before, after = (Network(m / "hourglass.onnx", ["scores"])(faces)[0] for m in (model.folder, tmp_path / "int8"))
    assert np.abs(before - after).mean() < 0.05 * before.max()


@pytest.mark.slow
def test_a_network_of_coordinates_is_a_stage_2(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from facemsm.export.onnx import sample_crops
    from facemsm.export.quantise import Measured, quantise_model
    from facemsm.resnet50.network import ResNet50, ResNet50Config

    torch.manual_seed(0)
    network = ResNet50(ResNet50Config(68, width=4)).eval()
    model = export(tmp_path, network, {"network": asdict(network.config)}, mirror=True)
    faces = sample_crops(3)
    points, scores, spread = Network(model.path("hourglass.onnx"), LANDMARKS)(faces)
    with torch.inference_mode():
        expected = network(torch.from_numpy(faces).permute(0, 3, 1, 2) / 255).numpy()
    np.testing.assert_allclose(points, expected, atol=1e-3)
    assert (scores == 1).all()
    assert (spread == 0).all()
    quantise_model(model, tmp_path / "int8", faces=Measured(faces, faces))
    assert model.mirror
    assert load_model(tmp_path / "int8").mirror
    (coarse,) = Network(tmp_path / "int8" / "hourglass.onnx", ["points"])(faces)
    assert np.abs(coarse - points).mean() < 0.1 * np.ptp(points - points.mean((0, 1)))


@pytest.mark.slow
def test_integers_compute_nearly_the_same(tiny: tuple[Any, Model], tmp_path: Path) -> None:
    from facemsm.export.onnx import sample_crops
    from facemsm.export.quantise import Measured, quantise_model

    model, faces = tiny[1], sample_crops(12)
    quantise_model(model, tmp_path / "int8", faces=Measured(faces, faces))
    small = load_model(tmp_path / "int8")
    assert small.provenance == {"preset": "test", "quantisation": {"scheme": "int8", "calibration faces": 12}}
    assert small.codec == model.codec
    before, after = (Network(m.path("hourglass.onnx"), ["heatmaps", "scores"])(faces[:5]) for m in (model, small))
    step = before[0].max() - before[0].min()
    assert np.abs(before[0] - after[0]).mean() < 0.01 * step
    assert np.abs(before[1] - after[1]).mean() < 0.02 * step
    with pytest.raises(FacemsmError, match="quantised already"):
        quantise_model(small, tmp_path / "again", faces=Measured(faces, faces))
    with pytest.raises(FacemsmError, match="--data"):
        quantise_model(model, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.slow
def test_convolutions_are_of_integers(tiny: tuple[Any, Model]) -> None:
    from facemsm.export.onnx import sample_crops
    from facemsm.export.quantise import to_integers

    graph = to_integers(tiny[1].path("hourglass.onnx"), sample_crops(2)).graph
    kinds = {node.op_type for node in graph.node}
    assert {"QLinearConv", "MatMulIntegerToFloat"} <= kinds
    assert not {"Conv", "ConvTranspose", "BatchNormalization", "MaxPool"} & kinds
    constants = {tensor.name: tensor.dims for tensor in graph.initializer}
    convolutions = [constants[node.input[3]] for node in graph.node if node.op_type == "QLinearConv"]
    assert [8, 12, 3, 2] in convolutions
    assert not any(channels == 3 for _, channels, *_ in convolutions)
    # Each unit's sum is already shifted for what reads it, but in the stem, twice, and behind the four poolings.
    added = [constants.get(node.input[1]) for node in graph.node if node.op_type == "Add"]
    assert sum(shape in ([16], [8], [4]) for shape in added) == 2 + 4


@pytest.mark.slow
def test_stage_1_of_integers(tmp_path: Path) -> None:
    """θ is a float, near the float network's, of turned faces too; its convolutions are of bytes."""
    torch = pytest.importorskip("torch")
    import onnx

    from facemsm.export.onnx import ExportedStage1, _export, sample_crops
    from facemsm.export.quantise import to_integers
    from facemsm.stgan.networks import Generator
    from facemsm.training.weights import load_weights

    generator, faces = Generator().eval(), sample_crops(24)
    load_weights(generator, Path(__file__).parents[2] / "checkpoints/68/stgan/best.safetensors")
    with torch.inference_mode():
        theta = generator(torch.from_numpy(faces).permute(0, 3, 1, 2) / 255).numpy()
    assert np.ptp(theta, axis=0).min() > 0.2
    path = tmp_path / "stgan.onnx"
    _export(ExportedStage1(generator), path, faces, {"theta": theta})
    off = []
    for percentile in (100, 80):
        small = to_integers(path, faces, percentile)
        assert "Conv" not in {node.op_type for node in small.graph.node}
        onnx.save(small, tmp_path / "small.onnx")
        (found,) = Network(tmp_path / "small.onnx", ["theta"])(faces)
        assert found.dtype == np.float32
        off.append(np.abs(found - theta).max())
    assert off[0] < 0.03
    assert off[0] < off[1]


@pytest.mark.slow
def test_heatmaps_of_integers_stay_bytes(tiny: tuple[Any, Model], tmp_path: Path) -> None:
    """Which whoever asks for them reads as floats."""
    import onnx

    from facemsm.export.onnx import sample_crops
    from facemsm.export.quantise import Measured, quantise_model

    faces = sample_crops(4)
    quantise_model(tiny[1], tmp_path / "int8", faces=Measured(faces, faces))
    path = tmp_path / "int8" / "hourglass.onnx"
    kinds = {output.name: output.type.tensor_type.elem_type for output in onnx.load(path).graph.output}
    assert kinds["heatmaps"] == onnx.TensorProto.UINT8
    points, heatmaps = Network(path, ["points", "heatmaps"])(faces)
    assert heatmaps.dtype == np.float32
    np.testing.assert_allclose(points, tiny[1].codec.decode(heatmaps).points, atol=1e-3)


def test_numbers_of_the_process_stay_as_they_are(tmp_path: Path) -> None:
    """Networks do not switch off subnormal numbers, which NumPy and whoever else is in the process may need."""
    code = """
import numpy as np
from facemsm import Aligner
from facemsm.assets import SAMPLE
Aligner.from_pretrained().align(SAMPLE)
assert (np.full(8, 1e-40, np.float32) * np.float32(0.5) > 0).all()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_powers_of_two_in_a_model(tiny: tuple[Any, Model], tmp_path: Path) -> None:
    from facemsm.export.onnx import sample_crops
    from facemsm.export.quantise import quantise_model

    model, faces = tiny[1], sample_crops(4)
    reference = Network(model.path("hourglass.onnx"), ["heatmaps"])(faces)[0]
    worse = []
    for terms in (1, 2):
        folder = tmp_path / str(terms)
        quantise_model(model, folder, scheme="power-of-two", terms=terms)
        assert load_model(folder).provenance["quantisation"]["bits"] == 1 + 3 * terms
        worse.append(np.abs(Network(folder / "hourglass.onnx", ["heatmaps"])(faces)[0] - reference).mean())
    assert 0 < worse[1] < worse[0]


@given(
    weights=arrays(np.float32, (3, 5), elements=st.floats(-8, 8, width=32, allow_subnormal=False)),
    terms=st.sampled_from([1, 2]),
)
def test_weights_become_powers_of_two(weights: FloatArray, terms: int) -> None:
    pytest.importorskip("onnx")
    from facemsm.export.quantise import EXPONENTS, power_of_two

    for before, after in zip(weights, power_of_two(weights, terms), strict=True):
        assert np.isfinite(after).all()
        assert (after * before >= 0).all()
        mantissas = np.abs(np.frexp(after[after != 0])[0])
        numerators = mantissas * 2**EXPONENTS  # one bit is set, or two
        assert {bin(int(n)).count("1") for n in numerators} <= set(range(1, terms + 1))
        assert (numerators == numerators.astype(int)).all()
        exponents = np.frexp(after[after != 0])[1]
        assert not exponents.size or np.ptp(exponents) <= EXPONENTS
