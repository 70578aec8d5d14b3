import json
import subprocess
import sys
from dataclasses import replace

import faults
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from convnet_edge.data import fashion_mnist as data
from convnet_edge.exporting import export as export_module
from convnet_edge.exporting.options import ExportOptions
from convnet_edge.networks.convnet import Architecture, Convnet, reference_logits
from convnet_edge.runtime import Classifier, admission, contract
from convnet_edge.runtime.errors import CheckFailedError, InputError
from convnet_edge.runtime.model_file import open_model
from convnet_edge.sealing import parity

WHITE = contract.encode_pixels(np.full((28, 28), 255, np.uint8))


def test_exported_file_is_small_plain_and_whole(exported, model_bytes):
    proto = onnx.load_from_string(model_bytes)
    assert (proto.ir_version, proto.opset_import[0].version) == (8, 18)
    operations = "Slice Conv Relu MaxPool Conv Relu MaxPool Flatten Gemm Relu Gemm"
    assert [node.op_type for node in proto.graph.node] == operations.split()
    assert exported.report.model_bytes == len(model_bytes) < 1_000_000
    assert exported.n_parameters == 225_034
    assert [entry.key for entry in proto.metadata_props] == [contract.KEY]
    parts = (proto.graph.node, proto.graph.initializer, proto.graph.value_info)
    assert not any(item.metadata_props or item.doc_string for part in parts for item in part)
    assert b"site-packages" not in model_bytes
    assert all(check.passed for check in exported.report.checks)


def test_report_holds_what_was_proved(exported):
    report = json.loads(exported.report_path.read_text())
    assert report["passed"] is True
    names = {check["name"] for check in report["checks"]}
    assert {f"batch {size}" for size in parity.BATCH_SIZES} <= names
    assert {"onnx.checker", "graph digest", "label flips", "loads alone"} <= names
    assert report["comparison"]["n_images"] == 10_000
    assert report["tolerance"] == 8 * report["floor"]
    assert exported.picture.drawn


@pytest.fixture
def known(monkeypatch, reference):
    """Compute the reference logits no more: they are known."""
    monkeypatch.setattr(export_module, "reference_logits", lambda *_: None)
    monkeypatch.setattr(parity, "from_pytorch", lambda *_: reference)


def test_accuracy_of_the_file_is_that_of_the_checkpoint(exported, trained, reference):
    top_two = np.sort(reference.logits, axis=1)[:, -2:]
    n_unclear = (top_two[:, 1] - top_two[:, 0] < 2 * reference.tolerance).sum()
    assert abs(exported.score.n_correct - trained.test.n_correct) <= n_unclear


@pytest.fixture
def export(monkeypatch, trained, graph_bytes, reference, test_set, tmp_path):
    """Export a broken graph, proved on the first 1,000 test images; return its report."""
    few = replace(test_set, images=test_set.images[:1000], labels=test_set.labels[:1000])
    known = replace(reference, images=few.images, logits=reference.logits[:1000])
    monkeypatch.setattr(data, "load_test_set", lambda: few)
    monkeypatch.setattr(export_module, "reference_logits", lambda *_: None)
    monkeypatch.setattr(parity, "from_pytorch", lambda *_: known)
    older = tmp_path / "out" / "broken.onnx"
    older.parent.mkdir()

    def run(fault=lambda _: None, says="was not written"):
        broken = faults.change_graph(graph_bytes, fault)
        if fault is faults.mix_rows:  # else it would be refused before it can be proved wrong
            monkeypatch.setattr(admission, "admit", lambda *_: None)
        monkeypatch.setattr(export_module, "to_onnx", lambda *_, **__: broken)
        options = ExportOptions(checkpoint=trained.checkpoint_path, out=older)
        with pytest.raises(CheckFailedError, match=says) as caught:
            export_module.export(options)
        report = json.loads(older.with_suffix(".parity.json").read_text())
        assert report["passed"] is False
        failed = {row["name"] for row in report["checks"] if not row["passed"]}
        assert {line.split(": ")[0] for line in caught.value.details} == {
            f"[x] {name}" for name in failed
        }
        return failed

    return run


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (faults.fix_batch_axis, "dynamic batch axis"),
        (faults.nudge_one_weight, "logits against float64 PyTorch"),
        (faults.put_nan, "batch 64"),
        (faults.lower_opset, "opset"),
        (faults.raise_ir_version, "IR version"),
        (faults.move_weights_outside, "self-contained file"),
        (faults.mix_rows, "batch 3"),
        (faults.drop_a_class, "batch 1"),
    ],
)
def test_fault_in_the_graph_turns_export_red_and_leaves_no_file(export, tmp_path, fault, check):
    assert check in export(fault)
    assert list(tmp_path.rglob("*.onnx")) == []


