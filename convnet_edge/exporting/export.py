"""Export a checkpoint to one self-contained ONNX file, and prove it before it gets its name.

The file is made in memory, sealed with its contract, and then every check runs on those final
bytes. What was proved is in the report; a file that fails a check is never written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxscript
import torch

from ..data import fashion_mnist as data
from ..drawing import pictures
from ..networks import checkpoint
from ..networks.checkpoint import Checkpoint
from ..networks.convnet import (
    Convnet,
    count_parameters,
    hidden_activity,
    reference_logits,
)
from ..runtime import contract, selftest
from ..runtime.classifier import Classifier
from ..runtime.errors import CheckFailedError, EdgeError
from ..runtime.files import write_atomically, write_json
from ..runtime.measure import accuracy
from ..runtime.measure.accuracy import ImageSet
from ..runtime.measure.result import Accuracy, Check, as_json
from ..runtime.model_file import open_model
from ..sealing import document, goldens, parity
from ..sealing.document import InputDtype
from ..sealing.parity import Comparison, Proof, Reference
from . import graph
from .options import ExportOptions

NEXT_STEP = "try another torch or onnxscript version"


def _versions() -> dict[str, str]:
    return document.versions(torch, onnx, onnxscript)


@dataclass(frozen=True)
class ParityReport:
    """What was proved of the final bytes, as `NAME.parity.json` holds it."""

    passed: bool
    model: str
    model_sha256: str
    model_bytes: int
    floor: float
    tolerance: float
    comparison: Comparison
    checks: tuple[Check, ...]
    schema: str = "convnet-edge/parity/1"
    tolerance_factor: int = parity.TOLERANCE_FACTOR
    versions: dict[str, str] = field(default_factory=_versions)


@dataclass(frozen=True)
class ExportResult:
    """What the export left. score: the file's own accuracy on the test set."""

    model_path: Path
    report_path: Path
    picture: pictures.Picture
    report: ParityReport
    n_parameters: int
    score: Accuracy


def export(options: ExportOptions, step: Callable[[str], None] = lambda _: None) -> ExportResult:
    """Export as `options` say. `step` hears what is being done.

    Raises:
        InputError: the checkpoint cannot be read.
        CheckFailedError: a check failed; the report is written, the model file is not.
    """
    step("reading checkpoint and test set")
    model, trained = checkpoint.load_model(options.checkpoint)
    test = data.load_test_set()
    step("computing float64 reference logits")
    reference = parity.from_pytorch(test.images, reference_logits(model, test.images))
    step("exporting the graph")
    exported = to_onnx(model, model.architecture.image_shape, takes=options.input)
    step("proving the final bytes")
    final = contract.seal(exported, _describe(options, model, trained, test, reference))
    proof = prove(final, reference)
    path = options.out_path
    report = ParityReport(
        passed=all(check.passed for check in proof.checks),
        model=path.name,
        model_sha256=hashlib.sha256(final).hexdigest(),
        model_bytes=len(final),
        floor=reference.floor,
        tolerance=reference.tolerance,
        comparison=proof.comparison,
        checks=proof.checks,
    )
    report_path = path.with_suffix(".parity.json")
    write_json(report_path, as_json(report))
    picture = pictures.parity_errors(
        path.with_suffix(".parity.png"),
        parity.image_errors(proof.logits, reference),
        floor=reference.floor,
        tolerance=reference.tolerance,
    )
    older = " (the older file of that name is untouched)" if path.exists() else ""
    selftest.require(
        proof.checks,
        what=f"{path} was not written{older}",
        next_step=f"read {report_path}; {NEXT_STEP}",
        listed=True,
    )
    write_atomically(path, final)
    labels = tuple(trained.header["class_labels"])
    score = accuracy.score(proof.logits.argmax(axis=1), test.labels, labels)
    return ExportResult(path, report_path, picture, report, count_parameters(model), score)


def to_onnx(
    model: Convnet, image_shape: tuple[int, int, int], *, takes: InputDtype = "float32"
) -> bytes:
    """Return `model` as a serialised ModelProto: opset 18, IR 8, free batch axis, no metadata.

    The graph cuts off the pixels that never reach the output and, if it `takes` uint8, scales grey
    values itself. Postcondition, checked by `prove` on the sealed file: the graph takes `images`,
    gives `logits`, and holds every weight; no stack trace, path or time is left in it.

    Raises:
        CheckFailedError: torch's exporter gives up, or leaves a graph that cannot be rewritten.
    """
    try:
        proto = graph.trace(model, image_shape)
        graph.flatten(proto)
        graph.trim_input(proto, model.architecture.needed_sides)
        if takes == "uint8":
            graph.take_uint8(proto)
        proto = graph.finish(proto)
    except graph.ERRORS as error:
        raise CheckFailedError(
            f"torch {torch.__version__} with onnxscript {onnxscript.__version__} could not export "
            f"the model: {str(error).splitlines()[0]}",
            expected="a graph in which one convolution reads the images",
            next_step=NEXT_STEP,
        ) from error
    serialised: bytes = proto.SerializeToString(deterministic=True)
    return serialised


def prove(model: bytes, reference: Reference) -> Proof:
    """Run every check on the final bytes; none that can run is skipped because another failed."""
    checks, opening = [_check_onnx(model)], "self-contained file"
    try:
        file = open_model(model)
        checks += parity.check_graph(file)
        opening = "loads alone"
        classifier = Classifier(file)
    except EdgeError as error:
        return parity.prove_nothing([*checks, Check(opening, False, error.found)], reference)
    checks.append(Check(opening, True, "from memory, without a folder"))
    checks += selftest.run_selftest(classifier)
    checks += parity.check_batch_sizes(classifier, reference)
    whole = parity.compare_all(classifier, reference)
    return Proof((*checks, *whole.checks), whole.logits, whole.comparison)


def _check_onnx(model: bytes) -> Check:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return Check("onnx.checker", False, str(error).strip().splitlines()[0])
    return Check("onnx.checker", True, f"full check of onnx {onnx.__version__}")


def _describe(
    options: ExportOptions,
    model: Convnet,
    trained: Checkpoint,
    test: ImageSet,
    reference: Reference,
) -> dict[str, Any]:
    """Return the contract's document; no times and no paths in it."""
    header, activity = trained.header, hidden_activity(model, test.images)
    labels = header["class_labels"]
    chosen = goldens.choose_goldens(test.labels, activity, test.images, n_classes=len(labels))
    proof = document.describe_proof("float64 PyTorch", reference, test, chosen, labels)
    coverage = {
        "n_hidden_units": activity.shape[1],
        "n_hidden_units_any_test_image_activates": int(activity.any(axis=0).sum()),
        "n_hidden_units_these_activate": int(activity[chosen].any(axis=0).sum()),
    }
    return {
        "name": options.out_path.stem,
        "class_labels": labels,
        "training": header["training"],
        "parameters": {
            "n": count_parameters(model),
            "n_by_formula": model.architecture.n_parameters,
        },
        "versions": {"training": header["versions"], "export": _versions()},
        "exporter": "dynamo",
        "measured": proof["measured"],
        "goldens": proof["goldens"] | coverage,
        **document.describe_input(options.input, model.architecture.image_shape),
        **document.describe_use(test.images),
    }
