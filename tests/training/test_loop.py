import errno
import itertools
import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from convnet_edge.data import fashion_mnist as data
from convnet_edge.drawing import pictures
from convnet_edge.networks import checkpoint
from convnet_edge.networks.convnet import Architecture, Convnet, compute_logits
from convnet_edge.runtime import files
from convnet_edge.runtime.errors import CheckFailedError, InputError, InterruptedRunError
from convnet_edge.runtime.measure import machine
from convnet_edge.training import loop
from convnet_edge.training.distributed import Processes
from convnet_edge.training.muon import Updater
from convnet_edge.training.options import TrainOptions
from convnet_edge.training.recipes import RECIPES
from convnet_edge.training.run import Run


@pytest.fixture
def few(monkeypatch, tmp_path, test_set):
    """Options on 640 of the sample's images, 10 steps an epoch, 500 test images, no picture."""
    left_out = pictures.Picture(tmp_path / "x.png", drawn=False)
    monkeypatch.setattr(pictures, "training_curve", lambda *_: left_out)
    whole = data.load_training_set("sample", tmp_path)
    small = replace(whole, images=whole.images[:640], labels=whole.labels[:640])
    monkeypatch.setattr(data, "load_training_set", lambda *_: small)
    tested = replace(test_set, images=test_set.images[:500], labels=test_set.labels[:500])
    monkeypatch.setattr(data, "load_test_set", lambda: tested)
    return TrainOptions(data="sample", epochs=3, out=tmp_path / "run" / "few.safetensors")


def told(kind, options):
    """Train, and return what was told of that kind."""
    events = []
    loop.train(options, events.append)
    return [event for event in events if isinstance(event, kind)]


def on_step(monkeypatch, number, do):
    """Call `do` with the updater and gradients before that step of the run, counted from 1."""
    real, steps = Updater.step, itertools.count(1)

    def step(self, gradients):
        if next(steps) == number:
            do(gradients)
        return real(self, gradients)

    monkeypatch.setattr(Updater, "step", step)


def interrupt(*_):
    raise KeyboardInterrupt


def interrupted(monkeypatch, options, step=15):
    """Train until Ctrl-C comes in the middle of the second of epochs of ten steps."""
    with monkeypatch.context() as patch:
        on_step(patch, step, interrupt)
        with pytest.raises(InterruptedRunError, match="1 complete of 3 kept") as caught:
            loop.train(options)
    assert "--resume" in caught.value.next_step
    assert caught.value.exit_code == 130
    assert not options.out.exists()


@pytest.fixture
def unfinished(few, monkeypatch):
    interrupted(monkeypatch, few)
    return replace(few, resume=True)


def test_training_learns_and_records_everything(trained):
    assert trained.test.accuracy > 0.5
    record = json.loads(trained.record_path.read_text())
    assert record == trained.record
    assert record["schema"] == "convnet-edge/train/2"
    assert record["model"] == {"image_shape": [1, 28, 28], "kernel_size": 3, "width": 1.0,
                               "n_parameters": 225_034}  # fmt: skip
    decided = {"recipe": "tutorial", "epochs": 1, "seed": 0, "batch_size": 64, "n_images": 10_000,
               "precision": "float32", "pixel_mean_and_deviation": None,
               "images_sha256": data.SAMPLE_SHA256[0]}  # fmt: skip
    assert record["training"] | decided == record["training"]
    assert record["test"]["n"] == 10_000
    low, high = record["test"]["interval_95"].values()
    assert low < record["test"]["accuracy"] == trained.test.accuracy < high
    assert record["epochs"][0]["mean_loss"] > 0
    assert record["device"]["threads"] >= 1
    assert record["versions"]["torch"] == torch.__version__
    header = checkpoint.load(trained.checkpoint_path, kind="model").header
    for key in ("model", "class_labels", "training", "test", "versions"):
        assert header[key] == record[key]
    assert trained.picture.path.stat().st_size > 1000
    assert not list(trained.checkpoint_path.parent.glob("*.resume.*"))