@pytest.mark.parametrize(
    ("alter", "check"),
    [
        (lambda d: d["goldens"]["logits"][0].__setitem__(0, 9.0), "golden vectors, batch 1"),
        (lambda d: d["preprocessing"]["samples"][0].update(pixels=WHITE),
         "preprocessing samples"),
    ],
)  # fmt: skip
def test_fault_in_the_contract_turns_export_red(export, tmp_path, monkeypatch, alter, check):
    real = contract.seal

    def seal(graph, document):
        document = json.loads(json.dumps(document))
        alter(document)
        return real(graph, document)

    monkeypatch.setattr(contract, "seal", seal)
    assert check in export()
    assert list(tmp_path.rglob("*.onnx")) == []


@pytest.mark.parametrize("digest", ["graph_sha256", "contract_sha256"])
def test_wrong_digest_turns_export_red(export, tmp_path, monkeypatch, digest):
    real = contract.seal

    def seal(graph, document):
        sealed = real(graph, document)
        stated = getattr(open_model(sealed).contract, digest).encode()
        return sealed.replace(stated, b"0" * 63 + b"1")

    monkeypatch.setattr(contract, "seal", seal)
    export(says="digest")
    assert list(tmp_path.rglob("*.onnx")) == []


def test_older_file_survives_a_failed_export(export, tmp_path):
    older = tmp_path / "out" / "broken.onnx"
    older.write_bytes(b"older")
    export(faults.nudge_one_weight, says="older file of that name is untouched")
    assert older.read_bytes() == b"older"


def test_prove_without_faults_passes(model_bytes, reference):
    proof = export_module.prove(model_bytes, reference)
    assert [check.line() for check in proof.checks if not check.passed] == []
    assert proof.comparison.max_error <= reference.tolerance


@pytest.mark.parametrize("kernel_size", [1, 5])
def test_other_kernel_sizes_export_with_the_same_proof(kernel_size, test_set):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Convnet(Architecture(kernel_size=kernel_size))
    graph = export_module.to_onnx(model, (1, 28, 28))
    images = test_set.images[:300]
    reference = parity.from_pytorch(images, reference_logits(model, images))
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images[:, None].astype(np.float32) / 255})
    assert np.abs(logits - reference.logits).max() <= reference.tolerance


def test_exporter_that_gives_up_is_named_with_its_versions(monkeypatch):
    def give_up(*_, **__):
        raise RuntimeError("a pass failed")  # as onnxscript 0.5 does with torch 2.9

    monkeypatch.setattr(torch.onnx, "export", give_up)
    with pytest.raises(CheckFailedError, match=f"torch {torch.__version__.split('+')[0]}"):
        export_module.to_onnx(Convnet(Architecture()), (1, 28, 28))


def test_missing_checkpoint_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match="convnet-edge train"):
        export_module.export(ExportOptions(checkpoint=tmp_path / "none.safetensors"))


def test_file_alone_in_another_folder_runs(model_bytes, tmp_path, test_set):
    path = tmp_path / "elsewhere" / "renamed.bin"
    path.parent.mkdir()
    path.write_bytes(model_bytes)
    assert Classifier(path).logits(test_set.images[:2]).shape == (2, 10)


@pytest.mark.slow
@pytest.mark.usefixtures("known")
def test_uint8_input_gives_the_same_network(trained, reference, tmp_path, test_set, model_bytes):
    result = export_module.export(
        ExportOptions(
            checkpoint=trained.checkpoint_path, input="uint8", out=tmp_path / "other.onnx"
        )
    )
    data = result.model_path.read_bytes()
    proto, plain = onnx.load_from_string(data), onnx.load_from_string(model_bytes)
    operations = [node.op_type for node in proto.graph.node if node.op_type != "Cast"]
    assert operations == [node.op_type for node in plain.graph.node]
    classifier = Classifier(data)
    assert classifier.contract.input_dtype == "uint8"
    assert classifier.to_input(test_set.images[:3]).dtype == np.uint8
    largest = np.abs(classifier.logits(test_set.images) - reference.logits).max()
    assert largest <= reference.tolerance


@pytest.mark.slow
@pytest.mark.parametrize("input_type", ["float32", "uint8"])
def test_export_in_another_process_gives_the_same_bytes(trained, tmp_path, input_type):
    files = []
    for name in ("a", "b"):
        out = tmp_path / name / "model.onnx"
        subprocess.run(
            [sys.executable, "-m", "convnet_edge", "export", str(trained.checkpoint_path),
             "--input", input_type, "--out", str(out)],
            check=True, capture_output=True, cwd=tmp_path,
        )  # fmt: skip
        files.append(out.read_bytes())
    assert files[0] == files[1]
