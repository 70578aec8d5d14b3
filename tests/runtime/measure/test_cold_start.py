import json
import subprocess

import pytest

from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.measure import cold_start


@pytest.fixture(scope="module")
def found(exported):
    return cold_start.start_process(
        cold_start.Task(exported.model_path, threads=1, batch_sizes=(1, 4), steady_s=0.02)
    )


def test_parts_of_a_cold_start_add_up_to_the_whole(found):
    parts = [
        found.interpreter_ms, found.import_ms, found.read_ms, found.check_ms, found.session_ms,
        found.first_run_ms,
    ]  # fmt: skip
    assert min(parts) > 0
    assert sum(parts) <= found.total_ms
    assert found.total_ms < sum(parts) + 50


def test_first_runs_and_medians_are_of_each_batch_size(found):
    assert set(found.batch_first_run_ms) == {"4"}
    assert set(found.p50_ms) == {"1", "4"}
    assert found.p50_ms["4"] > found.p50_ms["1"] > 0
    assert len(found.samples_ns) >= cold_start.MIN_STEADY_RUNS
    assert "samples_ns" not in found.as_json()
    json.dumps(found.as_json(), allow_nan=False)


def test_outputs_of_the_fresh_process_are_checked(found, document):
    assert 0 <= found.error <= document["goldens"]["tolerance"]
    assert found.peak_memory_bytes > 10 << 20


def test_process_that_fails_is_an_input_error_with_its_last_words(exported):
    with pytest.raises(InputError, match="tpu"):
        cold_start.start_process(cold_start.Task(exported.model_path, provider="tpu"))


def test_process_that_is_killed_is_an_input_error(exported, monkeypatch):
    killed = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(InputError, match="exit -9"):
        cold_start.start_process(cold_start.Task(exported.model_path))
