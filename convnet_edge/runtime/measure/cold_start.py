"""Start fresh processes, and say where the time until a model's first answer goes.

Each process is this interpreter, opening the model as any program would, on the golden images that
travel in it. What a fresh process shows, no warm one can: imports, session, first runs, and by how
much processes differ among themselves.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import archive, errors, isolation
from ..classifier import Classifier
from ..model_file import open_stated, read_model
from ..session import Settings, import_onnxruntime
from . import machine
from .result import FreshProcess
from .stats import Array

TIMEOUT_S = 600
PATHS = ("model_path", "contract_path")
WARMUP_SHARE = 0.25


@dataclass(frozen=True)
class Task:
    """What a fresh process does.

    steady_s: seconds of runs at each batch size, 11 runs or more. member: the model inside of a
    bundle at `model_path`, None if that is the model. contract_path: what stands in for a contract,
    of a model that holds none (`unproved.stand_in`).
    """

    model_path: Path
    settings: Settings = field(default_factory=Settings)
    batch_sizes: tuple[int, ...] = (1,)
    steady_s: float = 0.2
    member: str | None = None
    contract_path: Path | None = None


def start_process(task: Task) -> tuple[FreshProcess, list[int]]:
    """Run `task` in a fresh process; return what it found, and its times at the first batch size.

    Raises:
        EdgeError: the process met it while it opened or ran the model.
        InputError: the process failed otherwise; with its last words.
    """
    paths = {name: path and str(path) for name, path in vars(task).items() if name in PATHS}
    done = isolation.start(__name__, asdict(task) | paths, timeout_s=TIMEOUT_S)
    if done.returncode != 0:
        raise errors.InputError(
            f"a fresh process could not run the model: {isolation.last_words(done)}",
            expected="what runs in this process to run in another",
            next_step="check memory and permissions on this machine",
        )
    kind, *said = json.loads(done.stdout.splitlines()[-1])
    if kind is not None:
        found, expected, next_step = said
        found = found if str(task.model_path) in found else f"{task.model_path}: {found}"
        raise getattr(errors, kind)(found, expected=expected, next_step=next_step)
    found, samples_ns = said
    return FreshProcess(**found), samples_ns


def answer(task: dict[str, Any], began_ns: int) -> None:
    """Do `task` in the fresh process, and print for the process that started it what came of it.

    The class of an error and its three parts, or None, what was found, and the times.
    """
    try:
        said: list[Any] = [None, *_start(task, began_ns)]
    except errors.EdgeError as error:
        said = [type(error).__name__, error.found, error.expected, error.next_step]
    print(json.dumps(said))  # noqa: T201 - to the process that asked


def _start(task: dict[str, Any], began_ns: int) -> tuple[dict[str, Any], list[int]]:
    """Return what this process found from its start on, and its times at the first batch size."""
    clock = time.perf_counter_ns
    import_onnxruntime()
    imported = clock()
    path, member = Path(task["model_path"]), task["member"]
    model = archive.read_archive(path).models()[member] if member else read_model(path)
    read = clock()
    contract_path = task["contract_path"]
    file = open_stated(model, Path(contract_path).read_bytes()) if contract_path else model
    classifier = Classifier(file, settings=Settings(**task["settings"]))
    opened = clock()
    inputs = classifier.to_input(classifier.contract.goldens.images)
    first_began = clock()
    classifier.session.run(inputs[:1])
    ended = clock()
    create_ms = classifier.session.create_ms
    steady, samples_ns = _run_on(classifier, inputs, task)
    found = FreshProcess(
        interpreter_ms=(began_ns - task["spawned_ns"]) / 1e6,
        import_ms=(imported - began_ns) / 1e6,
        read_ms=(read - imported) / 1e6,
        check_ms=(opened - read) / 1e6 - create_ms,
        session_ms=create_ms,
        first_run_ms=(ended - first_began) / 1e6,
        total_ms=(ended - task["spawned_ns"]) / 1e6,
        peak_memory_bytes=machine.peak_memory_bytes(),
        **steady,
    )
    return asdict(found), samples_ns


def _run_on(
    classifier: Classifier, inputs: Array, task: dict[str, Any]
) -> tuple[dict[str, Any], list[int]]:
    """Return first and median run at each batch size, the worst error, and the first's times."""
    from .timing import cut, time_runs  # no program needs it for its first answer

    run, firsts_ms, medians_ms, error = classifier.session.run, {}, {}, 0.0
    samples_ns: list[int] = []
    for size in task["batch_sizes"]:
        feed = cut(inputs, classifier.contract.goldens.logits, size)
        began = time.perf_counter_ns()
        first = run(feed.batches[0])
        if size != 1:
            firsts_ms[str(size)] = (time.perf_counter_ns() - began) / 1e6
        timed = time_runs(run, feed, duration_s=task["steady_s"], warmup_share=WARMUP_SHARE)
        medians_ms[str(size)] = float(np.median(timed.samples_ns) / 1e6)
        samples_ns = samples_ns or timed.samples_ns.tolist()
        error = max(error, feed.largest_error({0: first}), timed.row.largest_output_error or 0.0)
    return {"batch_first_run_ms": firsts_ms, "p50_ms": medians_ms, "error": error}, samples_ns
