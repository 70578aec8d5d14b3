"""Two models timed in turn, and the sentence that follows from it."""

import numpy as np
import pytest
import tiny

from convnet_edge.runtime import Classifier
from convnet_edge.runtime.measure import machine, race, timing
from convnet_edge.runtime.measure.stats import median_interval

STEADY = (100, 101, 99, 100, 102, 98, 100)  # images a second of seven rounds
RATES = {
    "faster": ((110, 112, 108, 111, 109, 113, 110), STEADY),
    "slower": ((90, 95, 80, 90, 92, 88, 90), STEADY),
    "cannot tell": ((99, 100, 98, 99, 130, 99, 101), (100, 80, 100, 120, 100, 100, 90)),
}
USES = [(1, 1), (1, 2), (64, 1), (64, 2)]


@pytest.fixture
def raced(monkeypatch):
    """Race a tiny model against itself on two cores, with these outcomes in the uses' order."""
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)

    def run(*outcomes, **options):
        rounds = iter(outcomes)

        def take_turns(loads, images, **_):
            assert loads[0].batch_size == loads[1].batch_size
            return RATES[next(rounds)]

        monkeypatch.setattr(timing, "take_turns", take_turns)
        model = Classifier(tiny.grey())
        options = {"names": ("a.int8.onnx", "a.onnx"), "slot_s": 0.01} | options
        return race.run(model, model, tiny.images(4), **options)

    return run


@pytest.mark.parametrize("outcome", RATES)
def test_ratio_is_of_each_round_and_its_interval_decides(raced, outcome):
    found = raced(*[outcome] * 4)
    assert [(one.batch_size, one.threads) for one in found] == USES
    mine, other = map(np.array, RATES[outcome])
    interval = median_interval(mine / other)
    for one in found:
        assert one.ratios == pytest.approx(mine / other)
        assert (one.ratio, one.ratio_interval_95) == (np.median(mine / other), interval)
        assert one.ms == pytest.approx(1e3 * one.batch_size / np.median(mine))
        assert one.other_ms == pytest.approx(1e3 * one.batch_size / np.median(other))
        assert one.outcome == outcome


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        (["faster"] * 4, "deploy a.int8.onnx: faster than a.onnx in all 4 uses (1.10 ×)"),
        (["slower"] * 4, "deploy a.onnx: faster than a.int8.onnx in all 4 uses (1.11 ×)"),
        (
            ["cannot tell"] * 4,
            "neither is shown to be faster here",
        ),
        (
            ["cannot tell", "faster", "cannot tell", "faster"],
            "deploy a.int8.onnx: faster than a.onnx at batch 1 on 2 threads (1.10 ×), batch 64 "
            "on 2 threads (1.10 ×), and nowhere shown to be slower",
        ),
        (
            ["faster", "cannot tell", "cannot tell", "slower"],
            "a.onnx is faster at batch 64 on 2 threads (1.11 ×), a.int8.onnx at batch 1 on 1 "
            "thread (1.10 ×)",
        ),
    ],
)
def test_advice_names_the_winner_and_first_where_the_model_loses(raced, outcomes, said):
    (sentence,) = race.advise(raced(*outcomes))
    assert sentence == said if said.startswith("neither") else sentence.endswith(said)


def test_threads_that_were_asked_for_are_the_only_ones(raced):
    (one, other) = raced("faster", "faster", threads=3)
    assert (one.threads, other.threads) == (3, 3)


def test_each_rival_has_a_sentence(raced):
    both = raced(*["faster"] * 4) + raced(*["slower"] * 4, names=("a.int8.onnx", "b.onnx"))
    assert [said.split(":")[0][-6:] for said in race.advise(both)] == ["8.onnx", "b.onnx"]
    assert race.advise(()) == ()


def test_real_runs_take_turns():
    model = Classifier(tiny.grey())
    shares = []
    found = race.run(
        model, model, tiny.images(4), names=("a", "b"), slot_s=0.005, tick=shares.append
    )
    assert all(one.ms > 0 and len(one.ratios) == race.N_ROUNDS for one in found)
    assert shares[-1] == 1.0
