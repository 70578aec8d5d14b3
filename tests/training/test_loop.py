import errno
import itertools
import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import change_header, mutations

from convnet_edge.data import fashion_mnist as data
from convnet_edge.drawing import pictures
from convnet_edge.networks import checkpoint
from convnet_edge.networks.convnet import Architecture, Convnet, compute_logits
from convnet_edge.runtime import files
from convnet_edge.runtime.errors import CheckFailedError, InputError, InterruptedRunError
from convnet_edge.runtime.files import as_json
from convnet_edge.runtime.measure import machine
from convnet_edge.training import loop
from convnet_edge.training.muon import Updater
from convnet_edge.training.options import TrainOptions
from convnet_edge.training.recipes import RECIPES
from convnet_edge.training.run import EpochMetrics, Run


@pytest.fixture
def options(monkeypatch, tmp_path, on_few):
    """Options on 640 of the sample's images, 10 steps an epoch, few test images, no picture."""
    left_out = pictures.Picture(tmp_path / "x.png", drawn=False)
    monkeypatch.setattr(pictures, "training_curve", lambda *_: left_out)
    whole = data.load_training_set("sample", None)
    small = replace(whole, images=whole.images[:640], labels=whole.labels[:640])
    monkeypatch.setattr(data, "load_training_set", lambda *_: small)
    return TrainOptions(data="sample", epochs=3, out=tmp_path / "run" / "few.safetensors")


def heard(options):
    """Train, and return the result and what was told on the way."""
    events = []
    return loop.train(options, events.append), events


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
def unfinished(options, monkeypatch):
    interrupted(monkeypatch, options)
    return replace(options, resume=True)


def test_training_learns_and_records_everything(trained, few):
    assert trained.test.accuracy > 0.5
    record = json.loads(trained.record_path.read_text())
    assert record == trained.record
    assert record["model"] == {"arch": "convnet", "image_shape": [1, 28, 28], "options": {},
                               "source_sha256": None, "normalization": None,
                               "n_parameters": 225_034}  # fmt: skip
    decided = {"recipe": "tutorial", "epochs": 1, "seed": 0, "batch_size": 64, "n_images": 10_000,
               "precision": "float32", "pixel_mean_and_deviation": None,
               "train_sha256": data.load_training_set("sample", None).sha256}  # fmt: skip
    assert record["training"] | decided == record["training"]
    assert record["test"]["n"] == len(few)
    low, high = record["test"]["interval_95"].values()
    assert low < record["test"]["accuracy"] == trained.test.accuracy < high
    header = checkpoint.load(trained.checkpoint_path, kind="model").header
    for key in ("model", "class_labels", "training", "test", "versions"):
        assert header[key] == record[key]
    assert trained.picture.path.stat().st_size > 1000
    assert not list(trained.checkpoint_path.parent.glob("*.resume.*"))


def test_an_epoch_is_the_tutorials_epoch(options):
    """One epoch equals the tutorial's loop on the weights and the permutation of the seed."""
    options = replace(options, epochs=1, seed=3)
    images = data.load_training_set("sample", options.data_dir)
    torch.manual_seed(options.seed)
    model = Convnet(Architecture())
    x_all = torch.from_numpy(images.images.copy())[:, None]
    y_all = torch.from_numpy(images.labels.copy()).to(torch.int64)
    order = torch.randperm(640, generator=torch.Generator().manual_seed(options.seed))
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

    (epoch,) = loop.train(options).epochs
    ours = checkpoint.load(options.out, kind="model").tensors
    for name, theirs in model.state_dict().items():
        # Adam divides by the gradient's size, so a gradient near 0 makes much of its last bits
        assert (ours[name] - theirs).norm() < 1e-2 * theirs.norm(), name
    assert epoch.mean_loss == pytest.approx(np.mean(losses), rel=1e-4)
    assert epoch.accuracy == pytest.approx(n_correct / 640, abs=3 / 640)


@pytest.mark.parametrize("recipe", RECIPES)
def test_interrupted_then_resumed_run_gives_the_same_bits(options, monkeypatch, recipe):
    """Guards the trap: state in another memory format makes fused Adam compute wrongly."""
    same = {"recipe": recipe, "batch_size": 64, "arch_option": ("width=0.5",)}
    # else two runs may each find another format faster
    options = replace(options, **same, precision="float32")
    whole = replace(options, out=options.out.with_name("whole.safetensors"))
    loop.train(whole)
    # the fast recipe passes over a share of the images: 8 steps an epoch
    interrupted(monkeypatch, options, step=12)
    result = loop.train(replace(options, resume=True))
    assert options.out.read_bytes() == whole.out.read_bytes()
    assert [epoch.epoch for epoch in result.epochs] == [1, 2, 3]
    assert not options.resume_path.exists()


