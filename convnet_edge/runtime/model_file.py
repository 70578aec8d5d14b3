"""Read a model file once: its graph, its weights' shapes, its contract, its digests.

Nothing is executed, and the onnx package is not needed. Format:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Whether the file may be opened is decided by
`admission`, whether it is right is found by the self-test.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from . import contract
from .contract import NEXT_STEP, Contract
from .errors import InputError
from .files import MIB, read_bytes
from .protobuf import integers, last, read_fields, read_parts, text

MAX_MODEL_BYTES = 512 * MIB

_INT64 = 7  # TensorProto.INT64
_FLOATS = (1, 10, 11, 16)  # TensorProto.FLOAT, FLOAT16, DOUBLE, BFLOAT16
_EXTERNAL = 1
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

    @property
    def name(self) -> str:
        """The operation as `domain.Op`, or `Op` in ONNX's own domain."""
        return f"{self.domain}.{self.op_type}" if self.domain else self.op_type


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
    content: memoryview

    def integers(self) -> tuple[int, ...]:
        """Return the values of an int64 weight that is stored raw; () of any other."""
        raw = read_parts(self.content).get(9, [])
        if self.element_type != _INT64 or len(raw) != 1 or len(raw[0]) % 8:
            return ()
        return tuple(n for (n,) in struct.iter_unpack("<q", raw[0]))


@dataclass(frozen=True)
class ModelFile:
    """What a file says of itself; `open_model` makes it.

    opsets: version by domain. inputs: without the weights. values: what has a shape, by name.
    foreign: what the file holds beside one plain graph, in words. graph_sha256, contract_sha256:
    computed from its bytes; what they should be, the contract states.
    """

    data: bytes
    ir_version: int
    opsets: dict[str, int]
    nodes: tuple[Node, ...]
    weights: tuple[Weight, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    values: dict[str, Value]
    foreign: tuple[str, ...]
    contract: Contract
    graph_sha256: str
    contract_sha256: str

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the whole file."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def weight_bytes(self) -> int:
        """The bytes of the file that are weights."""
        return sum(len(weight.content) for weight in self.weights)

    @property
    def n_parameters(self) -> int:
        """Floating-point weights; of an integer file, those of the float one it was made from."""
        if self.contract.float_model is not None:
            return self.contract.float_model.n_parameters
        return sum(math.prod(w.dims) for w in self.weights if w.element_type in _FLOATS)

    @property
    def n_multiplications(self) -> int | None:
        """Multiplications an image in Conv and Gemm; None where a shape is not in the file.

        An integer file's are those of the float one it was made from.
        """
        if self.contract.float_model is not None:
            return self.contract.float_model.n_multiplications
        dims = {weight.name: weight.dims for weight in self.weights}
        total = 0
        for node in self.nodes:
            if node.op_type not in ("Conv", "Gemm"):
                continue
            output = self.values.get(node.outputs[0]) if node.outputs else None
            kernel = dims.get(node.inputs[1]) if len(node.inputs) > 1 else None
            if output is None or kernel is None:
                return None
            places = [size for size in output.shape[2:] if isinstance(size, int)]
            if len(places) != len(output.shape[2:]):
                return None
            total += math.prod(kernel) * math.prod(places)
        return total

    def op_counts(self) -> dict[str, int]:
        """Return how often each operation occurs, by its name."""
        return dict(Counter(node.name for node in self.nodes))


def open_model(source: Path | bytes) -> ModelFile:
    """Read a model file, given by its path or content.

    Raises:
        InputError: missing, unreadable or larger than 512 MiB; not ONNX, truncated, or with weights
            outside the file; without a contract, with several, or with one that makes no sense.
    """
    data = source if isinstance(source, bytes) else read_model_bytes(source)
    try:
        top = _read_top(memoryview(data))
        parts = read_parts(top.graphs[0])
        nodes = tuple(_read_node(part) for part in parts.get(1, ()))
        weights = tuple(_read_weight(part) for part in parts.get(5, ()))
        inputs, outputs, inner = (
            tuple(_read_value(part) for part in parts.get(number, ())) for number in (11, 12, 13)
        )
    except (ValueError, IndexError) as error:
        raise InputError(
            f"not a readable ONNX file ({error})",
            expected="a whole ONNX model (a protobuf ModelProto)",
            next_step=NEXT_STEP,
        ) from error
    _refuse_external(weights)
    document, start, end = _only_contract(top.contracts)
    stated = contract.parse(document)
    graph_digest = hashlib.sha256(memoryview(data)[:start])
    graph_digest.update(memoryview(data)[end:])
    names = {weight.name for weight in weights}
    return ModelFile(
        data=data,
        ir_version=top.ir_version,
        opsets=top.opsets,
        nodes=nodes,
        weights=weights,
        inputs=tuple(value for value in inputs if value.name not in names),
        outputs=outputs,
        values={value.name: value for value in (*inner, *outputs)},
        foreign=tuple(sorted(top.foreign | ({"sparse weights"} if 15 in parts else set()))),
        contract=stated,
        graph_sha256=graph_digest.hexdigest(),
        contract_sha256=contract.digest_of(document, stated),
    )


def read_model_bytes(path: Path) -> bytes:
    """Return the bytes of the model file `path`.

    Raises:
        InputError: missing, unreadable, empty, or larger than 512 MiB.
    """
    return read_bytes(path, limit=MAX_MODEL_BYTES, next_step=NEXT_STEP)


@dataclass
class _Top:
    """What a ModelProto holds. contracts: each with the start and end of its whole field."""

    ir_version: int = 0
    graphs: list[memoryview] = field(default_factory=list)
    opsets: dict[str, int] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)
    contracts: list[tuple[memoryview, int, int]] = field(default_factory=list)


