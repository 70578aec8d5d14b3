"""Bundle models for many machines, and run the bundle's commands on all of them at once.

On each of them one command runs after the other; a machine that fails stops no other.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import Any

from ..bundling import bundle
from ..bundling.options import BundleOptions
from ..runtime.errors import CheckFailedError, EdgeError, InputError, first_line
from .ssh import Connection

PACKAGES = {"numpy": "numpy", "onnxruntime": "onnxruntime", "PIL": "pillow"}  # how pip calls them
OLDEST = (3, 10)
ROOM = 3  # times what is sent
PATIENCE_S = 60.0  # for an answer that takes no work


@dataclass(frozen=True)
class Visit:
    """What one machine said.

    answers: the JSON of each command, also of one that failed. error: why there are not all, or of
    what failed.
    """

    host: str
    answers: tuple[Any, ...] = ()
    error: EdgeError | None = None


def require_all(visits: Sequence[Visit]) -> None:
    """Raise what ends a command if a machine gave no answer; its own error has been told.

    Raises:
        CheckFailedError: a check did not hold on one of them.
        InputError: one could not be reached, or not run it.
    """
    errors = [one.error for one in visits if one.error]
    failed = [error for error in errors if isinstance(error, CheckFailedError)]
    if errors:
        raise (CheckFailedError if failed else InputError)(
            f"{len(errors)} of {len(visits)} machines did not come through",
            expected="all of them to pass and to answer",
            next_step="mend what is said above, and name these again",
        )


def visit(
    hosts: Sequence[str],
    models: BundleOptions,
    commands: Sequence[Sequence[str]],
    *,
    files: Mapping[str, bytes] | None = None,
    step: Callable[[str], None] = lambda _: None,
) -> list[Visit]:
    """Send the bundle of `models` to each host unless it is there, and run commands of it there.

    commands: arguments of the .pyz that print JSON; the first that fails is the last. files: those
    that the commands name. step: hears what each host does.

    Raises:
        InputError: a model cannot be bundled.
        CheckFailedError: one does not pass its self-test here.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, "models.pyz")
        bundle.bundle(replace(models, out=path))
        whole = path.read_bytes()
    sent, states = _pack(files or {}), dict.fromkeys(hosts, "waiting")
    connections = {host: Connection(host) for host in hosts}

    def one(host: str) -> Visit:
        answers: list[Any] = []

        def say(text: str) -> None:
            states[host] = text
            step(", ".join(f"{name}: {what}" for name, what in states.items()))

        try:
            with connections[host] as machine:
                _go(machine, whole, sent, commands, answers, say)
        except EdgeError as error:
            return Visit(host, tuple(answers), error)
        return Visit(host, tuple(answers))

    with ThreadPoolExecutor(max(1, len(hosts))) as pool:
        try:
            return list(pool.map(one, hosts))
        finally:  # after Ctrl-C nobody waits for them any more
            for machine in connections.values():
                machine.stop()


def _pack(files: Mapping[str, bytes]) -> bytes:
    """Return a tar of `files`; nothing of none."""
    made = io.BytesIO()
    if files:
        with tarfile.open(fileobj=made, mode="w") as packed:
            for name, data in files.items():
                about = tarfile.TarInfo(name)
                about.size = len(data)
                packed.addfile(about, io.BytesIO(data))
    return made.getvalue()


def _go(
    machine: Connection,
    whole: bytes,
    sent: bytes,
    commands: Sequence[Sequence[str]],
    answers: list[Any],
    step: Callable[[str], None],
) -> None:
    needed = [name for name in PACKAGES if name != "PIL" or sent]  # which opens pictures
    sha256 = hashlib.sha256(whole).hexdigest()
    step("looking")
    found = machine.ask("probe", patience_s=PATIENCE_S, sha256=sha256, packages=needed)
    try:
        _require_fit(machine.host, found, len(whole) + len(sent))
    except (KeyError, TypeError, ValueError) as error:
        raise nonsense(machine.host, error) from error
    if not found["has"]:
        step(f"sending {len(whole) / 1e6:.1f} MB")
        machine.ask("put", whole, sha256=sha256)
    step("working")
    ran = machine.ask("run", sent, sha256=sha256, commands=[list(one) for one in commands])
    if ran.get("busy"):
        raise InputError(
            f"{machine.host} works for somebody else",
            expected="one at a time: two disturb each other's times",
            next_step="wait for it",
        )
    try:
        for arguments, done in zip(commands, ran["ran"], strict=False):
            try:
                answers.append(json.loads(done["said"]))
            except ValueError:
                if not done["code"]:
                    raise
            if done["code"]:
                raise _failed(machine.host, arguments, done)
    except (KeyError, TypeError, ValueError) as error:
        raise nonsense(machine.host, error) from error


def _require_fit(host: str, found: dict[str, Any], n_bytes: int) -> None:
    """Raise an InputError unless the bundle can run there, and be kept there."""
    version = ".".join(map(str, found["python"]))
    if tuple(found["python"]) < OLDEST:
        raise InputError(
            f"{host} has Python {version}",
            expected=f"{'.'.join(map(str, OLDEST))} or newer",
            next_step="install it there, as python3",
        )
    missing = [PACKAGES[name] for name in found["missing"]]
    if missing:
        raise InputError(
            f"{host} lacks {' and '.join(missing)} for {found['program']}",
            expected="what the bundle runs on",
            next_step=f"there: {found['program']} -m pip install {' '.join(missing)}",
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
    last = words[-1].partition("; expected ")[0] if words else f"exit {done['code']}"
    what = f"{host}: {arguments[0]}: {last.partition('.pyz: ')[2] or last}"[:300]
    if done["code"] == CheckFailedError.exit_code:
        return CheckFailedError(
            what,
            expected="what holds here to hold there",
            next_step="do not deploy there; look at its onnxruntime",
        )
    return InputError(
        what, expected="it to come through", next_step=f"try it there: ssh {quote(host)}"
    )


def nonsense(host: str, error: Exception) -> InputError:
    """Return the error of an answer that is none."""
    return InputError(
        f"{host} answers nonsense: {first_line(error)}",
        expected="the JSON of its bundle",
        next_step="see what its python3 is",
    )
