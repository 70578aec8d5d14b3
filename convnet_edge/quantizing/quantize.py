"""Make an int8 model of a float one, and prove that it is still good enough before it is written.

Ranges and gate come from training images that do not overlap; the test images are scored once, at
the end, and decide nothing. How the integers are laid out is `integer`'s business.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from .. import __version__
from ..data import fashion_mnist as data
from ..exporting import graph as rewrite
from ..runtime import contract, selftest
from ..runtime import model_file as onnxfile
from ..runtime.classifier import Classifier
from ..runtime.errors import InputError
from ..runtime.files import write_atomically, write_json
from ..runtime.idx import ImageSet
from ..runtime.measure import accuracy, machine, stats
from ..runtime.selftest import Check
from ..sealing import parity
from ..sealing.default_model import EXPORTED_DIR, choose_model
from . import integer
from .options import LAYOUT_SUFFIXES, QuantizeOptions

Array = np.ndarray[Any, np.dtype[Any]]

REPORT_SCHEMA = "convnet-edge/quantize/1"
N_CALIBRATION, N_GATE = 1_000, 5_000
SPLIT_SEED = 0
N_ROUNDS, ROUND_S = 7, 0.25
LARGE_BATCH = 64
BATCH_SIZES = (1, 2, 3, 7, 64, 256)
INTEGER_OPERATIONS = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat")
FLOAT_OPERATIONS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul")


@dataclass(frozen=True)
class Gate:
    """What the images that ranges never saw say. Shares of n; upper_bound: one-sided 95 %."""

    n: int
    n_lost: int
    n_gained: int
    drop: float
    upper_bound: float
    max_drop: float

    @property
    def passed(self) -> bool:
        """Whether the drop is proved to be small enough."""
        return self.upper_bound <= self.max_drop

    def line(self) -> str:
        """Return the gate as people read it."""
        return (
            f"{self.n:,} training images not used for ranges: {self.n_lost} lost, "
            f"{self.n_gained} gained, drop {100 * self.drop:+.2f} points, at most "
            f"{100 * self.upper_bound:.2f} (95 %), allowed {100 * self.max_drop:g}"
        )


@dataclass(frozen=True)
class Speed:
    """Milliseconds a batch, medians of the rounds; ratios: times the float model's speed."""

    what: str
    float_ms: float
    int8_ms: float
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return float(np.median(self.ratios))

    def line(self) -> str:
        """Return the measurement as people read it."""
        return (
            f"{self.what}: {self.int8_ms:.3g} ms against {self.float_ms:.3g} ms, "
            f"{self.ratio:.2f} times as fast ({min(self.ratios):.2f} to {max(self.ratios):.2f})"
        )


@dataclass(frozen=True)
class QuantizeResult:
    """What quantising left. n_integer, n_float: layers as onnxruntime runs them here."""

    source_path: Path
    model_path: Path
    report_path: Path
    n_bytes: int
    sha256: str
    float_layers: tuple[str, ...]
    n_integer: int
    n_float: int
    gate: Gate
    checks: tuple[Check, ...]
    float_score: accuracy.Accuracy
    score: accuracy.Accuracy
    p_value: float
    speeds: tuple[Speed, ...]
    report: dict[str, Any]

    def recommendation(self) -> str:
        """Say which of both models is worth deploying on a machine like this one."""
        slower = [speed.what for speed in self.speeds if speed.ratio < 1]
        if not slower:
            return "int8 is faster here, in each of these"
        if len(slower) == len(self.speeds):
            return "int8 is slower here: deploy the float model on machines like this one"
        return f"int8 is slower here at {slower[0]}: choose by how you will run it"


@dataclass(frozen=True)
class _Source:
    """The float model, and the images that judge its integers."""

    path: Path
    classifier: Classifier
    graph: bytes
    calibration: Array
    gate: ImageSet


