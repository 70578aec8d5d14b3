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
from collections.abc import Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, Generic, Protocol, TypeVar

from ..runtime.errors import InputError

START = (  # it searches modules where this process does; Ctrl-C is for this one alone
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "import json, sys; module, *sys.path[:] = json.loads(sys.argv[1])\n"
    "from importlib import import_module; serve = import_module(module).serve\n"
    "task = sys.stdin.buffer.readline(); serve(json.loads(task)) if task else None"
)
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
Item = TypeVar("Item", contravariant=True)
Answers = TypeVar("Answers", bound=Sized, covariant=True)
Process = subprocess.Popen[bytes]


class Job(Protocol[Item, Answers]):
    """What the processes do.

    module: whose `serve(task)` a process runs: a byte to say that it is ready, then answers to
    each line that `ask` makes. task: what it gets, for JSON. largest: items at once.
    """

    module: str
    task: dict[str, Any]
    largest: int

    def ask(self, items: Sequence[Item]) -> Any:
        """Return what is sent for these items, for JSON."""

    def read(self, stream: IO[bytes], items: Sequence[Item]) -> Answers:
        """Return the answers; fewer, and for the first items, if the stream ends before."""

    def crashed(self, item: Item, why: str) -> Answers:
        """Return what stands for the answer to an item that ended its process."""


@contextlib.contextmanager
def begun(module: str, n: int) -> Iterator[list[Process]]:
    """Start processes for `run` that import a job's module while its task is found out.

    Those that `run` did not take end with the block.

    Raises:
        InputError: a process cannot be started.
    """
    started = list[Process]()
    try:
        for _ in range(n):
            started.append(_launch(module))
        yield started
    finally:
        for process in started:
            process.kill()
            _end(process)


def run(
    job: Job[Item, Answers],
    items: Iterable[Item],
    n_workers: int,
    started: list[Process] | None = None,
) -> Iterator[Answers]:
    """Yield the answers to `items`, in order.

    The processes start when the first answer is asked for, if they were not `begun`, and end when
    the iterator does, however that is.

    Raises:
        InputError: a process cannot be started.
    """
    workers = [Worker(job, started.pop() if started else None) for _ in range(n_workers)]
    idle = [*workers]  # one for each thread

    def answer(chunk: list[Item]) -> list[Answers]:
        worker = idle.pop()
        try:
            return worker.answer(chunk)
        finally:
            idle.append(worker)

    pool, pending = ThreadPoolExecutor(n_workers), deque[Future[list[Answers]]]()
    try:
        for chunk in _chunks(items, n_workers, job.largest):
            pending.append(pool.submit(answer, chunk))
            if len(pending) > 2 * n_workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
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


class Worker(Generic[Item, Answers]):
    """A process that answers, started when it is needed and again when one ended it.

    begun: a process that waits for its task.
    """

    def __init__(self, job: Job[Item, Answers], begun: Process | None = None) -> None:
        self._job = job
        self._begun = begun
        self._process: Process | None = None
        self._is_stopped = False

    def answer(self, items: Sequence[Item], *, again: bool = True) -> list[Answers]:
        """Answer `items`; what stands for one that ends the process comes from the job.

        again: try what may have ended it once more, alone: it may have been killed for another.
        """
        found: list[Answers] = []
        while (left := items[sum(map(len, found)) :]) and not self._is_stopped:
            self._process = process = self._process or self._start()
            answers = self._ask(process, left)
            found.append(answers)
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
        for process in (self._begun, self._process):
            if process:
                process.kill()

    def close(self) -> None:
        """End the process and free what it held, when nobody reads from it any more."""
        self.stop()
        for process in (self._begun, self._process):
            if process:
                _end(process)

    def _start(self) -> Process:
        """Return a process that has its task, and all that it needs for it."""
        process = self._begun or _launch(self._job.module)
        self._begun = None
        _send(process, self._job.task)
        assert process.stdout
        if not process.stdout.read(1):
            raise _cannot_start(_end(process))
        return process

    def _ask(self, process: Process, items: Sequence[Item]) -> Answers:
        _send(process, self._job.ask(items))
        assert process.stdout
        return self._job.read(process.stdout, items)


def _send(process: Process, value: Any) -> None:
    assert process.stdin
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(value).encode() + b"\n")
        process.stdin.flush()


def _launch(module: str) -> Process:
    """Start a process that imports `module`, and waits for its task."""
    command = [sys.executable, "-P", "-c", START, json.dumps([module, *sys.path])]
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(  # noqa: S603 - this interpreter
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=os.environ | ONE_THREAD
        )
    except OSError as error:
        raise _cannot_start(str(error.strerror)) from error


def _cannot_start(why: str) -> InputError:
    return InputError(
        f"a process that opens pictures cannot be started: {why}",
        expected="this Python to run in another process",
        next_step="check memory and permissions on this machine",
    )


def _end(process: Process) -> str:
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
