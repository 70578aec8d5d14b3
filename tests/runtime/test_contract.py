import copy
import json

import faults
import numpy as np
import onnx
import pytest
import tiny

from convnet_edge.runtime import contract
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.model_file import open_model
from convnet_edge.runtime.protobuf import length_field

MODEL = tiny.grey()
GRAPH = faults.unsealed(MODEL)
DOCUMENT = open_model(MODEL).contract.document


def sealed_as(text):
    """Return the graph with any text where the contract should be."""
    entry = length_field(1, contract.KEY.encode()) + length_field(2, text)
    return GRAPH + length_field(contract.METADATA_FIELD, entry)


def test_seal_then_open_gives_the_document_back():
    file = open_model(contract.seal(GRAPH, DOCUMENT))
    assert file.contract.document == {**DOCUMENT, "digest": file.contract.document["digest"]}
    assert file.graph_sha256 == file.contract.graph_sha256
    assert file.contract_sha256 == file.contract.contract_sha256
    assert faults.unsealed(file.data) == GRAPH


def test_seal_twice_gives_the_same_bytes():
    assert contract.seal(GRAPH, DOCUMENT) == contract.seal(GRAPH, DOCUMENT) == MODEL
    onnx.checker.check_model(MODEL, full_check=True)


def test_each_digest_sees_its_own_bytes_alone():
    weights = tiny.weights()["linear.weight"].tobytes()
    changed = open_model(MODEL.replace(weights, bytes(len(weights))))
    assert changed.graph_sha256 != changed.contract.graph_sha256
    assert changed.contract_sha256 == changed.contract.contract_sha256
    renamed = open_model(MODEL.replace(b'"cross"', b'"crass"'))
    assert renamed.contract_sha256 != renamed.contract.contract_sha256
    assert renamed.graph_sha256 == renamed.contract.graph_sha256


def test_goldens_and_samples_are_unpacked():
    read = open_model(MODEL).contract
    np.testing.assert_array_equal(read.goldens.images, tiny.images(tiny.N_GOLDENS))
    assert np.abs(read.goldens.logits - tiny.logits(read.goldens.images)).max() < 1e-9
    for sample, made in zip(read.samples, tiny.pictures(), strict=True):
        assert (sample.name, sample.encoded) == (made.name, made.encoded)
        np.testing.assert_array_equal(sample.pixels, made.pixels)


def test_no_contract_and_two_are_refused():
    with pytest.raises(InputError, match="no contracts in the file"):
        open_model(GRAPH)
    with pytest.raises(InputError, match="2 contracts"):
        open_model(MODEL + sealed_as(b"{}")[len(GRAPH) :])


def broken(path, value):
    document = copy.deepcopy(DOCUMENT)
    *parents, last = path
    owner = document
    for key in parents:
        owner = owner[key]
    if value is KeyError:
        del owner[last]
    else:
        owner[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("class_labels",), ["one"]),
        (("class_labels",), [1, 2, 3]),
        (("class_labels",), KeyError),
        (("input", "shape"), [3, 8, 8]),
        (("input", "shape"), [1, 8]),
        (("input", "shape"), [1, 0, 8]),
        (("input", "shape"), [1, 10**9, 10**9]),
        (("input", "shape"), [1, 4096, 4096]),
        (("goldens", "logits"), []),
        (("goldens", "logits"), [["x"] * 3]),
        (("goldens", "images"), "AAAA"),
        (("goldens", "images"), "ä"),
        (("goldens", "images"), 7),
        (("goldens", "tolerance"), 0),
        (("goldens", "tolerance"), None),
        (("preprocessing", "samples"), None),
        (("goldens",), []),
    ],
)
def test_nonsense_inside_is_an_input_error(path, value):
    with pytest.raises(InputError, match="damaged"):
        open_model(contract.seal(GRAPH, broken(path, value)))


@pytest.mark.parametrize("text", [b"", b"nonsense", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_no_document_is_an_input_error(text):
    with pytest.raises(InputError, match="damaged"):
        open_model(sealed_as(text))


def test_absurd_size_and_another_schema_are_named():
    with pytest.raises(InputError, match="at most 4,194,304 bytes"):
        open_model(sealed_as(b'"' + b"x" * contract.MAX_CONTRACT_BYTES + b'"'))
    with pytest.raises(InputError, match="schema 99"):
        open_model(sealed_as(json.dumps({"schema": 99}).encode()))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("goldens", "logits"), [[float("nan")] * 3] * 6),
        (("input", "shape"), [1, float("inf"), 8]),
    ],
)
def test_numbers_that_are_none_are_refused(path, value):
    with pytest.raises(InputError, match="damaged"):
        open_model(sealed_as(json.dumps(broken(path, value)).encode()))


def test_an_integer_models_facts_are_those_of_the_float_one():
    made = {**DOCUMENT, "quantization": {"layout": "portable", "n_multiplications": 77}}
    file = open_model(contract.seal(GRAPH, {**made, "parameters": {"n": 99}}))
    assert (file.n_parameters, file.n_multiplications) == (99, 77)
    del made["quantization"]["n_multiplications"]
    assert open_model(contract.seal(GRAPH, made)).n_multiplications is None