@pytest.mark.parametrize("moment", ["a step", "saving"])
def test_interrupt_in_the_first_epoch_keeps_nothing_and_says_so(options, monkeypatch, moment):
    if moment == "a step":
        on_step(monkeypatch, 5, interrupt)
    else:
        monkeypatch.setattr(loop.record, "save", interrupt)
    with pytest.raises(InterruptedRunError, match="nothing is kept"):
        loop.train(options)
    assert not list(options.out.parent.glob("*"))


@pytest.mark.parametrize("n_threads", [None, 77])
def test_resume_says_if_threads_differ(unfinished, monkeypatch, n_threads):
    if n_threads:
        monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    _, (run, *_) = heard(unfinished)
    warnings = list(run.warnings())
    assert len(warnings) == (n_threads is not None)
    assert all("77: the final weights will differ" in warning for warning in warnings)


def test_resume_with_other_options_is_refused_with_the_difference(unfinished):
    changes = {"seed": 7, "learning_rate": 0.1, "batch_size": 32, "arch_option": ("width=0.5",),
               "recipe": "best", "epochs": 4, "precision": "bf16"}  # fmt: skip
    for name, value in changes.items():
        said = "model options" if name == "arch_option" else name
        with pytest.raises(InputError, match=f"belongs to another run: {said}"):
            loop.train(replace(unfinished, **{name: value}))


def interrupting(function, call, *, after):
    """Return `function` with Ctrl-C in one call of it, counted from 1."""
    calls = itertools.count(1)

    def called(*arguments):
        if next(calls) != call:
            return function(*arguments)
        if after:
            function(*arguments)
        raise KeyboardInterrupt

    return called


def interrupt_when_told(event):
    if isinstance(event, EpochMetrics):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("place", "name", "call", "after", "n_kept"),
    [
        (loop.record, "save", 1, True, 1),
        (loop, "_validate", 2, False, 1),
        (loop.record, "_score", 1, False, 3),
        (pictures, "training_curve", 1, False, 3),
        (loop.record, "write_atomically", 1, True, 3),
    ],
)
def test_interrupt_at_any_stage_says_what_is_on_the_disk(
    options, monkeypatch, place, name, call, after, n_kept
):
    options = replace(options, arch_option=("width=0.1",))
    with monkeypatch.context() as patch:
        patch.setattr(place, name, interrupting(getattr(place, name), call, after=after))
        check_interrupt_then_resume(options, lambda _: None, n_kept)


@pytest.mark.parametrize("resume", [False, True])
def test_interrupt_by_who_is_told_says_what_is_on_the_disk(options, monkeypatch, resume):
    options = replace(options, arch_option=("width=0.1",))
    if resume:  # and be stopped before the first step
        interrupted(monkeypatch, options)
    tell = interrupt if resume else interrupt_when_told
    check_interrupt_then_resume(replace(options, resume=resume), tell, 1)


def check_interrupt_then_resume(options, tell, n_kept):
    with pytest.raises(InterruptedRunError, match=f"{n_kept} complete of 3 kept in ") as caught:
        loop.train(options, tell)
    assert "--resume" in caught.value.next_step
    result, events = heard(replace(options, resume=True))
    trained = [event.epoch for event in events if isinstance(event, EpochMetrics)]
    assert trained == [1, 2, 3][n_kept:]
    assert [epoch.epoch for epoch in result.epochs] == [1, 2, 3]
    assert result.earlier_path is None
    assert not options.resume_path.exists()


def test_interrupt_in_the_first_epoch_tells_of_an_older_state_of_the_same_run(
    unfinished, monkeypatch
):
    on_step(monkeypatch, 5, interrupt)
    with pytest.raises(InterruptedRunError, match="1 complete of 3 kept"):
        loop.train(replace(unfinished, resume=False))
    with pytest.raises(InterruptedRunError, match="nothing is kept"):
        loop.train(replace(unfinished, resume=False, seed=1), interrupt)


