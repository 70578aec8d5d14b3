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
from dataclasses import dataclass
from typing import Literal

import typer

from .. import __version__
from ..runtime.errors import CheckFailedError
from .terminal import Terminal

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PYTORCH = ("torch", "torchvision", "onnxscript")
PROBE_S = 120
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


def command(terminal: Terminal) -> None:
    """Find the known traps of this environment; print what mends each, run nothing."""
    from ..runtime.measure import machine

    findings = diagnose()
    healthy = all(finding.status != "problem" for finding in findings)
    terminal.say(*(finding.line() for finding in findings))
    document = {
        "schema": "convnet-edge/doctor/1",
        "convnet_edge": __version__,
        "healthy": healthy,
        "findings": findings,
        "machine": machine.passport(),
    }
    terminal.finish(document)
    if not healthy:
        raise typer.Exit(CheckFailedError.exit_code)


def diagnose() -> tuple[Finding, ...]:
    """Look for every known trap; takes a few seconds."""
    from ..runtime.measure import machine
    from ..runtime.providers import BUILDS

    builds, pytorch = machine.versions(BUILDS), machine.versions(PYTORCH)
    cuda = [_cuda()] if "onnxruntime-gpu" in builds else []
    return (_builds(builds), _import(), *cuda, *_pytorch(pytorch), *_cores())


def _judge(name: str, fits: bool, *, found: str, why: str, mend: str) -> Finding:
    return Finding(name, "ok", found) if fits else Finding(name, "problem", found, why, mend)


def _probe(code: str) -> subprocess.CompletedProcess[str] | None:
    """Run `code` in a fresh Python with this one's packages; None if it does not answer."""
    whole = f"import sys; sys.path[:] = {sys.path!r}\n{code}"
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(  # noqa: S603 - this interpreter, code of this file
            [sys.executable, "-c", whole], capture_output=True, text=True, timeout=PROBE_S
        )
    return None


def _builds(installed: dict[str, str]) -> Finding:
    found = " and ".join(f"{name} {version}" for name, version in installed.items())
    build = '"onnxruntime-gpu[cuda,cudnn]"' if "onnxruntime-gpu" in installed else "onnxruntime"
    mend = f"pip install {build}"
    why = "nothing can be run"
    if installed:
        mend = f"pip uninstall -y {' '.join(installed)} && {mend}"
        why = "they overwrite each other's files, and the CPU may run in CUDA's place"
        why += " (onnxruntime issue 26996)"
    fits, found = len(installed) == 1, found or "none is installed"
    return _judge("one onnxruntime", fits, found=found, why=why, mend=mend)


def _import() -> Finding:
    from ..runtime.session import ONNXRUNTIME_EXPORT_TARGET

    name = "onnxruntime can be imported"
    done = _probe("import onnxruntime; print(onnxruntime.__version__)")
    if done is None:
        return Finding(name, "unknown", f"no answer within {PROBE_S} s")
    if done.returncode == 0:
        version, why = done.stdout.strip(), f"files need {ONNXRUNTIME_EXPORT_TARGET}"
        fits = _numbers(version) >= _numbers(ONNXRUNTIME_EXPORT_TARGET)
        mend = "pip install --upgrade onnxruntime"
        return _judge(name, fits, found=f"version {version}", why=why, mend=mend)
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit {done.returncode}"
    words = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
    why = (
        "an illegal instruction means a build for newer processors (onnxruntime issue 23957), "
        "'_ARRAY_API' one for another numpy"
    )
    mend = "pip install --force-reinstall onnxruntime numpy"
    return Finding(name, "problem", f"{ended}: {words}", why, mend)


def _cuda() -> Finding:
    from ..runtime.providers import DRIVER_SIGNS

    name, done = "CUDA's libraries", _probe(CUDA)
    if done is None or done.returncode != 0:
        return Finding(name, "unknown", "could not be looked for, see above")
    missing, mend = done.stdout.strip(), "install the NVIDIA driver"
    if not any(sign in missing for sign in DRIVER_SIGNS):
        mend = 'pip install --force-reinstall "onnxruntime-gpu[cuda,cudnn]"'
    why = "--provider cuda cannot be opened (onnxruntime issue 23372)"
    return _judge(name, not missing, found=missing or "all load", why=why, mend=mend)


def _pytorch(installed: dict[str, str]) -> Iterator[Finding]:
    from importlib import metadata

    torch, vision, script = map(installed.get, PYTORCH)
    if torch and vision:
        (release, _, build), other = torch.partition("+"), vision.partition("+")[2]
        wanted = " ".join(metadata.requires("torchvision") or ())
        pin = re.search(r"\btorch\s*\(?==\s*([\w.]+)", wanted)
        fits = pin is None or pin[1] in (release, torch)
        fits = fits and (not build or not other or build == other)
        found = f"torch {torch}, torchvision {vision}"
        why = "`import torchvision` ends in `operator torchvision::nms does not exist`"
        mend = "pip install --upgrade torch torchvision"
        yield _judge("torch and torchvision fit", fits, found=found, why=why, mend=mend)
    if torch:
        fits = bool(script) or _numbers(torch) < (2, 9)
        found = f"torch {torch}, onnxscript {script}"
        why = "torch's default exporter needs it from 2.9 on (anomalib issue 3050)"
        yield _judge("torch's exporter", fits, found=found, why=why, mend="pip install onnxscript")


def _cores() -> Iterator[Finding]:
    from ..runtime.measure import machine

    cores, quota = machine.usable_cores(), machine.cgroup_cores()
    for name in filter(os.environ.__contains__, THREAD_VARIABLES):
        text = os.environ[name]
        counts = text.split(",")  # OMP_NUM_THREADS may hold one count a nesting level
        found = f"{text!r}; this process may use {cores} cores"
        if all(count.strip().isdigit() and int(count) > 0 for count in counts):
            why = "threads that wait for each other's cores: slower and unsteady"
            fits, mend = int(counts[0]) <= cores, f"export {name}={cores}"
        else:
            why, fits, mend = "it is ignored, or ends the program", False, f"unset {name}"
        yield _judge(name, fits, found=found, why=why, mend=mend)
    found = f"{cores} of {os.cpu_count()}"
    found += f"; a quota of {quota:g} cores" if quota else ""
    why = "every run is stopped for part of each period: times are those of the quota"
    mend = "give the container --cpus 1 or more"
    yield _judge("cores allowed", not quota or quota >= 1, found=found, why=why, mend=mend)


def _numbers(version: str) -> tuple[int, ...]:
    """Return the first two numbers in a text, which compare as versions do."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
