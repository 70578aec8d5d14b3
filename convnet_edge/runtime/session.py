"""Open a model on the provider that was asked for, or say truly why that is not possible; run it.

Every silent fallback is switched off, and the session itself is asked what it got. What the outputs
mean is the classifier's business; why a provider cannot be opened is found in `providers`.
"""

import contextlib
import io
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import providers
from .contract import NEXT_STEP, Array
from .errors import InputError, MissingPackageError, first_line
from .measure import machine
from .options import Options, ceiling, option, provider, threads

DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int32)": "int32"}
ONNXRUNTIME_EXPORT_TARGET = "onnxruntime >= 1.16 (opset 18, IR 8)"
CPU = providers.TESTED["cpu"]
MAX_THREADS_PER_CORE = 16  # 4,096 threads on 2 cores take minutes to start
PARTIAL = "fallback to CPU EP has been explicitly disabled"


@dataclass(frozen=True)
class Settings(Options):
    """How a session runs, and how much a model may take; the defaults prove the most."""

    provider: str = provider()
    threads: int | None = threads()
    allow_cpu_nodes: bool = option(False, "Let the CPU run what the provider does not take.")
    spin: bool = option(True, "Let idle threads wait busily for the next run.")
    fuse: bool = option(True, "Let onnxruntime put operations together.")
    cuda_graph: bool = option(False, "Replay one captured launch; for `Bound`, at one batch size.")
    profile_prefix: str | None = option(None, "How the path of onnxruntime's profile begins.")
    ceiling: float = ceiling()


