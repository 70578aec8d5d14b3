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

from convnet_edge.data import cache, fashion_mnist
from convnet_edge.exporting import export, graph, verify
from convnet_edge.exporting.options import ExportOptions, VerifyOptions
from convnet_edge.networks import checkpoint, convnet
from convnet_edge.networks.convnet import Architecture, Convnet
from convnet_edge.runtime import Classifier, admission, contract
from convnet_edge.runtime.errors import CheckFailedError, InputError
from convnet_edge.runtime.pictures.preprocess import FASHION_MNIST
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


def test_report_holds_what_was_proved(exported, trained, few):
    report = json.loads(exported.report_path.read_text())
    assert report["passed"] is True
    assert [check.line() for check in exported.report.checks if not check.passed] == []
    names = {check["name"] for check in report["checks"]}
    assert {f"batch {size}" for size in parity.BATCH_SIZES} <= names
    assert {"onnx.checker", "digest", "label flips", "loads alone"} <= names
    assert report["comparison"]["n_images"] == len(few)
    assert report["comparison"]["max_error"] <= report["tolerance"] == 8 * report["floor"]
    assert exported.picture.drawn
    n_unclear = len(report["comparison"]["near_ties"])
    assert abs(exported.score.n_correct - trained.test.n_correct) <= n_unclear


@pytest.mark.parametrize(
    "stated",
    [{"preprocessing": {}}, {"preprocessing": {"size": 28}}, {"test": {"sha256": "of what"}}],
    ids=str,
)
def test_checkpoint_with_nonsense_about_its_pictures_is_an_input_error(trained, tmp_path, stated):
    loaded = checkpoint.load(trained.checkpoint_path, kind="model")
    path = tmp_path / "odd.safetensors"
    checkpoint.save(path, replace(loaded, header=loaded.header | stated))
    with pytest.raises(InputError, match=next(iter(stated))):
        export.export(ExportOptions(checkpoint=path, out=tmp_path / "x.onnx"))


def test_checkpoint_whose_test_images_are_not_here_says_to_name_them(trained, tmp_path):
    options = ExportOptions(checkpoint=trained.checkpoint_path, out=tmp_path / "x.onnx")
    with pytest.raises(InputError, match="are not here") as caught:  # few are all that it knows
        export.export(options)
    assert caught.value.next_step == "name it with --data"


def move_golden(document):
    document["goldens"]["logits"][0][0] = 9.0


def whiten_sample(document):
    document["preprocessing"]["samples"][0]["pixels"] = WHITE


@pytest.mark.parametrize(
    ("change", "fault", "check"),
    [
        (faults.change_sealed, faults.fix_batch_axis, "dynamic batch axis"),
        (faults.change_sealed, faults.nudge_one_weight, "logits against float64 PyTorch"),
        (faults.change_sealed, faults.put_nan, "batch 64"),
        (faults.change_sealed, faults.change_format, "opset"),
        (faults.change_sealed, faults.change_format, "IR version"),
        (faults.change_sealed, faults.move_weights_outside, "self-contained file"),
        (faults.change_sealed, faults.mix_rows, "batch 3"),
        (faults.change_sealed, faults.drop_a_class, "batch 1"),
        (faults.change_document, move_golden, "golden vectors, batch 1"),
        (faults.change_document, whiten_sample, "preprocessing samples"),
        (faults.change_graph, faults.nudge_one_weight, "loads alone"),
        (bytes.replace, (b'"Bag"', b'"Bug"'), "loads alone"),
    ],
)
def test_fault_fails_its_check(model_bytes, reference, monkeypatch, change, fault, check):
    if fault is faults.mix_rows:  # else it would be refused before it can be proved wrong
        faults.admit_all(monkeypatch)
    broken = change(model_bytes, *(fault if isinstance(fault, tuple) else (fault,)))
    proof = export.prove(broken, reference)
    assert check in {one.name for one in proof.checks if not one.passed}


