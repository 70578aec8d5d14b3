"""Processors that are not here: their names, features, and how Python is started on them."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
EXPORTED = REPOSITORY / "exported"
EMULATED = REPOSITORY / ".emulated"  # made by tests/project/emulated_setup.sh
TIMEOUT_S = 600


@dataclass(frozen=True)
class Cpu:
    """One emulated processor.

    has, lacks: features, in numpy's names. part, hwcaps: what Linux says of it, on arm64.
    """

    has: set[str]
    lacks: set[str]
    part: str = ""
    hwcaps: str = ""


CPUS = {
    "Haswell": Cpu({"AVX2", "FMA3"}, {"AVX512F"}),
    "cortex-a72": Cpu({"ASIMD"}, {"ASIMDDP"}, "0xd08", "fp asimd aes pmull sha1 sha2 crc32"),
    "cortex-a76": Cpu(
        {"ASIMD", "ASIMDDP"},
        {"SVE"},
        "0xd0b",
        "fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp",
    ),
}


def emulator(name: str, cpu: Cpu) -> list[str]:
    """Return the command that starts Python on the processor `name`."""
    if not cpu.part:
        return [str(EMULATED / "qemu-x86_64-static"), "-cpu", name, sys.executable]
    # qemu shows the real /proc/cpuinfo, of an x86: on that, onnxruntime crashes when imported
    entry = (
        f"Features\t: {cpu.hwcaps}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        f"CPU variant\t: 0x0\nCPU part\t: {cpu.part}\nCPU revision\t: 3\n\n"
    )
    n_cores = os.cpu_count() or 1
    text = "".join(f"processor\t: {number}\n{entry}" for number in range(n_cores))
    root = EMULATED / name  # of its own: several may run at once
    (root / "proc").mkdir(parents=True, exist_ok=True)
    (root / "proc" / "cpuinfo").write_text(text)
    for folder in (EMULATED / "system").iterdir():
        with contextlib.suppress(FileExistsError):
            (root / folder.name).symlink_to(Path("..", "system", folder.name))
    # what Python takes itself for and starts its own processes by: the system runs no arm64
    python = root / "usr" / "bin" / "python3"
    launcher = python.with_name(f"python3-{name}")
    qemu = shlex.join([str(EMULATED / "qemu-aarch64-static"), "-cpu", name, "-L", str(root)])
    launcher.write_text(f'#!/bin/sh\nexec {qemu} -0 "$0" {shlex.quote(str(python))} "$@"\n')
    launcher.chmod(0o755)
    return [str(launcher)]
