"""Name onnxruntime's providers, and find out truly why one cannot be opened here.

onnxruntime logs the reason, or hides it, and runs on the CPU (onnxruntime issues 23372, 17801);
`get_available_providers()` says only what was compiled in. Opening is the session's business.
"""

import ctypes
import re
import sys
from pathlib import Path
from typing import Any

from .errors import InputError
from .measure import machine

SUFFIX = "ExecutionProvider"
# short names that this project's tests run; any other that onnxruntime knows is taken, untested
TESTED = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
INSTALL = {
    "cpu": "pip install onnxruntime",
    "cuda": "pip uninstall -y onnxruntime onnxruntime-gpu && "
    'pip install "onnxruntime-gpu[cuda,cudnn]"',
    "openvino": "pip uninstall -y onnxruntime && pip install onnxruntime-openvino",
}
ON_CUDA = ("CUDAExecutionProvider", "TensorrtExecutionProvider")  # both load CUDA's libraries
BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
DRIVER_SIGNS = ("libcuda.so", "no NVIDIA device", "driver version is insufficient")


def full_name(ort: Any, short: str) -> str:
    """Return onnxruntime's own name of the provider `short`, of which it need not be capable."""
    names: list[str] = [*TESTED.values(), *ort.get_all_providers()]
    known = {short_name(name): name for name in names}
    name = known.get(short.lower().removesuffix(SUFFIX.lower()))
    if name is None:
        raise InputError(
            f"provider {short!r}",
            expected=f"{', '.join(TESTED)}, or another that onnxruntime {ort.__version__} knows: "
            f"{', '.join(sorted(set(known) - set(TESTED)))}",
            next_step="pass --provider cpu",
        )
    return name


def short_name(full: str) -> str:
    """Return "cuda" of "CUDAExecutionProvider"."""
    return full.removesuffix(SUFFIX).lower()


def unavailable(provider: str, reason: str) -> InputError:
    """Return the error for `provider` (its short name): the reason, and what mends it."""
    install = INSTALL.get(provider, f"install onnxruntime for {provider} and what that loads")
    if any(sign in reason for sign in DRIVER_SIGNS):
        install = "install the NVIDIA driver, or a newer one"
    builds = machine.versions(BUILDS)
    if len(builds) > 1:  # onnxruntime issue 26996
        listed = " and ".join(f"{name} {version}" for name, version in builds.items())
        reason += f"; {listed} are installed, which overwrite each other's files"
    return InputError(
        f"asked for {provider}, which cannot be opened here: {reason}",
        expected=f"every node on {provider} (the CPU never takes its place unasked)",
        next_step=f"{install}, or pass --provider cpu",
    )


def missing_part(ort: Any, provider: str) -> str | None:
    """Return what `provider` lacks here, found by loading its libraries by hand; None if nothing.

    The loader's own error names what onnxruntime's log line hides.
    """
    folder = Path(ort.__file__).parent / "capi"
    for name in ("shared", provider):
        library = folder / f"libonnxruntime_providers_{name}.so"
        if library.exists():
            try:
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                return f"{error}{_other_major(str(error))}"
    if provider == "cuda" and not machine.gpu_names():
        return "no NVIDIA device or driver (nothing under /proc/driver/nvidia/gpus)"
    return None


def _other_major(reason: str) -> str:
    """Return what to add if the library that `reason` misses is here in another major version."""
    missing = re.search(r"(lib\w+)\.so\.(\d+)", reason)
    if missing is None:
        return ""
    name, wanted = missing.groups()
    found = {
        file.name.removeprefix(f"{name}.so.").split(".")[0]
        for folder in filter(None, sys.path)
        for file in Path(folder).glob(f"nvidia/**/{name}.so.*")
    }
    if not found or wanted in found:
        return ""
    return (
        f"; here is {name} {', '.join(sorted(found))}, this onnxruntime was built for {wanted}: "
        "CUDA's major versions differ"
    )
