"""Training any network: precision, fine-tuning, weights from elsewhere, going on after a stop."""

import hashlib
import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from convnet_edge.data import dataset
from convnet_edge.drawing import pictures
from convnet_edge.networks import checkpoint
from convnet_edge.networks.convnet import compute_logits
from convnet_edge.networks.weights import find
from convnet_edge.runtime.errors import EdgeError, InputError, InterruptedRunError
from convnet_edge.runtime.measure import accuracy
from convnet_edge.runtime.pictures.preprocess import Preprocessing
from convnet_edge.training import finetuning, initial, loop, precision, recipes, record
from convnet_edge.training.options import TrainOptions
from convnet_edge.training.precision import Timing
from convnet_edge.training.recipes import RECIPES, SCRATCH_OTHERS
from convnet_edge.training.run import EpochMetrics, Run

CPU = torch.device("cpu")
LABELS = ("blue", "green", "red")
FILE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3),
            nn.Conv2d(6, 6, 3, groups=6), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        )
        self.head = nn.LazyLinear(num_classes)

    def forward(self, x):
        return self.head(self.body(x))
"""


def some(images, n, seed):
    """Return n pictures of 12 x 10 pixels of each colour, with noise."""
    labels = np.repeat(np.arange(3), n)
    pixels = np.random.default_rng(seed).integers(0, 120, (len(labels), 12, 10, 3), dtype=np.uint8)
    pixels[np.arange(len(labels)), :, :, 2 - labels] += 100
    return replace(images, images=pixels, labels=labels, sha256=f"{seed:064x}")


@pytest.fixture
def options(monkeypatch, tmp_path, few):
    """Training a network of one's own file on three colours; draws no picture."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_net.py").write_text(FILE)
    left_out = pictures.Picture(tmp_path / "x.png", drawn=False)
    monkeypatch.setattr(pictures, "training_curve", lambda *_: left_out)
    found = dataset.Dataset(
        source="my colours",
        class_labels=LABELS,
        preprocessing=Preprocessing((12, 10), 3),
        train=some(few, 24, 1),
        validation=some(few, 8, 2),
        test=some(few, 5, 3),
    )
    monkeypatch.setattr(dataset, "load", lambda *_, **__: found)
    yield TrainOptions(data="mine", arch="my_net.py:Net", epochs=5, batch_size=24, device="cpu",
                       precision="float32",  # else two runs may each find another one faster
                       out=tmp_path / "run" / "x.safetensors")  # fmt: skip
    sys.modules.pop("my_net", None)


@pytest.fixture
def weights(options):
    """A file of weights of the network for three classes, random but for what it remembers."""
    model = Run(replace(options, seed=9), device=CPU).model
    model.body[1].running_mean.fill_(0.25)
    path = options.out.parent.parent / "given.pt"
    torch.save({"state_dict": model.state_dict()}, path)
    return path


def stored(options):
    return safetensors.torch.load_file(options.out)


def same(one, other, prefix=""):
    return all(torch.equal(t, other[name]) for name, t in one.items() if name.startswith(prefix))


def interrupt_after(n):
    def tell(event):
        if isinstance(event, EpochMetrics) and event.epoch == n:
            raise KeyboardInterrupt

    return tell


def stop(options, n=2):
    with pytest.raises(InterruptedRunError, match=f"{n} complete of 5 kept"):
        loop.train(options, interrupt_after(n))
    return replace(options, resume=True)


def timed(monkeypatch, float32_ms, bf16_ms):
    monkeypatch.setattr(precision, "has_bf16", lambda _: True)
    monkeypatch.setattr(precision, "measure", lambda _: Timing(float32_ms, bf16_ms))


def test_timing_leaves_the_run_as_it_was(options):
    run = Run(options, device=CPU)
    before = {name: tensor.clone() for name, tensor in run.state().items()}
    drawn, random = run.choices.get_state(), torch.get_rng_state()
    timing = precision.measure(run)
    assert min(timing.float32_step_ms, timing.bf16_step_ms) > 0
    assert same(before, run.state())
    assert torch.equal(drawn, run.choices.get_state())
    assert torch.equal(random, torch.get_rng_state())


