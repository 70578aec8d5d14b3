import json

import numpy as np
import onnx
import pytest
from faults import unsealed

from convnet_edge.runtime import contract
from convnet_edge.runtime import model_file as onnxfile
from convnet_edge.runtime.errors import InputError


def test_seal_then_read_gives_the_document_back(graph_bytes, document):
    sealed = contract.seal(graph_bytes, document)
    read = contract.read_contract(sealed)
    assert read.document == {**document, "digest": read.document["digest"]}
    computed = contract.compute_digests(sealed, read)
    assert (computed.graph_sha256, computed.contract_sha256) == (
        read.graph_sha256,
        read.contract_sha256,
    )
    assert unsealed(sealed) == graph_bytes


def test_seal_twice_gives_the_same_bytes(graph_bytes, document):
    assert contract.seal(graph_bytes, document) == contract.seal(graph_bytes, document)


def test_compute_digests_sees_every_byte(model_bytes):
    stated = contract.read_contract(model_bytes)
    entry = next(e for e in onnxfile.parse(model_bytes).metadata if e.key == contract.KEY)
    changed = bytearray(model_bytes)
    changed[entry.start // 2] ^= 1
    assert contract.compute_digests(bytes(changed), stated).graph_sha256 != stated.graph_sha256
    renamed = model_bytes.replace(b'"Ankle Boot"', b'"Ankle Shoe"')
    assert contract.compute_digests(renamed, stated).contract_sha256 != stated.contract_sha256
    assert contract.compute_digests(renamed, stated).graph_sha256 == stated.graph_sha256


def test_contract_holds_no_path_and_no_time(document):
    text = json.dumps(document)
    assert "/home" not in text
    assert "/tmp" not in text
    assert "measured_at" not in text


def test_goldens_cover_every_class_and_the_hidden_units(model_bytes, test_set):
    read = contract.read_contract(model_bytes)
    goldens = read.goldens
    np.testing.assert_array_equal(goldens.images, test_set.images[goldens.indices])
    assert set(test_set.labels[goldens.indices]) == set(range(10))
    stated = read.document["goldens"]
    reachable = stated["n_hidden_units_any_test_image_activates"]
    assert stated["n_hidden_units_these_activate"] == reachable > 0


def test_read_contract_of_a_plain_onnx_file_says_what_is_missing(graph_bytes):
    with pytest.raises(InputError, match="no contracts in the file"):
        contract.read_contract(graph_bytes)


def test_read_contract_of_two_contracts_is_refused(model_bytes):
    twice = onnxfile.append_metadata(model_bytes, contract.KEY, b"{}")
    with pytest.raises(InputError, match="2 contracts"):
        contract.read_contract(twice)


def broken(document, path, value):
    copy = json.loads(json.dumps(document))
    *parents, last = path
    owner = copy
    for key in parents:
        owner = owner[key]
    if value is KeyError:
        del owner[last]
    else:
        owner[last] = value
    return copy


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("class_labels",), ["one"]),
        (("class_labels",), [1, 2, 3]),
        (("class_labels",), KeyError),
        (("input", "shape"), [3, 28, 28]),
        (("input", "shape"), [1, 28]),
        (("input", "shape"), [1, 0, 28]),
        (("input", "shape"), [1, 10**9, 10**9]),
        (("goldens", "logits"), []),
        (("goldens", "logits"), [["x"] * 10]),
        (("goldens", "images"), "AAAA"),
        (("goldens", "images"), "ä"),
        (("goldens", "images"), 7),
        (("goldens", "tolerance"), 0),
        (("goldens", "tolerance"), None),
        (("preprocessing", "samples"), None),
        (("goldens",), []),
    ],
)
def test_read_contract_with_nonsense_inside_is_an_input_error(graph_bytes, document, path, value):
    sealed = contract.seal(graph_bytes, broken(document, path, value))
    with pytest.raises(InputError, match="damaged"):
        contract.read_contract(sealed)


@pytest.mark.parametrize("text", [b"", b"nonsense", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_read_contract_that_is_no_document_is_an_input_error(graph_bytes, text):
    with pytest.raises(InputError, match="damaged"):
        contract.read_contract(onnxfile.append_metadata(graph_bytes, contract.KEY, text))


def test_read_contract_of_absurd_size_is_refused(graph_bytes):
    huge = b'"' + b"x" * contract.MAX_CONTRACT_BYTES + b'"'
    with pytest.raises(InputError, match="bytes"):
        contract.read_contract(onnxfile.append_metadata(graph_bytes, contract.KEY, huge))


def test_read_contract_of_another_schema_names_it(graph_bytes):
    text = json.dumps({"schema": 99}).encode()
    with pytest.raises(InputError, match="schema 99"):
        contract.read_contract(onnxfile.append_metadata(graph_bytes, contract.KEY, text))


def test_nan_goldens_are_refused(graph_bytes, document):
    text = json.dumps(broken(document, ("goldens", "logits"), [[float("nan")] * 10] * 10))
    text = json.dumps({**json.loads(text), "schema": contract.SCHEMA})
    with pytest.raises(InputError, match="damaged"):
        contract.read_contract(onnxfile.append_metadata(graph_bytes, contract.KEY, text.encode()))


def test_sealed_file_passes_the_onnx_checker(model_bytes):
    onnx.checker.check_model(model_bytes, full_check=True)
