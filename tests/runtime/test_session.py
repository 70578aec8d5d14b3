import types

import numpy as np
import pytest
from faults import change_graph

from convnet_edge.runtime import model_file as onnxfile
from convnet_edge.runtime import session as session_module
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.measure import machine
from convnet_edge.runtime.session import Session


def test_session_reports_provider_threads_and_every_node(model_bytes):
    session = Session(model_bytes, threads=1)
    assert (session.provider, session.threads) == ("cpu", 1)
    assert session.create_ms > 0
    if session.placement is not None:
        (placed,) = session.placement
        assert placed.provider == "CPUExecutionProvider"
        assert len(placed.op_types) == len(onnxfile.parse(model_bytes).nodes)
    assert session.run(np.zeros((3, 1, 28, 28), np.float32)).shape == (3, 10)


def test_session_takes_all_usable_cores_unless_told(model_bytes):
    assert Session(model_bytes).threads == machine.usable_cores()


@pytest.mark.parametrize("threads", [0, -1])
def test_session_refuses_thread_counts_below_one(model_bytes, threads):
    with pytest.raises(InputError, match="threads"):
        Session(model_bytes, threads=threads)


def test_session_of_an_unknown_provider_names_the_known(model_bytes):
    with pytest.raises(InputError, match="cpu, cuda, openvino"):
        Session(model_bytes, provider="tpu")


@pytest.mark.skipif(bool(machine.gpu_names()), reason="a GPU is here")
def test_session_on_cuda_without_it_never_runs_on_the_cpu(model_bytes):
    with pytest.raises(InputError, match="asked for cuda, which cannot be opened") as caught:
        Session(model_bytes, provider="cuda")
    assert "--provider cpu" in caught.value.next_step


def fake_onnxruntime(tmp_path, obtained):
    """An onnxruntime that claims CUDA and gives what `obtained` says, as the real one does."""
    session = types.SimpleNamespace(get_providers=lambda: [obtained], disable_fallback=lambda: None)
    return types.SimpleNamespace(
        __file__=str(tmp_path / "onnxruntime" / "__init__.py"),
        __version__="0.0",
        SessionOptions=lambda: types.SimpleNamespace(add_session_config_entry=lambda *_: None),
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        set_default_logger_severity=lambda _: None,
        InferenceSession=lambda *_, **__: session,
    )


def test_silent_fallback_is_caught_by_asking_the_session(model_bytes, tmp_path, monkeypatch):
    fake = fake_onnxruntime(tmp_path, "CPUExecutionProvider")
    monkeypatch.setattr(session_module, "import_onnxruntime", lambda: fake)
    monkeypatch.setattr(machine, "gpu_names", lambda: ["NVIDIA Test"])
    with pytest.raises(InputError, match="opened CPUExecutionProvider"):
        Session(model_bytes, provider="cuda")


def test_a_library_that_does_not_load_is_named(model_bytes, tmp_path, monkeypatch):
    capi = tmp_path / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    (capi / "libonnxruntime_providers_cuda.so").write_bytes(b"not a library")
    fake = fake_onnxruntime(tmp_path, "CPUExecutionProvider")
    monkeypatch.setattr(session_module, "import_onnxruntime", lambda: fake)
    with pytest.raises(InputError, match=r"libonnxruntime_providers_cuda\.so"):
        Session(model_bytes, provider="cuda")


def test_without_a_driver_the_next_step_is_the_driver(model_bytes, tmp_path, monkeypatch):
    fake = fake_onnxruntime(tmp_path, "CPUExecutionProvider")
    monkeypatch.setattr(session_module, "import_onnxruntime", lambda: fake)
    monkeypatch.setattr(machine, "gpu_names", list)
    with pytest.raises(InputError, match="no NVIDIA device") as caught:
        Session(model_bytes, provider="cuda")
    assert "install the NVIDIA driver" in caught.value.next_step


def test_missing_onnxruntime_says_what_installs_it(model_bytes, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"convnet-edge\[cpu\]"):
        Session(model_bytes)


def test_an_operation_onnxruntime_does_not_know_is_an_input_error(model_bytes):
    def rename(proto):
        proto.graph.node[0].op_type = "NoSuchOperation"

    with pytest.raises(InputError, match="refuses the model"):
        Session(change_graph(model_bytes, rename))


def test_run_with_the_wrong_shape_is_an_input_error(model_bytes):
    with pytest.raises(InputError, match=r"\(1, 3, 28, 28\)"):
        Session(model_bytes).run(np.zeros((1, 3, 28, 28), np.float32))


def test_a_model_with_two_inputs_is_refused(model_bytes):
    def add_input(proto):
        proto.graph.input.add().CopyFrom(proto.graph.input[0])
        proto.graph.input[-1].name = "more"

    with pytest.raises(InputError, match="2 inputs"):
        Session(change_graph(model_bytes, add_input))
