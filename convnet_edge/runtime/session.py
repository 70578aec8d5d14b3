"""Open a model on the provider that was asked for, or say truly why that is not possible.

Every silent fallback is switched off, and the session itself is asked what it got. What the outputs
mean is the classifier's business; why a provider cannot be opened is found in `providers`.
"""

from __future__ import annotations

import contextlib
import io
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import model_file as onnxfile
from . import providers
from .errors import InputError
from .measure import machine

if TYPE_CHECKING:
    from .binding import Bound

Array = np.ndarray[Any, np.dtype[Any]]

INPUT_DTYPES = {1: "float32", 2: "uint8"}  # by TensorProto.DataType
ONNXRUNTIME_EXPORT_TARGET = "onnxruntime >= 1.16 (opset 18, IR 8)"
# how much larger an error each precision may show: TF32 keeps 10 bits of float32's 23
TOLERANCE_FACTORS = {"float32": 1, "tf32": 1 << 13}
CPU = providers.TESTED["cpu"]
PARTIAL = "fallback to CPU EP has been explicitly disabled"


@dataclass(frozen=True)
class Settings:
    """How a session runs beside provider and threads; the defaults prove the most.

    tf32: let CUDA multiply with 10 bits of mantissa, which no parity with float32 survives.
    allow_cpu_nodes: let the CPU run the nodes that the provider does not take.
    spin: let idle threads wait busily for the next run, as onnxruntime does.
    cuda_graph: replay one captured launch; for runs through a binding, at one batch size.
    profile_prefix: write onnxruntime's profile of every run to a file whose path begins so.
    """

    tf32: bool = False
    allow_cpu_nodes: bool = False
    spin: bool = True
    cuda_graph: bool = False
    profile_prefix: str | None = None


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
        settings: Settings | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise InputError(
                f"{threads} threads", expected="1 or more", next_step="leave --threads out"
            )
        self.settings = settings or Settings()
        file = onnxfile.parse(model)
        self.input_name, self.input_dtype, self.output_name = _interface(file)
        self.threads = threads or machine.usable_cores()
        ort = import_onnxruntime()
        name = providers.full_name(ort, provider)
        self.provider = providers.short_name(name)
        self.precision = "tf32" if self.settings.tf32 and self.provider == "cuda" else "float32"
        started_ns = time.perf_counter_ns()
        self._session = _open(ort, model, name, self.threads, self.settings)
        self.create_ms = (time.perf_counter_ns() - started_ns) / 1e6
        self.placement = _placement(self._session)
        if self.placement and not any(placed.provider == name for placed in self.placement):
            raise providers.unavailable(
                self.provider, "it takes none of the model's nodes; all would run on the CPU"
            )

    def run(self, batch: Array) -> Array:
        """Return the logits (N, C) float32 of `batch` (N, 1, H, W) of type `input_dtype`.

        Raises:
            InputError: onnxruntime refuses the batch or fails while running it.
        """
        try:
            logits: Array = self._session.run([self.output_name], {self.input_name: batch})[0]
        except onnxruntime_errors() as error:
            raise run_failed(batch.shape, error) from error
        return logits

    def bind(self, batch: Array, n_classes: int) -> Bound:
        """Return runs of batches shaped like `batch` through buffers kept on the device."""
        from .binding import Bound

        names = (self.input_name, self.output_name)
        on = "cuda" if self.provider == "cuda" else "cpu"
        return Bound(self._session, names, batch, (len(batch), n_classes), device=on)

    def provider_error(self) -> str | None:
        """Return what is wrong if the session is no longer on the provider asked for."""
        obtained = providers.short_name(self._session.get_providers()[0])
        return (
            None if obtained == self.provider else f"asked for {self.provider}, ran on {obtained}"
        )

    def end_profile(self) -> str:
        """Close the profile that `settings.profile_prefix` asked for; return its path."""
        return str(self._session.end_profiling())


class MatrixProduct:
    """A matrix product on another session's provider, threads and settings, input on the device.

    model: maps "x" to "y", of one shape. Its nodes may not lie on another provider.

    Raises:
        InputError: that provider cannot run it.
    """

    def __init__(self, model: bytes, like: Session) -> None:
        ort = import_onnxruntime()
        name = providers.full_name(ort, like.provider)
        settings = Settings(tf32=like.settings.tf32, spin=like.settings.spin)
        self._session = _open(ort, model, name, like.threads, settings)
        self._device = "cuda" if like.provider == "cuda" else "cpu"
        self._binding = self._session.io_binding()

    def load(self, x: Array) -> None:
        """Copy `x` to the device, and run once."""
        import onnxruntime

        self._x = onnxruntime.OrtValue.ortvalue_from_numpy(x, self._device, 0)
        self._binding.bind_ortvalue_input("x", self._x)
        self._binding.bind_output("y", self._device)
        self.run()

    def run(self) -> None:
        """Multiply, and wait for the result, which stays on the device."""
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()


