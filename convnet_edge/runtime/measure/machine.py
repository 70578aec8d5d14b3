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
ARM_PARTS = {  # of implementer 0x41, as util-linux's lscpu names them
    "0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72", "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1", "0xd40": "Neoverse-V1", "0xd41": "Cortex-A78", "0xd49": "Neoverse-N2",
}  # fmt: skip


def usable_cores() -> int:
    """Return how many cores this process may really use: affinity, then the cgroup's quota."""
    cores = len(_affinity() or ()) or os.cpu_count() or 1
    return max(1, min(cores, int(cgroup_cores() or cores)))


def cgroup_cores(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the CPU quota of the cgroup (v2, else v1) in cores, None where there is none."""
    first_version = root / "cpu/cpu.cfs_quota_us", root / "cpu/cpu.cfs_period_us"
    text = _read(root / "cpu.max") or " ".join(_read(path) or "" for path in first_version)
    with contextlib.suppress(ValueError, ZeroDivisionError):
        quota, period = map(int, text.split())
        return quota / period if quota > 0 else None
    return None


def passport() -> dict[str, Any]:
    """Return what a reader needs to judge a measurement made here: `result.Machine`, as JSON."""
    info, memory = _key_values(Path("/proc/cpuinfo")), _key_values(Path("/proc/meminfo"))
    found = {
        "cpu": info.get("model name")
        or _read(Path("/proc/device-tree/model"))
        or ARM_PARTS.get(info.get("CPU part", ""))
        or (None if info else platform.processor() or None),
        "architecture": platform.machine(),
        "isa": sorted(set(info.get("flags", info.get("Features", "")).split()) & ISA_FLAGS),
        "cores": os.cpu_count(),
        "affinity": _affinity(),
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
    return [_key_values(file).get("Model", "unknown") for file in files]


def versions(packages: Iterable[str] = VERSIONED) -> dict[str, str]:
    """Return the version of each of these that is installed, by default of all that matter."""
    from importlib import metadata  # it imports half of what email needs

    found = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def waited_ns(root: Path = Path("/proc/self/task")) -> int | None:
    """Return how long the threads of this process have waited for a core; None where unknown.

    Nanoseconds, summed over the threads that live: the second field of the kernel's schedstat.
    """
    texts = [text for file in root.glob("*/schedstat") if (text := _read(file))]
    return sum(int(text.split()[1]) for text in texts) if texts else None


def mapped_gpu_libraries() -> list[str]:
    """Return the CUDA libraries that this process has really mapped, by real file name."""
    paths = {line.split()[-1] for line in (_read(Path("/proc/self/maps")) or "").splitlines()}
    names = {Path(os.path.realpath(path)).name for path in paths if path.startswith("/")}
    return sorted(name for name in names if name.startswith(MAPPED_LIBRARIES))


def peak_memory_bytes() -> int | None:
    """Return the largest resident set of this process so far; None where it is not kept.

    On Linux from /proc: `ru_maxrss` there starts at the size of the process that forked this one.
    """
    peak = _kib(_key_values(Path("/proc/self/status")).get("VmHWM"))
    if peak is None and _resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = _resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss * unit
    return peak


def _affinity() -> list[int] | None:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


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


def _key_values(path: Path) -> dict[str, str]:
    """Parse a file of `key : value` lines; the first of each key counts."""
    pairs = [line.split(":", 1) for line in (_read(path) or "").splitlines() if ":" in line]
    return {key.strip(): value.strip() for key, value in reversed(pairs)}
