"""Seal a classifier that another exporter wrote, as far as it can be proved without its network.

Its reference outputs come from two programs that share nothing: ONNX's reference evaluator in
float64, and onnxruntime with its optimisations off. That shows that the file is computed right on
any machine; whether it is what was trained, only its maker can say.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnxscript.optimizer

from ..data import cache, dataset
from ..runtime import selftest
from ..runtime.classifier import Classifier
from ..runtime.contract import PROOFS, Array, Goldens
from ..runtime.elsewhere import unproved
from ..runtime.elsewhere.given import EXPORT_ANEW
from ..runtime.errors import first_line
from ..runtime.files import brief, require_writable
from ..runtime.measure import accuracy
from ..runtime.measure.accuracy import ImageSet
from ..runtime.measure.check import Check
from ..runtime.measure.result import Accuracy
from ..runtime.model_file import ModelFile
from ..runtime.options import require
from ..runtime.session import Settings, import_onnxruntime
from ..sealing import parity, seal
from ..sealing.goldens import choose_goldens
from ..sealing.normalization import HIDING_WEIGHTS, take_pixels
from .evaluator import Evaluated, evaluate
from .options import AdoptOptions

VERSIONS = seal.versions(onnx, import_onnxruntime())
N_COMPARED = 512  # pictures at most that are also run with the optimisations off
MAX_NOISE = 1e-3  # of the largest output; networks show a thousandth of that
# times the noise of the reference evaluator, which sums by halves: what onnxruntime may show, whose
# fast pools add thousands of numbers one after the other (26 times for a mean over 64 x 64)
MOST_ORDERS = 64
PYTORCH = "float64 PyTorch"


@dataclass(frozen=True)
class AdoptReport:
    """What was proved of the sealed copy, as `NAME.adopt.json` holds it.

    proof: what it amounts to. n_goldens, n_evaluated: reference images, and those of them that the
    reference evaluator ran. changes: what differs from the source's graph.
    """

    passed: bool
    source: str
    source_sha256: str
    model: str
    model_sha256: str
    model_bytes: int
    proof: str
    changes: tuple[str, ...]
    n_goldens: int
    n_evaluated: int
    floor: float
    tolerance: float
    accuracy: Accuracy
    checks: tuple[Check, ...]
    schema: str = "convnet-edge/adopt/1"
    versions: dict[str, str] = field(default_factory=lambda: VERSIONS)

    __repr__ = brief


@dataclass(frozen=True)
class AdoptResult:
    """The sealed copy, and the report on it."""

    model_path: Path
    report_path: Path
    report: AdoptReport

    __repr__ = brief


@dataclass(frozen=True)
class _Reference:
    """The outputs that the file must give.

    goldens: (K,) positions in the test set. images, logits: of these, evaluated as far as that ran.
    plain: (N, C) of the first test images, by onnxruntime with its optimisations off.
    """

    goldens: Array
    images: Array
    logits: Array
    floor: float
    evaluated: Evaluated
    plain: Array

    @property
    def tolerance(self) -> float:
        """The largest error that the file may show."""
        return parity.TOLERANCE_FACTOR * self.floor


def adopt(
    options: AdoptOptions,
    step: Callable[[str], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> AdoptResult:
    """Seal as `options` say. `step` hears what is being done, `note` what may not be as meant.

    Example: `ce.adopt(ce.AdoptOptions("theirs.onnx", data="photos/", classes="classes.txt",
    preprocessing="preprocessing.json"))`

    Raises:
        InputError: the model, or what is said of it, cannot be used; or there are no pictures.
        CheckFailedError: a check failed; the report is written, the model file is not.
    """
    path = options.out_path
    require_writable(path)
    is_other = not (path.exists() and options.model.exists() and path.samefile(options.model))
    require(is_other, f"{path} is the file to adopt", "another name for the copy", "--out")
    step(f"reading {options.model} and its pictures")
    source = unproved.open_any(options.model, options, ceiling=options.ceiling)
    found = f"{options.model}, which holds a contract"
    require(not source.holds_contract, found, "an .onnx from elsewhere", "MODEL")
    if source.contract.normalization is None and source.contract.input_dtype == "float32":
        note("no mean and std in --preprocessing: its first layer gets pixels from 0 to 1")
    test = _pictures(source, options)
    step("writing the graph")
    changes, draft = _rewritten(source)
    step("running it with ONNX's reference evaluator, and with onnxruntime's optimisations off")
    settings = Settings(ceiling=options.ceiling)
    classifier = Classifier(draft, settings=settings)
    reference = _refer(classifier, test)
    step("proving the final bytes")
    final = seal.seal(draft.data, _describe(path.stem, classifier, reference, test))
    checks, score = _prove(Classifier(final, settings=settings), source, reference, test)
    report = AdoptReport(
        passed=all(check.passed or check.skipped for check in checks),
        source=options.model.name,
        source_sha256=source.sha256,
        model=path.name,
        model_sha256=hashlib.sha256(final).hexdigest(),
        model_bytes=len(final),
        proof=PROOFS["adopted"],
        changes=changes,
        n_goldens=len(reference.goldens),
        n_evaluated=len(reference.evaluated.exact),
        floor=reference.floor,
        tolerance=reference.tolerance,
        accuracy=score,
        checks=checks,
    )
    report_path = seal.hand_over(path, final, report, "adopt", next_step=EXPORT_ANEW)
    return AdoptResult(path, report_path, report)


def _pictures(source: ModelFile, options: AdoptOptions) -> ImageSet:
    test = dataset.load_again(dataset.Task.of(source.contract), options).test
    expected = "some: a tenth of its pictures, by their digests, or all in a folder test/"
    require(len(test) > 0, f"{options.data} has no test pictures", expected, "--data")
    # where `bench` finds them
    return cache.keep_set(
        options.cache_dir, test, source.contract.preprocessing, source.contract.class_labels
    )


def _rewritten(source: ModelFile) -> tuple[tuple[str, ...], ModelFile]:
    """Return what is changed, and the file of that: pixels in, logits out, every shape inferred."""
    file = take_pixels(source)
    changes = ["input and output state their shapes, weights are no inputs"]
    proto, opset = _in_usual_opset(onnx.load_from_string(file.data))
    changes.append(opset)
    if HIDING_WEIGHTS & {node.op_type for node in proto.graph.node}:
        proto = onnxscript.optimizer.optimize(proto)
        changes.append("constants are folded")
    if source.contract.normalization is not None:
        changes.append("the first operations, Mul and Add, apply mean and deviation")
    document = file.contract.document
    if file.contract.gives_probabilities:
        _take_off_softmax(proto.graph)
        changes.append("the last operation, Softmax, is left out: what reads logits applies it")
        document = document | {"output": document["output"] | {"meaning": "before softmax"}}
    graph = proto.graph
    for owner in (proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        owner.ClearField("doc_string")  # of its maker: paths, times
        owner.ClearField("metadata_props")
    del graph.value_info[:]
    proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    if _pad_by_numbers(proto.graph):
        changes.append("paddings are numbers")
    data = bytes(proto.SerializeToString(deterministic=True))
    return tuple(changes), unproved.state(data, document, file.path)


def _in_usual_opset(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """Return the model in the opset of an export, if it is older and can be, and what was done."""
    (opset,) = (one.version for one in proto.opset_import if one.domain in ("", "ai.onnx"))
    said = f"opset {opset} and IR version {proto.ir_version} stay"
    if opset >= parity.OPSET:
        return proto, said
    try:
        newer = onnx.version_converter.convert_version(proto, parity.OPSET)
    except (onnx.version_converter.ConvertError, RuntimeError) as error:
        reason = str(error).strip().splitlines() or ["it is not said why"]
        return proto, f"{said}, as they cannot be raised: {reason[0][:200]}"
    newer.ir_version = parity.IR_VERSIONS[parity.OPSET]
    return newer, f"opset {opset} becomes {parity.OPSET}, IR version {newer.ir_version}"


def _pad_by_numbers(graph: onnx.GraphProto) -> bool:
    """Write out paddings that are given by a word, as TensorFlow's; return whether there were any.

    Where the sides are known; else the word stays. ONNX's reference evaluator gives a MaxPool of
    SAME_LOWER too few places (onnx 1.23), which the proof would find.
    """
    known = {tensor.name: [*tensor.dims[2:]] for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info):
        known[value.name] = [one.dim_value for one in value.type.tensor_type.shape.dim[2:]]
    found = False
    for node in graph.node:
        about = {attribute.name: attribute for attribute in node.attribute}
        word = about["auto_pad"].s if "auto_pad" in about else b""
        sides = known.get(node.input[0], ())
        weights = node.input[1] if len(node.input) > 1 else ""
        kernel = about["kernel_shape"].ints if "kernel_shape" in about else known.get(weights, ())
        if not word.startswith(b"SAME") or not sides or 0 in (*sides, *kernel) or not kernel:
            continue
        found = True
        ones = onnx.AttributeProto(ints=[1] * len(sides))
        strides, dilations = (about.get(key, ones).ints for key in ("strides", "dilations"))
        reach = [(k - 1) * dilation + 1 for k, dilation in zip(kernel, dilations, strict=True)]
        missing = [
            max(0, (side - 1) // stride * stride + width - side)
            for side, stride, width in zip(sides, strides, reach, strict=True)
        ]
        less, more = [n // 2 for n in missing], [n - n // 2 for n in missing]
        pads = [*less, *more] if word == b"SAME_UPPER" else [*more, *less]
        for name in about.keys() & {"auto_pad", "pads"}:
            node.attribute.remove(about[name])
        node.attribute.append(onnx.helper.make_attribute("pads", pads))
    return found


def _take_off_softmax(graph: onnx.GraphProto) -> None:
    """Let what the last Softmax takes be the output."""
    output = graph.output[0].name
    (softmax,) = (node for node in graph.node if output in node.output)
    logits = softmax.input[0]
    graph.node.remove(softmax)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [output if name == logits else name for name in names]


def _unfused(file: ModelFile, like: Classifier) -> Classifier:
    """Open a file as another is, but with onnxruntime's optimisations off."""
    return Classifier(file, settings=replace(like.session.settings, fuse=False))


