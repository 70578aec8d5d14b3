import copy
import functools
import json
import math

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


def sealed_as(text):
    """Return the graph with any text where the contract should be."""
    entry = field(1, contract.KEY.encode()) + field(2, text)
    return GRAPH + field(contract.METADATA_FIELD, entry)


def test_seal_gives_the_same_bytes_and_open_the_document_back():
    assert contract.seal(GRAPH, DOCUMENT) == MODEL
    file = open_model(MODEL)
    assert file.contract.document == {**DOCUMENT, "digest": file.contract.document["digest"]}
    assert [check.passed for check in file.digests] == [True, True]
    assert faults.unsealed(file.data) == GRAPH


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


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("schema", 99, "schema 99"),
        ("class_labels", ["one"], "class_labels"),
        ("class_labels", [1, 2, 3], "class_labels"),
        ("class_labels", "xyz", "class_labels"),
        ("class_labels", None, "class_labels"),
        ("input.shape", [3, 8, 8], "not one grey image"),
        ("input.shape", [1, 8], "damaged"),
        ("input.shape", "28", "damaged"),
        ("input.shape", [1, 0, 8], "input shape"),
        ("input.shape", [1, 1 << 40, 8], "input shape"),
        ("input.shape", [1, 4096, 4096], "pixels, more than"),
        ("input.shape", [1, math.inf, 8], "damaged"),
        ("input.dtype", "float64", "float64"),
        ("goldens", [], "damaged"),
        ("goldens.logits", [], "golden logits"),
        ("goldens.logits", [["x"] * 3], "damaged"),
        ("goldens.logits", [[math.nan] * 3] * 6, "not finite"),
        ("goldens.indices", [1 << 70] * 6, "damaged"),
        ("goldens.images", "AAAA", "damaged"),
        ("goldens.images", "ä", "damaged"),
        ("goldens.images", 7, "damaged"),
        ("goldens.tolerance", 0, "tolerance"),
        ("goldens.tolerance", "infinity", "tolerance"),
        ("preprocessing.samples", None, "damaged"),
        ("preprocessing", [], "damaged"),
        ("quantization", [], "damaged"),
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


def test_absurd_size_is_named():
    with pytest.raises(InputError, match="at most 4,194,304 bytes"):
        open_model(sealed_as(b'"' + b"x" * contract.MAX_CONTRACT_BYTES + b'"'))