def quantize(
    config: QuantizeOptions, step: Callable[[str], None] = lambda _: None
) -> QuantizeResult:
    """Quantise as `config` says. `step` hears what is being done.

    Raises:
        InputError: the model or the training images cannot be read, or the layout does not fit.
        CheckFailedError: gate or proof failed; the report is written, the model file is not.
    """
    source = _open(config, step)
    step("quantising, and scoring images not used for ranges")
    quantised, float_layers, gate = _search(config, source, step)
    step("proving the final bytes")
    laid_out = _lay_out(config, quantised)
    sealed, noise = _seal(config, source, laid_out, float_layers, gate)
    classifier = Classifier(sealed)
    checks = _prove(sealed, classifier, gate, quantised)
    n_integer, n_float = count_layers(sealed)
    step("scoring the test images, once")
    test = data.load_test_set()
    labels = classifier.contract.class_labels
    before, after = (
        model.logits(test.images).argmax(axis=1) for model in (source.classifier, classifier)
    )
    float_score, score = (accuracy.score(said, test.labels, labels) for said in (before, after))
    lost, gained = _count_changes(before, after, test.labels)
    step("timing both, in turn")
    speeds = measure_speeds(source.classifier, sealed, test.images)
    out = config.out or EXPORTED_DIR / (source.path.stem + LAYOUT_SUFFIXES[config.layout])
    result = QuantizeResult(
        source.path, out, out.with_suffix(".quantize.json"), len(sealed),
        hashlib.sha256(sealed).hexdigest(), float_layers, n_integer, n_float, gate, checks,
        float_score, score, stats.mcnemar(lost, gained), speeds, {},
    )  # fmt: skip
    result = replace(result, report=_report(config, result, (lost, gained), noise))
    write_json(result.report_path, result.report)
    selftest.require(
        checks,
        what=f"{out} was not written",
        next_step=f"read {result.report_path}; raise --max-drop if the loss is worth it",
        listed=True,
    )
    write_atomically(out, sealed)
    return result


