import json
import time

import faults
import pytest
import tiny

from convnet_edge.exporting import verify
from convnet_edge.exporting.options import VerifyOptions
from convnet_edge.networks import checkpoint
from convnet_edge.runtime import Classifier
from convnet_edge.runtime.errors import InputError
from convnet_edge.sealing import parity


def test_verify_against_the_checkpoint(run, on_few, few, exported, trained):
    result = run("verify", exported.model_path, "--against", trained.checkpoint_path, "--json")
    assert result.exit_code == 0, result.output
    comparison = json.loads(result.stdout)["comparison"]
    assert comparison["n_images"] == len(few)
    assert comparison["n_agreeing_labels"] == len(few) - len(comparison["flips"])
    assert comparison["mean_error"] < comparison["max_error"] < 1e-3


def test_another_checkpoint_is_found_out_and_its_flips_are_listed(
    run, on_few, exported, trained, tmp_path, few
):
    loaded = checkpoint.load(trained.checkpoint_path, kind="model")
    loaded.tensors["layer_stack.9.bias"][0] += 100  # every image becomes a T-Shirt
    other = tmp_path / "other.safetensors"
    checkpoint.save(other, loaded)
    classifier = Classifier(exported.model_path)
    proof, against = verify.compare_network(VerifyOptions(), classifier, other, few.images)
    assert against.path == str(other)
    assert not any(check.passed for check in proof.checks)
    assert len(proof.comparison.flips) > len(few) / 2
    result = run("verify", exported.model_path, "--against", other, "--out", "x.json")
    assert result.exit_code == 1
    assert "name the checkpoint that it was exported from, or export it anew" in result.stderr


def test_model_of_other_classes_is_refused_not_compared(tiny_model):
    def rename(document):
        document["class_labels"].append("cone")
        document["goldens"]["logits"] = [[*row, 0.0] for row in document["goldens"]["logits"]]

    tiny_model.write_bytes(faults.change_document(tiny.grey(), rename))
    with pytest.raises(InputError, match=r"images of \(8, 8\) in 4 classes"):
        verify.compare_model(Classifier(tiny.grey()), tiny_model, tiny.images(60))


def test_long_comparison_is_said_first_and_one_that_never_ends_is_ended(
    monkeypatch, tiny_model, tmp_path
):
    said, mine = [], Classifier(tiny.grey())
    monkeypatch.setattr(verify, "LONG_S", 0)
    proof, _ = verify.compare_model(mine, tiny_model, tiny.images(60), said.append)
    assert [text.partition(" about ")[0] for text in said] == ["running 60 images takes"] * 2
    assert proof.checks[0].passed
    monkeypatch.setattr(verify, "PATIENCE", 1e-4)

    class Slow(Classifier):
        def to_input(self, images):
            time.sleep(0.01)
            return super().to_input(images)

    slow = Slow(tiny.grey())
    reference = parity.Reference(tiny.images(60), tiny.logits(tiny.images(60)), tiny.FLOOR)
    with verify._in_time(slow, 60, said.append):
        proof = parity.compare_all(slow, reference)
    assert not proof.checks[0].passed
    assert "the runs were ended" in proof.checks[0].detail


def test_report_goes_beside_the_model_and_leaves_another_of_its_name_alone(
    run, tiny_model, tmp_path
):
    own = tmp_path / "exported" / "tiny.verify.json"
    own.parent.mkdir()
    own.write_text("proof of another model")
    assert run("verify", tiny_model).exit_code == 0
    assert own.read_text() == "proof of another model"
    assert tiny_model.with_name("tiny.verify.json").exists()
    assert run("verify").exit_code == 0
    assert (tmp_path / "exported" / "fashion-mnist.verify.json").exists()


def test_report_never_replaces_the_model(run, tiny_model):
    before = tiny_model.read_bytes()
    result = run("verify", tiny_model, "--out", tiny_model)
    assert result.exit_code == 2
    assert tiny_model.read_bytes() == before


def alter_golden(document):
    document["goldens"]["logits"][3][2] -= 0.01


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda m: faults.change_graph(m, faults.put_nan), "digest"),
        (lambda m: m.replace(b'"ring"', b'"rung"'), "digest"),
        (lambda m: faults.change_sealed(m, faults.put_nan), "golden vectors"),
        (lambda m: faults.change_document(m, alter_golden), "golden vectors"),
    ],
)
def test_altered_file_fails_with_exit_1_and_is_opened_only_if_its_digest_holds(
    run, tmp_path, make, named
):
    path = tmp_path / "altered.onnx"
    path.write_bytes(make(tiny.grey()))
    result = run("verify", path, "--out", "x.json")
    assert result.exit_code == 1
    assert "FAIL" in result.stdout
    assert named in result.stderr
    assert "is not proved on cpu" in result.stderr or "digest" in named
    assert "next: convnet-edge" not in result.output
    names = [check["name"] for check in json.loads((tmp_path / "x.json").read_text())["checks"]]
    assert (names == ["digest"]) == (named == "digest")


@pytest.mark.parametrize(
    ("difference", "verdict"), [(0, "bit-equal"), (1e-7, "within tolerance"), (0.1, "different")]
)
def test_two_models_are_equal_near_or_different_and_where(tmp_path, difference, verdict):
    def alter(proto):
        with faults.weight(proto, "linear.bias") as bias:
            bias += difference

    path = tmp_path / "other.onnx"
    path.write_bytes(faults.change_sealed(tiny.grey(), alter))
    proof, against = verify.compare_model(Classifier(tiny.grey()), path, tiny.images(60))
    assert against.verdict == verdict
    where = () if verdict == "bit-equal" else ("weights that differ: 1 (linear.bias)",)
    assert against.where == where
    assert proof.checks[0].passed == (verdict != "different")
    assert ("most in images" in proof.checks[0].detail) == (verdict == "different")
