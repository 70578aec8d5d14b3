"""`verify`: prove a model file on this machine, or on others."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ..data.options import DataOptions
from ..exporting.options import VerifyOptions
from ..fleet.options import FleetOptions
from ..quantizing.options import QuantizeOptions
from ..runtime.errors import CheckFailedError
from ..sealing.default_model import choose_model, to_name
from .terminal import Terminal, as_words


@dataclass(frozen=True)
class WhereOptions(VerifyOptions, FleetOptions):
    """What to verify, and on which machine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_here("against", "skew", "out")


def command(options: WhereOptions, terminal: Terminal) -> None:
    """Prove a model file on this machine: digest, golden vectors, preprocessing.

    Examples: convnet-edge verify exported/convnet.onnx --against checkpoints/convnet.safetensors ·
    convnet-edge verify --on pi@board
    """
    if options.elsewhere:
        _command_elsewhere(options, terminal)
        return
    from ..data import dataset
    from ..exporting.skew import table
    from ..exporting.verify import verify
    from ..runtime.errors import some
    from ..runtime.measure.tables import to_text
    from ..runtime.selftest import require

    with terminal.progress():
        result = verify(options, terminal.step, terminal.note)
    report, found = result.report, result.report.comparison
    n_held = sum(check.passed for check in report.checks)
    terminal.say(*(check.line() for check in report.checks))
    terminal.say(*(report.against.where if report.against else ()))
    if found is not None:
        terminal.say(*found.summary())
    if report.skew:
        terminal.answer(*to_text(table(report.skew)))
    if found is not None and found.flips:
        terminal.say(f"Label flips: {len(found.flips):,} images: {some(found.flips)}")
    terminal.answer(
        f"{'PASS' if report.passed else 'FAIL'}: {result.title} on {report.provider}, "
        f"{report.precision}: {n_held} of {len(report.checks)} checks hold"
    )
    terminal.say(f"  sha256 {report.model_sha256}")
    terminal.wrote((result.report_path,))
    stated = result.contract
    can_quantize = stated.quantization is None and find_spec("onnx") is not None
    finds_pictures = options.data or dataset.Task.of(stated).source in dataset.EMBEDDED
    enough = (
        stated.document.get("training", {}).get("n_images", 0)
        >= QuantizeOptions().n_training_images
    )
    then = ["quantize"] if can_quantize and finds_pictures and enough else ["bench"]
    then += as_words(options, DataOptions)
    command = ["convnet-edge", *then, *to_name(result.model_path)] if report.passed else []
    terminal.finish(report, *command)
    remedy = "fetch the file again, or export it anew"
    if result.differs_alone and options.against and options.against.suffix == ".safetensors":
        remedy = "name the checkpoint that it was exported from, or export it anew"
    require(
        report.checks,
        what=f"{result.model_path} is not proved on {options.provider}",
        next_step=f"read {result.report_path}; {remedy}",
    )


def _command_elsewhere(options: WhereOptions, terminal: Terminal) -> None:
    """Let the bundle's self-test run on every machine that is named."""
    from ..bundling.options import BundleOptions
    from ..fleet.boards import require_all, visit

    model = choose_model(options.model)
    command = ["selftest", "--json", "--provider", options.provider]
    bundle = BundleOptions((model,), ceiling=options.ceiling)
    with terminal.progress():
        visits = visit(options.machines(), bundle, [command], step=terminal.step)
    boards = list[dict[str, Any]]()
    for one in visits:
        selftest = one.answers[0] if one.answers else None
        if one.error is None:
            terminal.answer(f"{one.host}: PASS: {model.name} on {options.provider}")
        else:  # one that could not be asked has not failed
            outcome = "FAIL" if isinstance(one.error, CheckFailedError) else "NOT RUN"
            terminal.answer(f"{one.host}: {outcome}: {one.error.line}")
        error = one.error.line if one.error else None
        boards.append({"host": one.host, "selftest": selftest, "error": error})
    terminal.finish({"boards": boards})
    require_all(visits)
