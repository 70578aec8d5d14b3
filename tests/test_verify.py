import json

import faults
import pytest
import torch


def test_verify_proves_the_file_and_writes_its_report(run, exported, tmp_path):
    result = run("verify", exported.model_path)
    assert result.exit_code == 0, result.output
    assert "PASS" in result.stdout
    report = json.loads((tmp_path / "exported" / "tiny.verify.json").read_text())
    assert report["passed"] is True
    assert report["machine"]["versions"]["numpy"]


def test_verify_against_the_checkpoint_compares_all_test_images(run, exported, trained):
    result = run("verify", exported.model_path, "--against", trained.checkpoint_path, "--json")
    assert result.exit_code == 0, result.output
    comparison = json.loads(result.stdout)["comparison"]
    assert comparison["n_images"] == 10_000
    assert comparison["n_agreeing_labels"] == 10_000 - len(comparison["flips"])
    assert comparison["mean_error"] < comparison["max_error"] < 1e-3


def test_verify_against_another_checkpoint_fails_and_lists_flips(run, exported, trained, tmp_path):
    from convnet_edge import checkpoint

    loaded = checkpoint.load(trained.checkpoint_path, kind="model")
    loaded.tensors["layer_stack.9.bias"] += torch.tensor([1.0, -1.0] * 5)
    other = tmp_path / "other.safetensors"
    checkpoint.save(other, loaded)
    result = run("verify", exported.model_path, "--against", other, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["passed"] is False
    assert document["comparison"]["flips"]


def alter_golden(document):
    document["goldens"]["logits"][3][2] -= 0.01


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda m: faults.change_graph(m, faults.nudge_one_weight), "graph digest"),
        (lambda m: faults.change_graph(m, faults.put_nan), "graph digest"),
        (lambda m: faults.change_graph(m, faults.fix_batch_axis), "graph digest"),
        (lambda m: m.replace(b'"Ankle Boot"', b'"Ankle Shoe"'), "contract digest"),
        (lambda m: faults.change_document(m, alter_golden), "golden vectors"),
    ],
)
def test_altered_file_fails_with_exit_1(run, model_bytes, tmp_path, make, named):
    path = tmp_path / "altered.onnx"
    path.write_bytes(make(model_bytes))
    result = run("verify", path)
    assert result.exit_code == 1
    assert "FAIL" in result.stdout
    assert named in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda m: m[: len(m) // 2], "not a readable ONNX file"),
        (lambda m: b"\x89PNG", "not a readable ONNX file"),
        (lambda m: faults.unsealed(m), "no contracts"),
        (lambda m: faults.change_graph(m, faults.move_weights_outside), "outside the file"),
        (lambda m: b"", "0 bytes"),
    ],
)
@pytest.mark.parametrize("command", ["verify", "inspect", "bench", "predict"])
def test_unreadable_model_is_exit_2_in_every_command(
    run, model_bytes, tmp_path, command, make, named
):
    path = tmp_path / "bad.onnx"
    path.write_bytes(make(model_bytes))
    result = run(command, *(["--model", path] if command == "predict" else [path]))
    assert result.exit_code == 2, result.output
    assert named in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.onnx"]
