"""Write what a run leaves, complete or not, and take an unfinished one up again bit for bit."""

import csv
import io
import itertools
import platform
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import split
from ..drawing import pictures
from ..networks import build, checkpoint
from ..networks.checkpoint import EARLIER, Amount, Checkpoint, Count
from ..networks.convnet import compute_logits
from ..runtime.errors import InputError, first_line
from ..runtime.files import as_json, brief, write_atomically, write_json
from ..runtime.measure import accuracy, machine
from ..runtime.measure.result import Accuracy
from ..runtime.measure.stats import wilson_interval
from ..sealing import seal
from .distributed import add_up
from .options import UNFINISHED, TrainOptions
from .precision import FORMATS, Timing
from .run import EpochMetrics, Run, balanced_accuracy

START_AFRESH = "repeat the options of that run, or leave --resume out to start afresh"
CURVE, RECORD, EPOCHS = ".train.png", ".train.json", ".epochs.csv"  # beside the checkpoint
SPLIT = ".split.json"
COVERAGE = 0.97  # of known images, whose answers a decision's threshold must let pass
MAX_UNEVENNESS = 0.24  # between objects on a background and scenes: benchmarks/photographs.py
MAX_LISTED = 3  # unfinished runs
MOST_DECIDING = 4_000  # training images that a threshold is taken from, where there are no others


@dataclass(frozen=True)
class _Saved:
    """What the header of a resume file says of the run."""

    epochs: tuple[EpochMetrics, ...]
    time_s: dict[str, Amount]
    threads: Count
    timing: Timing | None
    earlier_sources: tuple[str, ...]


@dataclass(frozen=True)
class TrainResult:
    """What training left: files, and the one score on the test images, None without any.

    split_paths: the list of the sides, of pictures that have none of their own. earlier_path: where
    an earlier run of that name is now. record: what `record_path` holds,
    everything that is needed to repeat the run, and what came of it. `training` in it is as in
    `Run.training`. picture: of the epochs, None where there was none.
    """

    checkpoint_path: Path
    record_path: Path
    epochs_path: Path
    split_paths: tuple[Path, ...]
    picture: pictures.Picture | None
    earlier_path: Path | None
    epochs: tuple[EpochMetrics, ...]
    test: Accuracy | None
    record: dict[str, Any]

    __repr__ = brief


def save(run: Run, epochs: tuple[EpochMetrics, ...]) -> None:
    """Keep the state after the last of `epochs`; if that fails, the state before stands."""
    header = {
        **_identity(run),
        "epochs": as_json(epochs),
        "time_s": run.time_s,
        "threads": torch.get_num_threads(),
        "timing": as_json(run.timing),
        EARLIER: list(run.earlier_sources),
    }
    tensors = {**run.state(), "choices": run.choices.get_state()}
    checkpoint.save(run.options.resume_path, Checkpoint("resume", tensors, header))


def require_meant(options: TrainOptions) -> None:
    """Check that what is to be resumed is there, or nothing else that may have been meant.

    Raises:
        InputError: no run of that name has begun, and others beside it are unfinished.
    """
    out = options.out
    if not options.resume or out.exists() or options.resume_path.exists():
        return
    others = sorted(path.name for path in out.parent.glob(f"[!.]*{UNFINISHED}"))
    if others:
        first = out.with_name(others[0].removesuffix(UNFINISHED) + out.suffix)
        raise InputError(
            f"nothing unfinished of --out {out}, but beside it {', '.join(others[:MAX_LISTED])}",
            expected="the run to go on with",
            next_step=f"pass --out {first}, or leave --resume out to start afresh",
        )


def find(run: Run) -> Checkpoint | None:
    """Return what is there of this run: its state if it is unfinished, else the model it gave."""
    for path, kind in ((run.options.resume_path, "resume"), (run.options.out, "model")):
        if path.exists():
            return _load_own(run, path, kind)
    return None


def count_kept(run: Run) -> int:
    """Return how many complete epochs of this run the disk holds, whatever the run knows of it."""
    try:
        kept = _load_own(run, run.options.resume_path, "resume")
        return len(_read_saved(run, kept.header).epochs)
    except (InputError, ValueError):  # none, another run's, or damaged: nothing of this one
        return 0


def _identity(run: Run) -> dict[str, dict[str, Any]]:
    """Return what two runs have in common only if they are the same one."""
    how = run.dataset.preprocessing.document()
    return {"training": run.training, "preprocessing": how, "model": as_json(run.network)}


def _load_own(run: Run, path: Path, kind: str) -> Checkpoint:
    kept, source = checkpoint.load(path, kind=kind), "source_sha256"
    for part, ours in _identity(run).items():
        theirs = kept.header.get(part)
        theirs = theirs if isinstance(theirs, dict) else {}
        for key in {**ours, **theirs}:
            if key == EARLIER:  # of files that were accepted then
                continue
            found, value = theirs.get(key), ours.get(key)
            chosen = key == "precision" and run.options.asked_precision == "auto"
            if found == value or (chosen and found in FORMATS):
                continue
            if key != source or not isinstance(found, str):
                raise InputError(
                    f"{path} belongs to another run: {'model ' * (part == 'model')}{key} is "
                    f"{found!r:.80}, now {value!r}",
                    expected="the same data, recipe and network",
                    next_step=START_AFRESH,
                )
            if not run.options.allow_changed_source:
                build.require_same_source(run.named.arch, run.named.source, found)
    return kept


