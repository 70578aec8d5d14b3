"""Run a graph by ONNX's reference evaluator, in float64 and in float32, as long as there is time.

It is numpy, written from the operators' definitions, and shares nothing with onnxruntime: the
second opinion on a file of which no PyTorch network is there.
"""

import time
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from ..runtime.contract import Array

BUDGET_S = 60.0
# what it raises of an operator, or of a type, that it does not know
UNABLE = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)
_TO_FLOAT64 = {TensorProto.FLOAT: TensorProto.DOUBLE}


@dataclass(frozen=True)
class Evaluated:
    """What the reference evaluator gave of the first images.

    exact, rounded: (n, C) logits in float64 and in float32. why: why not of all, None if of all.
    """

    exact: Array
    rounded: Array
    why: str | None = None


def evaluate(proto: onnx.ModelProto, inputs: Array) -> Evaluated:
    """Run `inputs` (N, C, H, W), as the graph takes them: one, and more while time is left."""
    both: tuple[list[Array], list[Array]] = ([], [])
    started, why = time.perf_counter(), None
    try:
        evaluators = [ReferenceEvaluator(one) for one in (in_float64(proto), proto)]
        types = [np.float64 if inputs.dtype == np.float32 else inputs.dtype, inputs.dtype]
        for number, image in enumerate(inputs):
            if time.perf_counter() - started > BUDGET_S:
                why = f"{number} of {len(inputs)} images took {BUDGET_S:g} s"
                break
            for evaluator, dtype, found in zip(evaluators, types, both, strict=True):
                name = proto.graph.input[0].name
                (logits,) = evaluator.run(None, {name: image[None].astype(dtype)})
                found.append(np.asarray(logits)[0])
            if both[0][0].dtype != np.float64:
                raise TypeError(f"float64 becomes {both[0][0].dtype} in it")
    except UNABLE as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Evaluated(np.zeros((0, 0)), np.zeros((0, 0)), lines[0][:200])
    exact, rounded = map(np.array, both)
    return Evaluated(exact, rounded, why)


def in_float64(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same graph with every float32 in it a float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    graph = wide.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen(tensor)
    for value in (*graph.input, *graph.output):
        about = value.type.tensor_type
        about.elem_type = _TO_FLOAT64.get(about.elem_type, about.elem_type)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen(attribute.t)
            if attribute.name == "value_float":
                tensor = numpy_helper.from_array(np.array(attribute.f, np.float64))
                attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))
            if node.op_type == "Cast" and attribute.name == "to":
                attribute.i = _TO_FLOAT64.get(attribute.i, attribute.i)
    return wide


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        values = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