def _read_top(data: memoryview) -> _Top:
    top, start = _Top(), 0
    for number, value, end in read_fields(data):
        if number == 1 and isinstance(value, int):
            top.ir_version = value
        elif number == 7 and isinstance(value, memoryview):
            top.graphs.append(value)
        elif number == 8 and isinstance(value, memoryview):
            fields = {field_number: inner for field_number, inner, _ in read_fields(value)}
            domain, version = fields.get(1, b""), fields.get(2, 0)
            if isinstance(version, int) and not isinstance(domain, int):
                top.opsets[str(domain, "utf-8")] = version
        elif number in _FOREIGN_FIELDS:
            top.foreign.add(_FOREIGN_FIELDS[number])
        elif number == contract.METADATA_FIELD and isinstance(value, memoryview):
            entry = read_parts(value)
            if last(entry, 1) == contract.KEY.encode():
                top.contracts.append((last(entry, 2), start, end))
        start = end
    if not top.ir_version:
        raise ValueError("no IR version in it")
    if len(top.graphs) != 1:  # other readers would merge several
        raise ValueError("several graphs in it" if top.graphs else "no graph in it")
    return top


def _read_node(message: memoryview) -> Node:
    parts = read_parts(message)
    inputs, outputs = (tuple(map(text, parts.get(number, ()))) for number in (1, 2))
    attributes = [_read_attribute(part) for part in parts.get(5, ())]
    if len({name for name, _, _ in attributes}) < len(attributes):
        raise ValueError("an attribute twice in it")  # which one counts, readers may disagree on
    return Node(
        op_type=text(last(parts, 4)),
        domain=text(last(parts, 7)),
        inputs=inputs,
        outputs=outputs,
        integers={name: values for name, values, _ in attributes if values},
        nested=any(nested for _, _, nested in attributes),
    )


def _read_attribute(message: memoryview) -> tuple[str, tuple[int, ...], bool]:
    """Return an attribute's name, its integers, and whether it holds tensors or graphs."""
    name, nested = "", False
    numbers: list[int] = []
    for number, value, _ in read_fields(message):
        if number == 1 and isinstance(value, memoryview):
            name = text(value)
        elif number in (3, 8):
            numbers += integers(value)
        nested = nested or number in _NESTED_FIELDS
    return name, tuple(numbers), nested


def _read_weight(message: memoryview) -> Weight:
    name, element_type, external = "", 0, False
    dims: list[int] = []
    for number, value, _ in read_fields(message):
        if number == 1:
            dims += integers(value)
        elif number == 2 and isinstance(value, int):
            element_type = value
        elif number == 8 and isinstance(value, memoryview):
            name = text(value)
        elif number == 13 or (number == 14 and value == _EXTERNAL):
            external = True
    return Weight(name, element_type, tuple(dims), external, message)


def _read_value(message: memoryview) -> Value:
    parts = read_parts(message)
    element_type, shape = 0, memoryview(b"")
    for number, value, _ in read_fields(last(read_parts(last(parts, 2)), 1)):
        if number == 1 and isinstance(value, int):
            element_type = value
        elif number == 2 and isinstance(value, memoryview):
            shape = value
    dims = tuple(_read_dim(part) for part in read_parts(shape).get(1, ()))
    return Value(text(last(parts, 1)), element_type, dims)


def _read_dim(message: memoryview) -> int | str:
    for _, value, _ in read_fields(message):
        return value if isinstance(value, int) else text(value)
    return "?"


def _refuse_external(weights: Sequence[Weight]) -> None:
    outside = [weight.name for weight in weights if weight.external]
    if outside:
        raise InputError(
            f"weights lie outside the file: {', '.join(outside[:3])}",
            expected="one self-contained file (external data is never opened)",
            next_step=NEXT_STEP,
        )


def _only_contract(found: Sequence[tuple[memoryview, int, int]]) -> tuple[bytes, int, int]:
    """Return the one contract's text, and where its field starts and ends."""
    if len(found) != 1:
        raise InputError(
            f"{len(found) or 'no'} contracts in the file (metadata entry {contract.KEY!r})",
            expected="a model written by `convnet-edge export`, which describes itself",
            next_step=NEXT_STEP,
        )
    document, start, end = found[0]
    if len(document) > contract.MAX_CONTRACT_BYTES:
        raise InputError(
            f"the contract has {len(document):,} bytes",
            expected=f"at most {contract.MAX_CONTRACT_BYTES:,}",
            next_step=NEXT_STEP,
        )
    return bytes(document), start, end
