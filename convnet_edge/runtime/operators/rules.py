"""Say of each admitted operator what shape its results have: one rule an operator.

A rule holds for any number of images: `N_IMAGES` stands for it. What the operators compute is
onnxruntime's business. Source of their meaning: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import NamedTuple, TypeAlias

import numpy as np

from ..model_file import MAX_AXES, Node

Sizes: TypeAlias = tuple[int, ...]

# a prime beyond every number that a file can hold: a size grows with the images if, and only if,
# this divides it, and by as much
N_IMAGES = 2**89 - 1
INT64 = range(-(2**63), 2**63)
ALL = 2**31 - 1  # from here on, the end of a slice means all that there is
MISFIT, MIXES = "does not fit what it takes", "may mix images"
INT64_TYPE = 7  # TensorProto.INT64
MAX_NUMBERS = MAX_AXES
MOST_TIMES = 64  # that a side grows


class UnknownSizeError(Exception):
    """A shape rests on numbers that are not known before the graph runs."""


class MisfitError(Exception):
    """An operator cannot take what it is given; the text says why."""


class Value(NamedTuple):  # which is made sooner than a dataclass
    """What is known of one value: its shape, and its numbers if they are a few of int64.

    factors: of a weight, if it is a few of float32.
    """

    shape: Sizes
    numbers: Sizes | None = None
    factors: tuple[float, ...] = ()


ABSENT = Value(())  # an input left out
Rule: TypeAlias = Callable[[Node, Sequence[Value]], Sequence[Value]]


def multiplications(node: Node, takes: Sequence[Value], given: Value) -> int:
    """Return how many one of `LAYERS` does."""
    weights, n = takes[LAYERS[node.name]].shape, math.prod(given.shape)
    if node.op_type in ("Conv", "QLinearConv"):
        return n * math.prod(weights[1:])
    return n * takes[0].shape[-1]


def gathered(node: Node, takes: Sequence[Value], given: Value) -> int:
    """Return how many numbers one of `WINDOWS` looks at."""
    place, n = LAYERS.get(node.name), math.prod(given.shape)
    if place is None:
        return n * math.prod(node.integers.get("kernel_shape", ()))
    weights, (group,) = takes[place].shape, node.integers.get("group", (1,))
    return n * math.prod(weights[1:]) * group // weights[0]


def _require(fits: bool, why: str = MISFIT) -> None:
    if not fits:
        raise MisfitError(why)


def _numbers(value: Value) -> Sizes:
    """Return the numbers of a value on which a shape rests."""
    if value.numbers is None:
        raise UnknownSizeError
    return value.numbers


def _listed(node: Node, takes: Sequence[Value], place: int, name: str) -> Sizes | None:
    """Return whole numbers given as an input, or as older opsets have it; None if left out."""
    if place < len(takes) and takes[place] is not ABSENT:
        return _numbers(takes[place])
    return node.integers.get(name)


def _axis(axis: int, n_axes: int) -> int:
    _require(-n_axes <= axis < n_axes)
    return axis % n_axes


def broadcast(shapes: Iterable[Sizes]) -> Sizes:
    """Return the shape that shapes give together, by numpy's rule."""
    found = []
    for sizes in zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1):
        wide = {size for size in sizes if size != 1}
        _require(len(wide) <= 1)
        found.append(wide.pop() if wide else 1)
    return tuple(found[::-1])


