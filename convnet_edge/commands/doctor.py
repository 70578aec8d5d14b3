"""`doctor`: the known traps of this environment, and the one command that mends each; run nothing.

Packages are judged by their metadata; what may crash when imported is imported in a process of its
own.
"""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .. import __version__
from ..runtime.errors import CheckFailedError
from .terminal import Done, Terminal

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PROBE_S = 120
IMPORT = "import onnxruntime; print(onnxruntime.__version__)"
CUDA = (
    "import contextlib, io, onnxruntime\n"
    "from convnet_edge.runtime import providers\n"
    "with contextlib.redirect_stdout(io.StringIO()):\n"
    "    getattr(onnxruntime, 'preload_dlls', lambda: None)()\n"
    "print(providers.missing_part(onnxruntime, 'cuda') or '')"
)


@dataclass(frozen=True)
class Finding:
    """One trap, looked for. found: what is here. why: what it breaks. command: what mends it."""

    name: str
    status: Literal["ok", "problem", "unknown"]
    found: str
    why: str = ""
    command: str | None = None

    def line(self) -> str:
        """Return the finding as people read it."""
        mark = {"ok": "✓", "problem": "x", "unknown": "?"}[self.status]
        mend = f"mend: {self.command}" if self.command else ""
        return "; ".join(filter(None, (f"[{mark}] {self.name}: {self.found}", self.why, mend)))


def command(terminal: Terminal) -> Done:
    """Find the known traps of this environment; print what mends each, run nothing."""
    from ..runtime.measure import machine

    findings = diagnose()
    healthy = all(finding.status != "problem" for finding in findings)
    terminal.say(*(finding.line() for finding in findings))
    document: dict[str, Any] = {
        "schema": "convnet-edge/doctor/1",
        "convnet_edge": __version__,
        "healthy": healthy,
        "findings": [asdict(finding) for finding in findings],
        "machine": machine.passport(),
    }
    return Done(document, exit_code=0 if healthy else CheckFailedError.exit_code)


def diagnose() -> tuple[Finding, ...]:
    """Look for every known trap; takes a few seconds."""
    looks = (_builds, _import, _cuda, _torchvision, _onnxscript, _threads, _quota)
    return tuple(finding for look in looks for finding in look())


def _judge(name: str, fits: bool, *, found: str, why: str, mend: str) -> Finding:
    return Finding(name, "ok", found) if fits else Finding(name, "problem", found, why, mend)


def _version(package: str) -> str | None:
    from importlib import metadata

    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _probe(code: str) -> subprocess.CompletedProcess[str] | None:
    """Run `code` in a fresh Python with this one's packages; None if it does not answer."""
    whole = f"import sys; sys.path[:] = {sys.path!r}\n{code}"
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(  # noqa: S603 - this interpreter, code of this file
            [sys.executable, "-c", whole], capture_output=True, text=True, timeout=PROBE_S
        )
    return None


def _builds() -> Iterator[Finding]:
    from ..runtime.providers import BUILDS

    installed = {name: version for name in BUILDS if (version := _version(name))}
    found = " and ".join(f"{name} {version}" for name, version in installed.items())
    mend = f'pip install "convnet-edge[{"cuda" if "onnxruntime-gpu" in installed else "cpu"}]"'
    why = "nothing can be run"
    if installed:
        mend = f"pip uninstall -y {' '.join(installed)} && {mend}"
        why = "they overwrite each other's files, and the CPU may run in CUDA's place"
        why += " (onnxruntime issue 26996)"
    fits, found = len(installed) == 1, found or "none is installed"
    yield _judge("one onnxruntime", fits, found=found, why=why, mend=mend)


