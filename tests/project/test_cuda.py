"""What a machine with an NVIDIA GPU must pass: `make test-cuda` there."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from convnet_edge.exporting.export import export
from convnet_edge.exporting.options import ExportOptions
from convnet_edge.runtime import Classifier, selftest
from convnet_edge.runtime.errors import InterruptedRunError
from convnet_edge.runtime.session import Bound, Settings
from convnet_edge.training import loop
from convnet_edge.training.options import TrainOptions
from convnet_edge.training.run import GraphedStep, Run

pytestmark = pytest.mark.cuda


def test_cuda_holds_the_cpus_goldens_and_parity(model_bytes, reference):
    classifier = Classifier(model_bytes, provider="cuda")
    checks = selftest.run_selftest(classifier)
    assert all(check.passed for check in checks), [check.line() for check in checks]
    logits = classifier.logits(reference.images)
    assert np.abs(logits - reference.logits).max() <= reference.tolerance


@pytest.mark.parametrize("options", [[], ["--io-binding"], ["--cuda-graph"]])
def test_bench_on_cuda_says_so(run, on_few, exported, options):
    result = run("bench", exported.model_path, "--provider", "cuda", "--quick", "--out", "r.json",
                 "--json", *options)  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["provider"]["obtained"] == "cuda"
    assert found["provider"]["precision"] == "float32"
    assert set(found["provider"]["n_nodes_run"]) == {"CUDA"}
    assert any(name.startswith("libcudart") for name in found["provider"]["gpu_libraries"])
    assert found["machine"]["gpus"]
    assert found["accuracy"]["n_correct"] == pytest.approx(exported.score.n_correct, abs=1)
    assert found["cost"]["peak_multiplications_per_s"] > 0
    for row in found["latency"]:
        assert row["verdict"]["status"] != "INVALID"
        assert (row["split"] is not None) == (options in (["--io-binding"], ["--cuda-graph"]))


def test_captured_graph_replays_new_images(exported, few):
    settings = Settings(provider="cuda", cuda_graph=True)
    plain = Classifier(exported.model_path, provider="cuda")
    graphed = Classifier(exported.model_path, settings=settings)
    batches = [plain.to_input(few.images[i : i + 8]) for i in (0, 8, 16)]
    bound = Bound(graphed.session, batches[0], 10)
    for batch in (*batches, *batches):
        assert np.abs(bound.run(batch) - plain.session.run(batch)).max() < 1e-5


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"recipe": "fast"}])
def test_training_on_cuda_exports_with_the_same_proof(tmp_path, on_few, options):
    out = tmp_path / "gpu.safetensors"
    config = TrainOptions(data="sample", epochs=2, device="cuda", out=out)
    assert loop.train(replace(config, **options)).test.accuracy > 0.7
    exported = export(ExportOptions(checkpoint=out, out=tmp_path / "gpu.onnx"))
    assert all(check.passed for check in exported.report.checks)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_network_of_torchvision_trained_on_cuda_exports_and_runs_there(tmp_path, on_few, precision):
    out = tmp_path / "gpu.safetensors"
    options = TrainOptions(
        data="sample", arch="torchvision:mobilenet_v3_small", image_size=(32, 32), epochs=1,
        device="cuda", precision=precision, out=out,
    )  # fmt: skip
    assert loop.train(options).test.accuracy > 0.3
    exported = export(ExportOptions(checkpoint=out, out=tmp_path / "gpu.onnx"))
    assert all(check.passed for check in exported.report.checks)
    checks = selftest.run_selftest(Classifier(exported.model_path, provider="cuda"))
    assert all(check.passed for check in checks), [check.line() for check in checks]


def start_run(tmp_path, **options):
    out = tmp_path / "x.safetensors"
    given = TrainOptions(data="sample", validate=16, out=out, batch_size=64, **options)
    return Run(given, device=torch.device("cuda"))


def run_epoch(run, step):
    with loop.without_tf32():
        return loop._train_epoch(run, step, lambda _: None)


@pytest.mark.parametrize("recipe", ["tutorial", "best"])
def test_graphed_steps_are_the_eager_ones(tmp_path, recipe):
    graphed, eager = (start_run(tmp_path, recipe=recipe) for _ in range(2))
    first = run_epoch(graphed, GraphedStep(graphed))
    second = run_epoch(eager, eager.step)
    assert first.mean_loss == pytest.approx(second.mean_loss, rel=2e-3)
    for mine, theirs in zip(graphed.model.parameters(), eager.model.parameters(), strict=True):
        assert (mine - theirs).norm() < 0.05 * theirs.norm()
    assert torch.isfinite(graphed.loss_sum)


def test_steps_never_make_the_host_wait(tmp_path, monkeypatch):
    run = start_run(tmp_path, recipe="best")
    step = GraphedStep(run)
    run_epoch(run, step)  # captures
    real = GraphedStep.__call__

    def watched(self, *arguments):
        torch.cuda.set_sync_debug_mode("error")
        try:
            real(self, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(GraphedStep, "__call__", watched)
    assert run_epoch(run, step).mean_loss > 0


def test_resume_on_cuda_goes_on_from_the_last_epoch(tmp_path, monkeypatch):
    config = TrainOptions(data="sample", epochs=2, device="cuda", out=tmp_path / "x.safetensors")
    real = loop._train_epoch

    def stop_in_the_second(run, *others):
        if run.epochs:
            raise KeyboardInterrupt
        return real(run, *others)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_train_epoch", stop_in_the_second)
        with pytest.raises(InterruptedRunError, match="1 complete of 2"):
            loop.train(config)
    result = loop.train(replace(config, resume=True))
    assert [epoch.epoch for epoch in result.epochs] == [1, 2]
    assert result.epochs[1].mean_loss < result.epochs[0].mean_loss
