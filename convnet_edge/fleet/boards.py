"""Run a bundle's commands on many machines at once, on each of them one after the other.

A machine that fails stops no other.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from ..runtime.errors import CheckFailedError, EdgeError, InputError, first_line
from .ssh import Connection

PACKAGES = ("numpy", "onnxruntime")
OLDEST = (3, 10)
ROOM = 3  # times the bundle
Step = Callable[[str, str], None]


@dataclass(frozen=True)
class Visit:
    """What one machine said.

    answers: the JSON of each command. error: why there are not all. kept: files made of them here.
    """

    host: str
    answers: tuple[dict[str, Any], ...] = ()
    error: EdgeError | None = None
    kept: tuple[Path, ...] = ()


def visit(
    hosts: Sequence[str],
    bundle: bytes,
    commands: Sequence[Sequence[str]],
    *,
    step: Step = lambda *_: None,
    ssh: Sequence[str] = (),
) -> list[Visit]:
    """Send `bundle` to each host unless it is there, and run its commands there, up to a failure.

    commands: arguments of the .pyz that print JSON. step: hears of a host what it does. ssh: more
    options of that program.
    """

    def one(host: str) -> Visit:
        answers: list[dict[str, Any]] = []
        try:
            with Connection(host, ssh) as machine:
                _go(machine, bundle, commands, answers, lambda text: step(host, text))
        except EdgeError as error:
            return Visit(host, tuple(answers), error)
        return Visit(host, tuple(answers))

    with ThreadPoolExecutor(max(1, len(hosts))) as pool:
        return list(pool.map(one, hosts))


def _go(
    machine: Connection,
    bundle: bytes,
    commands: Sequence[Sequence[str]],
    answers: list[dict[str, Any]],
    step: Callable[[str], None],
) -> None:
    sha256 = hashlib.sha256(bundle).hexdigest()
    step("looking")
    found = machine.ask("probe", sha256=sha256, packages=list(PACKAGES))
    try:
        _require_fit(machine.host, found, len(bundle))
    except (KeyError, TypeError, ValueError) as error:
        raise _nonsense(machine.host, error) from error
    if not found["has"]:
        step(f"sending {len(bundle) / 1e6:.1f} MB")
        machine.ask("put", bundle, sha256=sha256)
    step("proving, then measuring")
    ran = machine.ask("run", sha256=sha256, commands=[list(one) for one in commands])
    if ran.get("busy"):
        raise InputError(
            f"{machine.host} is measured by somebody else",
            expected="one at a time: two disturb each other",
            next_step="wait for it",
        )
    try:
        for arguments, done in zip(commands, ran["ran"], strict=False):
            if done["code"]:
                raise _failed(machine.host, arguments, done)
            answers.append(json.loads(done["said"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _nonsense(machine.host, error) from error


def _require_fit(host: str, found: dict[str, Any], n_bytes: int) -> None:
    """Raise an InputError unless the bundle can run there, and be kept there."""
    version = ".".join(map(str, found["python"]))
    if tuple(found["python"]) < OLDEST:
        raise InputError(
            f"{host} has Python {version}",
            expected=f"{'.'.join(map(str, OLDEST))} or newer",
            next_step="install it there, as python3",
        )
    if found["missing"]:
        raise InputError(
            f"{host} lacks {' and '.join(found['missing'])} for {found['program']}",
            expected="what the bundle runs on",
            next_step=f"there: {found['program']} -m pip install {' '.join(found['missing'])}",
        )
    if not found["has"] and found["free_bytes"] < ROOM * n_bytes:
        raise InputError(
            f"{host} has {found['free_bytes'] / 1e6:.1f} MB free",
            expected=f"{ROOM * n_bytes / 1e6:.1f} MB",
            next_step="free some space there",
        )


def _failed(host: str, arguments: Sequence[str], done: dict[str, Any]) -> EdgeError:
    """Return the error of a command that failed there."""
    words = [line for line in str(done["aside"]).splitlines() if line.strip()]
    what = words[-1][:300] if words else f"exit {done['code']}"
    kind = CheckFailedError if done["code"] == CheckFailedError.exit_code else InputError
    if kind is CheckFailedError and arguments[0] == "selftest":
        with contextlib.suppress(ValueError, KeyError, TypeError):
            models = json.loads(done["said"])["models"]
            failed = (f"{one['name']}: {one['refused']}" for one in models if not one["passed"])
            what = "; ".join(failed)[:300]
        return CheckFailedError(
            f"{host} does not pass the self-test, and is not timed: {what}",
            expected="the golden vectors, as everywhere",
            next_step="do not deploy there; look at its onnxruntime",
        )
    return kind(
        f"{host}: {arguments[0]} failed: {what}",
        expected="it to come through",
        next_step=f"try it there: ssh {quote(host)}",
    )


def _nonsense(host: str, error: Exception) -> InputError:
    return InputError(
        f"{host} answers nonsense: {first_line(error)}",
        expected="the JSON of its bundle",
        next_step="see what its python3 is",
    )
