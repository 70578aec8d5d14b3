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
from convnet_edge.runtime.session import Session, Settings

FILE = open_model(tiny.grey())


def test_session_reports_provider_threads_and_every_node():
    session = Session(tiny.grey(), Settings(threads=1))
    assert (session.provider, session.threads) == ("cpu", 1)
    assert session.create_ms > 0
    if session.placement is not None:
        operations = [node.op_type for node in FILE.nodes]
        assert session.placement == {"CPUExecutionProvider": operations}
    assert session.run(np.zeros((3, 1, 8, 8), np.float32)).shape == (3, 3)


def test_session_takes_all_usable_cores_unless_told():
    assert Session(tiny.grey()).settings.threads == machine.usable_cores()


@pytest.mark.parametrize("threads", [0, -1])
def test_session_refuses_thread_counts_below_one(threads):
    with pytest.raises(InputError, match="threads"):
        Session(tiny.grey(), Settings(threads=threads))


def test_session_of_an_unknown_provider_names_the_known():
    with pytest.raises(InputError, match="cpu, cuda, openvino"):
        Session(tiny.grey(), Settings("tpu"))


@pytest.mark.skipif(bool(machine.gpu_names()), reason="a GPU is here")
def test_session_on_cuda_without_it_never_runs_on_the_cpu():
    with pytest.raises(InputError, match="asked for cuda, which cannot be opened") as caught:
        Session(tiny.grey(), Settings("cuda"))
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


def test_silent_fallback_is_caught_by_asking_the_session(tmp_path, monkeypatch):
    fake = fake_onnxruntime(tmp_path, "CPUExecutionProvider")
    monkeypatch.setattr(session_module, "import_onnxruntime", lambda: fake)
    monkeypatch.setattr(machine, "gpu_names", lambda: ["NVIDIA Test"])
    with pytest.raises(InputError, match="opened CPUExecutionProvider"):
        Session(tiny.grey(), Settings("cuda"))


def test_a_library_that_does_not_load_is_named(tmp_path, monkeypatch):
    capi = tmp_path / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    (capi / "libonnxruntime_providers_cuda.so").write_bytes(b"not a library")
    fake = fake_onnxruntime(tmp_path, "CPUExecutionProvider")
    monkeypatch.setattr(session_module, "import_onnxruntime", lambda: fake)
    with pytest.raises(InputError, match=r"libonnxruntime_providers_cuda\.so"):
        Session(tiny.grey(), Settings("cuda"))


def test_without_a_driver_the_next_step_is_the_driver(tmp_path, monkeypatch):
    fake = fake_onnxruntime(tmp_path, "CPUExecutionProvider")
    monkeypatch.setattr(session_module, "import_onnxruntime", lambda: fake)
    monkeypatch.setattr(machine, "gpu_names", list)
    with pytest.raises(InputError, match="no NVIDIA device") as caught:
        Session(tiny.grey(), Settings("cuda"))
    assert "install the NVIDIA driver" in caught.value.next_step


def test_missing_onnxruntime_says_what_installs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"convnet-edge\[cpu\]"):
        Session(tiny.grey())


def test_an_operation_onnxruntime_does_not_know_is_an_input_error():
    def rename(proto):
        proto.graph.node[0].op_type = "NoSuchOperation"

    with pytest.raises(InputError, match="refuses the model"):
        Session(faults.change_graph(tiny.grey(), rename))


def test_run_with_the_wrong_shape_is_an_input_error():
    with pytest.raises(InputError, match=r"\(1, 3, 8, 8\)"):
        Session(tiny.grey()).run(np.zeros((1, 3, 8, 8), np.float32))


def test_a_model_with_two_inputs_is_refused():
    def add_input(proto):
        proto.graph.input.add().CopyFrom(proto.graph.input[0])
        proto.graph.input[-1].name = "more"

    with pytest.raises(InputError, match="2 inputs"):
        Session(open_model(faults.change_graph(tiny.grey(), add_input)))


def test_unfused_nodes_compute_the_same():
    batch = Classifier(FILE).to_input(tiny.images(20))
    fused, apart = (Session(tiny.grey(), Settings(threads=1, fuse=fuse)) for fuse in (True, False))
    assert np.abs(fused.run(batch) - apart.run(batch)).max() <= tiny.TOLERANCE


@pytest.fixture
def batches():
    classifier = Classifier(FILE)
    return [classifier.to_input(tiny.images(60)[i : i + 5]) for i in (0, 5)]


def test_bound_runs_give_the_sessions_logits_which_outlive_the_next_run(batches):
    session = Session(tiny.grey(), Settings(threads=1))
    for size in (1, 5):
        first, second = (batch[:size] for batch in batches)
        bound, kept = session.bind(first, 3), first.copy()
        found = [bound.run(batch) for batch in (first, second, first)]
        for batch, logits in zip((first, second, first), found, strict=True):
            assert np.array_equal(logits, session.run(batch))
        assert np.array_equal(first, kept)


def test_split_times_are_those_of_each_part(batches):
    bound = Session(tiny.grey(), Settings(threads=1)).bind(batches[0], 3)
    logits, split = bound.run_split(batches[0])
    assert np.array_equal(logits, bound.run(batches[0]))
    assert min(split.host_to_device_ns, split.compute_ns, split.device_to_host_ns) > 0


def test_bound_run_of_another_shape_is_an_input_error(batches):
    bound = Session(tiny.grey()).bind(batches[0][:2], 3)
    with pytest.raises(InputError, match="could not run"):
        bound.run(batches[0][:3])
