"""`inspect`: what a model file is, from its own bytes; nothing is run, no framework is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.options import Options, model
from ..sealing.default_model import choose_model, to_name
from .terminal import Terminal

if TYPE_CHECKING:
    from ..runtime.model_file import ModelFile

IN_OTHER_WORDS = ("schema", "digest_holds", "contract")


@dataclass(frozen=True)
class InspectOptions(Options):
    """What to look into."""

    model: Path | None = model(positional=True)  # noqa: RUF009 - it returns a field


def command(options: InspectOptions, terminal: Terminal) -> None:
    """Print what a model file is: contract, operations, opset, parameters, digest."""
    from ..runtime.measure.tables import heading, shown

    path, file = choose_model(options.model), inspect(options)
    document = _document(path, file)
    for name, value in document.items():
        if name not in IN_OTHER_WORDS:
            terminal.say(f"{heading(name):>15} {shown(name, value)}")
    for name, text in _stated(document["contract"]).items():
        terminal.say(f"{name:>15} {text}")
    terminal.say(f"{'':>15} {file.digest.line()}")
    terminal.finish(document, "convnet-edge", "verify", *to_name(path))


def inspect(options: InspectOptions) -> ModelFile:
    """Read the model file: its graph, weights, contract and digest; nothing is proved by that.

    Example: `ce.inspect(ce.InspectOptions("exported/convnet.onnx")).n_parameters`

    Raises:
        InputError: unreadable, not ONNX, or without a contract.
    """
    from ..runtime.model_file import open_model

    return open_model(choose_model(options.model))


def _document(path: Path, file: ModelFile) -> dict[str, Any]:
    """Return what is known; golden images by their number, sample pictures by their names."""
    stated, goldens = file.contract.document, file.contract.goldens
    samples = [sample.name for sample in file.contract.samples]
    tolerated = {"floor": goldens.floor, "tolerance": goldens.tolerance}
    return {
        "schema": "convnet-edge/inspect/1",
        "path": str(path),
        "model_bytes": len(file.data),
        "model_sha256": file.sha256,
        "ir_version": file.ir_version,
        "opsets": {domain or "ai.onnx": version for domain, version in file.opsets.items()},
        "ops": file.op_counts(),
        "n_parameters": file.n_parameters,
        "n_multiplications": file.n_multiplications,
        "inputs": file.inputs,
        "outputs": file.outputs,
        "digest_holds": file.digest.passed,
        "contract": {
            **stated,
            "goldens": {"n": len(goldens.images), **tolerated},
            "preprocessing": {**stated["preprocessing"], "samples": samples},
        },
    }


def _stated(contract: dict[str, Any]) -> dict[str, str]:
    """Return what people read of a contract, by what it is."""
    from ..runtime.contract import LAYOUTS
    from ..runtime.measure.result import percent

    measured, training, goldens = (contract[k] for k in ("measured", "training", "goldens"))
    found = {
        "scale": contract["input"]["scale"],
        "classes": ", ".join(contract["class_labels"]),
        "trained on": f"{training['data']}, {training['n_images']:,} images, recipe "
        f"{training['recipe']}, {training['epochs']} epochs, seed {training['seed']}",
        "test accuracy": f"{percent(measured['accuracy'], 2)} of {measured['n']:,} "
        f"({measured['what']})",
        "golden vectors": f"{goldens['n']}, tolerance {goldens['tolerance']:.2g}",
    }
    if made := contract.get("quantization"):
        layout = f"layout {made['layout']}: {LAYOUTS[made['layout']]}"
        found["integers"] = f"int8 of {made['weight_bits']} bits, {layout}"
    for stage, versions in contract["versions"].items():
        found[f"{stage} with"] = ", ".join(f"{name} {text}" for name, text in versions.items())
    return found
