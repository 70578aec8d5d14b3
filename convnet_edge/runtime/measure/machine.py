"""Say what machine and software a number was measured on; what cannot be read is None.

Reads /proc, /sys and package metadata only: no subprocess, no network, nothing written.
"""

import contextlib
import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

try:
    import resource as _resource
except ImportError:  # Windows
    _resource = None  # type: ignore[assignment]

VERSIONED = (
    "numpy", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "pillow", "torch", "onnx",
    "onnxscript",
)  # fmt: skip
MAPPED_LIBRARIES = ("libcuda.", "libcudart", "libcudnn.", "libcublas.", "libcublasLt", "libcufft.")

CPU_DIR = Path("/sys/devices/system/cpu")
ID_PARTS = (
    "cpu", "architecture", "isa", "usable_cores", "cgroup_cores", "governor", "smt", "container",
    "gpus", "gpu_driver",
)  # fmt: skip
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
    """Return what a reader needs to judge a measurement made here, as plain JSON values.

    id: of what makes two machines' times comparable (`ID_PARTS`); load, temperature, clock and
    software are stated beside it.
    """
    info = _key_values(_read(Path("/proc/cpuinfo")) or "")
    memory = _key_values(_read(Path("/proc/meminfo")) or "")
    found = {
        "cpu": info.get("model name")
        or _read(Path("/proc/device-tree/model"))
        or (None if info else platform.processor() or None),
        "architecture": platform.machine(),
        "isa": sorted(set(info.get("flags", info.get("Features", "")).split()) & ISA_FLAGS),
        "cores": os.cpu_count(),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "usable_cores": usable_cores(),
        "cgroup_cores": cgroup_cores(),
        "governor": _read(CPU_DIR / "cpu0/cpufreq/scaling_governor"),
        "smt": {"0": False, "1": True}.get(_read(CPU_DIR / "smt/active") or ""),
        "clock_mhz": clock_mhz(),
        "temperature_c": temperature_c(),
        "load_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "memory_bytes": _kib(memory.get("MemTotal")),
        "memory_available_bytes": _kib(memory.get("MemAvailable")),
        "system": f"{platform.system()} {platform.release()}",
        "container": container(),
        "python": platform.python_version(),
        "gpus": gpu_names(),
        "gpu_driver": _read(Path("/sys/module/nvidia/version")),
        "versions": versions(),
    }
    text = json.dumps([found[part] for part in ID_PARTS])
    return {"id": hashlib.sha256(text.encode()).hexdigest()[:16], **found}


def clock_mhz(root: Path = CPU_DIR) -> float | None:
    """Return the highest clock of any core at this moment, None where it cannot be read."""
    return _highest(root.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))


def temperature_c(root: Path = Path("/sys/class/thermal")) -> float | None:
    """Return the temperature of the hottest thermal zone, None where there is none to read."""
    return _highest(root.glob("thermal_zone*/temp"))


def container(root: Path = Path("/")) -> str | None:
    """Return what kind of container this process runs in, None if it seems to be in none."""
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    groups = _read(root / "proc/1/cgroup") or ""
    return next((kind for kind in ("kubepods", "docker", "lxc") if kind in groups), None)


def involuntary_switches() -> int | None:
    """Return how often the kernel has taken a core from a thread of this process; None unknown."""
    return _resource.getrusage(_resource.RUSAGE_SELF).ru_nivcsw if _resource else None


def gpu_names(root: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """Return the model of each NVIDIA GPU that the kernel's driver knows."""
    files = sorted(root.glob("*/information"))
    return [_key_values(_read(file) or "").get("Model", "unknown") for file in files]


def versions(packages: tuple[str, ...] = VERSIONED) -> dict[str, str]:
    """Return the version of each of `packages` that is installed, by default those that matter."""
    found = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def waited_ns(root: Path = Path("/proc/self/task")) -> int | None:
    """Return how long the threads of this process have waited for a core; None where unknown.

    Nanoseconds, summed over the threads that live: the second field of the kernel's schedstat.
    """
    texts = [_read(file) for file in root.glob("*/schedstat")]
    with contextlib.suppress(ValueError, IndexError):
        return sum(int(text.split()[1]) for text in texts if text) if any(texts) else None
    return None


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
    if _resource is None:
        return None
    peak = _resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def _read(path: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(errors="replace").strip().strip("\0") or None
    return None


def _highest(paths: Iterable[Path]) -> float | None:
    """Return the largest of the numbers in the files, thousandths as the kernel writes them."""
    found = []
    for path in paths:
        with contextlib.suppress(ValueError):
            found.append(float(_read(path) or "") / 1e3)
    return max(found, default=None)


def _kib(text: str | None) -> int | None:
    return int(text.split()[0]) * 1024 if text else None


def _key_values(text: str) -> dict[str, str]:
    """Parse `key : value` lines; the first of each key counts."""
    pairs = [line.split(":", 1) for line in text.splitlines() if ":" in line]
    return {key.strip(): value.strip() for key, value in reversed(pairs)}
