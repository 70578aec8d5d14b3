import signal
import sys
import time

import loadgen
import numpy as np
import pytest

from convnet_edge.runtime.classifier import Classifier
from convnet_edge.runtime.errors import InputError

DURATION_S = 0.3
SCENARIOS = list(loadgen.SCENARIOS)


@pytest.fixture(scope="module")
def classifier(model_bytes):
    return Classifier(model_bytes, threads=1)


@pytest.fixture(scope="module")
def measure(classifier, few, tmp_path_factory):
    """Measure in a folder whose audit.config would cut the runs to seven queries."""
    folder = tmp_path_factory.mktemp("loadgen")
    (folder / "audit.config").write_text("*.*.max_query_count = 7\n")

    def run(**changes):
        arguments = {"duration_s": DURATION_S, "log_dir": folder / "logs", **changes}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            return loadgen.run_loadgen(classifier, few.images, few.labels, **arguments)

    return run


@pytest.fixture(scope="module")
def runs(measure):
    found = measure(batch_size=48)  # leaves a rest
    return {f"{run.scenario}-{run.mode}": run for run in found}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_accuracy_run_scores_as_the_classifier_does(runs, classifier, few, scenario):
    run = runs[f"{scenario}-accuracy"]
    assert run.accuracy == float(np.mean(classifier(few.images).labels == few.labels))
    assert run.valid is None
    assert run.n_queries * run.results["samples_per_query"] == len(few)
    assert f"{run.accuracy * 100:.2f} %" in run.summary()


def test_single_stream_figures_are_those_of_loadgens_summary(runs):
    run = runs["single-stream-performance"]
    text = (run.log_dir / loadgen.SUMMARY_LOG).read_text()
    assert f"90.0th percentile latency (ns) : {run.results['latency_p90_ns']}\n" in text
    assert f"Result is : {run.results['result']}\n" in text
    assert run.valid is True
    assert run.accuracy is None
    assert run.n_queries * run.results["latency_mean_ns"] > DURATION_S * 0.5e9
    assert f"p90 {run.results['latency_p90_ns'] / 1e6:.3f} ms" in run.summary()
    assert f"{run.n_queries:,} queries" in run.summary()


def test_pace_too_slow_gives_invalid_and_says_so(measure, monkeypatch, capfd):
    monkeypatch.setattr(loadgen, "_fastest_run_ns", lambda *_: 10**9)
    for run in measure():
        if run.mode == "performance":
            assert run.valid is False
            assert run.results["result"] == "INVALID"
            assert run.results["min_duration_met"] is False
            assert "INVALID" in run.summary()
            assert any("expected" in sentence for sentence in run.recommendations)
            assert run.recommendations[0] in run.summary()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("scenario", "mode", "error"),
    [
        *((scenario, mode, InputError) for scenario in SCENARIOS for mode in loadgen.MODES),
        ("single-stream", "performance", KeyboardInterrupt),
    ],
)
def test_failure_and_ctrl_c_end_the_run_at_once(
    measure, classifier, monkeypatch, scenario, mode, error
):
    run, before, stages = classifier.session.run, signal.getsignal(signal.SIGINT), []

    def breaking(batch):
        stages.append("a run")
        if f"LoadGen {scenario} {mode}" in stages and stages[-20:] == ["a run"] * 20:
            if error is InputError:
                raise InputError("broken on purpose", expected="a run", next_step="none")
            signal.raise_signal(signal.SIGINT)
        return run(batch)

    monkeypatch.setattr(classifier.session, "run", breaking)
    duration_s = DURATION_S if error is InputError else 8
    started = time.monotonic()
    with pytest.raises(error):
        measure(stage=stages.append, batch_size=4, duration_s=duration_s)
    assert time.monotonic() - started < 8
    assert [stage for stage in stages if stage != "a run"][-1] == f"LoadGen {scenario} {mode}"
    assert signal.getsignal(signal.SIGINT) is before


def test_missing_package_says_what_installs_it(measure, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(InputError, match="pip install mlcommons-loadgen"):
        measure()
