"""Do a job on many items in as many processes as there are cores, in order, in bounded memory.

The processes are plain ones that speak on pipes: multiprocessing's import a user's script again,
and start without end where it has no `__main__` guard. An item that ends a process, as a broken
picture may its decoder, costs that item alone.
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, Generic, Protocol, TypeVar

from ..runtime.errors import InputError

START = (  # it searches modules where this process does; Ctrl-C is for this one alone
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "import json, sys; task = json.loads(sys.argv[1]); sys.path[:] = task['path']\n"
    "from importlib import import_module; import_module(task['module']).serve(task)"
)
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
Item = TypeVar("Item", contravariant=True)
Answer = TypeVar("Answer", covariant=True)


class Job(Protocol[Item, Answer]):
    """What the processes do.

    module: whose `serve(task)` a process runs: a byte to say that it is ready, then an answer to
    each line that `ask` makes. task: what else it gets, for JSON. largest: items at once.
    """

    module: str
    task: dict[str, Any]
    largest: int

    def ask(self, items: Sequence[Item]) -> Any:
        """Return what is sent for these items, for JSON."""

    def read(self, stream: IO[bytes], items: Sequence[Item]) -> Iterator[Answer]:
        """Yield the answers; fewer, and for the first items, if the stream ends before."""

    def crashed(self, item: Item, why: str) -> Answer:
        """Return what stands for the answer to an item that ended its process."""


def run(job: Job[Item, Answer], items: Iterable[Item], n_workers: int) -> Iterator[list[Answer]]:
    """Yield the answers to `items` in lists, in order.

    The processes start when the first answer is asked for, and end when the iterator does, however
    that is.

    Raises:
        InputError: a process cannot be started.
    """
    workers = [Worker(job) for _ in range(n_workers)]
    idle = [*workers]  # one for each thread

    def answer(chunk: list[Item]) -> list[Answer]:
        worker = idle.pop()
        try:
            return worker.answer(chunk)
        finally:
            idle.append(worker)

    pool, pending = ThreadPoolExecutor(n_workers), deque[Future[list[Answer]]]()
    try:
        for chunk in _chunks(items, n_workers, job.largest):
            pending.append(pool.submit(answer, chunk))
            if len(pending) > 2 * n_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for worker in workers:
            worker.stop()
        pool.shutdown(cancel_futures=True)
        for worker in workers:  # one may have been starting its process anew
            worker.close()


def _chunks(items: Iterable[Item], n_workers: int, largest: int) -> Iterator[list[Item]]:
    """Yield `items` in lists, short ones first: a few large pictures keep every worker busy."""
    left = iter(items)
    for n_before in itertools.count():
        chunk = list(itertools.islice(left, min(largest, 1 + n_before // (2 * n_workers))))
        if not chunk:
            return
        yield chunk


class Worker(Generic[Item, Answer]):
    """A process that answers, started when it is needed and again when one ended it."""

    def __init__(self, job: Job[Item, Answer]) -> None:
        self._job = job
        self._task = json.dumps({"path": sys.path, "module": job.module, **job.task})
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def answer(self, items: Sequence[Item], *, again: bool = True) -> list[Answer]:
        """Answer `items`; what stands for one that ends the process comes from the job.

        again: try what may have ended it once more, alone: it may have been killed for another.
        """
        found: list[Answer] = []
        while len(found) < len(items) and not self._is_stopped:
            left = items[len(found) :]
            self._process = process = self._process or _start(self._task)
            answers = list(self._ask(process, left))
            found += answers
            if len(answers) < len(left):
                self._process = None
                why = _end(process)
                if again:
                    suspects = left[len(answers) :][: 1 if answers else None]
                    tried = (self.answer([item], again=False) for item in suspects)
                    found += itertools.chain.from_iterable(tried)
                else:
                    found.append(self._job.crashed(left[0], why))
        return found

    def stop(self) -> None:
        """End the process at once: it holds nothing that could be lost."""
        self._is_stopped = True
        if self._process:
            self._process.kill()

    def close(self) -> None:
        """End the process and free what it held, when nobody reads from it any more."""
        self.stop()
        if self._process:
            _end(self._process)

    def _ask(self, process: "subprocess.Popen[bytes]", items: Sequence[Item]) -> Iterator[Answer]:
        assert process.stdin
        assert process.stdout
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(self._job.ask(items)).encode() + b"\n")
            process.stdin.flush()
        return self._job.read(process.stdout, items)


def _start(task: str) -> "subprocess.Popen[bytes]":
    """Start a process, and wait until it has imported what it needs."""
    command, pipe = [sys.executable, "-P", "-c", START, task], subprocess.PIPE
    try:
        process = subprocess.Popen(  # noqa: S603 - this interpreter
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=os.environ | ONE_THREAD
        )
        assert process.stdout
        if process.stdout.read(1):
            return process
        failed = _end(process)
    except OSError as error:
        failed = str(error.strerror)
    raise InputError(
        f"a process that opens pictures cannot be started: {failed}",
        expected="this Python to run in another process",
        next_step="check memory and permissions on this machine",
    )


def _end(process: "subprocess.Popen[bytes]") -> str:
    """End `process`, free what it held, and return in a few words why it ended by itself."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)  # it may be on its way, or astray
    process.kill()
    assert process.stderr
    words = process.stderr.read().decode(errors="replace").splitlines()
    with contextlib.suppress(BrokenPipeError), process:  # waits, and closes the pipes
        pass
    if process.returncode < 0:
        return signal.strsignal(-process.returncode) or f"signal {-process.returncode}"
    return words[-1] if words else f"exit {process.returncode}"
