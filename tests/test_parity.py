import numpy as np
import pytest
from faults import change_graph, fix_batch_axis, mix_rows

from convnet_edge import parity
from convnet_edge.parity import Reference
from convnet_edge.runtime import Classifier

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


def test_row_that_depends_on_its_batch_fails_only_in_company(model_bytes, reference):
    mixed = Classifier(change_graph(model_bytes, mix_rows))
    assert parity.check_batch_size(mixed, reference, 1).passed
    for batch_size in (2, 7, 64):
        assert not parity.check_batch_size(mixed, reference, batch_size).passed


def test_fixed_batch_axis_fails_every_other_size(model_bytes, reference):
    fixed_bytes = change_graph(model_bytes, fix_batch_axis)
    fixed = Classifier(fixed_bytes)
    assert not parity.check_batch_size(fixed, reference, 3).passed
    checks = {check.name: check.passed for check in parity.check_graph(fixed_bytes)}
    assert checks["dynamic batch axis"] is False
    assert checks["opset"] is True


def test_every_required_batch_size_is_proved():
    assert set(parity.BATCH_SIZES) >= {1, 2, 3, 7, 64, 256}