def test_failure_leaves_the_older_file_with_its_report_until_a_success(
    on_few, monkeypatch, trained, graph_bytes, tmp_path
):
    older = tmp_path / "broken.onnx"
    kept = (older, older.with_suffix(".parity.json"), older.with_suffix(".parity.png"))
    before = dict.fromkeys(kept, b"older")
    for path, content in before.items():
        path.write_bytes(content)
    options = ExportOptions(checkpoint=trained.checkpoint_path, out=older)
    made = iter((faults.change_graph(graph_bytes, faults.put_nan), graph_bytes))
    monkeypatch.setattr(graph, "to_onnx", lambda *_, **__: next(made))
    with pytest.raises(CheckFailedError, match="of that name is untouched, and its") as caught:
        export.export(options)
    assert {path: path.read_bytes() for path in before} == before
    failed = {older.with_suffix(f".parity.failed{suffix}") for suffix in (".json", ".png")}
    assert {*tmp_path.iterdir()} == {*before, *failed}
    report_path = older.with_suffix(".parity.failed.json")
    assert str(report_path) in caught.value.next_step
    report = json.loads(report_path.read_text())
    export.export(options)
    assert {*tmp_path.iterdir()} == {*before}, "what failed is over"
    assert report["passed"] is False
    failed = {f"[x] {row['name']}" for row in report["checks"] if not row["passed"]}
    assert {line.split(": ")[0] for line in caught.value.details} == failed


@pytest.mark.parametrize("kernel_size", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_other_kernel_sizes_export_with_the_same_proof(kernel_size, few):
    torch.manual_seed(0)
    model = Convnet(Architecture(kernel_size=kernel_size))
    reference = parity.from_pytorch(few.images, convnet.reference_logits(model, few.images))
    session = onnxruntime.InferenceSession(
        graph.to_onnx(model, model.architecture.image_shape), providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(None, {"images": few.images[:, None].astype(np.float32) / 255})
    assert np.abs(logits - reference.logits).max() <= reference.tolerance


def test_exporter_that_gives_up_is_named_with_its_versions(monkeypatch):
    def give_up(*_, **__):
        raise RuntimeError("a pass failed")  # as onnxscript 0.5 does with torch 2.9

    monkeypatch.setattr(torch.onnx, "export", give_up)
    with pytest.raises(CheckFailedError, match=f"torch {torch.__version__.split('+')[0]}"):
        graph.to_onnx(Convnet(Architecture()), (1, 28, 28))


def test_uint8_input_gives_the_same_network(on_few, few, trained, reference, tmp_path):
    out = tmp_path / "grey.onnx"
    export.export(ExportOptions(checkpoint=trained.checkpoint_path, input="uint8", out=out))
    classifier = Classifier(out)
    assert classifier.contract.input_dtype == "uint8"
    assert classifier.to_input(few.images[:3]).dtype == np.uint8
    assert np.abs(classifier.logits(few.images) - reference.logits).max() <= reference.tolerance


@pytest.mark.slow
def test_model_above_the_usual_ceiling_is_exported_if_it_is_raised(
    on_few, monkeypatch, trained, tmp_path
):
    monkeypatch.setattr(admission, "MAX_IMAGE_BYTES", 10_000)
    options = ExportOptions(checkpoint=trained.checkpoint_path, out=tmp_path / "x.onnx")
    with pytest.raises(CheckFailedError, match="raise ceiling"):
        export.export(options)
    assert export.export(replace(options, ceiling=1000)).model_path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("input_type", ["float32", "uint8"])
def test_export_in_another_process_gives_the_same_bytes(trained, few, tmp_path, input_type):
    cache.keep_set(tmp_path, few, FASHION_MNIST, fashion_mnist.CLASS_LABELS)
    files = []
    for name in ("a", "b"):
        out = tmp_path / name / "model.onnx"
        subprocess.run(
            [sys.executable, "-m", "convnet_edge", "export", str(trained.checkpoint_path),
             "--input", input_type, "--out", str(out), "--cache", str(tmp_path)],
            check=True, capture_output=True, cwd=tmp_path,
        )  # fmt: skip
        files.append(out.read_bytes())
    assert files[0] == files[1]


def test_checkpoint_of_other_classes_is_refused(on_few, exported, trained, tmp_path):
    path = tmp_path / "x.safetensors"
    loaded = checkpoint.load(trained.checkpoint_path, kind="model")
    checkpoint.save(path, replace(loaded, header=loaded.header | {"class_labels": [*"abcdefghij"]}))
    with pytest.raises(InputError, match="are not here"):
        export.export(ExportOptions(checkpoint=path, out=tmp_path / "x.onnx"))
    fewer = Architecture(n_classes=9)
    described = {"model": loaded.header["model"], "class_labels": [*"abcdefghi"]}
    tensors = dict(Convnet(fewer).state_dict())
    checkpoint.save(path, checkpoint.Checkpoint("model", tensors, loaded.header | described))
    with pytest.raises(InputError, match="in 9 classes"):
        verify.verify(VerifyOptions(model=exported.model_path, against=path))