def test_auto_takes_the_faster_and_resume_keeps_it(options, monkeypatch):
    options = replace(options, precision=None)
    whole = replace(options, out=options.out.with_name("whole.safetensors"))
    timed(monkeypatch, 30.0, 10.0)
    loop.train(whole)
    resumed = stop(options)
    timed(monkeypatch, 10.0, 30.0)
    record = loop.train(resumed).record
    assert options.out.read_bytes() == whole.out.read_bytes()
    assert record["training"]["precision"] == "bf16"
    timing = {"float32_step_ms": 30.0, "bf16_step_ms": 10.0}
    assert record["precision"] == {"asked": "auto", "timing": timing}
    assert not record["device"][
        "cpu_seed_repeats_bit_for_bit"
    ]  # the next may find the other faster
    assert loop.train(replace(whole, resume=True)) is None
    loop.train(replace(options, precision="float32"))
    assert not same(stored(options), stored(whole))
    with pytest.raises(InputError, match="another run: precision is 'bf16', now 'float32'"):
        loop.train(replace(whole, resume=True, precision="float32"))


def test_epochs_are_validated_in_the_format_of_the_steps_and_the_end_in_float32(
    options, monkeypatch
):
    formats = []

    def look(model, *given):
        formats.append(torch.is_autocast_enabled("cpu"))
        return compute_logits(model, *given)

    for module in (loop, record):
        monkeypatch.setattr(module, "compute_logits", look)
    found = loop.train(replace(options, epochs=2, precision="bf16"))
    assert formats[:2] == [True, True]
    assert len(formats) > 2 and not any(formats[2:])
    assert all(0 < epoch.validation_loss < 2 for epoch in found.epochs)


def test_auto_without_bf16_in_the_hardware_is_float32_untimed(options, monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda _: False)
    monkeypatch.setattr(precision, "measure", None)
    record = loop.train(replace(options, epochs=1, precision=None)).record
    assert record["precision"] == {"asked": "auto", "timing": None}
    assert record["device"]["cpu_seed_repeats_bit_for_bit"]
    assert record["training"]["precision"] == "float32"


def test_precision_asked_for_by_default_depends_on_the_recipe():
    asked = {name: TrainOptions(recipe=name).asked_precision for name in RECIPES}
    timed = {"scratch": "auto", "finetune": "auto"}
    assert asked == {"tutorial": "float32", "fast": "float32", "best": "float32"} | timed
    assert TrainOptions(recipe="scratch", precision="bf16").asked_precision == "bf16"


def test_head_learns_alone_then_all_and_the_body_slower(options, weights):
    given = find(str(weights), "").tensors
    options = replace(options, weights=str(weights))
    assert options.recipe_name == "finetune"
    stop(options, 1)
    kept = checkpoint.load(options.resume_path, kind="resume").tensors
    kept = {name.removeprefix("model."): t for name, t in kept.items()}
    assert same(given, kept, "body.")
    assert not torch.equal(given["head.weight"], kept["head.weight"])
    loop.train(options)
    moved = {name: (t - given[name]).abs().max() for name, t in stored(options).items()}
    assert 0 < moved["body.0.weight"] < 0.3 * moved["head.weight"]


def test_no_gradient_below_the_head_is_computed_while_it_learns_alone(options, weights):
    run = Run(replace(options, weights=str(weights)), device=CPU)
    seen = []
    run.model.body.register_forward_hook(lambda *passed: seen.append(passed[-1].requires_grad))
    run.begin_epoch()
    batch = run.images.batch(run.draw(run.choices))
    found = run.loss_and_gradients(run.parameters, batch, n_total=72)
    assert [gradient is None for gradient in found.gradients] == [True] * 6 + [False] * 2
    run.epochs = (None,)
    run.begin_epoch()
    found = run.loss_and_gradients(run.parameters, batch, n_total=72)
    assert None not in found.gradients
    assert seen == [False, True]


class Backwards(nn.Module):
    """Its head comes first but is used last."""

    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(30, num_classes)
        self.body = nn.Linear(360, 30)

    def forward(self, x):
        return self.head(self.body(x.flatten(1)).relu())


