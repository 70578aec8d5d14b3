from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny

from convnet_edge.runtime import Classifier
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.measure import cost
from convnet_edge.runtime.session import Session


@pytest.fixture
def classifier():
    return Classifier(tiny.grey(), threads=1)


def event(name, op_type, provider, microseconds):
    args = {"op_name": op_type, "provider": f"{provider}ExecutionProvider"}
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds, "args": args}


@pytest.mark.parametrize("integers", [False, True])
def test_product_model_is_valid_onnx_and_multiplies(integers):
    model = cost.product_model(integers=integers)
    onnx.checker.check_model(onnx.load_from_string(model))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).integers(0, 255, (cost.SIDE, cost.SIDE))
    x = x.astype(np.uint8) if integers else x.astype(np.float32)
    weights = onnx.numpy_helper.to_array(onnx.load_from_string(model).graph.initializer[0])
    (found,) = session.run(None, {"x": x})
    expected = x.astype(np.float64) @ weights.astype(np.float64)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_estimate_states_work_bytes_peak_and_bound(classifier):
    found = cost.estimate(classifier)
    weights = tiny.weights()
    per_image = 36 * weights["conv.weight"].size + weights["linear.weight"].size
    assert found.n_multiplications == per_image
    assert found.weight_bytes >= 4 * sum(values.size for values in weights.values())
    assert found.peak_of == "float32 matrix product"
    assert 1e8 < found.peak_multiplications_per_s < 1e13
    least_ms = 1e3 * found.n_multiplications / found.peak_multiplications_per_s
    assert found.bound_ms == pytest.approx(least_ms)


def test_without_a_peak_there_is_no_bound(classifier, monkeypatch):
    def refuse(*_, **__):
        raise cost.InputError("no", expected="yes", next_step="-")

    monkeypatch.setattr(cost, "measure_peak", refuse)
    found = cost.estimate(classifier)
    assert found.peak_multiplications_per_s is None
    assert found.bound_ms is None


def test_product_runs_with_the_classifiers_threads(classifier, monkeypatch):
    seen, real = [], cost.Session
    monkeypatch.setattr(cost, "Session", lambda *task: seen.append(task) or real(*task))
    cost.measure_peak(classifier, integers=True)
    ((_, settings),) = seen
    assert (settings.provider, settings.threads) == ("cpu", 1)


def test_profile_that_a_full_disk_cut_short_is_one_error(classifier, monkeypatch):
    end = Session.end_profile

    def cut(session):
        path = Path(end(session))
        path.write_bytes(path.read_bytes()[:4096])
        return str(path)

    monkeypatch.setattr(Session, "end_profile", cut)
    with pytest.raises(InputError, match=r"the profile is incomplete; .* free space in TMPDIR"):
        cost.profile(classifier, tiny.images(1))


def test_profile_of_the_model_covers_its_nodes(classifier):
    nodes = cost.profile(classifier, tiny.images(1))
    assert {"Conv", "MaxPool", "Gemm"} <= {node.op_type.removeprefix("Fused") for node in nodes}
    assert {node.provider for node in nodes} == {"CPU"}
    assert abs(sum(node.share for node in nodes) - 1) < 1e-9


def test_runs_that_warm_up_do_not_count():
    events = [event("a", "Conv", "CUDA", 1000)] * cost.N_WARMUP
    events += [event("a", "Conv", "CUDA", 10)] * 5 + [event("b", "Relu", "CUDA", 30)] * 15
    first, second = cost.summarize([*events, {"cat": "Session", "name": "run", "dur": 1}])
    assert (first.name, first.op_type, first.provider) == ("a", "Conv", "CUDA")
    assert (first.median_us, second.median_us) == (10, 30)
    assert first.share == 0.25
