import numpy as np
import pytest

from convnet_edge.runtime import Classifier
from convnet_edge.runtime.measure import latency


@pytest.fixture
def classifier(model_bytes):
    return Classifier(model_bytes, threads=1)


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_measure_latency_keeps_a_sample_for_every_run(classifier, test_set, batch_size):
    shares = []
    measured = latency.measure_latency(
        classifier, test_set.images, batch_size=batch_size, duration_s=0.3, tick=shares.append
    )
    n = len(measured.samples_ns)
    assert n >= latency.MIN_RUNS
    assert measured.samples_ns.min() > 0
    assert measured.samples_ns.sum() / 1e9 <= measured.elapsed_s
    assert measured.elapsed_s >= 0.3
    total_s = measured.samples_ns.sum() / 1e9
    assert measured.images_per_s == pytest.approx(batch_size * n / total_s)
    assert measured.n_warmup >= latency.MIN_WARMUP_RUNS
    assert 1 <= measured.n_checked < latency.N_CHECKED_OUTPUTS
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)


def test_measure_latency_runs_until_p50_has_its_samples(classifier, test_set):
    measured = latency.measure_latency(classifier, test_set.images, batch_size=1, duration_s=1e-9)
    assert len(measured.samples_ns) == latency.MIN_RUNS
    p50, p90, *_ = measured.percentiles_ms()
    assert p50.value is not None
    assert p90.value is None


def test_measure_latency_goes_on_until_its_least_runs(classifier, test_set):
    measured = latency.measure_latency(
        classifier, test_set.images, batch_size=1, duration_s=1e-9, min_runs=70
    )
    assert len(measured.samples_ns) == 70
    assert measured.percentiles_ms()[1].value is not None


def test_measure_latency_keeps_what_the_verdict_needs(classifier, test_set):
    measured = latency.measure_latency(classifier, test_set.images, batch_size=8, duration_s=0.2)
    trace = measured.trace
    assert (np.diff(trace.starts_ns) >= trace.samples_ns[:-1]).all()
    assert trace.n_switched is None or 0 <= trace.n_switched <= len(trace.samples_ns)
    assert trace.waited_share is None or trace.waited_share >= 0
    assert 0 < trace.timer_step_ns < 1e6
    assert trace.tolerance == classifier.contract.goldens.tolerance
    assert trace.provider_error is None
    assert 0 < measured.cpu_s < 10


def test_bound_runs_are_timed_in_place_of_the_sessions(classifier, test_set, monkeypatch):
    bound = classifier.session.bind(classifier.to_input(test_set.images[:3]), 10)
    calls, real = [], bound.run
    monkeypatch.setattr(bound, "run", lambda batch: calls.append(None) or real(batch))
    measured = latency.measure_latency(
        classifier, test_set.images, batch_size=3, duration_s=1e-9, bound=bound
    )
    assert len(calls) == measured.n_warmup + len(measured.samples_ns)
    assert measured.trace.error <= measured.trace.tolerance


def test_timed_images_vary(classifier, test_set, monkeypatch):
    seen = set()
    real = classifier.session.run

    def spy(batch):
        seen.add(batch.tobytes())
        return real(batch)

    monkeypatch.setattr(classifier.session, "run", spy)
    latency.measure_latency(classifier, test_set.images, batch_size=1, duration_s=1e-9)
    assert len(seen) >= latency.MIN_RUNS


@pytest.mark.parametrize("wrong", [1e-2, np.nan])
def test_wrong_output_within_the_timed_loop_is_caught(classifier, test_set, monkeypatch, wrong):
    real, calls = classifier.session.run, []

    def spoil_late(batch):
        calls.append(None)
        logits = real(batch).copy()
        if len(batch) == 1 and len(calls) > 80:  # after reference (64 runs) and warm-up (10)
            logits[0, 0] += wrong
        return logits

    monkeypatch.setattr(classifier.session, "run", spoil_late)
    measured = latency.measure_latency(classifier, test_set.images, batch_size=1, duration_s=1e-9)
    assert measured.verdict.status == "INVALID"
    assert "wrong outputs" in {reason.name for reason in measured.verdict.reasons}


def test_checked_outputs_cover_the_whole_loop(classifier, test_set, monkeypatch):
    kept_by = []
    real = latency.Feed.largest_error
    monkeypatch.setattr(
        latency.Feed,
        "largest_error",
        lambda feed, kept: kept_by.append(sorted(kept)) or real(feed, kept),
    )
    measured = latency.measure_latency(classifier, test_set.images, batch_size=1, duration_s=0.2)
    (kept,) = kept_by
    assert kept[0] == 0
    assert kept[-1] >= 0.8 * len(measured.samples_ns)
