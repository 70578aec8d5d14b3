"""Training on pictures other than the reference's: colour, any size, any classes."""

import csv
import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch

from convnet_edge.data import dataset
from convnet_edge.drawing import pictures
from convnet_edge.networks import checkpoint
from convnet_edge.networks.convnet import compute_logits
from convnet_edge.runtime.errors import InputError, InterruptedRunError, MissingPackageError
from convnet_edge.runtime.files import as_json
from convnet_edge.runtime.measure.stats import wilson_interval
from convnet_edge.runtime.pictures.preprocess import Preprocessing
from convnet_edge.training import loop, record
from convnet_edge.training.options import TrainOptions
from convnet_edge.training.recipes import RECIPES
from convnet_edge.training.run import EpochMetrics, balanced_accuracy

LABELS = ("blue", "green", "red")


def some(images, counts, seed):
    """Return pictures of 20 x 16 pixels, as many of each colour as `counts` say, with noise."""
    labels = np.repeat(np.arange(3), counts)
    pixels = np.random.default_rng(seed).integers(0, 120, (len(labels), 20, 16, 3), dtype=np.uint8)
    pixels[np.arange(len(labels)), :, :, 2 - labels] += 130
    pixels.flags.writeable = False
    return replace(images, images=pixels, labels=labels, sha256=f"{seed:064x}")


@pytest.fixture
def colours(monkeypatch, tmp_path, few):
    """A data set of three classes, the last without a test picture; may be changed by key."""
    left_out = pictures.Picture(tmp_path / "x.png", drawn=False)
    monkeypatch.setattr(pictures, "training_curve", lambda *_: left_out)
    found = {
        "source": "my colours",
        "class_labels": LABELS,
        "preprocessing": Preprocessing((20, 16), 3),
        "train": some(few, (40, 20, 20), 1),
        "validation": some(few, (20, 10, 10), 2),
        "test": some(few, (10, 5, 0), 3),
    }
    monkeypatch.setattr(dataset, "load", lambda *_, **__: dataset.Dataset(**found))
    return found


@pytest.fixture
def options(tmp_path):
    return TrainOptions(recipe="scratch", epochs=5, arch_option=("width=0.2",), batch_size=16,
                        device="cpu", precision="float32",  # else whichever is faster, run by run
                        out=tmp_path / "run" / "own.safetensors")  # fmt: skip


def test_own_pictures_are_learned_and_the_record_tells_of_them(colours, options):
    result = loop.train(replace(options, epochs=10))
    record = json.loads(result.record_path.read_text())
    assert record == result.record
    assert result.epochs[-1].validation_accuracy > 0.9
    assert record["model"]["image_shape"] == [3, 20, 16]
    assert record["class_labels"] == list(LABELS)
    assert record["preprocessing"] == colours["preprocessing"].document()
    decided = {"recipe": "scratch", "data": "my colours", "n_images": 80, "augment": "shift",
               "n_validation_images": 40, "train_sha256": colours["train"].sha256,
               "validation_sha256": colours["validation"].sha256, "class_weights": "none",
               "early_stopping": False}  # fmt: skip
    assert record["training"] | decided == record["training"]
    assert record["data"]["n_by_class"] == {
        "train": [40, 20, 20], "validation": [20, 10, 10], "test": [10, 5, 0]
    }  # fmt: skip
    assert str(options.out.parent) not in result.record_path.read_text()
    model, kept = checkpoint.load_model(options.out)
    for key in ("preprocessing", "decision", "training", "class_labels", "test"):
        assert kept.header[key] == record[key]
    # normalised inside, by channel: the network takes pixels as they are
    logits = compute_logits(model, colours["validation"].images, torch.float32)
    right = logits.argmax(1) == colours["validation"].labels
    assert right.mean() == result.epochs[-1].validation_accuracy
    n_right = np.bincount(colours["validation"].labels[right], minlength=3)
    balanced = (n_right / (20, 10, 10)).mean()
    assert result.epochs[-1].validation_balanced_accuracy == pytest.approx(balanced)


def test_scores_by_class_have_n_and_interval_and_none_without_a_picture(colours, options):
    record = loop.train(options).record
    blue, green, red = record["classes"]
    assert (blue["label"], blue["n"], green["n"]) == ("blue", 10, 5)
    n_right = round(blue["accuracy"] * 10)
    assert blue["interval_95"] == as_json(wilson_interval(n_right, 10))
    assert red == {"label": "red", "n": 0, "accuracy": None, "interval_95": None}
    mean = (blue["accuracy"] + green["accuracy"]) / 2
    assert record["test"]["balanced_accuracy"] == pytest.approx(mean)


def test_nothing_is_measured_without_test_pictures(colours, options):
    colours["test"] = some(colours["test"], (0, 0, 0), 3)
    result = loop.train(replace(options, epochs=1))
    assert result.test is result.record["test"] is None
    assert {row["accuracy"] for row in result.record["classes"]} == {None}
    assert checkpoint.load_model(options.out)[1].header["test"] is None


