"""Read a model file once: its graph, its weights' shapes, its contract, its digests.

Nothing is executed, and the onnx package is not needed. Format:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Whether the file may be opened is decided by
`admission`, whether it is right is found by the self-test.
"""

import hashlib
import math
import struct
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from . import contract
from .contract import NEXT_STEP, Contract
from .errors import InputError
from .files import MIB, read_bytes
from .protobuf import Message, read_fields

MAX_MODEL_BYTES = 512 * MIB
Shape = tuple[int | str, ...]  # a free axis as its name

_INT64 = 7  # TensorProto.INT64
_FLOATS = (1, 10, 11, 16)  # TensorProto.FLOAT, FLOAT16, DOUBLE, BFLOAT16
_EXTERNAL = 1
_FOREIGN_FIELDS = {20: "training steps", 25: "functions of its own"}
_NESTED_FIELDS = (5, 6, 10, 11, 22, 23)  # of AttributeProto: tensors and graphs, sparse too


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
class Weight:
    """One initializer of the graph. content: all that the file says of it, values included."""

    name: str
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

    opsets: version by domain. inputs, outputs, shapes: by name; inputs without the weights, shapes
    of the outputs and all between. foreign: what the file holds beside one plain graph, in words.
    graph_sha256, contract_sha256: computed from its bytes; the contract states what they should be.
    """

    data: bytes
    ir_version: int
    opsets: dict[str, int]
    nodes: tuple[Node, ...]
    weights: tuple[Weight, ...]
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    shapes: dict[str, Shape]
    foreign: tuple[str, ...]
    contract: Contract
    graph_sha256: str
    contract_sha256: str

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the whole file."""
        return hashlib.sha256(self.data).hexdigest()

    def digests(self) -> dict[str, tuple[str, str]]:
        """Return both SHA-256 by name, as computed and as stated."""
        stated = self.contract
        return {
            "graph digest": (self.graph_sha256, stated.graph_sha256),
            "contract digest": (self.contract_sha256, stated.contract_sha256),
        }

    @property
    def weight_bytes(self) -> int:
        """The bytes of the file that are weights."""
        return sum(len(weight.content) for weight in self.weights)

    @property
    def n_parameters(self) -> int:
        """Floating-point weights; of an integer file, those of the float one it was made from."""
        if self.contract.float_counts is not None:
            return self.contract.float_counts[0]
        return sum(math.prod(w.dims) for w in self.weights if w.element_type in _FLOATS)

    @property
    def n_multiplications(self) -> int | None:
        """Multiplications an image in Conv and Gemm; None where a shape is not in the file.

        An integer file's are those of the float one it was made from.
        """
        if self.contract.float_counts is not None:
            return self.contract.float_counts[1]
        dims, total = {weight.name: weight.dims for weight in self.weights}, 0
        for node in self.nodes:
            if node.op_type not in ("Conv", "Gemm"):
                continue
            output = self.shapes.get(node.outputs[0]) if node.outputs else None
            kernel = dims.get(node.inputs[1]) if len(node.inputs) > 1 else None
            if output is None or kernel is None:
                return None
            places = [size for size in output[2:] if isinstance(size, int)]
            if len(places) != len(output[2:]):
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
    view = memoryview(data)
    try:
        top = Message(view)
        if not top.integer(1):
            raise ValueError("no IR version in it")
        if len(top.parts(7)) != 1:  # other readers would merge several
            raise ValueError("several graphs in it" if top.parts(7) else "no graph in it")
        (graph,) = top.messages(7)
        weights = tuple(map(_read_weight, graph.parts(5)))
        nodes = tuple(map(_read_node, graph.messages(1)))
        inputs, outputs, inner = (_read_shapes(graph.messages(n)) for n in (11, 12, 13))
        opsets = {opset.text(1): opset.integer(2) for opset in top.messages(8)}
        contracts = _find_contracts(view)
    except (ValueError, IndexError) as error:
        raise InputError(
            f"not a readable ONNX file ({error})",
            expected="a whole ONNX model (a protobuf ModelProto), its weights inside",
            next_step=NEXT_STEP,
        ) from error
    n_bytes = sum(len(text) for text, _, _ in contracts)
    if len(contracts) != 1 or n_bytes > contract.MAX_CONTRACT_BYTES:
        raise InputError(
            f"{len(contracts) or 'no'} contracts in the file (metadata entry {contract.KEY!r}), of "
            f"{n_bytes:,} bytes",
            expected="what `convnet-edge export` writes: one that describes the file, of at most "
            f"{contract.MAX_CONTRACT_BYTES:,} bytes",
            next_step=NEXT_STEP,
        )
    ((text, start, end),) = contracts
    stated = contract.parse(text)
    graph_digest = hashlib.sha256(view[:start])
    graph_digest.update(view[end:])
    names = {weight.name for weight in weights}
    foreign = [what for field, what in _FOREIGN_FIELDS.items() if top.holds(field)]
    return ModelFile(
        data=data,
        ir_version=top.integer(1),
        opsets=opsets,
        nodes=nodes,
        weights=weights,
        inputs={name: shape for name, shape in inputs.items() if name not in names},
        outputs=outputs,
        shapes=inner | outputs,
        foreign=(*foreign, *(["sparse weights"] if graph.holds(15) else [])),
        contract=stated,
        graph_sha256=graph_digest.hexdigest(),
        contract_sha256=contract.digest_of(text, stated),
    )


def read_model_bytes(path: Path) -> bytes:
    """Return the bytes of the model file `path`, at most 512 MiB."""
    return read_bytes(path, limit=MAX_MODEL_BYTES, next_step=NEXT_STEP)


def _find_contracts(data: memoryview) -> list[tuple[bytes, int, int]]:
    """Return each contract in the file, with the start and end of its whole field."""
    found, start = [], 0
    for number, value, end in read_fields(data):
        if number == contract.METADATA_FIELD and isinstance(value, memoryview):
            entry = Message(value)
            if entry.text(1) == contract.KEY:
                found.append((bytes(entry.part(2)), start, end))
        start = end
    return found


def _read_node(message: Message) -> Node:
    attributes = message.messages(5)
    integers = {a.text(1): a.integers(3) + a.integers(8) for a in attributes}
    if len(integers) < len(attributes):  # readers may disagree on which one counts
        raise ValueError("an attribute twice in it")
    return Node(
        op_type=message.text(4),
        domain=message.text(7),
        inputs=message.texts(1),
        outputs=message.texts(2),
        integers={name: values for name, values in integers.items() if values},
        nested=any(attribute.holds(*_NESTED_FIELDS) for attribute in attributes),
    )


def _read_weight(content: memoryview) -> Weight:
    message = Message(content)
    name = message.text(8)
    if message.holds(13) or message.integer(14) == _EXTERNAL:  # never opened
        raise ValueError(f"the weights {name[:80]!r} lie outside the file")
    return Weight(name, message.integer(2), message.integers(1), content)


def _read_shapes(values: list[Message]) -> dict[str, Shape]:
    found: dict[str, Shape] = {}
    for value in values:
        name = value.text(1)
        if name in found:
            raise ValueError(f"{name[:80]!r} described twice in it")
        tensor = Message(Message(value.part(2)).part(1))
        dims = Message(tensor.part(2)).messages(1)
        found[name] = tuple(dim.integer(1) if dim.holds(1) else dim.text(2) or "?" for dim in dims)
    return found
