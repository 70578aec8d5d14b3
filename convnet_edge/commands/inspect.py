"""Say what a model file is, from its own bytes: nothing is run, no framework is needed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime import contract, selftest
from ..runtime import model_file as onnxfile
from ..runtime.measure import cost
from ..runtime.selftest import Check
from ..sealing.default_model import choose_model


@dataclass(frozen=True)
class Inspection:
    """What the file holds. digests: whether it is unchanged since its export."""

    path: Path
    n_bytes: int
    sha256: str
    file: onnxfile.OnnxFile
    contract: contract.Contract
    digests: tuple[Check, ...]

    @property
    def n_parameters(self) -> int:
        """Weights of the network; an integer file's are those of the float one it was made from."""
        return cost.parameters(self.file, self.contract)

    @property
    def n_multiplications(self) -> int | None:
        """Multiplications an image in convolutions and linear layers; None if not known."""
        return cost.multiplications(self.file, self.contract)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values; golden images and samples by their number."""
        document = dict(self.contract.document)
        document["goldens"] = {
            "n": len(self.contract.goldens.images),
            "floor": self.contract.goldens.floor,
            "tolerance": self.contract.goldens.tolerance,
        }
        document["preprocessing"] = {
            **document["preprocessing"],
            "samples": [sample.name for sample in self.contract.samples],
        }
        return {
            "schema": "convnet-edge/inspect/1",
            "path": str(self.path),
            "model_bytes": self.n_bytes,
            "model_sha256": self.sha256,
            "ir_version": self.file.ir_version,
            "opsets": {domain or "ai.onnx": v for domain, v in self.file.opsets.items()},
            "ops": self.file.op_counts(),
            "n_parameters": self.n_parameters,
            "n_multiplications": self.n_multiplications,
            "inputs": {value.name: list(value.shape) for value in self.file.inputs},
            "outputs": {value.name: list(value.shape) for value in self.file.outputs},
            "digests_hold": all(check.passed for check in self.digests),
            "contract": document,
        }


def inspect(model: Path | None) -> Inspection:
    """Read the model file `model` (None: the default one).

    Raises:
        InputError: unreadable, not ONNX, or without a contract.
    """
    path = choose_model(model)
    data = onnxfile.read_model_bytes(path)
    stated = contract.read_contract(data)
    return Inspection(
        path=path,
        n_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        file=onnxfile.parse(data),
        contract=stated,
        digests=selftest.check_digests(data, stated),
    )
