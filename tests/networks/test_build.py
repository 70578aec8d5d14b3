"""Any network, by its name: what is found, what it is given, what is refused and how."""

import hashlib
import sys

import pytest
import torch

from convnet_edge.networks.build import build, find, find_stored, read_option
from convnet_edge.runtime.errors import InputError

GREY, RGB = (1, 12, 12), (3, 32, 32)
FILE = """
import torch
from torch import nn


class Lazy(nn.Module):
    def __init__(self, num_classes, in_chans, hidden=4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_chans, hidden, 3), nn.BatchNorm2d(hidden), nn.Flatten(),
            nn.LazyLinear(num_classes),
        )

    def forward(self, x):
        return self.layers(x)


def sized(image_size, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(image_size**2, num_classes))


def thousand():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(1000))


class Two(nn.Module):
    def forward(self, x, y):
        return x


class Nothing(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :3]


class Pair(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.LazyLinear(num_classes)

    def forward(self, x):
        logits = self.layer(x.flatten(1))
        return (logits, logits) if self.training else logits


def words(num_classes):
    return "a network"
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_net.py").write_text(FILE)
    yield tmp_path
    sys.modules.pop("my_net", None)


def made(arch, image_shape=GREY, n_classes=3, **options):
    return build(find(arch), image_shape=image_shape, n_classes=n_classes, options=options)


@pytest.mark.parametrize("where", ["my_net.py", "./my_net.py", "my_net"])
def test_network_in_a_file_is_given_what_it_takes(here, where):
    named = find(f"{where}:Lazy")
    assert named.source_sha256 == hashlib.sha256(FILE.encode()).hexdigest()
    model = build(named, image_shape=GREY, n_classes=3, options={"hidden": 5})
    assert model.training
    assert model(torch.zeros(4, *GREY)).shape == (4, 3)
    shapes = {name: tuple(one.shape) for name, one in model.named_parameters()}
    assert shapes["layers.0.weight"] == (5, 1, 3, 3)
    assert shapes["layers.3.weight"] == (3, 500)


def test_running_statistics_are_new_after_the_check(here):
    model = made("my_net.py:Lazy")
    assert model.layers[1].num_batches_tracked == 0
    assert model.layers[1].running_var.eq(1).all()


def test_network_of_a_library_takes_classes_and_size():
    model = made("torchvision:mobilenet_v3_small", RGB, 7)
    assert model(torch.zeros(2, *RGB)).shape == (2, 7)
    assert find("torchvision:mobilenet_v3_small").source_sha256 is None


def test_module_is_imported_by_its_name(here, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("site")
    (folder / "installed_nets").mkdir()
    (folder / "installed_nets" / "small.py").write_text(FILE)
    monkeypatch.syspath_prepend(folder)
    digest = hashlib.sha256(FILE.encode()).hexdigest()
    assert find("installed_nets.small:Lazy").source_sha256 == digest
    assert made("installed_nets.small:Lazy").layers[0].in_channels == 1


@pytest.mark.parametrize(
    ("arch", "found", "next_step"),
    [
        ("mobilenet_v3_smal", "names no network", "torchvision:mobilenet_v3_small or timm:mobile"),
        ("torchvision:mobilenet_v3_smal", "no classifier", "did you mean mobilenet_v3_small"),
        ("my_net.py:Lasy", "no class or function Lasy", "did you mean Lazy?"),
        ("none.py:Net", "does not exist", "--arch"),
        ("no_such_module:Net", "names no network", "name a file"),
        (":", "names no network", "name a file"),
        ("my_net.py:", "names no network", "name a file"),
    ],
)
def test_name_of_nothing_is_refused_with_the_nearest(here, arch, found, next_step):
    with pytest.raises(InputError, match=found) as caught:
        find(arch)
    assert next_step in caught.value.next_step


def test_name_of_a_file_and_a_module_is_refused_with_the_spelling_of_the_file(here):
    (here / "json.py").write_text("def f(): pass")
    with pytest.raises(InputError, match="or the installed json") as caught:
        find("json:f")
    assert "./json.py:f" in caught.value.expected


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("thousand", r"gives values of shape \(2, 1000\)"),
        ("Two", r"does not take images of 1 x 12 x 12: .*missing 1 required"),
        ("Nothing", "has no parameters"),
        ("Pair", "gives a tuple in training"),
        ("words", "gives a str"),
    ],
)
def test_network_that_classifies_no_such_images_is_refused(here, what, found):
    with pytest.raises(InputError, match=found):
        made(f"my_net.py:{what}")


def test_network_of_another_size_is_refused_with_its_line(here):
    refused = r"cannot be made with .*image_size=\(12, 14\): .* \(my_net.py:19\);"
    with pytest.raises(InputError, match=refused):
        made("my_net.py:sized", (1, 12, 14))
    with pytest.raises(InputError, match=r"not take images of 1 x 12 x 12: .*mat1 and mat2"):
        made("my_net.py:sized", image_size=10)


def test_unknown_option_is_refused(here):
    with pytest.raises(InputError, match=r"cannot be made with .*depth=3") as caught:
        made("my_net.py:Lazy", depth=3)
    assert "--arch-option" in caught.value.next_step


def test_file_that_does_not_run_is_refused(here):
    (here / "bad.py").write_text("import no_such_package")
    with pytest.raises(InputError, match="no_such_package"):
        find("bad.py:Net")
    (here / "bad.py").write_text("class")
    with pytest.raises(InputError, match="invalid syntax"):
        find("bad.py:Net")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a=3", 3), ("a=0.5", 0.5), ("a=relu", "relu"), ("a=False", False), ("a=[1, 2]", [1, 2])],
)
def test_option_is_read_as_json_else_as_text(text, expected):
    assert read_option(text) == ("a", expected)


@pytest.mark.parametrize("text", ["a", "=3", "a b=3"])
def test_option_without_a_name_is_refused(text):
    with pytest.raises(InputError, match="expected name=value"):
        read_option(text)


def test_file_that_a_checkpoint_names_is_run_only_with_its_digest(here):
    (here / "bad.py").write_text("raise SystemExit('run')")
    digest = hashlib.sha256(FILE.encode()).hexdigest()
    assert find_stored("my_net.py:Lazy", digest, allow_changed_source=False).make.__name__ == "Lazy"
    with pytest.raises(InputError, match=r"the file of bad.py:Net has changed") as caught:
        find_stored("bad.py:Net", digest, allow_changed_source=False)
    assert "changed" in caught.value.next_step
    with pytest.raises(SystemExit):
        find_stored("bad.py:Net", digest, allow_changed_source=True)


@pytest.mark.parametrize("arch", ["my_net.py:Lazy", "my_net:Lazy"])
@pytest.mark.parametrize("allowed", [False, True])
def test_file_whose_digest_a_checkpoint_leaves_out_is_not_run(here, arch, allowed):
    (here / "my_net.py").write_text("raise SystemExit('run')")
    with pytest.raises(InputError, match=r"my_net\.py, whose sha256 is not stated") as caught:
        find_stored(arch, None, allow_changed_source=allowed)
    assert caught.value.next_step == f"pass --arch {arch}"


@pytest.mark.parametrize("arch", ["os:system", "torch.hub:load", "subprocess:run"])
def test_module_that_a_checkpoint_names_is_not_imported(arch):
    with pytest.raises(InputError, match="not run because a file says so") as caught:
        find_stored(arch, None, allow_changed_source=True)
    assert caught.value.next_step.endswith(arch)


@pytest.mark.parametrize("name", ["weights", "pretrained", "checkpoint_path", "pretrained_cfg"])
def test_option_that_opens_other_files_is_refused(name):
    with pytest.raises(InputError, match=rf"arch.option.{name}"):
        made("torchvision:mobilenet_v3_small", RGB, **{name: "x"})


def test_network_for_colours_takes_grey():
    model = made("torchvision:mobilenet_v3_small", (1, 32, 32), 3)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 3)
    assert model.features[0][0].bias is None


def test_class_and_network_at_hand_are_named(here):
    lazy = find("my_net.py:Lazy").make
    named = find(lazy)
    assert (named.arch, named.make) == ("my_net:Lazy", lazy)
    assert named.source_sha256 == hashlib.sha256(FILE.encode()).hexdigest()
    network = made("my_net.py:Lazy")
    held = find(network)
    assert held.arch == "memory:Lazy"
    copied = build(held, image_shape=GREY, n_classes=3, options={})
    assert copied is not network
    assert all(map(torch.equal, copied.parameters(), network.parameters()))
    with pytest.raises(InputError, match="in the memory of the Python"):
        find(held.arch)
