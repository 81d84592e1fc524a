"""Trained stages to a model folder: export to ONNX, reload, compare with PyTorch, and only then write."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from facemsm.errors import FacemsmError
from facemsm.geometry import box_to_crop, compose, perturb_box, similarity
from facemsm.heatmaps import HeatmapCodec
from facemsm.hourglass.network import HEATMAP_SIZE, INPUT_SIZE, HourglassConfig, StackedHourglass
from facemsm.images import read_image
from facemsm.runtime.model import DICTIONARY, HOURGLASS, STGAN, write_manifest
from facemsm.runtime.session import Network
from facemsm.schemes import scheme_to_dict
from facemsm.shapes.dictionary import ShapeDictionary
from facemsm.stgan.networks import Generator
from facemsm.training.config import from_mapping
from facemsm.training.run import load_weights
from facemsm.typing import Image
from facemsm.warping import warp

OPSET = 18
SAMPLE = Path(__file__).parents[1] / "apps" / "sample.jpg"
SAMPLE_BOX = np.array([180.0, 87.0, 273.0, 179.0])
"""The face in the sample photo, tight around its landmarks."""
TOLERANCE = 1e-4
"""Largest difference between PyTorch and ONNX Runtime, in θ and in heatmap intensity."""


class _FromBytes(nn.Module):
    """Takes (N, S, S, 3) uint8 images, as they come from a photo, instead of (N, 3, S, S) in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.network(images.permute(0, 3, 1, 2).float() / 255)
        return cast(Tensor, outputs[-1] if isinstance(outputs, list) else outputs)


def export_model(
    folder: Path,
    *,
    name: str,
    stgan: Path,
    hourglass: Path,
    dictionary: Path,
    faces: Image,
    provenance: Mapping[str, Any],
) -> None:
    """Write a model folder from three trained stages.

    Args:
        folder: to be written; an older model in it is replaced once all is well.
        name: of the model.
        stgan, hourglass: run folders of stage 1 and 2, with ``best.safetensors`` and ``config.json``.
        dictionary: the shape dictionary's file; its landmark scheme is the model's.
        faces: (N, 128, 128, 3) uint8, real faces to compare the exported networks on.
        provenance: what to record beside the weights.

    Raises:
        FacemsmError: a file is missing, the stages do not fit each other, or an exported network computes something
            else than PyTorch's.
    """
    config = _config(hourglass)
    network = StackedHourglass(from_mapping(HourglassConfig, config["network"]))
    load_weights(network, hourglass / "best.safetensors")
    generator = Generator()
    load_weights(generator, stgan / "best.safetensors")
    scheme = ShapeDictionary.load(dictionary).scheme
    if scheme.count != network.config.landmarks:
        raise FacemsmError(f"{hourglass}: emits {network.config.landmarks} points, {dictionary} has {scheme.count}")
    with tempfile.TemporaryDirectory() as scratch:
        staging = Path(scratch)
        _export(generator, staging / STGAN, faces)
        _export(network, staging / HOURGLASS, faces)
        shutil.copyfile(dictionary, staging / DICTIONARY)
        write_manifest(
            staging,
            name=name,
            scheme=scheme_to_dict(scheme),
            codec=asdict(HeatmapCodec(INPUT_SIZE, HEATMAP_SIZE, config["sigma"], refinement=config["refinement"])),
            provenance=provenance,
        )
        folder.mkdir(parents=True, exist_ok=True)
        for file in staging.iterdir():
            shutil.move(str(file), folder / file.name)


def sample_crops(count: int = 16) -> Image:
    """(count, 128, 128, 3) uint8: the face of the bundled sample photo, turned and shifted at random."""
    photo = read_image(SAMPLE)
    rng = np.random.default_rng(0)
    crops = []
    for _ in range(count):
        box = perturb_box(SAMPLE_BOX, rng.uniform(-0.2, 0.2, 2), rng.uniform(0.8, 1.25))
        turn = similarity(rng.uniform(-0.6, 0.6), centre=2 * [(INPUT_SIZE - 1) / 2])
        crops.append(warp(photo, compose(turn, box_to_crop(box, INPUT_SIZE)), INPUT_SIZE))
    return np.stack(crops)


def _export(network: nn.Module, path: Path, faces: Image) -> None:
    network = _FromBytes(network).eval()
    batch = torch.from_numpy(faces)
    torch.onnx.export(
        network,
        (batch[:2],),
        path,
        input_names=["images"],
        output_names=["output"],
        dynamic_shapes={"images": {0: torch.export.Dim("faces")}},
        opset_version=OPSET,
        external_data=False,
        dynamo=True,
        verbose=False,
    )
    _strip(path)
    with torch.inference_mode():
        expected = network(batch).numpy()
    difference = float(np.abs(Network(path)(faces) - expected).max())
    if not difference <= TOLERANCE:
        raise FacemsmError(f"{path.name}: ONNX Runtime and PyTorch differ by {difference:.2g}, more than {TOLERANCE}")


def _strip(path: Path) -> None:
    """Remove what the exporter notes beside each operator: source lines and paths of this machine."""
    model = onnx.load(path)
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    del model.graph.metadata_props[:], model.metadata_props[:]
    onnx.save(model, path)


def _config(run: Path) -> dict[str, Any]:
    path = run / "config.json"
    try:
        return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise FacemsmError(f"{path}: not the configuration of a training run; name the run's folder") from error