def test_decision_passes_the_stated_share_of_validation_pictures(colours, options):
    decision = loop.train(options).record["decision"]
    model, _ = checkpoint.load_model(options.out)
    logits = compute_logits(model, colours["validation"].images, torch.float64)
    sure = np.exp(logits - np.log(np.exp(logits).sum(1, keepdims=True))).max(1)
    assert decision["n"] == 40
    assert decision["data"] == "validation images"
    assert decision["max_unevenness"] is None
    # one of 40 is 2.5 %, two would be 5 %
    assert decision["threshold"] == pytest.approx(np.sort(sure)[1], abs=1e-5)
    assert decision["coverage"] == 39 / 40


def test_decision_after_a_removed_background_is_by_its_unevenness_too(colours, options):
    colours["preprocessing"] = Preprocessing((20, 16), 1, "remove", "border")
    for part in ("train", "validation", "test"):
        colours[part] = replace(colours[part], images=colours[part].images[..., 0])
    decision = loop.train(replace(options, epochs=1)).record["decision"]
    assert decision["max_unevenness"] == record.MAX_UNEVENNESS
    assert "unevenness" in decision["data"]


def test_decision_from_training_pictures_says_so_and_samples_every_class(
    colours, options, monkeypatch
):
    colours["validation"] = some(colours["test"], (0, 0, 0), 2)
    monkeypatch.setattr(loop.record, "MOST_DECIDING", 30)
    result = loop.train(replace(options, epochs=1))
    assert "has seen" in result.record["decision"]["data"]
    assert result.record["decision"]["n"] == 27  # every third of 80
    assert result.epochs[0].validation_accuracy is None
    assert result.record["training"]["validation_sha256"] is None


def test_epochs_stand_in_a_table_beside_the_record(colours, options):
    result = loop.train(replace(options, epochs=2))
    rows = list(csv.DictReader(result.epochs_path.read_text().splitlines()))
    assert result.epochs_path.name == "own.epochs.csv"
    assert [{k: float(v) for k, v in row.items()} for row in rows] == result.record["epochs"]


def test_balanced_accuracy_is_the_mean_over_classes_that_were_seen():
    assert balanced_accuracy(np.array([9, 1, 0]), np.array([10, 2, 0])) == pytest.approx(0.7)


def test_training_accuracies_are_counted_over_the_epoch(colours, options):
    still = replace(options, epochs=1, learning_rate=1e-12, recipe="tutorial")
    epoch = loop.train(still).epochs[0]
    images = colours["train"]
    torch.manual_seed(0)
    model, _ = checkpoint.load_model(options.out)
    right = compute_logits(model, images.images, torch.float32).argmax(1) == images.labels
    assert epoch.accuracy == right.mean()
    n_right = np.bincount(images.labels[right], minlength=3)
    assert epoch.balanced_accuracy == pytest.approx((n_right / (40, 20, 20)).mean())


@pytest.mark.parametrize(
    ("name", "value"),
    [("augment", "none"), ("augment", "shift,flip,erase"), ("class_weights", "balanced")],
)
def test_option_that_changes_the_weights_is_in_the_record(colours, options, name, value):
    plain = replace(options, epochs=1)
    loop.train(plain)
    before = checkpoint.load_model(options.out)[0].state_dict()
    record = loop.train(replace(plain, **{name: value})).record
    after = checkpoint.load_model(options.out)[0].state_dict()
    assert record["training"][name] == value
    assert not torch.equal(*(weights["layer_stack.0.weight"] for weights in (before, after)))


def interrupted(options, monkeypatch):
    def stop(event):
        if isinstance(event, EpochMetrics) and event.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match="2 complete of 5 kept"):
        loop.train(options, stop)
    return replace(options, resume=True)


def test_resumed_run_on_own_pictures_gives_the_same_bits(colours, options, monkeypatch):
    whole = replace(options, out=options.out.with_name("whole.safetensors"))
    loop.train(whole)
    result = loop.train(interrupted(options, monkeypatch))
    assert options.out.read_bytes() == whole.out.read_bytes()
    assert [epoch.epoch for epoch in result.epochs] == [1, 2, 3, 4, 5]


def test_resume_with_other_pictures_or_preprocessing_is_refused(colours, options, monkeypatch):
    resumed, before = interrupted(options, monkeypatch), dict(colours)
    for key, value, named in (
        ("train", some(before["train"], (40, 20, 20), 9), "train_sha256"),
        ("validation", some(before["train"], (20, 10, 10), 9), "validation_sha256"),
        ("preprocessing", replace(before["preprocessing"], size=(16, 20)), "size"),
    ):
        colours[key] = value
        if key == "preprocessing":
            for name in ("train", "validation", "test"):
                turned = np.ascontiguousarray(before[name].images.swapaxes(1, 2))
                colours[name] = replace(before[name], images=turned)
        with pytest.raises(InputError, match=f"belongs to another run: {named}"):
            loop.train(resumed)
        colours.update(before)


