"""`inspect`: what a model file is, from its own bytes; nothing is run, no framework is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.options import UnprovedOptions, model
from ..sealing.default_model import choose_model, to_name
from .terminal import Terminal

if TYPE_CHECKING:
    from ..runtime.model_file import ModelFile

IN_OTHER_WORDS = ("schema", "digest_holds", "contract")


@dataclass(frozen=True)
class InspectOptions(UnprovedOptions):
    """What to look into."""

    model: Path | None = model(positional=True)  # noqa: RUF009 - it returns a field


def command(options: InspectOptions, terminal: Terminal) -> None:
    """Print what a model file is: contract, operations, opset, parameters, digest.

    Of an .onnx from elsewhere, which holds no contract, what its graph tells.
    """
    from ..runtime.measure.tables import heading, shown

    path, file = choose_model(options.model), inspect(options)
    document = _document(path, file)
    for name, value in document.items():
        if name not in IN_OTHER_WORDS:
            terminal.say(f"{heading(name):>15} {shown(name, value)}")
    for name, text in _stated(document["contract"]).items():
        terminal.say(f"{name:>15} {text}")
    terminal.say(f"{'':>15} {file.digest.line()}")
    then = "verify" if file.holds_contract else "bench"
    terminal.finish(document, "convnet-edge", then, *to_name(path))


def inspect(options: InspectOptions) -> ModelFile:
    """Read the model file: its graph, weights, contract and digest; nothing is proved by that.

    Example: `ce.inspect(ce.InspectOptions("exported/convnet.onnx")).n_parameters`

    Raises:
        InputError: unreadable, not ONNX, or without a contract and no image classifier.
    """
    from ..runtime.elsewhere import unproved

    file = unproved.look_into(choose_model(options.model), options)
    unproved.require_used([file], options)
    return file


def _document(path: Path, file: ModelFile) -> dict[str, Any]:
    """Return what is known; golden images by their number, sample pictures by their names."""
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
        "digest_holds": None if file.digest.skipped else file.digest.passed,
        "contract": _contract(file),
    }


def _contract(file: ModelFile) -> dict[str, Any]:
    """Return the contract; of an unproved file what is known, as if there were one."""
    stated, goldens = file.contract.document, file.contract.goldens
    samples = [sample.name for sample in file.contract.samples]
    tolerated = {"floor": goldens.floor, "tolerance": goldens.tolerance}
    found = {
        **stated,
        "goldens": {"n": len(goldens.images), **tolerated},
        "preprocessing": {**stated["preprocessing"], "samples": samples},
    }
    if not file.holds_contract:
        n_classes = file.outputs[file.contract.output_name][1:]
        unsaid = {"goldens", "file_sha256", "versions", "decision", "parameters"}
        unsaid |= {"class_labels"} if n_classes != (len(stated["class_labels"]),) else set()
        return {key: value for key, value in found.items() if key not in unsaid}
    return found


def _stated(contract: dict[str, Any]) -> dict[str, str]:
    """Return what people read of a contract, by what it is."""
    from ..runtime.contract import LAYOUTS, PROOFS
    from ..runtime.files import percent

    found = {
        "scale": contract["input"]["scale"],
        "classes": ", ".join(contract.get("class_labels") or ["as many as it gives outputs"]),
    }
    if proof := contract.get("proof"):
        found = {"proof": f"{proof}: {PROOFS[proof]}"} | found
    if training := contract.get("training"):
        found["trained on"] = (
            f"{training['data']}, {training['n_images']:,} images, recipe {training['recipe']}, "
            f"{training['epochs']} epochs, seed {training['seed']}"
        )
    if measured := contract.get("measured"):
        found["test accuracy"] = (
            f"{percent(measured['accuracy'], 2)} of {measured['n']:,} ({measured['what']})"
        )
    if goldens := contract.get("goldens"):
        found["golden vectors"] = f"{goldens['n']}, tolerance {goldens['tolerance']:.2g}"
    if made := contract.get("quantization"):
        layout = f"layout {made['layout']}: {LAYOUTS[made['layout']]}"
        found["integers"] = f"int8 of {made['weight_bits']} bits, {layout}"
    for stage, versions in contract.get("versions", {}).items():
        found[f"{stage} with"] = ", ".join(f"{name} {text}" for name, text in versions.items())
    return found
