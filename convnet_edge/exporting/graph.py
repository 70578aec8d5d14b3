"""Translate a captured network into a graph, and rewrite it without changing what it computes.

How a network is captured is the business of `capture`; whether the logits are still right is proved
on the sealed file.
"""

import inspect
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import nn
from torch.export import ExportedProgram

from ..networks.build import FAILURES, STARRED
from ..networks.capture import capture, quiet
from ..networks.convnet import Convnet
from ..networks.memory import copied
from ..networks.normalized import Normalized
from ..runtime.errors import CheckFailedError, first_line
from ..sealing.parity import IR_VERSIONS, OPSET
from ..sealing.seal import InputDtype

MAX_GREY = 255
NEXT_STEP = "try another torch or onnxscript version"
# of RepVGG, MobileOne and their kin: branches that were made for training become one
TO_DEPLOY = ("fuse", "reparameterize", "switch_to_deploy")


class Stored(nn.Module):
    """A network that takes pixels as they are stored, 0 to 255: one multiplication does it all."""

    scale: torch.Tensor
    offset: torch.Tensor | None

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.network, scale, offset = model, torch.ones(1), None
        if isinstance(model, Normalized):
            self.network, scale, offset = model.network, model.scale, model.offset
        self.register_buffer("scale", (scale.double() / MAX_GREY).float())
        self.register_buffer("offset", offset)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 pixels (N, C, H, W) to logits."""
        pixels = images.to(torch.float32) * self.scale
        logits: torch.Tensor = self.network(pixels if self.offset is None else pixels + self.offset)
        return logits


def to_onnx(
    model: nn.Module, image_shape: tuple[int, ...], *, takes: InputDtype = "float32"
) -> bytes:
    """Return `model` as a serialised ModelProto: free batch axis, opset 18, IR 8, no metadata.

    A newer opset where the network has an operation that 18 lacks. If it `takes` uint8, the graph
    scales the pixels itself. No stack trace, path or time is left in it.

    Raises:
        CheckFailedError: torch cannot capture it (see `capture`), or not translate it.
    """
    if isinstance(model, Convnet):  # it is cut to what it reads, and scaled in its weights
        program = capture(model, image_shape)
    else:
        deployed = deploy(model)
        program = (
            capture(Stored(deployed), image_shape, torch.uint8)
            if takes == "uint8"
            else capture(deployed, image_shape)
        )
    try:
        proto = translate(program)
        if isinstance(model, Convnet):
            proto.graph.name = "convnet"
            flatten(proto)
            read_images(proto, model.architecture.needed_sides, takes)
        proto = finish(proto)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailedError(
            f"torch {torch.__version__} with onnxscript {onnxscript.__version__} could not export "
            f"the model: {first_line(error)}",
            expected="a graph of ONNX's own operations",
            next_step=NEXT_STEP,
        ) from error
    return bytes(proto.SerializeToString(deterministic=True))


def deploy(model: nn.Module) -> nn.Module:
    """Return a copy whose modules have the form in which they say that they are used.

    That of RepVGG, MobileOne and others has fewer branches than the one that is trained.

    Raises:
        CheckFailedError: a module's own way there fails.
    """
    deployed = copied(model)
    for parent in list(deployed.modules()):
        for name, module in parent.named_children():
            methods = (getattr(module, one, None) for one in TO_DEPLOY)
            method = next((one for one in methods if _needs_nothing(one)), None)
            if method is None:
                continue
            try:
                made = method()
            except FAILURES as error:
                raise CheckFailedError(
                    f"deployed form: {type(module).__name__}.{method.__name__}() of {name} fails: "
                    f"{first_line(error)}",
                    expected="the module as it is used, without the branches of training",
                    next_step="mend that method, or give it another name",
                ) from error
            if isinstance(made, nn.Module):
                setattr(parent, name, made)
    return deployed.eval()


def _needs_nothing(method: Any) -> bool:
    """Whether it is a method that can be called as it is: others of that name fuse features."""
    if not inspect.ismethod(method):
        return False
    taken = inspect.signature(method).parameters.values()
    return all(one.default is not one.empty or one.kind in STARRED for one in taken)


def translate(program: ExportedProgram) -> onnx.ModelProto:
    """Return what torch's exporter makes of a captured network.

    What says where and when it was made is removed (onnx-ir's own pass keeps it at the values).
    """
    proto = _translate(program, OPSET)
    lacking = newer_operations(node.op_type for node in proto.graph.node if not node.domain)
    if lacking:
        proto = _translate(program, max(onnx.defs.get_schema(op).since_version for op in lacking))
    graph = proto.graph
    parts = itertools.chain(graph.node, graph.initializer, graph.input, graph.output)
    for owner in (proto, graph, *parts):
        del owner.metadata_props[:]
        owner.ClearField("doc_string")
    opset = next(one.version for one in proto.opset_import if not one.domain)
    proto.ir_version = IR_VERSIONS[opset]
    graph.name = "classifier"
    return proto


def newer_operations(used: Iterable[str]) -> list[str]:
    """Return those of ONNX's operations that opset 18 lacks."""
    has = onnx.defs.has
    return sorted({op for op in used if has(op) and not has(op, max_inclusive_version=OPSET)})


def _translate(program: ExportedProgram, opset: int) -> onnx.ModelProto:
    with quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch"},),  # else the axis bears a number of torch's own
            opset_version=opset,
            verbose=False,
        )
    assert made is not None  # as it may be without dynamo
    proto: onnx.ModelProto = made.model_proto
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
    del graph.value_info[:]  # made for whole images


def finish(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without what no output depends on, every shape inferred, strictly.

    What the exporter knows of shapes stays where the graph was not rewritten: that a view has the
    batch for its first axis is lost on who only reads Reshape.
    """
    proto = ir.to_proto(RemoveUnusedNodesPass()(ir.from_proto(proto)).model)
    made = {name for node in proto.graph.node for name in node.output}
    known = [one for one in proto.graph.value_info if one.name in made]
    del proto.graph.value_info[:]
    for one in known:
        proto.graph.value_info.add(name=one.name, type=one.type)
    return onnx.shape_inference.infer_shapes(
        proto, check_type=True, strict_mode=True, data_prop=True
    )
