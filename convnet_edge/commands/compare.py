"""`compare`: an A/B gate on two models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..reporting.options import CompareOptions
from .terminal import Done, Terminal

if TYPE_CHECKING:
    from ..reporting.compare import Comparison

EXAMPLES = (
    "Examples: convnet-edge compare exported/fashion-mnist.onnx "
    "exported/fashion-mnist.int8-ort.onnx --max-slowdown 0% · convnet-edge compare last.onnx "
    "this.onnx --min-accuracy 92% --max-p99-ms 2"
)


def command(options: CompareOptions, terminal: Terminal) -> Done[Comparison]:
    """Tell whether NEW is slower than BASE: exit 0 if not, 1 if so, 3 if nobody can tell.

    The two models are measured here, in fresh processes that take turns.
    """
    from ..reporting.compare import compare, require_gates

    with terminal.progress() as bar:
        bar.step("fresh processes, in turn")
        found = compare(options, bar.share)
    sides = (("BASE", options.base, found.base_p50_ms), ("NEW", options.new, found.new_p50_ms))
    for name, path, medians in sides:
        spread = f"{min(medians):.4f} to {max(medians):.4f} ms"
        terminal.say(f"{name:>4} {path}: p50 of {len(medians)} fresh processes {spread}")
    terminal.say(*(gate.line() for gate in found.gates))
    return Done(found, found.as_json(), judge=lambda: require_gates(found))
