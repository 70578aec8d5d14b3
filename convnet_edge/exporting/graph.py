"""Trace the network into a graph, and rewrite it without changing what it computes.

Each rewrite changes the ModelProto in place and states what must hold before; `finish` infers
every shape anew, strictly, and checks what must hold after. Whether the logits are still right is
proved on the sealed file, not here.
"""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import InferenceError
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ..sealing.parity import IR_VERSION, OPSET

EXAMPLE_BATCH_SIZE = 2  # 1 would be specialised to a constant (pytorch issue 151582)
MAX_GREY = 255
ERRORS = (torch.onnx.OnnxExporterError, RuntimeError, ValueError, InferenceError)  # of all of it


def trace(model: torch.nn.Module, image_shape: tuple[int, int, int]) -> onnx.ModelProto:
    """Return what torch's exporter makes of `model`, for any number of images (C, H, W).

    What says where and when the graph was made is removed (onnx-ir's pass for that keeps it at the
    values).

    Raises:
        OnnxExporterError, RuntimeError: the exporter, or a pass of onnxscript, gives up.
    """
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own internals
        program = torch.onnx.export(
            model,
            (torch.zeros(EXAMPLE_BATCH_SIZE, *image_shape),),
            dynamo=True,
            dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
            input_names=["images"],
            output_names=["logits"],
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    proto: onnx.ModelProto = program.model_proto
    graph = proto.graph
    parts = (
        graph.node, graph.initializer, graph.input, graph.output, graph.value_info
    )  # fmt: skip
    for owner in (proto, graph, *(item for part in parts for item in part)):
        del owner.metadata_props[:]
        owner.ClearField("doc_string")
    proto.ir_version = IR_VERSION
    graph.name = "convnet"
    return proto


def trim_input(proto: onnx.ModelProto, sides: tuple[int, int]) -> None:
    """Let the graph cut its images to the top left `sides` (height, width), which reach the output.

    Before: the first convolution alone reads the input. Nothing changes where the images are no
    larger.

    Raises:
        ValueError: something else reads the input.
    """
    conv = _first_convolution(proto)
    graph = proto.graph
    height, width = (d.dim_value for d in graph.input[0].type.tensor_type.shape.dim[2:])
    if sides == (height, width):
        return
    bounds = {"trim_starts": [0, 0], "trim_ends": list(sides), "trim_axes": [2, 3]}
    for name, values in bounds.items():
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    trim = helper.make_node(
        "Slice", [conv.input[0], *bounds], ["trimmed"], name="trim_pixels_that_reach_no_output"
    )
    conv.input[0] = "trimmed"
    graph.node.insert(0, trim)


def take_uint8(proto: onnx.ModelProto) -> None:
    """Let the graph take grey values 0 to 255 (uint8) in place of floats in [0, 1].

    The scale goes into the first convolution's weights, in float64 and rounded once. Before: that
    convolution reads the images, cut or whole, and nothing else does.

    Raises:
        ValueError: something else reads the input.
    """
    graph = proto.graph
    conv = _first_convolution(proto)
    weight = next(tensor for tensor in graph.initializer if tensor.name == conv.input[1])
    scaled = numpy_helper.to_array(weight).astype(np.float64) / MAX_GREY
    weight.CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), weight.name))
    cast = helper.make_node(
        "Cast", [conv.input[0]], ["grey"], name="grey_values_to_float", to=TensorProto.FLOAT
    )
    conv.input[0] = "grey"
    graph.node.insert(list(graph.node).index(conv), cast)
    graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def flatten(proto: onnx.ModelProto) -> None:
    """Let features become rows by Flatten, however the exporter wrote it.

    A Reshape may take its shape from anywhere, so its result can only be trusted after running it.
    Before: one Reshape, of which `finish` infers (batch, features). `finish` removes what
    computed its shape.

    Raises:
        ValueError: there are several.
    """
    graph = proto.graph
    reshapes = [node for node in graph.node if node.op_type == "Reshape"]
    if len(reshapes) > 1:
        raise ValueError(f"the graph has {len(reshapes)} Reshape operations, not one")
    for node in reshapes:
        node.CopyFrom(
            helper.make_node("Flatten", node.input[:1], node.output, name=node.name, axis=1)
        )


def finish(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without what no output depends on, every intermediate shape inferred anew.

    Raises:
        onnx.shape_inference.InferenceError: the operations do not fit each other.
        ValueError: the output's shape is not what it was.
    """
    before = [_shape(value) for value in proto.graph.output]
    proto = ir.to_proto(RemoveUnusedNodesPass()(ir.from_proto(proto)).model)
    del proto.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(
        proto, check_type=True, strict_mode=True, data_prop=True
    )
    after = [_shape(value) for value in inferred.graph.output]
    if before != after:
        raise ValueError(f"the output was {before} and is {after}")
    return inferred


def _first_convolution(proto: onnx.ModelProto) -> onnx.NodeProto:
    """Return the convolution that alone reads the images, perhaps through a Slice.

    Raises:
        ValueError: there is none.
    """
    name = proto.graph.input[0].name
    found = _readers(proto, name)
    if len(found) == 1 and found[0].op_type == "Slice":
        found = _readers(proto, found[0].output[0])
    if len(found) != 1 or found[0].op_type != "Conv":
        raise ValueError(f"{name} is read by {[node.op_type for node in found]}, not by one Conv")
    return found[0]


def _readers(proto: onnx.ModelProto, name: str) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if name in node.input]


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
