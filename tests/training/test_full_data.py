"""The chain on the real data, through the commands that the README shows."""

import json
import sys

import environments
import pytest

from convnet_edge.sealing.default_model import shipped_model

N_EPOCHS = 3
ACCURACY_FLOOR = 0.86  # three epochs with seed 0 gave 89.43 % (one run, 2 threads)
SHIPPED_ACCURACY_FLOOR = 0.928


def convnet_edge(*arguments, cwd):
    return environments.run(sys.executable, "-m", "convnet_edge", *arguments, cwd=cwd)


@pytest.mark.slow
def test_train_export_verify_bench_predict_on_the_full_data(tmp_path):
    convnet_edge("train", "--epochs", N_EPOCHS, cwd=tmp_path)
    record = json.loads((tmp_path / "checkpoints" / "convnet.train.json").read_text())
    assert record["training"]["n_images"] == 60_000
    assert record["test"]["accuracy"] >= ACCURACY_FLOOR
    convnet_edge("export", cwd=tmp_path)
    convnet_edge("verify", "--against", "checkpoints/convnet.safetensors", cwd=tmp_path)
    convnet_edge("bench", cwd=tmp_path)
    result = json.loads((tmp_path / "benchmarks" / "results" / "convnet-cpu.json").read_text())
    assert abs(result["accuracy"]["n_correct"] - record["test"]["n_correct"]) <= 1
    assert (tmp_path / "benchmarks" / "results" / "convnet-cpu.json").stat().st_size <= 200_000
    convnet_edge("predict", cwd=tmp_path)
    assert (tmp_path / "runs" / "predictions.png").exists()


@pytest.mark.slow
def test_quickstart_runs_the_chain_and_draws_its_pictures(tmp_path):
    printed = convnet_edge("quickstart", cwd=tmp_path)
    folder = tmp_path / "runs" / "quickstart"
    assert "next: convnet-edge train" in printed
    assert "convnet.int8.onnx" in printed
    assert (folder / "convnet.pyz").stat().st_size > 500_000
    assert (folder / "report.html").stat().st_size > 20_000
    for name in ("convnet.train.png", "convnet.parity.png", "report.latency.png",
                 "bench/convnet-cpu.latency.png", "bench/convnet-cpu.confusion.png",
                 "bench/convnet-cpu.predictions.png",
                 "bench/convnet.int8-cpu.differences.png"):  # fmt: skip
        assert (folder / name).stat().st_size > 5_000


@pytest.mark.slow
def test_shipped_model_is_proved_and_as_good_as_its_card_says(run):
    model = shipped_model()
    result = run("verify", model, "--json")
    assert result.exit_code == 0, result.output
    result = run("bench", model, "--duration", "0.05", "--batch-sizes", "1", "--out", "r.json",
                 "--json")  # fmt: skip
    found = json.loads(result.stdout)["accuracy"]
    assert found["accuracy"] >= SHIPPED_ACCURACY_FLOOR
    stated = json.loads(run("inspect", model, "--json").stdout)["contract"]
    assert abs(found["n_correct"] - stated["measured"]["n_correct"]) <= 2
    assert stated["training"]["n_images"] == 60_000
    assert model.stat().st_size < 1_000_000
