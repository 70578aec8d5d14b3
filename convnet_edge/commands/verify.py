"""`verify`: prove a model file on this machine."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..exporting.options import VerifyOptions
from .terminal import Done, Terminal

if TYPE_CHECKING:
    from ..exporting import verify as stage

EXAMPLES = (
    "Example: convnet-edge verify exported/convnet.onnx --against checkpoints/convnet.safetensors"
)


def command(options: VerifyOptions, terminal: Terminal) -> Done[stage.VerifyResult]:
    """Prove a model file on this machine: digests, golden vectors, preprocessing."""
    from ..exporting import verify as stage
    from ..runtime.selftest import require

    with terminal.progress() as bar:
        result = stage.verify(options, bar.step)
    terminal.say(
        f"Verified {result.model_path} on {result.provider}, {result.precision}:",
        *(check.line() for check in result.checks),
    )
    if result.comparison is not None:
        where = (result.report["against"] or {}).get("where", ())
        terminal.say(*where, result.comparison.summary())
        if result.comparison.flips:
            terminal.say(f"Label flips: images {list(result.comparison.flips)}")
    terminal.say("PASS" if result.passed else "FAIL")
    terminal.wrote((result.report_path,))
    judge = partial(
        require,
        result.checks,
        what=f"{result.model_path} is not proved on {options.provider}",
        next_step=f"read {result.report_path}; fetch the file again, or export it anew",
    )
    next_command = f"convnet-edge bench {result.model_path}" if result.passed else None
    return Done(result, result.report, next_command, judge)