def count_layers(model: bytes) -> tuple[int, int]:
    """Return how many layers onnxruntime runs as integers here, and how many as floats."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 4
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        operations = [node.op_type for node in onnx.load(path).graph.node]
    counts = [
        sum(operation in kind for operation in operations)
        for kind in (INTEGER_OPERATIONS, FLOAT_OPERATIONS)
    ]
    return counts[0], counts[1]


def measure_speeds(float_model: Classifier, int8: bytes, images: Array) -> tuple[Speed, ...]:
    """Time both models on the same images, in turn: one image on one thread, and throughput.

    Throughput: one session of one thread, called by as many callers as there are cores.
    """
    float_bytes = float_model.model
    pair = [Classifier(model, threads=1) for model in (float_bytes, int8)]
    n_callers = machine.usable_cores()
    return (
        _measure(pair, images, 1, 1),
        _measure(pair, images, LARGE_BATCH, n_callers),
    )


def _measure(pair: list[Classifier], images: Array, batch_size: int, n_callers: int) -> Speed:
    inputs = [classifier.to_input(images[: 8 * batch_size]) for classifier in pair]
    batches = [
        [np.ascontiguousarray(x[i : i + batch_size]) for i in range(0, len(x), batch_size)]
        for x in inputs
    ]
    times: tuple[list[float], list[float]] = ([], [])
    with ThreadPoolExecutor(n_callers) as pool:
        for number in range(N_ROUNDS + 1):
            for classifier, mine, kept in zip(pair, batches, times, strict=True):
                counts = [
                    pool.submit(_run_for, classifier.session.run, mine, ROUND_S)
                    for _ in range(n_callers)
                ]
                if number:  # the first round warms up
                    kept.append(ROUND_S * 1e3 / sum(count.result() for count in counts))
                else:
                    _ = [count.result() for count in counts]
    ratios = tuple(a / b for a, b in zip(*times, strict=True))
    float_ms, int8_ms = (float(np.median(kept)) for kept in times)
    callers = f"{n_callers} caller" + ("s" if n_callers > 1 else "")
    return Speed(f"batch {batch_size}, {callers} of one thread", float_ms, int8_ms, ratios)


def _run_for(run: Callable[[Array], Array], batches: list[Array], duration_s: float) -> int:
    deadline, n_runs = time.perf_counter_ns() + int(duration_s * 1e9), 0
    while time.perf_counter_ns() < deadline:
        run(batches[n_runs % len(batches)])
        n_runs += 1
    return n_runs


def _open(config: QuantizeOptions, step: Callable[[str], None]) -> _Source:
    path = choose_model(config.model)
    step(f"reading {path} and training images")
    model = onnxfile.read_model_bytes(path)
    classifier = Classifier(model)
    if classifier.contract.input_dtype != "float32" or classifier.contract.quantization:
        raise InputError(
            f"{path} takes {classifier.contract.input_dtype}",
            expected="a float model that takes float32, as `convnet-edge export` writes it",
            next_step="export without --input uint8, and name that model",
        )
    images = data.load_training_set(config.data, config.data_dir)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))[: N_CALIBRATION + N_GATE]
    chosen, held = order[:N_CALIBRATION], order[N_CALIBRATION:]
    return _Source(
        path,
        classifier,
        contract.without_contract(model),
        classifier.to_input(images.images[chosen]),
        replace(images, images=images.images[held], labels=images.labels[held]),
    )


def _search(
    config: QuantizeOptions, source: _Source, step: Callable[[str], None]
) -> tuple[onnx.ModelProto, tuple[str, ...], Gate]:
    """Return the graph with as few float layers as the gate demands; all integer if none will do.

    Layers go back to float in the order of the noise that each alone brings to the logits.
    """
    truth = source.gate.labels
    floats = source.classifier.logits(source.gate.images).argmax(axis=1)
    nodes = integer.float_nodes(source.graph)
    tried: list[tuple[onnx.ModelProto, tuple[str, ...], Gate]] = []
    order: list[str] = []
    for n_float in range(len(nodes)):
        if n_float == 1:
            if config.layout == "ort-cpu":  # it has integer layers only
                break
            step("measuring each layer's noise")
            order = noisiest_first(source.graph, source.calibration, nodes)
        quantised = integer.quantize_graph(
            source.graph, source.calibration, float_layers=order[:n_float]
        )
        answers = _run(quantised, source.gate.images).argmax(axis=1)
        lost, gained = _count_changes(floats, answers, truth)
        n = len(truth)
        gate = Gate(n, lost, gained, (lost - gained) / n,
                    stats.paired_drop_bound(lost, gained, n), config.max_drop / 100)  # fmt: skip
        tried.append((quantised, tuple(order[:n_float]), gate))
        if gate.passed:
            return tried[-1]
    return tried[0]


def noisiest_first(graph: bytes, calibration: Array, nodes: list[str]) -> list[str]:
    """Return the layers by what each alone, as integers, does to the logits: worst ratio first.

    Signal-to-quantisation-noise: sum of the float logits' squares over that of the differences.
    """
    images = (calibration[:, 0] * 255).round().astype(np.uint8)
    exact = _run(onnx.load_from_string(graph), calibration)
    ratios = {}
    for node in nodes:
        others = [other for other in nodes if other != node]
        logits = _run(integer.quantize_graph(graph, calibration, float_layers=others), images)
        noise = float(((logits - exact) ** 2).sum())
        ratios[node] = float((exact**2).sum()) / max(noise, 1e-30)
    return sorted(nodes, key=lambda node: ratios[node])


def _run(proto: onnx.ModelProto, images: Array, *, fused: bool = True) -> Array:
    """Return the logits of a graph that has no contract yet; `fused`: as onnxruntime does."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not fused:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = images[:, None] if images.ndim == 3 else images
    parts = [session.run(None, {"images": x[i : i + 250]})[0] for i in range(0, len(x), 250)]
    logits: Array = np.concatenate(parts)
    return logits


def _count_changes(before: Array, after: Array, truth: Array) -> tuple[int, int]:
    """Return how many images only the first, and only the second, gets right."""
    lost, gained = (before == truth) & (after != truth), (before != truth) & (after == truth)
    return int(lost.sum()), int(gained.sum())


def _lay_out(config: QuantizeOptions, quantised: onnx.ModelProto) -> onnx.ModelProto:
    if config.layout == "ort-cpu":
        try:
            return integer.to_ort_cpu(quantised)
        except ValueError as error:
            raise InputError(
                f"the layout ort-cpu does not fit this model: {error}",
                expected="kernel 3, 28 pixels a row, and channels in multiples of 4 and 16",
                next_step="pass --layout portable",
            ) from error
    shortened = onnx.ModelProto()
    shortened.CopyFrom(quantised)
    del shortened.graph.value_info[:]
    rewrite.shorten_names(shortened)
    return shortened


