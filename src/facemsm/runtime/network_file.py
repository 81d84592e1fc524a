"""What an ONNX file must not hold, found before ONNX Runtime loads it. Read from the file itself, as the package
``onnx`` is there for training only."""

from __future__ import annotations

from collections.abc import Iterator

LARGEST_FILE = 1 << 30
"""Bytes of a file of a model."""

_MESSAGES = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "tensor": {},
}
"""Where tensors can be in ``onnx.proto``: message -> field number -> message."""

_DIMENSIONS, _EXTERNAL_DATA, _DATA_LOCATION = 1, 13, 14
"""Fields of a tensor: its shape; the key-value pairs that name the other file; 1 if there is one."""

_PER_BYTE = 8
"""Numbers that a byte of a tensor holds at most: those of one bit."""

_OPERATOR = 4
"""Field of a node: what it does."""

_LOOPS = (b"Loop", b"Scan", b"SequenceMap")
"""Operators that repeat others."""


def check_network(content: bytes) -> None:
    """Refuse an ONNX file with a tensor in another file, whose name ONNX Runtime would follow out of the model's folder
    and which no checksum covers; with a loop, which may never end; or with a tensor of more numbers than the file
    holds. What the network makes when it runs is not looked at: :class:`facemsm.runtime.session.Session` bounds that.

    Raises:
        ValueError: it has one, or is not protobuf.
    """
    messages = [("model", memoryview(content))]
    while messages:
        kind, data = messages.pop()
        if kind == "sparse tensor":  # ONNX Runtime would write out its zeros
            raise ValueError("it has a sparse tensor, which may stand for any number of zeros; export it without")
        numbers = 1
        for number, value in _fields(data):
            if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value)):
                raise ValueError("it keeps weights in another file, which is not read; save it with them inside")
            if kind == "tensor" and number == _DIMENSIONS:
                for size in [value] if isinstance(value, int) else _packed(value):
                    numbers *= size
            if isinstance(value, int):
                continue
            if kind == "node" and number == _OPERATOR and bytes(value) in _LOOPS:
                raise ValueError("it has a loop, which may never end; export it without")
            if number in _MESSAGES[kind]:
                messages.append((_MESSAGES[kind][number], value))
        if kind == "tensor" and numbers > _PER_BYTE * len(data):
            raise ValueError(f"a tensor should have {numbers:.3g} numbers, for which the file has no room")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a protobuf message, in the encoding of protobuf.dev."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire, value = tag & 7, 0
        if wire == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        length, at = _varint(data, at) if wire == 2 else ({1: 8, 5: 4}.get(wire, len(data) + 1), at)
        if at + length > len(data):
            raise ValueError("cut short, or not protobuf")
        yield tag >> 3, data[at : at + length]
        at += length


def _packed(data: memoryview) -> Iterator[int]:
    """Several numbers in one field."""
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, low ones first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("cut short, or not protobuf")
