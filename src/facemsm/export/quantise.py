"""Smaller, faster weights of an exported model: 8-bit integers, or sums of powers of two."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from facemsm.errors import FacemsmError
from facemsm.imaging.warping import jittered_crop
from facemsm.runtime.model import HOURGLASS, MANIFEST, STGAN, Model
from facemsm.typing import FloatArray, Image

Quantisation = Literal["int8", "power-of-two"]

EXPONENTS = 7
"""Powers of two a weight may choose from, beside 0: 3 bits per term."""

CALIBRATION_PERCENTILE = 80
"""Of stage 2's activations over the calibration faces: larger values are clipped, so that all others are finer."""

LARGEST = 63
"""Of an 8-bit weight: processors without VNNI add two products of bytes in 16 bits, which 127 would overflow."""

_CONTRIB = "com.microsoft"
_CHUNK = 4  # faces at once while ranges are measured: every feature map of them is held


class Measured(NamedTuple):
    """Calibration faces: activations are measured on them.

    Attributes:
        crops: (N, 128, 128, 3) uint8, what stage 1 sees.
        canonical: (N, 128, 128, 3) uint8, what stage 2 sees.
    """

    crops: Image
    canonical: Image


def quantise_model(
    model: Model, folder: Path, *, faces: Measured | None = None, scheme: Quantisation = "int8", terms: int = 1
) -> None:
    """Write a copy of a model with other weights.

    ``int8``: stages 1 and 2 multiply 8-bit integers. Weights have a scale per kernel, activations one per layer,
    measured on ``faces``. What residual units add up stays in float, and so does θ. Heatmaps are bytes; what is
    read from them becomes float. The files need ONNX Runtime's own operators.

    ``power-of-two``: every weight of every convolution is a sign and ``terms`` powers of two, scaled by a power of two
    per kernel, so that hardware without multipliers can shift and add. Here they are stored and run as floats.

    Args:
        model: as exported.
        folder: to be written.
        faces: to measure ranges on, for ``int8``.
        scheme: which weights.
        terms: 1 or 2 powers of two per weight.

    Raises:
        FacemsmError: no faces, a wrong number of terms, or a model that is quantised already.
    """
    if model.provenance.get("quantisation"):
        raise FacemsmError(f"{model.folder}: is quantised already; start from the model as it was exported")
    if scheme == "int8" and (faces is None or not len(faces.crops)):
        raise FacemsmError("int8 needs faces to measure ranges on: name some with --data")
    if terms not in (1, 2):
        raise FacemsmError(f"{terms} powers of two per weight: choose 1 or 2")
    fields = json.loads((model.folder / MANIFEST).read_text(encoding="utf-8"))
    fields["provenance"]["quantisation"] = (
        {"scheme": "int8", "calibration faces": len(faces.crops)}
        if faces is not None and scheme == "int8"
        else {"scheme": scheme, "terms": terms, "bits": power_of_two_bits(terms)}
    )
    with tempfile.TemporaryDirectory() as scratch:
        staging = Path(scratch)
        for file in fields["files"]:
            shutil.copyfile(model.path(file), staging / file)
        if scheme == "int8":
            assert faces is not None
            # clipping stage 1 would cost the most rotated faces their rotation
            for file, images, percentile in (
                (STGAN, faces.crops, 100),
                (HOURGLASS, faces.canonical, CALIBRATION_PERCENTILE),
            ):
                onnx.save(to_integers(staging / file, images, percentile), staging / file)
        else:
            for file in (STGAN, HOURGLASS):
                onnx.save(to_powers_of_two(onnx.load(staging / file), terms), staging / file)
        fields["files"] = {file: hashlib.sha256((staging / file).read_bytes()).hexdigest() for file in fields["files"]}
        (staging / MANIFEST).write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        for path in staging.iterdir():
            shutil.move(str(path), folder / path.name)


