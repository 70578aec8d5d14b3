import json
import signal
import sys
import threading
import time

import mlperf_loadgen
import numpy as np
import pytest

from convnet_edge.commands import loadgen
from convnet_edge.runtime.classifier import Classifier
from convnet_edge.runtime.errors import CheckFailedError, InputError

N = 500
DURATION_S = 0.3
NAMES = [f"{scenario}-{mode}" for scenario in loadgen.SCENARIOS for mode in loadgen.MODES]


@pytest.fixture
def classifier(model_bytes):
    return Classifier(model_bytes, threads=1)


@pytest.fixture
def measure(classifier, test_set, tmp_path):
    def run(**changes):
        arguments = {"duration_s": DURATION_S, "log_dir": tmp_path / "logs", **changes}
        return loadgen.run_loadgen(
            classifier, test_set.images[:N], test_set.labels[:N], **arguments
        )

    return run


@pytest.fixture(scope="module")
def runs(model_bytes, test_set, tmp_path_factory):
    """The four runs, in a folder whose audit.config would cut them to seven queries."""
    folder = tmp_path_factory.mktemp("loadgen")
    (folder / "audit.config").write_text("*.*.max_query_count = 7\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        found = loadgen.run_loadgen(
            Classifier(model_bytes, threads=1),
            test_set.images[:N],
            test_set.labels[:N],
            duration_s=DURATION_S,
            log_dir=folder / "logs",
            batch_size=48,  # leaves a rest
        )
    return {f"{run.scenario}-{run.mode}": run for run in found}


def test_every_run_keeps_loadgens_own_logs(runs):
    assert list(runs) == NAMES
    for name, run in runs.items():
        assert run.log_dir.name == name
        assert "loadgen_version" in (run.log_dir / loadgen.DETAIL_LOG).read_text()
        assert (run.log_dir / loadgen.SUMMARY_LOG).stat().st_size > 0
        assert json.loads((run.log_dir / loadgen.ACCURACY_LOG).read_text()) or "perf" in name


@pytest.mark.parametrize("scenario", loadgen.SCENARIOS)
def test_accuracy_run_scores_as_the_classifier_does(runs, classifier, test_set, scenario):
    run = runs[f"{scenario}-accuracy"]
    labels = classifier(test_set.images[:N]).labels
    assert run.accuracy == float(np.mean(labels == test_set.labels[:N]))
    assert run.valid is None
    assert run.n_queries * run.results["samples_per_query"] == N
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


def test_offline_query_is_drawn_to_outlast_the_duration(runs):
    run = runs["offline-performance"]
    text = (run.log_dir / loadgen.SUMMARY_LOG).read_text()
    assert f"Samples per second: {float(run.results['samples_per_s']):.6g}\n" in text
    assert run.valid is True
    assert run.n_queries == 1
    assert run.results["samples_per_query"] >= run.results["samples_per_s"] * DURATION_S
    assert "VALID" in run.summary()
    assert "images/s, 1 query of" in run.summary()


def test_audit_config_of_the_current_folder_changes_nothing(runs):
    for run in runs.values():
        assert run.n_queries * run.results["samples_per_query"] > 7
        assert '"effective_max_query_count", "value": 0' in (
            (run.log_dir / loadgen.DETAIL_LOG).read_text()
        )


def test_json_is_plain_and_complete(runs):
    document = loadgen.as_json(list(runs.values()))
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert [f"{entry['scenario']}-{entry['mode']}" for entry in document] == NAMES
    assert document[0]["log_dir"] == str(runs[NAMES[0]].log_dir)


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


@pytest.mark.parametrize("name", NAMES)
def test_failing_model_surfaces_and_the_process_lives(measure, classifier, monkeypatch, name):
    scenario, mode = name.rsplit("-", 1)

    def stage(text):
        if text == f"LoadGen {scenario} {mode}":
            monkeypatch.setattr(classifier.session, "run", fail_after(20, classifier.session.run))

    with pytest.raises(InputError, match="broken on purpose"):
        measure(stage=stage, batch_size=4)


def fail_after(n_runs, run):
    count = 0

    def failing(batch):
        nonlocal count
        count += 1
        if count > n_runs:
            raise InputError("broken on purpose", expected="a run", next_step="none")
        return run(batch)

    return failing


def test_logits_of_too_few_rows_are_refused(measure, classifier, monkeypatch):
    run = classifier.session.run
    monkeypatch.setattr(classifier.session, "run", lambda batch: run(batch)[:1])
    with pytest.raises(ValueError, match="output array"):
        measure()


def test_ctrl_c_ends_the_run_before_its_duration(measure, classifier, monkeypatch):
    duration_s = 8
    run = classifier.session.run
    stages = []

    def interrupted(batch):
        if stages[-1] == "LoadGen single-stream performance":
            signal.raise_signal(signal.SIGINT)
        return run(batch)

    monkeypatch.setattr(classifier.session, "run", interrupted)
    before = signal.getsignal(signal.SIGINT)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        measure(stage=stages.append, duration_s=duration_s)
    assert time.monotonic() - started < duration_s
    assert stages[-1] == "LoadGen single-stream performance"
    assert signal.getsignal(signal.SIGINT) is before


def test_runs_off_the_main_thread(measure):
    found = []
    thread = threading.Thread(target=lambda: found.extend(measure(duration_s=0.05)))
    thread.start()
    thread.join()
    assert [f"{run.scenario}-{run.mode}" for run in found] == NAMES


def test_earlier_logs_do_not_pass_for_those_of_a_run_that_wrote_none(measure, monkeypatch):
    measure(duration_s=0.05)
    monkeypatch.setattr(mlperf_loadgen, "StartTestWithLogSettings", lambda *_: None)
    with pytest.raises(CheckFailedError, match="lacks generated_query_count"):
        measure()


@pytest.mark.parametrize("kept", [slice(1, None), slice(None, -1)])
def test_accuracy_log_without_one_image_is_refused(runs, test_set, tmp_path, kept):
    entries = json.loads((runs[NAMES[0]].log_dir / loadgen.ACCURACY_LOG).read_text())
    path = tmp_path / "log.json"
    path.write_text(json.dumps(entries[kept]))
    with pytest.raises(CheckFailedError, match=f"{N - 1} answers"):
        loadgen._read_accuracy(path, test_set.labels[:N])


def test_missing_package_says_what_installs_it(measure, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(InputError, match=r'pip install "convnet-edge\[loadgen\]"'):
        measure()


def test_file_in_the_folders_place_is_an_input_error(measure, tmp_path):
    (tmp_path / "logs").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        measure()


@pytest.mark.parametrize("wrong", [{"duration_s": 0}, {"batch_size": 0}])
def test_senseless_settings_are_refused(measure, wrong):
    with pytest.raises(ValueError, match="duration"):
        measure(**wrong)


def test_differing_numbers_of_labels_are_refused(classifier, test_set, tmp_path):
    with pytest.raises(ValueError, match="3 images for 2 labels"):
        loadgen.run_loadgen(
            classifier, test_set.images[:3], test_set.labels[:2], duration_s=1, log_dir=tmp_path
        )
