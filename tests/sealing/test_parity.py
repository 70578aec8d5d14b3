import numpy as np
import pytest
import tiny
from faults import change_sealed, fix_batch_axis, mix_rows

from convnet_edge.runtime import Classifier, admission
from convnet_edge.runtime.measure.result import as_json
from convnet_edge.runtime.model_file import open_model
from convnet_edge.sealing import parity
from convnet_edge.sealing.parity import Reference

IMAGES = np.zeros((3, 2, 2), np.uint8)
EXACT = np.array([[0.0, 1.0], [0.5, 0.5 + 1e-7], [2.0, 1.0]])
REFERENCE = Reference(IMAGES, EXACT, floor=1e-6)


@pytest.fixture(scope="module")
def hand_made():
    """The reference of the hand-made model."""
    images = tiny.images(600)
    return Reference(images, tiny.logits(images), tiny.FLOOR)


def test_compare_measures_against_the_reference():
    logits = EXACT + np.array([[0, 1e-6], [0, 0], [-3e-6, 0]])
    comparison = parity.compare(logits, REFERENCE)
    errors = parity.image_errors(logits, REFERENCE)
    np.testing.assert_allclose(errors, [1e-6, 0, 3e-6], atol=1e-12)
    assert comparison.max_error == pytest.approx(3e-6)
    assert comparison.mean_error == pytest.approx(4e-6 / 6)
    assert comparison.n_agreeing_labels == 3
    assert comparison.near_ties == (1,)


def test_flip_in_a_near_tie_is_allowed_and_listed():
    logits = EXACT.copy()
    logits[1] = [0.5 + 1e-6, 0.5]
    comparison = parity.compare(logits, REFERENCE)
    values, labels = parity.check_parity(comparison, REFERENCE)
    assert (comparison.flips, comparison.flips_outside_near_ties) == ((1,), ())
    assert values.passed
    assert labels.passed


def test_flip_elsewhere_fails_and_names_the_image():
    logits = EXACT.copy()
    logits[2] = [1.0, 2.0]
    values, labels = parity.check_parity(parity.compare(logits, REFERENCE), REFERENCE)
    assert not values.passed
    assert not labels.passed
    assert "images [2]" in labels.detail


def test_tolerance_is_derived_from_the_floor():
    rounded = EXACT + np.float64(1e-6)
    assert parity.from_pytorch(IMAGES, (EXACT, rounded)).tolerance == pytest.approx(8e-6)
    just_over = EXACT + 8.1e-6
    assert not parity.check_parity(parity.compare(just_over, REFERENCE), REFERENCE)[0].passed


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_logits_never_pass(bad):
    logits = EXACT.copy()
    logits[0, 0] = bad
    comparison = parity.compare(logits, REFERENCE)
    assert not parity.check_parity(comparison, REFERENCE)[0].passed
    assert as_json(comparison)["max_error"] is None
    assert "none would do" in comparison.summary()


def passed(classifier, reference):
    return {check.name: check.passed for check in parity.check_batch_sizes(classifier, reference)}


def test_every_batch_size_is_proved(hand_made):
    found = passed(Classifier(tiny.grey()), hand_made)
    assert found == {f"batch {size}": True for size in (1, 2, 3, 7, 64, 256)}
    assert all(check.passed for check in parity.check_graph(open_model(tiny.grey())))


def test_row_that_depends_on_its_batch_fails_only_in_company(hand_made, monkeypatch):
    monkeypatch.setattr(admission, "admit", lambda *_: None)
    found = passed(Classifier(change_sealed(tiny.grey(), mix_rows)), hand_made)
    assert found.pop("batch 1")
    assert not any(found.values())


def test_fixed_batch_axis_fails_every_other_size(hand_made):
    fixed = change_sealed(tiny.grey(), fix_batch_axis)
    found = passed(Classifier(fixed), hand_made)
    assert not found["batch 1"]
    assert not found["batch 3"]
    checks = {check.name: check.passed for check in parity.check_graph(open_model(fixed))}
    assert checks["dynamic batch axis"] is False
    assert checks["opset"] is True


def test_run_that_fails_is_a_failed_check_and_no_comparison(hand_made):
    fixed = Classifier(change_sealed(tiny.grey(), fix_batch_axis))
    proof = parity.compare_all(fixed, hand_made)
    assert [check.passed for check in proof.checks] == [False]
    assert as_json(proof.comparison)["max_error"] is None


def test_margin_certificate_names_the_images_that_the_error_could_flip():
    comparison = parity.compare(EXACT + np.array([[0, 0], [0, 1e-7], [0, 0]]), REFERENCE)
    certificate = comparison.margin_certificate
    assert (certificate.n, certificate.images) == (1, (1,))
    assert certificate.smallest_margin == pytest.approx(1e-7)
    assert "1 of 3 images have a top-1/top-2 margin below 2 × 1e-07: 1;" in comparison.summary()
    assert "tolerance: 1e-07" in comparison.summary()
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
