"""Read a model file once: its graph, its weights' shapes, its contract, its digest.

Nothing is executed, and the onnx package is not needed. Format:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Whether the file may be opened is decided by
`admission`, whether it is right is found by the self-test.
"""

import hashlib
import math
import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from . import contract
from .contract import NEXT_STEP, Contract
from .errors import EdgeError, InputError
from .files import MIB, as_path, others_beside, read_bytes
from .measure.check import Check
from .protobuf import Message, read_fields

MAX_MODEL_BYTES = 256 * MIB
PathLike = str | os.PathLike[str]
Shape = tuple[int | str, ...]  # a free axis as its name

ELSEWHERE = (
    "export it with `convnet-edge export`; one from elsewhere is sealed by `convnet-edge adopt`, "
    "and measured as it is by `convnet-edge bench`"
)
MAX_AXES = 8
ELEMENT_TYPES = {  # of TensorProto
    "float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10,
    "float64": 11,
}  # fmt: skip
_FLOATS = (1, 10, 11, 16)  # TensorProto.FLOAT, FLOAT16, DOUBLE, BFLOAT16
_EXTERNAL = 1
_FOREIGN_FIELDS = {20, 25}  # of ModelProto: training steps, functions
_SPARSE_WEIGHTS = 15  # of GraphProto
_RUN = "name the .onnx, or run the bundle: python3 NAME.pyz --help"
# how other files begin, from the byte at which that is; what they are, and what to do then
_OTHERS = (
    (0, b"PK\x03\x04", "a zip, as PyTorch's checkpoints are", NEXT_STEP),
    (0, b"\x80\x02", "a pickle, as PyTorch's older checkpoints are", NEXT_STEP),
    (8, b'{"', "a safetensors file, as `convnet-edge train` writes", NEXT_STEP),
    (0, b"version https://git-lfs", "a Git LFS pointer", "git lfs pull"),
    (0, b"#!", "a program, as a bundle is", _RUN),
    (0, b"<", "a web page", NEXT_STEP),
    (0, b"\xff\xd8\xff", "a JPEG picture", NEXT_STEP),
    (0, b"\x89PNG", "a PNG picture", NEXT_STEP),
)
_NESTED_FIELDS = {5, 6, 10, 11, 22, 23}  # of AttributeProto: tensors and graphs, sparse too
_TENSOR, _CONSTANTS = 5, ("Constant", "ConstantOfShape")  # the one that these operators may hold


@dataclass(frozen=True)
class Node:
    """One operation of the graph: its type, domain ("" is ONNX's own), inputs and outputs.

    integers: of each attribute, by name; () if it holds others. texts: of all attributes. tensors:
    of a constant, by attribute.
    """

    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integers: dict[str, tuple[int, ...]]
    texts: tuple[str, ...]
    tensors: dict[str, "Weight"]

    @cached_property
    def name(self) -> str:
        """The operation as `domain.Op`, or `Op` in ONNX's own domain."""
        return f"{self.domain}.{self.op_type}" if self.domain else self.op_type


@dataclass(frozen=True)
class Weight:
    """One initializer of the graph.

    content: all that the file says of it, values included. raw: the values where they are stored
    as their own bytes, else empty.
    """

    element_type: int
    dims: tuple[int, ...]
    content: memoryview
    raw: memoryview

    def integers(self) -> tuple[int, ...]:
        """Return the values of a short list of int64; () of any other."""
        if self.element_type != ELEMENT_TYPES["int64"] or not 0 < math.prod(self.dims) <= MAX_AXES:
            return ()
        if len(self.raw) % 8 or not self.raw:
            return Message(self.content).integers(7)
        return tuple(n for (n,) in struct.iter_unpack("<q", self.raw))

    def factors(self) -> tuple[float, ...]:
        """Return the values of a short list of float32, stored raw; () of any other."""
        is_float = self.element_type == ELEMENT_TYPES["float32"] and len(self.dims) == 1
        if not is_float or self.dims[0] > MAX_AXES or len(self.raw) != 4 * self.dims[0]:
            return ()
        return tuple(x for (x,) in struct.iter_unpack("<f", self.raw))


@dataclass(frozen=True)
class Graph:
    """What a file's bytes say of its graph; `read_graph` makes it.

    opsets: version by domain. weights, inputs, outputs, shapes: by name; inputs without the
    weights, shapes of the outputs and all between. element_types: of TensorProto, of inputs and
    outputs.
    """

    data: bytes
    ir_version: int
    opsets: dict[str, int]
    nodes: tuple[Node, ...]
    weights: dict[str, Weight]
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    shapes: dict[str, Shape]
    element_types: dict[str, int]

    @property
    def takes_one(self) -> bool:
        """Whether it takes one image a run and no more."""
        return any(shape[:1] == (1,) for shape in self.inputs.values())

    @property
    def n_float_weights(self) -> int:
        """How many floating-point numbers its weights are."""
        weights = self.weights.values()
        return sum(math.prod(w.dims) for w in weights if w.element_type in _FLOATS)

    def op_counts(self) -> dict[str, int]:
        """Return how often each operation occurs, by its name."""
        return dict(Counter(node.name for node in self.nodes))


