import copy
import functools
import hashlib
import json
import math
import types

import faults
import numpy as np
import pytest
import tiny

from convnet_edge.runtime import contract
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.model_file import open_model
from convnet_edge.runtime.protobuf import field

MODEL = tiny.grey()
GRAPH = faults.unsealed(MODEL)
DOCUMENT = open_model(MODEL).contract.document
INTEGERS = {"layout": "portable", "weight_bits": 7, "n_multiplications": 1}


def sealed_as(text):
    """Return the graph with any text where the contract should be."""
    entry = field(1, contract.KEY.encode()) + field(2, text)
    return GRAPH + field(contract.METADATA_FIELD, entry)


def test_seal_gives_the_same_bytes_and_open_the_document_back():
    assert contract.seal(GRAPH, DOCUMENT) == MODEL
    file = open_model(MODEL)
    assert file.contract.document == {**DOCUMENT, "file_sha256": file.contract.file_sha256}
    assert file.digest.passed
    assert faults.unsealed(file.data) == GRAPH


def test_goldens_and_samples_are_unpacked():
    read = open_model(MODEL).contract
    np.testing.assert_array_equal(read.goldens.images, tiny.images(tiny.N_GOLDENS))
    assert np.abs(read.goldens.logits - tiny.logits(read.goldens.images)).max() < 1e-9
    for sample, made in zip(read.samples, tiny.pictures(), strict=True):
        assert (sample.name, sample.encoded) == (made.name, made.encoded)
        np.testing.assert_array_equal(sample.pixels, made.pixels)


def test_what_proved_a_file_is_stated():
    assert open_model(MODEL).contract.proof is None
    adopted = json.dumps(DOCUMENT | {"proof": "adopted"}).encode()
    assert open_model(sealed_as(adopted)).contract.proof == "adopted"


def test_no_contract_and_two_are_refused():
    with pytest.raises(InputError, match="no contracts in the file"):
        open_model(GRAPH)
    with pytest.raises(InputError, match="2 contracts"):
        open_model(MODEL + sealed_as(b"{}")[len(GRAPH) :])


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("schema", 99, "schema 99"),
        ("class_labels", ["one"], "class_labels"),
        ("class_labels", [1, 2, 3], "class_labels"),
        ("class_labels", "xyz", "class_labels"),
        ("class_labels", None, "class_labels"),
        ("input.shape", [3, 8, 8], "preprocessing gives 1 x 8 x 8"),
        ("input.shape", [1, 8], r"input shape \[1, 8\]"),
        ("input.shape", "28", "input.shape is '28'"),
        ("input.shape", [1, 1 << 40, 8], "input shape"),
        ("input.scale", 1, "input.scale is '1'"),
        ("measured", None, "damaged"),
        ("measured.accuracy", "high", "measured.accuracy is 'high'"),
        ("measured.sha256", None, "measured.sha256 is 'None'"),
        ("measured.sha256", "of what", "damaged"),
        ("measured.n", 10**400, r"a number that is not below 1e\+20"),
        ("measured.accuracy", math.nan, "a number that is not below"),
        ("training", {}, "'epochs'|'data'"),
        ("training.n_images", [], "training.n_images is"),
        ("versions", {"export": {"torch": 2}}, "versions are not names"),
        ("name", "\ud800", "surrogates not allowed"),
        ("name", functools.reduce(lambda inner, _: [inner], range(900), 0), "within each other"),
        ("input.shape", [1, math.inf, 8], "damaged"),
        ("preprocessing.size", [8], "damaged"),
        ("preprocessing.size", [0, 8], "damaged"),
        ("preprocessing.channels", None, "damaged"),
        ("preprocessing.share", "all", "damaged"),  # what else it may not be: test_preprocess
        ("input.dtype", "float64", "float64"),
        ("goldens", [], "damaged"),
        ("goldens.logits", [], "golden logits"),
        ("goldens.logits", [["x"] * 3], "damaged"),
        ("goldens.logits", [["nan"] * 3] * 6, "not finite"),
        ("goldens.indices", [1 << 60] * 6 + [[1]], "damaged"),
        ("goldens.indices", [-1] * 6, "golden logits"),
        ("goldens.images", "AAAA", "damaged"),
        ("goldens.images", "ä", "damaged"),
        ("goldens.images", 7, "damaged"),
        ("goldens.tolerance", 0, "tolerance"),
        ("goldens.tolerance", "infinity", "tolerance"),
        ("preprocessing.samples", None, "preprocessing.samples is 'None'"),
        ("preprocessing.samples", DOCUMENT["preprocessing"]["samples"] * 3, "6 sample pictures"),
        ("preprocessing", [], "damaged"),
        ("decision", 0.5, "damaged"),
        ("decision", {"threshold": 0.5}, "damaged"),
        ("decision", tiny.DECISION | {"more": 1}, "damaged"),
        ("decision", tiny.DECISION | {"threshold": "0.5"}, "decision.threshold is '0.5'"),
        ("decision", tiny.DECISION | {"threshold": -1}, "decision {'threshold': -1"),
        ("decision", tiny.DECISION | {"max_unevenness": []}, "decision.max_unevenness is"),
        ("decision", tiny.DECISION | {"max_unevenness": -0.1}, "'max_unevenness': -0.1"),
        ("decision", tiny.DECISION | {"data": None}, "decision.data is 'None'"),
        ("decision", tiny.DECISION | {"n": 0.5}, "decision.n is '0.5'"),
        ("decision", tiny.DECISION | {"coverage": None}, "decision.coverage is 'None'"),
        ("quantization", [], "damaged"),
        ("cost", None, "damaged"),
        ("cost", {"n_multiplications": 1, "peak_bytes": 1}, "damaged"),
        ("cost.n_multiplications", 0.5, "cost.n_multiplications is '0.5'"),
        ("cost.peak_bytes", 0, "cost {"),
        ("cost.operators", ["Conv"], "cost.operators is"),
        ("cost.operators", {"Conv": "two"}, "cost {"),
        ("proof", "sworn", "proof 'sworn', not unproved or adopted"),
        ("proof", [], "proof '\\[\\]'"),
        ("quantization", INTEGERS | {"layout": "new"}, "layout 'new'"),
    ],
)
def test_nonsense_inside_is_an_input_error_that_names_it(path, value, named):
    changed = copy.deepcopy(DOCUMENT)
    *owners, last = path.split(".")
    functools.reduce(dict.__getitem__, owners, changed)[last] = value
    with pytest.raises(InputError, match=named) as caught:
        open_model(sealed_as(json.dumps(changed).encode()))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", [b"", b"nonsense", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_no_document_is_an_input_error(text):
    with pytest.raises(InputError, match="damaged"):
        open_model(sealed_as(text))