def _refer(classifier: Classifier, test: ImageSet) -> _Reference:
    """Choose reference images, and compute what the file must give for them."""
    plain, images = _unfused(classifier.file, classifier), test.images[:N_COMPARED]
    logits = plain.logits(images).astype(np.float64)
    labels = plain.contract.class_labels
    nothing = np.zeros((len(images), 0), bool)  # hidden units, of which nothing is known
    said = logits.argmax(axis=1)
    goldens = choose_goldens(said, nothing, images, n_classes=len(labels))
    inputs = plain.to_input(images[goldens])
    evaluated = evaluate(onnx.load_from_string(plain.file.data), inputs)
    right, n = logits[goldens], len(evaluated.exact)
    if n:
        right[:n] = evaluated.exact
        floor = unproved.noise(evaluated.exact, [evaluated.rounded])
        in_order = max(
            selftest.largest_error(logits[goldens[:n]], evaluated.exact),
            selftest.largest_error(classifier.logits(images), logits),
        )
        floor = max(floor, in_order) if in_order <= MOST_ORDERS * floor else floor
    else:
        floor = unproved.noise(right, [classifier.logits(images[goldens])])
    return _Reference(goldens, images[goldens], right, floor, evaluated, logits)


def _describe(
    name: str, classifier: Classifier, reference: _Reference, test: ImageSet
) -> dict[str, Any]:
    """Return the contract's document; no times and no paths in it."""
    stated, how = classifier.contract.document, classifier.contract.preprocessing
    goldens = Goldens(
        reference.images, reference.logits, reference.goldens, reference.floor, reference.tolerance
    )
    logits = classifier.logits(test.images)
    labels = stated["class_labels"]
    proof = seal.describe_proof("onnxruntime's CPU provider", logits, test, goldens, labels)
    return {
        **stated,
        **proof,
        "name": name,
        "proof": "adopted",
        "preprocessing": seal.describe_preprocessing(test.images, how),
        "goldens": proof["goldens"] | {"n_evaluated": len(reference.evaluated.exact)},
        "versions": {"adopt": VERSIONS},
    }