@dataclass(frozen=True)
class ModelFile(Graph):
    """A graph, and what is said of it; `open_model` makes it.

    digest: whether the file's bytes give the SHA-256 that the contract states. path: None of what
    was given as its content.
    """

    contract: Contract
    digest: Check
    path: Path | None = None

    def __repr__(self) -> str:
        from .files import brief  # opening a file does not wait for it

        return brief(self)

    @property
    def holds_contract(self) -> bool:
        """Whether the contract is the file's own, and none that stands in for one."""
        return not self.digest.skipped

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the whole file."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def n_parameters(self) -> int:
        """Floating-point weights; of an integer file, those of the float one it was made from."""
        if self.contract.quantization is not None:
            return int(self.contract.document["parameters"]["n"])
        return self.n_float_weights

    @property
    def n_multiplications(self) -> int | None:
        """Multiplications of one image; of an integer file, those of the float one it stands for.

        A layout may do more, with zeros between: `contract.cost` has those.
        """
        if self.contract.quantization is not None:
            stated: int | None = self.contract.quantization["n_multiplications"]
            return stated
        return self.contract.cost.n_multiplications


def read_model(path: Path) -> bytes:
    """Return the content of a model file, not looked at yet; InputError as `read_bytes`."""
    next_step = f"name another file{others_beside(path)}, or {NEXT_STEP}"
    return read_bytes(path, limit=MAX_MODEL_BYTES, next_step=next_step)


def open_model(source: PathLike | bytes) -> ModelFile:
    """Read a model file, given by its path or content.

    Raises:
        InputError: missing, unreadable or larger than 256 MiB; not ONNX, truncated, with weights
            outside the file, or more than one plain graph; without a contract, with several, or
            with one that makes no sense.
    """
    if (path := as_path(source)) is not None:
        data = read_model(path)
        with naming(path):
            return replace(open_model(data), path=path)
    if isinstance(source, bytearray | memoryview):
        source = bytes(source)
    if not isinstance(source, bytes):
        raise InputError(
            f"a model of type {type(source).__name__}",
            expected="the path or the bytes of a model file, or one already read",
            next_step=NEXT_STEP,
        )
    with _reading(source):
        top = Message(memoryview(source))
        graph = _only_graph(top)
        stated, digest = _read_contract(top)  # first: it is what other tools' files lack
        return ModelFile(**vars(_graph(source, top, graph)), contract=stated, digest=digest)


def is_sealed(data: bytes) -> bool:
    """Return whether a file states what it is, well or badly; InputError if it is no ONNX."""
    with _reading(data):
        return bool(_contracts(Message(memoryview(data))))


def read_graph(data: bytes) -> Graph:
    """Return what the bytes of a file say of its graph, whoever wrote it.

    Raises:
        InputError: it is none, as `open_model`.
    """
    with _reading(data):
        top = Message(memoryview(data))
        return _graph(data, top, _only_graph(top))


def open_stated(data: bytes, document: bytes, path: Path | None = None) -> ModelFile:
    """Read a file that holds no contract; `document`: the unproved one that stands in for it.

    Raises:
        InputError: either is damaged.
    """
    graph, stated = read_graph(data), contract.parse(document)
    sizes = stated.document["input"]["shape"]  # some of which the graph may leave free
    inputs = {name: (*shape[:1], *sizes) for name, shape in graph.inputs.items()}
    digest = Check("digest", False, "the file states none, it is unproved", skipped=True)
    parts = vars(replace(graph, inputs=inputs))
    return ModelFile(**parts, contract=stated, digest=digest, path=path)


@contextmanager
def _reading(data: bytes) -> Iterator[None]:
    """Make of what is wrong with a file's bytes the error that says so."""
    try:
        yield
    except (ValueError, IndexError) as error:
        kind, next_step = _kind(data)
        raise InputError(
            f"not a readable ONNX file ({kind or error})",
            expected="a whole ONNX model: one graph, its weights inside",
            next_step=next_step,
        ) from error


def _only_graph(top: Message) -> Message:
    graphs = top.messages(7)
    if not top.integer(1) or len(graphs) != 1:  # other readers would merge several
        raise ValueError(f"IR version {top.integer(1)}, {len(graphs)} graphs in it")
    return graphs[0]