class Session:
    """An opened ONNX file of one input and one output. Thread-safe.

    settings: with the provider's short name and the threads really used. input_dtype: "float32" or
    "uint8" if it is a classifier's. placement: the operations that each provider got, in graph
    order before fusion; None where this onnxruntime cannot tell. create_ms: wall time of opening,
    without importing onnxruntime.

    Raises:
        InputError: the provider cannot be opened, or onnxruntime refuses the model.
    """

    def __init__(self, model: bytes, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        cores, ort = machine.usable_cores(), import_onnxruntime()
        name = providers.full_name(ort, settings.provider)
        self.provider = providers.short_name(name)
        self.threads = settings.threads or cores
        if self.threads > MAX_THREADS_PER_CORE * cores:
            raise InputError(
                f"{self.threads} threads",
                expected=f"at most {MAX_THREADS_PER_CORE * cores} on {cores} usable cores",
                next_step="leave --threads out",
            )
        self.settings = replace(settings, provider=self.provider, threads=self.threads)
        started_ns = time.perf_counter_ns()
        self._session = _open(ort, model, self.settings)
        self.create_ms = (time.perf_counter_ns() - started_ns) / 1e6
        self.placement = _placement(self._session)
        if self.placement and name not in self.placement:
            raise providers.unavailable(
                self.provider, "it takes none of the model's nodes; all would run on the CPU"
            )
        (taken,), (given,) = self._session.get_inputs(), self._session.get_outputs()
        self.input_name, self.output_name = taken.name, given.name
        self.input_dtype, self.output_dtype = (DTYPES.get(v.type, v.type) for v in (taken, given))
        self._run_options: Any = None

    def run(self, batch: Array) -> Array:
        """Return the logits (N, C) float32 of `batch` (N, 1, H, W) of type `input_dtype`."""
        try:
            logits: Array = self._session.run(
                [self.output_name], {self.input_name: batch}, self._run_options
            )[0]
        except onnxruntime_errors() as error:
            if self._run_options is not None and self._run_options.terminate:
                raise InputError(
                    "the runs were ended, they take far longer than those of the golden images",
                    expected="about the same time for each image",
                    next_step="try again on a machine that does nothing else",
                ) from error
            raise _run_failed(batch.shape, error) from error
        return logits

    @contextlib.contextmanager
    def limit(self, duration_s: float) -> Iterator[None]:
        """End the runs that still go on after `duration_s`, and refuse more of them.

        Those of every thread; onnxruntime looks at that between two operations.
        """
        self._run_options = import_onnxruntime().RunOptions()
        timer = threading.Timer(duration_s, setattr, (self._run_options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._run_options = None

    def end_profile(self) -> str:
        """Close the profile that `settings.profile_prefix` asked for; return its path."""
        return str(self._session.end_profiling())


class Bound:
    """Runs at one batch size through buffers that stay on the device; not for several threads.

    So copies can be left out, or timed apart. batch: an example. n_classes: the output is
    (N, n_classes).
    """

    def __init__(self, session: Session, batch: Array, n_classes: int) -> None:
        make = import_onnxruntime().OrtValue.ortvalue_from_shape_and_type
        device = "cuda" if session.provider == "cuda" else "cpu"
        self._session, self._shape = session._session, batch.shape
        # not ortvalue_from_numpy: on a CPU that shares the caller's memory and overwrites it
        self._input = make(batch.shape, batch.dtype, device, 0)
        output_dtype = np.dtype(session.output_dtype)
        self._output = make((len(batch), n_classes), output_dtype, device, 0)
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(session.input_name, self._input)
        self._binding.bind_ortvalue_output(session.output_name, self._output)

    def run(self, batch: Array) -> Array:
        """Return the logits (N, C) of `batch`, copied in, run and copied out."""
        return self.run_split(batch)[0]

    def run_split(self, batch: Array) -> tuple[Array, tuple[int, int, int]]:
        """Do as `run`; return also the nanoseconds of copying in, computing and copying out."""
        clock = time.perf_counter_ns
        started = clock()
        try:
            self._input.update_inplace(batch)
            self._binding.synchronize_inputs()
            copied = clock()
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
            computed = clock()
            logits: Array = self._output.numpy()
        except onnxruntime_errors() as error:
            raise _run_failed(self._shape, error) from error
        return logits.copy(), (copied - started, computed - copied, clock() - computed)


def import_onnxruntime() -> Any:
    """Return the module onnxruntime, with its reports about its use switched off."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # 1.32 writes when it is imported
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(
            f"onnxruntime cannot be imported: {error}",
            expected="onnxruntime, or onnxruntime-gpu for CUDA",
            next_step=providers.INSTALL["cpu"],
        ) from error
    onnxruntime.disable_telemetry_events()  # older versions know only this
    return onnxruntime


def onnxruntime_errors() -> tuple[type[BaseException], ...]:
    """Return what onnxruntime raises while opening or running a model."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = [kind for kind in vars(state).values() if isinstance(kind, type)]
    return (*(k for k in kinds if issubclass(k, Exception)), RuntimeError, ValueError)


def _open(ort: Any, model: bytes, settings: Settings) -> Any:
    """Open `model` with onnxruntime on a provider: the one place where that is done."""
    short, name = settings.provider, providers.full_name(ort, settings.provider)
    if name not in ort.get_available_providers():
        reason = f"this onnxruntime {ort.__version__} is built without it"
        raise providers.unavailable(short, reason)
    wanted: list[Any] = [(name, _provider_settings(settings))]
    if name != CPU:
        wanted += [CPU] if settings.allow_cpu_nodes else []
        ort.set_default_logger_severity(4)
    if name in providers.ON_CUDA and hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
    options = _options(ort, settings)
    try:
        session = ort.InferenceSession(model, options, providers=wanted, enable_fallback=0)
    except onnxruntime_errors() as error:
        if PARTIAL in str(error):
            raise _partial(ort, model, settings) from error
        if name != CPU:
            reason = providers.missing_part(ort, short) or first_line(error)
            raise providers.unavailable(short, reason) from error
        raise InputError(
            f"onnxruntime {ort.__version__} refuses the model: {first_line(error)}",
            expected=f"a model for {ONNXRUNTIME_EXPORT_TARGET}",
            next_step=NEXT_STEP,
        ) from error
    session.disable_fallback()
    obtained = session.get_providers()[0]
    if obtained != name:
        reason = providers.missing_part(ort, short) or f"onnxruntime opened {obtained}"
        raise providers.unavailable(short, reason)
    return session


def _options(ort: Any, settings: Settings) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # the reason is found and raised, not logged
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if settings.provider != "cpu" and not settings.allow_cpu_nodes:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if not settings.spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not settings.fuse:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if settings.profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = settings.profile_prefix
    return options


def _provider_settings(settings: Settings) -> dict[str, str]:
    if settings.provider == "cuda":
        # TF32 keeps 10 bits of float32's 23: no parity unless switched off
        return {"use_tf32": "0", "enable_cuda_graph": str(int(settings.cuda_graph))}
    if settings.provider == "openvino":  # it has threads and a reduced precision of its own
        return {"device_type": "CPU", "precision": "FP32", "num_of_threads": str(settings.threads)}
    return {}


def _partial(ort: Any, model: bytes, settings: Settings) -> InputError:
    """Return the error for a provider that does not take every node, naming those it leaves."""
    session = _open(ort, model, replace(settings, allow_cpu_nodes=True))
    left = (_placement(session) or {}).get(CPU, [])
    names = ", ".join(sorted(set(left))) or "unknown to this onnxruntime"
    return InputError(
        f"{settings.provider} does not take every node; the CPU would run {len(left)} ({names})",
        expected=f"every node on {settings.provider}",
        next_step="pass --allow-cpu-nodes to measure the mixture, or --provider cpu",
    )


def _placement(session: Any) -> dict[str, list[str]] | None:
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    found: dict[str, list[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
    return found


def _run_failed(shape: tuple[int, ...], error: BaseException) -> InputError:
    return InputError(
        f"onnxruntime could not run a batch of shape {shape}: {first_line(error)}",
        expected="the model to take any batch size on this provider",
        next_step="check the file with `convnet-edge verify`",
    )
