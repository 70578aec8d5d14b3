import os
import subprocess
import sys
import time
import types

import faults
import numpy as np
import pytest
import tiny

from convnet_edge.runtime import Classifier
from convnet_edge.runtime import session as session_module
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.measure import machine
from convnet_edge.runtime.model_file import open_model
from convnet_edge.runtime.session import Bound, Session, Settings

MODEL = tiny.grey()


def test_session_reports_provider_threads_and_every_node():
    session = Session(MODEL, Settings(threads=1))
    assert (session.provider, session.threads) == ("cpu", 1)
    assert session.create_ms > 0
    if session.placement is not None:
        operations = [node.op_type for node in open_model(MODEL).nodes]
        assert session.placement == {"CPUExecutionProvider": operations}
    assert session.run(np.zeros((3, 1, 8, 8), np.float32)).shape == (3, 3)
    assert Session(MODEL).settings.threads == machine.usable_cores()


def test_unknown_provider_is_refused_with_those_that_there_are():
    with pytest.raises(InputError, match="cpu, cuda, openvino"):
        Session(MODEL, Settings("tpu"))


@pytest.mark.skipif(bool(machine.gpu_names()), reason="a GPU is here")
def test_session_on_cuda_without_it_never_runs_on_the_cpu():
    with pytest.raises(InputError, match="asked for cuda, which cannot be opened") as caught:
        Session(MODEL, Settings("cuda"))
    assert "--provider cpu" in caught.value.next_step
    assert "the CPU never takes its place unasked" in caught.value.expected


@pytest.fixture
def capi(tmp_path, monkeypatch):
    """The libraries' folder of an onnxruntime that claims CUDA and opens the CPU, as it does."""
    session = types.SimpleNamespace(
        get_providers=lambda: ["CPUExecutionProvider"], disable_fallback=lambda: None
    )
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    fake = types.SimpleNamespace(
        __file__=str(tmp_path / "onnxruntime" / "__init__.py"),
        __version__="0.0",
        SessionOptions=lambda: types.SimpleNamespace(add_session_config_entry=lambda *_: None),
        get_all_providers=lambda: names,
        get_available_providers=lambda: names,
        set_default_logger_severity=lambda _: None,
        InferenceSession=lambda *_, **__: session,
    )
    monkeypatch.setattr(session_module, "import_onnxruntime", lambda: fake)
    monkeypatch.setattr(machine, "gpu_names", lambda: ["NVIDIA Test"])
    folder = tmp_path / "onnxruntime" / "capi"
    folder.mkdir(parents=True)
    return folder


def test_a_library_that_does_not_load_is_named(capi):
    (capi / "libonnxruntime_providers_cuda.so").write_bytes(b"not a library")
    with pytest.raises(InputError, match=r"libonnxruntime_providers_cuda\.so"):
        Session(MODEL, Settings("cuda"))


@pytest.mark.parametrize(
    ("provider", "gpus", "named", "advice"),
    [
        ("cuda", ["NVIDIA Test"], "opened CPUExecutionProvider", "--provider cpu"),
        ("cuda", [], "no NVIDIA device", "install the NVIDIA driver"),
        ("openvino", [], "built without it", "onnxruntime-openvino"),
    ],
)
def test_silent_fallback_is_caught_by_asking_the_session(
    capi, monkeypatch, provider, gpus, named, advice
):
    monkeypatch.setattr(machine, "gpu_names", lambda: gpus)
    with pytest.raises(InputError, match=named) as caught:
        Session(MODEL, Settings(provider))
    assert advice in caught.value.next_step


def test_missing_onnxruntime_says_what_installs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(InputError, match="pip install onnxruntime"):
        Session(MODEL)


def test_an_operation_onnxruntime_does_not_know_is_an_input_error():
    def rename(proto):
        proto.graph.node[0].op_type = "NoSuchOperation"

    with pytest.raises(InputError, match="refuses the model"):
        Session(faults.change_graph(MODEL, rename))


@pytest.fixture(scope="module")
def batches():
    inputs = Classifier(MODEL).to_input(tiny.images(60))
    return inputs[:5], inputs[5:10]


def test_unfused_nodes_compute_the_same(batches):
    fused, apart = (Session(MODEL, Settings(threads=1, fuse=fuse)) for fuse in (True, False))
    assert np.abs(fused.run(batches[0]) - apart.run(batches[0])).max() <= tiny.TOLERANCE


@pytest.mark.parametrize("size", [1, 5])
def test_bound_runs_give_the_sessions_logits_which_outlive_the_next_run(batches, size):
    session = Session(MODEL, Settings(threads=1))
    first, second = (batch[:size] for batch in batches)
    bound, kept = Bound(session, first, 3), first.copy()
    found = [bound.run(batch) for batch in (first, second, first)]
    for batch, logits in zip((first, second, first), found, strict=True):
        assert np.array_equal(logits, session.run(batch))
    assert np.array_equal(first, kept)
    logits, parts_ns = bound.run_split(second)
    assert np.array_equal(logits, found[1])
    assert len(parts_ns) == 3
    assert min(parts_ns) > 0


def test_run_of_another_shape_is_an_input_error(batches):
    session = Session(MODEL)
    with pytest.raises(InputError, match=r"\(1, 3, 8, 8\)"):
        session.run(np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(InputError, match="could not run"):
        Bound(session, batches[0][:2], 3).run(batches[0][:3])


def test_runs_beyond_their_time_are_ended_and_later_ones_are_not(batches):
    session = Session(MODEL, Settings(threads=1))
    with session.limit(0.001):
        time.sleep(0.1)
        with pytest.raises(InputError, match="the runs were ended"):
            session.run(batches[0])
    assert session.run(batches[0]).shape == (5, 3)


def test_nothing_is_written_under_the_home_folder(tmp_path):
    model, home = tmp_path / "tiny.onnx", tmp_path / "home"
    model.write_bytes(MODEL)
    home.mkdir()
    code = f"from convnet_edge.runtime import Classifier; Classifier({str(model)!r})"
    told = {"HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=told, cwd=tmp_path)
    assert not [*home.rglob("*")]
