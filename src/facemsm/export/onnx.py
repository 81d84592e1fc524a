"""Trained stages to a model folder: export to ONNX, reload, compare with PyTorch, and only then write."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from facemsm.assets import SAMPLE, SAMPLE_BOX
from facemsm.errors import FacemsmError
from facemsm.heatmaps import MASS_FLOOR, HeatmapCodec
from facemsm.hourglass.network import (
    HEATMAP_SIZE,
    INPUT_SIZE,
    Hourglass,
    HourglassConfig,
    ResidualUnit,
    StackedHourglass,
)
from facemsm.imaging.io import read_image
from facemsm.imaging.warping import jittered_crop
from facemsm.runtime.model import DICTIONARY, HOURGLASS, STGAN, write_manifest
from facemsm.runtime.session import LANDMARKS, Network
from facemsm.schemes import scheme_to_dict
from facemsm.shapes.dictionary import ShapeDictionary
from facemsm.stgan.networks import Generator
from facemsm.training.config import from_mapping, read_config
from facemsm.training.landmarks import images_to_tensor
from facemsm.training.weights import load_weights, read_notes
from facemsm.typing import FloatArray, Image

OPSET = 18
TOLERANCES = {"theta": 1e-4, "points": 1e-3, "scores": 1e-4, "spread": 0.1, "heatmaps": 1e-4}
"""Largest difference between PyTorch and ONNX Runtime. A spread is a difference of large numbers, in squared pixels."""

_TINY = 1e-6
_LEAST_GAIN = 1e-3


class ExportedStage1(nn.Module):
    """Stage 1 as it is exported: θ (N, 2, 3) of crops (N, S, S, 3) uint8."""

    def __init__(self, network: Generator) -> None:
        super().__init__()
        network = deepcopy(network).eval()
        self.features, self.theta = fold_input_scale(network.features), network.theta

    def forward(self, images: Tensor) -> Tensor:
        """Eq. 1."""
        return cast(Tensor, self.theta(self.features(_centred(images)))).reshape(-1, 2, 3)


class LandmarksFromBytes(nn.Module):
    """Stage 2 as it is exported: what :meth:`HeatmapCodec.decode` reads from the last stack's heatmaps.

    The numbers are the network's and the codec's, by other operators, which cost less or can be quantised:

    - a 2 × 2 deconvolution is a 1 × 1 convolution with four times the kernels, whose results are interleaved;
    - those of the last one are not: to put 1.1 MB of heatmaps a face in order would cost more than to read them;
    - what a stack hands to the next is linear from its last ReLU on, so its heatmaps need not be computed;
    - the sums that residual units add to are kept in units that suit the normalisations, see
      :func:`equalize_residual_stream`.
    """

    def __init__(self, network: StackedHourglass, codec: HeatmapCodec) -> None:
        super().__init__()
        network = deepcopy(network).eval()
        for name, module in list(network.named_modules()):
            if isinstance(module, nn.ConvTranspose2d) and module.kernel_size == module.stride == (2, 2):
                parent, _, child = name.rpartition(".")
                setattr(network.get_submodule(parent), child, deconv_as_pixel_shuffle(module))
        features, heads = ([cast(nn.Sequential, m) for m in modules] for modules in (network.features, network.heads))
        self.stem, self.hourglasses = fold_input_scale(network.stem), network.hourglasses
        self.features = nn.ModuleList(sequence[:-1] for sequence in features)  # up to the last ReLU
        self.skips, self.returns = nn.ModuleList(), nn.ModuleList()
        stacks = zip(features, heads, network.from_features, network.from_heatmaps, strict=False)
        for (*_, emit), (*before, dark), from_features, from_heatmaps in stacks:
            self.skips.append(fuse_pointwise(emit, from_features))
            self.returns.append(nn.Sequential(emit, *before, fuse_pointwise(dark, from_heatmaps)))
        with torch.no_grad():
            equalize_residual_stream(self, cast(ResidualUnit, network.stem[-1]))
        self.parts = 2 if any(isinstance(module, nn.PixelShuffle) for module in heads[-1].modules()) else 1
        self.last = nn.Sequential(features[-1][-1], *(split_pixel_shuffle(heads[-1]) if self.parts == 2 else heads[-1]))
        self.decoder = _Decoder(codec, self.parts, network.config.landmarks)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of images (N, S, S, 3) uint8: points, scores, spread, and heatmaps (N, parts, parts, L, side, side)."""
        x = self.stem(_centred(images))
        for i, (hourglass, features) in enumerate(zip(self.hourglasses, self.features, strict=True)):
            seen = features(hourglass(x))
            if i < len(self.skips):
                x = x + self.skips[i](seen) + self.returns[i](seen)
        parts = self.last(seen)  # (N, parts² L, side, side)
        return *self.decoder(parts), parts.reshape(-1, self.parts, self.parts, self.decoder.landmarks, *parts.shape[2:])


