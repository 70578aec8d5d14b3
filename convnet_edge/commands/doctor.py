"""`doctor`: the known traps of this environment, and the one command that mends each; run nothing.

Packages are judged by their metadata; what may crash when imported is imported in a process of its
own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import __version__
from ..runtime.errors import CheckFailedError
from .terminal import Done, Terminal

if TYPE_CHECKING:
    from importlib.metadata import Distribution

BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
OLDEST = (1, 16)  # onnxruntime that opens our files
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


@dataclass(frozen=True)
class Surroundings:
    """What is looked at. path: where packages are searched; cgroup: its root folder."""

    path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    cgroup: Path = Path("/sys/fs/cgroup")

    def version(self, package: str) -> str | None:
        """Return the version of an installed package, None without it."""
        found = self.distribution(package)
        return found.version if found else None

    def distribution(self, package: str) -> Distribution | None:
        """Return the metadata of an installed package, None without it."""
        from importlib import metadata

        return next(iter(metadata.distributions(name=package, path=list(self.path))), None)

    def probe(self, code: str) -> subprocess.CompletedProcess[str] | None:
        """Run `code` in a fresh Python with these packages; None if it does not answer."""
        whole = f"import sys; sys.path[:] = {list(self.path)!r}\n{code}"
        command = [sys.executable, "-c", whole]
        try:
            return subprocess.run(  # noqa: S603 - this interpreter, code of this file
                command, capture_output=True, text=True, timeout=PROBE_S, check=False
            )
        except subprocess.TimeoutExpired:
            return None


def command(terminal: Terminal) -> Done[tuple[Finding, ...]]:
    """Find the known traps of this environment; print what mends each, run nothing."""
    from ..runtime.measure import machine

    findings = diagnose(Surroundings())
    healthy = all(finding.status != "problem" for finding in findings)
    terminal.say(*(finding.line() for finding in findings))
    document: dict[str, Any] = {
        "schema": "convnet-edge/doctor/1",
        "convnet_edge": __version__,
        "healthy": healthy,
        "findings": [asdict(finding) for finding in findings],
        "machine": machine.passport(),
    }
    return Done(findings, document, exit_code=0 if healthy else CheckFailedError.exit_code)


def diagnose(here: Surroundings) -> tuple[Finding, ...]:
    """Look for every known trap; takes a few seconds."""
    looks = (_builds, _import, _cuda, _torchvision, _onnxscript, _threads, _quota)
    return tuple(finding for look in looks for finding in look(here))


def _judge(name: str, fits: bool, *, found: str, why: str, mend: str) -> Finding:
    return Finding(name, "ok", found) if fits else Finding(name, "problem", found, why, mend)


def _builds(here: Surroundings) -> Iterator[Finding]:
    names = [name for name in BUILDS if here.version(name)]
    found = " and ".join(f"{name} {here.version(name)}" for name in names) or "none is installed"
    mend = f'pip install "convnet-edge[{"cuda" if "onnxruntime-gpu" in names else "cpu"}]"'
    why = "nothing can be run"
    if names:
        mend = f"pip uninstall -y {' '.join(names)} && {mend}"
        why = "they overwrite each other's files, and the CPU may run in CUDA's place"
        why += " (onnxruntime issue 26996)"
    yield _judge("one onnxruntime", len(names) == 1, found=found, why=why, mend=mend)


def _import(here: Surroundings) -> Iterator[Finding]:
    from ..runtime.session import ONNXRUNTIME_EXPORT_TARGET

    name, done = "onnxruntime can be imported", here.probe(IMPORT)
    if done is None:
        yield Finding(name, "unknown", f"no answer within {PROBE_S} s")
    elif done.returncode == 0:
        version = done.stdout.strip()
        fits, why = _numbers(version) >= OLDEST, f"files need {ONNXRUNTIME_EXPORT_TARGET}"
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


def _cuda(here: Surroundings) -> Iterator[Finding]:
    if not here.version("onnxruntime-gpu"):
        return
    name, done = "CUDA's libraries", here.probe(CUDA)
    if done is None or done.returncode != 0:
        yield Finding(name, "unknown", "could not be looked for, see above")
        return
    missing, mend = done.stdout.strip(), "install the NVIDIA driver"
    if "libcuda.so" not in missing and "no NVIDIA device" not in missing:
        mend = 'pip install --force-reinstall "onnxruntime-gpu[cuda,cudnn]"'
    why = "--provider cuda cannot be opened (onnxruntime issue 23372)"
    yield _judge(name, not missing, found=missing or "all load", why=why, mend=mend)


def _torchvision(here: Surroundings) -> Iterator[Finding]:
    torch, vision = here.version("torch"), here.distribution("torchvision")
    if not torch or not vision:
        return
    (release, _, build), other = torch.partition("+"), vision.version.partition("+")[2]
    pin = re.search(r"\btorch\s*\(?==\s*([\w.]+)", " ".join(vision.requires or ()))
    fits = pin is None or pin[1] in (release, torch)
    fits = fits and (not build or not other or build == other)
    found = f"torch {torch}, torchvision {vision.version}"
    why = "`import torchvision` ends in `operator torchvision::nms does not exist`"
    mend = "pip install --upgrade torch torchvision"
    yield _judge("torch and torchvision fit", fits, found=found, why=why, mend=mend)


def _onnxscript(here: Surroundings) -> Iterator[Finding]:
    torch, script = here.version("torch"), here.version("onnxscript")
    if torch:
        fits, found = (
            bool(script) or _numbers(torch) < (2, 9),
            f"torch {torch}, onnxscript {script}",
        )
        why = "torch's default exporter needs it from 2.9 on (anomalib issue 3050)"
        mend = "pip install onnxscript"
        yield _judge("torch's exporter", fits, found=found, why=why, mend=mend)


def _threads(here: Surroundings) -> Iterator[Finding]:
    from ..runtime.measure.machine import usable_cores

    cores = usable_cores()
    for name in filter(here.environment.__contains__, THREAD_VARIABLES):
        text = here.environment[name]
        counts = text.split(",")  # OMP_NUM_THREADS may hold one count a nesting level
        found = f"{text!r}; this process may use {cores} cores"
        if all(count.strip().isdigit() and int(count) > 0 for count in counts):
            why = "threads that wait for each other's cores: slower and unsteady"
            fits, mend = int(counts[0]) <= cores, f"export {name}={cores}"
        else:
            why = "it is ignored, or ends the program"
            fits, mend = False, f"unset {name}"
        yield _judge(name, fits, found=found, why=why, mend=mend)


def _quota(here: Surroundings) -> Iterator[Finding]:
    from ..runtime.measure import machine

    quota = machine.cgroup_cores(here.cgroup)
    found = f"{machine.usable_cores()} of {os.cpu_count()}"
    found += f"; a quota of {quota:g} cores" if quota is not None else ""
    why = "every run is stopped for part of each period: times are those of the quota"
    mend = "give the container --cpus 1 or more"
    fits = quota is None or quota >= 1
    yield _judge("cores allowed", fits, found=found, why=why, mend=mend)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
