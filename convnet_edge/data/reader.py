"""Open many pictures in as many processes as there are cores, in order and in bounded memory.

The processes are plain ones that speak on pipes: multiprocessing's import a user's script again,
and start without end where it has no `__main__` guard. What is done with a picture is the worker's
business, what is kept of it the cache's.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice

from ..runtime.errors import InputError
from ..runtime.files import MIB
from ..runtime.measure.machine import usable_cores
from ..runtime.pictures.preprocess import Preprocessing
from .worker import Opened

START = (  # it searches modules where this process does; Ctrl-C is for this one alone
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "import json, sys; task = json.loads(sys.argv[1]); sys.path[:] = task['path']\n"
    "from convnet_edge.data.worker import serve; serve(task)"
)
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
MAX_CHUNK, MAX_CHUNK_BYTES = 32, 4 * MIB  # of pictures on their way to or from a worker


def read(paths: Iterable[str], how: Preprocessing) -> Iterator[Opened]:
    """Yield what each of `paths` holds, in order; a picture that cannot be opened stops no other.

    The processes start when the first picture is asked for, and end when the iterator does, however
    that is.

    Raises:
        InputError: a process cannot be started.
    """
    n_workers = usable_cores()
    workers = [_Worker(how) for _ in range(n_workers)]
    idle = [*workers]  # one for each thread

    def read_chunk(chunk: list[str]) -> list[Opened]:
        worker = idle.pop()
        try:
            return worker.read(chunk)
        finally:
            idle.append(worker)

    pool, pending = ThreadPoolExecutor(n_workers), deque[Future[list[Opened]]]()
    largest = max(1, min(MAX_CHUNK, MAX_CHUNK_BYTES // math.prod(how.shape)))
    try:
        for chunk in _chunks(paths, n_workers, largest):
            pending.append(pool.submit(read_chunk, chunk))
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


def _chunks(paths: Iterable[str], n_workers: int, largest: int) -> Iterator[list[str]]:
    """Yield `paths` in lists, short ones first: a few large pictures keep every worker busy."""
    left = iter(paths)
    for n_before in count():
        chunk = list(islice(left, min(largest, 1 + n_before // (2 * n_workers))))
        if not chunk:
            return
        yield chunk


class _Worker:
    """A process that opens pictures, started when it is needed and again when one ended it."""

    def __init__(self, how: Preprocessing) -> None:
        self._shape = how.shape
        self._task = json.dumps({"how": how.document(), "path": sys.path})
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def read(self, paths: Sequence[str]) -> list[Opened]:
        """Open `paths`; one that ends the process has the error, and those behind it go on."""
        found: list[Opened] = []
        while len(found) < len(paths) and not self._is_stopped:
            self._process = self._process or _start(self._task)
            found += self._ask(self._process, paths[len(found) :])
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

    def _ask(self, process: "subprocess.Popen[bytes]", paths: Sequence[str]) -> Iterator[Opened]:
        """Yield what `process` finds of each of `paths`, up to one that ends it."""
        assert process.stdin
        assert process.stdout
        with contextlib.suppress(BrokenPipeError):
            names = json.dumps([os.fspath(path) for path in paths])
            process.stdin.write(names.encode() + b"\n")
            process.stdin.flush()
        for path in paths:
            if (opened := Opened.read(process.stdout, self._shape)) is None:
                self._process = None
                error = InputError(
                    f"{path}: its decoder crashed ({_end(process)})",
                    expected="a whole picture",
                    next_step="save it again, or name another",
                )
                yield Opened(error=error)
                return
            yield opened


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