def _prove(
    classifier: Classifier, source: ModelFile, reference: _Reference, test: ImageSet
) -> tuple[tuple[Check, ...], Accuracy]:
    """Run every check on the final bytes; return also its accuracy on the test images."""
    labels, final = source.contract.class_labels, classifier.file.data
    images = test.images[: len(reference.plain)]
    expected = parity.Reference(images, reference.plain, reference.floor)
    checks = (
        Check(PYTORCH, False, "no network was there to compare with", skipped=True),
        _check_format(final),
        _check_noise(reference),
        _check_evaluated(reference),
        _check_source(source, classifier, images, reference.tolerance),
        *selftest.run_selftest(classifier),
        # the first is of 1 image
        *islice(parity.check_batch_sizes(classifier, expected), 1 if source.takes_one else None),
    )
    said = classifier.logits(test.images).argmax(axis=1)
    return checks, accuracy.score(said, test.labels, labels)


def _check_format(final: bytes) -> Check:
    try:
        onnx.checker.check_model(final, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return Check("onnx.checker", False, first_line(error))
    return Check("onnx.checker", True, f"full check of onnx {onnx.__version__}")


def _check_noise(reference: _Reference) -> Check:
    """Hold float32 against float64: one that follows from large noise proves little."""
    limit = MAX_NOISE * float(np.abs(reference.logits).max())
    detail = f"{reference.floor:.2g}, at most {limit:.2g}: {MAX_NOISE:g} of the largest output"
    return Check("float32 noise", reference.floor <= limit, detail, reference.floor, limit)


def _check_evaluated(reference: _Reference) -> Check:
    """Hold onnxruntime with its optimisations off against the reference evaluator."""
    name, found = "reference evaluator", reference.evaluated
    n, n_goldens, limit = len(found.exact), len(reference.goldens), reference.tolerance
    if n == 0:
        return Check(name, False, f"it cannot run the graph: {found.why}", skipped=True)
    error = selftest.largest_error(reference.plain[reference.goldens[:n]], found.exact)
    why = f" ({found.why})" if found.why else ""
    detail = (
        f"float64, {n} of {n_goldens} reference images{why}, "
        f"onnxruntime without optimisations off by {error:.2g}, float32 by {reference.floor:.2g}, "
        f"allowed {limit:.2g}"
    )
    return Check(name, error <= limit, detail, error, limit)


def _check_source(source: ModelFile, classifier: Classifier, images: Array, limit: float) -> Check:
    """Hold the copy against the file that it was made of, with mean and deviation from outside."""
    mine, theirs = (_unfused(file, classifier) for file in (classifier.file, source))
    if source.contract.gives_probabilities:
        pair = mine(images).probabilities, theirs(images).probabilities
    else:
        pair = mine.logits(images), theirs.logits(images)
    error = selftest.largest_error(*pair)
    detail = f"{len(images):,} images, outputs off by {error:.2g}, allowed {limit:.2g}"
    return Check("outputs as the source's", error <= limit, detail, error, limit)