def restore(run: Run, kept: Checkpoint) -> None:
    """Copy what was saved into the tensors in use, which keep their memory format.

    Raises:
        InputError: something is missing, of another type, or makes no sense in this run.
    """
    try:
        saved, state = _read_saved(run, kept.header), run.state()
        if foreign := sorted(kept.tensors.keys() - {*state, "choices"}):
            raise ValueError(f"{foreign[0]} is unknown")
        for name, mine in state.items():
            tensor = kept.tensors[name]
            if tensor.shape != mine.shape or tensor.dtype != mine.dtype:
                raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}")
            if torch.isfinite(mine).all() and not torch.isfinite(tensor).all():
                raise ValueError(f"{name} is not finite")
            mine.copy_(tensor)
        run.choices.set_state(kept.tensors["choices"])
        run.use(kept.header["training"]["precision"])
        source = kept.header["model"]["source_sha256"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{run.options.resume_path} does not fit this run: {first_line(error)}",
            expected="the state of the same run",
            next_step=START_AFRESH,
        ) from error
    run.epochs, run.n_threads = saved.epochs, saved.threads
    run.time_s |= saved.time_s
    run.timing, run.earlier_sources = saved.timing, saved.earlier_sources
    if source != run.named.source_sha256:
        run.earlier_sources += (source,)


def _read_saved(run: Run, header: dict[str, Any]) -> _Saved:
    saved = checkpoint.read_header(_Saved, header)
    whole = tuple(range(1, len(saved.epochs) + 1))
    if tuple(epoch.epoch for epoch in saved.epochs) != whole or len(whole) > run.recipe.epochs:
        raise ValueError(f"epochs are not the first of {run.recipe.epochs}")
    for epoch in saved.epochs:
        scores = [value for name, value in asdict(epoch).items() if name.startswith("validation")]
        if any((score is None) == bool(len(run.dataset.validation)) for score in scores):
            raise ValueError(f"epochs: {epoch.epoch} has validation scores {scores}")
    return saved


def require_same_start(run: Run) -> None:
    """Check that all processes have the same images, and go on from the same epoch."""
    digest = int(run.dataset.train.sha256[:4], 16)
    total = torch.tensor((float(len(run.epochs)), digest), device=run.device)
    add_up(run.launch, (total,))
    n_epochs, digests = total.tolist()
    if n_epochs != len(run.epochs) * run.launch.size:
        raise InputError(
            f"process {run.launch.rank} found {len(run.epochs)} complete epochs to resume, "
            "others found another number",
            expected=f"{run.options.resume_path} to be the same file on every machine",
            next_step="put --out into a folder that the machines share, or copy that file to each",
        )
    if digests != digest * run.launch.size:
        raise InputError(
            f"process {run.launch.rank} found other training images than others",
            expected="the same pictures on every machine",
            next_step="put the pictures into a folder that the machines share, or copy them",
        )


def finish(run: Run) -> TrainResult:
    """Score the trained network once on the test images; write its files.

    An earlier run of that name is kept under a number.
    """
    network, out = run.finished_network(), run.options.out
    model = run.pixels_to_logits(network)
    score = _score(run, model)
    record = {
        "schema": "convnet-edge/train/3",
        "class_labels": list(run.dataset.class_labels),
        **_identity(run),
        "data": _describe_data(run),
        "device": {
            "name": device_name(run.device),
            "threads": torch.get_num_threads(),  # of each process
            "n_processes": run.launch.size,
            # a format that was timed may be another one next time
            "cpu_seed_repeats_bit_for_bit": run.device.type == "cpu" and not run.timing,
            "batch_normalization": run.statistics,
        },
        "precision": {"asked": run.options.asked_precision, "timing": as_json(run.timing)},
        EARLIER: list(run.earlier_sources),
        "replaced_weights": list(run.replaced),
        "epochs": as_json(run.epochs),
        "time_s": run.time_s,
        "machine": machine.passport(),
        "versions": seal.versions(torch) | {"python": platform.python_version()},
        "test": _describe_score(run, score) if score else None,
        "classes": _describe_classes(run, score),
        "decision": _decide(run, model),
    }
    header = {key: record[key] for key in checkpoint.MODEL_KEYS}
    if run.earlier_sources:  # so the contract of its export says so
        header["training"] = {**run.training, EARLIER: list(run.earlier_sources)}
    stored = checkpoint.to_bytes(Checkpoint("model", dict(network.state_dict()), header))
    earlier_path = _keep_earlier(out, stored)
    curve = out.with_suffix(CURVE)
    picture = pictures.training_curve(curve, record["epochs"]) if run.epochs else None
    record_path, epochs_path = out.with_suffix(RECORD), out.with_suffix(EPOCHS)
    write_json(record_path, record)
    write_atomically(epochs_path, _as_csv(run.epochs))
    arranged, split_paths = run.dataset.arranged, list[Path]()
    if arranged and not arranged.pictures.scan.published:
        split_paths.append(out.with_suffix(SPLIT))
        split.write_split(
            split_paths[0],
            run.options.data,
            entries=arranged.pictures.scan.entries,
            digests=arranged.pictures.rows["sha256"],
            parts=arranged.parts,
        )
    write_atomically(out, stored)
    run.options.resume_path.unlink(missing_ok=True)
    files = out, record_path, epochs_path, tuple(split_paths)
    return TrainResult(*files, picture, earlier_path, run.epochs, score, record)