def run_failed(shape: tuple[int, ...], error: BaseException) -> InputError:
    """Return the error for a run of a batch of `shape` that onnxruntime refused."""
    return InputError(
        f"onnxruntime could not run a batch of shape {shape}: {_first_line(error)}",
        expected="the model to take any batch size on this provider",
        next_step="check the file with `convnet-edge verify`",
    )


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


def _open(ort: Any, model: bytes, name: str, threads: int, settings: Settings) -> Any:
    providers.require_built_in(ort, name)
    options = _options(ort, name, threads, settings)
    wanted: list[Any] = [(name, _provider_settings(name, threads, settings))]
    if settings.allow_cpu_nodes and name != CPU:
        wanted.append(CPU)
    if name != CPU:
        ort.set_default_logger_severity(4)
    if name in providers.ON_CUDA and hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
    short = providers.short_name(name)
    try:
        session = ort.InferenceSession(model, options, providers=wanted, enable_fallback=0)
    except onnxruntime_errors() as error:
        if PARTIAL in str(error):
            raise _partial(ort, model, name, threads, settings) from error
        if name != CPU:
            reason = providers.missing_part(ort, short) or _first_line(error)
            raise providers.unavailable(short, reason) from error
        raise InputError(
            f"onnxruntime {ort.__version__} refuses the model: {_first_line(error)}",
            expected=f"a model for {ONNXRUNTIME_EXPORT_TARGET}",
            next_step=onnxfile.NEXT_STEP,
        ) from error
    session.disable_fallback()
    obtained = session.get_providers()[0]
    if obtained != name:
        reason = providers.missing_part(ort, short) or f"onnxruntime opened {obtained}"
        raise providers.unavailable(short, reason)
    return session


def _options(ort: Any, name: str, threads: int, settings: Settings) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # the reason is found and raised, not logged
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if name != CPU and not settings.allow_cpu_nodes:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if not settings.spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if settings.profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = settings.profile_prefix
    return options


def _provider_settings(name: str, threads: int, settings: Settings) -> dict[str, str]:
    if name == providers.TESTED["cuda"]:
        # TF32 keeps 10 bits of mantissa: no parity with float32 unless switched off
        tf32, graph = (str(int(on)) for on in (settings.tf32, settings.cuda_graph))
        return {"use_tf32": tf32, "enable_cuda_graph": graph}
    if name == providers.TESTED["openvino"]:  # it has threads and a reduced precision of its own
        return {"device_type": "CPU", "precision": "FP32", "num_of_threads": str(threads)}
    return {}


def _partial(ort: Any, model: bytes, name: str, threads: int, settings: Settings) -> InputError:
    """Return the error for a provider that does not take every node, naming those it leaves."""
    short = providers.short_name(name)
    session = _open(ort, model, name, threads, replace(settings, allow_cpu_nodes=True))
    left = [p.op_types for p in _placement(session) or () if p.provider == CPU]
    names = ", ".join(sorted({op for ops in left for op in ops})) or "unknown to this onnxruntime"
    return InputError(
        f"{short} does not take every node; the CPU would run {sum(map(len, left))} ({names})",
        expected=f"every node on {short}",
        next_step="pass --allow-cpu-nodes to measure the mixture, or --provider cpu",
    )


def import_onnxruntime() -> Any:
    """Return the module onnxruntime.

    Raises:
        InputError: it is not installed, or does not load.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f"onnxruntime cannot be imported: {error}",
            expected="onnxruntime, or onnxruntime-gpu for CUDA",
            next_step='pip install "convnet-edge[cpu]"',
        ) from error
    return onnxruntime


def onnxruntime_errors() -> tuple[type[BaseException], ...]:
    """Return what onnxruntime raises while opening or running a model."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf",
        "NoSuchFile", "NotImplemented", "RuntimeException",
    )  # fmt: skip
    return (*(getattr(state, name) for name in names), RuntimeError, ValueError)


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
