"""Say what machine and software a number was measured on; what cannot be read is None.

Reads /proc, /sys and module versions only: no subprocess, no network, nothing written.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

VERSIONED = ("numpy", "onnxruntime", "onnxruntime-gpu", "pillow", "torch", "onnx", "onnxscript")
MAPPED_LIBRARIES = ("libcuda.", "libcudart", "libcudnn.", "libcublas.", "libcublasLt", "libcufft.")

ISA_FLAGS = {
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8",
    "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve",
}  # fmt: skip


def usable_cores() -> int:
    """Return how many cores this process may really use: affinity, then the cgroup's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = cgroup_cores()
    return max(1, min(cores or 1, int(quota) if quota else cores or 1))


def cgroup_cores(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the CPU quota of the cgroup (v2, else v1) in cores, None where there is none."""
    fields = (_read(root / "cpu.max") or "").split()
    if len(fields) != 2:
        fields = [
            _read(root / "cpu/cpu.cfs_quota_us") or "-1",
            _read(root / "cpu/cpu.cfs_period_us") or "0",
        ]
    with contextlib.suppress(ValueError, ZeroDivisionError):
        quota = int(fields[0]) / int(fields[1])
        return quota if quota > 0 else None
    return None


def passport() -> dict[str, Any]:
    """Return what a reader needs to judge a measurement made here, as plain JSON values."""
    info = _key_values(_read(Path("/proc/cpuinfo")) or "")
    memory = _key_values(_read(Path("/proc/meminfo")) or "").get("MemTotal", "")
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "cpu": info.get("model name") or _read(Path("/proc/device-tree/model")) or None,
        "architecture": platform.machine(),
        "isa": sorted(set(info.get("flags", info.get("Features", "")).split()) & ISA_FLAGS),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "cgroup_cores": cgroup_cores(),
        "load_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "governor": _read(governor),
        "memory_bytes": int(memory.split()[0]) * 1024 if memory else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "gpus": gpu_names(),
        "gpu_driver": _read(Path("/sys/module/nvidia/version")),
        "versions": versions(),
    }


def gpu_names(root: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """Return the model of each NVIDIA GPU that the kernel's driver knows."""
    files = sorted(root.glob("*/information"))
    return [_key_values(_read(file) or "").get("Model", "unknown") for file in files]


def versions() -> dict[str, str]:
    """Return the version of each package that matters and is installed."""
    found = {}
    for name in VERSIONED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def mapped_gpu_libraries() -> list[str]:
    """Return the CUDA libraries that this process has really mapped, by real file name."""
    paths = {line.split()[-1] for line in (_read(Path("/proc/self/maps")) or "").splitlines()}
    names = {Path(os.path.realpath(path)).name for path in paths if path.startswith("/")}
    return sorted(name for name in names if name.startswith(MAPPED_LIBRARIES))


def peak_memory_bytes() -> int | None:
    """Return the largest resident set of this process so far; None where it is not kept.

    On Linux from /proc: `ru_maxrss` there starts at the size of the process that forked this one.
    """
    status = _key_values(_read(Path("/proc/self/status")) or "")
    if "VmHWM" in status:
        return int(status["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def _read(path: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(errors="replace").strip().strip("\0") or None
    return None


def _key_values(text: str) -> dict[str, str]:
    """Parse `key : value` lines; the first of each key counts."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    found: dict[str, str] = {}
    for key, value in pairs:
        found.setdefault(key.strip(), value.strip())
    return found
