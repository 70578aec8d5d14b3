import numpy as np
import pytest

from convnet_edge.runtime import Classifier
from convnet_edge.runtime.errors import InputError


@pytest.fixture
def classifier(model_bytes):
    return Classifier(model_bytes, threads=1)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_bound_runs_give_the_sessions_logits(classifier, test_set, batch_size):
    first, second = (
        classifier.to_input(test_set.images[start : start + batch_size]) for start in (0, 50)
    )
    bound = classifier.session.bind(first, 10)
    kept = first.copy()
    for batch in (first, second, first):
        assert np.array_equal(bound.run(batch), classifier.session.run(batch))
    assert np.array_equal(first, kept)


def test_bound_outputs_outlive_the_next_run(classifier, test_set):
    batches = [classifier.to_input(test_set.images[i : i + 1]) for i in range(2)]
    bound = classifier.session.bind(batches[0], 10)
    first = bound.run(batches[0])
    kept = first.copy()
    bound.run(batches[1])
    assert np.array_equal(first, kept)


def test_split_times_add_up_to_less_than_the_run(classifier, test_set):
    batch = classifier.to_input(test_set.images[:64])
    bound = classifier.session.bind(batch, 10)
    _, split = bound.run_split(batch)
    assert min(split.host_to_device_ns, split.compute_ns, split.device_to_host_ns) > 0
    assert split.compute_ns > split.device_to_host_ns


def test_bound_run_of_another_shape_is_an_input_error(classifier, test_set):
    bound = classifier.session.bind(classifier.to_input(test_set.images[:2]), 10)
    with pytest.raises(InputError, match="could not run"):
        bound.run(classifier.to_input(test_set.images[:3]))
