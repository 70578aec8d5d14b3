import math

import onnx
import pytest

from convnet_edge.runtime import model_file as onnxfile
from convnet_edge.runtime.errors import InputError


def test_parse_agrees_with_the_onnx_package(model_bytes):
    proto = onnx.load_from_string(model_bytes)
    file = onnxfile.parse(model_bytes)
    assert file.ir_version == proto.ir_version
    assert file.opsets == {entry.domain: entry.version for entry in proto.opset_import}
    assert [(n.op_type, list(n.inputs), list(n.outputs)) for n in file.nodes] == [
        (n.op_type, list(n.input), list(n.output)) for n in proto.graph.node
    ]
    assert {w.name: w.dims for w in file.weights} == {
        w.name: tuple(w.dims) for w in proto.graph.initializer
    }
    assert [(m.key, m.value.decode()) for m in file.metadata] == [
        (m.key, m.value) for m in proto.metadata_props
    ]
    assert file.inputs[0].shape == ("batch", 1, 28, 28)


def test_counts_follow_from_the_layers(model_bytes):
    file = onnxfile.parse(model_bytes)
    assert file.n_parameters == 225_034
    convolutions = 24 * 24 * 32 * 9 + 10 * 10 * 64 * 32 * 9  # of the pixels that reach the output
    assert file.n_multiplications == convolutions + 1600 * 128 + 128 * 10
    counts = file.op_counts()
    assert (counts["Conv"], counts["Relu"], counts["MaxPool"], counts["Gemm"]) == (2, 3, 2, 2)
    assert sum(counts.values()) == len(file.nodes)


def test_n_multiplications_without_shapes_is_unknown(model_bytes):
    proto = onnx.load_from_string(model_bytes)
    del proto.graph.value_info[:]
    assert onnxfile.parse(proto.SerializeToString()).n_multiplications is None


def test_append_metadata_is_read_back_by_onnx(graph_bytes):
    value = ("ä" * 100_000).encode()
    proto = onnx.load_from_string(onnxfile.append_metadata(graph_bytes, "key", value))
    assert {m.key: m.value for m in proto.metadata_props}["key"] == value.decode()


def test_parse_external_data_is_refused(model_bytes):
    proto = onnx.load_from_string(model_bytes)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    with pytest.raises(InputError, match="outside the file"):
        onnxfile.parse(proto.SerializeToString())


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"not a model at all",
        lambda data: b"\x89PNG\r\n\x1a\n",
        lambda data: b"\x08\x08",
        lambda data: bytes(1000),
        lambda data: b"\xff" * 100,
    ],
)
def test_parse_of_something_else_is_an_input_error(model_bytes, damage):
    with pytest.raises(InputError, match="not a readable ONNX file"):
        onnxfile.parse(damage(model_bytes))


def test_every_truncation_is_refused_or_whole(model_bytes):
    """A cut between two top-level fields is a shorter valid message; it then lacks the contract."""
    for size in [*range(64), *range(64, len(model_bytes), math.ceil(len(model_bytes) / 200))]:
        try:
            file = onnxfile.parse(model_bytes[:size])
        except InputError:
            continue
        assert not file.metadata
