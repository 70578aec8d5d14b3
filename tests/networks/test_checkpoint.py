import json
import pickle

import pytest
import torch

from convnet_edge.networks import checkpoint
from convnet_edge.networks.checkpoint import Checkpoint
from convnet_edge.runtime.errors import InputError


def test_save_then_load_gives_tensors_and_header_back(tmp_path):
    tensors = {"a": torch.randn(3, 4).t(), "b": torch.zeros((), dtype=torch.int64)}
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, Checkpoint("resume", tensors, {"é": [1.5]}))
    loaded = checkpoint.load(path, kind="resume")
    assert all(torch.equal(loaded.tensors[name], tensors[name]) for name in tensors)
    assert loaded.header["é"] == [1.5]
    again = tmp_path / "y.safetensors"
    checkpoint.save(again, Checkpoint("resume", tensors, {"é": [1.5]}))
    assert again.read_bytes() == path.read_bytes()


def test_load_model_rebuilds_the_trained_network(trained, test_set):
    from convnet_edge.networks.convnet import compute_logits

    model, loaded = checkpoint.load_model(trained.checkpoint_path)
    logits = compute_logits(model, test_set.images, torch.float32)
    assert (logits.argmax(axis=1) == test_set.labels).mean() == trained.test.accuracy
    assert loaded.header["training"]["data"] == "sample"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        bytes(8) + b"{}",
        b"\xff" * 64,
        pickle.dumps({"a": 1}),
        (20).to_bytes(8, "little") + b"[" * 20,
    ],
)
def test_load_of_something_else_is_an_input_error(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError):
        checkpoint.load(path, kind="model")


def test_load_of_a_truncated_checkpoint_is_an_input_error(trained, tmp_path):
    data = trained.checkpoint_path.read_bytes()
    path = tmp_path / "x.safetensors"
    for size in (4, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(InputError, match="damaged"):
            checkpoint.load_model(path)


def test_load_of_a_foreign_safetensors_file_says_so(tmp_path):
    import safetensors.torch

    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="foreign file"):
        checkpoint.load_model(path)


def change_header(path, change, out):
    loaded = checkpoint.load(path, kind="model")
    header = json.loads(json.dumps(loaded.header))
    change(header, loaded.tensors)
    checkpoint.save(out, Checkpoint("model", loaded.tensors, header))


def other_kernel(header, _):
    header["model"]["kernel_size"] = 5


def no_labels(header, _):
    del header["class_labels"]


def words_for_a_shape(header, _):
    header["model"]["image_shape"] = ["a", "b", "c"]


def lost_weight(_, tensors):
    del tensors["layer_stack.0.weight"]


def nan_weight(_, tensors):
    tensors["layer_stack.0.weight"][0] = float("nan")


@pytest.mark.parametrize(
    "change", [other_kernel, no_labels, words_for_a_shape, lost_weight, nan_weight]
)
def test_load_model_with_weights_that_do_not_fit_is_refused(trained, tmp_path, change):
    path = tmp_path / "x.safetensors"
    change_header(trained.checkpoint_path, change, path)
    with pytest.raises(InputError, match=r"do not fit its header|not finite"):
        checkpoint.load_model(path)


def test_kind_is_checked(trained):
    with pytest.raises(InputError, match="model file"):
        checkpoint.load(trained.checkpoint_path, kind="resume")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": {"image_shape": [1, 1 << 40, 28], "kernel_size": 3}}, "images of"),
        ({"model": {"image_shape": [1, 28, 28], "kernel_size": 3, "width": 1e9}}, "described"),
        ({"model": {"image_shape": [1, 28, 28], "kernel_size": 3, "width": 1e400}}, "infinity"),
        ({"model": {"image_shape": [1, 28, 28], "kernel_size": 1 << 70}}, "kernel"),
        ({"model": [1]}, "indices"),
        ({"model": None}, "subscriptable"),
        ({"class_labels": ["x"] * 1_000_000}, "described"),
        ({"class_labels": [1] * 10}, "not names"),
        ({"training": 3}, "not described"),
        ({"versions": None}, "not described"),
    ],
)
def test_header_that_asks_for_too_much_is_refused_before_anything_is_built(
    trained, tmp_path, monkeypatch, change, named
):
    def must_not_build(*_, **__):
        raise AssertionError("built")

    monkeypatch.setattr(checkpoint, "build_convnet", must_not_build)
    loaded = checkpoint.load(trained.checkpoint_path, kind="model")
    monkeypatch.setattr(checkpoint.json, "dumps", lenient_dumps)
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, Checkpoint("model", loaded.tensors, {**loaded.header, **change}))
    with pytest.raises(InputError, match=named):
        checkpoint.load_model(path)


def lenient_dumps(document, **options):
    return json.JSONEncoder(sort_keys=True, allow_nan=True).encode(document)


@pytest.mark.parametrize("header", ["[1]", "3", "null", '"x"'])
def test_header_that_is_no_document_is_refused(tmp_path, header):
    import safetensors.torch

    path = tmp_path / "x.safetensors"
    key = checkpoint.HEADER_KEY
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}, {key: header}))
    with pytest.raises(InputError, match="schema None"):
        checkpoint.load(path, kind="model")
