"""Export a checkpoint to one self-contained ONNX file, and prove it before it gets its name.

The file is made in memory and sealed with its contract; every check runs on those final bytes.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript
import torch
from torch import nn

from ..data import dataset
from ..drawing import pictures
from ..networks import checkpoint, convnet
from ..networks.checkpoint import EARLIER, Checkpoint
from ..networks.convnet import Convnet
from ..networks.memory import copied
from ..runtime import admission, contract, selftest
from ..runtime.classifier import Classifier
from ..runtime.errors import CheckFailedError, EdgeError, InputError, first_line
from ..runtime.files import brief, percent, require_writable
from ..runtime.measure import accuracy
from ..runtime.measure.check import Check
from ..runtime.measure.result import Accuracy
from ..runtime.model_file import open_model, read_graph
from ..runtime.pictures.preprocess import Preprocessing
from ..runtime.session import Settings
from ..sealing import parity, seal
from ..sealing.goldens import choose_goldens
from . import fitness, graph, reference
from .options import SOURCE_CHANGED, ExportOptions

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
    """What the export left.

    opset: of the file. score: its own accuracy on the test images that were compared. note: what
    matters beside that, in words.
    """

    model_path: Path
    report_path: Path
    picture: pictures.Picture
    report: ParityReport
    n_parameters: int
    opset: int
    score: Accuracy
    note: str | None = None

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
    model, trained = checkpoint.load_model(
        options.checkpoint,
        arch=options.arch,
        allow_changed_source=options.allow_changed_source,
    )
    labels = tuple(trained.header["class_labels"])
    test = dataset.require_test_set(dataset.Task.read(trained.header), options)
    step("exporting the graph")
    plain = graph.to_onnx(model, trained.header["model"]["image_shape"], takes=options.input)
    step("running the network alone and in company")
    checks = fitness.check(model, test.images)
    step("computing float64 reference logits")
    known = reference.compute(model, test.images, limit_s=options.reference_s)
    step("proving the final bytes")
    final = _seal(path, plain, _describe(options, model, trained, test, known))
    proof = prove(final, known, Settings(ceiling=options.ceiling))
    checks += proof.checks
    report = ParityReport(
        passed=all(check.passed for check in checks),
        model=path.name,
        model_sha256=hashlib.sha256(final).hexdigest(),
        model_bytes=len(final),
        floor=known.floor,
        tolerance=known.tolerance,
        comparison=proof.comparison,
        checks=checks,
    )
    errors = selftest.errors_of(proof.logits, known.logits).max(axis=1)
    picture_path = seal.beside(path, "parity", passed=report.passed).with_suffix(".png")
    picture = pictures.parity_errors(
        picture_path, errors, floor=known.floor, tolerance=known.tolerance
    )
    report_path = seal.hand_over(path, final, report, "parity", next_step=graph.NEXT_STEP)
    compared = _compared(test, known)
    score = accuracy.score(proof.logits.argmax(axis=1), compared.labels, labels)
    return ExportResult(
        model_path=path,
        report_path=report_path,
        picture=picture,
        report=report,
        n_parameters=trained.header["model"]["n_parameters"],
        opset=open_model(final).opsets[""],
        score=score,
        note=_say_changed(score, trained.header["test"]) if trained.source_changed else None,
    )


def rehearse(model: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Try what of an export does not depend on the weights, before they are trained.

    image_shape: (C, H, W).

    Raises:
        CheckFailedError: `export` would fail, whatever is learnt.
    """
    model = copied(model).cpu().eval()
    found = read_graph(graph.to_onnx(model, image_shape))
    for reason in admission.foreign_nodes(found):
        raise _refused("an export would fail", reason)
    channels, *sides = image_shape
    size = (max(fitness.BATCH_SIZES), *sides, *[channels] * (channels > 1))
    fitness.check(model, np.random.default_rng(0).integers(0, 256, size, np.uint8))


def _refused(found: str, reason: str) -> CheckFailedError:
    return CheckFailedError(
        f"{found}: a device would refuse it: {reason}",
        expected="operators and sizes that a device admits",
        next_step="use another architecture, or write that module in other operations",
    )


def _seal(path: Path, plain: bytes, document: dict[str, Any]) -> bytes:
    """Return the final bytes, which a device admits."""
    try:
        return seal.seal(plain, document)
    except InputError as refused:
        raise _refused(f"{path} was not written", refused.found) from refused