def _graph(data: bytes, top: Message, graph: Message) -> Graph:
    if top.fields.keys() & _FOREIGN_FIELDS or _SPARSE_WEIGHTS in graph.fields:
        raise ValueError("training steps, functions of its own or sparse weights in it")
    weights = _by_name(map(_read_weight, graph.messages(5)))
    given = [graph.messages(field) for field in (11, 12, 13)]
    inputs, outputs, inner = (_by_name(map(_read_shape, values)) for values in given)
    return Graph(
        data=data,
        ir_version=top.integer(1),
        opsets={_domain(opset.text(1)): opset.integer(2) for opset in top.messages(8)},
        nodes=tuple(map(_read_node, graph.messages(1))),
        weights=weights,
        inputs={name: shape for name, shape in inputs.items() if name not in weights},
        outputs=outputs,
        shapes=inner | outputs,
        element_types={
            value.text(1): value.message(2).message(1).integer(1) for value in chain(*given[:2])
        },
    )


def _kind(data: bytes) -> tuple[str | None, str]:
    """Return what a file that is no ONNX is, as far as its bytes tell, and what to do then."""
    for at, start, what, next_step in _OTHERS:
        if data.startswith(start, at):
            return what, next_step
    if data and b"\0" not in data:
        with suppress(UnicodeDecodeError):
            data.decode()
            return "text", NEXT_STEP
    return None, NEXT_STEP


@contextmanager
def naming(path: Path | None) -> Iterator[None]:
    """Let the error that a model file gives rise to begin with its path."""
    try:
        yield
    except EdgeError as error:
        if path is not None and not error.found.startswith(f"{path}: "):
            error.found = f"{path}: {error.found}"
        raise


def _contracts(top: Message) -> list[tuple[bytes, int, int]]:
    """Return each contract's text, and where its entry begins and ends in the file."""
    found = []
    for number, value, start, end in read_fields(top.data):
        if number == contract.METADATA_FIELD and isinstance(value, memoryview):
            entry = Message(value, top)
            if entry.text(1) == contract.KEY:
                found.append((bytes(entry.part(2)), start, end))
    return found


def _read_contract(top: Message) -> tuple[Contract, Check]:
    """Return the one contract in the file, and whether its digest is that of the bytes."""
    found = _contracts(top)
    n_bytes = sum(len(text) for text, _, _ in found)
    if len(found) != 1 or n_bytes > contract.MAX_CONTRACT_BYTES:
        raise InputError(
            f"{len(found) or 'no'} contracts in the file (metadata entry {contract.KEY!r}), of "
            f"{n_bytes:,} bytes",
            expected="what `convnet-edge export` writes of a checkpoint that `train` wrote: "
            f"one that describes the file, of at most {contract.MAX_CONTRACT_BYTES:,} bytes",
            next_step=NEXT_STEP if found else ELSEWHERE,
        )
    ((text, start, end),) = found
    stated = contract.parse(text)
    digest = contract.digest_of(top.data, start, end, stated)
    same = digest == stated.file_sha256
    stated_else = f"the bytes give {digest[:16]}…, but the file states {stated.file_sha256[:16]}…"
    return stated, Check("digest", same, "every byte is as sealed" if same else stated_else)


def _by_name(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, described in pairs:
        if name in found:  # readers may disagree on which one counts
            raise ValueError(f"{name!r} described twice in it")
        found[name] = described
    return found


def _read_node(message: Message) -> Node:
    attributes = message.messages(5)
    op_type = message.text(4)
    allowed = {_TENSOR} if op_type in _CONSTANTS else set()
    if any(attribute.fields.keys() & _NESTED_FIELDS - allowed for attribute in attributes):
        raise ValueError("an operation that holds a tensor or a graph of its own in it")
    held = [attribute for attribute in attributes if _TENSOR in attribute.fields]
    return Node(
        op_type=op_type,
        domain=_domain(message.text(7)),
        inputs=message.texts(1),
        outputs=message.texts(2),
        integers=_by_name((a.text(1), a.integers(3) + a.integers(8)) for a in attributes),
        texts=tuple(text for a in attributes for text in a.texts(4) + a.texts(9)),
        tensors={a.text(1): _read_weight(a.message(_TENSOR))[1] for a in held},
    )


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name  # two names of ONNX's own


def _read_weight(message: Message) -> tuple[str, Weight]:
    name = message.text(8)
    if 13 in message.fields or message.integer(14) == _EXTERNAL:  # never opened
        raise ValueError(f"the weights {name!r} lie outside the file")
    return name, Weight(message.integer(2), message.integers(1), message.data, message.part(9))


def _read_shape(value: Message) -> tuple[str, Shape]:
    dims = value.message(2).message(1).message(2).messages(1)
    if len(dims) > MAX_AXES:
        raise ValueError(f"a shape of {len(dims)} axes")
    sizes = (dim.integer(1) if 1 in dim.fields else dim.text(2) or "?" for dim in dims)
    return value.text(1), tuple(sizes)
