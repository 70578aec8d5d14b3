"""Weights from elsewhere: what fits, what is replaced and named, what is refused."""

import pickle
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from convnet_edge.networks import checkpoint, weights
from convnet_edge.networks.weights import fit, read_weights
from convnet_edge.runtime.errors import InputError


def network(n_classes=3, hidden=4):
    torch.manual_seed(n_classes)
    layers = [nn.Conv2d(1, hidden, 3), nn.BatchNorm2d(hidden), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(hidden * 36, n_classes))


def same(one, other, but=()):
    return all(torch.equal(t, other[name]) for name, t in one.items() if name not in but)


@pytest.mark.parametrize("kind", ["safetensors", "plain", "wrapped", "parallel", "compiled"])
def test_weights_of_any_file_are_the_networks(tmp_path, kind):
    trained, fresh = network().state_dict(), network(5).state_dict()
    assert not same(trained, network(3, 4).state_dict() | {"0.weight": fresh["0.weight"]})
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pt")
    if kind == "safetensors":
        safetensors.torch.save_file(trained, path)
    else:
        prefix = {"parallel": "module.", "compiled": "_orig_mod."}.get(kind, "")
        state = {prefix + name: tensor for name, tensor in trained.items()}
        torch.save({"epoch": 3, "state_dict": state} if kind == "wrapped" else state, path)
    model = network(3)
    nn.init.zeros_(model[0].weight)
    assert fit(model, read_weights(path), str(path)) == ()
    assert same(model.state_dict(), trained)


def test_head_of_other_classes_is_left_as_it_is_and_named():
    trained, model = network(5).state_dict(), network(3)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    assert fit(model, trained, "x") == ("3.bias", "3.weight")
    assert same(model.state_dict(), trained, but=("3.weight", "3.bias"))
    assert torch.equal(model.state_dict()["3.weight"], before["3.weight"])


def test_convolution_of_colours_is_summed_for_grey():
    trained, model = network().state_dict(), network()
    colours = torch.rand(4, 3, 3, 3)
    assert fit(model, trained | {"0.weight": colours}, "x") == ()
    torch.testing.assert_close(model[0].weight.data, colours.sum(1, keepdim=True))


def test_statistics_without_their_counter_fit():
    trained = network().state_dict()
    del trained["1.num_batches_tracked"]
    assert fit(network(), trained, "x") == ()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda s: s.pop("0.weight"), r"without 0\.weight"),
        (lambda s: s.update(more=torch.zeros(1)), "with more more"),
        (lambda s: s.update({"0.weight": torch.zeros(4, 2, 3, 3)}), r"of other shapes 0\.weight"),
        (lambda s: s.update({"3.weight": torch.zeros(3, 7)}), r"of other shapes 3\.weight"),
        (
            lambda s: s.update({"3.weight": torch.zeros(5, 144), "0.bias": torch.zeros(5)}),
            r"of other shapes 0\.bias \(5, not 4\), 3\.weight \(5 x 144, not 3 x 144\)",
        ),
    ],
)
def test_weights_of_another_network_are_refused_by_their_names(change, found):
    trained = network().state_dict()
    change(trained)
    with pytest.raises(InputError, match=found):
        fit(network(), trained, "x")


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    "content", [b"", b"not weights", pickle.dumps(Evil()), pickle.dumps([1, 2]), None], ids=str
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_file_without_weights_is_refused_and_nothing_in_it_runs(tmp_path, capsys, content, suffix):
    path = tmp_path / f"x{suffix}"
    if content is None:
        torch.save(network(), path)  # a whole network: its class would have to be run
    else:
        path.write_bytes(content)
    with pytest.raises(InputError):
        read_weights(path)
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (network(), r"a whole model, or .* \(torch\.nn\.modules\.container\.Sequential\), not its"),
        ({"score": np.float64(0.5)}, r"holds .* \(numpy[\w.]*\.scalar\), not its weights"),
        (b"\x89PNG\r\n\x1a\n", "x.png is no file of weights"),
    ],
)
def test_what_is_no_state_dict_is_said_in_plain_words(tmp_path, content, found):
    path = tmp_path / "x.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=found) as caught:
        read_weights(path)
    assert "torch.save(model.state_dict(), PATH)" in caught.value.next_step
    assert caught.value.line.isprintable()


def test_truncated_file_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    torch.save(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match="holds no weights"):
        read_weights(path)


def test_file_that_unfolds_to_more_than_it_may_hold_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(100_000)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    monkeypatch.setattr(weights, "MAX_CHECKPOINT_BYTES", 100_000)
    assert path.stat().st_size < 10_000
    with pytest.raises(InputError, match=r"unfolds to 40\d,\d+ bytes, more than 100,000"):
        read_weights(path)


def test_weights_that_are_not_finite_are_refused_unless_the_network_has_such():
    trained, model = network().state_dict(), network()
    model.register_buffer("mask", torch.full((2,), -torch.inf))
    assert fit(model, trained | {"mask": model.mask}, "x") == ()
    trained["0.weight"][0] = torch.nan
    with pytest.raises(InputError, match=r"0\.weight of x holds numbers that are not finite"):
        fit(network(), trained, "x")


def test_counter_of_batches_is_taken_where_there_is_one():
    trained, model = network().state_dict(), network()
    trained["1.num_batches_tracked"] += 7
    fit(model, trained, "x")
    assert model[1].num_batches_tracked == 7


def test_single_numbers_are_weights_too():
    model = network()
    model.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    assert fit(model, model.state_dict() | {"scale": torch.tensor(3.0)}, "x") == ()
    assert model.scale == 3


def test_unfinished_run_is_no_file_of_weights(tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, checkpoint.Checkpoint("resume", {"a": torch.zeros(1)}, {}))
    with pytest.raises(InputError, match="a resume file"):
        weights.find(str(path), "my_net.py:Net")


@pytest.mark.parametrize(
    ("arch", "address"),
    [("torchvision:resnet18", "https://download.pytorch.org/models/resnet18-"),
     ("torchvision:nothing", "them"), ("my_net.py:Net", "them")],
)  # fmt: skip
def test_weights_that_cannot_be_downloaded_are_named_with_their_address(monkeypatch, arch, address):
    def no_network(_):
        raise OSError("Name or service not known")

    monkeypatch.setattr(weights, "_download", no_network)
    with pytest.raises(InputError) as caught:
        weights.find(weights.PRETRAINED, arch)
    assert caught.value.next_step.startswith(f"fetch {address}")
    assert caught.value.next_step.endswith(" elsewhere, and name the file with --weights FILE")
