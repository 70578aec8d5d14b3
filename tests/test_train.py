import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from convnet_edge import checkpoint, data, train
from convnet_edge.config import TrainConfig
from convnet_edge.runtime.errors import CheckFailedError, InputError, InterruptedRunError


@pytest.fixture
def few(monkeypatch, tmp_path, test_set):
    """A config on 640 of the sample's images, 10 steps an epoch, and 500 test images."""
    whole = data.load_training_set("sample", tmp_path)
    small = replace(whole, images=whole.images[:640], labels=whole.labels[:640])
    monkeypatch.setattr(data, "load_training_set", lambda *_: small)
    tested = replace(test_set, images=test_set.images[:500], labels=test_set.labels[:500])
    monkeypatch.setattr(data, "load_test_set", lambda: tested)
    return TrainConfig(data="sample", epochs=3, out=tmp_path / "run" / "few.safetensors")


def weights(path):
    return checkpoint.load(path, kind="model").tensors


def test_training_learns_and_records_everything(trained):
    assert trained.test.accuracy > 0.7
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
    assert not train.resume_path(trained.checkpoint_path).exists()


def test_a_step_is_the_seeds_step(few):
    """One epoch equals the tutorial's loop on the same weights and permutation, bit for bit."""
    images = data.load_training_set("sample", few.data_dir)
    run = train._start(few, images, torch.device("cpu"))
    seeds = train._start(few, images, torch.device("cpu"))
    x_all = torch.from_numpy(images.images.copy())[:, None]
    y_all = torch.from_numpy(images.labels.copy()).to(torch.int64)
    metrics = train._train_epoch(run, few, x_all, y_all, train.Listener())

    order = torch.randperm(640, generator=torch.Generator().manual_seed(few.seed))
    criterion, losses = torch.nn.CrossEntropyLoss(), []
    optimizer = torch.optim.Adam(seeds.model.parameters(), lr=0.001)
    for batch in order.split(64):
        loss = criterion(seeds.model(x_all[batch].float().div(255)), y_all[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    for ours, theirs in zip(run.model.parameters(), seeds.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert metrics.mean_loss == pytest.approx(np.mean(losses), rel=1e-6)


def test_same_seed_same_bits_other_seed_other_bits(few):
    paths = [few.out.with_name(f"{name}.safetensors") for name in "abc"]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        train.train(replace(few, epochs=1, seed=seed, out=path))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_bytes() != paths[2].read_bytes()


def stop_in(monkeypatch, epoch):
    """Raise KeyboardInterrupt in the middle of that epoch."""
    real, steps = torch.optim.Adam.step, itertools.count(1)

    def step(self, *arguments):
        if next(steps) == (epoch - 1) * 10 + 5:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", step)


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
    assert not train.resume_path(few.out).exists()


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


@pytest.mark.parametrize("change", [{"seed": 7}, {"learning_rate": 0.1}, {"batch_size": 32}])
def test_resume_with_other_options_is_refused_with_the_difference(unfinished, change):
    (name,) = change
    with pytest.raises(InputError, match=f"belongs to another run: {name}"):
        train.train(replace(unfinished, resume=True, **change))


def test_resume_from_a_damaged_file_is_refused(unfinished):
    path = train.resume_path(unfinished.out)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged"):
        train.train(replace(unfinished, resume=True))


def test_resume_of_a_complete_run_says_it_is_complete(few):
    train.train(replace(few, epochs=1))
    with pytest.raises(InputError, match="is complete"):
        train.train(replace(few, epochs=1, resume=True))


def test_resume_without_anything_starts_from_the_beginning(few):
    result = train.train(replace(few, epochs=1, resume=True))
    assert len(result.epochs) == 1


def test_exploding_loss_stops_with_epoch_and_rate(few):
    with pytest.raises(CheckFailedError, match=r"in epoch 1 at learning rate 1e\+30"):
        train.train(replace(few, learning_rate=1e30))
    assert not few.out.exists()


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
    ],
)
def test_config_outside_its_range_names_the_option(change, named):
    with pytest.raises(InputError, match=named):
        TrainConfig(**change)


def test_progress_counts_up_to_the_last_image(few, monkeypatch):
    monkeypatch.setattr(train, "REPORT_EVERY_S", 0)
    seen = []
    train.train(replace(few, epochs=1), train.Listener(progress=seen.append))
    assert [state.n_images for state in seen] == list(range(64, 641, 64))
    assert seen[-1].n_images_total == 640
    assert all(state.images_per_s > 0 for state in seen)