def faces_to_measure(model: Model, data: Sequence[str], count: int) -> Measured:
    """What stage 1 sees of annotated faces that are moved, scaled and turned, and stage 2 of them as they are.

    Args:
        model: whose stage 1 cuts the canonical faces.
        data: data sets as ``NAME=ROOT:SPLIT``.
        count: how many faces, evenly chosen; fewer if there are fewer.

    Raises:
        FacemsmError: no data is named, or it cannot be read.
    """
    from facemsm.aligner import Aligner
    from facemsm.data.catalogue import load_dataset
    from facemsm.data.sample import evenly_chosen
    from facemsm.data.sources import Source
    from facemsm.stages import Settings

    if not data:
        raise FacemsmError("int8 needs faces to measure ranges on: name some with --data NAME=ROOT:SPLIT")
    aligner = Aligner(model, settings=Settings(stages=(1, 2)))
    sources = [Source.parse(text) for text in data]
    samples = [face for s in sources for face in load_dataset(s.name, s.root, s.split, "gt", model.scheme)]
    rng, size = np.random.default_rng(0), model.codec.input_size
    crops, canonical = [], []
    for sample in evenly_chosen(samples, count):
        photo, box = sample.load(), sample.box
        canonical.append(aligner.run_stages([photo], box[None]).canonical[0])
        crops.append(jittered_crop(photo, box, size, rng, shift=0.15, scale=(0.75, 1.25), turn=0.5))
    return Measured(np.stack(crops), np.stack(canonical))


def power_of_two_bits(terms: int) -> int:
    """Bits per weight: a sign, and which of the powers (or none) each term is."""
    return 1 + 3 * terms


def to_powers_of_two(model: ModelProto, terms: int) -> ModelProto:
    """Replace the weights of all convolutions by the nearest that :func:`power_of_two` can give."""
    convolved = {node.input[1] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")}
    for tensor in model.graph.initializer:
        if tensor.name in convolved:
            weights = power_of_two(numpy_helper.to_array(tensor), terms)
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    return model


def power_of_two(weights: FloatArray, terms: int) -> FloatArray:
    """The nearest ``± 2^e (2^-a [+ 2^-b])`` to each weight, or 0; a, b from 0 to ``EXPONENTS`` - 1.

    Args:
        weights: (K, ...) float32; e is one for each of the K kernels, such that the squared error is least.
        terms: 1 or 2.
    """
    steps = np.append(0.0, 2.0 ** -np.arange(EXPONENTS))
    choices = np.unique(steps if terms == 1 else steps[:, None] + steps)
    between = (choices[1:] + choices[:-1]) / 2
    kernels = np.abs(weights).reshape(len(weights), -1)
    largest = np.maximum(kernels.max(1, keepdims=True), 1e-30)
    best, least = np.zeros_like(kernels), np.full((len(kernels), 1), np.inf)
    for shift in (-1, 0, 1):
        scale = np.exp2(np.round(np.log2(largest / choices[-1])) + shift)
        nearest = choices[np.searchsorted(between, kernels / scale)] * scale
        error = np.square(nearest - kernels).sum(1, keepdims=True)
        best, least = np.where(error < least, nearest, best), np.minimum(error, least)
    return np.asarray(np.sign(weights) * best.reshape(weights.shape), dtype=np.float32)


def to_integers(
    path: Path, images: Image, percentile: float = CALIBRATION_PERCENTILE, exact: Collection[str] = ()
) -> ModelProto:
    """A network whose convolutions multiply 8-bit integers, of the float one in an ONNX file.

    Feature maps run with channels last and unpadded, as integer kernels want them.

    Args:
        path: the float network, which takes bytes (N, H, W, 3).
        images: (N, H, W, 3) uint8, what it sees.
        percentile: of the activations over the images, beyond which values are clipped.
        exact: outputs of convolutions that stay in float.
    """
    model = _folded(path)
    return _Rewriter(model, _measured(model, images, percentile / 100), exact).model


def equalise_depthwise(path: Path, images: Image) -> ModelProto:
    """The float network in an ONNX file with other weights that compute the same and lose less in 8 bits.

    Channels about a depthwise convolution, between two pointwise ones with ReLU, may be scaled one by one: what goes
    in gets equal peaks, and what comes out shares its spread with the kernels that follow (Nagel, van Baalen,
    Blankevoort, Welling: Data-Free Quantization Through Weight Equalization and Bias Correction, 2019).

    Args:
        path: the float network.
        images: as for :func:`to_integers`.
    """
    model = _folded(path)
    ranges = _measured(model, images, 1.0)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    taken = {name: node for node in model.graph.node for name in node.input}

    def multiply(name: str, factor: NDArray[np.floating]) -> None:
        values = numpy_helper.to_array(tensors[name])
        values = values * factor.reshape(factor.shape + (1,) * (values.ndim - factor.ndim))
        tensors[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))

    for node in model.graph.node:
        if node.op_type != "Conv" or tensors[node.input[1]].dims[1] != 1:
            continue
        before, activation = made[made[node.input[0]].input[0]], taken[node.output[0]]
        after = taken[activation.output[0]]
        inner, outer = (ranges[name].peaks for name in (node.input[0], activation.output[0]))
        inner, outer = (peaks / peaks.max() for peaks in (inner, outer))
        inner, outer = (np.maximum(peaks, 1e-3) for peaks in (inner, outer))  # some channels are dead
        kernels = np.abs(numpy_helper.to_array(tensors[after.input[1]])).max((0, 2, 3))
        spread = np.sqrt(np.maximum(kernels, 1e-6) / outer)
        spread /= np.exp(np.log(spread).mean())
        for name in before.input[1:]:
            multiply(name, 1 / inner)
        multiply(node.input[1], inner * spread)
        multiply(node.input[2], spread)
        multiply(after.input[1], 1 / spread[None])
    return model