def test_head_is_what_was_replaced_else_the_last_layer_passed():
    model, images = Backwards(3), torch.zeros(2, 3, 12, 10)
    assert finetuning.find_head(model, (), images) == (0, 1)
    assert finetuning.find_head(model, ("body.bias", "body.weight"), images) == (2, 3)


@pytest.mark.parametrize(("batch_size", "held"), [(12, True), (24, False)])
def test_statistics_are_held_where_batches_are_small(options, weights, batch_size, held):
    options = replace(options, weights=str(weights), batch_size=batch_size)
    record = loop.train(options).record
    assert stored(options)["body.1.running_mean"].eq(0.25).all() == held
    words = "that came with the weights" if held else "of each batch"
    assert words in record["device"]["batch_normalization"]


def test_batch_of_one_image_is_refused_where_it_has_no_statistics(options):
    options = replace(options, batch_size=1, epochs=1)
    with pytest.raises(InputError, match="1 images of a batch for each of 1 processes") as caught:
        loop.train(options)
    assert "2 or more" in caught.value.expected
    loop.train(replace(options, arch=Backwards))


class Probable(Backwards):
    def forward(self, x):
        return super().forward(x).softmax(1)


def test_network_that_gives_probabilities_is_not_trained(options):
    with pytest.raises(InputError, match="gives probabilities"):
        loop.train(replace(options, arch=Probable))


class Frozen(Backwards):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.requires_grad_(False)


class FrozenHead(Backwards):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.head.requires_grad_(False)


def test_parameters_that_the_network_froze_stay_as_they_are(options):
    with pytest.raises(InputError, match="Frozen has no parameters that learn"):
        loop.train(replace(options, arch=Frozen))
    given = replace(options, arch=FrozenHead, recipe="finetune")
    before = Run(given, device=CPU).model.state_dict()
    before = {name: one.clone() for name, one in before.items()}
    loop.train(given)
    assert same(before, stored(options), "head.")
    assert not same(before, stored(options), "body.")


def test_weights_are_adopted_as_they_are(options, weights):
    adopting = replace(options, weights=str(weights), epochs=0, mean=(0.1,) * 3, std=(0.5,) * 3)
    result = loop.train(adopting)
    given = find(str(weights), "").tensors
    assert same(given, stored(options))
    training = result.record["training"]
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert training | {"epochs": 0, "weights": "given.pt", "weights_sha256": digest} == training
    assert training["recipe"] == "adopted"
    assert result.record["model"]["normalization"] == [[0.1] * 3, [0.5] * 3]
    assert result.record["test"]["may_have_been_seen"]
    assert result.picture is None
    assert not options.resume_path.exists()
    model, _ = checkpoint.load_model(options.out)
    images = dataset.load().test.images
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.1) / 0.5
    expected = model.network(x).detach().numpy()
    np.testing.assert_allclose(compute_logits(model, images, torch.float32), expected, atol=1e-5)
    assert loop.train(replace(adopting, resume=True)) is None


def test_classes_in_the_order_of_the_outputs_are_matched_by_name(options, weights, monkeypatch):
    seen, found = [], dataset.load()
    monkeypatch.setattr(dataset, "load", lambda _, **how: seen.append(how) or found)
    Path("names.txt").write_text("red\nblue\ngreen\n")
    told = replace(options, weights=str(weights), classes=Path("names.txt"))
    loop.train(replace(told, epochs=0))
    assert seen[0]["class_labels"] == ("red", "blue", "green")


