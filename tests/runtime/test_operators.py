"""Shapes, memory and work of one image follow from a graph as onnxruntime finds them."""

from functools import cache
from pathlib import Path

import made
import numpy as np
import onnx
import onnxruntime
import pytest
import tiny

from convnet_edge.runtime import Classifier, admission, selftest
from convnet_edge.runtime.model_file import open_model, read_graph
from convnet_edge.runtime.operators import follow, rules

SHIPPED = sorted((Path(__file__).parents[2] / "exported").glob("fashion-mnist*.onnx"))
draw = made.draw
CONV = "<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"
HEAD = """means = GlobalAveragePool (last)
    flat = Flatten (means)
    logits = Gemm <transB = 1> (flat, linear)"""
LINEAR = {"linear": draw(3, 4)}
STEM = {"stem": draw(4, 1, 3, 3), **LINEAR}
NETWORKS = {
    "residual block": (
        f"""first = Conv {CONV} (images, stem)
        inner = Conv {CONV} (first, second)
        sum = Add (inner, first)
        last = Relu (sum) {HEAD}""",
        {"second": draw(4, 4, 3, 3, seed=1), **STEM},
    ),
    "hard swish, depthwise and by twos": (
        f"""first = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (images, stem)
        active = HardSwish (first)
        last = Conv <kernel_shape = [3, 3], pads = [2, 2, 2, 2], dilations = [2, 2], group = 4>
            (active, depthwise) {HEAD}""",
        {"depthwise": draw(4, 1, 3, 3, seed=1), **STEM},
    ),
    "squeeze and excite": (
        f"""first = Conv {CONV} (images, stem)
        squeezed = ReduceMean <keepdims = 1> (first, axes)
        few = Conv <kernel_shape = [1, 1]> (squeezed, down)
        relu = Relu (few)
        many = Conv <kernel_shape = [1, 1]> (relu, up)
        share = HardSigmoid (many)
        last = Mul (share, first) {HEAD}""",
        {"axes": [2, 3], "down": draw(2, 4, 1, 1), "up": draw(4, 2, 1, 1, seed=1), **STEM},
    ),
    "concat, split, pools": (
        f"""first = Conv {CONV} (images, stem)
        one, two = Split <axis = 1, num_outputs = 2> (first)
        large = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (one)
        mean = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (two)
        last = Concat <axis = 1> (large, mean) {HEAD}""",
        STEM,
    ),
    "of other makers": (
        """first = Conv <kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER">
            (images, stem)
        bent = PRelu (first, slopes)
        large = Conv <strides = [2, 2], auto_pad = "SAME_LOWER"> (bent, second)
        even = InstanceNormalization (large, gains, shifts)
        above = Max (even, zero, tenth)
        below = Min (above, ten)
        grown = Exp (below)
        less = Neg (grown)
        last = Mish (less)
        brightest = GlobalMaxPool (last)
        sum = ReduceSum <keepdims = 1> (last, axes)
        most = ReduceMax <keepdims = 1> (last, axes)
        all = Sum (brightest, sum, most)
        flat = Flatten (all)
        scores = Gemm <transB = 1> (flat, linear)
        logits = LogSoftmax <axis = 1> (scores)""",
        {
            "second": draw(4, 4, 3, 3, seed=1), "slopes": draw(4, 1, 1, seed=3),
            "gains": np.ones(4, np.float32), "axes": [2, 3], "shifts": draw(4, seed=4),
            "zero": np.float32(0), "tenth": np.float32(0.1), "ten": np.float32(10), **STEM,
        },
    ),
    "attention": (
        """patches = Conv <kernel_shape = [2, 2], strides = [2, 2]> (images, stem)
        size = Shape <start = 0, end = 1> (images)
        wanted = Concat <axis = 0> (size, rest)
        rows = Reshape (patches, wanted)
        seen = Transpose <perm = [0, 2, 1]> (rows)
        spread = Concat <axis = 0> (size, one_token)
        tokens = Expand (token, spread)
        all = Concat <axis = 1> (tokens, seen)
        normal = LayerNormalization (all, gains)
        projected = MatMul (normal, query)
        turned = Transpose <perm = [0, 2, 1]> (normal)
        scores = MatMul (projected, turned)
        shares = Softmax <axis = -1> (scores)
        mixed = MatMul (shares, normal)
        cut = Slice (mixed, start, end, axis)
        chosen = Squeeze (cut, axis)
        logits = Gemm <transB = 1> (chosen, linear)""",
        {
            "stem": draw(4, 1, 2, 2), "rest": [4, -1], "one_token": [1, 1], "query": draw(4, 4),
            "token": draw(1, 1, 4, seed=2), "gains": np.ones(4, np.float32), "start": [0],
            "end": [1], "axis": [1], **LINEAR,
        },
    ),
    "windows and masks": (
        f"""size = Shape <start = 0, end = 1> (images)
        first = Conv {CONV} (images, stem)
        padded = Pad <mode = "constant"> (first, pads)
        windows = Reshape (padded, cut)
        ordered = Transpose <perm = [0, 2, 4, 1, 3, 5]> (windows)
        rows = Reshape (ordered, window)
        mask = ConstantOfShape (square)
        drawn = ScatterND (mask, places, ones)
        free = Equal (drawn, zero)
        taken = Not (free)
        weights = Where (taken, small, zero)
        n = Squeeze (size)
        numbers = Range (begin, n, step)
        shown = Gather <axis = 0> (images, numbers)
        brightest = ReduceL2 <keepdims = 1> (shown, all_axes)
        scored = Add (rows, weights)
        last = Reshape (scored, back)
        means = ReduceMean <keepdims = 0> (last, both)
        light = Reshape (brightest, column)
        lit = Div (means, light)
        logits = Gemm <transB = 1> (lit, linear)""",
        {
            "pads": [0, 0, 0, 0, 0, 0, 2, 2], "cut": [-1, 4, 2, 5, 2, 5], "window": [-1, 4, 25],
            "square": [4, 25], "places": [[1], [3]], "ones": np.ones((2, 25), np.float32),
            "zero": np.float32(0), "small": np.float32(0.1), "begin": 0, "step": 1,
            "all_axes": [1, 2, 3], "back": [-1, 4, 4, 25], "both": [2, 3], "column": [-1, 1],
            **STEM,
        },
    ),
    "waves, comparisons and blocks": (
        f"""first = Conv {CONV} (images, stem)
        wide = DepthToSpace <blocksize = 2, mode = "CRD"> (first)
        deep = SpaceToDepth <blocksize = 2> (wide)
        n = Shape <start = 0, end = 1> (images)
        size = Concat <axis = 0> (n, larger)
        grown = Resize <mode = "linear"> (deep, , , size)
        larger_still = Resize <mode = "nearest", nearest_mode = "floor"> (grown, , scales)
        waves = Sin (larger_still)
        summed = CumSum <reverse = 1> (larger_still, second)
        others = Cos (summed)
        above = Greater (waves, others)
        below = LessOrEqual (waves, half)
        small = Less (others, half)
        large = GreaterOrEqual (others, half)
        never = And (small, large)
        either = Or (above, never)
        all = And (either, below)
        rounded = Round (waves)
        low = Floor (waves)
        high = Ceil (waves)
        sign = Sign (others)
        bent = Celu (sign)
        cut = ThresholdedRelu (bent)
        steps = Sum (rounded, low, high, cut)
        squares = Mul (others, others)
        more = Add (squares, half)
        logs = Log (more)
        last = Where (all, logs, steps)
        m0 = ReduceL1 <keepdims = 0> (last, axes)
        m1 = ReduceMin <keepdims = 0> (last, axes)
        m2 = ReduceSumSquare <keepdims = 0> (last, axes)
        m3 = ReduceLogSumExp <keepdims = 0> (last, axes)
        m4 = ReduceProd <keepdims = 0> (sign, axes)
        all_of_them = Sum (m0, m1, m2, m3, m4)
        flat = Mul (all_of_them, hundredth)
        logits = Gemm <transB = 1> (flat, linear)""",
        {"half": np.float32(0.5), "hundredth": np.float32(0.01), "axes": [2, 3], "second": 1,
         "larger": [4, 10, 9], "scales": np.float32([1, 1, 1.25, 0.75]),
         **STEM},
    ),
}  # fmt: skip


