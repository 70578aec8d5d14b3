"""Files that are none of ours are refused before onnxruntime opens them."""

from functools import partial

import faults
import numpy as np
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper

from convnet_edge.runtime import Classifier, admission, contract, session
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.model_file import open_model
from convnet_edge.sealing import goldens

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


def one_weight_many_times(proto):
    """Let each operation unpack the same small weight anew, as onnxruntime does on opening."""
    add_weight(proto, "packed", np.zeros(1 << 20, np.int8))
    add_weight(proto, "scale", np.float32(1))
    for i in range(70):
        node = helper.make_node("DequantizeLinear", ["packed", "scale"], [f"unpacked{i}"])
        proto.graph.node.insert(0, node)


def weight_unpacked_by_the_image(proto):
    add_weight(proto, "packed", np.zeros(8, np.int8))
    proto.graph.node.insert(0, helper.make_node("DequantizeLinear", ["packed", "images"], ["w"]))


def side_branch(proto):
    proto.graph.node.append(helper.make_node("Relu", ["images"], ["kept"]))


def slice_of_the_batch(proto, *axes):
    for name, values in (("starts", [0]), ("ends", [1]), ("axes", axes)):
        add_weight(proto, name, np.array(values, np.int64))
    insert_first(proto, "Slice", "starts", "ends", "axes")


def slice_of_axes_unsaid(proto):
    add_weight(proto, "places", np.array([0], np.int64))
    insert_first(proto, "Slice", "places", "places")


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
    for i in range(101):
        insert_first(proto, "Relu", output=f"x{i}")


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
        (filled_memory, "'Expand'"),
        (tensor_in_an_attribute, "tensor or a graph of its own"),
        (lambda p: attributes(p, CONV, "pads", [30_000] * 4), "pads [30000, 30000, 30000, 30000]"),
        (lambda p: attributes(p, CONV, "pads", [30_000] * 4, [0] * 4), "'pads' described twice"),
        (lambda p: attributes(p, GEMM, "transA", 1), "transA [1]"),
        (lambda p: attributes(p, CONV, "auto_pad", "SAME_UPPER"), "setting 'SAME_UPPER'"),
        (lambda p: p.graph.node[2].output.append("places"), "MaxPool has 2 results"),
        (product_of_weights, "does not take the result of the one before"),
        (side_branch, "does not take the result of the one before"),
        (two_results, "more than one result"),
        (weight_unpacked_by_the_image, "more than one result"),
        (lambda p: first_layer(p, 40_000, 1, 1, 1), "one image may take 10,240,000 bytes"),
        (lambda p: first_layer(p, 4, 1, 9, 9), "does not fit"),
        (weight_of_a_shape_alone, "not as many as their shape says"),
        (weight_of_another_length, "not as many as their shape says"),
        (lambda p: add_weight(p, "odd", np.zeros(3, np.complex64)), "of type 14"),
        (one_weight_many_times, "the layers take 73,400,"),
        (many_parts_beside_the_weights, "bytes beside the weights"),
        (lambda p: slice_of_the_batch(p, 0), "Slice may mix images"),
        (lambda p: slice_of_the_batch(p, -4), "Slice may mix images"),
        (slice_of_axes_unsaid, "Slice may mix images"),
        (reshaped_to_more, "Reshape does not fit"),
        (many_operations, "operations, more than 100"),
        (lambda p: p.functions.add(name="f", domain="com.example"), "functions of its own"),
        (lambda p: p.graph.sparse_initializer.add(dims=[1 << 40]), "sparse weights"),
        (larger_input, "the graph takes (batch, 1, 1099511627776, 8)"),
        (lambda p: p.graph.input[0].type.tensor_type.shape.dim.add(dim_value=1),
         "the graph takes (batch, 1, 8, 8, 1)"),
        (partial(input_again, name="more"), "2 inputs and 1 outputs"),
        (input_again, "'images' described twice"),
        (reshaped_to_one_row, "may mix images"),
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


def images_of(side, n_goldens, channels=1):
    """Return the model for larger images, which only its first operation can take."""

    def enlarge(document):
        shape = (n_goldens, side, side, 3)[: 3 + (channels == 3)]
        blank, logits = np.zeros(shape, np.uint8), [[0.0] * 3] * n_goldens
        proof = {"images": contract.encode_pixels(blank), "logits": logits}
        document["goldens"].update(proof, indices=[0] * n_goldens)
        document["input"]["shape"] = [channels, side, side]
        document["preprocessing"].update(size=[side, side], channels=channels, samples=[])

    def resize(proto):
        _, *dims = proto.graph.input[0].type.tensor_type.shape.dim
        for dim, size in zip(dims, (channels, side, side), strict=True):
            dim.dim_value = size

    return faults.change_sealed(faults.change_document(MODEL, enlarge), resize)


@pytest.mark.parametrize(
    ("side", "n_goldens", "change", "named"),
    [
        (200, 1, partial(insert_first, op_type="MaxPool", kernel_shape=[64, 64]),
         "one image may take 77,"),
        (210, 1, lambda p: first_layer(p, 2, 1, 64, 64), "one image may take 100,"),
        (100, 1, lambda p: first_layer(p, 512, 1, 64, 64), "one image may take 18"),
        (160, 30, lambda p: first_layer(p, 1, 1, 64, 64), "the golden images may take 1,2"),
        (200, 256, lambda p: first_layer(p, 1, 1, 1, 1), "the golden images may take 160,"),
    ],
)  # fmt: skip
def test_images_that_take_long_or_much_memory_are_refused(side, n_goldens, change, named):
    model = faults.change_sealed(images_of(side, n_goldens), change)
    with pytest.raises(InputError) as caught:
        Classifier(model)
    assert named in caught.value.found


WIDEST = (28, 1, (128, 256, 512), 16)
TUTORIALS = (256, 3, (32, 64, 128), goldens.MAX_PIXELS // 256**2)


@pytest.mark.parametrize(
    ("kernel", "network"), [*((kernel, WIDEST) for kernel in (1, 3, 5, 9)), (3, TUTORIALS)], ids=str
)
def test_networks_that_train_makes_are_admitted(kernel, network):
    full_side, n_channels, (first, second, hidden), n_goldens = network

    def widen(proto):
        del proto.graph.node[:], proto.graph.initializer[:], proto.graph.value_info[:]
        side, current = full_side, "images"
        for i, (n_in, n_out) in enumerate(((n_channels, first), (first, second))):
            add_weight(proto, f"w{i}", np.zeros((n_out, n_in, kernel, kernel), np.float32))
            pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
            proto.graph.node.append(helper.make_node("Conv", [current, f"w{i}"], [f"x{i}"]))
            proto.graph.node.append(helper.make_node("Relu", [f"x{i}"], [f"z{i}"]))
            proto.graph.node.append(helper.make_node("MaxPool", [f"z{i}"], [f"y{i}"], **pool))
            side, current = (side - kernel + 1) // 2, f"y{i}"
        proto.graph.node.append(helper.make_node("Flatten", [current], ["row"]))
        add_weight(proto, "w2", np.zeros((hidden, second * side**2), np.float32))
        proto.graph.node.append(helper.make_node("Gemm", ["row", "w2"], ["logits"], transB=1))

    model = faults.change_sealed(images_of(full_side, n_goldens, n_channels), widen)
    admission.admit(open_model(model))


@pytest.mark.parametrize("stated", [{"dtype": "uint8"}, {"name": "pixels"}])
def test_contract_that_describes_another_graph_is_refused(stated):
    with pytest.raises(InputError, match="the contract says"):
        Classifier(faults.change_document(MODEL, lambda d: d["input"].update(stated)))
