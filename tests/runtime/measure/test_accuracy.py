import json
from collections import Counter

import numpy as np
import pytest

from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.files import as_json
from convnet_edge.runtime.measure import accuracy

LABELS = ("a", "b", "c")


def test_score_counts_what_a_slow_loop_counts():
    rng = np.random.default_rng(0)
    truth, said = rng.integers(0, 3, 500), rng.integers(0, 3, 500)
    score = accuracy.score(said, truth, LABELS)
    assert score.n_correct == sum(t == s for t, s in zip(truth, said, strict=True))
    for i in range(3):
        for j in range(3):
            pairs = zip(truth, said, strict=True)
            assert score.confusion[i][j] == sum(t == i and s == j for t, s in pairs)
    row = score.classes[1]
    assert row.recall == np.mean(said[truth == 1] == 1)
    assert row.precision == np.mean(truth[said == 1] == 1)
    assert row.f1 == pytest.approx(2 / (1 / row.recall + 1 / row.precision))
    assert score.interval.low < score.accuracy < score.interval.high
    assert score.summary().endswith(f"–{100 * score.interval.high:.2f}, n = 500)")


def test_score_of_many_classes_holds_the_ten_pairs_confused_most_and_no_matrix():
    rng = np.random.default_rng(0)
    truth, said = rng.integers(0, 31, 5_000), rng.integers(0, 31, 5_000)
    score = accuracy.score(said, truth, tuple(map(str, range(31))))
    assert score.confusion == ()
    pairs = Counter((t, s) for t, s in zip(truth, said, strict=True) if t != s)
    assert [pair.n for pair in score.confused] == [n for _, n in pairs.most_common(10)]
    for pair in score.confused:
        assert pair.n == pairs[int(pair.true), int(pair.predicted)]
        assert pair.n_of_class == (truth == int(pair.true)).sum()


def test_score_of_ten_thousand_classes_takes_moments_and_little_room():
    labels = np.arange(10_000)
    score = accuracy.score(np.roll(labels, 1), labels, tuple(map(str, labels)))
    assert len(json.dumps(as_json(score))) < 2_000_000
    assert len(score.confused) == 10


def test_images_of_classes_that_the_model_lacks_are_an_input_error():
    with pytest.raises(InputError, match="a model of 3 classes, for images of class 9"):
        accuracy.score(np.array([0, 1]), np.array([0, 9]), LABELS)


def test_score_of_a_class_never_seen_is_none_not_zero():
    score = accuracy.score(np.array([0, 0]), np.array([0, 1]), LABELS)
    assert (score.classes[2].precision, score.classes[2].recall) == (None, None)
    assert score.classes[1].precision is None
    assert score.classes[1].recall == 0


@pytest.mark.parametrize(("said", "truth"), [([], []), ([0], [0, 1])])
def test_score_without_matching_images_is_an_error(said, truth):
    with pytest.raises(ValueError, match="predictions for"):
        accuracy.score(np.array(said, int), np.array(truth, int), LABELS)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.65, 0.65])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.array([0, 0, 0, 1, 0, 0])  # too sure of the first four, not enough of the others
    found = accuracy.calibrate(probabilities, labels)
    assert found.error == pytest.approx((4 * 0.20 + 2 * 0.35) / 6)
    full = [row for row in found.bins if row.n]
    assert [(row.n, row.accuracy) for row in full] == [(2, 1.0), (4, 0.75)]
    assert all(row.low < row.confidence <= row.high for row in full)
    assert sum(row.n for row in found.bins) == 6


def test_compare_counts_lost_gained_and_differing():
    labels = np.array([0, 1, 2, 0, 1])
    found = accuracy.compare(np.array([0, 1, 2, 1, 2]), np.array([0, 2, 2, 0, 0]), labels)
    assert (found.n, found.n_lost, found.n_gained, found.mcnemar_p) == (5, 1, 1, 1.0)
    assert (found.n_differing, found.differing) == (3, [1, 3, 4])
