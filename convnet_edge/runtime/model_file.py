"""Read a model file once: its graph, its weights' shapes, its contract, its digests.

Nothing is executed, and the onnx package is not needed. Format:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Whether the file may be opened is decided by
`admission`, whether it is right is found by the self-test.
"""

import hashlib
import math
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from . import contract
from .contract import NEXT_STEP, Contract
from .errors import InputError
from .files import MIB, read_bytes
from .measure.check import Check
from .protobuf import Message, read_fields

MAX_MODEL_BYTES = 512 * MIB
Shape = tuple[int | str, ...]  # a free axis as its name

_INT64 = 7  # TensorProto.INT64
_FLOATS = (1, 10, 11, 16)  # TensorProto.FLOAT, FLOAT16, DOUBLE, BFLOAT16
_EXTERNAL = 1
_FOREIGN_FIELDS = {20, 25}  # of ModelProto: training steps, functions
_SPARSE_WEIGHTS = 15  # of GraphProto
_NESTED_FIELDS = {5, 6, 10, 11, 22, 23}  # of AttributeProto: tensors and graphs, sparse too


@dataclass(frozen=True)
class Node:
    """One operation of the graph: its type, domain ("" is ONNX's own), inputs and outputs.

    integers: of each attribute, by name; () if it holds others.
    """

    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integers: dict[str, tuple[int, ...]]

    @property
    def name(self) -> str:
        """The operation as `domain.Op`, or `Op` in ONNX's own domain."""
        return f"{self.domain}.{self.op_type}" if self.domain else self.op_type


@dataclass(frozen=True)
class Weight:
    """One initializer of the graph. content: all that the file says of it, values included."""

    element_type: int
    dims: tuple[int, ...]
    content: memoryview

    def integers(self) -> tuple[int, ...]:
        """Return the values of an int64 weight that is stored raw; () of any other."""
        raw = Message(self.content).parts(9)
        if self.element_type != _INT64 or len(raw) != 1 or len(raw[0]) % 8:
            return ()
        return tuple(n for (n,) in struct.iter_unpack("<q", raw[0]))


@dataclass(frozen=True)
class ModelFile:
    """What a file says of itself; `open_model` makes it.

    opsets: version by domain. weights, inputs, outputs, shapes: by name; inputs without the
    weights, shapes of the outputs and all between. digests: whether its bytes give both SHA-256
    that the contract states.
    """

    data: bytes
    ir_version: int
    opsets: dict[str, int]
    nodes: tuple[Node, ...]
    weights: dict[str, Weight]
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    shapes: dict[str, Shape]
    contract: Contract
    digests: tuple[Check, ...]

    def __repr__(self) -> str:
        from .measure.result import brief  # opening a file does not wait for it

        return brief(self)

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the whole file."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def n_parameters(self) -> int:
        """Floating-point weights; of an integer file, those of the float one it was made from."""
        if self.contract.float_counts is not None:
            return self.contract.float_counts[0]
        weights = self.weights.values()
        return sum(math.prod(w.dims) for w in weights if w.element_type in _FLOATS)

    @property
    def n_multiplications(self) -> int | None:
        """Multiplications an image in Conv and Gemm; None where a shape is not in the file.

        An integer file's are those of the float one it was made from.
        """
        if self.contract.float_counts is not None:
            return self.contract.float_counts[1]
        try:
            return sum(
                math.prod(self.weights[node.inputs[1]].dims)
                * math.prod(int(size) for size in self.shapes[node.outputs[0]][2:])
                for node in self.nodes
                if node.op_type in ("Conv", "Gemm")
            )
        except (LookupError, ValueError):  # ValueError: a free axis is no number
            return None

    def op_counts(self) -> dict[str, int]:
        """Return how often each operation occurs, by its name."""
        return dict(Counter(node.name for node in self.nodes))


