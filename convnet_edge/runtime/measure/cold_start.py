"""Start fresh processes, and say where the time until a model's first answer goes.

Each process is this interpreter, opening the model as any program would, on the golden images that
travel in it. What a fresh process shows, no warm one can: imports, session, first runs, and by how
much processes differ among themselves.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..session import Settings
from .result import FreshProcess

TIMEOUT_S = 600
STEADY_WARMUP_SHARE = 0.25
CHILD = (
    "import time; began = time.perf_counter_ns()\n"
    "import json, sys; task = json.loads(sys.argv[1]); sys.path[:] = task['path']\n"
    "import importlib; importlib.import_module(task['module']).answer(task, began)"
)


@dataclass(frozen=True)
class Task:
    """What a fresh process does.

    steady_s: seconds of runs at each batch size, 11 runs or more. member: the model inside of a
    bundle at `model_path`, None if that is the model.
    """

    model_path: Path
    settings: Settings = field(default_factory=Settings)
    batch_sizes: tuple[int, ...] = (1,)
    steady_s: float = 0.2
    member: str | None = None


def start_process(task: Task) -> tuple[FreshProcess, list[int]]:
    """Run `task` in a fresh process; return what it found, and its times at the first batch size.

    Raises:
        InputError: the process failed; with its last words.
    """
    asked = {
        **asdict(task),
        "model_path": str(task.model_path),
        "path": sys.path,
        "module": __name__,
        "spawned_ns": time.perf_counter_ns(),
    }
    command = [sys.executable, "-c", CHILD, json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)  # noqa: S603 - this interpreter
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise InputError(
            f"a fresh process could not run the model (exit {done.returncode}): {lines[-1][:300]}",
            expected="what runs in this process to run in another",
            next_step="check memory and permissions on this machine",
        )
    found, samples_ns = json.loads(done.stdout.splitlines()[-1])
    return FreshProcess(**found), samples_ns


def answer(task: dict[str, Any], began_ns: int) -> None:
    """Do `task` in the fresh process, and print the result for the process that started it."""
    clock, marks = time.perf_counter_ns, {"spawned": task["spawned_ns"], "interpreter": began_ns}
    import numpy as np

    from .. import archive, model_file
    from ..classifier import Classifier
    from ..session import import_onnxruntime
    from . import machine

    import_onnxruntime()
    marks["import"] = clock()
    path = Path(task["model_path"])
    if task["member"] is None:
        model = model_file.read_model_bytes(path)
    else:
        model = archive.read_archive(path).models()[task["member"]]
    marks["read"] = clock()
    classifier = Classifier(model, settings=Settings(**task["settings"]))
    marks["session"] = clock()
    inputs = classifier.to_input(classifier.contract.goldens.images)
    first_began = clock()
    classifier.session.run(inputs[:1])
    ended = clock()
    parts = dict(zip(list(marks)[1:], np.diff(list(marks.values())) / 1e6, strict=True))
    steady = _run_steadily(classifier, inputs, task["batch_sizes"], task["steady_s"])
    create_ms = classifier.session.create_ms
    found = FreshProcess(
        interpreter_ms=parts["interpreter"],
        import_ms=parts["import"],
        read_ms=parts["read"],
        check_ms=parts["session"] - create_ms,
        session_ms=create_ms,
        first_run_ms=(ended - first_began) / 1e6,
        total_ms=(ended - task["spawned_ns"]) / 1e6,
        batch_first_run_ms=steady.firsts_ms,
        p50_ms=steady.medians_ms,
        error=steady.error,
        peak_memory_bytes=machine.peak_memory_bytes(),
    )
    print(json.dumps([asdict(found), steady.samples_ns]))  # noqa: T201 - to the process that asked


@dataclass
class _Steady:
    """First and median milliseconds by batch size; samples_ns: of the first batch size."""

    firsts_ms: dict[str, float] = field(default_factory=dict)
    medians_ms: dict[str, float] = field(default_factory=dict)
    samples_ns: list[int] = field(default_factory=list)
    error: float = 0.0


def _run_steadily(
    classifier: Any, inputs: Any, batch_sizes: list[int], duration_s: float
) -> _Steady:
    import numpy as np

    from .timing import Feed, time_runs

    found, run, n = _Steady(), classifier.session.run, len(inputs)
    for size in batch_sizes:
        places = [np.roll(np.arange(max(size, n)) % n, -i)[:size] for i in range(n)]
        logits = classifier.contract.goldens.logits
        feed = Feed(
            tuple(np.ascontiguousarray(inputs[chosen]) for chosen in places),
            tuple(logits[chosen] for chosen in places),
        )
        started = time.perf_counter_ns()
        first = run(feed.batches[0])
        if size != 1:
            found.firsts_ms[str(size)] = (time.perf_counter_ns() - started) / 1e6
        timed = time_runs(run, feed, duration_s=duration_s, warmup_share=STEADY_WARMUP_SHARE)
        found.medians_ms[str(size)] = float(np.median(timed.trace.samples_ns) / 1e6)
        found.samples_ns = found.samples_ns or timed.trace.samples_ns.tolist()
        found.error = max(found.error, feed.largest_error({0: first}), timed.trace.error)
    return found