def test_processes_with_other_pictures_than_the_first_are_refused(colours, options, monkeypatch):
    def add_up(_, tensors):
        tensors[0][1] += 7  # the other one's digest

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(loop, "joined", lambda _: nullcontext())
    monkeypatch.setattr(loop.record, "add_up", add_up)
    with pytest.raises(InputError, match="process 0 found other training images"):
        loop.train(options)


def test_pictures_too_large_for_the_file_of_a_run_are_refused_before_anything(colours, options):
    how = replace(colours["preprocessing"], size=(400, 400))
    colours["preprocessing"] = how
    with pytest.raises(InputError, match="400 x 400 pixels give a network of"):
        loop.train(replace(options, arch_option=("width=1.0",)))


def test_tensorboard_that_is_not_installed_stops_before_the_first_epoch(
    colours, options, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingPackageError, match="tensorboard is not installed"):
        loop.train(replace(options, tensorboard=True))
    assert not options.out.parent.exists()


def test_tensorboard_gets_every_epoch_of_a_resumed_run_once(colours, options, monkeypatch):
    written = []

    class Writer:
        def __init__(self, path):
            written.append((path.parent.name, []))

        def add_scalar(self, name, value, step):
            written[-1][1].append((name, value, step))

        def flush(self):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            written.append("closed")

    module = ModuleType("tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    options = replace(options, tensorboard=True)
    result = loop.train(interrupted(options, monkeypatch))
    (_, first), closed, (folder, again), closed_again = written
    assert closed == closed_again == "closed"
    assert folder == "own.tensorboard"
    assert {step for *_, step in first} == {1, 2}
    losses = [(value, step) for name, value, step in again if name == "mean_loss"]
    assert losses == [(epoch.mean_loss, epoch.epoch) for epoch in result.epochs]
    assert len(again) == 5 * 7


def test_recipe_is_the_tutorials_for_the_reference_and_scratch_for_own_pictures():
    assert TrainOptions().recipe_name == TrainOptions(data="sample").recipe_name == "tutorial"
    assert TrainOptions(data="photos").recipe_name == "scratch"
    assert TrainOptions(recipe="best").recipe_name == "best"


@pytest.mark.parametrize("recipe", RECIPES)
def test_augment_shift_moves_images_whatever_the_recipe(recipe):
    assert TrainOptions(recipe=recipe, augment="shift").plan.shift >= 1 / 28
    assert TrainOptions(recipe=recipe).plan == RECIPES[recipe]


def test_epochs_fall_with_the_number_of_images_where_the_recipe_leaves_them_open():
    plans = [RECIPES["scratch"].for_images(n) for n in (80, 1000, 10_000, 100_000)]
    assert [plan.epochs for plan in plans] == sorted((plan.epochs for plan in plans), reverse=True)
    assert 10 <= plans[-1].epochs < plans[0].epochs <= 200
    for name in ("tutorial", "fast", "best"):
        assert RECIPES[name].for_images(80) == RECIPES[name]


LARGER_THAN_MEMORY = """
import resource, sys
import numpy as np, torch
from convnet_edge.networks.convnet import Architecture, Convnet, compute_logits
from convnet_edge.runtime.measure.accuracy import ImageSet
from convnet_edge.training.batches import TrainingImages
from convnet_edge.training.recipes import RECIPES
path, n = sys.argv[1], 1500
torch.set_num_threads(1)
images = np.memmap(path, np.uint8, "r", shape=(n, 128, 128, 3))
warm = compute_logits(Convnet(Architecture((3, 128, 128), width=0.1)), images[:9], torch.float32)
used = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, ((used << 10) + images.nbytes // 2,) * 2)
try:
    np.array(images)
    sys.exit("the limit does not hold")
except MemoryError:
    pass
held = ImageSet(images, np.zeros(n, np.int64), "0", "0", "")
recipe = RECIPES["scratch"]
made = TrainingImages(held, recipe, sides=(126, 126), n_classes=2, balanced=False,
                      device=torch.device("cpu"))
drawn = made.draw(torch.Generator(), n_hidden=8)
x = made.batch({name: t[:16] for name, t in drawn.items()}).x
print(tuple(x.shape), made.moments)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_pictures_larger_than_memory_are_read_from_their_file(tmp_path):
    path = tmp_path / "pixels"
    with path.open("wb") as file:
        file.truncate(1500 * 128 * 128 * 3)
    done = subprocess.run(
        [sys.executable, "-c", LARGER_THAN_MEMORY, path],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(16, 3, 126, 126) ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])")
