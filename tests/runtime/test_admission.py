"""Files that are none of ours are refused before onnxruntime opens them."""

from functools import partial

import faults
import made
import numpy as np
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper

from convnet_edge.runtime import Classifier, admission, session
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.model_file import open_model
from convnet_edge.sealing import goldens, seal

MODEL = tiny.grey()
CONV, FLATTEN, GEMM = 0, 3, -1  # where they stand in it


def add_weight(proto, name, values):
    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))


def insert_first(proto, op_type, *others, output="x", **about):
    """Let an operation stand between the images and whatever reads them."""
    for reader in proto.graph.node:
        reader.input[:] = [output if name == "images" else name for name in reader.input]
    node = helper.make_node(op_type, ["images", *others], [output], **about)
    proto.graph.node.insert(0, node)


def custom_operation(proto):
    insert_first(proto, "Evil", domain="com.example")
    proto.opset_import.add(domain="com.example", version=1)


def filled_memory(proto):
    add_weight(proto, "shape", [1 << 20, 1 << 20])
    insert_first(proto, "Expand", "shape")


def tensor_in_an_attribute(proto):
    tensor = TensorProto(data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    proto.graph.node[CONV].attribute.append(helper.make_attribute("value", tensor))


def attributes(proto, node, name, *values):
    made = [helper.make_attribute(name, value) for value in values]
    proto.graph.node[node].attribute.extend(made)


def product_of_weights(proto):
    add_weight(proto, "tall", np.ones((20_000, 1), np.float32))
    add_weight(proto, "wide", np.ones((1, 20_000), np.float32))
    proto.graph.node.insert(0, helper.make_node("Gemm", ["tall", "wide"], ["huge"]))


def weight_of_a_shape_alone(proto):
    proto.graph.initializer.append(TensorProto(name="w", data_type=1, dims=[1 << 20, 1 << 20]))


def weight_of_another_length(proto):
    proto.graph.initializer.append(
        TensorProto(name="w", data_type=1, dims=[2], raw_data=bytes(1 << 20))
    )


def weight_unpacked_by_the_image(proto):
    add_weight(proto, "packed", np.zeros(8, np.int8))
    proto.graph.node.insert(0, helper.make_node("DequantizeLinear", ["packed", "images"], ["w"]))


def used_before_it_is_made(proto):
    insert_first(proto, "Relu", output="late")
    proto.graph.node.append(proto.graph.node.pop(0))


def side_branch(proto):
    proto.graph.node.append(helper.make_node("Relu", ["images"], ["kept"]))


def slice_of_the_batch(proto, *axes):
    for name, values in (("starts", [0]), ("ends", [1]), ("axes", axes)):
        add_weight(proto, name, np.array(values, np.int64))
    insert_first(proto, "Slice", "starts", "ends", "axes")


def slice_of_axes_unsaid(proto):
    add_weight(proto, "places", np.array([0], np.int64))
    insert_first(proto, "Slice", "places", "places")


def slice_of_fewer_than_all(proto):
    slice_of_the_batch(proto, 0)
    proto.graph.initializer[-2].CopyFrom(numpy_helper.from_array(np.int64([7]), "ends"))


def reshaped_to_more(proto):
    add_weight(proto, "more", np.array([0, 1, 1 << 40, 8], np.int64))
    insert_first(proto, "Reshape", "more")


def many_parts_beside_the_weights(proto):
    proto.graph.quantization_annotation.add(tensor_name="x" * (6 << 20))


def two_results(proto):
    proto.graph.node[GEMM].input[2] = proto.graph.node[CONV].output[0]


def first_layer(proto, *dims):
    add_weight(proto, "channels", np.zeros(dims, np.float32))
    insert_first(proto, "Conv", "channels")


def many_operations(proto):
    many = (helper.make_node("Relu", ["images"], [f"x{i}"]) for i in range(4097))
    proto.graph.node.extend(many)


def input_again(proto, name="images"):
    proto.graph.input.add().CopyFrom(proto.graph.input[0])
    proto.graph.input[-1].name = name


def larger_input(proto):
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1 << 40


def reshaped_to_one_row(proto):
    add_weight(proto, "row", [1, -1])
    flatten = proto.graph.node[FLATTEN]
    flatten.CopyFrom(helper.make_node("Reshape", [flatten.input[0], "row"], flatten.output))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (custom_operation, "com.example.Evil"),
        (partial(insert_first, op_type="Loop", body=helper.make_graph([], "body", [], [])),
         "tensor or a graph of its own"),
        (filled_memory, "Expand does not fit"),
        (partial(insert_first, op_type="NonZero"), "'NonZero'"),
        (partial(insert_first, op_type="RandomNormalLike"), "'RandomNormalLike'"),
        (tensor_in_an_attribute, "tensor or a graph of its own"),
        (lambda p: attributes(p, CONV, "pads", [30_000] * 4), "pads [30000, 30000, 30000, 30000]"),
        (lambda p: attributes(p, CONV, "pads", [30_000] * 4, [0] * 4), "'pads' described twice"),
        (lambda p: attributes(p, GEMM, "transA", 1), "transA [1]"),
        (lambda p: attributes(p, CONV, "auto_pad", "HALF"), "setting 'HALF'"),
        (lambda p: p.graph.node[2].output.append("places"), "MaxPool has 2 results"),
        (product_of_weights, "Gemm gives 'huge', which nothing reads"),
        (side_branch, "Relu gives 'kept', which nothing reads"),
        (two_results, "Gemm does not fit"),
        (weight_unpacked_by_the_image, "DequantizeLinear gives 'w', which nothing reads"),
        (lambda p: first_layer(p, 4, 1, 9, 9), "does not fit"),
        (lambda p: first_layer(p, 4, 2, 3, 3), "Conv does not fit"),
        (used_before_it_is_made, "takes 'late', which none before it gives"),
        (lambda p: p.graph.node.append(p.graph.node[0]), "Conv gives the result 'sums' again"),
        (weight_of_a_shape_alone, "not as many as their shape says"),
        (weight_of_another_length, "not as many as their shape says"),
        (lambda p: add_weight(p, "odd", np.zeros(3, np.complex64)), "of type 14"),
        (many_parts_beside_the_weights, "bytes beside the weights"),
        (lambda p: slice_of_the_batch(p, 0), "Slice may mix images"),
        (lambda p: slice_of_the_batch(p, -4), "Slice may mix images"),
        (slice_of_axes_unsaid, "Slice may mix images"),
        (slice_of_fewer_than_all, "Slice may mix images"),
        (faults.mix_rows, "ReduceMean may mix images"),
        (reshaped_to_more, "Reshape does not fit"),
        (many_operations, "operations, more than 4,096"),
        (lambda p: p.functions.add(name="f", domain="com.example"), "functions of its own"),
        (lambda p: p.graph.sparse_initializer.add(dims=[1 << 40]), "sparse weights"),
        (larger_input, "the graph takes (batch, 1, 1099511627776, 8)"),
        (lambda p: p.graph.input[0].type.tensor_type.shape.dim.add(dim_value=1),
         "the graph takes (batch, 1, 8, 8, 1)"),
        (partial(input_again, name="more"), "2 inputs and 1 outputs"),
        (input_again, "'images' described twice"),
        (reshaped_to_one_row, "Gemm does not fit"),
        (faults.move_weights_outside, "outside the file"),
    ],
)  # fmt: skip
def test_hostile_graph_is_refused_before_onnxruntime_sees_it(monkeypatch, change, named):
    def must_not_open(*_):
        raise AssertionError("onnxruntime was asked to open it")

    monkeypatch.setattr(session, "_open", must_not_open)
    with pytest.raises(InputError) as caught:
        Classifier(faults.change_sealed(MODEL, change))
    assert named in caught.value.found