def test_an_epoch_is_the_tutorials_epoch(few):
    """One epoch equals the tutorial's loop on the same weights and permutation."""
    images = data.load_training_set("sample", few.data_dir)
    torch.manual_seed(few.seed)
    model = Convnet(Architecture())
    x_all = torch.from_numpy(images.images.copy())[:, None]
    y_all = torch.from_numpy(images.labels.copy()).to(torch.int64)
    order = torch.randperm(640, generator=torch.Generator().manual_seed(few.seed))
    criterion, losses, n_correct = torch.nn.CrossEntropyLoss(), [], 0
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    for batch in order.split(64):
        logits = model(x_all[batch].float().div(255))
        loss = criterion(logits, y_all[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        n_correct += (logits.argmax(dim=1) == y_all[batch]).sum().item()

    (epoch,) = loop.train(replace(few, epochs=1)).epochs
    ours = checkpoint.load(few.out, kind="model").tensors
    for name, theirs in model.state_dict().items():
        # Adam divides by the gradient's size, so a gradient near 0 makes much of its last bits
        assert (ours[name] - theirs).norm() < 1e-2 * theirs.norm(), name
    assert epoch.mean_loss == pytest.approx(np.mean(losses), rel=1e-4)
    assert epoch.accuracy == pytest.approx(n_correct / 640, abs=3 / 640)


def test_same_seed_same_bits_other_seed_other_bits(few):
    paths = [few.out.with_name(f"{name}.safetensors") for name in "abc"]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        loop.train(replace(few, epochs=1, seed=seed, out=path))
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()


@pytest.mark.parametrize("recipe", RECIPES)
def test_interrupted_then_resumed_run_gives_the_same_bits(few, monkeypatch, recipe):
    """Guards the trap: state in another memory format makes fused Adam compute wrongly."""
    few = replace(few, recipe=recipe, batch_size=64)
    whole = replace(few, out=few.out.with_name("whole.safetensors"))
    loop.train(whole)
    # the fast recipe passes over a share of the images: 8 steps an epoch
    interrupted(monkeypatch, few, step=12)
    result = loop.train(replace(few, resume=True))
    assert few.out.read_bytes() == whole.out.read_bytes()
    assert [epoch.epoch for epoch in result.epochs] == [1, 2, 3]
    assert not few.resume_path.exists()


@pytest.mark.parametrize("moment", ["a step", "saving"])
def test_interrupt_in_the_first_epoch_keeps_nothing_and_says_so(few, monkeypatch, moment):
    if moment == "a step":
        on_step(monkeypatch, 5, interrupt)
    else:
        monkeypatch.setattr(loop.record, "save", interrupt)
    with pytest.raises(InterruptedRunError, match="nothing is kept"):
        loop.train(few)
    assert not list(few.out.parent.glob("*"))


@pytest.mark.parametrize("n_threads", [None, 77])
def test_resume_says_if_threads_differ(unfinished, monkeypatch, n_threads):
    if n_threads:
        monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    (run,) = told(Run, unfinished)
    warnings = list(run.warnings())
    assert len(warnings) == (n_threads is not None)
    assert all("77: the final weights will differ" in warning for warning in warnings)


def test_resume_with_other_options_is_refused_with_the_difference(unfinished):
    changes = {"seed": 7, "learning_rate": 0.1, "batch_size": 32, "kernel_size": 5, "width": 0.5,
               "recipe": "best", "epochs": 4, "precision": "bf16"}  # fmt: skip
    for name, value in changes.items():
        with pytest.raises(InputError, match=f"belongs to another run: {name}"):
            loop.train(replace(unfinished, **{name: value}))


def test_resume_from_a_damaged_or_a_foreign_state_is_refused(unfinished):
    path = unfinished.resume_path
    kept = checkpoint.load(path, kind="resume")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged"):
        loop.train(unfinished)
    for name, wrong in (
        ("adam.0.exp_avg", None),
        ("model.layer_stack.0.bias", torch.zeros(3)),
        ("model.layer_stack.0.bias", torch.zeros(32, dtype=torch.float64)),
    ):
        tensors = {key: t for key, t in kept.tensors.items() if key != name}
        if wrong is not None:
            tensors[name] = wrong
        checkpoint.save(path, replace(kept, tensors=tensors))
        with pytest.raises(InputError, match=f"does not fit this run: .*{name}"):
            loop.train(unfinished)


def test_resume_of_a_complete_run_does_nothing_and_of_another_is_refused(few):
    few = replace(few, epochs=1, resume=True)
    assert len(loop.train(few).epochs) == 1  # nothing to resume: from the beginning
    before = {path: path.stat().st_mtime_ns for path in few.out.parent.iterdir()}
    assert loop.train(few) is None
    with pytest.raises(InputError, match="belongs to another run: epochs is 1, now 2"):
        loop.train(replace(few, epochs=2))
    assert {path: path.stat().st_mtime_ns for path in few.out.parent.iterdir()} == before


def test_processes_that_resume_from_different_epochs_are_refused(unfinished, monkeypatch):
    class Two(Processes):
        def add_up(self, tensors):
            tensors[0].add_(0)  # the other one has nothing

    monkeypatch.setattr(loop, "joined", lambda _: nullcontext(Two(0, 2)))
    with pytest.raises(InputError, match="found 1 complete epochs to resume, others found"):
        loop.train(unfinished)


def test_loss_that_is_not_finite_stops_with_epoch_and_rate(few):
    with pytest.raises(CheckFailedError, match=r"in epoch 1 at learning rate 1e\+06") as caught:
        loop.train(replace(few, learning_rate=1e6))
    assert "nothing is kept" in caught.value.next_step
    assert not few.out.exists()


def test_exploding_loss_names_the_last_good_epoch(few, monkeypatch):
    on_step(monkeypatch, 25, lambda gradients: gradients[-1].fill_(float("nan")))
    with pytest.raises(CheckFailedError, match=r"mean loss is .* in epoch 3") as caught:
        loop.train(few)
    assert f"2 complete of 3 kept in {few.resume_path}" in caught.value.next_step
    assert few.resume_path.exists()


def test_full_disk_at_the_end_of_an_epoch_leaves_no_half_file(few, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        loop.train(few)
    assert not list(few.out.parent.glob("*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_asking_for_a_missing_device_is_an_input_error():
    with pytest.raises(InputError, match="asked for cuda"):
        loop.resolve_device("cuda")
    assert loop.resolve_device("auto").type in ("cpu", "mps")


def test_of_several_gpus_each_process_takes_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert loop.resolve_device("auto") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert loop.resolve_device("cuda") == torch.device("cuda", 3)
    assert loop.resolve_device("cpu") == torch.device("cpu")


def test_progress_counts_up_to_the_last_image(few, monkeypatch):
    monkeypatch.setattr(loop, "REPORT_EVERY_S", 0)
    seen = told(loop.Progress, replace(few, epochs=1))
    assert [state.n_images for state in seen] == list(range(64, 641, 64))
    assert seen[-1].n_images_total == 640
    durations = [state.so_far.duration_s for state in seen]
    assert durations == sorted(durations)


def test_validation_scores_images_that_training_never_sees(few):
    events = []
    record = loop.train(replace(few, epochs=1, validate=140), events.append).record
    run, epoch = events[0], events[-1]
    images = data.load_training_set("sample", few.data_dir)
    assert np.array_equal(run.used.images, images.images[:500])
    # by hand: forward and two gradients, but none of conv1's input
    assert run.architecture.n_training_operations == 2 * (3 * 2_215_168 - 165_888)
    model, _ = checkpoint.load_model(few.out)
    logits = torch.from_numpy(compute_logits(model, images.images[500:], torch.float32))
    labels = torch.from_numpy(images.labels[500:].copy()).long()
    assert epoch.validation_accuracy == (logits.argmax(1) == labels).double().mean()
    loss = torch.nn.functional.cross_entropy(logits, labels)
    assert epoch.validation_loss == pytest.approx(loss.item(), rel=1e-5)
    assert record["training"]["n_images"] == 500
    assert record["training"]["n_validation_images"] == 140
    with pytest.raises(InputError, match="--validate 640 of 640"):
        loop.train(replace(few, validate=640))


def test_best_recipe_leaves_the_tutorials_network_and_its_averaged_weights(few):
    events = []
    result = loop.train(replace(few, recipe="best", epochs=1), events.append)
    model, _ = checkpoint.load_model(few.out)
    assert list(model.state_dict()) == list(Convnet(Architecture()).state_dict())
    for place, weight in ((2, model.layer_stack[3].weight), (4, model.layer_stack[7].weight)):
        assert torch.equal(weight, events[0].average[place])
        assert not torch.equal(weight, events[0].parameters[place])
    images = data.load_test_set()
    found = (compute_logits(model, images.images, torch.float32).argmax(1) == images.labels).mean()
    assert found == result.test.accuracy


def test_narrow_network_trains_and_its_record_says_where_the_time_went(few):
    record = loop.train(replace(few, epochs=2, validate=40, width=0.5)).record
    model, _ = checkpoint.load_model(few.out)
    assert model.layer_stack[0].out_channels == 16
    assert record["model"]["n_parameters"] == 56_714
    assert set(record["time_s"]) == {"data", "epochs", "validation", "checkpoints", "test"}
    assert all(seconds > 0 for seconds in record["time_s"].values())
    assert sum(epoch["duration_s"] for epoch in record["epochs"]) <= record["time_s"]["epochs"]


def test_bf16_trains_and_says_where_it_is_slow(few, monkeypatch):
    monkeypatch.setattr(machine, "passport", lambda: {"isa": ["avx2"]})
    few = replace(few, epochs=1)
    events = []
    (epoch,) = loop.train(replace(few, precision="bf16"), events.append).epochs
    assert "no bfloat16 instructions" in next(events[0].warnings())
    (exact,) = loop.train(few).epochs
    assert epoch.mean_loss != exact.mean_loss
    assert epoch.mean_loss == pytest.approx(exact.mean_loss, rel=0.05)


def test_cuda_never_multiplies_in_tf32_while_training(few):
    matmul, seen = torch.backends.cuda.matmul, []
    before = matmul.fp32_precision
    loop.train(replace(few, epochs=1), lambda _: seen.append(matmul.fp32_precision))
    assert set(seen) == {"ieee"}
    assert matmul.fp32_precision == before
