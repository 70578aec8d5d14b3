"""`verify`: prove a model file on this machine."""

from ..exporting.options import VerifyOptions
from .terminal import Terminal


def command(options: VerifyOptions, terminal: Terminal) -> None:
    """Prove a model file on this machine: digests, golden vectors, preprocessing.

    Example: convnet-edge verify exported/convnet.onnx --against checkpoints/convnet.safetensors
    """
    from ..exporting.verify import verify
    from ..runtime.selftest import require
    from ..sealing.parity import list_first

    with terminal.progress():
        result = verify(options, terminal.step, terminal.note)
    report, found = result.report, result.report.comparison
    terminal.say(
        f"Verified {result.model_path} on {report.provider}, {report.precision}:",
        *(check.line() for check in report.checks),
        *(report.against.where if report.against else ()),
        *([found.summary()] if found else ()),
        *(
            [f"Label flips: {len(found.flips):,} images: {list_first(found.flips)}"]
            if found and found.flips
            else ()
        ),
        "PASS" if report.passed else "FAIL",
    )
    terminal.wrote((result.report_path,))
    terminal.finish(report, f"convnet-edge bench {result.model_path}" if report.passed else "")
    require(
        report.checks,
        what=f"{result.model_path} is not proved on {options.provider}",
        next_step=f"read {result.report_path}; fetch the file again, or export it anew",
    )
