"""Find the known traps of this environment, and name the one command that mends each.

None of these commands is run. Packages are judged by their metadata; what may crash when imported
is imported in a process of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from .. import __version__
from ..runtime.measure import machine
from ..runtime.session import ONNXRUNTIME_EXPORT_TARGET

SCHEMA = "convnet-edge/doctor/1"
BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
NEEDS_ONNXSCRIPT = (2, 9)  # torch's default exporter from then on
OLDEST_ONNXRUNTIME = (1, 16)
PROBE_S = 120
IMPORT = "import onnxruntime; print(onnxruntime.__version__)"
CUDA = (
    "import contextlib, io, onnxruntime\n"
    "from convnet_edge.runtime import providers\n"
    "with contextlib.redirect_stdout(io.StringIO()):\n"
    "    getattr(onnxruntime, 'preload_dlls', lambda: None)()\n"
    "print(providers.missing_part(onnxruntime, 'cuda') or '')"
)

Status = Literal["ok", "problem", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One trap, looked for. found: what is here. why: what it breaks. command: what mends it."""

    name: str
    status: Status
    found: str
    why: str = ""
    command: str | None = None

    def line(self) -> str:
        """Return the finding as people read it."""
        mark = {"ok": "✓", "problem": "x", "unknown": "?"}[self.status]
        more = f"; {self.why}" if self.why and self.status != "ok" else ""
        mend = f"; mend: {self.command}" if self.command and self.status != "ok" else ""
        return f"[{mark}] {self.name}: {self.found}{more}{mend}"


@dataclass(frozen=True)
class Surroundings:
    """What is looked at. path: where packages are searched; cgroup: its root folder."""

    path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    cgroup: Path = Path("/sys/fs/cgroup")

    def version(self, package: str) -> str | None:
        """Return the version of an installed package, None without it."""
        found = self._distribution(package)
        return found.version if found else None

    def requirements(self, package: str) -> list[str]:
        """Return what a package asks for, as its metadata says."""
        found = self._distribution(package)
        return list(found.requires or ()) if found else []

    def _distribution(self, package: str) -> metadata.Distribution | None:
        return next(iter(metadata.distributions(name=package, path=list(self.path))), None)


