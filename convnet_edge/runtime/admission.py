"""Refuse a model file that is not one of ours before onnxruntime opens it.

A file from elsewhere may be made to fill the memory, to run for hours, or to read other files. What
convnet-edge writes is a chain of few operations, each on the result of the one before and on the
file's own weights. So the shapes of one image, its memory and its work follow from the weights, and
are bounded here. Whether an admitted file computes the right thing is the self-test's business.

Work is counted in steps of at most about 4 ns of one core: one for a number that is changed in
place or gathered for a window or a layer, one for `MULTIPLICATIONS_A_STEP`, and `WRITE_STEPS` for a
number that a window or a layer gives. The tutorial's convnet takes 52 million of them and 8.3 MB
for an RGB image of 256 x 256. The worst that passes ends one prediction and its self-test within
10 s and 2 GB.
"""

import math
from collections.abc import Iterator
from itertools import chain

import numpy as np

from .contract import MAX_CONTRACT_BYTES, NEXT_STEP
from .errors import InputError
from .files import MIB
from .model_file import ELEMENT_TYPES, ModelFile, Node

# by domain: what the exporters and rewrites of this program write
OPERATIONS = {
    "": {
        "Add", "Cast", "Conv", "DequantizeLinear", "Flatten", "Gemm", "Identity", "MaxPool", "Mul",
        "QuantizeLinear", "Relu", "Reshape", "Slice", "Softmax",
    },
    "com.microsoft": {"NhwcMaxPool", "QGemm", "QLinearConv"},
}  # fmt: skip
# where each layer's weights stand among its inputs
WEIGHT_PLACES = {"Conv": 1, "Gemm": 1, "QLinearConv": 3, "QGemm": 3}
WINDOWS = {"Conv", "QLinearConv", "MaxPool", "NhwcMaxPool"}  # that slide over an image
# integer attributes and the least and greatest value of each; no other may occur
ATTRIBUTES = {
    **dict.fromkeys(("allowzero", "ceil_mode", "pads", "storage_order", "transA"), (0, 0)),
    **dict.fromkeys(("axis", "transB"), (0, 1)),
    **dict.fromkeys(("channels_last", "dilations", "group", "to"), (1, 1)),
    **dict.fromkeys(("kernel_shape", "strides"), (1, 64)),
}
ELEMENT_BYTES = {number: np.dtype(name).itemsize for name, number in ELEMENT_TYPES.items()}
MAX_NODES = 100
MAX_OTHER_BYTES = MAX_CONTRACT_BYTES + MIB  # of the file, without the weights that are stored raw
MAX_WEIGHTS = 1 << 26  # numbers that layers take or that are unpacked for them, each time
MAX_IMAGE_BYTES = 8 * MIB  # of the largest intermediate result of one image, in float32
MAX_WORK = 1 << 26  # steps of one image
MAX_PROOF_BYTES = 128 * MIB  # of that result of all golden images, which run as one batch
MAX_PROOF_WORK = 1 << 30  # steps of all golden images
WRITE_STEPS, MULTIPLICATIONS_A_STEP = 4, 16


def admit(file: ModelFile) -> None:
    """Raise an InputError unless `file` is as it was exported, and safe to open and to run."""
    if file.holds_contract and not file.digest.passed:
        raise InputError(
            f"the file was altered after its export: {file.digest.name}: {file.digest.detail}",
            expected="the bytes that were proved at export",
            next_step="fetch the file again, or export it anew",
        )
    for reason in chain(_foreign_parts(file), _foreign_weights(file), _excess(file)):
        raise InputError(
            reason, expected="a graph as `convnet-edge export` writes it", next_step=NEXT_STEP
        )


def _foreign_parts(file: ModelFile) -> Iterator[str]:
    if (len(file.inputs), len(file.outputs)) != (1, 1):
        yield f"the graph has {len(file.inputs)} inputs and {len(file.outputs)} outputs, not one"
    if len(file.nodes) > MAX_NODES:
        yield f"the graph has {len(file.nodes):,} operations, more than {MAX_NODES}"
    for node in file.nodes:
        if node.op_type not in OPERATIONS.get(node.domain, ()):
            yield f"the graph has the operation {node.name!r}"
        for attribute, values in node.integers.items():
            low, high = ATTRIBUTES.get(attribute, (0, -1))
            if not all(low <= value <= high for value in values):
                yield f"the operation {node.name} has {attribute} {list(values[:8])}"
        if set(node.texts) - {"NOTSET"}:  # auto_pad, switched off
            yield f"the operation {node.name} has the setting {node.texts[0]!r}"
        if len(node.outputs) != 1:
            yield f"the operation {node.name} has {len(node.outputs)} results, not one"


def _foreign_weights(file: ModelFile) -> Iterator[str]:
    for name, weight in file.weights.items():
        if weight.element_type not in ELEMENT_BYTES:
            yield f"the weights {name!r} are of type {weight.element_type}"
        n = math.prod(weight.dims)
        needed = n * ELEMENT_BYTES[weight.element_type]
        if len(weight.raw) not in (0, needed) or n > len(weight.content):
            yield f"the weights {name!r} are not as many as their shape says"
    other_bytes = len(file.data) - sum(len(weight.raw) for weight in file.weights.values())
    if other_bytes > MAX_OTHER_BYTES:
        yield f"{other_bytes:,} bytes beside the weights, more than {MAX_OTHER_BYTES:,}"


