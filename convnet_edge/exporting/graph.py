"""Trace the network into a graph, and rewrite it without changing what it computes.

Whether the logits are still right is proved on the sealed file, not here.
"""

import contextlib
import io
import itertools
import warnings

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ..networks.convnet import Convnet
from ..runtime.errors import CheckFailedError
from ..sealing.document import InputDtype
from ..sealing.parity import IR_VERSION, OPSET

EXAMPLE_BATCH_SIZE = 2  # 1 would be specialised to a constant (pytorch issue 151582)
MAX_GREY = 255
NEXT_STEP = "try another torch or onnxscript version"


def to_onnx(model: Convnet, *, takes: InputDtype = "float32") -> bytes:
    """Return `model` as a serialised ModelProto: opset 18, IR 8, free batch axis, no metadata.

    The graph cuts off the pixels that never reach the output and, if it `takes` uint8, scales grey
    values itself. No stack trace, path or time is left in it.
    """
    try:
        proto = trace(model)
        flatten(proto)
        read_images(proto, model.architecture.needed_sides, takes)
        proto = finish(proto)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailedError(
            f"torch {torch.__version__} with onnxscript {onnxscript.__version__} could not export "
            f"the model: {str(error).splitlines()[0]}",
            expected="a graph in which one convolution reads the images",
            next_step=NEXT_STEP,
        ) from error
    return bytes(proto.SerializeToString(deterministic=True))


def trace(model: Convnet) -> onnx.ModelProto:
    """Return what torch's exporter makes of `model`, for any number of images.

    What says where and when it was made is removed (onnx-ir's own pass keeps it at the values).
    """
    images = torch.zeros(EXAMPLE_BATCH_SIZE, *model.architecture.image_shape)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own internals
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
            input_names=["images"],
            output_names=["logits"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None  # as it may be without dynamo
    proto: onnx.ModelProto = program.model_proto
    graph = proto.graph
    parts = itertools.chain(graph.node, graph.initializer, graph.input, graph.output)
    for owner in (proto, graph, *parts):
        del owner.metadata_props[:]
        owner.ClearField("doc_string")
    proto.ir_version = IR_VERSION
    graph.name = "convnet"
    return proto


def flatten(proto: onnx.ModelProto) -> None:
    """Let features become rows by Flatten, however the exporter wrote it.

    A Reshape may take its shape from anywhere, so its result can only be trusted after running it.
    `finish` infers (batch, features) of a Flatten, and removes what computed the shape.
    """
    reshapes = [node for node in proto.graph.node if node.op_type == "Reshape"]
    if len(reshapes) > 1:
        raise ValueError(f"the graph has {len(reshapes)} Reshape operations, not one")
    for node in reshapes:
        flat = helper.make_node("Flatten", node.input[:1], node.output, name=node.name, axis=1)
        node.CopyFrom(flat)


def read_images(proto: onnx.ModelProto, sides: tuple[int, int], takes: InputDtype) -> None:
    """Let the graph cut its images to `sides` (height, width): no pixel beyond reaches the output.

    Of uint8, grey values 0 to 255, the scale goes into the first convolution's weights, in float64
    and rounded once.
    """
    graph, source = proto.graph, proto.graph.input[0].name
    input_type = graph.input[0].type.tensor_type
    readers = [node for node in graph.node if source in node.input]
    if (found := [node.op_type for node in readers]) != ["Conv"]:
        raise ValueError(f"{source} is read by {found}, not by one Conv")
    conv, front = readers[0], []
    if sides != tuple(d.dim_value for d in input_type.shape.dim[2:]):
        bounds = {"trim_starts": [0, 0], "trim_ends": list(sides), "trim_axes": [2, 3]}
        for name, values in bounds.items():
            graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        name = "trim_pixels_that_reach_no_output"
        front.append(helper.make_node("Slice", [source, *bounds], ["trimmed"], name=name))
        source = "trimmed"
    if takes == "uint8":
        weight = next(tensor for tensor in graph.initializer if tensor.name == conv.input[1])
        scaled = numpy_helper.to_array(weight).astype(np.float64) / MAX_GREY
        weight.CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), weight.name))
        name, to = "grey_values_to_float", TensorProto.FLOAT
        front.append(helper.make_node("Cast", [source], ["grey"], name=name, to=to))
        source = "grey"
        input_type.elem_type = TensorProto.UINT8
    conv.input[0] = source
    for node in reversed(front):
        graph.node.insert(0, node)


def finish(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without what no output depends on, every shape inferred anew, strictly."""
    proto = ir.to_proto(RemoveUnusedNodesPass()(ir.from_proto(proto)).model)
    del proto.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(
        proto, check_type=True, strict_mode=True, data_prop=True
    )
