import itertools
import json
import os
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from convnet_edge.data import fashion_mnist as data
from convnet_edge.drawing import pictures as plots
from convnet_edge.networks import checkpoint
from convnet_edge.networks.convnet import build_convnet, compute_logits
from convnet_edge.runtime.errors import CheckFailedError, InputError, InterruptedRunError
from convnet_edge.training import loop as train
from convnet_edge.training.distributed import Processes
from convnet_edge.training.muon import Updater
from convnet_edge.training.options import TrainOptions
from convnet_edge.training.recipes import RECIPES
from convnet_edge.training.resume import resume_path


@pytest.fixture
def few(monkeypatch, tmp_path, test_set):
    """A config on 640 of the sample's images, 10 steps an epoch, 500 test images, no picture."""
    left_out = plots.Picture(tmp_path / "x.png", drawn=False)
    monkeypatch.setattr(plots, "training_curve", lambda *_: left_out)
    whole = data.load_training_set("sample", tmp_path)
    small = replace(whole, images=whole.images[:640], labels=whole.labels[:640])
    monkeypatch.setattr(data, "load_training_set", lambda *_: small)
    tested = replace(test_set, images=test_set.images[:500], labels=test_set.labels[:500])
    monkeypatch.setattr(data, "load_test_set", lambda: tested)
    return TrainOptions(data="sample", epochs=3, out=tmp_path / "run" / "few.safetensors")


def weights(path):
    return checkpoint.load(path, kind="model").tensors


def test_training_learns_and_records_everything(trained):
    assert trained.test.accuracy > 0.5  # by chance it were 0.1
    record = json.loads(trained.record_path.read_text())
    assert record["model"]["n_parameters"] == 225_034
    assert record["training"]["images_sha256"] == data.SAMPLE_SHA256[0]
    assert record["training"] | {"epochs": 1, "seed": 0, "batch_size": 64} == record["training"]
    assert record["test"]["n"] == 10_000
    assert record["test"]["accuracy"] == trained.test.accuracy
    assert record["epochs"][0]["mean_loss"] > 0
    assert record["device"]["threads"] >= 1
    assert record["versions"]["torch"] == torch.__version__
    assert trained.picture.drawn
    assert trained.picture.path.stat().st_size > 1000
    assert not resume_path(trained.checkpoint_path).exists()


def test_an_epoch_is_the_seeds_epoch(few):
    """One epoch equals the tutorial's loop on the same weights and permutation."""
    images = data.load_training_set("sample", few.data_dir)
    torch.manual_seed(few.seed)
    model = build_convnet((1, 28, 28))
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

    result = train.train(replace(few, epochs=1))
    ours = weights(few.out)
    for name, theirs in model.state_dict().items():
        # Adam divides by the gradient's size, so a gradient near 0 makes much of its last bits
        assert (ours[name] - theirs).norm() < 1e-3 * theirs.norm(), name
    assert result.epochs[0].mean_loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert result.epochs[0].accuracy == pytest.approx(n_correct / 640, abs=2 / 640)


def test_same_seed_same_bits_other_seed_other_bits(few):
    paths = [few.out.with_name(f"{name}.safetensors") for name in "abc"]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        train.train(replace(few, epochs=1, seed=seed, out=path))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_bytes() != paths[2].read_bytes()


def stop_in(monkeypatch, epoch, n_steps=10):
    """Raise KeyboardInterrupt in the middle of that epoch."""
    real, steps = Updater.step, itertools.count(1)

    def step(self, *arguments):
        if next(steps) == (epoch - 1) * n_steps + 5:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(Updater, "step", step)


def test_interrupted_then_resumed_run_gives_the_same_bits(few, monkeypatch):
    whole = replace(few, out=few.out.with_name("whole.safetensors"))
    train.train(whole)
    with monkeypatch.context() as patch:
        stop_in(patch, epoch=2)
        with pytest.raises(InterruptedRunError, match="1 complete of 3 kept") as caught:
            train.train(few)
    assert "--resume" in caught.value.next_step
    assert caught.value.exit_code == 130
    assert not few.out.exists()
    result = train.train(replace(few, resume=True))
    assert few.out.read_bytes() == whole.out.read_bytes()
    assert [epoch.epoch for epoch in result.epochs] == [1, 2, 3]
    assert not resume_path(few.out).exists()


