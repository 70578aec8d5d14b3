"""Write into a graph from elsewhere what its caller would have to do: mean and deviation.

The bytes of its operations and weights are kept as they are; what the result computes is proved by
whoever seals it.
"""

from ..runtime.contract import Array, scale_and_offset
from ..runtime.elsewhere.given import NORMALIZATION
from ..runtime.elsewhere.unproved import state
from ..runtime.model_file import ELEMENT_TYPES, ModelFile, read_graph
from ..runtime.protobuf import Message, field, read_fields

NODE, INITIALIZER, INPUT, OUTPUT = 1, 5, 11, 12  # of GraphProto
IR_VERSION, GRAPH = 1, 7  # of ModelProto
WEIGHTS_ARE_NO_INPUTS = 4  # the first IR version in which they need not be
HIDING_WEIGHTS = {"Constant", "Identity"}  # operators behind which a quantiser finds none
SCALE, OFFSET, SCALED = "pixel_scale", "pixel_offset", "scaled_pixels"


def take_pixels(file: ModelFile) -> ModelFile:
    """Return an unproved `file` whose graph takes pixels in [0, 1] of the size that was said.

    Where mean and deviation are given, its first operations are Mul and Add. Weights are no longer
    inputs that a caller may replace, and the shapes of input and output are stated.
    """
    data, stated = _written(file), file.contract.document
    (taken,) = read_graph(data).inputs
    how = {key: value for key, value in stated["preprocessing"].items() if key not in NORMALIZATION}
    changed = {"input": stated["input"] | {"name": taken}, "preprocessing": how}
    return state(data, stated | changed, file.path)


def _written(file: ModelFile) -> bytes:
    top = Message(memoryview(file.data))
    graph = _graph(top.message(GRAPH), file)
    ir_version = max(top.integer(IR_VERSION), WEIGHTS_ARE_NO_INPUTS)
    written = field(IR_VERSION, ir_version)
    for number, _, start, end in read_fields(top.data):
        if number not in (GRAPH, IR_VERSION):
            written += bytes(top.data[start:end])
    return written + field(GRAPH, graph)


def _graph(graph: Message, file: ModelFile) -> bytes:
    stated = file.contract
    source, first, weights = stated.input_name, b"", b""
    if stated.normalization is not None:
        given = (name for node in file.nodes for name in node.outputs)
        taken = {*file.inputs, *file.weights, *given}
        scale, offset, scaled, images = (
            _unused(name, taken) for name in (SCALE, OFFSET, SCALED, "images")
        )
        first = _node("Mul", (images, scale), scaled) + _node("Add", (scaled, offset), source)
        both = scale_and_offset(*stated.normalization)
        weights = b"".join(map(_weight, (scale, offset), both))
        source = images
    dtype, n_classes = ELEMENT_TYPES[stated.input_dtype], len(stated.class_labels)
    batch: int | str = 1 if file.takes_one else "batch"
    (image_shape,) = (shape[1:] for shape in file.inputs.values())
    ends = field(INPUT, _value(source, dtype, (batch, *image_shape)))
    ends += field(OUTPUT, _value(stated.output_name, ELEMENT_TYPES["float32"], (batch, n_classes)))
    kept = (
        bytes(graph.data[start:end])
        for number, _, start, end in read_fields(graph.data)
        if number not in (INPUT, OUTPUT)
    )
    return first + weights + b"".join(kept) + ends


def _unused(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _node(op_type: str, inputs: tuple[str, ...], output: str) -> bytes:
    names = b"".join(field(1, name.encode()) for name in inputs)
    return field(NODE, names + field(2, output.encode()) + field(4, op_type.encode()))


def _weight(name: str, values: Array) -> bytes:
    dims = b"".join(field(1, size) for size in values.shape)
    about = dims + field(2, ELEMENT_TYPES["float32"]) + field(8, name.encode())
    return field(INITIALIZER, about + field(9, values.astype("<f4").tobytes()))


def _value(name: str, element_type: int, shape: tuple[int | str, ...]) -> bytes:
    sizes = (field(1, one) if isinstance(one, int) else field(2, one.encode()) for one in shape)
    dims = b"".join(field(1, size) for size in sizes)
    return field(1, name.encode()) + field(2, field(1, field(1, element_type) + field(2, dims)))
