import math

import faults
import pytest
import tiny
from PIL import Image

from convnet_edge.runtime import Classifier, contract, selftest
from convnet_edge.runtime.errors import CheckFailedError
from convnet_edge.runtime.files import as_json
from convnet_edge.runtime.measure.check import Check
from convnet_edge.runtime.model_file import open_model

MODEL = tiny.grey()


def failures(model):
    return {c.name for c in selftest.run_selftest(Classifier(model)) if not c.passed}


@pytest.mark.parametrize("fault", [faults.nudge_one_weight, faults.put_nan])
def test_changed_weight_fails_the_goldens_even_with_a_fitting_digest(fault):
    assert failures(MODEL) == set()
    assert "golden vectors, batch 1" in failures(faults.change_sealed(MODEL, fault))
    assert not open_model(faults.change_graph(MODEL, fault)).digest.passed


@pytest.mark.parametrize("fault", [faults.fix_batch_axis, faults.drop_a_class])
def test_a_graph_that_cannot_run_the_goldens_fails_rather_than_stops(fault):
    assert "golden vectors, batch 1" in failures(faults.change_sealed(MODEL, fault))


def move_a_golden(document):
    document["goldens"]["logits"][0][0] += 1e-3


def swap_pixels(document):
    one, two = document["preprocessing"]["samples"]
    one["pixels"], two["pixels"] = two["pixels"], one["pixels"]


def damage_a_picture(document):
    document["preprocessing"]["samples"][0]["encoded"] = "AAAA"


@pytest.mark.parametrize(
    ("alter", "failed"),
    [
        (move_a_golden, {"golden vectors, batch 1", "golden vectors, batch 6"}),
        (swap_pixels, {"preprocessing samples"}),
        (damage_a_picture, {"preprocessing samples"}),
    ],
)
def test_altered_contract_with_a_fitting_digest_fails_and_is_not_skipped(alter, failed):
    checks = selftest.run_selftest(Classifier(faults.change_document(MODEL, alter)))
    assert {check.name for check in checks if not check.passed and not check.skipped} == failed


def test_a_sample_picture_too_large_for_its_use_is_refused_before_it_is_decoded(monkeypatch):
    encoded = tiny.encode(Image.new("L", (1001, 1000)))

    def enlarge(document):
        sample = document["preprocessing"]["samples"][0]
        sample["encoded"] = contract.encode_bytes(encoded)

    classifier = Classifier(faults.change_document(MODEL, enlarge))
    monkeypatch.setattr("convnet_edge.runtime.pictures.preprocess.prepare", None)
    check = selftest.check_pictures(classifier.contract)
    assert not check.passed
    assert "too large: 1001 x 1000, more than 1,000,000 pixels" in check.detail


def test_without_pillow_the_pictures_are_skipped_and_said_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    check = selftest.check_pictures(open_model(MODEL).contract)
    assert check.skipped
    assert check.line().startswith("[-] preprocessing samples: pillow is not installed")
    selftest.require([check], what="model", next_step="-")


def test_require_names_the_first_failure_and_counts_the_rest():
    checks = [Check("a", True, "fine"), Check("b", False, "bad"), Check("c", False, "worse")]
    with pytest.raises(CheckFailedError, match=r"model: b: bad \(and 1 more\)") as caught:
        selftest.require(checks, what="model", next_step="do this")
    assert caught.value.exit_code == 1
    selftest.require(checks[:1], what="model", next_step="-")


def test_json_keeps_infinity_out_of_the_numbers():
    (row,) = as_json([Check("a", False, "inf", math.inf, 1.0)])
    assert row["value"] is None
    assert row["limit"] == 1.0