def prove(model: bytes, known: parity.Reference, settings: Settings | None = None) -> parity.Proof:
    """Run every check on the final bytes; none that can run is skipped because another failed."""
    try:
        onnx.checker.check_model(model, full_check=True)
        checks = [Check("onnx.checker", True, f"full check of onnx {onnx.__version__}")]
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        checks = [Check("onnx.checker", False, first_line(error))]
    opening = "self-contained file"
    try:
        file = open_model(model)
        newer = graph.newer_operations(node.op_type for node in file.nodes if not node.domain)
        checks += parity.check_graph(file, newer=newer)
        opening = "loads alone"
        classifier = Classifier(file, settings=settings)
    except EdgeError as error:
        return parity.prove_nothing([*checks, Check(opening, False, error.line)], known)
    checks.append(Check(opening, True, "from memory, without a folder"))
    checks += selftest.run_selftest(classifier)
    checks += parity.check_batch_sizes(classifier, known)
    whole = parity.compare_all(classifier, known)
    return parity.Proof((*checks, *whole.checks), whole.logits, whole.comparison)


def _compared(test: accuracy.ImageSet, known: parity.Reference) -> accuracy.ImageSet:
    """Return the test images that the reference is of; the digest stays that of all."""
    if known.indices is None:
        return test
    return replace(test, images=known.images, labels=test.labels[known.indices], paths=())


def _say_changed(score: Accuracy, stored: dict[str, Any] | None) -> str:
    """Say that the source has changed, and what became of the accuracy if that tells."""
    then = (stored or {}).get("accuracy")
    if not isinstance(then, float) or (stored or {}).get("n") != score.n or then == score.accuracy:
        return SOURCE_CHANGED
    now = percent(score.accuracy, 2)
    return f"{SOURCE_CHANGED}: accuracy {now}, {percent(then, 2)} after the training"


def _describe(
    options: ExportOptions,
    model: nn.Module,
    trained: Checkpoint,
    test: accuracy.ImageSet,
    known: parity.Reference,
) -> dict[str, Any]:
    """Return the contract's document; no times and no paths in it."""
    header = trained.header
    labels, network = header["class_labels"], header["model"]
    images, activity = known.images, np.zeros((len(known.images), 0), bool)
    if isinstance(model, Convnet):
        activity = convnet.hidden_activity(model, images)
    said = known.logits.argmax(axis=1)  # not the labels
    chosen = choose_goldens(said, activity, images, n_classes=len(labels))
    indices = chosen if known.indices is None else known.indices[chosen]
    goldens = contract.Goldens(
        images[chosen], known.logits[chosen], indices, known.floor, known.tolerance
    )
    what = "float64 PyTorch"
    proof = seal.describe_proof(what, known.logits, _compared(test, known), goldens, labels)
    if known.n_all:
        some = f"on {len(images):,} of the {known.n_all:,} test images, a seeded sample"
        proof["measured"]["what"] = f"{what} {some}"
    parameters = {"n": network["n_parameters"]}
    if isinstance(model, Convnet):
        # the checkpoint was read, so the formula gives the number of its weights
        parameters["n_by_formula"] = parameters["n"]
        proof["goldens"] |= {
            "n_hidden_units": activity.shape[1],
            "n_hidden_units_any_test_image_activates": int(activity.any(axis=0).sum()),
            "n_hidden_units_these_activate": int(activity[chosen].any(axis=0).sum()),
        }
    return proof | {
        "name": options.out_path.stem,
        "class_labels": labels,
        "training": _describe_training(trained),
        "parameters": parameters,
        "versions": {"training": header["versions"], "export": VERSIONS},
        "exporter": "dynamo",
        "input": seal.describe_input(options.input, network["image_shape"]),
        "output": {"name": "logits", "dtype": "float32", "meaning": "raw, before softmax"},
        "preprocessing": seal.describe_preprocessing(
            test.images, Preprocessing.read(header["preprocessing"])
        ),
        "decision": header["decision"],
    }


def _describe_training(trained: Checkpoint) -> dict[str, Any]:
    """Return the recipe; where the network's file changed since, which that was and which it is."""
    training: dict[str, Any] = trained.header["training"]
    if trained.source_changed:
        earlier = [*training.get(EARLIER, ()), trained.header["model"]["source_sha256"]]
        return training | {"source_sha256": trained.source_sha256, EARLIER: earlier}
    return training
