"""Make an int8 model of a float one, and prove that it is still good enough before it is written.

Ranges and gate come from training images that do not overlap. The test images are loaded once: they
give the golden vectors and the scores, and decide nothing.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..data import dataset
from ..data.dataset import take
from ..runtime import selftest
from ..runtime.classifier import Classifier
from ..runtime.contract import Array
from ..runtime.elsewhere import unproved
from ..runtime.errors import InputError
from ..runtime.files import brief, require_writable
from ..runtime.measure import accuracy, cost, machine, race, stats, timing
from ..runtime.measure.accuracy import ImageSet
from ..runtime.measure.check import Check
from ..runtime.measure.result import Accuracy, Interval, Race
from ..runtime.options import require
from ..runtime.session import Settings, import_onnxruntime
from ..sealing import parity, seal
from ..sealing.default_model import choose_model
from ..sealing.normalization import take_pixels
from . import ladder, ort_cpu, portable
from .ladder import Gate, Rung
from .options import RANGES_PART, Layout, QuantizeOptions

VERSIONS = seal.versions(onnx, import_onnxruntime())
N_CALIBRATION, N_GATE = 1_000, 20_000  # of many; of few training images a part, and the others
N_COSTLY, GATE_WORK = 5_000, 1e12  # images of a gate; multiplications that more of them may take
MOST_TO_LOSE = 10.0  # points, of a gate that is advised
LIKELY_LOST, LIKELY_GAINED = 0.02, 0.01  # of labels, by what integers often do to a small network
FEWEST = 32  # images that ranges may come from
N_NOISE, N_ROUNDED = 128, 1_000  # images for the noise of each layer, for that of rounding
SEEN = "training images, not used for ranges, which the network may have seen"
SPLIT_SEED = 0
OPSET_OF_AXES = 13
INTEGER_OPERATIONS = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat")
FLOAT_OPERATIONS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul")


@dataclass(frozen=True)
class Scores:
    """The test images, by the float model and by the integers. Shares of n."""

    n: int
    float_accuracy: float
    accuracy: float
    interval_95: Interval
    n_lost: int
    n_gained: int
    drop: float
    drop_upper_bound_95: float
    mcnemar_p: float


@dataclass(frozen=True)
class Layers:
    """How many layers onnxruntime runs as integers here, and how many as floats.

    kept_float: those that the gate demanded, by the float model's names. float_operations: what
    else computes with floats, as normalisation or an activation that has no integer kernel.
    round_trips: how often a run leaves the integers for them and comes back.
    """

    integer: int
    float: int
    kept_float: tuple[str, ...]
    float_operations: dict[str, int]
    round_trips: int


@dataclass(frozen=True)
class QuantizeReport:
    """What was proved and measured, as `NAME.quantize.json` holds it.

    rung: the one that was taken, by name. rungs: what each gave on the half of the gate's images
    that chose; gate: what the other half says of the one taken. unfused_difference: of logits, from
    a runtime that fuses nothing to one that does.
    """

    passed: bool
    source: str
    model: str
    layout: Layout
    model_sha256: str
    model_bytes: int
    layers: Layers
    rung: str
    rungs: tuple[Rung, ...]
    gate: Gate
    test: Scores
    unfused_difference: float
    races: tuple[Race, ...]
    recommendation: str
    checks: tuple[Check, ...]
    schema: str = "convnet-edge/quantize/2"
    machine: dict[str, Any] = field(default_factory=machine.passport)
    versions: dict[str, str] = field(default_factory=lambda: VERSIONS)

    __repr__ = brief


@dataclass(frozen=True)
class QuantizeResult:
    """What quantising left. score: of the new file on the test images."""

    model_path: Path
    report_path: Path
    report: QuantizeReport
    score: Accuracy

    __repr__ = brief


@dataclass(frozen=True)
class _Candidate:
    """Where the ladder ended: an integer graph in the portable layout, opened.

    float_operations: how often each operator of it computes with floats. is_exact: whether it gives
    the same logits to the bit everywhere.
    """

    climbed: ladder.Climbed
    classifier: Classifier
    float_operations: dict[str, int]
    is_exact: bool


class _Source:
    """The float model, and the images that give and judge its integers.

    document: its contract's, but for stored pixels. halves: of the images that judge, those that
    choose and those that confirm. calibrated: its graph with the ranges, which are measured once.
    """

    def __init__(self, options: QuantizeOptions, path: Path) -> None:
        self.settings = Settings(ceiling=options.ceiling)
        file = unproved.open_any(path, options, ceiling=options.ceiling)
        unproved.require_used([file], options)
        if not file.holds_contract:
            unproved.require_told(file, options)
            file = take_pixels(file)
        found = f"{path}, whose graph takes one image a run"
        require(not file.takes_one, found, "one that takes any number", "MODEL")
        require(
            file.opsets[""] >= OPSET_OF_AXES,
            f"{path} of opset {file.opsets['']}, which has no scale for each channel",
            f"opset {OPSET_OF_AXES} or newer",
            "what `convnet-edge adopt` makes of it, which raises the opset",
            verb="name",
        )
        self.classifier = Classifier(file, settings=self.settings)
        stated = self.classifier.contract
        if stated.input_dtype != "float32" or stated.quantization:
            raise InputError(
                f"{path} takes {stated.input_dtype}",
                expected="a float model that takes float32, as `convnet-edge export` writes it",
                next_step="export without --input uint8, and name that model",
            )
        if options.layout == "ort-cpu":
            ort_cpu.require_chain(file)
        stored = seal.describe_input("uint8", stated.document["input"]["shape"])
        stored["name"] = stated.input_name
        self.document, self.opset = stated.document | {"input": stored}, file.opsets[""]
        self.max_drop = options.max_drop / 100
        loaded = dataset.load_again(dataset.Task.of(stated), options)
        self.test = loaded.test
        self.calibration, judges, self.gate_data = split_training_images(
            loaded, options, n_multiplications=file.n_multiplications
        )
        half = len(judges) // 2
        self.halves = take(judges, slice(half)), take(judges, slice(half, None))
        self.calibrated = portable.calibrate(
            file.data,
            self.classifier.to_input(self.calibration),
            batch_size=min(self.classifier.batch_size, portable.CALIBRATION_BATCH_SIZE),
        )

    def draft(self, graph: bytes, *, fuse: bool = True) -> Classifier:
        """Open an integer graph that is not proved yet."""
        settings = replace(self.settings, fuse=fuse)
        return Classifier(seal.seal(graph, self.document), settings=settings)

    def climb(
        self, options: QuantizeOptions, step: Callable[[str], None], note: Callable[[str], None]
    ) -> _Candidate:
        """Return the graph that the ladder ends at, judged by the half that did not choose it.

        step, note: as in `quantize`.
        """
        images = self.calibration[:N_NOISE]
        exact = self.classifier.logits(images)

        def run(graph: bytes, images: Array) -> Array:
            return self.draft(graph).logits(images)

        def noise(layer: str) -> float:
            logits = run(self.calibrated.quantised(only=[layer]), images)
            return float(((logits - exact) ** 2).sum())

        choosing, confirming = (
            ladder.Half(
                half, self.classifier.logits(half.images), run, self.gate_data, self.max_drop
            )
            for half in self.halves
        )
        found = ladder.climb(
            self.calibrated,
            choosing,
            confirming,
            noise,
            in_integers=options.layout == "ort-cpu",  # that has integer layers only
            every=options.all_rungs,
            step=step,
        )
        held = any(one.holds for one in found.rungs)
        if not (found.gate.holds and held):
            n = len(choosing.images)
            note(f"of {n + len(confirming.images):,} images, {n:,} choose the rung, by:")
            for rung in found.rungs:
                note(f"  {rung.line()}")
            if held:
                note(f"the others judged {found.way.name}")
        return _Candidate(
            found,
            self.draft(found.graph),
            portable.float_operations(found.graph),
            portable.is_exact(found.graph),
        )


def split_training_images(
    loaded: dataset.Dataset, options: QuantizeOptions, *, n_multiplications: int | None
) -> tuple[Array, ImageSet, str]:
    """Return the images that give ranges, those of the gate, and which these are.

    n_multiplications: of the network for one image, None if unknown; of a costly one fewer judge.

    Raises:
        InputError: the gate could not hold for so few, whatever the integers do.
    """
    train, gate, data = loaded.train, loaded.validation, "validation images"
    order = np.random.default_rng(SPLIT_SEED).permutation(len(train))
    n_ranges = min(N_CALIBRATION, max(len(train) // RANGES_PART, FEWEST))
    if len(gate) < options.n_judges:
        n_gate = min(N_GATE, max(N_COSTLY, int(GATE_WORK / (n_multiplications or np.inf))))
        few = f" ({len(gate):,} validation images are too few)" * bool(len(gate))
        gate, data = take(train, order[n_ranges : n_ranges + n_gate]), SEEN + few
    if len(gate) < options.n_judges:
        n = max(3, len(gate) // 2)
        lost, gained = math.ceil(LIKELY_LOST * n), math.ceil(LIKELY_GAINED * n)
        within = _in_tenths(stats.paired_drop_bound(lost, gained, n))
        lower = f", or allow --max-drop {within:g}" if within < MOST_TO_LOSE else ""
        raise InputError(
            f"{len(gate):,} {data}",
            expected=f"{options.n_judges:,} at least: of fewer no gate of {options.max_drop:g} "
            "points can hold",
            next_step=f"name a --data of more pictures{lower}",
        )
    return train.images[order[:n_ranges]], gate, data


def _in_tenths(bound: float) -> float:
    """Return a share as points, one that `--max-drop` holds: of one digit, rounded up."""
    return math.ceil(1000 * bound - 1e-9) / 10


def _advice(gate: Gate) -> str:
    """Return what to do where a check failed."""
    if gate.holds:
        return "export the model anew"
    enough = _in_tenths(gate.upper_bound)
    worth = f"--max-drop {enough:g} would have held, if that loss is worth it"
    return worth if enough < MOST_TO_LOSE else "keep the float model, or train another"


def quantize(
    options: QuantizeOptions,
    step: Callable[[str], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
    share: timing.Tick = lambda _: None,
) -> QuantizeResult:
    """Quantise as `options` say. `note` hears each rung if none holds, or the gate does not.

    step, share: hear what is being done, and how much of it, in [0, 1].

    Example: `ce.quantize(ce.QuantizeOptions("exported/convnet.onnx", layout="ort-cpu"))`

    Raises:
        InputError: the model or the training images cannot be read, or the layout does not fit.
        CheckFailedError: gate or proof failed; the report is written, the model file is not.
    """
    source_path = choose_model(options.model)
    path = options.out_path(source_path)
    require_writable(path)
    is_other = not (path.exists() and source_path.exists() and path.samefile(source_path))
    require(is_other, f"{path} is the float model", "another name for that of integers", "--out")
    step(f"reading {source_path} and its pictures")
    source = _Source(options, source_path)
    test = source.test
    found = source.climb(options, step, note)
    graph = found.climbed.graph
    graph = ort_cpu.to_ort_cpu(graph) if options.layout == "ort-cpu" else graph
    step("running the test images, once")
    expected = found.classifier.logits(test.images)
    apart, floor = _measure_floor(source, found, graph, expected)
    reference = parity.Reference(test.images, expected.astype(np.float64), floor)
    step("proving the final bytes")
    document = _describe(options, source, found, reference)
    classifier = Classifier(seal.seal(graph, document), settings=source.settings)
    logits = classifier.logits(test.images)
    checks = _prove(classifier, found, reference, logits, opset=source.opset)
    score = accuracy.score(logits.argmax(axis=1), test.labels, classifier.contract.class_labels)
    step("timing both, in turn")
    pair, names = (classifier, source.classifier), (path.name, source_path.name)
    races = race.run(*pair, test.images, names=names, slot_s=race.SLOT_S, tick=share)
    report = QuantizeReport(
        source=str(source_path),
        model=path.name,
        layout=options.layout,
        model_sha256=classifier.file.sha256,
        model_bytes=len(classifier.file.data),
        layers=_count_layers(classifier, test.images, found),
        rung=found.climbed.way.name,
        rungs=found.climbed.rungs,
        gate=found.climbed.gate,
        test=_compare(source.classifier, logits, test, score),
        unfused_difference=apart,
        races=races,
        recommendation=race.advise(races)[0],
        checks=checks,
        passed=all(check.passed or check.skipped for check in checks),
    )
    advice = _advice(found.climbed.gate)
    report_path = seal.hand_over(path, classifier.file.data, report, "quantize", next_step=advice)
    return QuantizeResult(path, report_path, report, score)


def _measure_floor(
    source: _Source, found: _Candidate, graph: bytes, expected: Array
) -> tuple[float, float]:
    """Return how far a runtime that fuses nothing is off, and the floor for honest processors.

    Integers are exact everywhere. Where floats lie between them, or make tables, the last bit of
    one may turn the rounding of a value by a whole level, which is then as large as it gets: so the
    floor is such that the tolerance is twice the largest change that scales a few roundings off
    bring about.
    expected: (N, C), what the fused `graph` says of the test images.
    """
    images = source.test.images[: None if found.is_exact else N_ROUNDED]
    graphs = [graph]
    if not found.is_exact:
        graphs += [portable.nudged(graph, by) for by in (portable.NUDGE, -portable.NUDGE)]
    apart, *others = (
        selftest.largest_error(
            source.draft(one, fuse=False).logits(images), expected[: len(images)]
        )
        for one in graphs
    )
    least = float(np.spacing(np.abs(expected).max()))
    if not others:
        return apart, max(apart, least)
    return apart, max(2 * max(apart, *others) / parity.TOLERANCE_FACTOR, least)


def _describe(
    options: QuantizeOptions,
    source: _Source,
    found: _Candidate,
    reference: parity.Reference,
) -> dict[str, Any]:
    """Return the contract's document: the float model's, but for what the integers change."""
    stated = source.classifier.contract
    goldens = replace(
        stated.goldens,
        logits=found.classifier.logits(stated.goldens.images).astype(np.float64),
        floor=reference.floor,
        tolerance=reference.tolerance,
    )
    proof = seal.describe_proof(
        "onnxruntime's CPU provider", reference.logits, source.test, goldens, stated.class_labels
    )
    return source.document | {
        "name": f"{stated.document['name']}.int8",
        "measured": proof["measured"],
        "goldens": stated.document["goldens"] | proof["goldens"],
        "quantization": {
            "layout": options.layout,
            "weight_bits": 7,
            "activation_bits": 8,
            "n_calibration_images": len(source.calibration),
            "rung": found.climbed.way.name,
            "float_layers": list(found.climbed.way.float_layers),
            "n_multiplications": source.classifier.file.n_multiplications,
            "source_sha256": source.classifier.file.sha256,
            "gate": asdict(found.climbed.gate),
        },
        "versions": stated.document["versions"] | {"quantize": VERSIONS},
    }


def _prove(
    classifier: Classifier,
    found: _Candidate,
    reference: parity.Reference,
    logits: Array,
    *,
    opset: int,
) -> tuple[Check, ...]:
    """Check the final file; its test `logits` must be those of the standard graph bit for bit.

    opset: that of the float model, which stays.
    So must those of every batch, if the integers are exact.
    """
    same = np.array_equal(logits, reference.logits)
    allowed = replace(reference, floor=0.0) if found.is_exact else reference
    said = "bit-equal to" if same else "differ from"
    detail = f"{len(logits):,} test images, logits {said} the standard graph's"
    return (
        found.climbed.gate.check(),
        *parity.check_graph(classifier.file, wanted=opset),
        *selftest.run_selftest(classifier),
        Check("layout", same, detail),
        *parity.check_batch_sizes(classifier, allowed),
    )


def _compare(float_model: Classifier, logits: Array, test: ImageSet, score: Accuracy) -> Scores:
    float_said = float_model.logits(test.images).argmax(axis=1)
    pair = accuracy.compare(float_said, logits.argmax(axis=1), test.labels)
    return Scores(
        n=pair.n,
        float_accuracy=float((float_said == test.labels).mean()),
        accuracy=score.accuracy,
        interval_95=score.interval,
        n_lost=pair.n_lost,
        n_gained=pair.n_gained,
        drop=(pair.n_lost - pair.n_gained) / pair.n,
        drop_upper_bound_95=stats.paired_drop_bound(pair.n_lost, pair.n_gained, pair.n),
        mcnemar_p=pair.mcnemar_p,
    )


def _count_layers(classifier: Classifier, images: Array, found: _Candidate) -> Layers:
    ran = [node.op_type for node in cost.profile(classifier, images[:1])]
    n_integer, n_float = (
        sum(map(ran.count, ops)) for ops in (INTEGER_OPERATIONS, FLOAT_OPERATIONS)
    )
    others = {op: n for op, n in found.float_operations.items() if op not in portable.LAYERS}
    round_trips = portable.round_trips(found.climbed.graph)
    return Layers(n_integer, n_float, found.climbed.way.float_layers, others, round_trips)
