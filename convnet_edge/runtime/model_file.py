"""Read an ONNX file's own bytes: graph, weights' shapes, metadata. No onnx package, no execution.

Format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto in protobuf's wire encoding
(https://protobuf.dev/programming-guides/encoding/). Whether a model is right is not judged here.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError
from .files import MIB, read_bytes

MAX_MODEL_BYTES = 512 * MIB
NEXT_STEP = "export the model again with `convnet-edge export`"

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_EXTERNAL = 1
_INT64 = 7  # TensorProto.INT64
_METADATA_PROPS, _SPARSE_WEIGHTS = 14, 15
_FOREIGN_FIELDS = {20: "training steps", 25: "functions of its own"}
_NESTED_FIELDS = {5, 6, 10, 11, 22, 23}  # of AttributeProto: tensors and graphs, sparse too


@dataclass(frozen=True)
class Node:
    """One operation of the graph: its type, domain ("" is ONNX's own), inputs and outputs.

    integers: attributes that are integers or lists of them, by name. nested: whether any attribute
    holds a tensor or a graph.
    """

    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integers: dict[str, tuple[int, ...]]
    nested: bool


@dataclass(frozen=True)
class Value:
    """A named tensor: `element_type` as in TensorProto.DataType, a free axis as its name."""

    name: str
    element_type: int
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Weight:
    """One initializer of the graph. content: all that the file says of it, values included."""

    name: str
    element_type: int
    dims: tuple[int, ...]
    external: bool
    content: bytes

    def integers(self) -> tuple[int, ...]:
        """Return the values of an int64 weight that is stored raw; () of any other."""
        raw = [value for number, value, _ in _fields(self.content) if number == 9]
        if self.element_type != _INT64 or len(raw) != 1 or not isinstance(raw[0], bytes):
            return ()
        return tuple(n for (n,) in struct.iter_unpack("<q", raw[0])) if len(raw[0]) % 8 == 0 else ()


@dataclass(frozen=True)
class Metadata:
    """One metadata entry; data[start:end] is its whole field in the file."""

    key: str
    value: bytes
    start: int
    end: int


@dataclass(frozen=True)
class OnnxFile:
    """What the file says of itself.

    opsets: version by domain. values: intermediate shapes. foreign: what it holds beside one plain
    graph, in words.
    """

    ir_version: int
    opsets: dict[str, int]
    nodes: tuple[Node, ...]
    weights: tuple[Weight, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    values: dict[str, Value]
    metadata: tuple[Metadata, ...]
    foreign: frozenset[str]

    @property
    def n_parameters(self) -> int:
        """Floating-point weights (the integer constants that only shape tensors do not count)."""
        floats = (1, 10, 11, 16)  # FLOAT, FLOAT16, DOUBLE, BFLOAT16
        return sum(math.prod(w.dims) for w in self.weights if w.element_type in floats)

    @property
    def n_multiplications(self) -> int | None:
        """Multiplications an image in Conv and Gemm; None where a shape is not in the file."""
        weights = {weight.name: weight.dims for weight in self.weights}
        total = 0
        for node in self.nodes:
            if node.op_type not in ("Conv", "Gemm"):
                continue
            output = self.values.get(node.outputs[0]) if node.outputs else None
            dims = weights.get(node.inputs[1]) if len(node.inputs) > 1 else None
            if output is None or dims is None:
                return None
            positions = [size for size in output.shape[2:] if isinstance(size, int)]
            if len(positions) != len(output.shape[2:]):
                return None
            total += math.prod(dims) * math.prod(positions)
        return total

    def op_counts(self) -> dict[str, int]:
        """Return how often each operation occurs, as `domain.Op` outside ONNX's own domain."""
        names = (f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in self.nodes)
        return dict(Counter(names))


def read_model_bytes(path: Path) -> bytes:
    """Return the bytes of the model file `path`.

    Raises:
        InputError: missing, unreadable, empty, or larger than 512 MiB.
    """
    return read_bytes(path, limit=MAX_MODEL_BYTES, next_step=NEXT_STEP)


def parse(data: bytes) -> OnnxFile:
    """Parse the top of a ModelProto and its graph.

    Raises:
        InputError: not an ONNX file, truncated, or with weights outside the file.
    """
    try:
        parsed = _parse_model(data)
    except (ValueError, IndexError) as error:
        raise InputError(
            f"not a readable ONNX file ({error})",
            expected="a whole ONNX model (a protobuf ModelProto)",
            next_step=NEXT_STEP,
        ) from error
    outside = [weight.name for weight in parsed.weights if weight.external]
    if outside:
        raise InputError(
            f"weights lie outside the file: {', '.join(outside[:3])}",
            expected="one self-contained file (external data is never opened)",
            next_step=NEXT_STEP,
        )
    return parsed


def append_metadata(data: bytes, key: str, value: bytes) -> bytes:
    """Return `data`, a serialised ModelProto, with one more metadata entry at its end."""
    entry = length_field(1, key.encode()) + length_field(2, value)
    return data + length_field(_METADATA_PROPS, entry)


def _parse_model(data: bytes) -> OnnxFile:
    ir_version, graph = 0, None
    opsets: dict[str, int] = {}
    metadata: list[Metadata] = []
    foreign: set[str] = set()
    previous_end = 0
    for number, value, end in _fields(data):
        if number == 1 and isinstance(value, int):
            ir_version = value
        elif number == 7 and isinstance(value, bytes):
            if graph is not None:  # other readers would merge them
                raise ValueError("several graphs in it")
            graph = value
        elif number == 8 and isinstance(value, bytes):
            domain, version = _opset(value)
            opsets[domain] = version
        elif number in _FOREIGN_FIELDS:
            foreign.add(_FOREIGN_FIELDS[number])
        elif number == _METADATA_PROPS and isinstance(value, bytes):
            strings = _strings(value)
            key = strings.get(1, [b""])[-1].decode()
            metadata.append(Metadata(key, strings.get(2, [b""])[-1], previous_end, end))
        previous_end = end
    if graph is None or not ir_version:
        raise ValueError("no graph in it" if ir_version else "no IR version in it")
    if any(number == _SPARSE_WEIGHTS for number, _, _ in _fields(graph)):
        foreign.add("sparse weights")
    return OnnxFile(ir_version, opsets, *_parse_graph(graph), tuple(metadata), frozenset(foreign))


def _parse_graph(
    data: bytes,
) -> tuple[
    tuple[Node, ...],
    tuple[Weight, ...],
    tuple[Value, ...],
    tuple[Value, ...],
    dict[str, Value],
]:
    parts = _strings(data)
    inputs, outputs, inner = (
        tuple(_value(raw) for raw in parts.get(number, [])) for number in (11, 12, 13)
    )
    return (
        tuple(_node(raw) for raw in parts.get(1, [])),
        tuple(_weight(raw) for raw in parts.get(5, [])),
        inputs,
        outputs,
        {value.name: value for value in (*inner, *outputs)},
    )


def _node(data: bytes) -> Node:
    parts = _strings(data)
    inputs, outputs = (tuple(name.decode() for name in parts.get(i, [])) for i in (1, 2))
    op_type, domain = (parts.get(number, [b""])[-1].decode() for number in (4, 7))
    attributes = [_attribute(raw) for raw in parts.get(5, [])]
    integers = {name: values for name, values, _ in attributes if values}
    nested = any(holds for _, _, holds in attributes)
    return Node(op_type, domain, inputs, outputs, integers, nested)


def _attribute(data: bytes) -> tuple[str, tuple[int, ...], bool]:
    """Return an attribute's name, its integers, and whether it holds tensors or graphs."""
    name, nested = "", False
    integers: list[int] = []
    for number, value, _ in _fields(data):
        if number == 1 and isinstance(value, bytes):
            name = value.decode()
        elif number in (3, 8):
            integers += [value] if isinstance(value, int) else _packed(value)
        nested = nested or number in _NESTED_FIELDS
    return name, tuple(integers), nested


def _weight(data: bytes) -> Weight:
    name, element_type, external, dims = "", 0, False, []
    for number, value, _ in _fields(data):
        if number == 1:
            dims += [value] if isinstance(value, int) else _packed(value)
        elif number == 2 and isinstance(value, int):
            element_type = value
        elif number == 8 and isinstance(value, bytes):
            name = value.decode()
        elif number == 13 or (number == 14 and value == _EXTERNAL):
            external = True
    return Weight(name, element_type, tuple(dims), external, data)


def _value(data: bytes) -> Value:
    parts = _strings(data)
    name = parts.get(1, [b""])[-1].decode()
    tensor = _strings(parts.get(2, [b""])[-1]).get(1, [b""])[-1]
    element_type, shape = 0, b""
    for number, value, _ in _fields(tensor):
        if number == 1 and isinstance(value, int):
            element_type = value
        elif number == 2 and isinstance(value, bytes):
            shape = value
    return Value(name, element_type, tuple(_dim(raw) for raw in _strings(shape).get(1, [])))


def _dim(data: bytes) -> int | str:
    for _, value, _ in _fields(data):
        return value if isinstance(value, int) else value.decode()
    return "?"


def _opset(data: bytes) -> tuple[str, int]:
    domain, version = "", 0
    for number, value, _ in _fields(data):
        if number == 1 and isinstance(value, bytes):
            domain = value.decode()
        elif number == 2 and isinstance(value, int):
            version = value
    return domain, version


def _strings(data: bytes) -> dict[int, list[bytes]]:
    """Collect every length-delimited field of one message by its number."""
    found: dict[int, list[bytes]] = {}
    for number, value, _ in _fields(data):
        if isinstance(value, bytes):
            found.setdefault(number, []).append(value)
    return found


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes, int]]:
    """Yield (field number, value, offset behind it); fixed-width fields as their bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise ValueError(f"field number 0 at byte {position}")
        if wire_type == _VARINT:
            integer, position = _varint(data, position)
            yield number, integer, position
            continue
        if wire_type == _LENGTH:
            size, position = _varint(data, position)
        elif wire_type in (_FIXED64, _FIXED32):
            size = 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire_type} at byte {position}")
        if position + size > len(data):
            raise ValueError(f"truncated: {position + size - len(data):,} bytes are missing")
        yield number, data[position : position + size], position + size
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"endless number at byte {position}")


def _packed(data: bytes) -> list[int]:
    values, position = [], 0
    while position < len(data):
        value, position = _varint(data, position)
        values.append(value)
    return values


def length_field(number: int, payload: bytes) -> bytes:
    """Return field `number` of a protobuf message, with `payload` behind its length."""
    return _encode_varint(number << 3 | _LENGTH) + _encode_varint(len(payload)) + payload


def number_field(number: int, value: int) -> bytes:
    """Return field `number` of a protobuf message, holding the integer `value` (not negative)."""
    return _encode_varint(number << 3 | _VARINT) + _encode_varint(value)


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
