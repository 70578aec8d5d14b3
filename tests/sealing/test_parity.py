import numpy as np
import pytest
import tiny
from faults import admit_all, change_sealed, fix_batch_axis, mix_rows

from convnet_edge.runtime import Classifier
from convnet_edge.runtime.files import as_json
from convnet_edge.runtime.model_file import open_model
from convnet_edge.sealing import parity
from convnet_edge.sealing.parity import Reference

IMAGES = np.zeros((3, 2, 2), np.uint8)
EXACT = np.array([[0.0, 1.0], [0.5, 0.5 + 1e-7], [2.0, 1.0]])
REFERENCE = Reference(IMAGES, EXACT, floor=1e-6)
HAND_MADE = Reference(tiny.images(600), tiny.logits(tiny.images(600)), tiny.FLOOR)


def judge(changes):
    """Return the comparison of logits that are `EXACT` but for `changes`, and both its checks."""
    logits = EXACT.copy()
    for place, value in changes.items():
        logits[place] = value
    comparison = parity.compare(logits, REFERENCE)
    return comparison, *parity.check_parity(comparison, REFERENCE)


def test_compare_measures_against_the_reference():
    logits = EXACT + np.array([[0, 1e-6], [0, 0], [-3e-6, 0]])
    comparison = parity.compare(logits, REFERENCE)
    assert comparison.max_error == pytest.approx(3e-6)
    assert comparison.mean_error == pytest.approx(4e-6 / 6)
    assert comparison.n_agreeing_labels == 3
    assert comparison.near_ties == (1,)


def test_flip_is_allowed_in_a_near_tie_and_listed():
    comparison, values, labels = judge({1: [0.5 + 1e-6, 0.5]})
    assert (comparison.flips, comparison.flips_outside_near_ties) == ((1,), ())
    assert (values.passed, labels.passed) == (True, True)


def test_flip_elsewhere_fails_and_names_the_image():
    _, values, labels = judge({2: [1.0, 2.0]})
    assert (values.passed, labels.passed) == (False, False)
    assert "images [2]" in labels.detail


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_logits_never_pass(bad):
    comparison, values, _ = judge({(0, 0): bad})
    assert not values.passed
    assert as_json(comparison)["max_error"] is None
    assert "none would do" in comparison.summary()[0]


def test_tolerance_is_derived_from_the_floor():
    reference = parity.from_pytorch(IMAGES, (EXACT, EXACT + 1e-6))
    for error, passed in ((7.9e-6, True), (8.1e-6, False)):
        comparison = parity.compare(EXACT + error, reference)
        assert parity.check_parity(comparison, reference)[0].passed is passed


def passed(classifier):
    return {check.name: check.passed for check in parity.check_batch_sizes(classifier, HAND_MADE)}


def test_every_batch_size_is_proved():
    found = passed(Classifier(tiny.grey()))
    assert found == {f"batch {size}": True for size in (1, 2, 3, 7, 64, 256)}
    assert all(check.passed for check in parity.check_graph(open_model(tiny.grey())))


def test_row_that_depends_on_its_batch_fails_only_in_company(monkeypatch):
    admit_all(monkeypatch)
    found = passed(Classifier(change_sealed(tiny.grey(), mix_rows)))
    assert found.pop("batch 1")
    assert not any(found.values())


def test_fixed_batch_axis_fails():
    fixed = Classifier(change_sealed(tiny.grey(), fix_batch_axis))
    assert not any(passed(fixed).values())  # nor at 2: there is no image alone to compare with
    checks = {check.name: check.passed for check in parity.check_graph(fixed.file)}
    assert (checks["dynamic batch axis"], checks["opset"]) == (False, True)
    proof = parity.compare_all(fixed, HAND_MADE)  # a run that fails is a check that fails
    assert [check.passed for check in proof.checks] == [False]
    assert as_json(proof.comparison)["max_error"] is None


def test_margin_certificate_names_the_images_that_the_error_could_flip():
    comparison, *_ = judge({(1, 1): EXACT[1, 1] + 1e-7})
    certificate = comparison.margin_certificate
    assert (certificate.n, certificate.images) == (1, (1,))
    assert certificate.smallest_margin == pytest.approx(1e-7)
    assert (
        "1 of the 3 images compared have a top-1/top-2 margin below 2 × 1e-07: 1;"
        in comparison.summary()[1]
    )
    assert parity.compare(EXACT, REFERENCE).margin_certificate.n == 0


def test_histogram_counts_every_image_once():
    errors = np.random.default_rng(0).lognormal(-12, 2, (500, 1))
    two = np.concatenate([errors, np.zeros_like(errors)], axis=1)
    known = Reference(np.zeros((500, 2, 2), np.uint8), np.zeros((500, 2)), 1e-6)
    comparison = parity.compare(two, known)
    histogram = comparison.image_error_histogram
    assert sum(histogram.n_images) == 500
    assert len(histogram.edges) == len(histogram.n_images) + 1
    assert histogram.edges[0] <= errors.min() * 1.001
    assert comparison.p99_error == np.quantile(two, 0.99, method="higher")
    assert sum(parity.compare(EXACT, REFERENCE).image_error_histogram.n_images) == 3
