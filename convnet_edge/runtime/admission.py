"""Refuse a model file that is not one of ours before onnxruntime opens it.

A file from elsewhere may be made to fill the memory, to run for hours, or to read other files. What
convnet-edge writes is a chain of few operations, each on the result of the one before and on the
file's own weights, none of which enlarges an image but by its channels. So memory and work of one
image follow from the weights' shapes, and are bounded here. Whether an admitted file computes the
right thing is the self-test's business.
"""

import math
from collections.abc import Iterator
from itertools import chain

from .contract import NEXT_STEP
from .errors import InputError
from .model_file import ModelFile, Node

# by domain: what the exporters and rewrites of this program write
OPERATIONS = {
    "": {
        "Cast", "Conv", "DequantizeLinear", "Flatten", "Gemm", "MaxPool", "QuantizeLinear", "Relu",
        "Reshape", "Slice",
    },
    "com.microsoft": {"NhwcMaxPool", "QGemm", "QLinearConv"},
}  # fmt: skip
# where each layer's weights stand among its inputs
WEIGHT_PLACES = {"Conv": 1, "Gemm": 1, "QLinearConv": 3, "QGemm": 3}
# integer attributes and the least and greatest value of each; no other may occur
ATTRIBUTES = {
    **dict.fromkeys(("allowzero", "ceil_mode", "pads", "storage_order", "transA"), (0, 0)),
    **dict.fromkeys(("axis", "transB"), (0, 1)),
    **dict.fromkeys(("channels_last", "dilations", "group", "to"), (1, 1)),
    **dict.fromkeys(("kernel_shape", "strides"), (1, 64)),
}
MAX_NODES = 100
MAX_IMAGE_BYTES = 8 << 20  # of the largest intermediate result of one image, in float32
MAX_MULTIPLICATIONS = 1 << 30  # of one image


def admit(file: ModelFile) -> None:
    """Raise an InputError unless `file` is as it was exported, and safe to open and to run."""
    for digest in file.digests:
        if not digest.passed:
            raise InputError(
                f"the file was altered after its export: {digest.name}: {digest.detail}",
                expected="the bytes that were proved at export",
                next_step="fetch the file again, or export it anew",
            )
    for reason in chain(_foreign_parts(file), _excess(file)):
        raise InputError(
            reason, expected="a graph as `convnet-edge export` writes it", next_step=NEXT_STEP
        )


def _foreign_parts(file: ModelFile) -> Iterator[str]:
    if (len(file.inputs), len(file.outputs)) != (1, 1):
        yield f"the graph has {len(file.inputs)} inputs and {len(file.outputs)} outputs, not one"
    if len(file.nodes) > MAX_NODES:
        yield f"the graph has {len(file.nodes):,} operations, more than {MAX_NODES}"
    for node in file.nodes:
        name = node.name[:80]
        if node.op_type not in OPERATIONS.get(node.domain, ()):
            yield f"the graph has the operation {name!r}"
        for attribute, values in node.integers.items():
            low, high = ATTRIBUTES.get(attribute, (0, -1))
            if not all(low <= value <= high for value in values):
                yield f"the operation {name} has {attribute[:80]} {list(values[:8])}"


def _excess(file: ModelFile) -> Iterator[str]:
    """Follow the numbers of one image from operation to operation."""
    weights = {name: weight.dims for name, weight in file.weights.items()}
    height, width = file.contract.image_shape
    ((images, shape),) = file.inputs.items()
    if shape[1:] != (1, height, width):
        taken = ", ".join(map(str, shape))[:80]
        yield f"the graph takes ({taken}), its contract says (batch, 1, {height}, {width})"
    sizes, multiplications = {images: height * width}, 0
    for node in file.nodes:
        source, *others = node.inputs or ("",)
        if node.op_type == "DequantizeLinear" and source in weights:
            weights |= dict.fromkeys(node.outputs, weights[source])
            continue
        if source not in sizes:
            yield f"an operation {node.op_type} takes no image"
            return
        if any(name and name not in weights for name in others):
            yield f"an operation {node.op_type} takes more than one result of others"
        if _mixes_images(file, node):
            yield f"an operation {node.op_type} may mix images"
        size = sizes[source]
        if node.op_type in WEIGHT_PLACES:
            place = WEIGHT_PLACES[node.op_type]
            dims = weights.get(node.inputs[place], ()) if len(node.inputs) > place else ()
            if len(dims) < 2 or min(dims) < 1:
                yield f"an operation {node.op_type} has no weights"
                return
            # of a convolution, the most places that images of `size` numbers may have
            places = -(-size // dims[1]) if node.op_type.endswith("Conv") else 1
            size = places * (dims[0] if node.op_type.endswith("Conv") else max(dims))
            multiplications += places * math.prod(dims)
        sizes |= dict.fromkeys(node.outputs, size)
    largest = 4 * max(sizes.values(), default=0)
    if largest > MAX_IMAGE_BYTES:
        yield f"one image may take {largest:,} bytes, more than {MAX_IMAGE_BYTES:,}"
    if multiplications > MAX_MULTIPLICATIONS:
        yield f"one image may take {multiplications:,} multiplications, more than " \
            f"{MAX_MULTIPLICATIONS:,}"  # fmt: skip


def _mixes_images(file: ModelFile, node: Node) -> bool:
    """Tell whether an operation may touch the batch axis.

    Flatten keeps it at axis 1; Reshape if its shape is a weight that begins with 0, which copies
    the axis, and leaves no other size open.
    """
    if node.op_type == "Flatten":
        return node.integers.get("axis", (1,)) != (1,)
    if node.op_type != "Reshape":
        return False
    shape = file.weights.get(node.inputs[1]) if len(node.inputs) > 1 else None
    sizes = shape.integers() if shape else ()
    return sizes[:1] != (0,) or min(sizes[1:], default=1) < 1
