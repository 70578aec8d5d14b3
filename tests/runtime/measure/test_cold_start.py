import subprocess
from pathlib import Path

import pytest
import tiny

from convnet_edge.runtime import isolation
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.measure import cold_start
from convnet_edge.runtime.measure.verdict import MIN_RUNS
from convnet_edge.runtime.session import Settings


def test_parts_and_runs_of_a_cold_start(tiny_model):
    task = cold_start.Task(tiny_model, Settings(threads=1), batch_sizes=(1, 64), steady_s=0.02)
    found, samples_ns = cold_start.start_process(task)
    parts = [
        found.interpreter_ms, found.import_ms, found.read_ms, found.check_ms, found.session_ms,
        found.first_run_ms,
    ]  # fmt: skip
    assert min(parts) > 0
    assert sum(parts) <= found.total_ms < sum(parts) + 50
    assert set(found.batch_first_run_ms) == {"64"}
    assert found.p50_ms["64"] > found.p50_ms["1"] > 0
    assert len(samples_ns) >= MIN_RUNS
    assert 0 <= found.error <= tiny.TOLERANCE
    assert found.peak_memory_bytes > 10 << 20


def test_model_that_is_no_regular_file_is_refused_before_it_is_read():
    with pytest.raises(InputError, match="not a regular file"):  # /dev/zero would fill the memory
        cold_start.start_process(cold_start.Task(Path("/dev/null")))


@pytest.mark.parametrize(
    ("content", "provider", "met"),
    [(tiny.grey()[:-200], "cpu", None), (None, "cpu", None), (tiny.grey(), "tpu", "tpu")],
)
def test_error_met_in_the_process_is_the_one_that_is_raised(tmp_path, content, provider, met):
    path = tmp_path / "m.onnx"
    if content:
        path.write_bytes(content)
    with pytest.raises(InputError, match=met) as caught:
        cold_start.start_process(cold_start.Task(path, Settings(provider)))
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).count("; expected ") == str(caught.value).count("; next: ") == 1
    assert "fresh process" not in str(caught.value)


def test_process_that_is_killed_is_an_input_error(tiny_model, monkeypatch):
    killed = subprocess.CompletedProcess([], -9, b"", b"")
    monkeypatch.setattr(isolation, "start", lambda *_, **__: killed)
    with pytest.raises(InputError, match="exit -9"):
        cold_start.start_process(cold_start.Task(tiny_model))