def _folded(path: Path) -> ModelProto:
    """The network with batch normalisation folded into the convolutions before it."""
    with tempfile.TemporaryDirectory() as scratch:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(scratch) / "folded.onnx")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


class _Range:
    """What a byte of a tensor stands for: values from ``low`` to the highest of its channels' ``peaks``."""

    def __init__(self, shape: Sequence[int], low: float, peaks: NDArray[np.floating]) -> None:
        self.shape, self.low, self.peaks = tuple(shape), min(low, 0.0), np.maximum(peaks, 1e-6)

    @property
    def scale(self) -> NDArray[np.float32]:
        return np.asarray((self.peaks.max() - self.low) / 255, np.float32)

    @property
    def zero(self) -> NDArray[np.uint8]:
        return np.asarray(round(-self.low / float(self.scale)), np.uint8)


def _measured(model: ModelProto, images: Image, share: float) -> dict[str, _Range]:
    """Ranges of what convolutions, poolings and activations take and give; in full where values are picked from it."""
    kinds = ("Conv", "Relu", "MaxPool")
    names = sorted({name for n in model.graph.node if n.op_type in kinds for name in (n.input[0], n.output[0])})
    probed = ModelProto()
    probed.CopyFrom(model)
    probed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(probed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shapes: dict[str, tuple[int, ...]] = {}
    lows: dict[str, list[FloatArray]] = {name: [] for name in names}
    peaks: dict[str, list[FloatArray]] = {name: [] for name in names}
    for start in range(0, len(images), _CHUNK):
        found = session.run(names, {model.graph.input[0].name: images[start : start + _CHUNK]})
        for name, values in zip(names, found, strict=True):
            shapes[name] = values.shape[1:]
            flat = values.reshape(*values.shape[:2], -1)
            lows[name].append(flat.min((1, 2)))
            peaks[name].append(flat.max(2))
    whole = {node.input[0] for node in model.graph.node if node.op_type == "Reshape"}
    covered = {name: 1.0 if name in whole else share for name in names}
    return {
        name: _Range(
            shapes[name],
            float(np.quantile(np.concatenate(lows[name]), 1 - covered[name])),
            np.quantile(np.concatenate(peaks[name]), covered[name], axis=0),
        )
        for name in names
    }


def _pixels(graph: GraphProto) -> dict[str, float]:
    """The tensor that holds the image's bytes, and what was taken away from them: 127.5 in the stages' networks."""
    made = {name: node for node in graph.node for name in node.output}
    names = {}
    for name in {node.input[0] for node in graph.node if node.op_type == "Conv"} & set(made):
        chain = [made[name]]
        while chain[-1].input[0] in made:
            chain.append(made[chain[-1].input[0]])
        kinds = [link.op_type for link in chain]
        if kinds[-2:] == ["Cast", "Transpose"] and kinds[:-2] in ([], ["Sub"]):
            names[name] = 127.5 if kinds[:-2] else 0.0
    return names


def _is(attributes: Mapping[str, Any], **values: int) -> bool:
    """Whether lists of attributes hold nothing but these values."""
    return all(set(attributes.get(name, [])) == {value} for name, value in values.items())


def _widened(weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """Kernels (K, 3, 3, 3) of stride 2 for cells of four pixels: (2K, 12, 3, 2), those of a cell's two results."""
    wide = np.zeros((2, len(weight), 4, 3, 3, 2), np.int8)  # result, kernel, pixel, channel, row, cell
    for result in (0, 1):
        for column in range(3):
            cell, pixel = divmod(4 + 2 * result + column - 1, 4)
            wide[result, :, pixel, :, :, cell] = weight[..., column]
    return wide.reshape(-1, 12, 3, 2)


Form = Literal["plain", "last", "bytes", "plain bytes"]


class _Rewriter:
    """Builds the integer network node by node.

    A tensor of the float network exists in up to four forms: ``plain`` (N, C, H, W) float, ``last`` (N, H, W, C) float,
    ``bytes`` (N, H, W, C) uint8 and ``plain bytes``; each is made when it is first asked for. What picks values of
    bytes picks bytes, and only those that were picked become floats.
    """

    def __init__(self, model: ModelProto, ranges: Mapping[str, _Range], exact: Collection[str]) -> None:
        graph = model.graph
        self.ranges, self.exact = dict(ranges), exact
        self.gains: dict[str, NDArray[Any]] = {}  # what the channels of bytes are still to be multiplied by
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.model_input = graph.input[0].name
        self.outputs = {output.name: output for output in graph.output}
        self.notes: dict[str, str] = {}
        pixels = _pixels(graph)
        self.forms: dict[str, dict[Form, str]] = {name: {"bytes": self.model_input} for name in pixels}
        self.ranges |= {
            name: _Range(self.ranges[name].shape, -less, np.array([255 - less])) for name, less in pixels.items()
        }
        self.nodes: list[NodeProto] = []
        self.added: list[TensorProto] = []
        for node in graph.node:
            if node.output[0] not in self.forms:
                getattr(self, f"_{node.op_type.lower()}", self._copy)(node)
        used = {output.name for output in graph.output}
        for node in reversed(self.nodes):
            if used & set(node.output):
                used |= set(node.input)
        self.nodes = [node for node in self.nodes if used & set(node.output)]
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        self.model = helper.make_model(
            helper.make_graph(self.nodes, graph.name, graph.input, graph.output, [*kept, *self.added]),
            opset_imports=[*(o for o in model.opset_import if not o.domain), helper.make_opsetid(_CONTRIB, 1)],
            ir_version=model.ir_version,
        )
        helper.set_model_props(self.model, self.notes)

    def _emit(self, kind: str, *inputs: str | NDArray[Any], domain: str = "", **attributes: Any) -> str:
        output = f"{kind}_{len(self.nodes)}"
        names = [name if isinstance(name, str) else self._constant(name) for name in inputs]
        self.nodes.append(helper.make_node(kind, names, [output], domain=domain, **attributes))
        return output

    def _constant(self, value: NDArray[Any]) -> str:
        name = f"constant_{len(self.added)}"
        self.added.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
        return name

    def _reshaped(self, tensor: str, *shape: int) -> str:
        return self._emit("Reshape", tensor, np.array(shape, np.int64))

    def _get(self, name: str, form: Form) -> str:
        forms = self.forms.setdefault(name, {"plain": name})
        if form not in forms:
            if form == "plain bytes":
                forms[form] = self._emit("Transpose", forms["bytes"], perm=(0, 3, 1, 2))
            elif form == "plain" and "plain bytes" in forms:
                at = self.ranges[name]
                forms[form] = self._emit("DequantizeLinear", forms["plain bytes"], at.scale, at.zero)
            elif form == "plain":
                forms[form] = self._emit("Transpose", self._get(name, "last"), perm=(0, 3, 1, 2))
            elif form == "bytes":
                at = self.ranges[name]
                forms[form] = self._emit("QuantizeLinear", self._get(name, "last"), at.scale, at.zero)
            elif "bytes" in forms:
                at = self.ranges[name]
                forms[form] = self._emit("DequantizeLinear", forms["bytes"], at.scale, at.zero)
            else:
                forms[form] = self._emit("Transpose", forms["plain"], perm=(0, 2, 3, 1))
        return forms[form]

    def _copy(self, node: NodeProto) -> None:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [self._get(name, "plain") if name in self.forms else name for name in node.input]
        self.nodes.append(copy)

    def _pick(self, node: NodeProto) -> None:
        """Copy a node that moves or picks values of its first input."""
        x, y = node.input[0], node.output[0]
        if not {"bytes", "plain bytes"} & set(self.forms.get(x, {})):
            self._copy(node)
            return
        self._get(x, "plain bytes")
        picked = NodeProto()
        picked.CopyFrom(node)
        picked.input[0] = self.forms[x]["plain bytes"]
        self.nodes.append(picked)
        self.ranges[y] = self.ranges[x]
        if y in self.outputs:  # stays bytes: who asks for it multiplies
            self.outputs[y].type.tensor_type.elem_type = TensorProto.UINT8
            self.notes |= {f"{y} scale": repr(float(self.ranges[y].scale)), f"{y} zero": str(int(self.ranges[y].zero))}
        else:
            picked.output[0] = f"{y}_bytes"
            self.forms[y] = {"plain bytes": picked.output[0]}

    _reshape = _gathernd = _gatherelements = _pick

    def _conv(self, node: NodeProto) -> None:
        x, weight, bias = node.input[0], self.constants[node.input[1]], self.constants.get([*node.input, ""][2])
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.output[0] in self.exact:
            self._copy(node)
            return
        depthwise = attributes.get("group", 1) == len(weight) > weight.shape[1] == 1
        groups = 1 if depthwise else attributes.get("group", 1)
        if groups > 1:  # one set of kernels for all groups is one convolution of a wider image
            weight, bias = weight[: len(weight) // groups], None if bias is None else bias[: len(bias) // groups]
        same = groups == 1 or np.array_equal(self.constants[node.input[1]], np.tile(weight, (groups, 1, 1, 1)))
        pointwise = weight.shape[2:] == (1, 1) and set(attributes.get("strides", [1])) == {1}
        following = self.consumers.get(node.output[0], [])
        activation = following[0] if len(following) == 1 and following[0].op_type == "Relu" else None
        if not same or (groups > 1 and (activation or not pointwise)):
            self._copy(node)
            return
        bias = np.zeros(len(weight), np.float32) if bias is None else bias
        image, at = self._get(x, "bytes"), self.ranges[x]
        weight = weight * self.gains.get(x, np.ones(1, np.float32))[:, None, None]
        if image == self.model_input and at.zero:  # a byte less 127.5 is here a byte less 128
            bias = bias + 0.5 * weight.sum((1, 2, 3))
        shuffled = len(following) == 1 and following[0].op_type == "DepthToSpace"
        if shuffled:  # kernels in the order of the four places, not of the channels
            weight = weight.reshape(-1, 4, *weight.shape[1:]).swapaxes(0, 1).reshape(weight.shape)
            bias = bias.reshape(-1, 4).swapaxes(0, 1).ravel()
        largest = 127 if depthwise else LARGEST  # which adds no products of two channels
        scale = np.maximum(np.abs(weight).reshape(len(weight), -1).max(1) / largest, 1e-12).astype(np.float32)
        integers = np.round(weight / scale[:, None, None, None]).astype(np.int8)
        one_pixel = self.ranges[node.output[0]].shape[1:] == (1, 1)  # θ: as small as it is, it may be exact
        takers = ("Reshape", "MaxPool", "Conv")
        picked = bool(following) and not one_pixel and all(n.op_type in takers for n in following)
        if pointwise and not activation and not picked:
            channels, height, width = len(weight), *self.ranges[x].shape[1:]
            if groups > 1:
                image = self._reshaped(image, -1, height, width * groups, weight.shape[1])
            # ONNX Runtime 1.23, the last for Python 3.10, leaves values out on processors with AMX if more than 16 of
            # the last 32 columns are there, but not all
            spare = -channels % 32 if channels % 32 > 16 else 0
            columns = np.pad(integers[..., 0, 0].T, ((0, 0), (0, spare)))
            scale, bias = np.pad(scale, (0, spare), constant_values=1), np.pad(bias, (0, spare))
            result = self._emit(
                "MatMulIntegerToFloat",
                *(image, columns, at.scale, scale, at.zero, np.zeros(channels + spare, np.int8), bias),
                domain=_CONTRIB,
            )
            if spare:
                result = self._emit("Slice", result, *(np.array([i], np.int64) for i in (0, channels, 3)))
            if groups > 1:
                result = self._reshaped(result, -1, height, width, groups * channels)
            if shuffled:
                result = self._reshaped(result, -1, width, 2, channels // 2)
                result = self._emit("Transpose", result, perm=(0, 2, 1, 3))
                result = self._reshaped(result, -1, 2 * height, 2 * width, channels // 4)
                self.forms[following[0].output[0]] = {"last": result}
            self.forms[node.output[0]] = {"last": result}
            return
        name = activation.output[0] if activation else node.output[0]
        to, offsets = self.ranges[name], np.round(bias / (at.scale * scale)).astype(np.int32)
        kernels, (channels, height, width) = groups * len(weight), at.shape
        attributes |= {"channels_last": 1, "group": len(weight) if depthwise else 1}
        wide = channels == 3 and width % 4 == 0 and _is(attributes, kernel_shape=3, strides=2, pads=1)
        if wide:  # three channels are few: take four pixels as one of twelve channels, and two results as one
            image = self._reshaped(image, 0, 0, -1, 12)
            integers, scale, offsets = _widened(integers), np.tile(scale, 2), np.tile(offsets, 2)
            attributes |= {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 1, 1, 0]}
        elif groups > 1:
            image = self._reshaped(image, -1, height, width * groups, channels // groups)
        convolved = self._emit(
            "QLinearConv",
            *(image, at.scale, at.zero, integers, scale, np.zeros(len(scale), np.int8), to.scale, to.zero, offsets),
            domain=_CONTRIB,
            **attributes,
        )
        if wide:
            convolved = self._reshaped(convolved, 0, 0, -1, kernels)
        elif groups > 1:
            convolved = self._reshaped(convolved, -1, *to.shape[1:], kernels)
        self.forms[node.output[0]] = self.forms[name] = {"bytes": convolved}

    def _relu(self, node: NodeProto) -> None:
        x, name = node.input[0], node.output[0]
        if "last" not in self.forms.get(x, {}) or any(n.op_type != "Conv" for n in self.consumers[name]):
            self._copy(node)
            return
        # what is below the lowest byte becomes the lowest byte, 0
        if x in self.gains:
            self.gains[name] = self.gains[x]
            self.ranges[name].peaks /= self.gains[x]
        at = self.ranges[name]
        self.forms[name] = {"bytes": self._emit("QuantizeLinear", self._get(x, "last"), at.scale, at.zero)}

    def _batchnormalization(self, node: NodeProto) -> None:
        name = node.output[0]
        gain, shift, mean, variance = (self.constants[name] for name in node.input[1:])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        gain = gain / np.sqrt(variance + epsilon)
        x, shift = self._get(node.input[0], "last"), shift - mean * gain
        if (gain > 0).all() and all(self._is_seen_by_integers(n) for n in self.consumers[name]):
            # relu(g x + s) = g relu(x + s / g), and the convolutions that follow can multiply by g
            self.gains[name], shift = gain, shift / gain
        else:
            x = self._emit("Mul", x, gain.astype(np.float32))
        self.forms[name] = {"last": self._emit("Add", x, shift.astype(np.float32)) if shift.any() else x}

    def _is_seen_by_integers(self, node: NodeProto) -> bool:
        """Whether it is an activation that only convolutions of integers take."""
        return node.op_type == "Relu" and all(
            n.op_type == "Conv" and not any(a.name == "group" and a.i > 1 for a in n.attribute)
            for n in self.consumers[node.output[0]]
        )

    def _add(self, node: NodeProto) -> None:
        if all(name in self.forms for name in node.input):
            terms = [self._get(name, "last") for name in node.input]
            self.forms[node.output[0]] = {"last": self._emit("Add", *terms)}
        else:
            self._copy(node)

    def _maxpool(self, node: NodeProto) -> None:
        forms = self.forms.get(node.input[0], {})
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name != "storage_order"}
        if "bytes" in forms:
            self.ranges[node.output[0]] = self.ranges[node.input[0]]
            pooled = self._emit("NhwcMaxPool", forms["bytes"], domain=_CONTRIB, **attributes)
            self.forms[node.output[0]] = {"bytes": pooled}
        elif "last" in forms and attributes["kernel_shape"] == attributes.get("strides") == [2, 2]:
            channels, height, width = self.ranges[node.input[0]].shape
            axis = np.array([1], np.int64)
            rows = self._reshaped(forms["last"], -1, 2, width * channels)
            rows = self._emit("ReduceMax", rows, axis, keepdims=0)
            pairs = self._emit("ReduceMax", self._reshaped(rows, -1, 2, channels), axis, keepdims=0)
            self.forms[node.output[0]] = {"last": self._reshaped(pairs, -1, height // 2, width // 2, channels)}
        else:
            self._copy(node)
