"""Anybody's network: exported with the same proof, or refused with the check that failed."""

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from convnet_edge.exporting import export, fitness, graph, reference, verify
from convnet_edge.exporting.options import SOURCE_CHANGED, ExportOptions, VerifyOptions
from convnet_edge.networks import checkpoint, convnet
from convnet_edge.networks.normalized import Normalized
from convnet_edge.runtime import Classifier
from convnet_edge.runtime.errors import CheckFailedError
from convnet_edge.sealing import parity

GREY = (1, 28, 28)
HERE = Path(__file__).name


class Residual(nn.Module):
    """Two blocks with batch norm, hard-swish and squeeze-and-excite; its own argument's name."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8 * 7 * 7, 10)

    def forward(self, pictures):
        x = functional.hardswish(self.norm(self.stem(pictures)))
        y = self.block(x)
        x = functional.max_pool2d(x + y * self.squeeze(y), 2)
        return self.end(self.head(self.drop(x.flatten(1))))

    def end(self, logits):
        return logits


class MadeForTwo(Residual):
    def end(self, logits):
        return logits.view(2, -1)


class Counting(Residual):
    def end(self, logits):
        return logits if logits.shape[0] < 4 else -logits


class LookingAtPixels(Residual):
    def forward(self, pictures):
        return super().forward(-pictures if pictures.sum() > 0 else pictures)


class Comparing(Residual):
    def end(self, logits):
        return logits - logits.mean(0)


class Forgetful(Residual):
    def end(self, logits):
        return functional.dropout(logits, 0.5, training=True)


class Noisy(Residual):
    def end(self, logits):
        return logits + 1e-3 * torch.randn_like(logits)


class AlwaysTraining(Residual):
    def train(self, mode=True):
        super().train(mode)
        self.norm.train()
        return self


class Chatty(Residual):
    def end(self, logits):
        return logits, logits.softmax(1)


class Mapped(Residual):
    def end(self, logits):
        return logits[:, :, None]


class SinglePrecision(Residual):
    def end(self, logits):
        return logits.float() @ torch.eye(10, dtype=logits.dtype)


class Stuck(nn.Identity):
    def switch_to_deploy(self):
        raise ValueError("no branch here")


class Fusing(nn.Identity):
    """Whose method of that name puts features together, as those of many networks do."""

    def fuse(self, one, other):
        return one + other

    def forward(self, x):
        return self.fuse(x, x)


class Undeployable(Residual):
    def __init__(self):
        super().__init__()
        self.drop = Stuck()


class TwoBranches(nn.Module):
    """As RepVGG's blocks: a 1 x 1 branch joins the 3 x 3 one when the network is used."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(1, 4, 3, padding=1)
        self.narrow = nn.Conv2d(1, 4, 1)

    def forward(self, x):
        y = self.wide(x)
        return y if self.narrow is None else y + self.narrow(x)

    @torch.no_grad()
    def switch_to_deploy(self):
        self.wide.weight[:, :, 1:2, 1:2] += self.narrow.weight
        self.wide.bias += self.narrow.bias
        self.narrow = None


