import subprocess

import pytest
import tiny

from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.measure import cold_start
from convnet_edge.runtime.measure.verdict import MIN_RUNS
from convnet_edge.runtime.session import Settings


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    path.write_bytes(tiny.grey())
    return path


@pytest.fixture(scope="module")
def answered(model_path):
    return cold_start.start_process(
        cold_start.Task(model_path, Settings(threads=1), batch_sizes=(1, 64), steady_s=0.02)
    )


def test_parts_of_a_cold_start_add_up_to_the_whole(answered):
    found, _ = answered
    parts = [
        found.interpreter_ms, found.import_ms, found.read_ms, found.check_ms, found.session_ms,
        found.first_run_ms,
    ]  # fmt: skip
    assert min(parts) > 0
    assert sum(parts) <= found.total_ms
    assert found.total_ms < sum(parts) + 50


def test_first_runs_and_medians_are_of_each_batch_size(answered):
    found, samples_ns = answered
    assert set(found.batch_first_run_ms) == {"64"}
    assert set(found.p50_ms) == {"1", "64"}
    assert found.p50_ms["64"] > found.p50_ms["1"] > 0
    assert len(samples_ns) >= MIN_RUNS


def test_outputs_of_the_fresh_process_are_checked(answered):
    found, _ = answered
    assert 0 <= found.error <= tiny.TOLERANCE
    assert found.peak_memory_bytes > 10 << 20


def test_process_that_fails_is_an_input_error_with_its_last_words(model_path):
    with pytest.raises(InputError, match="tpu"):
        cold_start.start_process(cold_start.Task(model_path, Settings(provider="tpu")))


def test_process_that_is_killed_is_an_input_error(model_path, monkeypatch):
    killed = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(InputError, match="exit -9"):
        cold_start.start_process(cold_start.Task(model_path))