@dataclass(frozen=True)
class Diagnosis:
    """All findings, in the order they were looked for."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether no trap was found."""
        return all(finding.status != "problem" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values, for a bug report."""
        return {
            "schema": SCHEMA,
            "convnet_edge": __version__,
            "healthy": self.healthy,
            "findings": [asdict(finding) for finding in self.findings],
            "machine": machine.passport(),
        }


def diagnose(here: Surroundings | None = None) -> Diagnosis:
    """Look for every known trap; takes a few seconds."""
    here = here or Surroundings()
    return Diagnosis(
        (
            _builds(here),
            _import(here),
            *_cuda(here),
            *_torchvision(here),
            *_onnxscript(here),
            *_threads(here),
            _quota(here),
        )
    )


def _builds(here: Surroundings) -> Finding:
    found = [f"{name} {version}" for name in BUILDS if (version := here.version(name))]
    name = "one onnxruntime"
    if not found:
        return Finding(
            name, "problem", "none is installed", "nothing can be run",
            'pip install "convnet-edge[cpu]"',
        )  # fmt: skip
    if len(found) == 1:
        return Finding(name, "ok", found[0])
    extra = "cuda" if here.version("onnxruntime-gpu") else "cpu"
    packages = " ".join(entry.split()[0] for entry in found)
    return Finding(
        name,
        "problem",
        " and ".join(found),
        "they overwrite each other's files, and the CPU may run in CUDA's place "
        "(onnxruntime issue 26996)",
        f'pip uninstall -y {packages} && pip install "convnet-edge[{extra}]"',
    )


def _import(here: Surroundings) -> Finding:
    name = "onnxruntime can be imported"
    done = _probe(here, IMPORT)
    if done is None:
        return Finding(name, "unknown", f"no answer within {PROBE_S} s")
    if done.returncode == 0:
        return _age(name, done.stdout.strip())
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit {done.returncode}"
    words = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
    return Finding(
        name,
        "problem",
        f"{ended}: {words}",
        "an illegal instruction means a build for newer processors (onnxruntime issue 23957), "
        "'_ARRAY_API' one for another numpy",
        "pip install --force-reinstall onnxruntime numpy",
    )


def _age(name: str, version: str) -> Finding:
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers >= OLDEST_ONNXRUNTIME:
        return Finding(name, "ok", f"version {version}")
    return Finding(
        name,
        "problem",
        f"version {version}",
        f"files need {ONNXRUNTIME_EXPORT_TARGET}",
        "pip install --upgrade onnxruntime",
    )


def _cuda(here: Surroundings) -> Iterator[Finding]:
    if not here.version("onnxruntime-gpu"):
        return
    name = "CUDA's libraries"
    done = _probe(here, CUDA)
    if done is None or done.returncode != 0:
        yield Finding(name, "unknown", "could not be looked for, see above")
    elif reason := done.stdout.strip():
        driver = "libcuda.so" in reason or "no NVIDIA device" in reason
        mend = "install the NVIDIA driver" if driver else (
            'pip install --force-reinstall "onnxruntime-gpu[cuda,cudnn]"')  # fmt: skip
        why = "--provider cuda cannot be opened (onnxruntime issue 23372)"
        yield Finding(name, "problem", reason, why, mend)
    else:
        yield Finding(name, "ok", "all load")


def _torchvision(here: Surroundings) -> Iterator[Finding]:
    torch, vision = here.version("torch"), here.version("torchvision")
    if not torch or not vision:
        return
    name, found = "torch and torchvision fit", f"torch {torch}, torchvision {vision}"
    pins = [re.search(r"^torch\s*\(?==\s*([\w.]+)", r) for r in here.requirements("torchvision")]
    wanted = next((pin[1] for pin in pins if pin), None)
    builds = [version.partition("+")[2] for version in (torch, vision)]
    fits = wanted in (None, torch.partition("+")[0], torch)
    if fits and (not all(builds) or builds[0] == builds[1]):
        yield Finding(name, "ok", found)
        return
    why = "`import torchvision` ends in `operator torchvision::nms does not exist`"
    yield Finding(name, "problem", found, why, "pip install --upgrade torch torchvision")


def _onnxscript(here: Surroundings) -> Iterator[Finding]:
    torch = here.version("torch")
    if not torch:
        return
    numbers = tuple(int(part) for part in re.findall(r"\d+", torch)[:2])
    script = here.version("onnxscript")
    if script or numbers < NEEDS_ONNXSCRIPT:
        yield Finding("torch's exporter", "ok", f"torch {torch}, onnxscript {script}")
        return
    why = "torch's default exporter needs it from 2.9 on (anomalib issue 3050)"
    found = f"torch {torch} without onnxscript"
    yield Finding("torch's exporter", "problem", found, why, "pip install onnxscript")


def _threads(here: Surroundings) -> Iterator[Finding]:
    cores = machine.usable_cores()
    for name in THREAD_VARIABLES:
        text = here.environment.get(name)
        if text is None:
            continue
        counts = text.split(",")  # OMP_NUM_THREADS may hold one count a nesting level
        if not all(count.strip().isdigit() and int(count) > 0 for count in counts):
            why = "it is ignored, or ends the program"
            yield Finding(name, "problem", repr(text), why, f"unset {name}")
        elif int(counts[0]) > cores:
            found = f"{text}, this process may use {cores} cores"
            why = "threads that wait for each other's cores: slower and unsteady"
            yield Finding(name, "problem", found, why, f"export {name}={cores}")
        else:
            yield Finding(name, "ok", f"{text} of {cores} usable cores")


def _quota(here: Surroundings) -> Finding:
    quota, cores = machine.cgroup_cores(here.cgroup), os.cpu_count() or 1
    name = "cores allowed"
    if quota is None or quota >= cores:
        return Finding(name, "ok", f"{machine.usable_cores()} of {cores}")
    if quota >= 1:
        return Finding(name, "ok", f"a quota of {quota:g} of {cores} cores, which is kept to")
    return Finding(
        name,
        "problem",
        f"a quota of {quota:g} of one core",
        "every run is stopped for part of each period: times are those of the quota",
        "give the container --cpus 1 or more",
    )


def _probe(here: Surroundings, code: str) -> subprocess.CompletedProcess[str] | None:
    """Run `code` in a fresh Python with the same packages; None if it does not answer."""
    whole = f"import sys; sys.path[:] = {list(here.path)!r}\n{code}"
    command = [sys.executable, "-c", whole]
    try:
        return subprocess.run(  # noqa: S603 - this interpreter, code of this file
            command, capture_output=True, text=True, timeout=PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None