def test_settled_statistics_are_those_of_the_images():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.01), nn.Dropout(0.5))
    images = [3 + 2 * torch.randn(8, 3, 9, 9) for _ in range(4)]
    finetuning.settle_statistics(model, images)
    outputs = model[0](torch.cat(images)).detach()
    torch.testing.assert_close(model[1].running_mean, outputs.mean((0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, outputs.var((0, 2, 3)), rtol=0.02, atol=0)
    assert (model[1].momentum, model.training, model[1].training) == (0.01, False, False)


def test_network_whose_statistics_lag_is_handed_over_with_settled_ones(options):
    Path("my_net.py").write_text(FILE.replace("(6)", "(6, momentum=1e-6)"))
    loop.train(options)
    tensors = checkpoint.load(options.out, kind="model").tensors
    assert tensors["body.1.running_mean"].abs().max() > 1e-3


def test_adopted_weights_may_be_as_many_as_a_checkpoint_holds(options, weights, monkeypatch):
    n = sum(one.numel() for one in Backwards(3).parameters())
    monkeypatch.setattr(initial, "MAX_PARAMETERS", n - 1)
    with pytest.raises(InputError, match=rf"has {n:,} param.* at most {n - 1:,}, as a run's state"):
        loop.train(replace(options, arch=Backwards))
    adopted = replace(options, arch=Backwards, epochs=0)
    loop.train(adopted)
    monkeypatch.setattr(initial, "MAX_STORED", n - 1)
    with pytest.raises(InputError, match=f"at most {n - 1:,}, as a checkpoint is kept"):
        loop.train(adopted)


def test_adopted_weights_take_pixels_as_they_are_unless_more_is_known(options, weights):
    record = loop.train(replace(options, weights=str(weights), epochs=0)).record
    assert record["model"]["normalization"] is None


def test_own_checkpoint_is_taken_with_its_normalization_and_its_pictures(options, monkeypatch):
    first = replace(options, out=options.out.with_name("first.safetensors"))
    loop.train(first)
    found, seen = dataset.load(), []
    monkeypatch.setattr(dataset, "load", lambda given, **_: seen.append(given) or found)
    record = loop.train(replace(options, weights=str(first.out), epochs=0)).record
    assert same(stored(first), stored(options))
    model = checkpoint.load(first.out, kind="model").header["model"]
    assert record["model"] == model
    assert (seen[0].image_size, seen[0].channels, seen[0].fit) == ((12, 10), "rgb", "crop")


def test_network_in_memory_is_adopted_and_trained_on(options):
    torch.manual_seed(4)
    model = Backwards(3)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    given = replace(options, arch=model, epochs=0, mean=(0.5,) * 3, std=(0.25,) * 3)
    record = loop.train(given).record
    assert same(before, stored(options))
    assert record["training"]["arch"] == "memory:Backwards"
    assert record["model"]["normalization"] == [[0.5] * 3, [0.25] * 3]
    loop.train(replace(given, epochs=2, recipe="finetune"))
    assert not same(before, stored(options))
    assert same(before, model.state_dict())  # the caller's stays as it was


def test_weights_of_other_classes_cannot_be_adopted(options, weights):
    state = {n: t[:2] if "head" in n else t for n, t in find(str(weights), "").tensors.items()}
    torch.save(state, weights)
    with pytest.raises(InputError, match=r"given.pt is for other classes: of head.bias, head.weig"):
        loop.train(replace(options, weights=str(weights), epochs=0))
    record = loop.train(replace(options, weights=str(weights), epochs=1)).record
    assert record["replaced_weights"] == ["head.bias", "head.weight"]


@pytest.mark.parametrize("recipe", ["scratch", "finetune", "averaged"])
def test_resumed_run_gives_the_same_bits(options, weights, monkeypatch, recipe):
    """With statistics, dropout and augmentation; stopped after each epoch, and in one."""
    if recipe == "averaged":
        averaged = replace(SCRATCH_OTHERS, average=0.9)
        monkeypatch.setattr("convnet_edge.training.options.SCRATCH_OTHERS", averaged)
    options = replace(options, augment="shift,flip,erase")
    if recipe == "finetune":
        options = replace(options, weights=str(weights))
    whole = replace(options, out=options.out.with_name("whole.safetensors"))
    loop.train(whole)
    for n in range(1, 5):
        options = stop(options, n)
    steps, real = count(1), Run.step

    def step(self, *arguments):
        if next(steps) == 2:
            raise KeyboardInterrupt
        real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", step)
        with pytest.raises(InterruptedRunError, match="4 complete of 5"):
            loop.train(options)
    result = loop.train(options)
    assert options.out.read_bytes() == whole.out.read_bytes()
    assert [epoch.epoch for epoch in result.epochs] == [1, 2, 3, 4, 5]


def test_changed_source_is_refused_by_name_unless_allowed_and_recorded(options):
    resumed, path = stop(options), options.out.parent.parent / "my_net.py"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text(FILE + "\n# changed\n")
    with pytest.raises(InputError, match=r"the file of my_net.py:Net has changed") as caught:
        loop.train(resumed)
    assert "--allow-changed-source" in caught.value.next_step
    allowed = stop(replace(resumed, allow_changed_source=True), 3)
    record = loop.train(allowed).record
    assert record["earlier_sources"] == [before]
    now = hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["model"]["source_sha256"] == now
    told = checkpoint.load(options.out, kind="model").header["training"]
    assert told == record["training"] | {"earlier_sources": [before]}
    assert loop.train(replace(allowed, resume=True)) is None  # it is the same run
    assert not checkpoint.load_model(options.out)[1].source_changed  # with the source of now
    path.write_text(FILE)
    assert checkpoint.load_model(options.out, allow_changed_source=True)[1].source_changed


def test_resume_where_only_others_are_unfinished_names_them(options):
    resumed = stop(options)
    other = replace(resumed, out=options.out.with_name("y.safetensors"))
    with pytest.raises(InputError, match=r"but beside it x.resume.safetensors;") as caught:
        loop.train(other)
    assert f"--out {options.out}" in caught.value.next_step
    loop.train(resumed)
    assert loop.train(other).epochs[0].epoch == 1, "none is there that may have been meant"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"arch": "my_net:Net"}, "another run: arch is 'my_net.py:Net', now 'my_net:Net'"),
        ({"arch_option": ("hidden=3",)}, "cannot be made with"),
        ({"weights": "given.pt"}, "another run: recipe"),
        ({"weights": "given.pt", "recipe": "scratch"}, "another run: (weights|model|pixel)"),
    ],
)
def test_resume_with_another_network_is_refused(options, weights, change, found):
    resumed = stop(options)
    with pytest.raises(InputError, match=found):
        loop.train(replace(resumed, **change))