@pytest.mark.slow
def test_odd_resume_header_is_refused_before_training_or_does_no_harm(options, monkeypatch):
    options = replace(options, arch_option=("width=0.05",), validate=40)
    interrupted(monkeypatch, options, step=13)
    kept = checkpoint.load(options.resume_path, kind="resume")
    run = Run(replace(options, resume=True), device=torch.device("cpu"))
    stored, n_refused = options.resume_path.read_bytes(), 0
    for header in mutations(kept.header):
        options.resume_path.write_bytes(change_header(stored, header))
        try:
            loop.record.restore(run, loop.record.find(run))
        except InputError:
            n_refused += 1
            assert loop.record.count_kept(run) in (0, 1)
            continue
        json.dumps([as_json(run.epochs), run.time_s], allow_nan=False)
        assert [epoch.epoch for epoch in run.epochs] == [*range(1, len(run.epochs) + 1)]
        assert all(isinstance(text, str) for text in run.warnings())
        with run.timed("epochs"):
            pass
    assert n_refused > 300


def run_files(options, number=""):
    paths = (options.out.with_suffix(f"{number}{s}") for s in (".safetensors", ".train.json"))
    return [path.read_bytes() for path in paths]


def test_earlier_run_is_kept_under_a_number_unless_it_is_the_same(options):
    options = replace(options, epochs=1, arch_option=("width=0.1",))
    assert loop.train(options).earlier_path is None
    first = run_files(options)
    assert loop.train(options).earlier_path is None  # the same bits
    assert loop.train(replace(options, seed=1)).earlier_path == options.out.with_name(
        "few.1.safetensors"
    )
    assert run_files(options, ".1")[0] == first[0]
    second = run_files(options)
    assert loop.train(replace(options, seed=2)).earlier_path.name == "few.2.safetensors"
    assert run_files(options, ".2") == second
    assert run_files(options, ".1")[0] == first[0]


@pytest.mark.parametrize("moment", [1, 2])
def test_kill_between_the_renames_leaves_a_run_that_resume_finishes(options, monkeypatch, moment):
    options = replace(options, epochs=1, arch_option=("width=0.1",))
    loop.train(options)
    earlier, real, renames = run_files(options), Path.rename, itertools.count(1)

    def killed(self, target):
        if next(renames) == moment:
            raise SystemExit
        return real(self, target)

    options = replace(options, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(SystemExit):
            loop.train(options)
    result = loop.train(replace(options, resume=True))
    assert result.earlier_path.name == "few.1.safetensors"
    assert run_files(options, ".1") == earlier
    assert result.record["training"]["seed"] == 1


def test_earlier_run_that_cannot_be_renamed_is_an_error_and_the_new_one_is_safe(
    options, monkeypatch
):
    options = replace(options, epochs=1, arch_option=("width=0.1",))
    loop.train(options)
    before = run_files(options)

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(InputError, match="under a number: Permission denied"):
            loop.train(replace(options, seed=1))
    assert run_files(options) == before
    assert loop.train(replace(options, seed=1, resume=True)).earlier_path


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 1 << 64), ("epochs", 10**9), ("batch_size", 10**9),
     ("validate", 60_000), ("learning_rate", float("nan")),
     ("learning_rate", float("inf")), ("learning_rate", 0.0)],
)  # fmt: skip
def test_vast_or_senseless_option_is_refused_with_its_range(name, value):
    with pytest.raises(InputError, match=f"^{name}=") as caught:
        TrainOptions(**{name: value})
    assert re.search(r"from \d to [\d,]+$|above 0$", caught.value.expected)


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
        ("model.layer_stack.0.bias", torch.full((32,), float("nan"))),
    ):
        tensors = {key: t for key, t in (kept.tensors | {name: wrong}).items() if t is not None}
        checkpoint.save(path, replace(kept, tensors=tensors))
        with pytest.raises(InputError, match=f"does not fit this run: .*{name}"):
            loop.train(unfinished)


def test_resume_of_a_complete_run_does_nothing_and_of_another_is_refused(options):
    options = replace(options, epochs=1, resume=True)
    assert len(loop.train(options).epochs) == 1  # nothing to resume: from the beginning
    before = {path: path.stat().st_mtime_ns for path in options.out.parent.iterdir()}
    assert loop.train(options) is None
    with pytest.raises(InputError, match="belongs to another run: epochs is 1, now 2"):
        loop.train(replace(options, epochs=2))
    assert {path: path.stat().st_mtime_ns for path in options.out.parent.iterdir()} == before