@cache
def files():
    return {
        **{name: made.sealed(*network) for name, network in NETWORKS.items()},
        "tiny": tiny.grey(),
        "uint8": tiny.grey_uint8(),
        **{path.name: path.read_bytes() for path in SHIPPED},
    }


@pytest.mark.parametrize("name", [*NETWORKS, "tiny", "uint8", *(path.name for path in SHIPPED)])
def test_shapes_and_sizes_follow_as_onnxruntime_finds_them(name):
    file = open_model(files()[name])
    walk = follow._Walk(file)
    for place, node in enumerate(file.nodes):
        walk.step(place, node)
    proto, options = onnx.load_from_string(file.data), onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    names = [one for node in file.nodes for one in node.outputs]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=one) for one in names)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    for n in (1, 3):
        images = np.zeros((n, *file.contract.document["input"]["shape"]))
        given = {"images": images.astype(file.contract.input_dtype)}
        for one, found in zip(names, session.run(names, given), strict=True):
            assert at(walk.values[one].shape, n) == found.shape, one
            if walk.values[one].numbers is not None:
                assert at(walk.values[one].numbers, n) == tuple(found.ravel()), one


def at(sizes, n):
    """Return sizes for `n` images."""
    return tuple(n * (x // rules.N_IMAGES) if x not in rules.INT64 else x for x in sizes)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_today_are_admitted_without_belief_and_proved(name):
    file = open_model(files()[name])
    assert admission.admit(file).believed is None
    checks = selftest.run_selftest(Classifier(file))
    assert all(check.passed for check in checks), checks


def test_work_and_memory_are_those_of_a_slow_count():
    """Of the residual block: three results at once of 8 x 8 in 16 channels, 4 of which it uses."""
    found = open_model(files()["residual block"]).contract.cost
    assert found.n_multiplications == 8 * 8 * 4 * (9 + 9 * 4) + 4 * 3
    assert found.peak_bytes == 4 * 3 * (16 * 8 * 8)
    assert found.operators == {
        "Add": 1, "Conv": 2, "Flatten": 1, "Gemm": 1, "GlobalAveragePool": 1, "Relu": 1,
    }  # fmt: skip
    assert open_model(files()["tiny"]).n_multiplications == 6 * 6 * 4 * 9 + 36 * 3


def test_sizes_that_grow_with_the_images_in_another_way_are_not_taken_for_any():
    a, b = rules.N_IMAGES, 2 * rules.N_IMAGES
    find = rules.ARITHMETIC
    assert (find["Add"](a, b), find["Add"](a, 1), find["Add"](a, 0)) == (3 * a, None, a)
    assert (find["Sub"](b, a), find["Mul"](a, b), find["Mul"](a, 3)) == (a, None, 3 * a)
    assert (find["Div"](b, 2), find["Div"](a, 2), find["Div"](5, a)) == (a, None, None)
    assert (find["Equal"](a, -1), find["Equal"](a, 7), find["Equal"](a, a)) == (0, None, 1)
    assert rules._is_size(a) and not rules._is_size(-a) and not rules._is_size(2**63)
    assert not rules._is_size(2**63 * a)


@pytest.mark.parametrize(("scale", "side"), [(1.3, 13), (1.29, 12), (0.05, None), (1e6, None)])
def test_sides_grow_as_onnxruntime_multiplies_them_in_float32(scale, side):
    image = rules.Value((rules.N_IMAGES, 4, 10, 10))
    scales = rules.Value((4,), factors=tuple(np.float32([1, 1, scale, 1]).tolist()))
    node = open_model(files()["tiny"]).nodes[0]
    if scale > rules.MOST_TIMES:
        with pytest.raises(rules.MisfitError):
            rules._resized(node, [image, rules.ABSENT, scales])
        return
    (found,) = rules._resized(node, [image, rules.ABSENT, scales])
    assert found.shape == (rules.N_IMAGES, 4, side or 0, 10)


def node_of(body, arrays):
    """Return the first node of a body, as a file holds it."""
    return read_graph(made.graph(body, arrays).SerializeToString()).nodes[0]


GROWN = """last = Resize <{}> (images, , , sizes) flat = Flatten (last)
    logits = Gemm <transB = 1> (flat, linear)"""


@pytest.mark.parametrize(
    ("attributes", "shape", "sizes"),
    [
        ("axes = [1, 0, 2, 3]", (rules.N_IMAGES, 4, 8, 8), (rules.N_IMAGES, 4, 9, 9)),
        ('mode = "linear"', (rules.N_IMAGES, 4, 8, 8), (2 * rules.N_IMAGES, 4, 9, 9)),
        ('mode = "linear"', (4, 4, rules.N_IMAGES << 64, 8), None),
    ],
)
def test_resize_of_anything_but_an_image_s_sides_is_refused(attributes, shape, sizes):
    node = node_of(GROWN.format(attributes), {"sizes": [1, 1, 9, 9], "linear": draw(3, 81)})
    wanted = [rules.Value((4,), sizes)] if sizes else []
    scales = rules.Value((4,), factors=(1, 1, 2, 2))
    with pytest.raises(rules.MisfitError):
        rules._resized(node, [rules.Value(shape), rules.ABSENT, scales, *wanted])


@pytest.mark.parametrize(("axis", "is_refused"), [(0, True), (-4, True), (1, False), (-1, False)])
def test_sums_over_the_images_are_refused(axis, is_refused):
    node, shape = open_model(files()["tiny"]).nodes[0], (rules.N_IMAGES, 4, 8, 8)
    takes = [rules.Value(shape), rules.Value((1,), (axis,))]
    if not is_refused:
        assert rules._added_up(node, takes) == [rules.Value(shape)]
        return
    with pytest.raises(rules.MisfitError, match="may mix images"):
        rules._added_up(node, takes)
