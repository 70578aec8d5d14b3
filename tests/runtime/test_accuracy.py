import numpy as np
import pytest

from convnet_edge.runtime import accuracy

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


def test_score_of_a_class_never_seen_is_none_not_zero():
    score = accuracy.score(np.array([0, 0]), np.array([0, 1]), LABELS)
    assert (score.classes[2].precision, score.classes[2].recall) == (None, None)
    assert score.classes[1].precision is None
    assert score.classes[1].recall == 0


def test_summary_states_interval_and_n():
    score = accuracy.score(np.zeros(100, int), np.zeros(100, int), LABELS)
    assert score.summary() == "100.00 % (95 % interval 96.30–100.00, n = 100)"


@pytest.mark.parametrize(("said", "truth"), [([], []), ([0], [0, 1])])
def test_score_without_matching_images_is_an_error(said, truth):
    with pytest.raises(ValueError, match="predictions for"):
        accuracy.score(np.array(said, int), np.array(truth, int), LABELS)
