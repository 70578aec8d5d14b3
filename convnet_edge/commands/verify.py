"""`verify`: prove a model file on this machine."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..exporting.options import VerifyOptions
from .terminal import Done, Terminal

if TYPE_CHECKING:
    from ..exporting.verify import VerifyResult

EXAMPLES = (
    "Example: convnet-edge verify exported/convnet.onnx --against checkpoints/convnet.safetensors"
)


def command(options: VerifyOptions, terminal: Terminal) -> Done[VerifyResult]:
    """Prove a model file on this machine: digests, golden vectors, preprocessing."""
    from ..exporting.verify import verify
    from ..runtime.selftest import require

    with terminal.progress() as bar:
        result = verify(options, bar.step)
    terminal.say(*result.lines())
    terminal.wrote((result.report_path,))
    judge = partial(
        require,
        result.report.checks,
        what=f"{result.model_path} is not proved on {options.provider}",
        next_step=f"read {result.report_path}; fetch the file again, or export it anew",
    )
    next_command = f"convnet-edge bench {result.model_path}" if result.report.passed else None
    return Done(result, result.report, next_command, judge)
