"""Any network, by its name: what is found, what it is given, what is refused and how."""

import copy
import hashlib
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from convnet_edge.networks import source
from convnet_edge.networks.build import (
    build,
    find,
    find_stored,
    read_option,
    require_own_logits,
)
from convnet_edge.runtime.errors import InputError

GREY, RGB = (1, 12, 12), (3, 32, 32)
FILE = """
import sys

import torch
import torchvision
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


class Linear(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.LazyLinear(num_classes)

    def forward(self, x):
        return self.layer(x.flatten(1))


class Probable(Linear):
    def forward(self, x):
        return super().forward(x).softmax(1)


class Forgetful(Linear):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5)


class Comparing(Linear):
    def forward(self, x):
        logits = super().forward(x)
        return logits - logits.mean(0)


class ForTwo(Linear):
    def forward(self, x):
        return super().forward(x).view(2, -1)


class Squeezing(Linear):
    def forward(self, x):
        return super().forward(x.squeeze())


class Misspelt(Linear):
    def forward(self, x):
        return self.layers(x)


class Told(Linear):
    def forward(self, x):
        raise RuntimeError("not so")


class Divided(Linear):
    def forward(self, x):
        return super().forward(x) * (1 / 0)


class Changing(Linear):
    def forward(self, x):
        x -= 0.5
        return super().forward(x)


class Half(Linear):
    def forward(self, x):
        return super().forward(x).half()


class Ending(Linear):
    def __init__(self, num_classes, in_channels, image_size):
        sys.exit(0)


def anything(**options):
    return torchvision.models.squeezenet1_1(**options)


class Unnamed(Linear):
    def forward(self, x):
        return y


class Other(Linear):
    def __init__(self, n_out):
        super().__init__(n_out)


class Hidden(Linear):
    def __init__(self, num_classes, width, *others, depth=3, **more):
        super().__init__(num_classes)


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
        ("my_net.py:", "names no network in my_net.py", "write my_net.py:Lazy or my_net.py:Two"),
        ("my_net.py", "names no network in my_net.py", "write my_net.py:Lazy or my_net.py:Two"),
        ("none.py", "names no network", "name a file"),
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
        ("Two", r"fails on images of 1 x 12 x 12: .*missing 1 required"),
        ("Nothing", "has no parameters"),
        ("Pair", "gives a tuple in training"),
        ("words", "gives a str"),
    ],
)
def test_network_that_classifies_no_such_images_is_refused(here, what, found):
    with pytest.raises(InputError, match=found):
        made(f"my_net.py:{what}")


@pytest.mark.parametrize(
    ("what", "found", "next_step"),
    [
        ("Other", "needs n_out, of which", "pass --arch-option n_out=3 .*, or call it num_classes"),
        ("Hidden", "needs width, of which", "pass --arch-option width=VALUE$"),
        ("Pair", "gives a tuple in training", "return the logits alone"),
        ("Misspelt", r"no attribute 'layers' \(my_net.py:\d+\)", "mend that line$"),
        ("Told", r"Told fails on .*: not so \(my_net.py:\d+\)", "mend that line, or .*image-size"),
        ("Divided", r": ZeroDivisionError: .* \(my_net.py:\d+\)", "mend that line$"),
        ("Unnamed", r"name 'y' is not defined \(my_net.py:\d+\)", "mend that line$"),
        ("Half", "gives float16 for 2 images", "let its last operation give float32"),
        ("Ending", r"made with .*: it ends the program, by sys.exit .* \(my_net.py:\d+\)", "mend"),
    ],
)
def test_refused_network_is_told_what_to_do(here, what, found, next_step):
    with pytest.raises(InputError, match=found) as caught:
        made(f"my_net.py:{what}")
    assert re.search(next_step, caught.value.next_step)


def test_function_that_takes_anything_is_told_the_number_of_classes(here):
    assert made("my_net.py:anything", image_shape=(3, 32, 32)).classifier[1].out_channels == 3


@pytest.mark.parametrize("arch", ["ending.py:Net", "finishing:Net"])
def test_file_that_ends_the_program_is_refused(here, arch, monkeypatch):
    (here / f"{re.split('[.:]', arch)[0]}.py").write_text("import sys; sys.exit(0)")
    if ".py" not in arch:
        monkeypatch.chdir(here.parent)
        monkeypatch.syspath_prepend(here)
    with pytest.raises(InputError, match="ends the program"):
        find(arch)


@pytest.mark.parametrize(
    ("what", "found", "next_step"),
    [
        ("Probable", "gives probabilities, rows that add up to 1", "leave out the last softmax"),
        ("Forgetful", "other logits when it runs again", "leave out what is random"),
        ("Comparing", "an image other logits when it is alone", "each image be judged alone"),
        ("ForTwo", "ForTwo does not take one image", "each image be judged alone"),
        ("Changing", "changes the images that it is given", "not x -= 0.5"),
        ("Squeezing", "Squeezing does not take one image", "each image be judged alone"),
    ],
)
def test_network_whose_logits_are_not_the_image_s_own_is_refused_before_training(
    here, what, found, next_step
):
    model = made(f"my_net.py:{what}")
    with pytest.raises(InputError, match=found) as caught:
        require_own_logits(f"my_net.py:{what}", model, GREY)
    assert re.search(next_step, caught.value.next_step)


@pytest.mark.parametrize("what", ["Lazy", "Linear"])
def test_network_with_batch_norm_gives_each_image_its_own_logits_and_stays_as_it_is(here, what):
    model = made(f"my_net.py:{what}")
    before = copy.deepcopy(model.state_dict())
    require_own_logits("x", model, GREY)
    assert model.training
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
    torch.nn.init.constant_(next(model.parameters()), torch.inf)
    with pytest.raises(InputError, match="NaN or infinite logits, with the weights that it begins"):
        require_own_logits("x", model, GREY)


@pytest.mark.parametrize("wrap", ["torch.compile", "torch.jit.script", "nn.DataParallel"])
def test_network_inside_another_object_is_to_be_given_itself(here, wrap):
    text = f"{FILE}\n\ndef wrapped(num_classes):\n    return {wrap}(nn.Linear(3, num_classes))\n"
    (here / "my_net.py").write_text(text)
    with pytest.raises(InputError, match="which holds the network") as caught:
        made("my_net.py:wrapped")
    assert "without torch.compile" in caught.value.next_step


def test_nothing_is_told_of_a_network_that_only_a_batch_keeps_small():
    layers = [layer for _ in range(3) for layer in (nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 3))
    for layer in layers[::2]:
        nn.init.constant_(layer.weight, 1e15)
    assert not model.eval()(torch.rand(2, 1, 4, 4)).isfinite().all()
    require_own_logits("x", model, (1, 4, 4))


def test_network_of_another_size_is_refused_with_its_line(here):
    refused = r"cannot be made with .*image_size=\(12, 14\): .* \(my_net.py:22\);"
    with pytest.raises(InputError, match=refused):
        made("my_net.py:sized", (1, 12, 14))
    with pytest.raises(InputError, match=r"fails on images of 1 x 12 x 12: .*mat1 and mat2"):
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
    with pytest.raises(InputError, match=r"bad\.py does not run: it ends the program"):
        find_stored("bad.py:Net", digest, allow_changed_source=True)


FOLDER = {
    "main.py": "import torch, os\nfrom resy import Net\nimport pack.deep\nfrom pack import more",
    "resy.py": "def Net(num_classes):\n    import helper",
    "helper.py": "import main",
    "pack/__init__.py": "from . import inner",
    "pack/inner.py": "",
    "pack/deep.py": "from .. import last\nfrom ..nothing import x",
    "pack/more.py": "",
    "last.py": "class",
}


@pytest.mark.parametrize("changed", [*FOLDER, "pack/unused.py", "torch_unused.py"])
def test_digest_stands_for_the_file_and_what_it_imports_of_its_folder(here, changed):
    for name, text in (FOLDER | {"pack/unused.py": "", "torch_unused.py": ""}).items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(text)
    before = source.read(Path("main.py"))
    assert len(before.beside) == len(FOLDER) - 1
    (here / changed).write_text("# changed\n" + (here / changed).read_text())
    assert (source.read(here / "main.py") == before) == ("unused" in changed)


def test_module_of_a_package_stands_for_what_it_imports_of_it_by_its_whole_name(here, monkeypatch):
    (here / "nets").mkdir()
    (here / "nets" / "__init__.py").write_text("")
    (here / "nets" / "one.py").write_text("from nets.two import x\nfrom nets import three")
    (here / "nets" / "two.py").write_text("from .three import y")
    (here / "nets" / "three.py").write_text("")
    assert source.read(here / "nets" / "one.py").beside == ("__init__.py", "three.py", "two.py")
    installed = here / "site-packages"
    (here / "nets").rename(installed)
    assert source.read(installed / "one.py").beside == (), "what is installed is no part of it"


def test_changed_file_beside_that_is_imported_is_noticed_and_said(here):
    (here / "bad.py").write_text("from resy_beside import Net")
    (here / "resy_beside.py").write_text("def Net(num_classes): pass")
    digest = find("bad.py:Net").source_sha256
    assert find(sys.modules["bad"].Net).source_sha256 == source.read(Path("resy_beside.py")).sha256
    find_stored("bad.py:Net", digest, allow_changed_source=False)
    (here / "resy_beside.py").write_text("raise SystemExit('run')")
    refused = (
        "the file of bad.py:Net, or one beside it that it imports (resy_beside.py), has changed"
    )
    with pytest.raises(InputError, match=re.escape(refused)):
        find_stored("bad.py:Net", digest, allow_changed_source=False)


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
