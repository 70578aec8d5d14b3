"""What a machine with an NVIDIA GPU must pass: `make test-cuda` there."""

import json

import numpy as np
import pytest

from convnet_edge.runtime import Classifier, machine, selftest

pytestmark = pytest.mark.cuda


def test_every_node_runs_on_cuda(exported):
    classifier = Classifier(exported.model_path, provider="cuda")
    placement = classifier.session.placement
    assert placement is None or {p.provider for p in placement} == {"CUDAExecutionProvider"}
    assert any(name.startswith("libcudart") for name in machine.mapped_gpu_libraries())


def test_cuda_holds_the_cpus_goldens_and_parity(exported, model_bytes, reference):
    classifier = Classifier(model_bytes, provider="cuda")
    checks = selftest.run_selftest(model_bytes, classifier)
    assert all(check.passed for check in checks), [check.line() for check in checks]
    logits = classifier.logits(reference.images)
    assert np.abs(logits - reference.logits).max() <= reference.tolerance


def test_bench_on_cuda_says_so(run, exported):
    result = run("bench", exported.model_path, "--provider", "cuda", "--duration", "0.2",
                 "--out", "r.json", "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["provider"]["obtained"] == "cuda"
    assert document["machine"]["gpus"]


def test_training_on_cuda_exports_with_the_same_proof(tmp_path):
    from convnet_edge import export, train
    from convnet_edge.config import ExportConfig, TrainConfig

    out = tmp_path / "gpu.safetensors"
    result = train.train(TrainConfig(data="sample", epochs=1, device="cuda", out=out))
    assert result.test.accuracy > 0.7
    exported = export.export(ExportConfig(checkpoint=out, out=tmp_path / "gpu.onnx"))
    assert all(check.passed for check in exported.checks)
