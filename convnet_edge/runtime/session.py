"""Open a model on the provider that was asked for, or say truly why that is not possible.

onnxruntime falls back to the CPU with a log line when CUDA cannot be opened (onnxruntime issues
23372, 17801), and `get_available_providers()` only says what was compiled in. So the session
itself is asked, every fallback is switched off, and the missing library is found by loading it.
What the outputs mean is the classifier's business.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import machine, onnxfile
from .errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
INPUT_DTYPES = {1: "float32", 2: "uint8"}  # by TensorProto.DataType
ONNXRUNTIME_EXPORT_TARGET = "onnxruntime >= 1.16 (opset 18, IR 8)"


@dataclass(frozen=True)
class Placement:
    """The operations that one provider got, in graph order before fusion."""

    provider: str
    op_types: tuple[str, ...]


class Session:
    """One opened model: `run` maps (N, 1, H, W) to (N, C) float32 logits. Thread-safe.

    input_dtype: of what `run` takes, "float32" or "uint8". provider: the short name that was asked
    for and obtained. threads: intra-op threads. precision: "float32", or "tf32" where CUDA was let
    reduce it. placement: None where this onnxruntime cannot tell. create_ms: wall time of opening,
    without importing onnxruntime.
    """

    def __init__(
        self,
        model: bytes,
        *,
        provider: str = "cpu",
        threads: int | None = None,
        tf32: bool = False,
    ) -> None:
        if provider not in PROVIDERS:
            raise InputError(
                f"provider {provider!r}",
                expected=" or ".join(PROVIDERS),
                next_step="pass --provider cpu",
            )
        if threads is not None and threads < 1:
            raise InputError(
                f"{threads} threads", expected="1 or more", next_step="leave --threads out"
            )
        file = onnxfile.parse(model)
        self.input_name, self.input_dtype, self.output_name = _interface(file)
        self.provider = provider
        self.threads = threads or machine.usable_cores()
        self.precision = "tf32" if tf32 and provider == "cuda" else "float32"
        ort = _import_onnxruntime()
        started_ns = time.perf_counter_ns()
        # TF32 keeps 10 bits of mantissa: no parity with float32 unless switched off
        settings = {"use_tf32": str(int(tf32))} if provider == "cuda" else {}
        self._session = _open(ort, model, (provider, settings), self.threads)
        self.create_ms = (time.perf_counter_ns() - started_ns) / 1e6
        self.placement = _placement(self._session)

    def run(self, batch: Array) -> Array:
        """Return the logits (N, C) float32 of `batch` (N, 1, H, W) of type `input_dtype`.

        Raises:
            InputError: onnxruntime refuses the batch or fails while running it.
        """
        try:
            logits: Array = self._session.run([self.output_name], {self.input_name: batch})[0]
        except _onnxruntime_errors() as error:
            raise InputError(
                f"onnxruntime could not run a batch of shape {batch.shape}: {_first_line(error)}",
                expected="the model to take any batch size on this provider",
                next_step="check the file with `convnet-edge verify`",
            ) from error
        return logits


def _interface(file: onnxfile.OnnxFile) -> tuple[str, str, str]:
    weights = {weight.name for weight in file.weights}
    inputs = [value for value in file.inputs if value.name not in weights]
    dtypes = [INPUT_DTYPES.get(value.element_type) for value in inputs]
    if len(dtypes) != 1 or len(file.outputs) != 1 or dtypes[0] is None:
        raise InputError(
            f"the model has {len(inputs)} inputs and {len(file.outputs)} outputs"
            f"{', its input is neither float32 nor uint8' if len(inputs) == 1 else ''}",
            expected="one input of images, float32 or uint8, and one output of logits",
            next_step=onnxfile.NEXT_STEP,
        )
    return inputs[0].name, dtypes[0], file.outputs[0].name


def _open(ort: Any, model: bytes, wanted: tuple[str, dict[str, str]], threads: int) -> Any:
    provider, settings = wanted
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # the reason is found and raised, not logged
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    name = PROVIDERS[provider]
    if name not in ort.get_available_providers():
        raise _unavailable(provider, f"this onnxruntime {ort.__version__} is built without it")
    notes = io.StringIO()
    if provider != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        ort.set_default_logger_severity(4)
        if hasattr(ort, "preload_dlls"):
            with contextlib.redirect_stdout(notes):
                ort.preload_dlls()
    try:
        session = ort.InferenceSession(
            model, options, providers=[(name, settings)], enable_fallback=0
        )
    except _onnxruntime_errors() as error:
        if provider != "cpu":
            reason = _missing_library(ort) or _first_line(error)
            raise _unavailable(provider, reason) from error
        raise InputError(
            f"onnxruntime {ort.__version__} refuses the model: {_first_line(error)}",
            expected=f"a model for {ONNXRUNTIME_EXPORT_TARGET}",
            next_step=onnxfile.NEXT_STEP,
        ) from error
    session.disable_fallback()
    if session.get_providers()[0] != name:
        reason = _missing_library(ort) or f"onnxruntime opened {session.get_providers()[0]}"
        raise _unavailable(provider, reason)
    return session


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"onnxruntime cannot be imported: {error}",
            expected="onnxruntime, or onnxruntime-gpu for CUDA",
            next_step='pip install "convnet-edge[cpu]"',
        ) from error
    return onnxruntime


def _onnxruntime_errors() -> tuple[type[BaseException], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf",
        "NoSuchFile", "NotImplemented", "RuntimeException",
    )  # fmt: skip
    return (*(getattr(state, name) for name in names), RuntimeError, ValueError)


def _unavailable(provider: str, reason: str) -> InputError:
    install = (
        f'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "convnet-edge[{provider}]"'
    )
    no_driver = "libcuda.so" in reason or "no NVIDIA device" in reason
    return InputError(
        f"asked for {provider}, which cannot be opened here: {reason}",
        expected=f"every node on {PROVIDERS[provider]} (the CPU never takes its place unasked)",
        next_step=f"{'install the NVIDIA driver' if no_driver else install}, "
        "or pass --provider cpu",
    )


def _missing_library(ort: Any) -> str | None:
    """Load the CUDA provider's library by hand: its error names what the log line hides."""
    folder = Path(ort.__file__).parent / "capi"
    for name in ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"):
        if (folder / name).exists():
            try:
                ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                return str(error)
    if not machine.gpu_names():
        return "no NVIDIA device or driver (nothing under /proc/driver/nvidia/gpus)"
    return None


def _placement(session: Any) -> tuple[Placement, ...] | None:
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    by_provider: dict[str, list[str]] = {}
    for subgraph in session.get_provider_graph_assignment_info():
        nodes = by_provider.setdefault(subgraph.ep_name, [])
        nodes += [node.op_type for node in subgraph.get_nodes()]
    return tuple(Placement(name, tuple(ops)) for name, ops in by_provider.items())


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
