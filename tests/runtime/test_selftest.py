import math
from types import SimpleNamespace

import numpy as np
import pytest
from faults import (
    change_document,
    change_graph,
    change_sealed,
    drop_a_class,
    fix_batch_axis,
    nudge_one_weight,
    put_nan,
)

from convnet_edge.runtime import Classifier, contract, selftest
from convnet_edge.runtime.errors import CheckFailedError
from convnet_edge.runtime.selftest import Check


def failures(model):
    return {c.name for c in selftest.run_selftest(model, Classifier(model)) if not c.passed}


def test_whole_file_passes_every_check(model_bytes):
    assert failures(model_bytes) == set()


@pytest.mark.parametrize("fault", [nudge_one_weight, put_nan])
def test_changed_weight_fails_the_goldens_even_with_fitting_digests(model_bytes, fault):
    changed = change_graph(model_bytes, fault)
    assert "golden vectors, batch 1" in failures(change_sealed(model_bytes, fault))
    stated = contract.read_contract(changed)
    assert [check.passed for check in selftest.check_digests(changed, stated)] == [False, True]


@pytest.mark.parametrize("fault", [fix_batch_axis, drop_a_class])
def test_a_graph_that_cannot_run_the_goldens_fails_rather_than_stops(model_bytes, fault):
    assert "golden vectors, batch 1" in failures(change_sealed(model_bytes, fault))


def test_altered_golden_with_fitting_digest_fails_on_the_value(model_bytes):
    def alter(document):
        document["goldens"]["logits"][0][0] += 1e-3

    altered = change_document(model_bytes, alter)
    assert {name.split(",")[0] for name in failures(altered)} == {"golden vectors"}


class Reduced:
    """A classifier in TF32 whose logits are off by `error`."""

    def __init__(self, model, error):
        self.contract = contract.read_contract(model)
        self.session = SimpleNamespace(precision="tf32")
        self.error = error

    def logits(self, images, *, batch_size):
        return self.contract.goldens.logits + self.error


def test_reduced_precision_is_judged_by_labels(model_bytes):
    goldens = contract.read_contract(model_bytes).goldens
    away = np.zeros(goldens.logits.shape[1])
    away[goldens.logits[0].argmax()] = -goldens.tolerance * 1000
    passed = selftest.check_goldens(Reduced(model_bytes, away))
    assert all(check.passed for check in passed)
    assert "reduced precision (tf32)" in passed[0].detail
    away *= 1e6
    assert not any(check.passed for check in selftest.check_goldens(Reduced(model_bytes, away)))


def test_find_flips_leaves_out_near_ties():
    reference = np.array([[1.0, 0.0], [1.0, 0.9], [0.0, 1.0]])
    logits = np.array([[0.0, 1.0], [0.9, 1.0], [0.0, 1.0]])
    assert selftest.find_flips(logits, reference, 0.1) == [0]
    assert selftest.find_flips(logits, reference, 0.01) == [0, 1]


def test_altered_sample_pixels_fail_preprocessing(model_bytes):
    def alter(document):
        samples = document["preprocessing"]["samples"]
        samples[0]["pixels"], samples[1]["pixels"] = samples[1]["pixels"], samples[0]["pixels"]

    assert failures(change_document(model_bytes, alter)) == {"preprocessing samples"}


def test_without_pillow_the_pictures_are_skipped_and_said_so(model_bytes, monkeypatch):
    classifier = Classifier(model_bytes)
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    check = selftest.check_pictures(classifier.contract)
    assert check.skipped
    assert check.line().startswith("[-] preprocessing samples: pillow is not installed")
    selftest.require([check], what="model", next_step="-")


def test_require_names_the_first_failure_and_counts_the_rest():
    checks = [Check("a", True, "fine"), Check("b", False, "bad"), Check("c", False, "worse")]
    with pytest.raises(CheckFailedError, match=r"model: b: bad \(and 1 more\)") as caught:
        selftest.require(checks, what="model", next_step="do this")
    assert caught.value.exit_code == 1
    selftest.require(checks[:1], what="model", next_step="-")


def test_as_json_keeps_infinity_out_of_the_numbers():
    (row,) = selftest.as_json([Check("a", False, "inf", math.inf, 1.0)])
    assert row["value"] is None
    assert row["limit"] == 1.0