def test_resume_with_tensors_of_another_name_is_refused(options):
    resumed = stop(options)
    kept = checkpoint.load(options.resume_path, kind="resume")
    more = replace(kept, tensors=kept.tensors | {"model.more": torch.zeros(1)})
    checkpoint.save(options.resume_path, more)
    with pytest.raises(
        InputError, match=r"does not fit this run: 'model.more is unknown|more is un"
    ):
        loop.train(resumed)


ROWS = "        x = self.body(x)\n        return self.head(x.view(len(x), -1))"
KEPT = "        self.seen = self.body(x)\n        return self.head(self.seen)"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("nn.AdaptiveAvgPool2d(2), nn.Flatten()", "nn.AdaptiveAvgPool2d(2)"),  # rows, by view
        ("        return self.head(self.body(x))", KEPT),
        ("nn.Conv2d(in_channels, 6, 3)", "nn.utils.weight_norm(nn.Conv2d(in_channels, 6, 3))"),
        ("nn.Conv2d(in_channels, 6, 3)", "nn.utils.spectral_norm(nn.Conv2d(in_channels, 6, 3))"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_network_that_looks_into_memory_or_keeps_what_it_computed_is_trained_and_scored(
    options, tmp_path, before, after
):
    changed = FILE.replace(before, after)
    if "nn.Flatten" in before:
        changed = changed.replace("        return self.head(self.body(x))", ROWS)
    (tmp_path / "my_net.py").write_text(changed)
    done = loop.train(replace(options, epochs=2, augment="shift"))
    assert done.test.n == 15
    model, _ = checkpoint.load_model(options.out)
    assert compute_logits(model, few_colours(15), torch.float64).shape == (15, 3)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("with torch.no_grad(): return self.head(self.body(x))", "cannot be trained: .* grad"),
        ("return self.head(self.body(x)).detach()", "cannot be trained: .* grad"),
        ("y = self.body(x).sigmoid(); z = y * y; y += 1; return self.head(z)", "inplace"),
        ("self.training and len(x) > 2 and len(1); return self.head(self.body(x))",
         r"fails in training: TypeError: .*\(my_net.py:16\)"),
        ("import sys; self.training and len(x) > 2 and sys.exit(3); return self.head(self.body(x))",
         r"fails in training: SystemExit: 3 \(my_net.py:16\)"),
    ],
)  # fmt: skip
def test_fault_of_a_network_in_training_is_an_error_that_names_its_line(
    options, tmp_path, line, found
):
    (tmp_path / "my_net.py").write_text(FILE.replace("return self.head(self.body(x))", line))
    with pytest.raises(InputError, match=found):
        loop.train(options)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError(),
     RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")],
)  # fmt: skip
def test_memory_that_does_not_suffice_is_an_error_that_says_what_takes_less(
    options, monkeypatch, error
):
    def step(*_):
        raise error

    monkeypatch.setattr(Run, "step", step)
    with pytest.raises(InputError, match="cpu has no memory left") as caught:
        loop.train(options)
    assert caught.value.next_step.startswith("pass --batch-size 12, or smaller images")


