"""The networks against the paper's tables. ``pytest -s`` prints weights and FLOPs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from facemsm.errors import FacemsmError
from facemsm.hourglass.network import HourglassConfig, ResidualUnit, StackedHourglass
from facemsm.hourglass.training import HourglassTraining
from facemsm.stgan.networks import Discriminator, Generator

Table = tuple[tuple[int, ...], ...]
CROP = (1, 3, 128, 128)

# side and channels in; kernel, kernels, stride; side and channels out. Conv6 and Conv8 by their output column.
TABLE_I = (
    (128, 3, 3, 8, 2, 64, 8),
    (64, 8, 3, 16, 2, 32, 16),
    (32, 16, 3, 16, 1, 32, 16),
    (32, 16, 3, 32, 2, 16, 32),
    (16, 32, 3, 32, 1, 16, 32),
    (16, 32, 3, 64, 2, 8, 64),
    (8, 64, 3, 64, 1, 8, 64),
    (8, 64, 3, 128, 2, 4, 128),
    (4, 128, 3, 128, 1, 4, 128),
    (4, 128, 4, 32, 1, 1, 32),
    (1, 32, 1, 6, 1, 1, 6),
)
# Conv7 gives one logit where the table has two values.
TABLE_II = (
    (128, 3, 4, 32, 2, 64, 32),
    (64, 32, 4, 64, 2, 32, 64),
    (32, 64, 4, 128, 2, 16, 128),
    (16, 128, 4, 256, 2, 8, 256),
    (8, 256, 4, 512, 2, 4, 512),
    (4, 512, 4, 1024, 2, 2, 1024),
    (2, 1024, 2, 1, 1, 1, 1),
)


def on_meta(build: Callable[[], nn.Module]) -> Any:
    """A network of shapes only: nothing is computed."""
    with torch.device("meta"):
        return build().eval()


def trace(network: nn.Module, *kinds: type[nn.Module]) -> list[tuple[Any, tuple[int, ...], tuple[int, ...]]]:
    """Modules of the kinds in the order they run on one face, with the sizes of what goes in and out."""
    seen: list[tuple[Any, tuple[int, ...], tuple[int, ...]]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((module, tuple(inputs[0].shape[1:]), tuple(output.shape[1:])))

    hooks = [module.register_forward_hook(note) for module in network.modules() if isinstance(module, kinds)]
    network(torch.zeros(CROP, device=next(network.parameters()).device))
    for hook in hooks:
        hook.remove()
    return seen


def layers(network: nn.Module) -> Table:
    """The convolutions in the form of the tables above."""
    return tuple(
        (before[1], before[0], module.kernel_size[0], module.out_channels, module.stride[0], after[1], after[0])
        for module, before, after in trace(network, nn.Conv2d)
    )


def weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def paper_hourglass() -> StackedHourglass:
    return StackedHourglass(HourglassTraining.preset("paper", 68).network)


@pytest.mark.parametrize(("build", "table"), [(Generator, TABLE_I), (Discriminator, TABLE_II)])
def test_every_layer_is_as_in_the_table(build: Callable[[], nn.Module], table: Table) -> None:
    network = on_meta(build)
    for number, (layer, expected) in enumerate(zip(layers(network), table, strict=True), 1):
        print(f"{build.__name__} Conv{number}: {layer}")
        assert layer == expected, f"Conv{number}"


@pytest.mark.parametrize(
    ("build", "count", "table"),
    [(Generator, 360_718, TABLE_I), (Discriminator, 11_183_521, TABLE_II), (paper_hourglass, 14_987_656, None)],
)
def test_weights_and_flops(build: Callable[[], nn.Module], count: int, table: Table | None) -> None:
    network = on_meta(build)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(CROP, device="meta"))
    flops = counter.get_total_flops()
    print(f"{build.__name__}: {weights(network) / 1e6:.6f} M weights, {flops / 1e9:.4f} GFLOP per face")
    assert weights(network) == count
    if table:
        assert flops == sum(2 * out**2 * kernels * into * kernel**2 for _, into, kernel, kernels, _, out, _ in table)


def test_the_hourglass_is_as_figure_3() -> None:
    network = on_meta(paper_hourglass)
    ran = trace(network, nn.Conv2d, nn.MaxPool2d, nn.ConvTranspose2d, ResidualUnit)
    in_unit = {layer for unit in network.modules() if isinstance(unit, ResidualUnit) for layer in unit.modules()}
    steps = [
        (type(module).__name__, before, after)
        for module, before, after in ran
        if isinstance(module, ResidualUnit) or module not in in_unit
    ]

    def step(kind: str, into: int, out: int, side: int, after: int) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        return kind, (into, side, side), (out, after, after)

    def conv(into: int, out: int, side: int) -> Any:
        return step("Conv2d", into, out, side, side)

    def unit(side: int, into: int = 256) -> Any:
        return step("ResidualUnit", into, 256, side, side)

    def pool(side: int) -> Any:
        return step("MaxPool2d", 256, 256, side, side // 2)

    def up(side: int) -> Any:
        return step("ConvTranspose2d", 256, 256, side, 2 * side)

    stem = [conv(3, 64, 128), conv(64, 64, 128), step("MaxPool2d", 64, 64, 128, 64), conv(64, 128, 64)]
    down = [each for side in (64, 32, 16, 8) for each in (unit(side), pool(side), unit(side // 2))]
    back = [each for side in (4, 8, 16, 32) for each in (unit(side), up(side))]
    stack = [*down, unit(4), *back, unit(64), conv(256, 256, 64), conv(256, 68, 64)]
    feedback = [conv(256, 256, 64), conv(68, 256, 64)]
    expected = [*stem, unit(64, into=128), *stack, *feedback, *stack]
    for each, wanted in zip(steps, expected, strict=True):
        print(*each)
        assert each == wanted


@pytest.mark.parametrize(
    "config",
    [
        HourglassConfig(29, width=8, stacks=1, depth=1, stem=4),
        HourglassConfig(98, width=12, stacks=3, depth=2, stem=4, deconvolution=2),
        HourglassConfig(68, width=8, stacks=2, depth=5, stem=2, body_size=32),
        HourglassConfig(5, width=8, stacks=2, depth=3, stem=2, body_size=32, deconvolution=2),
    ],
)
def test_the_hourglass_takes_every_shape(config: HourglassConfig) -> None:
    network = on_meta(lambda: StackedHourglass(config))
    outputs = network(torch.zeros((2, 3, 128, 128), device="meta"))
    sides = [config.body_size] * (config.stacks - 1) + [64]
    assert [tuple(maps.shape) for maps in outputs] == [(2, config.landmarks, side, side) for side in sides]

    deconvolutions = trace(network, nn.ConvTranspose2d)
    assert {module.kernel_size[0] for module, _, _ in deconvolutions} == {config.deconvolution}
    assert len(deconvolutions) == config.stacks * config.depth + (config.body_size == 32)
    assert all(after == (config.width, 2 * before[1], 2 * before[2]) for _, before, after in deconvolutions)
    smallest = min(after[1] for _, _, after in trace(network, ResidualUnit))
    assert smallest == config.body_size >> config.depth
    first = trace(network, nn.Conv2d)[0]
    assert first[2] == (config.stem, 2 * config.body_size, 2 * config.body_size)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"body_size": 48}, "body_size is 48"),
        ({"deconvolution": 3}, "deconvolution is 3"),
        ({"width": 7}, "width must be even"),
        ({"width": 0}, "width must be even"),
        ({"landmarks": 0}, "at least 1"),
        ({"stacks": 0}, "at least 1"),
        ({"depth": 0}, "at least 1"),
        ({"stem": 0}, "at least 1"),
        ({"depth": 7}, "halves 64 px to nothing"),
        ({"depth": 6, "body_size": 32}, "halves 32 px to nothing"),
    ],
)
def test_impossible_shapes_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(FacemsmError, match=message):
        HourglassConfig(**{"landmarks": 68, **settings})


def test_a_residual_unit_adds_to_what_it_is_given() -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 8, 6, 6)
    given = x.clone()
    unit = ResidualUnit(8, 8).eval()
    torch.testing.assert_close(unit(x), given + unit.branch(given), rtol=0, atol=0)  # Eq. 7
    torch.testing.assert_close(x, given, rtol=0, atol=0)  # nothing in the branch works in place on it
    assert not list(unit.skip.parameters())
    wider = ResidualUnit(8, 12).eval()
    assert [layer.kernel_size for layer in wider.modules() if isinstance(layer, nn.Conv2d)][-1] == (1, 1)
    torch.testing.assert_close(wider(x), wider.skip(x) + wider.branch(x), rtol=0, atol=0)


def test_normalisation_and_relu_come_before_convolutions() -> None:
    config = HourglassConfig(5, width=8, stacks=2, depth=1, stem=4, body_size=32)
    network = on_meta(lambda: StackedHourglass(config))
    unit = network.stem[-1]
    kinds = (nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.ConvTranspose2d)
    branch = [module for module, _, _ in trace(network, *kinds) if module in set(unit.branch.modules())]
    assert [type(module).__name__ for module in branch] == ["BatchNorm2d", "ReLU", "Conv2d"] * 3
    assert [module.kernel_size[0] for module in branch[2::3]] == [1, 3, 1]  # Fig. 4

    units = [module for module in network.modules() if isinstance(module, ResidualUnit)]
    plain = {*(each.skip for each in units), *network.from_features, *network.from_heatmaps}  # only match channels
    ran = [module for module, _, _ in trace(network, *kinds) if module not in plain]
    convolutions = [i for i, module in enumerate(ran) if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    assert convolutions[0] == 0  # the first alone has no normalisation before it
    for i in convolutions[1:]:
        assert isinstance(ran[i - 1], nn.ReLU)
        assert isinstance(ran[i - 2], nn.BatchNorm2d)


@pytest.mark.parametrize(
    "build", [Generator, lambda: StackedHourglass(HourglassConfig(5, width=8, stacks=2, depth=2, stem=4))]
)
def test_a_batch_gives_what_its_faces_give_alone(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(2)
    network = build()
    faces = torch.rand(3, 3, 128, 128)
    if isinstance(network, Generator):
        nn.init.normal_(network.theta.weight)
    if isinstance(network, StackedHourglass):
        nn.init.normal_(network.get_parameter("heads.1.2.weight"))
    for _ in range(3):
        network(faces)  # running statistics that are not the initial ones

    def last(images: Tensor) -> Tensor:
        output: Any = network(images)
        heatmaps: Tensor = output[-1] if isinstance(output, list) else output
        return heatmaps

    network.eval()
    with torch.inference_mode():
        together, alone = last(faces), torch.cat([last(face[None]) for face in faces])
    assert together.std() > 1e-3
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_heads_start_nearly_dark() -> None:
    torch.manual_seed(3)
    for body_size in (32, 64):
        network = StackedHourglass(HourglassConfig(68, width=64, stacks=2, depth=2, stem=8, body_size=body_size))
        for heatmaps in network(torch.rand(2, 3, 128, 128)):
            assert 1e-3 < heatmaps.std() < 2e-2
            assert heatmaps.abs().max() < 0.1
