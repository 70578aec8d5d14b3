"""Ask another machine's Python, by the system's own ssh: its aliases, keys and policy are kept.

One connection a machine is shared by all questions. No password is asked for, no host key accepted.
Source: ssh(1), ssh_config(5).
"""

import contextlib
import inspect
import json
import secrets
import shlex
import shutil
import subprocess
import threading
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp
from types import TracebackType
from typing import Any

from ..runtime.errors import InputError, first_line
from . import agent

CONNECT_S = 10
OPTIONS = {
    "BatchMode": "yes", "ConnectTimeout": CONNECT_S, "ControlMaster": "auto", "ControlPersist": 60,
    "ServerAliveInterval": 15, "ServerAliveCountMax": 3, "ForwardAgent": "no", "ForwardX11": "no",
}  # fmt: skip
LOST, NO_PROGRAM = 255, 127  # exit codes of ssh, and of a shell
REASONS = (  # what ssh says, what was expected, what to do
    ("Host key verification failed", "a host key that this user has accepted",
     "connect once by hand, and look at the key: ssh {host}"),
    ("Permission denied", "to be let in without a password",
     "add your key there (ssh-copy-id {host}), or name it in ~/.ssh/config"),
    ("Could not resolve hostname", "a name or an alias of ~/.ssh/config", "check its name"),
)  # fmt: skip


class Connection:
    """A machine that can be asked; use it in a `with`.

    host: an alias, or user@host, as ssh takes it.
    """

    def __init__(self, host: str) -> None:
        program = shutil.which("ssh")
        if program is None:
            raise InputError(
                "no ssh is installed here",
                expected="OpenSSH's client",
                next_step="install it (Debian: openssh-client)",
            )
        self.host = host
        # a socket's path is limited to 108 bytes
        self._folder = Path(mkdtemp(prefix="ce-", dir="/tmp" if Path("/tmp").is_dir() else None))  # noqa: S108
        stated = OPTIONS | {"ControlPath": self._folder / "s"}
        options = [part for name, value in stated.items() for part in ("-o", f"{name}={value}")]
        self._command = [program, "-T", *options, "--", host]
        self._running: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def __enter__(self) -> "Connection":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        ending = [*self._command[:1], "-O", "exit", *self._command[2:]]
        subprocess.run(ending, capture_output=True, check=False)  # noqa: S603 - ssh itself
        shutil.rmtree(self._folder, ignore_errors=True)

    def stop(self) -> None:
        """Ask nothing more, and give up what is asked just now; the machine notices that."""
        self._is_stopped = True
        if self._running is not None:
            self._running.kill()

    def ask(
        self, do: str, data: bytes = b"", *, patience_s: float | None = None, **how: Any
    ) -> dict[str, Any]:
        """Let the `agent` there do one thing, with `data` on its stdin; return what it found.

        patience_s: after which it counts as lost.

        Raises:
            InputError: it cannot be reached, has no Python, or answers nonsense.
        """
        mark = secrets.token_hex(8)
        asked = {"do": do, "mark": mark, "n_bytes": len(data), **how}
        source = f"{inspect.getsource(agent)}\nmain(**{asked!r})\n".encode()
        begin = f"import sys; exec(sys.stdin.buffer.read({len(source)}))"
        remote = f"python3 -c {shlex.quote(begin)}"
        with TemporaryFile() as kept:
            with (
                contextlib.suppress(BrokenPipeError),
                subprocess.Popen(  # noqa: S603 - ssh itself
                    [*self._command, remote],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=kept,
                ) as self._running,
            ):
                said = self._talk(self._running, source + data, patience_s)
            code = LOST if self._running.returncode < 0 else self._running.returncode
            kept.seek(0)
            aside = kept.read()
        lines = said.decode(errors="replace").splitlines()
        answer = next((line for line in reversed(lines) if line.startswith(mark)), None)
        if answer is None:
            raise self._silent(code, aside.decode(errors="replace"))
        try:
            found: dict[str, Any] = dict(json.loads(answer[len(mark) :]))
        except (ValueError, TypeError) as error:
            raise self._misfit(f"answers {answer[len(mark) :][:80]!r}") from error
        if "error" in found:
            raise InputError(
                f"{self.host}: {first_line(found['error'])}",
                expected="to be able to write in the cache folder there",
                next_step="free some space there, or set XDG_CACHE_HOME",
            )
        return found

    def _talk(
        self, running: "subprocess.Popen[bytes]", words: bytes, patience_s: float | None
    ) -> bytes:
        """Say `words`, and return the answer; stdin stays open until then, as `agent` wants it."""
        assert running.stdin
        assert running.stdout
        if self._is_stopped:  # between two questions
            running.kill()
        watch = threading.Timer(patience_s or 0, running.kill)
        if patience_s:
            watch.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                running.stdin.write(words)
                running.stdin.flush()
            return running.stdout.read()
        finally:
            watch.cancel()

    def _silent(self, code: int, aside: str) -> InputError:
        """Return the error of a machine that gave no answer."""
        words = [line.strip() for line in aside.splitlines() if line.strip()]
        last = words[-1][:200] if words else f"exit {code}"
        if code == LOST:
            for said, expected, next_step in REASONS:
                if said in aside:
                    return InputError(
                        f"{self.host}: {last}",
                        expected=expected,
                        next_step=next_step.format(host=shlex.quote(self.host)),
                    )
            return InputError(
                f"{self.host} cannot be reached, or was lost: {last}",
                expected="to get there with `ssh` alone",
                next_step=f"try ssh {shlex.quote(self.host)}",
            )
        if code == NO_PROGRAM or "not found" in last:
            return InputError(
                f"{self.host} has no python3 ({last})",
                expected="Python 3.10 or newer there",
                next_step="install it there",
            )
        return self._misfit(f"gave no answer: {last}")

    def _misfit(self, found: str) -> InputError:
        return InputError(
            f"{self.host} {found}",
            expected="the answer of its Python",
            next_step=f"try ssh {shlex.quote(self.host)} python3 --version",
        )