def test_processes_that_resume_from_different_epochs_are_refused(unfinished, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(loop, "joined", lambda _: nullcontext())
    monkeypatch.setattr(loop.record, "add_up", lambda *_: None)  # the other one has nothing
    with pytest.raises(InputError, match="found 1 complete epochs to resume, others found"):
        loop.train(unfinished)


@pytest.mark.parametrize(
    ("step", "epoch", "kept"), [(5, 1, "nothing is kept"), (25, 3, "2 complete of 3 kept in ")]
)
def test_loss_that_is_not_finite_stops(options, monkeypatch, step, epoch, kept):
    on_step(monkeypatch, step, lambda gradients: gradients[-1].fill_(float("nan")))
    where = f"mean loss is .* in epoch {epoch} at learning rate 0.001"
    with pytest.raises(CheckFailedError, match=where) as caught:
        loop.train(options)
    assert kept in caught.value.next_step
    assert options.resume_path.exists() == (epoch > 1)
    assert not options.out.exists()


def test_full_disk_at_the_end_of_an_epoch_leaves_no_half_file(options, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        loop.train(options)
    assert not list(options.out.parent.glob("*"))


def test_device_is_one_that_is_here_and_of_several_gpus_the_process_s_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="asked for cuda"):
        loop.resolve_device("cuda")
    assert loop.resolve_device("auto").type in ("cpu", "mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert loop.resolve_device("auto") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert loop.resolve_device("cuda") == torch.device("cuda", 3)
    assert loop.resolve_device("cpu") == torch.device("cpu")


def test_progress_counts_up_to_the_last_image(options, monkeypatch):
    monkeypatch.setattr(loop, "REPORT_EVERY_S", 0)
    _, events = heard(replace(options, epochs=1, arch_option=("width=0.5",)))
    seen = [event for event in events if isinstance(event, loop.Progress)]
    assert checkpoint.load_model(options.out)[0].architecture.width == 0.5
    assert [state.n_images for state in seen] == list(range(64, 641, 64))
    assert seen[-1].n_images_total == 640
    durations = [state.so_far.duration_s for state in seen]
    assert durations == sorted(durations)


def test_validation_scores_images_that_training_never_sees(options):
    result, (run, *_, epoch) = heard(replace(options, epochs=1, validate=140))
    record = result.record
    images = data.load_training_set("sample", options.data_dir)
    assert np.array_equal(run.dataset.train.images, images.images[:500])
    # by hand: forward and two gradients, but none of conv1's input
    assert run.count_operations().n_training == 2 * (3 * 2_215_168 - 165_888)
    model, _ = checkpoint.load_model(options.out)
    logits = torch.from_numpy(compute_logits(model, images.images[500:], torch.float32))
    labels = torch.from_numpy(images.labels[500:].copy()).long()
    assert epoch.validation_accuracy == (logits.argmax(1) == labels).double().mean()
    loss = torch.nn.functional.cross_entropy(logits, labels)
    assert epoch.validation_loss == pytest.approx(loss.item(), rel=1e-5)
    assert record["training"]["n_images"] == 500
    assert record["training"]["n_validation_images"] == 140
    assert all(seconds > 0 for seconds in record["time_s"].values())
    assert record["epochs"][0]["duration_s"] <= record["time_s"]["epochs"]
    with pytest.raises(InputError, match="validate=640 of 640"):
        loop.train(replace(options, validate=640))


def test_best_recipe_leaves_the_tutorials_network_and_its_averaged_weights(options):
    result, (run, *_) = heard(replace(options, recipe="best", epochs=1))
    model, _ = checkpoint.load_model(options.out)
    assert list(model.state_dict()) == list(Convnet(Architecture()).state_dict())
    for place, weight in ((2, model.layer_stack[3].weight), (4, model.layer_stack[7].weight)):
        assert torch.equal(weight, run.average[place])
        assert not torch.equal(weight, run.parameters[place])
    images = data.load_test_set()
    found = (compute_logits(model, images.images, torch.float32).argmax(1) == images.labels).mean()
    assert found == result.test.accuracy


def test_bf16_trains_and_says_where_it_is_slow(options, monkeypatch):
    monkeypatch.setattr(machine, "passport", lambda: {"isa": ["avx2"]})
    options = replace(options, epochs=1, arch_option=("width=0.25",))
    _, (run, *_, epoch) = heard(replace(options, precision="bf16"))
    assert "no bfloat16 instructions" in next(run.warnings())
    (exact,) = loop.train(options).epochs
    assert epoch.mean_loss != exact.mean_loss
    assert epoch.mean_loss == pytest.approx(exact.mean_loss, rel=0.05)


def test_cuda_never_multiplies_in_tf32_while_training(options):
    matmul, seen = torch.backends.cuda.matmul, []
    before = matmul.fp32_precision

    def tell(event):
        if isinstance(event, EpochMetrics):
            seen.append(matmul.fp32_precision)

    loop.train(replace(options, epochs=2), tell)
    assert seen == ["ieee", "ieee"]
    assert matmul.fp32_precision == before