def _import() -> Iterator[Finding]:
    from ..runtime.session import ONNXRUNTIME_EXPORT_TARGET

    name, done = "onnxruntime can be imported", _probe(IMPORT)
    if done is None:
        yield Finding(name, "unknown", f"no answer within {PROBE_S} s")
    elif done.returncode == 0:
        version = done.stdout.strip()
        fits = _numbers(version) >= _numbers(ONNXRUNTIME_EXPORT_TARGET)
        why = f"files need {ONNXRUNTIME_EXPORT_TARGET}"
        mend = "pip install --upgrade onnxruntime"
        yield _judge(name, fits, found=f"version {version}", why=why, mend=mend)
    else:
        code = done.returncode
        ended = f"signal {-code}" if code < 0 else f"exit {code}"
        words = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
        why = (
            "an illegal instruction means a build for newer processors (onnxruntime issue 23957), "
            "'_ARRAY_API' one for another numpy"
        )
        mend = "pip install --force-reinstall onnxruntime numpy"
        yield Finding(name, "problem", f"{ended}: {words}", why, mend)


def _cuda() -> Iterator[Finding]:
    if not _version("onnxruntime-gpu"):
        return
    name, done = "CUDA's libraries", _probe(CUDA)
    if done is None or done.returncode != 0:
        yield Finding(name, "unknown", "could not be looked for, see above")
        return
    missing, mend = done.stdout.strip(), "install the NVIDIA driver"
    if "libcuda.so" not in missing and "no NVIDIA device" not in missing:
        mend = 'pip install --force-reinstall "onnxruntime-gpu[cuda,cudnn]"'
    why = "--provider cuda cannot be opened (onnxruntime issue 23372)"
    yield _judge(name, not missing, found=missing or "all load", why=why, mend=mend)


def _torchvision() -> Iterator[Finding]:
    from importlib import metadata

    torch, vision = _version("torch"), _version("torchvision")
    if not torch or not vision:
        return
    (release, _, build), other = torch.partition("+"), vision.partition("+")[2]
    pin = re.search(r"\btorch\s*\(?==\s*([\w.]+)", " ".join(metadata.requires("torchvision") or ()))
    fits = pin is None or pin[1] in (release, torch)
    fits = fits and (not build or not other or build == other)
    found = f"torch {torch}, torchvision {vision}"
    why = "`import torchvision` ends in `operator torchvision::nms does not exist`"
    mend = "pip install --upgrade torch torchvision"
    yield _judge("torch and torchvision fit", fits, found=found, why=why, mend=mend)


def _onnxscript() -> Iterator[Finding]:
    torch, script = _version("torch"), _version("onnxscript")
    if torch:
        fits = bool(script) or _numbers(torch) < (2, 9)
        found = f"torch {torch}, onnxscript {script}"
        why = "torch's default exporter needs it from 2.9 on (anomalib issue 3050)"
        mend = "pip install onnxscript"
        yield _judge("torch's exporter", fits, found=found, why=why, mend=mend)


def _threads() -> Iterator[Finding]:
    from ..runtime.measure.machine import usable_cores

    cores = usable_cores()
    for name in filter(os.environ.__contains__, THREAD_VARIABLES):
        text = os.environ[name]
        counts = text.split(",")  # OMP_NUM_THREADS may hold one count a nesting level
        found = f"{text!r}; this process may use {cores} cores"
        if all(count.strip().isdigit() and int(count) > 0 for count in counts):
            why = "threads that wait for each other's cores: slower and unsteady"
            fits, mend = int(counts[0]) <= cores, f"export {name}={cores}"
        else:
            why = "it is ignored, or ends the program"
            fits, mend = False, f"unset {name}"
        yield _judge(name, fits, found=found, why=why, mend=mend)


def _quota() -> Iterator[Finding]:
    from ..runtime.measure import machine

    quota = machine.cgroup_cores()
    found = f"{machine.usable_cores()} of {os.cpu_count()}"
    found += f"; a quota of {quota:g} cores" if quota is not None else ""
    why = "every run is stopped for part of each period: times are those of the quota"
    mend = "give the container --cpus 1 or more"
    fits = quota is None or quota >= 1
    yield _judge("cores allowed", fits, found=found, why=why, mend=mend)


def _numbers(version: str) -> tuple[int, ...]:
    """Return the first two numbers in a text, which compare as versions do."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
