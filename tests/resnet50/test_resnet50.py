"""The baseline of the ablation: ResNet-50 on 128 px, against the table of its paper, and in training."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facemsm.data.augment import Augmentation
from facemsm.data.sources import Source
from facemsm.errors import FacemsmError
from facemsm.resnet50.losses import LOSSES, smooth_distance, squared_distance
from facemsm.resnet50.network import Bottleneck, ResNet50, ResNet50Config
from facemsm.resnet50.training import ResNet50Module, ResNet50Training
from facemsm.schemes import get_scheme
from facemsm.training.config import Schedule
from facemsm.training.faces import Faces
from facemsm.training.run import fit
from synthetic_faces import write_faces

STILL = Augmentation(flip=0, rotation=0, scale=0, brightness=0, contrast=0, saturation=0, hue=0)
nan = float("nan")

# Table 1 of He et al. for 128 px: stage, blocks, channels inside and out, side.
TABLE = ((1, 3, 64, 256, 32), (2, 4, 128, 512, 16), (3, 6, 256, 1024, 8), (4, 3, 512, 2048, 4))


@pytest.fixture(scope="module")
def paper() -> ResNet50:
    return ResNet50(ResNet50Training.preset("paper", 68).network).eval()


def test_every_stage_is_as_in_the_table(paper: ResNet50) -> None:
    sides: list[tuple[int, ...]] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: sides.append(tuple(output.shape[1:])))
        for module in (paper.stem[0], paper.stem, *paper.stages, paper.pool)
    ]
    with torch.inference_mode():
        points = paper(torch.rand(1, 3, 128, 128))
    for hook in hooks:
        hook.remove()
    assert sides[:2] == [(64, 64, 64), (64, 32, 32)]
    assert sides[2:6] == [(channels, side, side) for _, _, _, channels, side in TABLE]
    assert sides[6] == (2048, 1, 1)  # by the 4 × 4 pooling of Section IV-G
    assert points.shape == (1, 68, 2)

    for (number, count, inside, out, _), stage in zip(TABLE, paper.stages, strict=True):
        assert isinstance(stage, nn.Sequential)
        assert len(stage) == count
        for place, block in enumerate(stage):
            assert isinstance(block, Bottleneck)
            convolutions = [layer for layer in block.branch if isinstance(layer, nn.Conv2d)]
            stride = 2 if number > 1 and place == 0 else 1
            assert [(c.kernel_size[0], c.out_channels, c.stride[0]) for c in convolutions] == [
                (1, inside, 1),
                (3, inside, stride),
                (1, out, 1),
            ]
            assert isinstance(block.skip, nn.Identity) == (place > 0)


def test_fifty_layers_and_their_weights(paper: ResNet50) -> None:
    in_branches = [m for block in paper.modules() if isinstance(block, Bottleneck) for m in block.branch]
    assert sum(isinstance(m, nn.Conv2d) for m in in_branches) + 2 == 50  # with the first and the last layer
    count = sum(parameter.numel() for parameter in paper.parameters())
    emitted = 2 * 68 * (2048 + 1)
    assert count - emitted == 23_508_032


def test_points_start_near_the_middle_and_are_pixels() -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        start = ResNet50(ResNet50Config(5, width=8))(torch.rand(4, 3, 128, 128))
    assert start.dtype == torch.float32
    torch.testing.assert_close(start, torch.full((4, 5, 2), 63.5), rtol=0, atol=8)
    network = ResNet50(ResNet50Config(5, width=8)).eval()
    with torch.no_grad():
        network.points.weight.zero_()
        network.points.bias.copy_(torch.tensor([-0.5, 0.5] * 5))
        corner = network(torch.rand(1, 3, 128, 128))[0]
    assert corner.tolist() == [[-0.5, 127.5]] * 5  # the outer edges of the first and last pixels


def test_points_are_as_precise_in_mixed_precision() -> None:
    torch.manual_seed(0)
    network = ResNet50(ResNet50Config(5, width=8)).eval()
    nn.init.constant_(network.points.bias, 0.4321)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        points = network(torch.zeros(1, 3, 128, 128))
    assert points.dtype == torch.float32
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        features = network.pool(network.stages(network.stem(torch.zeros(1, 3, 128, 128) - 0.5))).flatten(1)
    with torch.inference_mode():
        expected = 128 * (network.points(features.float()).view(1, 5, 2) + 0.5) - 0.5
    torch.testing.assert_close(points, expected, rtol=0, atol=1e-3)


def test_losses_by_hand() -> None:
    truth = torch.tensor([[[0.0, 0.0], [10.0, 10.0]], [[nan, nan], [5.0, 5.0]]])
    predicted = torch.tensor([[[3.0, 4.0], [10.5, 10.0]], [[7.0, 7.0], [5.0, 5.0]]])
    assert squared_distance(predicted, truth).item() == pytest.approx((25 + 0.25 + 0) / 3)
    assert smooth_distance(predicted, truth).item() == pytest.approx((2.5 + 3.5 + 0.125 + 0) / 3)


@pytest.mark.parametrize("name", LOSSES)
def test_unlabelled_points_teach_nothing(name: str) -> None:
    truth = torch.tensor([[[0.0, 0.0], [nan, nan]], [[nan, nan], [nan, nan]]])
    predicted = torch.full((2, 2, 2), 2.0, requires_grad=True)
    loss = LOSSES[name](predicted, truth)
    slope: Tensor = torch.autograd.grad(loss, predicted)[0]
    assert torch.equal(slope != 0, ~truth.isnan())
    nothing = LOSSES[name](predicted, torch.full((2, 2, 2), nan))
    assert nothing.item() == 0
    assert torch.autograd.grad(nothing, predicted)[0].abs().max() == 0


def test_presets() -> None:
    paper, lite = (ResNet50Training.preset(name, 98) for name in ("paper", "lite"))
    assert paper.network == ResNet50Config(98, width=64)
    assert (paper.schedule, paper.augmentation, paper.loss) == (Schedule(), Augmentation.paper(), "l2")
    assert lite.network.landmarks == 98
    assert lite.network.width < 64
    with pytest.raises(FacemsmError, match="no preset 'best': use paper or lite"):
        ResNet50Training.preset("best", 98)
    with pytest.raises(FacemsmError, match="at least 1"):
        ResNet50Config(68, width=0)


@pytest.mark.slow
def test_a_small_res_50_learns_eight_faces_by_heart(tmp_path: Path) -> None:
    samples = write_faces(tmp_path / "data", 8)
    faces = Faces(samples, samples, np.zeros(8, np.int64), (Source("aflw2000", "", "train"),))
    schedule = Schedule(
        steps=90, batch_size=8, learning_rate=5e-3, decay="cosine", warmup=5, validate_every=90, workers=0, threads=1
    )
    config = ResNet50Training(ResNet50Config(68, width=8), schedule, STILL, loss="smooth_l1")
    with pytest.raises(FacemsmError, match="no loss 'l3': use one of l2, smooth_l1"):
        ResNet50Module(replace(config, loss="l3"), get_scheme("68"), faces)
    fit(ResNet50Module(config, get_scheme("68"), faces), config, tmp_path / "run", progress=False)
    with (tmp_path / "run/history.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    print(rows)
    assert float(rows[-1]["box"]) < 1.0  # per cent
