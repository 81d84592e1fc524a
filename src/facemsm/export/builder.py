"""Write an ONNX graph as one writes NumPy: values with operators, constants where arrays stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper

OPSET = 18
"""The networks' own; ONNX Runtime has it since 1.14."""

_IR = 8
"""What came with ``OPSET``; a network that is put in may need a later one."""


def _operator(kind: str, dtype: DTypeLike | None = None) -> Callable[[Value, Operand], Value]:
    """The method that is an operator of ONNX with two inputs."""
    return lambda value, other: value.op(kind, other, dtype=dtype)


class Value:
    """A tensor of the graph. Numbers and arrays that stand beside it become constants of its type."""

    def __init__(self, builder: Builder, name: str, dtype: DTypeLike) -> None:
        self.builder, self.name, self.dtype = builder, name, np.dtype(dtype)

    def op(self, kind: str, *others: Operand, dtype: DTypeLike | None = None, **attributes: Any) -> Value:
        """The one result of an operator whose first input this is; of its type unless another is named."""
        return self.builder.op(kind, self, *others, dtype=dtype or self.dtype, **attributes)

    def to(self, dtype: DTypeLike) -> Value:
        """The same numbers as another type; fractions are cut off."""
        return self.op("Cast", dtype=dtype, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def reshape(self, *shape: int | Value) -> Value:
        """One size may be -1; sizes that the graph computes are int64 (1,)."""
        return self.op("Reshape", self.builder.stack(*shape))

    def transpose(self, *order: int) -> Value:
        """With the axes in this order."""
        return self.op("Transpose", perm=order)

    def sum(self, axis: int) -> Value:
        """Over one axis, which stays."""
        return self.op("ReduceSum", np.array([axis]), keepdims=1)

    def split(self, parts: int, axis: int = 0) -> list[Value]:
        """Equal parts along an axis."""
        return self.builder.ops("Split", self, outputs=parts, axis=axis, num_outputs=parts)

    def clip(self, low: float, high: float) -> Value:
        """Within bounds."""
        return self.op("Clip", low, high)

    def __getitem__(self, index: int | Sequence[int] | NDArray[np.integer[Any]] | Value) -> Value:
        """Rows: one, without its axis, or several."""
        return self.op("Gather", index if isinstance(index, Value) else np.array(index, np.int64), axis=0)

    __add__ = __radd__ = _operator("Add")
    __sub__ = _operator("Sub")
    __mul__ = __rmul__ = _operator("Mul")
    __truediv__ = _operator("Div")  # of whole numbers the fraction is cut off, as ONNX does
    __matmul__ = _operator("MatMul")
    __and__ = _operator("And")
    __gt__ = _operator("Greater", np.bool_)
    __ge__ = _operator("GreaterOrEqual", np.bool_)
    __lt__ = _operator("Less", np.bool_)
    __array_ufunc__ = None  # array @ value is ours

    def __neg__(self) -> Value:
        return self.op("Neg")

    def __rsub__(self, other: Operand) -> Value:
        return self._constant(other) - self

    def __rtruediv__(self, other: Operand) -> Value:
        return self._constant(other) / self

    def __rmatmul__(self, other: Operand) -> Value:
        return self._constant(other) @ self

    def _constant(self, other: Operand) -> Value:
        return self.builder.value(other, self.dtype)


Operand: TypeAlias = "Value | ArrayLike"


class _Scope:
    """What a graph, a loop's body or a branch is made of."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.tensors: dict[Any, TensorProto] = {}
        self.shapes: list[ValueInfoProto] = []

    def graph(self, name: str, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> GraphProto:
        """All of it."""
        tensors = [*self.tensors.values()]
        made: GraphProto = helper.make_graph(self.nodes, name, inputs, outputs, tensors, value_info=self.shapes)
        return made


class Builder:
    """Collects nodes and constants, those of a loop's body or a branch apart."""

    def __init__(self) -> None:
        self._scopes: list[_Scope] = []
        self._count = 0
        self._domains: dict[str, int] = {"": OPSET}
        self._ir = _IR

    def ops(
        self, kind: str, *inputs: Value | None, outputs: int, dtypes: Sequence[DTypeLike] = (), **attributes: Any
    ) -> list[Value]:
        """All results of an operator; of the first input's type unless others are named."""
        names = [self._new(kind) for _ in range(outputs)]
        inputs_of = [value.name if value else "" for value in inputs]
        self._scopes[-1].nodes.append(helper.make_node(kind, inputs_of, names, **attributes))
        first = next(value.dtype for value in inputs if value)
        return [Value(self, name, dtype) for name, dtype in zip(names, dtypes or [first] * outputs, strict=True)]

    def op(
        self, kind: str, first: Operand, *others: Operand, dtype: DTypeLike | None = None, **attributes: Any
    ) -> Value:
        """The one result of an operator. Arrays of whole numbers, which are shapes, axes and indices, keep their type;
        other constants take the first input's."""
        head = self.value(first)
        rest = [self.value(other, None if _is_whole(other) else head.dtype) for other in others]
        return self.ops(kind, head, *rest, outputs=1, dtypes=[dtype or head.dtype], **attributes)[0]

    def value(self, value: Operand, dtype: DTypeLike | None = None) -> Value:
        """A constant, unless it is a value already."""
        if isinstance(value, Value):
            return value
        array = np.asarray(value, dtype)
        tensors, key = self._scopes[-1].tensors, (array.dtype, array.shape, array.tobytes())
        if key not in tensors:
            # not ascontiguousarray, which makes an axis for a single number
            tensors[key] = numpy_helper.from_array(np.array(array, order="C"), self._new("constant"))
        return Value(self, tensors[key].name, array.dtype)

    def concat(self, *values: Operand, axis: int = 0) -> Value:
        """Values of one type, and constants of it."""
        dtype = next(value.dtype for value in values if isinstance(value, Value))
        return self.op("Concat", *(self.value(value, dtype) for value in values), axis=axis)

    def stack(self, *sizes: int | Value) -> Value:
        """Whole numbers, some of which the graph computes, (1,) each."""
        if any(isinstance(size, Value) for size in sizes):
            return self.concat(*(size if isinstance(size, Value) else np.array([size], np.int64) for size in sizes))
        return self.value(np.array(sizes, np.int64))

    def where(self, condition: Value, yes: Operand, no: Operand) -> Value:
        """As in NumPy; one of the two is a value, whose type the other takes."""
        dtype = next(value.dtype for value in (yes, no) if isinstance(value, Value))
        return self.op("Where", condition, self.value(yes, dtype), self.value(no, dtype), dtype=dtype)

    def call(self, network: ModelProto, image: Value, outputs: Sequence[str]) -> list[Value]:
        """Some outputs of a network whose one input is the image; what is not needed for them stays out."""
        graph, scope, prefix = network.graph, self._scopes[-1], self._new("net") + "_"
        assert all(o.version <= OPSET for o in network.opset_import if not o.domain)
        self._ir = max(self._ir, network.ir_version)
        self._domains |= {o.domain: o.version for o in network.opset_import if o.domain}
        names = {graph.input[0].name: image.name, "": ""}
        told = ValueInfoProto()  # without the input's shape ONNX Runtime would leave layers in slower layouts
        told.CopyFrom(graph.input[0])
        told.name = image.name
        if sizes := told.type.tensor_type.shape.dim:
            # a name of its own: ONNX Runtime takes sizes of one name for the same, and calls differ in them
            sizes[0].dim_param = f"{prefix}images"
        scope.shapes.append(told)
        used, kept = set(outputs), []
        for node in reversed(graph.node):
            if used & set(node.output):
                used |= set(node.input)
                kept.append(node)
        for tensor in graph.initializer:
            if tensor.name in used:
                copy = TensorProto()
                copy.CopyFrom(tensor)
                copy.name = prefix + tensor.name
                scope.tensors[copy.name] = copy
        for node in reversed(kept):
            renamed = NodeProto()
            renamed.CopyFrom(node)
            renamed.name = prefix + node.name if node.name else ""
            renamed.input[:] = [names.get(name, prefix + name) for name in node.input]
            renamed.output[:] = [names.get(name, prefix + name) for name in node.output]
            scope.nodes.append(renamed)
        types = {o.name: helper.tensor_dtype_to_np_dtype(o.type.tensor_type.elem_type) for o in graph.output}
        return [Value(self, prefix + name, types[name]) for name in outputs]

    def choose(self, condition: Value, yes: Callable[[], Value], no: Callable[[], Value]) -> Value:
        """``If`` that computes only one of two values, of one type; what they need may come from outside of them."""
        branches = []
        for branch in (yes, no):
            with self._scope() as scope:
                result = branch()
            branches.append(scope.graph("branch", [], [_info(result)]))
        then, otherwise = branches
        return self.ops("If", condition, outputs=1, dtypes=[result.dtype], then_branch=then, else_branch=otherwise)[0]

    def loop(
        self,
        count: Value,
        state: Sequence[Value],
        body: Callable[..., tuple[Sequence[Value], Sequence[tuple[Value, Sequence[int]]]]],
        goes_on: Callable[..., Value] | None = None,
    ) -> list[Value]:
        """``Loop``: what is left of the state, and what each round emitted, one after the other.

        Args:
            count: int64 (), rounds.
            state: what the first round takes.
            body: makes of the round's number and the state the next state, and what is emitted with its shape.
            goes_on: makes of the next state whether there is a next round, bool (); by default there is.
        """
        index = Value(self, self._new("round"), np.int64)
        going = Value(self, self._new("going"), np.bool_)
        held = [Value(self, self._new("state"), value.dtype) for value in state]
        with self._scope() as scope:
            after, emitted = body(index, *held)
            another = goes_on(*after) if goes_on else going
            results = [*(value.op("Identity") for value in (another, *after)), *(v.op("Identity") for v, _ in emitted)]
        shapes: list[Sequence[int] | None] = [(), *(None for _ in after), *(shape for _, shape in emitted)]
        inputs = [_info(index, ()), _info(going, ()), *map(_info, held)]
        outputs = [_info(value, shape) for value, shape in zip(results, shapes, strict=True)]
        graph = scope.graph("body", inputs, outputs)
        dtypes = [value.dtype for value in results[1:]]
        return self.ops("Loop", count, None, *state, outputs=len(dtypes), dtypes=dtypes, body=graph)

    def model(
        self,
        name: str,
        inputs: Mapping[str, tuple[DTypeLike, Sequence[int | str]]],
        outputs: Mapping[str, Sequence[int | str]],
        body: Callable[..., Sequence[Value]],
        notes: Mapping[str, str],
    ) -> ModelProto:
        """The checked model.

        Args:
            name: of the graph.
            inputs: type and shape of each, names where a size may vary.
            outputs: shape of each.
            body: makes of the inputs the outputs.
            notes: the file's metadata.
        """
        with self._scope() as scope:
            taken = [Value(self, key, dtype) for key, (dtype, _) in inputs.items()]
            given = body(*taken)
            scope.nodes += [
                helper.make_node("Identity", [v.name], [key]) for v, key in zip(given, outputs, strict=True)
            ]
        graph = scope.graph(
            name,
            [_info(value, shape) for value, (_, shape) in zip(taken, inputs.values(), strict=True)],
            [_info(Value(self, key, v.dtype), outputs[key]) for v, key in zip(given, outputs, strict=True)],
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in self._domains.items()]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=self._ir, producer_name="facemsm")
        helper.set_model_props(made, dict(notes))
        checker.check_model(made)
        return made

    @contextmanager
    def _scope(self) -> Iterator[_Scope]:
        self._scopes.append(_Scope())
        yield self._scopes[-1]
        self._scopes.pop()

    def _new(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"


def _is_whole(operand: Operand) -> bool:
    return isinstance(operand, np.ndarray) and operand.dtype.kind in "iub"


def _info(value: Value, shape: Sequence[int | str] | None = None) -> ValueInfoProto:
    return helper.make_tensor_value_info(value.name, helper.np_dtype_to_tensor_dtype(value.dtype), shape)
