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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError

MIN_STEADY_RUNS = 11
TIMEOUT_S = 600
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
    provider: str = "cpu"
    threads: int | None = None
    batch_sizes: tuple[int, ...] = (1,)
    steady_s: float = 0.2
    allow_cpu_nodes: bool = False
    spin: bool = True
    tf32: bool = False
    member: str | None = None


@dataclass(frozen=True)
class ColdStart:
    """One fresh process, in milliseconds of wall time.

    interpreter_ms: from starting the process to its first statement; import_ms: numpy, onnxruntime
    and this package; read_ms: the file; check_ms: contract, digests, admission; session_ms:
    onnxruntime's session; first_run_ms: of one image; total_ms: all of these, until the first
    answer. batch_first_run_ms: first run at each further batch size. p50_ms: steady median by batch
    size; samples_ns: the runs at the first one. error: the worst of the outputs checked.
    """

    interpreter_ms: float
    import_ms: float
    read_ms: float
    check_ms: float
    session_ms: float
    first_run_ms: float
    total_ms: float
    batch_first_run_ms: dict[str, float]
    p50_ms: dict[str, float]
    samples_ns: list[int]
    error: float
    peak_memory_bytes: int | None

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values, without the samples."""
        return {key: value for key, value in asdict(self).items() if key != "samples_ns"}


def start_process(task: Task) -> ColdStart:
    """Run `task` in a fresh process and return what it found.

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
    return ColdStart(**json.loads(done.stdout.splitlines()[-1]))


def answer(task: dict[str, Any], began_ns: int) -> None:
    """Do `task` in the fresh process, and print the result for the process that started it."""
    marks = [task["spawned_ns"], began_ns]
    import numpy as np

    from .. import archive
    from .. import model_file as onnxfile
    from ..classifier import Classifier
    from ..session import Settings, import_onnxruntime
    from . import machine

    import_onnxruntime()
    marks.append(time.perf_counter_ns())
    if task["member"] is None:
        model = onnxfile.read_model_bytes(Path(task["model_path"]))
    else:
        model = archive.read_archive(Path(task["model_path"])).models()[task["member"]]
    marks.append(time.perf_counter_ns())
    settings = Settings(
        tf32=task["tf32"], allow_cpu_nodes=task["allow_cpu_nodes"], spin=task["spin"]
    )
    classifier = Classifier(model, task["provider"], task["threads"], settings=settings)
    marks.append(time.perf_counter_ns())
    goldens = classifier.contract.goldens
    run, inputs = classifier.session.run, classifier.to_input(goldens.images)
    marks.append(time.perf_counter_ns())
    run(inputs[:1])
    marks.append(time.perf_counter_ns())
    interpreter, imports, read, opened, _, first = np.diff(marks) / 1e6
    peak = machine.peak_memory_bytes()
    firsts: dict[str, float] = {}
    medians: dict[str, float] = {}
    samples: list[int] = []
    worst = 0.0
    for size in task["batch_sizes"]:
        places = np.arange(max(size, len(inputs))) % len(inputs)
        batches = [np.ascontiguousarray(inputs[np.roll(places, -i)[:size]])
                   for i in range(len(inputs))]  # fmt: skip
        started = time.perf_counter_ns()
        logits = run(batches[0])
        if size != 1:
            firsts[str(size)] = (time.perf_counter_ns() - started) / 1e6
        worst = max(worst, float(np.abs(logits - goldens.logits[places[:size]]).max()))
        timed = _time_runs(run, batches, task["steady_s"])
        medians[str(size)] = float(np.median(timed) / 1e6)
        samples = samples or timed
    found = ColdStart(
        interpreter, imports, read, opened - classifier.session.create_ms,
        classifier.session.create_ms, first, (marks[-1] - marks[0]) / 1e6, firsts, medians,
        samples, worst, peak,
    )  # fmt: skip
    print(json.dumps(asdict(found)))  # noqa: T201 - the answer to the process that asked


def _time_runs(run: Any, batches: list[Any], duration_s: float) -> list[int]:
    """Time runs for `duration_s`, after warming up for a quarter of it."""
    clock, samples = time.perf_counter_ns, []
    started = clock()
    index = 0
    while True:
        before = clock()
        run(batches[index % len(batches)])
        after = clock()
        index += 1
        if after - started < duration_s * 0.25e9:
            continue
        samples.append(after - before)
        if after - started > duration_s * 1.25e9 and len(samples) >= MIN_STEADY_RUNS:
            return samples