def test_interrupt_in_the_first_epoch_keeps_nothing_and_says_so(few, monkeypatch):
    stop_in(monkeypatch, epoch=1)
    with pytest.raises(InterruptedRunError, match="nothing is kept"):
        train.train(few)
    assert not list(few.out.parent.glob("*"))


@pytest.fixture
def unfinished(few, monkeypatch):
    with monkeypatch.context() as patch:
        stop_in(patch, epoch=2)
        with pytest.raises(InterruptedRunError):
            train.train(few)
    return few


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 7}, {"learning_rate": 0.1}, {"batch_size": 32}, {"kernel_size": 5},
        {"width": 0.5}, {"recipe": "best"}, {"epochs": 4}, {"amp": "bf16"},
    ],
)  # fmt: skip
def test_resume_with_other_options_is_refused_with_the_difference(unfinished, change):
    (name,) = change
    with pytest.raises(InputError, match=f"belongs to another run: {name}"):
        train.train(replace(unfinished, resume=True, **change))


def test_resume_from_a_damaged_file_is_refused(unfinished):
    path = resume_path(unfinished.out)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged"):
        train.train(replace(unfinished, resume=True))


def test_resume_of_a_complete_run_does_nothing(few):
    train.train(replace(few, epochs=1))
    before = {path: path.stat().st_mtime_ns for path in few.out.parent.iterdir()}
    told = []
    listener = train.Listener(already_complete=told.append)
    assert train.train(replace(few, epochs=1, resume=True), listener) is None
    assert told[0]["training"]["epochs"] == 1
    assert {path: path.stat().st_mtime_ns for path in few.out.parent.iterdir()} == before


def test_resume_of_another_complete_run_is_refused(few):
    train.train(replace(few, epochs=1))
    with pytest.raises(InputError, match="belongs to another run: epochs is 1, now 2"):
        train.train(replace(few, epochs=2, resume=True))


def test_resume_without_anything_starts_from_the_beginning(few):
    result = train.train(replace(few, epochs=1, resume=True))
    assert len(result.epochs) == 1


def test_loss_that_is_not_finite_stops_with_epoch_and_rate(few):
    with pytest.raises(CheckFailedError, match=r"in epoch 1 at learning rate 1e\+30") as caught:
        train.train(replace(few, learning_rate=1e30))
    assert "nothing is kept" in caught.value.next_step
    assert not few.out.exists()


def test_exploding_loss_names_the_last_good_checkpoint(few, monkeypatch):
    real = train._require_sound

    def grown(run, epoch, mean_loss):
        real(run, epoch, 24.0 if epoch == 3 else mean_loss)

    monkeypatch.setattr(train, "_require_sound", grown)
    with pytest.raises(CheckFailedError, match="mean loss is 24 in epoch 3") as caught:
        train.train(few)
    assert f"the last good epoch, 2, is in {resume_path(few.out)}" in caught.value.next_step
    assert resume_path(few.out).exists()


def test_full_disk_at_the_end_of_an_epoch_leaves_no_half_file(few, monkeypatch):
    import errno

    from convnet_edge.runtime import files

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        train.train(few)
    assert not list(few.out.parent.glob("*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_asking_for_a_missing_device_is_an_input_error():
    with pytest.raises(InputError, match="asked for cuda"):
        train.resolve_device("cuda")
    assert train.resolve_device("auto").type in ("cpu", "mps")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epochs": 0}, "--epochs"),
        ({"batch_size": 0}, "--batch-size"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"seed": -1}, "--seed"),
        ({"data": "cifar"}, "--data"),
        ({"device": "tpu"}, "--device"),
        ({"recipe": "best of all"}, "--recipe"),
        ({"amp": "fp8"}, "--amp"),
        ({"width": 0.0}, "--width"),
        ({"width": 5.0}, "--width"),
        ({"validate": -1}, "--validate"),
    ],
)
def test_config_outside_its_range_names_the_option(change, named):
    with pytest.raises(InputError, match=named):
        TrainOptions(**change)