class Turning(nn.Module):
    """An operation that ONNX has since opset 20 alone."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(28 * 28, 10)

    def forward(self, x):
        y = torch.onnx.ops.symbolic("Gelu", (x,), dtype=x.dtype, shape=x.shape, version=20)
        return self.head(y.flatten(1))


def made(kind=Residual):
    """Return a network with weights and running statistics of some use, as it was trained."""
    torch.manual_seed(0)
    network = kind()
    network.train()
    with torch.no_grad():
        for _ in range(20):
            network(torch.rand(2, *GREY))
    return Normalized(network, [0.3], [0.4]).eval()


@pytest.fixture
def bring(monkeypatch, trained, on_few, tmp_path):
    """Export a network as though its checkpoint had been read."""
    header = checkpoint.load(trained.checkpoint_path, kind="model").header

    def exported(model, *, changed=False, **options):
        n = sum(one.numel() for one in model.parameters())
        described = {"arch": "net.py:Net", "image_shape": list(GREY), "n_parameters": n,
                     "source_sha256": "0" * 64 if changed else None}  # fmt: skip
        now = "1" * 64 if changed else None
        stored = checkpoint.Checkpoint("model", {}, header | {"model": described}, now)
        monkeypatch.setattr(checkpoint, "load_model", lambda *_, **__: (model, stored))
        path = tmp_path / "net.safetensors"
        return export.export(ExportOptions(path, out=tmp_path / "net.onnx", **options))

    return exported


def run(model, images, **session):
    opened = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"], **session)
    return opened.run(None, {"images": images})[0]


@pytest.mark.parametrize("takes", ["float32", "uint8"])
def test_own_network_exports_with_the_proof_of_the_reference(bring, few, takes):
    model = made()
    result = bring(model, input=takes)
    names = {check.name: check.passed for check in result.report.checks}
    assert {f"batch {size}" for size in (1, 2, 3, 7, 64)} <= names.keys()
    assert {"network: same images twice", "network: images in company"} <= names.keys()
    assert all(names.values())
    assert result.n_parameters == sum(one.numel() for one in model.parameters())
    classifier = Classifier(result.model_path)
    right, _ = convnet.reference_logits(model, few.images)
    assert np.abs(classifier.logits(few.images) - right).max() <= result.report.tolerance
    stated = classifier.contract
    assert stated.input_dtype == takes
    assert "n_by_formula" not in stated.document["parameters"]
    said = right[stated.goldens.indices].argmax(1)
    assert len({*said}) == len(said) == len({*right.argmax(1)}), "one of each class that occurs"


@pytest.mark.parametrize("takes", [pytest.param("float32", marks=pytest.mark.slow), "uint8"])
def test_graph_names_no_path_and_holds_one_multiplication_and_one_addition_for_the_pixels(takes):
    made_of = graph.to_onnx(made(), GREY, takes=takes)
    proto = onnx.load_from_string(made_of)
    assert (proto.ir_version, proto.opset_import[0].version, len(proto.functions)) == (8, 18, 0)
    first = [node.op_type for node in proto.graph.node][:4]
    assert first == [*["Cast"] * (takes == "uint8"), "Mul", "Add", "Conv", "HardSwish"][:4]
    assert not {b"site-packages", HERE.encode(), b"Residual"} & {
        one for one in (b"site-packages", HERE.encode(), b"Residual") if one in made_of
    }
    shapes = {one.name: one.type.tensor_type.shape.dim for one in proto.graph.value_info}
    assert all(dims[0].dim_param == "batch" for dims in shapes.values() if len(dims) == 4)
    assert graph.to_onnx(made(), GREY, takes=takes) == made_of


def test_bare_network_of_stored_pixels_scales_them_once():
    network = made().network
    proto = onnx.load_from_string(graph.to_onnx(network, GREY, takes="uint8"))
    assert [node.op_type for node in proto.graph.node][:3] == ["Cast", "Mul", "Conv"]
    images = np.random.default_rng(0).integers(0, 256, (5, *GREY), np.uint8)
    with torch.no_grad():
        right = network(torch.from_numpy(images) / 255).numpy()
    assert np.abs(run(proto.SerializeToString(), images) - right).max() < 1e-5


FAULTS = {
    MadeForTwo: rf"free batch axis: .* 2 images at once \(in MadeForTwo, {HERE}:\d+\)",
    Counting: rf"free batch axis: .* how many images there are \(in Counting, {HERE}:\d+\)",
    LookingAtPixels: rf"control flow: .* in the images \(in LookingAtPixels, {HERE}:\d+\)",
    Comparing: rf"images in company: .* allowed .* \(it begins in Comparing, {HERE}:\d+\)",
    Forgetful: rf"random numbers: .*: dropout in Forgetful \({HERE}:\d+\)",
    Noisy: rf"random numbers: .*: randn_like in Noisy \({HERE}:\d+\)",
    AlwaysTraining: rf"batch statistics: .* in BatchNorm2d \({HERE}:\d+\)",
    Chatty: r"one output: of images \(batch, 1, 28, 28\) .* \(batch, 10\) and \(batch, 10\)",
    Mapped: r"one output: .* \(batch, 10, 1\)",
    SinglePrecision: rf"float64 reference: .* \(in SinglePrecision, {HERE}:\d+\)",
    Undeployable: r"deployed form: Stuck.switch_to_deploy\(\) of drop fails: no branch here",
}


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_network_with_a_fault_is_refused_by_the_check_and_leaves_no_file(bring, tmp_path, kind):
    with pytest.raises(CheckFailedError, match=FAULTS[kind]):
        bring(made(kind))
    assert not list(tmp_path.iterdir())


def test_noise_that_reading_does_not_find_is_found_by_running_it_twice(few):
    draw = np.random.default_rng(0)

    class Hidden(Residual):
        def end(self, logits):
            return logits + float(draw.random())

    with pytest.raises(CheckFailedError, match=r"same images twice: .* begins in Hidden, "):
        fitness.check(made(Hidden), few.images)


def test_fault_inside_torch_s_own_module_is_named_by_its_place(few):
    network = made()
    network.network.norm = nn.BatchNorm2d(8, track_running_stats=False)
    with pytest.raises(CheckFailedError, match=r"begins in BatchNorm2d, the module network\.norm"):
        fitness.check(network, few.images)


def test_changed_source_is_said_with_both_accuracies(bring, few, monkeypatch):
    model, said = made(), []
    result = bring(model, changed=True)
    assert re.search(r"has changed since the training: what is proved .* computes now: accuracy "
                     r"[\d.]+ %, [\d.]+ % after the training$", result.note)  # fmt: skip
    mine = Classifier(result.model_path)
    verify.compare_network(VerifyOptions(), mine, Path("net"), few.images, said.append)
    assert said == [SOURCE_CHANGED]
    assert bring(model).note is None


def test_file_that_computes_something_else_is_not_written(bring, monkeypatch, tmp_path):
    torch.manual_seed(1)
    other = graph.to_onnx(Normalized(Residual(), [0.3], [0.4]).eval(), GREY)
    monkeypatch.setattr(graph, "to_onnx", lambda *_, **__: other)
    with pytest.raises(CheckFailedError, match="was not written: golden vectors, batch 1"):
        bring(made())
    assert not (tmp_path / "net.onnx").exists()
    report = json.loads((tmp_path / "net.parity.failed.json").read_text())
    failed = {one["name"] for one in report["checks"] if not one["passed"]}
    assert {parity.LOGITS_CHECK, "batch 1", "batch 64"} <= failed


def test_branches_of_training_become_one_and_are_proved_against_the_trained_form():
    torch.manual_seed(0)
    network = nn.Sequential(
        TwoBranches(), Fusing(), nn.Flatten(), nn.Linear(4 * 28 * 28, 10)
    ).eval()
    images = torch.rand(3, *GREY)
    proto = onnx.load_from_string(graph.to_onnx(network, GREY))
    assert [node.op_type for node in proto.graph.node].count("Conv") == 1
    with torch.no_grad():
        right = network(images).numpy()
    assert network[0].narrow is not None, "what was trained stays as it is"
    assert np.abs(run(proto.SerializeToString(), images.numpy()) - right).max() < 1e-5


FILE = """
from torch import nn


