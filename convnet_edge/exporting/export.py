"""Export a checkpoint to one self-contained ONNX file, and prove it before it gets its name.

The file is made in memory, sealed with its contract, and then every check runs on those final
bytes. What was proved is in the report; a file that fails a check is never written.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from .. import __version__
from ..data import fashion_mnist as data
from ..drawing import pictures as plots
from ..networks import checkpoint
from ..networks.convnet import (
    Convnet,
    count_parameters,
    hidden_activity,
    needed_sides,
    parameter_formula,
    reference_logits,
)
from ..runtime import contract, preprocess, selftest
from ..runtime.classifier import Classifier
from ..runtime.errors import CheckFailedError, EdgeError
from ..runtime.files import write_atomically, write_json
from ..runtime.idx import ImageSet
from ..runtime.measure import accuracy
from ..runtime.selftest import Check
from ..sealing import goldens as golden
from ..sealing import parity
from ..sealing.parity import IR_VERSION, OPSET, Reference
from . import graph as rewrite
from .options import Exporter, ExportOptions, InputType

REPORT_SCHEMA = "convnet-edge/parity/1"
INPUT_RANGES: dict[InputType, dict[str, Any]] = {
    "float32": {"range": [0.0, 1.0], "scale": "uint8 grey value / 255"},
    "uint8": {"range": [0, 255], "scale": "the uint8 grey value; the graph scales it"},
}
EXAMPLE_BATCH_SIZE = 2  # 1 would be specialised to a constant (pytorch issue 151582)


@dataclass(frozen=True)
class ExportResult:
    """What the export left. score: the file's own accuracy on the test set."""

    model_path: Path
    report_path: Path
    picture: plots.Picture
    n_bytes: int
    sha256: str
    n_parameters: int
    checks: tuple[Check, ...]
    comparison: parity.Comparison
    score: accuracy.Accuracy
    report: dict[str, Any]


def export(config: ExportOptions, step: Callable[[str], None] = lambda _: None) -> ExportResult:
    """Export as `config` says. `step` hears what is being done.

    Raises:
        InputError: the checkpoint cannot be read.
        CheckFailedError: a check failed; the report is written, the model file is not.
    """
    step("reading checkpoint and test set")
    model, trained = checkpoint.load_model(config.checkpoint)
    test = data.load_test_set()
    step("computing float64 reference logits")
    reference = reference_logits(model, test.images)
    step("exporting the graph")
    graph = to_onnx(model, trained.image_shape, exporter=config.exporter, takes=config.input)
    step("proving the final bytes")
    document = _describe(config, model, trained, test, reference)
    final = contract.seal(graph, document)
    comparison, checks = prove(final, reference)
    report = _report(config, final, reference, comparison, checks)
    report_path = config.out_path.with_suffix(".parity.json")
    write_json(report_path, report)
    picture = plots.parity_errors(
        config.out_path.with_suffix(".parity.png"),
        comparison.image_errors,
        floor=reference.floor,
        tolerance=reference.tolerance,
    )
    older = " (the older file of that name is untouched)" if config.out_path.exists() else ""
    selftest.require(
        checks,
        what=f"{config.out_path} was not written{older}",
        next_step=f"read {report_path}; {_another_way(config.exporter)}",
        listed=True,
    )
    write_atomically(config.out_path, final)
    logits = Classifier(config.out_path).logits(test.images)
    return ExportResult(
        model_path=config.out_path,
        report_path=report_path,
        picture=picture,
        n_bytes=len(final),
        sha256=report["model_sha256"],
        n_parameters=count_parameters(model),
        checks=checks,
        comparison=comparison,
        score=accuracy.score(logits.argmax(axis=1), test.labels, tuple(document["class_labels"])),
        report=report,
    )


def to_onnx(
    model: Convnet,
    image_shape: tuple[int, int, int],
    *,
    exporter: Exporter = "dynamo",
    takes: InputType = "float32",
) -> bytes:
    """Return `model` as a serialised ModelProto: opset 18, IR 8, free batch axis, no metadata.

    The graph cuts off the pixels that never reach the output and, if it `takes` uint8, scales grey
    values itself. Postcondition, checked by `prove` on the sealed file: the graph takes `images`,
    gives `logits`, and holds every weight; no stack trace, path or time is left in it.

    Raises:
        CheckFailedError: torch's exporter gives up, or leaves a graph that cannot be rewritten.
    """
    versions = f"torch {torch.__version__} with onnxscript {metadata.version('onnxscript')}"
    try:
        proto = _trace(model, torch.zeros(EXAMPLE_BATCH_SIZE, *image_shape), exporter)
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:  # onnxscript's passes: the latter
        raise CheckFailedError(
            f"{versions} could not export the model: {str(error).splitlines()[0]}",
            expected="an ONNX graph",
            next_step=_another_way(exporter),
        ) from error
    _strip(proto)
    proto.ir_version = IR_VERSION
    proto.graph.name = "convnet"
    try:
        rewrite.flatten(proto)
        rewrite.trim_input(proto, needed_sides(image_shape, model.kernel_size))
        if takes == "uint8":
            rewrite.take_uint8(proto)
        proto = rewrite.finish(proto)
    except (ValueError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailedError(
            f"{versions} gives a graph that is not the convnet's: {str(error).splitlines()[0]}",
            expected="one convolution that reads the images, and shapes that fit",
            next_step=_another_way(exporter),
        ) from error
    serialised: bytes = proto.SerializeToString(deterministic=True)
    return serialised


def _trace(model: Convnet, example: torch.Tensor, exporter: Exporter) -> onnx.ModelProto:
    """Run torch's exporter, quietly."""
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"]}
    names |= {"opset_version": OPSET, "verbose": False}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), _without_logging():
        warnings.simplefilter("ignore")  # about torch's own internals
        if exporter == "torchscript":
            axes = {"images": {0: "batch"}, "logits": {0: "batch"}}
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "traced.onnx"
                torch.onnx.export(model, (example,), path, dynamo=False, dynamic_axes=axes, **names)
                return onnx.load(path)
        batch = {"x": {0: torch.export.Dim("batch")}}
        program = torch.onnx.export(model, (example,), dynamo=True, dynamic_shapes=batch, **names)
    if program is None:
        raise TypeError("torch.onnx.export(dynamo=True) returned no program")
    proto: onnx.ModelProto = program.model_proto
    return proto