def _excess(file: ModelFile) -> Iterator[str]:
    """Follow one image from operation to operation."""
    weights = {name: weight.dims for name, weight in file.weights.items()}
    ((current, taken),) = file.inputs.items()
    how = file.contract.preprocessing
    shape: tuple[int, ...] = (how.channels, *how.size)
    if taken[1:] != shape:
        says = ", ".join(map(str, taken))[:80]
        yield f"the graph takes ({says}), its contract says (batch, {', '.join(map(str, shape))})"
    largest, work, n_weights = math.prod(shape), 0, 0
    for node in file.nodes:
        source, *others = node.inputs or ("",)
        (given,) = node.outputs
        if any(name and name not in weights for name in others):
            yield f"an operation {node.op_type} takes more than one result of others"
        if node.op_type == "DequantizeLinear" and source in weights:
            weights[given] = weights[source]
            n_weights += math.prod(weights[given])
            continue
        if source != current:
            yield f"an operation {node.op_type} does not take the result of the one before"
        if _mixes_images(file, node):
            yield f"an operation {node.op_type} may mix images"
        before = math.prod(shape)
        layer: tuple[int, ...] = ()
        if node.op_type in WEIGHT_PLACES:
            layer = weights.get(_input(node, WEIGHT_PLACES[node.op_type]), ())
            if len(layer) < 2 or min(layer) < 1:
                yield f"an operation {node.op_type} has no weights"
            n_weights += math.prod(layer)
        shape = _shape_after(file, node, shape, layer)
        if min(shape, default=0) < 1 or (node.op_type == "Reshape" and math.prod(shape) > before):
            yield f"an operation {node.op_type} does not fit what it takes"
        current, largest = given, max(largest, math.prod(shape))
        work += _work(node, shape, layer)
    goldens = len(file.contract.goldens.images)
    for found, limit, what in (
        (n_weights, MAX_WEIGHTS, "the layers take {:,} weights"),
        (4 * largest, MAX_IMAGE_BYTES, "one image may take {:,} bytes"),
        (work, MAX_WORK, "one image may take {:,} steps"),
        (4 * largest * goldens, MAX_PROOF_BYTES, "the golden images may take {:,} bytes"),
        (work * goldens, MAX_PROOF_WORK, "the golden images may take {:,} steps"),
    ):
        if found > limit:
            yield f"{what.format(found)}, more than {limit:,}"


def _shape_after(
    file: ModelFile, node: Node, shape: tuple[int, ...], layer: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the shape of an image after an operation; () if it does not fit.

    It is the largest possible one: what Slice leaves out is not subtracted. layer: the shape of the
    weights, () without.
    """
    if node.op_type in ("Gemm", "QGemm"):
        return (max(layer),)
    if node.op_type == "Flatten":
        return (math.prod(shape),)
    if node.op_type == "Reshape":
        return file.weights[node.inputs[1]].integers()[1:]
    if node.op_type not in WINDOWS:
        return shape
    sides = shape[:-1] if _channels_last(node) else shape[1:]
    channels = layer[:1] or (shape[-1:] if _channels_last(node) else shape[:1])
    kernel = layer[2:] or node.integers.get("kernel_shape", ())
    strides = node.integers.get("strides", (1,) * len(sides))
    if not len(sides) == len(kernel) == len(strides):
        return ()
    steps = zip(sides, kernel, strides, strict=True)
    left = tuple((side - size) // stride + 1 for side, size, stride in steps)
    return (*left, *channels) if _channels_last(node) else (*channels, *left)


def _work(node: Node, shape: tuple[int, ...], layer: tuple[int, ...]) -> int:
    """Return the steps that give one image's result of `shape`."""
    n = math.prod(shape)
    if node.op_type in ("Gemm", "QGemm"):
        gathered, n_multiplications = min(layer, default=0), math.prod(layer)
    elif layer:
        n_multiplications = n * math.prod(layer[1:])
        gathered = n_multiplications // layer[0]
    elif node.op_type in WINDOWS:
        gathered, n_multiplications = n * math.prod(node.integers.get("kernel_shape", ())), 0
    else:
        return n
    return WRITE_STEPS * n + gathered + n_multiplications // MULTIPLICATIONS_A_STEP


def _input(node: Node, place: int) -> str:
    """Return the name of an input; empty, as of one left out, if there are fewer."""
    return node.inputs[place] if place < len(node.inputs) else ""


def _channels_last(node: Node) -> bool:
    return node.op_type == "NhwcMaxPool" or node.integers.get("channels_last") == (1,)


def _mixes_images(file: ModelFile, node: Node) -> bool:
    """Tell whether an operation may touch the batch axis.

    Flatten keeps it at axis 1; Reshape if its shape is a weight that begins with 0, which copies
    the axis, and leaves no other size open; Slice if its axes are a weight without 0.
    """
    if node.op_type == "Flatten":
        return node.integers.get("axis", (1,)) != (1,)
    place = {"Reshape": 1, "Slice": 3}.get(node.op_type)
    if place is None:
        return False
    weight = file.weights.get(_input(node, place))
    numbers = weight.integers() if weight else ()
    if node.op_type == "Slice":
        return min(numbers, default=0) < 1
    return numbers[:1] != (0,) or min(numbers[1:], default=1) < 1
