"""Ask onnxruntime which node ran where and for how long.

The profile is taken in runs of its own, never in those that are timed: it slows them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..classifier import Classifier
from ..files import MIB, read_bytes
from ..providers import SUFFIX
from ..session import Session, Settings

Array = np.ndarray[Any, np.dtype[Any]]

N_WARMUP = 10
N_RUNS = 100
MAX_PROFILE_BYTES = 256 * MIB
COPY = "Memcpy"  # onnxruntime's own operations between a device and the host


@dataclass(frozen=True)
class NodeTime:
    """One node as it ran, after onnxruntime's fusions.

    median_us: microseconds a run. share: of all nodes' time.
    """

    name: str
    op_type: str
    provider: str
    median_us: float
    share: float


def profile(classifier: Classifier, images: Array, settings: Settings) -> tuple[NodeTime, ...]:
    """Return each node of 100 runs of all `images` (N, H, W) uint8 at once, in running order.

    Raises:
        InputError: the session cannot be opened again, or there is no temporary folder.
    """
    batch = classifier.to_input(images)
    with tempfile.TemporaryDirectory() as folder:
        session = Session(
            classifier.model,
            provider=classifier.session.provider,
            threads=classifier.session.threads,
            settings=Settings(
                tf32=settings.tf32,
                allow_cpu_nodes=settings.allow_cpu_nodes,
                spin=settings.spin,
                profile_prefix=str(Path(folder) / "profile"),
            ),
        )
        for _ in range(N_WARMUP + N_RUNS):
            session.run(batch)
        path = Path(session.end_profile())
        text = read_bytes(path, limit=MAX_PROFILE_BYTES, next_step="profile a smaller model")
    return summarize(json.loads(text))


def count_copies(nodes: Iterable[NodeTime]) -> int:
    """Return how many nodes only move data between a device and the host."""
    return sum(node.op_type.startswith(COPY) for node in nodes)


def summarize(events: list[dict[str, Any]]) -> tuple[NodeTime, ...]:
    """Return the nodes of onnxruntime's profile, without the runs that warmed up."""
    durations: dict[tuple[str, str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            args = event.get("args", {})
            key = (
                event["name"].removesuffix("_kernel_time"),
                str(args.get("op_name", "?")),
                str(args.get("provider", "?")).removesuffix(SUFFIX),
            )
            durations.setdefault(key, []).append(float(event["dur"]))
    times = {key: float(np.median(all_[N_WARMUP:] or all_)) for key, all_ in durations.items()}
    total = sum(times.values()) or 1.0
    return tuple(NodeTime(*key, time_us, time_us / total) for key, time_us in times.items())