def _dropout(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    _require(len(takes) < 3)  # the third may switch it on
    return [Value(takes[0].shape)] * len(node.outputs)


def _same(_: Node, takes: Sequence[Value]) -> Sequence[Value]:
    return [Value(takes[0].shape)]


def _copied(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    keeps = node.op_type != "Cast" or node.integers.get("to") == (INT64_TYPE,)
    return [takes[0] if keeps else Value(takes[0].shape)]


def _together(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    _require(node.op_type in ANY or len(takes) == (3 if node.op_type == "Where" else 2))
    shape = broadcast(one.shape for one in takes)
    n, known, find = math.prod(shape), [one.numbers for one in takes], ARITHMETIC.get(node.op_type)
    if find is None or n > MAX_NUMBERS or len(shape) > 1 or None in known:
        return [Value(shape)]
    rows = [numbers * (n // len(numbers)) for numbers in known if numbers]
    found = [find(*row) for row in zip(*rows, strict=True)]
    kept = tuple(one for one in found if one is not None and _is_size(one))
    return [Value(shape, kept if len(kept) == n else None)]


def _is_size(number: int) -> bool:
    """Tell whether a number is one of int64, or a multiple of the images that is one for any."""
    n, left = divmod(number, N_IMAGES)
    return number in INT64 or (left == 0 and n in range(1, INT64.stop))


def _sum(a: int, b: int) -> int | None:
    alike = (a in INT64) == (b in INT64)  # else it is no multiple of the images
    return a + b if alike or 0 in (a, b) else None


def _product(a: int, b: int) -> int | None:
    return a * b if a in INT64 or b in INT64 else None


def _quotient(a: int, b: int) -> int | None:
    if b not in INT64 or b <= 0 or a < 0 or (a not in INT64 and a % b):
        return None
    return a // b


def _equal(a: int, b: int) -> int | None:
    if (a in INT64) != (b in INT64) and min(a, b) > 0:
        return None  # that depends on how many images there are
    return int(a == b)


ARITHMETIC: dict[str, Callable[..., int | None]] = {
    "Add": _sum,
    "Sub": lambda a, b: _sum(a, -b),
    "Mul": _product,
    "Div": _quotient,
    "Equal": _equal,
    "Where": lambda condition, a, b: a if condition else b,
}


ANY = ("Max", "Min", "Sum")  # of as many as there are


def _window(node: Node, sides: Sizes, kernel: Sizes) -> Sizes:
    """Return the places of a window that slides over `sides`."""
    n = len(sides)
    strides, dilations = (node.integers.get(key, (1,) * n) for key in ("strides", "dilations"))
    pads = node.integers.get("pads", (0,) * 2 * n)
    _require(len(kernel) == len(strides) == len(dilations) == n and len(pads) == 2 * n)
    if not set(node.texts).isdisjoint(("SAME_UPPER", "SAME_LOWER")):
        _require(not any(pads))
        return tuple(-(-side // stride) for side, stride in zip(sides, strides, strict=True))
    ceil = node.integers.get("ceil_mode") == (1,)
    found = []
    for axis, side in enumerate(sides):
        spans = dilations[axis] * (kernel[axis] - 1) + 1
        left = side + pads[axis] + pads[n + axis] - spans
        _require(left >= 0)
        found.append((left + (strides[axis] - 1) * ceil) // strides[axis] + 1)
    return tuple(found)


def _convolution(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    weights, last = takes[LAYERS[node.name]].shape, node.integers.get("channels_last") == (1,)
    n, *rest = takes[0].shape
    channels, sides = (rest[-1], rest[:-1]) if last else (rest[0], rest[1:])
    (group,), kernel = node.integers.get("group", (1,)), weights[2:]
    _require(node.integers.get("kernel_shape", kernel) == kernel and min(weights) >= 1)
    _require(channels == weights[1] * group and weights[0] % group == 0)
    biases = takes[2:3] if node.op_type == "Conv" else takes[8:]
    _require(all(one.shape in ((), weights[:1]) for one in biases))
    left = _window(node, tuple(sides), kernel)
    return [Value((n, *left, weights[0]) if last else (n, weights[0], *left))]


def _pool(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    n, *rest = takes[0].shape
    kernel = node.integers.get("kernel_shape", ())
    if node.op_type == "NhwcMaxPool":
        return [Value((n, *_window(node, tuple(rest[:-1]), kernel), rest[-1]))]
    return [Value((n, rest[0], *_window(node, tuple(rest[1:]), kernel)))]


def _to_space(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    (n, channels, *sides), (block,) = takes[0].shape, node.integers.get("blocksize", (0,))
    _require(len(sides) == 2 and block >= 1 and channels % block**2 == 0)
    return [Value((n, channels // block**2, *(side * block for side in sides)))]


def _to_depth(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    (n, channels, *sides), (block,) = takes[0].shape, node.integers.get("blocksize", (0,))
    _require(len(sides) == 2 and block >= 1 and not any(side % block for side in sides))
    return [Value((n, channels * block**2, *(side // block for side in sides)))]


def _added_up(_: Node, takes: Sequence[Value]) -> Sequence[Value]:
    shape, (axis,) = takes[0].shape, _numbers(takes[1])
    _require(bool(shape[_axis(axis, len(shape))] % N_IMAGES), MIXES)
    return [Value(shape)]


def _resized(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    shape = takes[0].shape
    _require("axes" not in node.integers and max(shape[2:], default=ALL) < ALL)
    if len(takes) > 3 and takes[3] is not ABSENT:
        sizes = _numbers(takes[3])
        _require(len(sizes) == len(shape) and sizes[:2] == shape[:2])
        return [Value(sizes)]
    scales = takes[2].factors
    _require(len(scales) == len(shape) > 2 and scales[:2] == (1, 1))
    _require(all(0 < scale < MOST_TIMES for scale in scales))
    # in float32, and down, as onnxruntime does
    sides = np.array(shape[2:], np.float32) * np.array(scales[2:], np.float32)
    return [Value((*shape[:2], *map(int, sides.tolist())))]


def _global_pool(_: Node, takes: Sequence[Value]) -> Sequence[Value]:
    shape = takes[0].shape
    return [Value(shape[:2] + (1,) * (len(shape) - 2))]


def _linear(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    (n, n_in), weights = takes[0].shape, takes[LAYERS[node.name]].shape
    taken, given = weights[::-1] if node.integers.get("transB") == (1,) else weights
    bias = takes[2 if node.op_type == "Gemm" else 6 :][:1] or [ABSENT]
    _require(n_in == taken and broadcast(((n, given), bias[0].shape)) == (n, given))
    return [Value((n, given))]


def _product_of_matrices(_: Node, takes: Sequence[Value]) -> Sequence[Value]:
    one, other = takes[0].shape, takes[1].shape
    _require(len(one) >= 2 and len(other) >= 2 and one[-1] == other[-2])
    return [Value((*broadcast((one[:-2], other[:-2])), one[-2], other[-1]))]


def _flatten(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    shape, (axis,) = takes[0].shape, node.integers.get("axis", (1,))
    axis = axis if axis == len(shape) else _axis(axis, len(shape))
    return [Value((math.prod(shape[:axis]), math.prod(shape[axis:])))]


def _reshape(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    shape, wanted = takes[0].shape, list(_numbers(takes[1]))
    if node.integers.get("allowzero") != (1,):
        wanted = [shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    n, known = math.prod(shape), math.prod(size for size in wanted if size != -1)
    if -1 in wanted:
        _require(known > 0 and n % known == 0)
        wanted[wanted.index(-1)] = n // known
    _require(min(wanted, default=1) >= 0 and math.prod(wanted) == n)
    return [Value(tuple(wanted), takes[0].numbers)]


def _transpose(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    shape = takes[0].shape
    order = node.integers.get("perm", tuple(range(len(shape)))[::-1])
    _require(sorted(order) == list(range(len(shape))))
    return [Value(tuple(shape[axis] for axis in order))]


def _squeeze(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    shape, axes = takes[0].shape, _listed(node, takes, 1, "axes")
    if axes is None:
        if not all(size in INT64 for size in shape):  # of one image that axis would go, too
            raise UnknownSizeError
        left = tuple(size for size in shape if size != 1)
    else:
        gone = {_axis(axis, len(shape)) for axis in axes}
        _require(all(shape[axis] == 1 for axis in gone))
        left = tuple(size for axis, size in enumerate(shape) if axis not in gone)
    return [Value(left, takes[0].numbers)]


def _unsqueeze(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    listed, sizes = _listed(node, takes, 1, "axes") or (), list(takes[0].shape)
    axes = {_axis(axis, len(sizes) + len(listed)) for axis in listed}
    _require(len(axes) == len(listed))
    for axis in sorted(axes):
        sizes.insert(axis, 1)
    return [Value(tuple(sizes), takes[0].numbers)]


def _concat(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    first, (given,) = takes[0].shape, node.integers.get("axis", (1,))
    axis = _axis(given, len(first))
    others = {(*one.shape[:axis], *one.shape[axis + 1 :]) for one in takes}
    _require(len(others) == 1 and all(len(one.shape) == len(first) for one in takes))
    size = sum(one.shape[axis] for one in takes)
    known = [one.numbers for one in takes]
    joined = tuple(n for numbers in known if numbers is not None for n in numbers)
    whole = len(first) == 1 and None not in known and size <= MAX_NUMBERS
    return [Value((*first[:axis], size, *first[axis + 1 :]), joined if whole else None)]


def _split(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    shape, (given,), n = takes[0].shape, node.integers.get("axis", (0,)), len(node.outputs)
    axis = _axis(given, len(shape))
    sizes = _listed(node, takes, 1, "split")
    # onnxruntime ends its process where these differ
    _require(node.integers.get("num_outputs", (n,)) == (n,))
    if sizes is None:
        size = -(-shape[axis] // n)
        sizes = (*(size,) * (n - 1), shape[axis] - size * (n - 1))
    _require(len(sizes) == n and min(sizes) >= 0 and sum(sizes) == shape[axis])
    return [Value((*shape[:axis], size, *shape[axis + 1 :])) for size in sizes]


def _slice(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    sizes, numbers = list(takes[0].shape), takes[0].numbers
    starts, ends = (_listed(node, takes, i, key) or () for i, key in ((1, "starts"), (2, "ends")))
    axes = _listed(node, takes, 3, "axes") or tuple(range(len(starts)))
    steps = _listed(node, takes, 4, "steps") or (1,) * len(starts)
    _require(len(starts) == len(ends) == len(axes) == len(steps) and 0 not in steps)
    for start, end, given, step in zip(starts, ends, axes, steps, strict=True):
        axis = _axis(given, len(sizes))
        if sizes[axis] not in INT64:  # of the images all are taken
            _require(start == 0 and step == 1 and end >= ALL, MIXES)
            continue
        cut = slice(start, end, step)
        numbers = numbers[cut] if numbers is not None and len(takes[0].shape) == 1 else None
        sizes[axis] = len(range(*cut.indices(sizes[axis])))
    return [Value(tuple(sizes), numbers)]


def _gather(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    (shape, numbers), places = (takes[0].shape, takes[0].numbers), takes[1]
    (given,) = node.integers.get("axis", (0,))
    axis = _axis(given, len(shape))
    found = None
    if numbers is not None and len(shape) == 1 and places.numbers is not None:
        _require(all(-len(numbers) <= place < len(numbers) for place in places.numbers))
        found = tuple(numbers[place] for place in places.numbers)
    return [Value((*shape[:axis], *places.shape, *shape[axis + 1 :]), found)]


def _gather_nd(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    shape, places, (n,) = takes[0].shape, takes[1].shape, node.integers.get("batch_dims", (0,))
    _require(n + places[-1] <= len(shape))
    return [Value((*places[:-1], *shape[n + places[-1] :]))]


def _pad(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    sizes, pads = list(takes[0].shape), _listed(node, takes, 1, "pads") or ()
    axes = _listed(node, takes, 3, "axes") or tuple(range(len(sizes)))
    _require(len(pads) == 2 * len(axes))
    for given, before, after in zip(axes, pads, pads[len(axes) :], strict=False):
        sizes[_axis(given, len(sizes))] += before + after
    return [Value(tuple(sizes))]


def _expand(_: Node, takes: Sequence[Value]) -> Sequence[Value]:
    return [Value(broadcast((takes[0].shape, _numbers(takes[1]))))]


def _filled(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    shape, filling = _numbers(takes[0]), node.tensors.get("value")
    numbers = filling.integers() if filling is not None else ()
    few = len(shape) <= 1 and math.prod(shape) <= MAX_NUMBERS and len(numbers) == 1
    return [Value(shape, numbers * math.prod(shape) if few else None)]


def _range(_: Node, takes: Sequence[Value]) -> Sequence[Value]:
    (start,), (end,), (step,) = map(_numbers, takes)
    _require(step != 0)
    if not (start in INT64 and step in INT64 and (end in INT64 or (start, step) == (0, 1))):
        raise UnknownSizeError
    n = max(0, -((start - end) // step))
    return [Value((n,), tuple(range(start, end, step)) if n <= MAX_NUMBERS else None)]


def _shape(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    ends = (node.integers.get(key, (None,))[0] for key in ("start", "end"))
    sizes = takes[0].shape[slice(*ends)]
    return [Value((len(sizes),), sizes)]


def _reduced(node: Node, takes: Sequence[Value]) -> Sequence[Value]:
    shape, axes = takes[0].shape, _listed(node, takes, 1, "axes")
    gone = {_axis(axis, len(shape)) for axis in axes or range(len(shape))}
    if node.integers.get("keepdims", (1,)) == (1,):
        return [Value(tuple(1 if axis in gone else size for axis, size in enumerate(shape)))]
    return [Value(tuple(size for axis, size in enumerate(shape) if axis not in gone))]


def _constant(node: Node, _: Sequence[Value]) -> Sequence[Value]:
    if (tensor := node.tensors.get("value")) is not None:
        return [Value(tensor.dims, tensor.integers() or None)]
    if "value_int" in node.integers:
        return [Value((), node.integers["value_int"])]
    if (numbers := node.integers.get("value_ints")) and len(numbers) <= MAX_NUMBERS:
        return [Value((len(numbers),), numbers)]
    _require("value_float" in node.integers)
    return [Value(())]


REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
RULES: dict[str, Rule] = {
    **dict.fromkeys(("AveragePool", "MaxPool", "com.microsoft.NhwcMaxPool"), _pool),
    **dict.fromkeys(
        (
            "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max",
            "Min", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where",
        ),
        _together,
    ),
    **dict.fromkeys(("Cast", "Identity"), _copied),
    **dict.fromkeys(("Conv", "com.microsoft.QLinearConv"), _convolution),
    **dict.fromkeys(("Gemm", "com.microsoft.QGemm"), _linear),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    **dict.fromkeys(REDUCTIONS, _reduced),
    **dict.fromkeys(
        (
            "Abs", "BatchNormalization", "Ceil", "Celu", "Clip", "Cos",
            "DequantizeLinear", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish",
            "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax",
            "Mish", "Neg", "Not", "QuantizeLinear", "Reciprocal", "Relu", "Round", "ScatterND",
            "Selu", "Sigmoid", "Sign", "Sin", "Softmax", "Softplus", "Softsign", "Sqrt", "Tanh",
            "ThresholdedRelu",
        ),
        _same,
    ),
    "Concat": _concat, "Constant": _constant, "ConstantOfShape": _filled, "CumSum": _added_up,
    "DepthToSpace": _to_space, "Expand": _expand,
    "Dropout": _dropout, "Flatten": _flatten, "Gather": _gather, "GatherND": _gather_nd,
    "MatMul": _product_of_matrices, "Pad": _pad, "Range": _range, "Reshape": _reshape,
    "Resize": _resized,
    "Shape": _shape, "Slice": _slice, "SpaceToDepth": _to_depth, "Split": _split,
    "Squeeze": _squeeze, "Transpose": _transpose, "Unsqueeze": _unsqueeze,
}  # fmt: skip
# where each layer's weights stand among its inputs
LAYERS = {
    "Conv": 1, "Gemm": 1, "MatMul": 1, "com.microsoft.QLinearConv": 3, "com.microsoft.QGemm": 3,
}  # fmt: skip
WINDOWS = {  # that slide over an image
    "AveragePool", "Conv", "MaxPool", "com.microsoft.NhwcMaxPool", "com.microsoft.QLinearConv",
}  # fmt: skip
# inputs on which a shape rests: no picture may decide them
SIZES = {
    **dict.fromkeys(("ConstantOfShape",), (0,)),
    **dict.fromkeys(
        (*REDUCTIONS, "Expand", "Reshape", "Split", "Squeeze", "Unsqueeze"), (1,)
    ),
    "CumSum": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Resize": (2, 3),
    "Slice": (1, 2, 3, 4),
}  # fmt: skip
