"""`inspect`: what a model file is, from its own bytes; nothing is run, no framework is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.options import Options, option
from ..sealing.default_model import MODEL_HELP, MODEL_TEXT, choose_model
from .terminal import Done, Terminal

if TYPE_CHECKING:
    from ..runtime.model_file import ModelFile

LAYOUTS = {
    "portable": "standard QDQ, for any runtime",
    "ort-cpu": "for onnxruntime's CPU provider only",
}


@dataclass(frozen=True)
class InspectOptions(Options):
    """What to look into."""

    model: Path | None = option(  # noqa: RUF009 - it returns a field
        None, MODEL_HELP, positional=True, default_text=MODEL_TEXT
    )


@dataclass(frozen=True)
class Inspection:
    """What the file holds."""

    path: Path
    file: ModelFile

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values; golden images and samples by their number."""
        file, stated, goldens = self.file, self.file.contract, self.file.contract.goldens
        samples = [sample.name for sample in stated.samples]
        return {
            "schema": "convnet-edge/inspect/1",
            "path": str(self.path),
            "model_bytes": len(file.data),
            "model_sha256": file.sha256,
            "ir_version": file.ir_version,
            "opsets": {domain or "ai.onnx": version for domain, version in file.opsets.items()},
            "ops": file.op_counts(),
            "n_parameters": file.n_parameters,
            "n_multiplications": file.n_multiplications,
            "inputs": {name: list(shape) for name, shape in file.inputs.items()},
            "outputs": {name: list(shape) for name, shape in file.outputs.items()},
            "digests_hold": all(check.passed for check in file.digests),
            "contract": {
                **stated.document,
                "goldens": {
                    "n": len(goldens.images),
                    "floor": goldens.floor,
                    "tolerance": goldens.tolerance,
                },
                "preprocessing": {**stated.document["preprocessing"], "samples": samples},
            },
        }


def command(options: InspectOptions, terminal: Terminal) -> Done:
    """Print what a model file is: contract, operations, opset, parameters, digests."""
    found = inspect(options)
    document = found.as_json()
    for name, text in _facts(document).items():
        terminal.say(f"{name:>15}  {text}")
    terminal.say(*(f"{'':>15}  {check.line()}" for check in found.file.digests))
    return Done(document, f"convnet-edge verify {found.path}")


def inspect(options: InspectOptions) -> Inspection:
    """Read the model file.

    Raises:
        InputError: unreadable, not ONNX, or without a contract.
    """
    from ..runtime.model_file import open_model

    path = choose_model(options.model)
    return Inspection(path, open_model(path))


def _facts(document: dict[str, Any]) -> dict[str, str]:
    """Return what people read of an inspection, by what it is."""
    contract, n_multiplications = document["contract"], document["n_multiplications"]
    measured, training, goldens = (contract[k] for k in ("measured", "training", "goldens"))
    integers = ""
    if made := contract.get("quantization"):
        layout = f"layout {made['layout']}: {LAYOUTS[made['layout']]}"
        integers = f", int8 of {made['weight_bits']} bits, {layout}"
    versions = {
        f"{stage} with": ", ".join(f"{name} {version}" for name, version in packages.items())
        for stage, packages in contract["versions"].items()
    }
    return {
        "file": f"{document['path']}  ({document['model_bytes']:,} bytes, sha256 "
        f"{document['model_sha256'][:16]}…)",
        "format": f"opset {document['opsets']}, IR {document['ir_version']}",
        "operations": ", ".join(f"{count} {name}" for name, count in document["ops"].items()),
        "parameters": f"{document['n_parameters']:,}{integers}",
        "multiplications": "unknown: shapes are not in the file"
        if n_multiplications is None
        else f"{n_multiplications:,} an image",
        "input": f"{document['inputs']}, {contract['input']['scale']}",
        "output": f"{document['outputs']}",
        "classes": ", ".join(contract["class_labels"]),
        "trained on": f"{training['data']}, {training['n_images']:,} images, recipe "
        f"{training['recipe']}, {training['epochs']} epochs, seed {training['seed']}",
        "test accuracy": f"{measured['accuracy']:.2%} of {measured['n']:,} ({measured['what']})",
        "golden vectors": f"{goldens['n']}, tolerance {goldens['tolerance']:.2g}",
        **versions,
    }