def test_what_is_no_fault_of_the_network_keeps_its_traceback(options, monkeypatch):
    def step(*_):
        raise RuntimeError("a defect of this program")

    monkeypatch.setattr(Run, "step", step)
    with pytest.raises(RuntimeError, match="a defect"):
        loop.train(options)


def few_colours(n):
    return np.random.default_rng(0).integers(0, 256, (n, 12, 10, 3), np.uint8)


LINE = {
    "depends on what is in the images": "if x.isnan().any(): x = x + 1",
    "gives NaN or infinite logits": "x = x / 0",
    "does not take one image": "x = x.view(2, 3, 12, 10)",
}


@pytest.mark.parametrize("found", LINE)
def test_network_that_cannot_be_trained_or_exported_is_refused_before_the_first_epoch(
    options, tmp_path, found
):
    line = f"        {LINE[found]}\n        return self.head"
    (tmp_path / "my_net.py").write_text(FILE.replace("        return self.head", line))
    heard = []
    with pytest.raises(EdgeError, match=found):
        loop.train(options, heard.append)
    assert not heard


def said(run, *arguments):
    """Train by a command line, and return what it said in one line."""
    command = ["train", "--data", "mine", "--arch", "my_net.py:Net", "--device", "cpu"]
    result = run(*command, "--out", "y.safetensors", *arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_screen_of_adopted_weights_says_what_is_taken_for_granted(options, weights, run):
    shown = said(
        run, "--weights", weights, "--epochs", 0, "--mean", "0.5,0.5,0.5", "--std", "1,1,1"
    )
    for words in ("Weights: given.pt for pixels less 0.5, 0.5, 0.5 and divided by 1, 1, 1; else",
                  "stay as they are; their outputs are the classes in order of their names",
                  "these weights may have seen these pictures", "Network my_net.py:Net",
                  "wrote y.safetensors, .train.json, .epochs.csv"):  # fmt: skip
        assert words in shown
    assert "left out 1 picture" not in shown
    assert "an epoch takes" not in shown
    assert "for pixels in [0, 1]; else" in said(run, "--weights", weights, "--epochs", 0)


def test_screen_of_finetuning_says_what_learns_and_which_format_is_faster(
    options, weights, run, monkeypatch
):
    timed(monkeypatch, 30.0, 10.0)
    monkeypatch.setattr("convnet_edge.commands.train.LONG_S", 0)
    shown = said(run, "--weights", weights, "--epochs", 6, "--batch-size", 12)
    for words in ("the head alone for 1 epoch, then all, at 0.1 of the learning rate below it",
                  "batch normalisation takes statistics that came with the weights: fewer than 16",
                  "bf16: 3.0 x faster here (a step: float32 30 ms, bf16 10 ms)",
                  "6 epochs take 0.0 hours or more without a GPU"):  # fmt: skip
        assert words in shown
    assert "the head alone for 1 epoch," in said(run, "--weights", weights, "--epochs", 2)
    timed(monkeypatch, 10.0, 30.0)
    assert "float32: 3.0 x faster here" in said(run, "--epochs", 1)


NOTHING = "no better than guessing among 3 classes, 33.3 %"
LITTLE = "of the training pictures 50.0 %: it has not learnt these yet"
HELP = "what may help: more --epochs, --learning-rate × 3, half the --batch-size"
FEW = "the recipe takes 2 epochs for so many pictures"


@pytest.mark.parametrize(
    ("n_right", "known", "asked", "expected"),
    [
        (2, 0.5, ("--epochs", 1), {NOTHING, HELP, FEW}),
        (14, 0.5, ("--epochs", 1), {LITTLE, HELP, FEW}),
        (14, 0.5, ("--epochs", 2), {LITTLE, HELP}),
        (14, 0.7, ("--epochs", 1), set()),
    ],
)
def test_screen_says_what_may_help_where_training_ends_with_little(
    options, run, monkeypatch, n_right, known, asked, expected
):
    real = accuracy.score

    def scored(answers, labels, names):
        answers = np.where(np.arange(len(labels)) < n_right, labels, (labels + 1) % 3)
        return real(answers, labels, names)

    def measured(*given):
        return replace(measure(*given), accuracy=known)

    monkeypatch.setattr(recipes, "MOST_EPOCHS", 2)
    measure = loop._measure
    monkeypatch.setattr(loop, "_measure", measured)
    monkeypatch.setattr(accuracy, "score", scored)
    shown = said(run, *asked)
    assert {words for words in (NOTHING, LITTLE, HELP, FEW) if words in shown} == expected


@pytest.mark.parametrize(("asked", "is_said"), [((), True), (("--precision", "float32"), False)])
def test_screen_says_why_auto_is_float32_without_bf16(options, run, monkeypatch, asked, is_said):
    monkeypatch.setattr(precision, "has_bf16", lambda _: False)
    shown = said(run, "--epochs", 1, *asked)
    assert ("float32: no bfloat16 in this processor" in shown) == is_said


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (
            "nn.ReLU()",
            "nn.ConvTranspose2d(6, 6, 2)",
            "a device would refuse it: .* 'ConvTranspose'",
        ),
        ("self.body(x)", "self.body(x.to(torch.float32))", "float64 reference"),
    ],
)
def test_export_is_tried_before_a_training_that_takes_long(
    options, run, monkeypatch, tmp_path, before, after, found
):
    (tmp_path / "my_net.py").write_text(FILE.replace(before, after))
    monkeypatch.setattr("convnet_edge.commands.train.REHEARSED_S", 0)
    command = ("train", "--data", "mine", "--arch", "my_net.py:Net", "--device", "cpu")
    result = run(*command, "--epochs", 1, "--out", "y.safetensors")
    assert result.exit_code == 1, result.output
    assert re.search(found, " ".join(result.stderr.split()))
    assert "Epoch" not in result.stdout
    monkeypatch.setattr("convnet_edge.commands.train.REHEARSED_S", 60)
    assert "Epoch [ 1/ 1]" in said(run, "--epochs", 1)


