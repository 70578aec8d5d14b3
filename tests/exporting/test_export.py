import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import faults
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from convnet_edge.data import fashion_mnist as data
from convnet_edge.exporting import graph
from convnet_edge.exporting.export import export
from convnet_edge.exporting.options import ExportOptions
from convnet_edge.networks import convnet
from convnet_edge.networks.convnet import Architecture, Convnet
from convnet_edge.runtime import Classifier, admission, contract
from convnet_edge.runtime.errors import CheckFailedError
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


def test_report_holds_what_was_proved(exported):
    report = json.loads(exported.report_path.read_text())
    assert report["passed"] is True
    assert [check.line() for check in exported.report.checks if not check.passed] == []
    names = {check["name"] for check in report["checks"]}
    assert {f"batch {size}" for size in parity.BATCH_SIZES} <= names
    assert {"onnx.checker", "graph digest", "label flips", "loads alone"} <= names
    assert report["comparison"]["n_images"] == 10_000
    assert report["comparison"]["max_error"] <= report["tolerance"] == 8 * report["floor"]
    assert exported.picture.drawn


def test_accuracy_of_the_file_is_that_of_the_checkpoint(exported, trained):
    n_unclear = len(exported.report.comparison.near_ties)
    assert abs(exported.score.n_correct - trained.test.n_correct) <= n_unclear


@pytest.fixture
def few(monkeypatch, reference, test_set):
    """Prove on the first 1,000 test images, whose reference logits are known."""
    known = replace(reference, images=test_set.images[:1000], logits=reference.logits[:1000])
    chosen = replace(test_set, images=known.images, labels=test_set.labels[:1000])
    monkeypatch.setattr(data, "load_test_set", lambda: chosen)
    monkeypatch.setattr(convnet, "reference_logits", lambda *_: None)
    monkeypatch.setattr(parity, "from_pytorch", lambda *_: known)
    return known


@pytest.fixture
def fail(few, monkeypatch, trained, graph_bytes, tmp_path):
    """Export a broken graph where an older file is; return the checks that failed."""
    older = tmp_path / "out" / "broken.onnx"
    older.parent.mkdir()
    older.write_bytes(b"older")

    def run(fault=lambda _: None):
        broken = faults.change_graph(graph_bytes, fault)
        if fault is faults.mix_rows:  # else it would be refused before it can be proved wrong
            monkeypatch.setattr(admission, "admit", lambda *_: None)
        monkeypatch.setattr(graph, "to_onnx", lambda *_, **__: broken)
        with pytest.raises(
            CheckFailedError, match="older file of that name is untouched"
        ) as caught:
            export(ExportOptions(checkpoint=trained.checkpoint_path, out=older))
        assert [older] == list(tmp_path.rglob("*.onnx"))
        assert older.read_bytes() == b"older"
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
def test_fault_in_the_graph_turns_export_red_and_leaves_the_older_file(fail, fault, check):
    assert check in fail(fault)


def lie(change):
    def seal(real, graph, document):
        change(document)
        return real(graph, document)

    return seal


def misstate(digest):
    def seal(real, graph, document):
        sealed = real(graph, document)
        stated = getattr(open_model(sealed).contract, digest).encode()
        return sealed.replace(stated, b"0" * 63 + b"1")

    return seal


@pytest.mark.parametrize(
    ("seal", "check"),
    [
        (lie(lambda d: d["goldens"]["logits"][0].__setitem__(0, 9.0)), "golden vectors, batch 1"),
        (lie(lambda d: d["preprocessing"]["samples"][0].update(pixels=WHITE)),
         "preprocessing samples"),
        (misstate("graph_sha256"), "loads alone"),
        (misstate("contract_sha256"), "loads alone"),
    ],
)  # fmt: skip
def test_fault_in_the_contract_turns_export_red(fail, monkeypatch, seal, check):
    monkeypatch.setattr(contract, "seal", partial(seal, contract.seal))
    assert check in fail()


@pytest.mark.parametrize("kernel_size", [1, 5])
def test_other_kernel_sizes_export_with_the_same_proof(kernel_size, test_set):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Convnet(Architecture(kernel_size=kernel_size))
    images = test_set.images[:300]
    reference = parity.from_pytorch(images, convnet.reference_logits(model, images))
    session = onnxruntime.InferenceSession(graph.to_onnx(model), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images[:, None].astype(np.float32) / 255})
    assert np.abs(logits - reference.logits).max() <= reference.tolerance


def test_exporter_that_gives_up_is_named_with_its_versions(monkeypatch):
    def give_up(*_, **__):
        raise RuntimeError("a pass failed")  # as onnxscript 0.5 does with torch 2.9

    monkeypatch.setattr(torch.onnx, "export", give_up)
    with pytest.raises(CheckFailedError, match=f"torch {torch.__version__.split('+')[0]}"):
        graph.to_onnx(Convnet(Architecture()))


def test_uint8_input_gives_the_same_network(few, trained, tmp_path):
    out = tmp_path / "grey.onnx"
    export(ExportOptions(checkpoint=trained.checkpoint_path, input="uint8", out=out))
    classifier = Classifier(out)
    assert classifier.contract.input_dtype == "uint8"
    assert classifier.to_input(few.images[:3]).dtype == np.uint8
    assert np.abs(classifier.logits(few.images) - few.logits).max() <= few.tolerance


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