def _score(run: Run, model: nn.Module) -> Accuracy | None:
    """Score the test images, if there are any."""
    test = run.dataset.test
    if not len(test):
        return None
    with run.timed("test"):
        logits = compute_logits(model, test.images, torch.float32)
    return accuracy.score(logits.argmax(axis=1), test.labels, run.dataset.class_labels)


def _describe_score(run: Run, score: Accuracy) -> dict[str, Any]:
    counts = np.array([(one.n_correct, one.n) for one in score.classes])
    return {
        **accuracy.describe(score, run.dataset.test),
        "balanced_accuracy": balanced_accuracy(*counts.T),
        "may_have_been_seen": not run.recipe.epochs,  # by who trained the weights
    }


def _describe_classes(run: Run, score: Accuracy | None) -> list[dict[str, Any]]:
    """Return each class's score; without a test image it is not measured, and None."""
    rows = []
    for i, label in enumerate(run.dataset.class_labels):
        n, n_correct = (score.classes[i].n, score.classes[i].n_correct) if score else (0, 0)
        interval = asdict(wilson_interval(n_correct, n)) if n else None
        share = n_correct / n if n else None
        rows.append({"label": label, "n": n, "accuracy": share, "interval_95": interval})
    return rows


def _describe_data(run: Run) -> dict[str, Any]:
    """Return how many images of each class there are, and how many pictures were left out."""
    found, report = run.dataset, run.dataset.report
    sides = {"train": found.train, "validation": found.validation, "test": found.test}
    n_classes = len(found.class_labels)
    return {
        "n_by_class": {
            name: np.bincount(images.labels, minlength=n_classes).tolist()
            for name, images in sides.items()
        },
        "n_left_out": len(report.left_out) if report else 0,
        "n_leaks": len(report.leaks) if report else 0,
    }


def _decide(run: Run, model: nn.Module) -> dict[str, Any]:
    """Return from which probability on an answer counts: one that most known images reach.

    Of training images, which the network has seen, every so many are taken: they are in the order
    of their classes.
    """
    known, data = run.dataset.validation, "validation images"
    images = known.images
    if not len(known):
        known, data = run.dataset.train, "training images, which the network has seen"
        images = known.images[:: -(-len(known) // MOST_DECIDING)]
    with run.timed("decision"):
        logits = torch.from_numpy(compute_logits(model, images, torch.float32))
    likeliest = logits.double().softmax(1).amax(1).numpy()
    is_removed = run.dataset.preprocessing.background == "remove"
    threshold = float(np.quantile(likeliest, 1 - COVERAGE, method="lower"))
    return {
        "threshold": threshold,
        "max_unevenness": MAX_UNEVENNESS if is_removed else None,
        "data": data + "; unevenness by drawn garments and landscapes" * is_removed,
        "n": len(likeliest),
        "coverage": float((likeliest >= threshold).mean()),
    }


def _as_csv(epochs: tuple[EpochMetrics, ...]) -> bytes:
    """Return a line for each epoch, under the names of its numbers; empty where there is none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [one.name for one in fields(EpochMetrics)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, epochs))
    return text.getvalue().encode()


def _keep_earlier(out: Path, stored: bytes) -> Path | None:
    """Rename the earlier run of that name to NAME.N, unless its checkpoint is `stored` too.

    The checkpoint goes last: a number is taken once it is there, so that after a crash on the way
    the rest of the run follows to the same number. Until all is written the resume file stands.
    """
    try:
        if not out.exists() or out.read_bytes() == stored:
            return None
        candidates = (out.with_suffix(f".{n}{out.suffix}") for n in itertools.count(1))
        earlier = next(path for path in candidates if not path.exists())
        for suffix in (CURVE, RECORD, EPOCHS, SPLIT, out.suffix):
            path = out.with_suffix(suffix)
            if path.exists():
                path.rename(earlier.with_suffix(suffix))
    except OSError as error:
        raise InputError(
            f"the earlier run in {out} cannot be kept under a number: {error.strerror}",
            expected="a folder whose files may be renamed",
            next_step="change that, and run the same command again with --resume",
        ) from error
    return earlier


def device_name(device: torch.device) -> str:
    """Return the GPU's own name, or the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
