import numpy as np
import pytest
from faults import change_sealed, fix_batch_axis, mix_rows, set_weight

from convnet_edge.runtime import Classifier, admission
from convnet_edge.sealing import parity
from convnet_edge.sealing.parity import Reference

IMAGES = np.zeros((3, 2, 2), np.uint8)
EXACT = np.array([[0.0, 1.0], [0.5, 0.5 + 1e-7], [2.0, 1.0]])
REFERENCE = Reference(IMAGES, EXACT, floor=1e-6)


def test_compare_measures_against_the_reference():
    logits = EXACT + np.array([[0, 1e-6], [0, 0], [-3e-6, 0]])
    comparison = parity.compare(logits, REFERENCE)
    np.testing.assert_allclose(comparison.image_errors, [1e-6, 0, 3e-6], atol=1e-12)
    assert comparison.max_error == pytest.approx(3e-6)
    assert comparison.mean_error == pytest.approx(4e-6 / 6)
    assert comparison.n_agreeing == 3
    assert comparison.near_ties == (1,)


def test_flip_in_a_near_tie_is_allowed_and_listed():
    logits = EXACT.copy()
    logits[1] = [0.5 + 1e-6, 0.5]
    comparison = parity.compare(logits, REFERENCE)
    values, labels = parity.check_parity(comparison, REFERENCE)
    assert (comparison.flips, comparison.real_flips) == ((1,), ())
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
    assert REFERENCE.tolerance == 8e-6
    just_over = EXACT + 8.1e-6
    assert not parity.check_parity(parity.compare(just_over, REFERENCE), REFERENCE)[0].passed


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_logits_never_pass(bad):
    logits = EXACT.copy()
    logits[0, 0] = bad
    comparison = parity.compare(logits, REFERENCE)
    assert not parity.check_parity(comparison, REFERENCE)[0].passed
    assert comparison.as_json()["max_error"] is None


def test_row_that_depends_on_its_batch_fails_only_in_company(model_bytes, reference, monkeypatch):
    monkeypatch.setattr(admission, "admit", lambda *_: None)
    mixed = Classifier(change_sealed(model_bytes, mix_rows))
    assert parity.check_batch_size(mixed, reference, 1).passed
    for batch_size in (2, 7, 64):
        assert not parity.check_batch_size(mixed, reference, batch_size).passed


def test_fixed_batch_axis_fails_every_other_size(model_bytes, reference):
    fixed_bytes = change_sealed(model_bytes, fix_batch_axis)
    fixed = Classifier(fixed_bytes)
    assert not parity.check_batch_size(fixed, reference, 3).passed
    checks = {check.name: check.passed for check in parity.check_graph(fixed_bytes)}
    assert checks["dynamic batch axis"] is False
    assert checks["opset"] is True


def test_every_required_batch_size_is_proved():
    assert set(parity.BATCH_SIZES) >= {1, 2, 3, 7, 64, 256}


def test_margin_certificate_names_the_images_that_the_error_could_flip():
    comparison = parity.compare(EXACT + np.array([[0, 0], [0, 1e-7], [0, 0]]), REFERENCE)
    assert comparison.uncertain == (1,)
    certificate = comparison.as_json()["margin_certificate"]
    assert (certificate["n"], certificate["images"]) == (1, [1])
    assert certificate["smallest_margin"] == pytest.approx(1e-7)
    assert "1 of 3 images have a top-1/top-2 margin below 2 × 1e-07: 1;" in comparison.summary()
    assert "tolerance: 1e-07" in comparison.summary()
    assert parity.compare(EXACT, REFERENCE).uncertain == ()


def test_histogram_counts_every_image_once():
    errors = np.random.default_rng(0).lognormal(-12, 2, (500, 1))
    known = Reference(np.zeros((500, 2, 2), np.uint8), np.zeros((500, 1)), floor=1e-6)
    two = np.concatenate([errors, np.zeros_like(errors)], axis=1)
    comparison = parity.compare(two, Reference(known.images, np.zeros((500, 2)), 1e-6))
    histogram = comparison.as_json()["image_error_histogram"]
    assert sum(histogram["n_images"]) == 500
    assert len(histogram["edges"]) == len(histogram["n_images"]) + 1
    assert histogram["edges"][0] <= errors.min() * 1.001
    assert comparison.p99_error == np.quantile(two, 0.99, method="higher")


def test_exact_logits_have_a_histogram_too():
    histogram = parity.compare(EXACT, REFERENCE).as_json()["image_error_histogram"]
    assert sum(histogram["n_images"]) == 3


@pytest.mark.parametrize(
    ("change", "verdict", "where"),
    [
        (lambda values: values, "bit-equal", ()),
        (lambda values: values + 1e-7, "within tolerance", ("layer_stack.9.bias",)),
        (lambda values: values + 0.1, "different", ("layer_stack.9.bias",)),
    ],
)
def test_two_models_are_equal_near_or_different_and_where(
    model_bytes, reference, change, verdict, where
):
    def alter(proto):
        set_weight(proto, "layer_stack.9.bias", change)

    models = model_bytes, change_sealed(model_bytes, alter)
    classifiers = tuple(Classifier(model) for model in models)
    difference = parity.compare_models(models, classifiers, reference.images[:200])
    assert difference.verdict == verdict
    assert difference.where == tuple(f"weights that differ: 1 ({name})" for name in where)
    assert difference.check.passed == (verdict != "different")
    assert ("most in images" in difference.check.detail) == (verdict == "different")
