"""Say what a model costs to run, where its time goes, and how fast this machine could be.

The peak is measured with the very provider and thread count that are then timed, on a product of
two large matrices that this module writes as an ONNX file of its own. The profile is taken in runs
of its own, never in those that are timed: it slows them.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..classifier import Classifier
from ..errors import InputError
from ..files import MIB, read_bytes
from ..protobuf import field
from ..providers import SUFFIX
from ..session import Bound, Session, Settings
from .result import Cost, NodeTime
from .stats import Array

SIDE = 768
N_ROUNDS = 5
FLOAT, UINT8, INT8, INT32 = 1, 2, 3, 6  # TensorProto.DataType
N_WARMUP, N_PROFILED = 10, 100
MAX_PROFILE_BYTES = 256 * MIB
FREE = "free space in TMPDIR"
COPY = "Memcpy"  # onnxruntime's own operations between a device and the host


def estimate(classifier: Classifier) -> Cost:
    """Return the cost of the opened model; takes about half a second on two cores.

    The bound is the time of one image if all its multiplications ran at the peak, of numbers like
    the model's.
    """
    integers = classifier.contract.quantization is not None
    try:
        peak = measure_peak(classifier, integers=integers)
    except InputError:  # the provider lacks that operation, which says nothing about the model
        peak = None
    n_multiplications = classifier.file.n_multiplications
    return Cost(
        n_multiplications=n_multiplications,
        weight_bytes=sum(len(weight.content) for weight in classifier.file.weights.values()),
        peak_multiplications_per_s=peak,
        peak_of="int8 matrix product" if integers else "float32 matrix product",
        bound_ms=1e3 * n_multiplications / peak if peak and n_multiplications else None,
    )


def measure_peak(classifier: Classifier, *, integers: bool) -> float:
    """Return multiplications a second of a matrix product on the classifier's own provider."""
    like = classifier.session
    settings = Settings(like.provider, like.threads, spin=like.settings.spin)
    session = Session(product_model(integers=integers), settings)
    x = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE))
    x = x.astype(np.uint8) if integers else (x / 255).astype(np.float32)
    bound = Bound(session, x, SIDE)
    fastest_ns = min(bound.run_split(x)[1][1] for _ in range(1 + N_ROUNDS))  # the first warms up
    return SIDE**3 * 1e9 / fastest_ns


def product_model(*, integers: bool) -> bytes:
    """Return an ONNX file that multiplies x (SIDE, SIDE) by a constant matrix of that size."""
    values = np.random.default_rng(1).integers(-63, 64, (SIDE, SIDE)).astype(np.int8)
    weights = values if integers else values.astype(np.float32) / np.float32(64)
    taken, held, given = (UINT8, INT8, INT32) if integers else (FLOAT, FLOAT, FLOAT)
    op_type = "MatMulInteger" if integers else "MatMul"
    node = field(1, b"x") + field(1, b"w") + field(2, b"y") + field(4, op_type.encode())
    tensor = field(1, SIDE) * 2 + field(2, held) + field(8, b"w") + field(9, weights.tobytes())
    graph = (
        field(1, node) + field(2, b"product") + field(5, tensor)
        + field(11, _value(b"x", taken)) + field(12, _value(b"y", given))
    )  # fmt: skip
    return field(1, 8) + field(8, field(1, b"") + field(2, 18)) + field(7, graph)


def profile(classifier: Classifier, images: Array) -> tuple[NodeTime, ...]:
    """Return each node of 100 runs of all `images` (N, H, W) uint8 at once, in running order."""
    batch, settings = classifier.to_input(images), classifier.session.settings
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder) / "profile")
        session = Session(classifier.file.data, replace(settings, profile_prefix=prefix))
        for _ in range(N_WARMUP + N_PROFILED):
            session.run(batch)
        path = Path(session.end_profile())
        text = read_bytes(path, limit=MAX_PROFILE_BYTES, next_step=FREE)
        try:
            return summarize(json.loads(text))
        except ValueError as error:  # of a full disk onnxruntime says nothing
            raise InputError(
                "the profile is incomplete", expected="all that onnxruntime writes", next_step=FREE
            ) from error


def summarize(events: list[dict[str, Any]]) -> tuple[NodeTime, ...]:
    """Return the nodes of onnxruntime's profile, without the runs that warmed up."""
    durations: dict[tuple[str, str, str], list[float]] = {}
    for event in events:
        name, args = event["name"].removesuffix("_kernel_time"), event.get("args", {})
        if event["cat"] == "Node" and name != event["name"]:
            key = name, args["op_name"], args["provider"].removesuffix(SUFFIX)
            durations.setdefault(key, []).append(event["dur"])
    times = {key: float(np.median(all_[N_WARMUP:] or all_)) for key, all_ in durations.items()}
    total = sum(times.values()) or 1.0
    return tuple(NodeTime(*key, time_us, time_us / total) for key, time_us in times.items())


def _value(name: bytes, element_type: int) -> bytes:
    shape = field(1, field(1, SIDE)) * 2
    tensor = field(1, element_type) + field(2, shape)
    return field(1, name) + field(2, field(1, tensor))