def _seal(
    config: QuantizeOptions,
    source: _Source,
    laid_out: onnx.ModelProto,
    float_layers: tuple[str, ...],
    gate: Gate,
) -> tuple[bytes, float]:
    """Return the final file, and how far a runtime that fuses nothing is from one that does."""
    test, stated = data.load_test_set(), source.classifier.contract
    logits = _run(laid_out, test.images)
    apart = float(np.abs(logits - _run(laid_out, test.images, fused=False)).max())
    floor = max(apart, float(np.spacing(np.abs(logits).max())))
    score = accuracy.score(logits.argmax(axis=1), test.labels, stated.class_labels)
    document = {
        key: value for key, value in stated.document.items() if key not in ("digest", "schema")
    }
    chosen = stated.goldens.indices
    document |= {
        "name": f"{stated.name}.int8",
        "input": {**document["input"], "dtype": "uint8", "range": [0, 255],
                  "scale": "the uint8 grey value; the graph scales it"},
        "goldens": {
            **document["goldens"],
            "logits": [[float(f"{v:.7g}") for v in row] for row in logits[chosen]],
            "floor": floor,
            "tolerance": parity.TOLERANCE_FACTOR * floor,
        },
        "measured": {
            **document["measured"],
            "what": "onnxruntime's CPU provider on the test images",
            "n_correct": score.n_correct,
            "accuracy": score.accuracy,
            "interval_95": asdict(score.interval),
        },
        "quantization": {
            "layout": config.layout,
            "weight_bits": 7,
            "activation_bits": 8,
            "n_calibration_images": len(source.calibration),
            "float_layers": list(float_layers),
            "n_multiplications": onnxfile.parse(source.classifier.model).n_multiplications,
            "source_graph_sha256": stated.graph_sha256,
            "gate": asdict(gate),
        },
        "versions": {**document["versions"], "quantize": _versions()},
    }  # fmt: skip
    return contract.seal(laid_out.SerializeToString(deterministic=True), document), apart


def _prove(
    sealed: bytes, classifier: Classifier, gate: Gate, quantised: onnx.ModelProto
) -> tuple[Check, ...]:
    images = data.load_test_set().images
    expected, logits = _run(quantised, images), classifier.logits(images)
    same = expected.tobytes() == logits.tobytes()
    checks = [
        Check("accuracy gate", gate.passed, gate.line(), gate.upper_bound, gate.max_drop),
        *parity.check_graph(sealed),
        *selftest.run_selftest(sealed, classifier),
        Check("layout", same, f"{len(images):,} test images, logits "
              f"{'bit-equal to' if same else 'differ from'} the standard graph's"),
    ]  # fmt: skip
    for batch_size in BATCH_SIZES:
        n = min(len(images), 512 // batch_size * batch_size)
        alike = (
            classifier.logits(images[:n], batch_size=batch_size).tobytes() == logits[:n].tobytes()
        )
        detail = f"{n} images, {'bit-equal' if alike else 'not equal'} to other batches"
        checks.append(Check(f"batch {batch_size}", alike, detail))
    return tuple(checks)


def _versions() -> dict[str, str]:
    return {
        "convnet-edge": __version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _report(
    config: QuantizeOptions, result: QuantizeResult, changes: tuple[int, int], apart: float
) -> dict[str, Any]:
    lost, gained = changes
    return {
        "schema": REPORT_SCHEMA,
        "passed": all(check.passed for check in result.checks),
        "source": str(result.source_path),
        "model": result.model_path.name,
        "layout": config.layout,
        "model_sha256": result.sha256,
        "model_bytes": result.n_bytes,
        "layers": {"integer": result.n_integer, "float": result.n_float,
                   "kept_float": list(result.float_layers)},
        "gate": asdict(result.gate),
        "test": {
            "n": result.score.n,
            "float_accuracy": result.float_score.accuracy,
            "accuracy": result.score.accuracy,
            "interval_95": asdict(result.score.interval),
            "n_lost": lost,
            "n_gained": gained,
            "drop": (lost - gained) / result.score.n,
            "drop_upper_bound_95": stats.paired_drop_bound(lost, gained, result.score.n),
            "mcnemar_p": result.p_value,
        },
        "unfused_difference": apart,
        "speed": [{**asdict(speed), "ratio": speed.ratio} for speed in result.speeds],
        "recommendation": result.recommendation(),
        "checks": selftest.as_json(result.checks),
        "machine": machine.passport(),
        "versions": _versions(),
    }  # fmt: skip
