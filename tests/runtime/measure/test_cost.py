import numpy as np
import onnx
import onnxruntime
import pytest

from convnet_edge.runtime import Classifier
from convnet_edge.runtime.measure import cost
from convnet_edge.runtime.session import MatrixProduct


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


def test_estimate_states_work_bytes_peak_and_bound(model_bytes):
    found = cost.estimate(Classifier(model_bytes, threads=1))
    assert found.n_multiplications == 2_215_168
    assert 900_000 < found.weight_bytes < 910_000
    assert found.peak_of == "float32 matrix product"
    assert 1e8 < found.peak_multiplications_per_s < 1e13
    least_ms = 1e3 * found.n_multiplications / found.peak_multiplications_per_s
    assert found.bound_ms == pytest.approx(least_ms)


def test_estimate_of_integers_takes_the_integer_peak(quantised):
    result = quantised["ort-cpu"]
    found = cost.estimate(Classifier(result.model_path, threads=1))
    assert found.peak_of == "int8 matrix product"
    assert found.n_multiplications == 2_215_168
    assert found.weight_bytes < 240_000


def test_without_a_peak_there_is_no_bound():
    assert cost.Cost(1000, 10, None, "float32 matrix product").bound_ms is None
    assert cost.Cost(None, 10, 1e9, "float32 matrix product").bound_ms is None


def test_product_runs_with_the_classifiers_threads(model_bytes, monkeypatch):
    seen = []
    real = MatrixProduct.__init__

    def spy(self, model, like):
        seen.append(like.threads)
        real(self, model, like)

    monkeypatch.setattr(MatrixProduct, "__init__", spy)
    cost.measure_peak(Classifier(model_bytes, threads=1), integers=False)
    assert seen == [1]
