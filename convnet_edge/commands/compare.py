"""`compare`: an A/B gate on two models."""

from ..reporting.options import CompareOptions
from .terminal import Terminal


def command(options: CompareOptions, terminal: Terminal) -> None:
    """Tell whether NEW is slower than BASE: exit 0 if not, 1 if so, 3 if nobody can tell.

    The two models are measured here, in fresh processes that take turns.

    Examples: convnet-edge compare exported/fashion-mnist.onnx
    exported/fashion-mnist.int8-ort.onnx --max-slowdown 0% · convnet-edge compare last.onnx
    this.onnx --min-accuracy 92% --max-p99-ms 2
    """
    from ..reporting.compare import compare, require_gates

    with terminal.progress():
        terminal.step("fresh processes, in turn")
        found = compare(options, terminal.share)
    sides = (("BASE", options.base, found.base_p50_ms), ("NEW", options.new, found.new_p50_ms))
    for name, path, medians in sides:
        spread = f"{min(medians):.4f} to {max(medians):.4f} ms"
        terminal.say(f"{name:>4} {path}: p50 of {len(medians)} fresh processes {spread}")
    terminal.say(*(gate.line() for gate in found.gates))
    terminal.finish(found.as_json())
    require_gates(found)
