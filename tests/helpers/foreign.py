"""Classifiers as other exporters write them, made of the tiny one: no contract, and habits."""

import json
from pathlib import Path

import faults
import numpy as np
import onnx
import tiny
from onnx import TensorProto, helper
from PIL import Image

MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)


def grey(*changes: faults.Change) -> bytes:
    """Return the tiny grey network without its contract, changed."""
    return _changed(tiny.grey(), changes)


def averaging(*, n_classes: int, seed: int) -> bytes:
    """Return a network for (3, 32, 32) by hand: colours on average, then a linear layer."""
    rng = np.random.default_rng(seed)
    weights = {"w": rng.normal(size=(n_classes, 3)), "b": rng.normal(size=n_classes)}
    images = helper.make_tensor_value_info("pictures", TensorProto.FLOAT, ["N", 3, 32, 32])
    logits = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", n_classes])
    nodes = [
        helper.make_node("GlobalAveragePool", ["pictures"], ["means"]),
        helper.make_node("Flatten", ["means"], ["rows"]),
        helper.make_node("Gemm", ["rows", "w", "b"], ["scores"], transB=1),
    ]
    tensors = [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "averaging", [images], [logits], tensors)
    opsets = [helper.make_opsetid("", 17)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(made.SerializeToString())


def rgb(*changes: faults.Change) -> bytes:
    """Return the tiny network for (3, 12, 10) without its contract, changed."""
    return _changed(tiny.rgb(), changes)


def _changed(model: bytes, changes: tuple[faults.Change, ...]) -> bytes:
    graph = faults.unsealed(model)
    for change in changes:
        graph = faults.change_graph(graph, change)
    return graph


def as_older_exporters_do(proto: onnx.ModelProto) -> None:
    """Opset 11, IR 3: weights are inputs too; axes without names; no shapes between."""
    proto.ir_version, proto.opset_import[0].version = 3, 11
    for tensor in proto.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        proto.graph.input.append(value)
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[0].Clear()
    del proto.graph.value_info[:]


def forget_output_shape(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].type.tensor_type.ClearField("shape")


def copy_weights(proto: onnx.ModelProto) -> None:
    """Let a weight come through Identity, as the TorchScript exporter does with equal ones."""
    gemm = proto.graph.node[-1]
    copy = helper.make_node("Identity", [gemm.input[2]], ["copied"])
    gemm.input[2] = "copied"
    proto.graph.node.insert(0, copy)


def fix_batch(size: int) -> faults.Change:
    def change(proto: onnx.ModelProto) -> None:
        for value in (proto.graph.input[0], proto.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_value = size

    return change


def free_sides(proto: onnx.ModelProto) -> None:
    for dim, name in zip(proto.graph.input[0].type.tensor_type.shape.dim[2:], "HW", strict=True):
        dim.dim_param = name
    del proto.graph.value_info[:]


def end_in_softmax(proto: onnx.ModelProto) -> None:
    proto.graph.node[-1].output[0] = "raw"
    proto.graph.node.append(helper.make_node("Softmax", ["raw"], ["logits"], axis=1))


def input_shape(*shape: int | str) -> faults.Change:
    def change(proto: onnx.ModelProto) -> None:
        made = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
        proto.graph.input[0].CopyFrom(made)

    return change


def output_of(element_type: int, *shape: int | str) -> faults.Change:
    def change(proto: onnx.ModelProto) -> None:
        made = helper.make_tensor_value_info("logits", element_type, shape)
        proto.graph.output[0].CopyFrom(made)

    return change


def second_output(proto: onnx.ModelProto) -> None:
    made = helper.make_tensor_value_info("features", TensorProto.FLOAT, None)
    proto.graph.output.append(made)


def second_input(proto: onnx.ModelProto) -> None:
    made = helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1])
    proto.graph.input.append(made)


def say(folder: Path, **preprocessing: object) -> Path:
    """Write a preprocessing file, and return its path."""
    path = folder / "preprocessing.json"
    path.write_text(json.dumps(preprocessing))
    return path


def name_classes(folder: Path) -> Path:
    """Write the tiny network's classes, one a line, and return the file's path."""
    path = folder / "classes.txt"
    path.write_text("\n".join(tiny.LABELS) + "\n")
    return path


def pictures(folder: Path, shape: tuple[int, int, int] = tiny.RGB) -> Path:
    """Draw a few pictures of each class, with a split of their own; return their folder."""
    draw = np.random.default_rng(3)
    channels, height, width = shape
    for part, n in (("train", 3), ("test", 5)):
        for label in tiny.LABELS:
            place = folder / "photos" / part / label
            place.mkdir(parents=True)
            for number in range(n):
                pixels = draw.integers(0, 256, (height, width, channels)).astype(np.uint8)
                picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
                picture.save(place / f"{number}.png")
    return folder / "photos"
