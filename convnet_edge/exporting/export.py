"""Export a checkpoint to one self-contained ONNX file, and prove it before it gets its name.

The file is made in memory and sealed with its contract; every check runs on those final bytes.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxscript
import torch

from ..data import dataset
from ..drawing import pictures
from ..networks import checkpoint, convnet
from ..runtime import contract, selftest
from ..runtime.classifier import Classifier
from ..runtime.errors import EdgeError
from ..runtime.files import require_writable
from ..runtime.measure import accuracy
from ..runtime.measure.check import Check
from ..runtime.measure.result import Accuracy, brief
from ..runtime.model_file import open_model
from ..runtime.pictures.preprocess import Preprocessing
from ..sealing import parity, seal
from ..sealing.goldens import choose_goldens
from . import graph
from .options import ExportOptions

VERSIONS = seal.versions(torch, onnx, onnxscript)


@dataclass(frozen=True)
class ParityReport:
    """What was proved of the final bytes, as `NAME.parity.json` holds it."""

    passed: bool
    model: str
    model_sha256: str
    model_bytes: int
    floor: float
    tolerance: float
    comparison: parity.Comparison
    checks: tuple[Check, ...]
    schema: str = "convnet-edge/parity/1"
    tolerance_factor: int = parity.TOLERANCE_FACTOR
    versions: dict[str, str] = field(default_factory=lambda: VERSIONS)

    __repr__ = brief


@dataclass(frozen=True)
class ExportResult:
    """What the export left. score: the file's own accuracy on the test set."""

    model_path: Path
    report_path: Path
    picture: pictures.Picture
    report: ParityReport
    n_parameters: int
    score: Accuracy

    __repr__ = brief


def export(options: ExportOptions, step: Callable[[str], None] = lambda _: None) -> ExportResult:
    """Export as `options` say. `step` hears what is being done.

    Example: `ce.export(ce.ExportOptions("checkpoints/convnet.safetensors", input="uint8"))`

    Raises:
        InputError: the checkpoint cannot be read.
        CheckFailedError: a check failed; the report is written, the model file is not.
    """
    path = options.out_path
    require_writable(path)
    step("reading checkpoint and test set")
    model, trained = checkpoint.load_model(options.checkpoint)
    labels = tuple(trained.header["class_labels"])
    test = dataset.require_test_set(dataset.Task.read(trained.header), options)
    step("computing float64 reference logits")
    reference = parity.from_pytorch(test.images, convnet.reference_logits(model, test.images))
    step("exporting the graph")
    plain = graph.to_onnx(model, takes=options.input)
    step("proving the final bytes")
    final = seal.seal(plain, _describe(options, model, trained.header, test, reference))
    proof = prove(final, reference)
    floor, tolerance = reference.floor, reference.tolerance
    report = ParityReport(
        passed=all(check.passed for check in proof.checks),
        model=path.name,
        model_sha256=hashlib.sha256(final).hexdigest(),
        model_bytes=len(final),
        floor=floor,
        tolerance=tolerance,
        comparison=proof.comparison,
        checks=proof.checks,
    )
    errors = selftest.errors_of(proof.logits, reference.logits).max(axis=1)
    picture_path = seal.beside(path, "parity", passed=report.passed).with_suffix(".png")
    picture = pictures.parity_errors(picture_path, errors, floor=floor, tolerance=tolerance)
    report_path = seal.hand_over(path, final, report, "parity", next_step=graph.NEXT_STEP)
    score = accuracy.score(proof.logits.argmax(axis=1), test.labels, labels)
    n_parameters = model.architecture.n_parameters
    return ExportResult(path, report_path, picture, report, n_parameters, score)


def prove(model: bytes, reference: parity.Reference) -> parity.Proof:
    """Run every check on the final bytes; none that can run is skipped because another failed."""
    try:
        onnx.checker.check_model(model, full_check=True)
        checks = [Check("onnx.checker", True, f"full check of onnx {onnx.__version__}")]
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        checks = [Check("onnx.checker", False, str(error).strip().splitlines()[0])]
    opening = "self-contained file"
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
    return parity.Proof((*checks, *whole.checks), whole.logits, whole.comparison)


def _describe(
    options: ExportOptions,
    model: convnet.Convnet,
    header: dict[str, Any],
    test: accuracy.ImageSet,
    reference: parity.Reference,
) -> dict[str, Any]:
    """Return the contract's document; no times and no paths in it."""
    architecture, labels = model.architecture, header["class_labels"]
    activity = convnet.hidden_activity(model, test.images)
    said = reference.logits.argmax(axis=1)  # not the labels
    chosen = choose_goldens(said, activity, test.images, n_classes=len(labels))
    goldens = contract.Goldens(
        test.images[chosen], reference.logits[chosen], chosen, reference.floor, reference.tolerance
    )
    proof = seal.describe_proof("float64 PyTorch", reference.logits, test, goldens, labels)
    coverage = {
        "n_hidden_units": activity.shape[1],
        "n_hidden_units_any_test_image_activates": int(activity.any(axis=0).sum()),
        "n_hidden_units_these_activate": int(activity[chosen].any(axis=0).sum()),
    }
    return proof | {
        "name": options.out_path.stem,
        "class_labels": labels,
        "training": header["training"],
        # the checkpoint was read, so the formula gives the number of its weights
        "parameters": {"n": architecture.n_parameters, "n_by_formula": architecture.n_parameters},
        "versions": {"training": header["versions"], "export": VERSIONS},
        "exporter": "dynamo",
        "goldens": proof["goldens"] | coverage,
        "input": seal.describe_input(options.input, architecture.image_shape),
        "output": {"name": "logits", "dtype": "float32", "meaning": "raw, before softmax"},
        "preprocessing": seal.describe_preprocessing(
            test.images, Preprocessing.read(header["preprocessing"])
        ),
        "decision": header["decision"],
    }
