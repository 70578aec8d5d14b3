import json
import pickle

import pytest
import safetensors.torch
import torch
from faults import change_header, mutations

from convnet_edge.commands import inspect
from convnet_edge.networks import checkpoint
from convnet_edge.networks.checkpoint import Checkpoint
from convnet_edge.networks.convnet import Architecture, Convnet
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.pictures.preprocess import Preprocessing

ARCHITECTURE = Architecture((1, 20, 22), kernel_size=2, n_classes=3, width=0.1)
TRAINING = {"data": "sample", "recipe": "tutorial", "n_images": 9, "epochs": 1, "seed": 0}


def make(architecture):
    """Return the checkpoint of a random network, as training writes it."""
    torch.manual_seed(1)
    model = {
        "arch": "convnet",
        "image_shape": list(architecture.image_shape),
        "options": {"kernel_size": architecture.kernel_size, "width": architecture.width},
        "source_sha256": None,
        "normalization": None,
        "n_parameters": architecture.n_parameters,
    }
    header = {
        "model": model,
        "class_labels": list("abcdefghij")[: architecture.n_classes],
        "preprocessing": Preprocessing((20, 22), 1).document(),
        "decision": None,
        "training": TRAINING,
        "test": None,
        "versions": {"torch": torch.__version__},
    }
    return Checkpoint("model", dict(Convnet(architecture).state_dict()), header)


@pytest.fixture
def stored(tmp_path):
    """A small checkpoint and its file."""
    made, path = make(ARCHITECTURE), tmp_path / "stored.safetensors"
    checkpoint.save(path, made)
    return made, path


def test_save_then_load_gives_tensors_and_header_back(tmp_path):
    tensors = {"a": torch.randn(3, 4).t(), "b": torch.zeros((), dtype=torch.int64)}
    paths = [tmp_path / name for name in ("x.safetensors", "y.safetensors")]
    for path in paths:
        checkpoint.save(path, Checkpoint("resume", tensors, {"é": [1.5]}))
    loaded = checkpoint.load(paths[0], kind="resume")
    assert all(torch.equal(loaded.tensors[name], tensors[name]) for name in tensors)
    assert loaded.header["é"] == [1.5]
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("architecture", [ARCHITECTURE, Architecture(), Architecture((3, 30, 20))])
def test_load_model_rebuilds_the_network(tmp_path, architecture):
    made, path = make(architecture), tmp_path / "x.safetensors"
    checkpoint.save(path, made)
    model, loaded = checkpoint.load_model(path)
    assert model.architecture == architecture
    assert not model.training
    torch.testing.assert_close(dict(model.state_dict()), made.tensors, rtol=0, atol=0)
    assert loaded.header["training"] == TRAINING


def stored_with(text):
    header = None if text is None else {checkpoint.HEADER_KEY: text}
    return safetensors.torch.save({"a": torch.zeros(1)}, header)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "empty"),
        (pickle.dumps({"a": 1}), "damaged"),
        ((20).to_bytes(8, "little") + b"[" * 20, "damaged"),
        (stored_with(None), "foreign"),
        (stored_with("[1]"), "foreign"),
        (stored_with("3"), "foreign"),
        (stored_with("{"), "damaged"),
    ],
)
def test_load_of_something_else_is_an_input_error(tmp_path, content, found):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=found):
        checkpoint.load(path, kind="model")