def net(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, num_classes))
"""


@pytest.mark.slow
def test_contract_tells_of_a_source_that_changed_after_training(trained, on_few, tmp_path):
    source, path = tmp_path / "net.py", tmp_path / "net.safetensors"
    source.write_text(FILE)
    header, before = checkpoint.load(trained.checkpoint_path, kind="model").header, digest(source)
    described = {"arch": f"{source}:net", "image_shape": list(GREY), "options": {},
                 "source_sha256": before, "normalization": None, "n_parameters": 7850}  # fmt: skip
    torch.manual_seed(0)
    tensors = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10)).state_dict()
    stored = checkpoint.Checkpoint("model", dict(tensors), header | {"model": described})
    checkpoint.save(path, stored)
    options = ExportOptions(path, out=tmp_path / "net.onnx", allow_changed_source=True)

    def told():
        return Classifier(export.export(options).model_path).contract.document["training"]

    assert told() == header["training"]
    source.write_text(FILE + "# changed")
    sources = {"source_sha256": digest(source), "earlier_sources": [before]}
    assert told() == header["training"] | sources
    begun = header["training"] | {"earlier_sources": ["e" * 64]}
    checkpoint.save(path, replace(stored, header=stored.header | {"training": begun}))
    assert told()["earlier_sources"] == ["e" * 64, before]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_operation_that_opset_18_lacks_takes_a_newer_one_and_is_named():
    proto = onnx.load_from_string(graph.to_onnx(Turning().eval(), GREY))
    assert (proto.opset_import[0].version, proto.ir_version) == (20, 9)
    assert graph.newer_operations(node.op_type for node in proto.graph.node) == ["Gelu"]
    assert run(proto.SerializeToString(), np.zeros((3, *GREY), np.float32)).shape == (3, 10)


def test_reference_that_takes_too_long_is_that_of_a_seeded_sample(bring, few, monkeypatch):
    monkeypatch.setattr(reference, "_affordable", lambda *_: 100)
    model = made()
    result = bring(model, reference_s=1)
    found, stated = result.report.comparison, Classifier(result.model_path).contract
    assert (found.n_images, found.n_all) == (64, len(few))
    assert f"of the 64 images compared, a seeded sample of {len(few)}," in found.summary()[1]
    measured = stated.document["measured"]
    assert (measured["n"], result.score.n) == (64, 64)
    assert measured["what"].endswith(f"on 64 of the {len(few)} test images, a seeded sample")
    assert measured["sha256"] == few.sha256, "of all: the set is found again by it"
    goldens = stated.goldens
    assert (few.images[goldens.indices] == goldens.images).all()
    known = reference.compute(model, few.images, limit_s=1)
    assert (known.indices == reference.compute(model, few.images, limit_s=1).indices).all()
    assert (few.images[known.indices] == known.images).all()
    wrong = known.logits.copy()
    wrong[5] = -wrong[5]
    assert parity.compare(wrong, known).flips == (int(known.indices[5]),)
    said = []
    mine, own = Classifier(result.model_path), Path("net")
    proof, _ = verify.compare_network(VerifyOptions(), mine, own, few.images, said.append)
    assert proof.comparison.n_images == 64
    assert said == [f"comparing 64 of the {len(few)} images, a seeded sample"]


def test_reference_is_of_all_images_where_there_is_time(few):
    known = reference.compute(made(), few.images, limit_s=60)
    assert (known.indices, known.n_all, len(known.logits)) == (None, None, len(few))
    assert len(reference.compute(made(), few.images, limit_s=1e-9).logits) == reference.N_LEAST


@pytest.mark.slow
def test_graph_is_the_same_in_another_process(tmp_path):
    script = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1]); import test_networks as t;"
        "print(hashlib.sha256(t.graph.to_onnx(t.made(), t.GREY)).hexdigest())"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent)]
    found = {
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
        for _ in range(2)
    }
    assert len(found) == 1


def test_batch_that_does_not_fit_in_memory_is_left_out(few, tiny_model):
    classifier = Classifier(tiny_model)
    cost = {"peak_bytes": parity.MAX_BATCH_BYTES // 10}
    document = classifier.contract.document | {"cost": cost}
    classifier.contract = replace(classifier.contract, document=document)
    images = classifier.contract.goldens.images
    known = parity.Reference(images, classifier.contract.goldens.logits, classifier.tolerance)
    found = [check.name for check in parity.check_batch_sizes(classifier, known)]
    assert found == ["batch 1", "batch 2", "batch 3", "batch 7"]


class Summing(Residual):
    def end(self, logits):
        return torch.einsum("nc,nc->nc", logits, logits)


def test_network_that_a_device_refuses_is_refused_with_the_operator(bring, tmp_path):
    with pytest.raises(CheckFailedError, match=r"a device would refuse it: .*'Einsum'"):
        bring(Summing().eval())
    assert not (tmp_path / "net.onnx").exists()