KILLED = """
import os, signal, sys
from convnet_edge.__main__ import main
from convnet_edge.training import record
real, n_left = record.save, [int(sys.argv.pop(1))]

def save(run, epochs):
    real(run, epochs)
    n_left[0] -= 1
    if not n_left[0]:
        os.kill(os.getpid(), signal.SIGKILL)

record.save = save
main()
"""


@pytest.mark.slow
def test_run_killed_after_each_epoch_gives_the_same_bits(tmp_path):
    (tmp_path / "my_net.py").write_text(FILE)
    noise = np.random.default_rng(0)
    for label in LABELS:
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(20):
            pixels = noise.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{i}.png")
    command = ["train", "--data", "data", "--arch", "my_net.py:Net", "--epochs", "3",
               "--device", "cpu", "--precision", "float32", "--cache", "cache",
               "--resume", "--out"]  # fmt: skip

    def run(n_epochs, out):
        code = [sys.executable, "-c", KILLED, str(n_epochs), *command, out]
        return subprocess.run(code, cwd=tmp_path, capture_output=True, text=True)

    assert run(0, "whole.safetensors").returncode == 0
    for _ in range(3):
        assert run(1, "x.safetensors").returncode == -signal.SIGKILL
    last = run(0, "x.safetensors")
    assert "Resuming after 3 epochs" in last.stdout, last.stderr
    whole, killed = (tmp_path / f"{name}.safetensors" for name in ("whole", "x"))
    assert killed.read_bytes() == whole.read_bytes()
    epochs = json.loads(killed.with_suffix(".train.json").read_text())["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]
    assert not (tmp_path / "x.resume.safetensors").exists()