def test_progress_counts_up_to_the_last_image(few, monkeypatch):
    monkeypatch.setattr(train, "REPORT_EVERY_S", 0)
    seen = []
    train.train(replace(few, epochs=1), train.Listener(progress=seen.append))
    assert [state.n_images for state in seen] == list(range(64, 641, 64))
    assert seen[-1].n_images_total == 640
    assert all(state.images_per_s > 0 for state in seen)


@pytest.mark.parametrize("recipe", ["fast", "best"])
def test_other_recipes_resume_to_the_same_bits(few, monkeypatch, recipe):
    few = replace(few, recipe=recipe, batch_size=64)
    whole = replace(few, out=few.out.with_name("whole.safetensors"))
    train.train(whole)
    n_steps = 10 if recipe == "best" else 8  # the fast recipe passes over a share of the images
    with monkeypatch.context() as patch:
        stop_in(patch, epoch=2, n_steps=n_steps)
        with pytest.raises(InterruptedRunError, match="1 complete of 3 kept"):
            train.train(few)
    train.train(replace(few, resume=True))
    assert few.out.read_bytes() == whole.out.read_bytes()


def test_resume_with_another_thread_count_warns(unfinished, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    starts = []
    train.train(replace(unfinished, resume=True), train.Listener(started=starts.append))
    assert starts[0].n_done == 1
    assert "77: the final weights will differ in their last bits" in starts[0].warnings[0]


def test_resume_says_how_many_epochs_were_done(unfinished):
    starts = []
    train.train(replace(unfinished, resume=True), train.Listener(started=starts.append))
    assert starts[0].n_done == 1
    assert starts[0].warnings == ()


def test_state_of_another_architecture_under_a_true_header_is_refused(unfinished):
    path = resume_path(unfinished.out)
    kept = checkpoint.load(path, kind="resume")
    del kept.tensors["adam.0.exp_avg"], kept.tensors["adam.0.exp_avg_sq"]
    del kept.tensors["adam.0.step"]
    checkpoint.save(path, kept)
    with pytest.raises(InputError, match="does not fit this run"):
        train.train(replace(unfinished, resume=True))


def test_leftovers_of_a_killed_process_are_removed(few):
    few.out.parent.mkdir(parents=True)
    dead = few.out.parent / f".{few.out.name}.99999999.tmp"
    dead.write_bytes(b"half")
    alive = dead.with_name(f".{few.out.name}.{os.getppid()}.tmp")
    alive.write_bytes(b"half")
    train.train(replace(few, epochs=1))
    assert not dead.exists()
    assert alive.exists()


def test_validation_scores_images_that_training_never_sees(few, monkeypatch):
    seen = []
    real = train.draw_choices

    def spy(n, *others):
        seen.append(n)
        return real(n, *others)

    monkeypatch.setattr(train, "draw_choices", spy)
    result = train.train(replace(few, epochs=1, validate=140))
    assert seen == [500]
    images = data.load_training_set("sample", few.data_dir)
    model, _ = checkpoint.load_model(few.out)
    logits = torch.from_numpy(compute_logits(model, images.images[500:], torch.float32))
    labels = torch.from_numpy(images.labels[500:].copy()).long()
    epoch = result.epochs[0]
    assert epoch.validation_accuracy == (logits.argmax(1) == labels).double().mean()
    loss = torch.nn.functional.cross_entropy(logits, labels)
    assert epoch.validation_loss == pytest.approx(loss.item(), rel=1e-5)
    assert result.record["training"]["n_images"] == 500
    assert result.record["training"]["n_validation_images"] == 140


def test_no_validation_image_is_a_training_or_a_test_image(tmp_path, test_set):
    images = data.load_training_set("sample", tmp_path)
    used, held_out = train.split(images, 1000)
    assert len(used) == 9000
    assert len(held_out) == 1000
    assert np.array_equal(np.concatenate([used.images, held_out.images]), images.images)
    tested = {image.tobytes() for image in test_set.images}
    assert not any(image.tobytes() in tested for image in held_out.images)


def test_holding_out_everything_is_refused(few):
    with pytest.raises(InputError, match="--validate 640 of 640"):
        train.train(replace(few, validate=640))


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_folded_normalization_is_exact(test_set, kernel_size):
    torch.manual_seed(0)
    model = build_convnet((1, 28, 28), kernel_size=kernel_size).double()
    x = torch.from_numpy(test_set.images[:20].copy())[:, None].double() / 255
    expected = model((x - 0.286) / 0.353)
    train.fold_normalization(model, 0.286, 0.353)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


def test_best_recipe_leaves_the_seeds_network_and_its_averaged_weights(few):
    config = replace(few, recipe="best", epochs=1)
    result = train.train(config)
    model, loaded = checkpoint.load_model(config.out)
    assert list(model.state_dict()) == list(build_convnet((1, 28, 28)).state_dict())
    assert loaded.header["training"]["average"] == RECIPES["best"].average
    images = data.load_test_set()
    found = (compute_logits(model, images.images, torch.float32).argmax(1) == images.labels).mean()
    assert found == result.test.accuracy


def test_narrow_network_trains_and_reloads(few):
    result = train.train(replace(few, epochs=1, width=0.5))
    model, _ = checkpoint.load_model(few.out)
    assert model.layer_stack[0].out_channels == 16
    assert result.record["model"]["n_parameters"] == 56_714


def test_record_says_where_the_time_went(few):
    result = train.train(replace(few, epochs=2, validate=40))
    times = result.record["time_s"]
    assert set(times) == {"data", "epochs", "validation", "checkpoints", "test"}
    assert all(seconds > 0 for seconds in times.values())
    assert sum(e.duration_s for e in result.epochs) <= times["epochs"]


def test_cost_is_known_before_the_first_step(few):
    starts = []
    train.train(replace(few, epochs=1), train.Listener(started=starts.append))
    cost = starts[0].cost
    assert cost.n_parameters == 225_034
    assert cost.n_multiplications == (165_888, 1_843_200, 204_800, 1_280)
    assert cost.peak_flops > 1e8
    assert cost.bound_s == pytest.approx(640 * 2 * (3 * 2_215_168 - 165_888) / cost.peak_flops)


def test_bf16_trains_and_says_where_it_is_slow(few, monkeypatch):
    monkeypatch.setattr(train.machine, "passport", lambda: {"isa": ["avx2"]})
    starts = []
    result = train.train(replace(few, amp="bf16"), train.Listener(started=starts.append))
    assert "no bfloat16 instructions" in starts[0].warnings[0]
    assert result.record["training"]["amp"] == "bf16"
    assert result.epochs[-1].mean_loss < result.epochs[0].mean_loss


def test_tf32_is_on_only_while_asked_for(few, monkeypatch):
    seen = []
    matmul = torch.backends.cuda.matmul
    listener = train.Listener(started=lambda _: seen.append(matmul.fp32_precision))
    before = matmul.fp32_precision
    train.train(replace(few, epochs=1, tf32=True), listener)
    train.train(replace(few, epochs=1), listener)
    assert seen == ["tf32", "ieee"]
    assert matmul.fp32_precision == before


def test_processes_that_resume_from_different_epochs_are_refused(unfinished, monkeypatch):
    class Two(Processes):
        def add_up(self, tensors):
            tensors[0].add_(0)  # the other one has nothing

    monkeypatch.setattr(train, "joined", lambda _: nullcontext(Two(0, 2)))
    with pytest.raises(InputError, match="found 1 complete epochs to resume, others found"):
        train.train(replace(unfinished, resume=True))


def test_interrupt_while_the_first_epoch_is_saved_keeps_nothing_and_says_so(few, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train.resume, "save", interrupted)
    with pytest.raises(InterruptedRunError, match="nothing is kept"):
        train.train(few)
