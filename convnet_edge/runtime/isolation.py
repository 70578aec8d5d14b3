"""Run the golden images of a file in a process of its own first, with memory and time limited.

So a file that takes more than it states ends that process and not this one. It is no sandbox: it
does not protect from a fault in onnxruntime that a file may be made for. Memory is limited on Linux
alone, time everywhere.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .classifier import Classifier
from .contract import NEXT_STEP
from .errors import EdgeError, InputError
from .files import MIB
from .model_file import ModelFile, open_model, open_stated
from .operators.follow import Followed
from .session import Settings, import_onnxruntime

CHILD = (
    "import time; began = time.perf_counter_ns()\n"
    "import json, sys; task = json.loads(sys.argv[1]); sys.path[:] = task['path']\n"
    "import importlib; importlib.import_module(task['module']).answer(task, began)"
)
START_S, STEP_S, PATIENCE = 60.0, 4e-9, 10  # times what a step takes on a slow core
RESERVE_BYTES = 512 * MIB  # beyond what the process has once onnxruntime is imported
N_COPIES = 4  # of weights: the file, onnxruntime's, and those rearranged for its kernels
N_RESULTS = 3  # times the results that are needed at once: onnxruntime rearranges these, too
STATM = Path("/proc/self/statm")  # of Linux
NO_MEMORY = re.compile("memory|alloc", re.IGNORECASE)  # in what onnxruntime says


def start(
    module: str,
    task: dict[str, Any],
    *,
    data: bytes = b"",
    timeout_s: float,
    meanwhile: Callable[[], object] = bool,
) -> subprocess.CompletedProcess[bytes]:
    """Let `answer(task, began_ns)` of `module` run in a fresh process, `data` on its stdin.

    The process is this interpreter with its paths, that of a bundle included. meanwhile: what is to
    be done here while it starts; if that fails, the process is ended.
    """
    asked = {**task, "path": sys.path, "module": module, "spawned_ns": time.perf_counter_ns()}
    command = [sys.executable, "-c", CHILD, json.dumps(asked)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:  # noqa: S603 - this interpreter
        try:
            meanwhile()
            said, complained = process.communicate(data, timeout=timeout_s)
        finally:
            process.kill()  # nothing, of one that has ended
        return subprocess.CompletedProcess(command, process.returncode, said, complained)


def last_words(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return how a process ended that should not have."""
    lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
    return f"it ended with exit {done.returncode}: {lines[-1][:300]}"


def try_out(file: ModelFile, found: Followed, *, ceiling: float) -> None:
    """Run the golden images of an admitted `file`, alone and as one batch, in a fresh process.

    ceiling: by which it was admitted.

    Raises:
        InputError: that took more memory or time than was `found`, or ended the process; or there
            is no onnxruntime.
    """
    n = len(file.contract.goldens.images)
    n_bytes = RESERVE_BYTES + N_COPIES * len(file.data) + N_RESULTS * n * found.cost.peak_bytes
    limit_s = START_S + PATIENCE * STEP_S * found.n_steps * (n + 1)
    try:
        stated = b"" if file.holds_contract else json.dumps(file.contract.document).encode()
        task = {"n_bytes": n_bytes, "ceiling": ceiling, "n_model_bytes": len(file.data)}
        done = start(
            __name__,
            task,
            data=file.data + stated,
            timeout_s=limit_s,
            meanwhile=import_onnxruntime,  # what is missing here is no fault of the file
        )
        reason = last_words(done) if done.returncode else json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        reason = "it took longer"
    if reason:
        raise InputError(
            f"the golden images do not run in a process of {n_bytes / MIB:,.0f} MiB and "
            f"{limit_s:,.0f} s, which is ample for what the file states: {reason}",
            expected="a graph that takes what it states",
            next_step=f"do not open the file, or {NEXT_STEP}",
        )


def answer(task: dict[str, Any], _: int) -> None:
    """Do `task` in the fresh process: print why memory did not suffice, else nothing.

    Whether the logits are right, or a batch is refused, is the self-test's business.
    """
    import_onnxruntime()
    data = sys.stdin.buffer.read()
    reason = ""
    try:
        model, stated = data[: task["n_model_bytes"]], data[task["n_model_bytes"] :]
        file = open_stated(model, stated) if stated else open_model(model)
        _limit_memory(task["n_bytes"])
        settings = Settings(threads=1, ceiling=task["ceiling"])
        classifier = Classifier(file, settings=settings, isolate=False)
        for n in (1, len(file.contract.goldens.images)):
            classifier.logits(file.contract.goldens.images[:n], batch_size=n)
    except (EdgeError, MemoryError) as error:
        if isinstance(error, MemoryError) or NO_MEMORY.search(error.found):
            reason = "it needs more memory"
    print(json.dumps(reason))  # noqa: T201 - to the process that asked


def _limit_memory(n_bytes: int) -> None:
    """Let this process have `n_bytes` more address space than now, where the system says how much.

    A lower limit that holds already stays.
    """
    if not STATM.exists():
        return
    import resource

    n_pages = int(STATM.read_text().split()[0])
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = n_bytes + n_pages * resource.getpagesize()
    if most != resource.RLIM_INFINITY:
        limit = min(limit, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