def test_load_of_a_truncated_checkpoint_or_another_kind_is_an_input_error(stored):
    _, path = stored
    with pytest.raises(InputError, match="model file"):
        checkpoint.load(path, kind="resume")
    content = path.read_bytes()
    for size in (4, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(InputError, match="damaged"):
            checkpoint.load_model(path)


SHAPE = make(ARCHITECTURE).header["model"]
MADE = {"kernel_size": 2, "width": 0.1}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": SHAPE | {"image_shape": ["a", "b", "c"]}}, r"model\.image_shape"),
        ({"model": SHAPE | {"image_shape": [2, 20, 22]}}, r"model\.image_shape\.0"),
        ({"model": SHAPE | {"image_shape": [1, 1 << 40, 22]}}, r"model\.image_shape\.1"),
        (
            {"model": SHAPE | {"image_shape": [1, 1024, 1024], "options": {"width": 4}}},
            "parameters",
        ),
        ({"model": SHAPE | {"options": MADE | {"width": 1e9}}}, "width=1"),
        ({"model": SHAPE | {"options": MADE | {"kernel_size": 30}}}, "kernel"),
        ({"model": SHAPE | {"options": MADE | {"kernel_size": 1 << 70}}}, "kernel_size="),
        ({"model": SHAPE | {"options": MADE | {"depth": 3}}}, "cannot be made with .*depth=3"),
        ({"model": SHAPE | {"normalization": [[0.5, 0.5], [1.0, 1.0]]}}, "not of 1 channels"),
        ({"model": SHAPE | {"normalization": [[0.5], [0.0]]}}, r"model\.normalization\.1\.0"),
        ({"model": SHAPE | {"source_sha256": "a"}}, r"model\.source_sha256"),
        ({"model": None}, "model: "),
        ({"class_labels": ["x"] * 1_000_000}, "class_labels: "),
        ({"class_labels": [1] * 3}, r"class_labels\.0: "),
        ({"training": 3}, "training: "),
        ({"training": {"recipe": "tutorial"}}, r"training\.data: "),
        ({"training": TRAINING | {"n_images": "9"}}, r"training\.n_images"),
        ({"versions": None}, "versions: "),
        ({"preprocessing": {"size": [20, 22]}}, "preprocessing: 'channels'"),
        ({"decision": 0.5}, "decision: "),
        ({"test": {"sha256": "a photo"}}, r"test\.sha256: "),
    ],
)
def test_header_that_does_not_fit_is_refused_unbuilt(stored, monkeypatch, change, named):
    made, path = stored
    monkeypatch.setattr(Convnet, "__init__", lambda *_, **__: pytest.fail("built"))
    checkpoint.save(path, Checkpoint("model", made.tensors, made.header | change))
    with pytest.raises(InputError, match=f"do not fit its header.*{named}"):
        checkpoint.load_model(path)


def test_weights_that_are_lost_or_not_finite_are_refused(stored):
    made, path = stored
    name = "layer_stack.0.bias"
    moved = {other: t for other, t in made.tensors.items() if other != name}
    bias, foreign = made.tensors[name], "layer_stack.1.bias"
    for tensors, found in (
        (moved | {foreign: bias}, rf"without {name}; with more {foreign};"),
        ({"a": bias, "b": bias}, r"without .*, .*, .* and \d more; with more a, b;"),
        (
            moved | {name: bias.repeat(2)},
            rf"of other shapes {name} \({2 * len(bias)}, not {len(bias)}\);",
        ),
        (moved | {name: torch.full_like(bias, float("nan"))}, "not all are finite"),
    ):
        checkpoint.save(path, Checkpoint("model", tensors, made.header))
        with pytest.raises(InputError, match=f"do not fit its header: {found}"):
            checkpoint.load_model(path)


@pytest.mark.slow
def test_odd_header_is_refused_or_can_be_exported_and_inspected(stored):
    made, path = stored
    content, n_refused = path.read_bytes(), 0
    for header in mutations({"schema": checkpoint.SCHEMA, "kind": "model", **made.header}):
        path.write_bytes(change_header(content, header))
        try:
            read = checkpoint.load_model(path)[1].header
        except InputError:
            n_refused += 1
            continue
        document = {
            "class_labels": read["class_labels"],
            "training": read["training"],
            "versions": {"training": read["versions"]},
            "input": {"scale": ""},
            "measured": {"accuracy": 0.0, "n": 1, "what": ""},
            "goldens": {"n": 1, "tolerance": 1.0},
        }
        json.dumps(document, allow_nan=False)
        inspect._stated(document)
    assert n_refused > 200