CONV1 = "first = Conv (images, stem) "
POOLED = """means = GlobalAveragePool ({}) flat = Flatten (means)
    logits = Gemm <transB = 1> (flat, linear)"""
ONE_CHANNEL = {"stem": np.zeros((1, 1, 1, 1), np.float32), "linear": np.zeros((3, 1), np.float32)}
LARGE = {
    "wide": (
        CONV1 + POOLED.format("first"),
        {"stem": np.zeros((700, 1, 1, 1), np.float32), "linear": np.zeros((3, 700), np.float32)},
        {"side": 900}, "one image may take 2,284,200,000",
    ),
    "filled": (
        """huge = Expand (one, sizes) most = ReduceMean <keepdims = 0> (huge, axes)
        means = GlobalAveragePool (images) flat = Flatten (means)
        raw = Gemm <transB = 1> (flat, linear) logits = Add (raw, most)""",
        {"one": np.float32(1), "sizes": [1 << 20, 1 << 20], "axes": [0, 1], **ONE_CHANNEL},
        {}, "one image may take 4,398,046,",
    ),
    "product of weights": (
        """huge = MatMul (tall, wide) most = ReduceMean <keepdims = 0> (huge, axes)
        means = GlobalAveragePool (images) flat = Flatten (means)
        raw = Gemm <transB = 1> (flat, linear) logits = Add (raw, most)""",
        {"tall": np.ones((30_000, 1), np.float32), "wide": np.ones((1, 30_000), np.float32),
         "axes": [0, 1], **ONE_CHANNEL},
        {}, "one image may take 3,600,",
    ),
    "many living": (
        CONV1 + " ".join(f"v{i} = Relu (first)" for i in range(600))
        + " all = Sum (" + ", ".join(f"v{i}" for i in range(600)) + ") " + POOLED.format("all"),
        ONE_CHANNEL, {"side": 1000}, "one image may take 38,464,",
    ),
    "windows": (
        CONV1 + "most = MaxPool <kernel_shape = [900, 900]> (first) " + POOLED.format("most"),
        ONE_CHANNEL, {"side": 1000}, "one image may take 8,",
    ),
    "products": (
        CONV1 + "again = Conv (first, second) " + POOLED.format("again"),
        {"stem": np.zeros((64, 1, 1, 1), np.float32), "linear": np.zeros((3, 64), np.float32),
         "second": np.zeros((64, 64, 9, 9), np.float32)},
        {"side": 600}, "one image may take 9,290,135,448 steps",
    ),
    "buffers of integers": (
        "q = QuantizeLinear (images, scale, zero) x = DequantizeLinear (q, scale, zero) "
        + "first = Conv (x, window) " + POOLED.format("first"),
        {"scale": np.float32(1), "zero": np.uint8(0), "window": np.zeros((1, 1, 64, 64), "f4"),
         "linear": np.zeros((3, 1), np.float32)},
        {"side": 500}, "one image may take 6,",
    ),
    "one weight many times": (
        " ".join(f"u{i} = DequantizeLinear (packed, scale)" for i in range(70))
        + " all = Sum (" + ", ".join(f"u{i}" for i in range(70)) + ") "
        "most = ReduceMean <keepdims = 0> (all, axes) means = GlobalAveragePool (images) "
        "flat = Flatten (means) raw = Gemm <transB = 1> (flat, linear) logits = Add (raw, most)",
        {"packed": np.zeros(1 << 20, np.int8), "scale": np.float32(1), "axes": [0], **ONE_CHANNEL},
        {}, "the layers take 73,400,",
    ),
    "memory of all golden images": (
        CONV1 + POOLED.format("first"),
        {"stem": np.zeros((40, 1, 1, 1), np.float32), "linear": np.zeros((3, 40), np.float32)},
        {"side": 500, "n_goldens": 60}, "the golden images may take 2,940,",
    ),
    "work of all golden images": (
        CONV1 + "most = MaxPool <kernel_shape = [400, 400]> (first) " + POOLED.format("most"),
        ONE_CHANNEL, {"side": 500, "n_goldens": 60}, "the golden images may take 9",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_what_takes_long_or_much_memory_is_refused_unless_that_is_wanted(name):
    body, arrays, about, named = LARGE[name]
    file = open_model(made.claimed(body, arrays, **about))
    with pytest.raises(InputError) as caught:
        admission.admit(file)
    assert named in caught.value.found
    assert "--ceiling" in caught.value.next_step
    with pytest.raises(InputError, match="the contract states"):  # nothing else is wrong with it
        admission.admit(file, ceiling=1e6)


WIDEST = (28, 1, (128, 256, 512), 16)
TUTORIALS = (256, 3, (32, 64, 128), goldens.MAX_PIXELS // 256**2)
SLOW = pytest.param(3, TUTORIALS, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("kernel", "network"), [*((kernel, WIDEST) for kernel in (1, 3, 5, 9)), SLOW], ids=str
)
def test_networks_that_train_makes_are_admitted(kernel, network):
    side, n_channels, (first, second, hidden), n_goldens = network
    body, current, arrays, left = "", "images", {}, side
    for i, (n_in, n_out) in enumerate(((n_channels, first), (first, second))):
        arrays[f"w{i}"] = np.zeros((n_out, n_in, kernel, kernel), np.float32)
        body += f"x{i} = Conv ({current}, w{i}) z{i} = Relu (x{i}) "
        body += f"y{i} = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (z{i}) "
        left, current = (left - kernel + 1) // 2, f"y{i}"
    arrays["w2"] = np.zeros((hidden, second * left**2), np.float32)
    arrays["w3"] = np.zeros((3, hidden), np.float32)
    body += f"row = Flatten ({current}) inner = Gemm <transB = 1> (row, w2) "
    body += "logits = Gemm <transB = 1> (inner, w3)"
    graph = made.graph(body, arrays, side=side, channels=n_channels)
    document = made.document(side, n_channels, n_goldens)
    file = open_model(seal.seal(graph.SerializeToString(), document))
    assert admission.admit(file).believed is None


@pytest.mark.parametrize(
    ("key", "value"), [("n_multiplications", 1403), ("peak_bytes", 4), ("operators", {"Conv": 1})]
)
def test_what_the_contract_states_has_to_be_what_the_graph_takes(key, value):
    stated = open_model(MODEL).contract.document["cost"]
    model = faults.change_document(MODEL, lambda d: d.update(cost=stated | {key: value}))
    with pytest.raises(InputError, match=f"the contract states {key}"):
        Classifier(model)


BY_CONTENT = """whole = Cast <to = 7> (images) most = ReduceMean (whole, axes)
    n = Reshape (most, row) """


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (BY_CONTENT + "made = ConstantOfShape (n) ", "ConstantOfShape takes sizes from what is in"),
        (BY_CONTENT + "made = Expand (images, n) ", "Expand takes sizes from what is in a picture"),
        (BY_CONTENT + "made = Range (n, row, row) ", "Range takes sizes from what is in a picture"),
        ("turned = Transpose <perm = [1, 2, 3, 0]> (images) made = MatMul (images, turned) ",
         "MatMul may mix images"),
        ("flat = Flatten (images) turned = Transpose (flat) made = MatMul (flat, turned) ",
         "MatMul may mix images"),
        ("made = Concat <axis = 0> (images, one) ", "Concat may mix images"),
        ("made = Dropout (images, share, on) ", "Dropout does not fit"),
        ("made, more = Split <axis = 2, num_outputs = 1> (images) ", "Split does not fit"),
        ("made = Add (images) ", "Add does not fit"),
        ("made = MaxPool <kernel_shape = [2, 2], group = 1, strides = [2]> (images) ",
         "MaxPool does not fit"),
        ("cut = Squeeze (images) made = Relu (cut) ", "the shape of 'cut', which Squeeze gives"),
        ("size = Shape (images) more = Add (size, row) made = ConstantOfShape (more) ",
         "the shape of 'made', which ConstantOfShape gives, follows from nothing known"),
        ("made = Relu (fixed) logits = Identity (made) ", "'logits' does not come from"),
    ],
)  # fmt: skip
def test_graph_whose_sizes_or_rows_do_not_follow_from_one_image_is_refused(body, named):
    arrays = {
        "axes": [1, 2, 3], "row": [-1], "one": np.zeros((1, 1, 8, 8), np.float32),
        "share": np.float32(0.5), "on": np.array(True), "fixed": np.zeros((1, 3), np.float32),
    }  # fmt: skip
    rest = "" if "logits" in body else "logits = Identity (made) "
    with pytest.raises(InputError) as caught:
        admission.admit(open_model(made.claimed(body + rest, arrays)))
    assert named in caught.value.found


@pytest.mark.parametrize("stated", [{"dtype": "uint8"}, {"name": "pixels"}])
def test_contract_that_describes_another_graph_is_refused(stated):
    with pytest.raises(InputError, match="the contract says"):
        Classifier(faults.change_document(MODEL, lambda d: d["input"].update(stated)))