def _another_way(exporter: Exporter) -> str:
    if exporter == "dynamo":
        return "try --exporter torchscript, or another torch or onnxscript version"
    return "try another torch or onnxscript version"


def prove(model: bytes, reference: Reference) -> tuple[parity.Comparison, tuple[Check, ...]]:
    """Run every check on the final bytes; none is skipped because another failed."""
    checks = [_check_onnx(model), *parity.check_graph(model), parity.check_alone(model, reference)]
    try:
        classifier = Classifier(model)
    except EdgeError as error:
        checks.append(Check("opens in onnxruntime", False, error.found))
        nothing = np.full(reference.logits.shape, np.nan)
        return parity.compare(nothing, reference), tuple(checks)
    checks += selftest.run_selftest(model, classifier)
    for batch_size in parity.BATCH_SIZES:
        checks.append(parity.check_batch_size(classifier, reference, batch_size))
    comparison, whole = parity.compare_all(classifier, reference)
    return comparison, (*checks, *whole)


def _check_onnx(model: bytes) -> Check:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return Check("onnx.checker", False, str(error).strip().splitlines()[0])
    return Check("onnx.checker", True, f"full check of onnx {onnx.__version__}")


def _strip(proto: onnx.ModelProto) -> None:
    """Remove what says where and when the graph was made; its function stays as it is."""
    graph = proto.graph
    parts = (
        graph.node, graph.initializer, graph.input, graph.output, graph.value_info
    )  # fmt: skip
    for owner in (proto, graph, *(item for part in parts for item in part)):
        del owner.metadata_props[:]
        owner.ClearField("doc_string")


@contextlib.contextmanager
def _without_logging() -> Any:
    """Keep torch's exporter from writing its progress to the user's terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _describe(
    config: ExportOptions,
    model: Convnet,
    trained: checkpoint.Checkpoint,
    test: ImageSet,
    reference: Reference,
) -> dict[str, Any]:
    """Return the contract's document; no times and no paths in it."""
    labels = trained.header["class_labels"]
    activity = hidden_activity(model, test.images)
    chosen = golden.choose_goldens(test.labels, activity, test.images, n_classes=len(labels))
    score = accuracy.score(reference.logits.argmax(axis=1), test.labels, tuple(labels))
    return {
        "name": config.out_path.stem,
        "class_labels": labels,
        "input": {
            "name": "images",
            "dtype": config.input,
            "shape": list(trained.image_shape),
            "layout": "NCHW, batch axis free",
            **INPUT_RANGES[config.input],
        },
        "output": {"name": "logits", "dtype": "float32", "meaning": "raw, before softmax"},
        "preprocessing": {
            "steps": list(preprocess.STEPS),
            "pixel_tolerance": selftest.PIXEL_TOLERANCE,
            "samples": [
                {
                    "name": sample.name,
                    "encoded": contract.encode_bytes(sample.encoded),
                    "pixels": contract.encode_pixels(sample.pixels),
                }
                for sample in golden.make_pictures(test.images)
            ],
        },
        "training": trained.header["training"],
        "measured": {
            "what": "float64 PyTorch on the test images",
            "n": score.n,
            "n_correct": score.n_correct,
            "accuracy": score.accuracy,
            "interval_95": asdict(score.interval),
            "images_sha256": test.images_sha256,
            "labels_sha256": test.labels_sha256,
        },
        "parameters": {
            "n": count_parameters(model),
            "n_by_formula": parameter_formula(
                trained.image_shape,
                kernel_size=trained.header["model"]["kernel_size"],
                n_classes=len(labels),
                width=trained.header["model"].get("width", 1.0),
            ),
        },
        "versions": {"training": trained.header["versions"], "export": _versions()},
        "exporter": config.exporter,
        "goldens": {
            "indices": chosen.tolist(),
            "n_hidden_units": activity.shape[1],
            "n_hidden_units_any_test_image_activates": int(activity.any(axis=0).sum()),
            "n_hidden_units_these_activate": int(activity[chosen].any(axis=0).sum()),
            "images": contract.encode_pixels(test.images[chosen]),
            "logits": reference.logits[chosen].round(golden.REFERENCE_DECIMALS).tolist(),
            "floor": reference.floor,
            "tolerance": reference.tolerance,
        },
    }


def _report(
    config: ExportOptions,
    final: bytes,
    reference: Reference,
    comparison: parity.Comparison,
    checks: tuple[Check, ...],
) -> dict[str, Any]:
    return {
        "schema": REPORT_SCHEMA,
        "passed": all(check.passed for check in checks),
        "model": config.out_path.name,
        "model_sha256": hashlib.sha256(final).hexdigest(),
        "model_bytes": len(final),
        "floor": reference.floor,
        "tolerance": reference.tolerance,
        "tolerance_factor": parity.TOLERANCE_FACTOR,
        "comparison": comparison.as_json(),
        "checks": selftest.as_json(checks),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    return {
        "convnet-edge": __version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxscript": metadata.version("onnxscript"),
    }