def test_the_one_digest_is_of_every_byte_but_its_own_digits():
    stated = open_model(MODEL).contract.file_sha256.encode()
    assert MODEL.count(stated) == 1
    assert hashlib.sha256(MODEL.replace(stated, b"0" * 64)).hexdigest().encode() == stated
    for place in (*range(0, len(MODEL), 97), MODEL.index(stated) + 63):
        changed = bytearray(MODEL)
        changed[place] ^= 1
        try:
            assert not open_model(bytes(changed)).digest.passed, place
        except InputError:
            continue


def test_digest_holds_whatever_else_looks_like_it():
    decoy = f'"file_sha256":"{"0" * 64}"'.encode()
    graph = GRAPH + field(6, decoy)  # ModelProto.doc_string
    sealed = contract.seal(graph, DOCUMENT | {"name": decoy.decode()})
    assert open_model(sealed).digest.passed
    assert not open_model(sealed.replace(decoy, decoy[:-2] + b'1"', 1)).digest.passed


def test_absurd_size_is_named():
    with pytest.raises(InputError, match="at most 4,194,304 bytes"):
        open_model(sealed_as(b'"' + b"x" * contract.MAX_CONTRACT_BYTES + b'"'))


def test_each_part_of_a_contract_may_be_anything_and_is_read_or_refused(tmp_path):
    """What inspect prints, and what a bundle says of a model, is made of what was read."""
    from convnet_edge.bundling.bundle import _about
    from convnet_edge.commands import inspect
    from convnet_edge.data.dataset import Task

    path, n_read = tmp_path / "odd.onnx", 0
    whole = DOCUMENT | {"quantization": INTEGERS, "decision": tiny.DECISION}
    changes = faults.mutations(whole)
    for changed in changes:
        try:
            file = open_model(sealed_as(json.dumps(changed).encode()))
        except InputError:
            continue
        n_read += 1
        document = inspect._document(path, file)
        inspect._stated(document["contract"])
        json.dumps(document, allow_nan=False)
        model = types.SimpleNamespace(contract=file.contract, file=file)
        json.dumps(_about("odd.onnx", model), allow_nan=False)
        assert Task.of(file.contract).preprocessing == file.contract.preprocessing
    assert 100 < n_read < len(changes) - 100