class MeanOfNetworks(nn.Module):
    """Several networks as one stage 2: points and scores are the means of theirs; not in the paper.

    What they disagree about adds to the spread, as of a mixture of equal parts (:func:`mean_of_networks` in NumPy);
    heatmaps are the first one's.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Of images (N, S, S, 3) uint8: points, scores, spread, and heatmaps if the first network has them."""
        found = [network(images) for network in self.networks]
        points, scores, spread = (
            sum(values) / len(found) for values in zip(*(each[:3] for each in found), strict=True)
        )
        for each in found:
            x, y = torch.split(each[0] - points, 1, -1)
            spread = spread + torch.cat((x * x, x * y, y * y), -1) / len(found)
        return points, scores, spread, *found[0][3:]


def mean_of_networks(found: Sequence[Mapping[str, FloatArray]]) -> dict[str, FloatArray]:
    """What :class:`MeanOfNetworks` computes, of what each network found: by name as in :data:`LANDMARKS`."""
    points, scores, spread = (np.stack([each[name] for each in found]) for name in LANDMARKS)
    x, y = np.moveaxis(points - points.mean(0), -1, 0)
    spread = spread + np.stack((x * x, x * y, y * y), axis=-1)
    return {**found[0], **dict(zip(LANDMARKS, (value.mean(0) for value in (points, scores, spread)), strict=True))}