def open_model(source: Path | bytes) -> ModelFile:
    """Read a model file, given by its path or content.

    Raises:
        InputError: missing, unreadable or larger than 512 MiB; not ONNX, truncated, with weights
            outside the file, or more than one plain graph; without a contract, with several, or
            with one that makes no sense.
    """
    if isinstance(source, Path):
        source = read_bytes(source, limit=MAX_MODEL_BYTES, next_step=NEXT_STEP)
    view = memoryview(source)
    try:
        top = Message(view)
        graphs = top.messages(7)
        if not top.integer(1) or len(graphs) != 1:  # other readers would merge several
            raise ValueError(f"IR version {top.integer(1)}, {len(graphs)} graphs in it")
        (graph,) = graphs
        stated, digests = _read_contract(view)  # first: it is what other tools' files lack
        if top.fields.keys() & _FOREIGN_FIELDS or _SPARSE_WEIGHTS in graph.fields:
            raise ValueError("training steps, functions of its own or sparse weights in it")
        weights = _by_name(map(_read_weight, graph.parts(5)))
        inputs, outputs, inner = (
            _by_name(map(_read_shape, graph.messages(field))) for field in (11, 12, 13)
        )
        return ModelFile(
            data=source,
            ir_version=top.integer(1),
            opsets={opset.text(1): opset.integer(2) for opset in top.messages(8)},
            nodes=tuple(map(_read_node, graph.messages(1))),
            weights=weights,
            inputs={name: shape for name, shape in inputs.items() if name not in weights},
            outputs=outputs,
            shapes=inner | outputs,
            contract=stated,
            digests=digests,
        )
    except (ValueError, IndexError) as error:
        raise InputError(
            f"not a readable ONNX file ({error})",
            expected="a whole ONNX model (a protobuf ModelProto): one graph, its weights inside",
            next_step=NEXT_STEP,
        ) from error


def _read_contract(data: memoryview) -> tuple[Contract, tuple[Check, ...]]:
    """Return the one contract in the file, and whether its digests are those of the bytes."""
    found = []
    for number, value, start, end in read_fields(data):
        if number == contract.METADATA_FIELD and isinstance(value, memoryview):
            entry = Message(value)
            if entry.text(1) == contract.KEY:
                found.append((bytes(entry.part(2)), start, end))
    n_bytes = sum(len(text) for text, _, _ in found)
    if len(found) != 1 or n_bytes > contract.MAX_CONTRACT_BYTES:
        raise InputError(
            f"{len(found) or 'no'} contracts in the file (metadata entry {contract.KEY!r}), of "
            f"{n_bytes:,} bytes",
            expected="what `convnet-edge export` writes: one that describes the file, of at most "
            f"{contract.MAX_CONTRACT_BYTES:,} bytes",
            next_step=NEXT_STEP,
        )
    ((text, start, end),) = found
    stated, graph_digest = contract.parse(text), hashlib.sha256(data[:start])
    graph_digest.update(data[end:])
    return stated, (
        _check_digest("graph digest", graph_digest.hexdigest(), stated.graph_sha256),
        _check_digest("contract digest", contract.digest_of(text, stated), stated.contract_sha256),
    )


def _check_digest(name: str, found: str, stated: str) -> Check:
    says = "as stated" if found == stated else f"but the file states {stated[:16]}…"
    return Check(name, found == stated, f"sha256 {found[:16]}…, {says}")


def _by_name(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, described in pairs:
        if name in found:  # readers may disagree on which one counts
            raise ValueError(f"{name[:80]!r} described twice in it")
        found[name] = described
    return found


def _read_node(message: Message) -> Node:
    attributes = message.messages(5)
    if any(attribute.fields.keys() & _NESTED_FIELDS for attribute in attributes):
        raise ValueError("an operation that holds a tensor or a graph of its own in it")
    return Node(
        op_type=message.text(4),
        domain=message.text(7),
        inputs=message.texts(1),
        outputs=message.texts(2),
        integers=_by_name((a.text(1), a.integers(3) + a.integers(8)) for a in attributes),
    )


def _read_weight(content: memoryview) -> tuple[str, Weight]:
    message = Message(content)
    name = message.text(8)
    if 13 in message.fields or message.integer(14) == _EXTERNAL:  # never opened
        raise ValueError(f"the weights {name[:80]!r} lie outside the file")
    return name, Weight(message.integer(2), message.integers(1), content)


def _read_shape(value: Message) -> tuple[str, Shape]:
    tensor = Message(Message(value.part(2)).part(1))
    dims = Message(tensor.part(2)).messages(1)
    sizes = (dim.integer(1) if 1 in dim.fields else dim.text(2) or "?" for dim in dims)
    return value.text(1), tuple(sizes)