class _Decoder(nn.Module):
    """Points, scores and spreads of heatmaps in parts (N, P² L, side, side), as ``HeatmapCodec.decode`` with ``mass``.

    Only lines of cells that reach above the floor are looked at, a sixth of all; the window of Eq. 9 comes from a table
    of each cell's neighbours.
    """

    powers: Tensor
    grid: Tensor
    starts: Tensor
    neighbours: Tensor
    shares: Tensor

    def __init__(self, codec: HeatmapCodec, parts: int, landmarks: int) -> None:
        super().__init__()
        size = codec.size
        self.parts, self.landmarks, self.side, self.scale = parts**2, landmarks, size // parts, codec.input_size / size
        cells = np.arange(size**2).reshape(size, size)
        blocks = cells.reshape(self.side, parts, self.side, parts)
        order = blocks.transpose(1, 3, 0, 2).ravel()  # the cell that each place of the parts holds
        place = np.argsort(order).reshape(cells.shape)
        y, x = np.divmod(order, size)
        steps = np.arange(-codec.radius, codec.radius + 1)
        rows, columns = np.broadcast_arrays(y[:, None, None] + steps[:, None], x[:, None, None] + steps)
        inside = ((rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)).reshape(len(order), -1)
        near = place[np.clip(rows, 0, size - 1), np.clip(columns, 0, size - 1)].reshape(inside.shape)
        near += (landmarks - 1) * self.side**2 * (near // self.side**2)  # each part holds all landmarks
        lines = np.arange(0, size**2, self.side)
        starts = lines + (landmarks - 1) * self.side**2 * (lines // self.side**2)
        # Cell i of a line is at x = parts i + first. What the line holds, times 1, i and i², gives what it adds to the
        # sums of 1, x, y, xx, xy and yy.
        first, y = x[:: self.side], y[:: self.side]
        one, zero = np.ones_like(y), np.zeros_like(y)
        by_x = [(one, zero, zero), (first, parts * one, zero), (first**2, 2 * parts * first, parts**2 * one)]
        sums = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]
        grid = np.array([[y**down * part for part in by_x[across]] for across, down in sums])  # (6, 3, lines)
        grid = grid.transpose(2, 1, 0).reshape(self.parts, 3 * self.side, 6)
        self.register_buffer("powers", torch.arange(self.side).float()[:, None] ** torch.arange(3))
        self.register_buffer("grid", torch.tensor(grid, dtype=torch.float32))
        self.register_buffer("starts", torch.tensor(starts))
        self.register_buffer("neighbours", torch.tensor(near, dtype=torch.int32))
        self.register_buffer("shares", torch.tensor(inside / inside.sum(1, keepdims=True), dtype=torch.float32))

    def forward(self, parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = (parts.shape[0], self.parts, self.landmarks, self.side)
        # pooling finds maxima of bytes, too, and two steps lead to the peak faster than one
        highest = nn.functional.max_pool2d(parts, (1, self.side)).reshape(shape)
        floor = (MASS_FLOOR * highest.amax((1, 3), keepdim=True).relu()).expand(shape)
        active = (highest > floor).flatten().nonzero()
        mass = (parts.reshape(-1, self.side)[active[:, 0]] - floor.flatten()[active]).relu()
        sums = highest.new_zeros(highest.numel(), 3).index_put((active[:, 0],), (mass * mass) @ self.powers)
        sums = (sums.reshape(*shape[:3], -1) @ self.grid).sum(1)
        total, moments = torch.split(sums, [1, 5], -1)
        x, y, squares = torch.split(moments / total.clamp(min=_TINY), [1, 1, 3], -1)
        spread = (squares - torch.cat((x * x, x * y, y * y), -1)) * self.scale**2 * (total > _TINY)
        points = (torch.cat((x, y), -1) + 0.5) * self.scale - 0.5

        line = highest.transpose(1, 2).flatten(2).argmax(-1)  # (N, L), counting through the parts
        places = self.starts[line][..., None] + torch.arange(self.side)
        peak = line * self.side + self._at(parts, places).argmax(-1)
        window = self._at(parts, self.neighbours[peak].long()).relu()
        return points, (window * self.shares[peak]).sum(-1), spread

    def _at(self, parts: Tensor, places: Tensor) -> Tensor:
        """Values of each landmark's heatmap at places (N, L, K), counted from its first cell in the first part."""
        first = self.side**2 * torch.arange(self.landmarks)[:, None]
        return parts.flatten(1).gather(1, (places + first).flatten(1)).reshape(places.shape)


def equalize_residual_stream(network: LandmarksFromBytes, first: ResidualUnit) -> None:
    """Rescale and shift the sums that residual units add to, so that batch normalisations have little left to do.

    In place of x the sums hold ``scale x + offset``, channel by channel; both are hidden in the weights before and
    after. The scale is the same everywhere, the mean gain of the normalisations: channels that share the range of a
    byte then vary alike. The offset is the shift of the normalisation that reads the sum, which need not add it again.
    """
    parts = (network.hourglasses, network.features, network.skips, network.returns)
    hourglasses, features, skips, returns = (cast(Any, part) for part in parts)
    inside: list[Any] = [m for m in hourglasses.modules() if isinstance(m, Hourglass)]
    units: list[Any] = [m for part in (hourglasses, features) for m in part.modules() if isinstance(m, ResidualUnit)]
    norms = [unit.branch[0] for unit in units] + [h.up[1] for h in inside] + [norm for _, norm, *_ in features]
    gains = torch.stack([_affine(norm)[0] for norm in norms])
    doubled = all(isinstance(hourglass.up[3], nn.Sequential) for hourglass in inside)
    if gains.min() < _LEAST_GAIN or not isinstance(first.skip, nn.Conv2d) or not doubled:
        return  # a gain by which nothing can be divided, or a sum that something else than a convolution writes
    scale = gains.log().mean(0).exp()
    writers: list[Any] = [unit.branch[-1] for unit in (first, *units)] + [first.skip] + [h.up[3][0] for h in inside]
    writers += [*skips, *(layers[-1] for layers in returns)]
    for conv in writers:
        factor = scale.repeat_interleave(len(conv.weight) // len(scale))  # four times those of a deconvolution
        conv.weight *= factor[:, None, None, None]
        if conv.bias is not None:
            conv.bias *= factor
    for norm in norms:
        gain, shift = _affine(norm)
        norm.weight.copy_(gain / scale)
        norm.bias.copy_(shift)
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)

    def wanted(reader: Any) -> Tensor:
        """The offset that leaves a reader's normalisation nothing to add."""
        if isinstance(reader, Hourglass):
            return wanted(reader.skip)
        norm = cast(Any, reader.branch[0] if isinstance(reader, ResidualUnit) else reader)
        return cast(Tensor, norm.bias / norm.weight)

    def pass_unit(unit: Any, before: Tensor, after: Tensor) -> None:
        norm = unit.branch[0]
        norm.bias.copy_((wanted(unit) - before) * norm.weight)
        unit.branch[-1].bias += after - before

    def pass_hourglass(hourglass: Any, before: Tensor, after: Tensor) -> None:
        inner, (unit, norm, *_) = hourglass.inner, hourglass.up
        middle, last = wanted(unit), wanted(norm)
        pass_unit(hourglass.down[1], before, first := wanted(inner))
        (pass_hourglass if isinstance(inner, Hourglass) else pass_unit)(inner, first, middle)
        pass_unit(unit, middle, last)
        norm.bias.zero_()
        pass_unit(hourglass.skip, before, after)

    before = wanted(hourglasses[0])
    cast(Any, first.branch[-1]).bias += before
    for i, (hourglass, (unit, norm, *_)) in enumerate(zip(hourglasses, features, strict=True)):
        middle, last = wanted(unit), wanted(norm)
        pass_hourglass(hourglass, before, middle)
        pass_unit(unit, middle, last)
        norm.bias.zero_()
        if i < len(skips):
            after = wanted(hourglasses[i + 1])
            skips[i].bias += after - before
            before = after


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Gain and shift of a batch normalisation."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    return gain, norm.bias - norm.running_mean * gain


def _centred(images: Tensor) -> Tensor:
    """255 times what the networks take: (N, 3, S, S) of (N, S, S, 3) uint8."""
    return images.permute(0, 3, 1, 2).float() - 127.5


def fold_input_scale(layers: nn.Sequential) -> nn.Sequential:
    """The same layers for values from -127.5 to 127.5."""
    first = cast(nn.Conv2d, layers[0])
    with torch.no_grad():
        first.weight /= 255
    return layers


def _convolution(weight: Tensor, bias: Tensor | None, groups: int = 1) -> nn.Conv2d:
    """A convolution with these weights (out, in, side, side)."""
    kernels, channels, side, _ = weight.shape
    convolution = nn.Conv2d(channels * groups, kernels, side, groups=groups, bias=bias is not None)
    convolution.weight = nn.Parameter(weight.contiguous())
    convolution.bias = None if bias is None else nn.Parameter(bias)
    return convolution


def fuse_pointwise(first: nn.Module, second: nn.Module) -> nn.Conv2d:
    """Two 1 × 1 convolutions in one."""
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    assert first.bias is not None
    assert second.bias is not None
    weight = second.weight.detach()[..., 0, 0]
    bias = weight @ first.bias.detach() + second.bias.detach()
    return _convolution((weight @ first.weight.detach()[..., 0, 0])[..., None, None], bias)


def deconv_as_pixel_shuffle(deconvolution: nn.ConvTranspose2d) -> nn.Sequential:
    """A 2 × 2 deconvolution of stride 2 as a 1 × 1 convolution whose four results are interleaved."""
    weight = deconvolution.weight.detach().permute(1, 2, 3, 0)  # (out, 2, 2, in)
    return nn.Sequential(_convolution(weight.flatten(0, 2)[..., None, None], None), nn.PixelShuffle(2))


def split_pixel_shuffle(head: nn.Sequential) -> list[nn.Module]:
    """The last head, with the four results of its deconvolution kept apart: (N, 4 L, H, W)."""
    norm, relu, doubled, inner_norm, inner_relu, emit = head
    kernels = cast(nn.Conv2d, cast(nn.Sequential, doubled)[0]).weight.detach()
    assert isinstance(inner_norm, nn.BatchNorm2d)
    assert isinstance(emit, nn.Conv2d)
    assert emit.bias is not None
    gain, shift = (value.detach() for value in _affine(inner_norm))
    weight = kernels.reshape(len(gain), 4, *kernels.shape[1:]) * gain[:, None, None, None, None]
    parts = _convolution(weight.transpose(0, 1).flatten(0, 1), shift.repeat(4))
    apart = _convolution(emit.weight.detach().repeat(4, 1, 1, 1), emit.bias.detach().repeat(4), groups=4)
    return [norm, relu, parts, inner_relu, apart]


class PointsFromBytes(nn.Module):
    """A network that regresses coordinates, as stage 2: every point is as good as the next, scores 1 and spreads 0."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of images (N, S, S, 3) uint8: points, scores, spread."""
        points = self.network(images_to_tensor(images))
        return points, torch.ones_like(points[..., 0]), torch.zeros_like(points[..., [0, 0, 0]])


def export_model(
    folder: Path,
    *,
    name: str,
    stgan: Path,
    hourglass: Sequence[Path],
    dictionary: Path,
    faces: Image,
    provenance: Mapping[str, Any],
    mirror: bool = False,
) -> None:
    """Write a model folder from three trained stages.

    Points are read as centres of mass, whatever refinement the run was validated with.

    Args:
        folder: to be written; an older model in it is replaced once all is well.
        name: of the model.
        stgan: run folder of stage 1, with ``best.safetensors`` and ``config.json``.
        hourglass: run folders of stage 2, which may be of the Res-50 baseline; of several, points are the means
            (:class:`MeanOfNetworks`) and label conventions the first one's.
        dictionary: the shape dictionary's file; its landmark scheme is the model's.
        faces: (N, 128, 128, 3) uint8, real faces to compare the exported networks on.
        provenance: what to record beside the weights.
        mirror: whether stage 2 is to look at the mirror image of each face, too.

    Raises:
        FacemsmError: a file is missing, the stages do not fit each other, or an exported network computes something
            else than PyTorch's.
    """
    configs = [read_config(run) for run in hourglass]
    sigma = configs[0].get("sigma", HeatmapCodec.sigma)
    codec = HeatmapCodec(INPUT_SIZE, HEATMAP_SIZE, sigma, refinement="mass")
    generator = Generator()
    load_weights(generator, stgan / "best.safetensors")
    generator.eval()
    with torch.inference_mode():
        theta = generator(images_to_tensor(torch.from_numpy(faces))).numpy()
    scheme = ShapeDictionary.load(dictionary).scheme
    networks, found = [], []
    for run, config in zip(hourglass, configs, strict=True):
        network, landmarks, expected = _stage_2(config, run / "best.safetensors", codec, faces)
        if scheme.count != landmarks:
            raise FacemsmError(f"{run}: emits {landmarks} points, {dictionary} has {scheme.count}")
        if (other := config.get("sigma", HeatmapCodec.sigma)) != sigma:
            raise FacemsmError(f"{run}: heatmaps of sigma {other}, those of {hourglass[0]} have {sigma}: scores differ")
        networks.append(network)
        found.append(expected)
    several = len(networks) > 1
    stage_2, expected = (MeanOfNetworks(networks), mean_of_networks(found)) if several else (networks[0], found[0])
    with tempfile.TemporaryDirectory() as scratch:
        staging = Path(scratch)
        _export(ExportedStage1(generator), staging / STGAN, faces, {"theta": theta})
        _export(stage_2, staging / HOURGLASS, faces, expected)
        shutil.copyfile(dictionary, staging / DICTIONARY)
        write_manifest(
            staging,
            name=name,
            scheme=scheme_to_dict(scheme),
            codec=asdict(codec),
            provenance=dict(provenance),
            conventions=read_notes(hourglass[0] / "best.safetensors")["conventions"],
            mirror=mirror,
        )
        folder.mkdir(parents=True, exist_ok=True)
        for file in staging.iterdir():
            shutil.move(str(file), folder / file.name)


def sample_crops(count: int = 16) -> Image:
    """(count, 128, 128, 3) uint8: the face of the bundled sample photo, turned and shifted at random."""
    photo = read_image(SAMPLE)
    rng = np.random.default_rng(0)
    crops = [
        jittered_crop(photo, SAMPLE_BOX, INPUT_SIZE, rng, shift=0.2, scale=(0.8, 1.25), turn=0.6) for _ in range(count)
    ]
    return np.stack(crops)


def _stage_2(
    config: Mapping[str, Any], weights: Path, codec: HeatmapCodec, faces: Image
) -> tuple[nn.Module, int, dict[str, FloatArray]]:
    """Stage 2 as it is exported, its number of points, and what it must compute of the faces."""
    images = images_to_tensor(torch.from_numpy(faces))
    if "stacks" not in config["network"]:
        from facemsm.resnet50.network import ResNet50, ResNet50Config

        baseline = ResNet50(from_mapping(ResNet50Config, config["network"])).eval()
        load_weights(baseline, weights)
        with torch.inference_mode():
            points = baseline(images).numpy()
        expected = {"points": points, "scores": np.ones_like(points[..., 0]), "spread": 0 * points[..., [0, 0, 0]]}
        return PointsFromBytes(baseline), baseline.config.landmarks, expected
    network = StackedHourglass(from_mapping(HourglassConfig, config["network"])).eval()
    load_weights(network, weights)
    with torch.inference_mode():
        heatmaps = network(images)[-1].numpy()
    expected = {**codec.decode(heatmaps)._asdict(), "heatmaps": heatmaps}
    return LandmarksFromBytes(network, codec), network.config.landmarks, expected


def _export(network: nn.Module, path: Path, faces: Image, expected: Mapping[str, FloatArray]) -> None:
    with _exporter_silenced():
        torch.onnx.export(
            network.eval(),
            (torch.from_numpy(faces[:2]),),
            path,
            input_names=["images"],
            output_names=list(expected),
            dynamic_shapes={"images": {0: torch.export.Dim("faces")}},
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    _strip(path)
    for name, actual in zip(expected, Network(path, list(expected))(faces), strict=True):
        difference = float(np.abs(actual - expected[name]).max())
        if not difference <= TOLERANCES[name]:
            raise FacemsmError(
                f"{path.name}: {name} of ONNX Runtime and PyTorch differ by {difference:.2g}, more than "
                f"{TOLERANCES[name]}"
            )


@contextmanager
def _exporter_silenced() -> Iterator[None]:
    """Without the exporter's remarks about itself and about libraries that are not used, such as torchvision."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _strip(path: Path) -> None:
    """Remove what the exporter notes beside each operator: source lines and paths of this machine."""
    model = onnx.load(path)
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    del model.graph.metadata_props[:], model.metadata_props[:]
    onnx.save(model, path)
