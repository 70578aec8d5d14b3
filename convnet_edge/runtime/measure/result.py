"""A bench result, declared once: each field with its type, unit and meaning.

Writers (host, bundle, the page's JavaScript) fill it, the host's reader checks files against it,
tables and the reference page are made from it. What was not measured is None or empty.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from ..files import brief, percent
from .check import Check

SCHEMA = "convnet-edge/bench/3"
Status = Literal["VALID", "NOISY", "INVALID"]
MAX_MATRIX = 30  # classes whose confusion is a matrix; of more, which nobody could read, pairs
N_WORST = 10  # of these
Setting = bool | int | float | str | None | list[int]


@dataclass(frozen=True)
class Interval:
    """A two-sided 95 % confidence interval, in the unit of what it encloses."""

    low: Annotated[float, "lower end"]
    high: Annotated[float, "upper end"]

    def around(self, value: float, n_places: int) -> tuple[str, str]:
        """Return `91.23` and `90.66–91.77`: the value and the ends, at the decimals they need.

        n_places: of these at least; more where only they tell the ends apart.
        """
        width = self.high - self.low
        if 1e-9 < width < 1:
            n_places = max(n_places, math.ceil(-math.log10(width)))
        return f"{value:,.{n_places}f}", f"{self.low:,.{n_places}f}–{self.high:,.{n_places}f}"


@dataclass(frozen=True)
class Percentile:
    """One percentile, or the reason why there is none."""

    p: Annotated[float, "which: 0.5, 0.9, 0.95, 0.99, 0.999"]
    floor: Annotated[int, "fewest samples from which it may be stated"]
    value: Annotated[float | None, "nearest rank, in the samples' unit; null below the floor"]
    low: Annotated[float | None, "of the 95 % order-statistic interval"]
    high: Annotated[float | None, "of the 95 % order-statistic interval"]


@dataclass(frozen=True)
class Model:
    """The file that was measured."""

    name: Annotated[str, "the file's name"]
    model_bytes: Annotated[int | None, "size of the file"] = None
    model_sha256: Annotated[str | None, "of the whole file"] = None
    n_parameters: Annotated[int | None, "weights and biases"] = None
    n_multiplications: Annotated[int | None, "of one image"] = None
    input_dtype: Annotated[str | None, "`float32` in [0, 1] or `uint8` grey values"] = None
    integers: Annotated[bool | None, "whether the model is quantised"] = None
    proof: Annotated[
        Literal["unproved", "adopted"] | None,
        "of a file from elsewhere, how far it is proved; null: against float64 PyTorch",
    ] = None

    @property
    def title(self) -> str:
        """The name, and behind it what it lacks of a proof."""
        return f"{self.name} ({self.proof})" if self.proof else self.name


@dataclass(frozen=True)
class Provider:
    """What ran the model."""

    asked: Annotated[str, "the provider asked for"]
    obtained: Annotated[str, "the provider of the session: `cpu`, `cuda`, `wasm`, …"]
    tested: Annotated[bool | None, "whether this project tests that provider"] = None
    threads: Annotated[int | None, "intra-op threads of the session"] = None
    spin: Annotated[bool | None, "whether waiting threads spin"] = None
    io_binding: Annotated[bool | None, "whether buffers stayed on the device"] = None
    cuda_graph: Annotated[bool | None, "whether runs replayed a captured CUDA graph"] = None
    precision: Annotated[str | None, "`float32`, or a reduced one"] = None
    placement: Annotated[dict[str, list[str]] | None, "operator types, by who holds them"] = None
    n_nodes_run: Annotated[dict[str, int] | None, "nodes, by who ran them in a profile"] = None
    n_copies: Annotated[int | None, "copies between devices in a run"] = None
    gpu_libraries: Annotated[list[str] | None, "CUDA libraries mapped into the process"] = None


@dataclass(frozen=True)
class Machine:
    """Where it was measured; what cannot be read is null."""

    id: Annotated[str | None, "of what makes two machines' times comparable"]
    cpu: Annotated[str | None, "name of the processor"] = None
    architecture: Annotated[str | None, "`x86_64`, `aarch64`, … or `wasm`"] = None
    isa: Annotated[list[str] | None, "instruction sets that matter here"] = None
    cores: Annotated[int | None, "logical cores"] = None
    affinity: Annotated[list[int] | None, "numbers of the cores allowed"] = None
    usable_cores: Annotated[int | None, "those that affinity and cgroup leave"] = None
    cgroup_cores: Annotated[float | None, "the cgroup's quota in cores"] = None
    governor: Annotated[str | None, "Linux's frequency governor"] = None
    smt: Annotated[bool | None, "whether cores are threads of one core"] = None
    clock_mhz: Annotated[float | None, "highest clock of any core at the start, MHz"] = None
    temperature_c: Annotated[float | None, "hottest thermal zone at the start, °C"] = None
    load_1min: Annotated[float | None, "load average"] = None
    memory_bytes: Annotated[int | None, "of the machine"] = None
    memory_available_bytes: Annotated[int | None, "at the start"] = None
    system: Annotated[str | None, "operating system and release; a browser's user agent"] = None
    container: Annotated[str | None, "`docker`, `podman`, … if in one"] = None
    python: Annotated[str | None, "version"] = None
    gpus: Annotated[list[str] | None, "names"] = None
    gpu_driver: Annotated[str | None, "NVIDIA driver's version"] = None
    versions: Annotated[dict[str, str], "by package"] = field(default_factory=dict)
    name: Annotated[str | None, "by which `bench --on` reached it; null: it ran by hand"] = None


@dataclass(frozen=True)
class Cost:
    """What one image takes, and what is the least time for it here."""

    n_multiplications: Annotated[int | None, "in convolutions and linear layers, one image"]
    weight_bytes: Annotated[int, "read in every run"]
    peak_multiplications_per_s: Annotated[float | None, "null if the provider cannot run peak_of"]
    peak_of: Annotated[str, "by which operation"]
    bound_ms: Annotated[float | None, "least time of one image that follows from the peak, ms"]


@dataclass(frozen=True)
class NodeTime:
    """One node as it ran, after onnxruntime's fusions."""

    name: Annotated[str, "of the node"]
    op_type: Annotated[str, "of the node"]
    provider: Annotated[str, "that ran it"]
    median_us: Annotated[float, "µs a run"]
    share: Annotated[float, "of all nodes' time"]


@dataclass(frozen=True)
class ClassScore:
    """One class; shares are null where nothing was predicted or present to divide by."""

    label: Annotated[str, "of the class"]
    n: Annotated[int, "images of the class"]
    precision: Annotated[float | None, "right among those said to be of the class"]
    recall: Annotated[float | None, "right among those of the class"]
    f1: Annotated[float | None, "harmonic mean of both"]

    @property
    def n_correct(self) -> int:
        """How many of its images are right."""
        return round((self.recall or 0.0) * self.n)


@dataclass(frozen=True)
class Confused:
    """A class that was taken for another."""

    true: Annotated[str, "what it is"]
    predicted: Annotated[str, "what the network says"]
    n: Annotated[int, "images of which both hold"]
    n_of_class: Annotated[int, "images of the true class"]


@dataclass(frozen=True)
class Bin:
    """The images whose likeliest class got a probability in (low, high]."""

    low: Annotated[float, "lower edge of confidence"]
    high: Annotated[float, "upper edge of confidence"]
    n: Annotated[int, "images in the bin"]
    confidence: Annotated[float | None, "their mean confidence"]
    accuracy: Annotated[float | None, "share of them that is right"]


@dataclass(frozen=True)
class Calibration:
    """Whether a probability means what it says."""

    error: Annotated[float, "expected calibration error, in [0, 1]"]
    bins: Annotated[tuple[Bin, ...], "15 of equal width"]


@dataclass(frozen=True)
class Accuracy:
    """How many answers are right, and how sure that number is."""

    n: Annotated[int, "images"]
    n_correct: Annotated[int, "of them right"]
    accuracy: Annotated[float, "share that is right"]
    interval: Annotated[Interval, "95 %, Wilson"]
    classes: Annotated[tuple[ClassScore, ...], "in the model's order"]
    confusion: Annotated[
        tuple[tuple[int, ...], ...],
        f"counts: rows are true, columns predicted; empty beyond {MAX_MATRIX} classes",
    ]
    confused: Annotated[
        tuple[Confused, ...], f"beyond that, the {N_WORST} pairs confused most; else empty"
    ] = ()
    calibration: Annotated[Calibration | None, "of the probabilities"] = None
    test_sha256: Annotated[str | None, "of the test set: its pictures and their classes"] = None

    __repr__ = brief

    def summary(self) -> str:
        """Return `91.23 % (95 % interval 90.66–91.77, n = 10,000)`."""
        value, ends = self.percents()
        return f"{value} (95 % interval {ends}, n = {self.n:,})"

    def percents(self) -> tuple[str, str]:
        """Return `91.23 %` and `90.66–91.77`."""
        interval = Interval(100 * self.interval.low, 100 * self.interval.high)
        value, ends = interval.around(100 * self.accuracy, 2)
        return f"{value} %", ends


@dataclass(frozen=True)
class FreshProcess:
    """One fresh process, in milliseconds of wall time, from its start to its first answer."""

    interpreter_ms: Annotated[float | None, "start of Python"]
    import_ms: Annotated[float | None, "import of numpy, onnxruntime and this package"]
    read_ms: Annotated[float | None, "reading the file"]
    check_ms: Annotated[float | None, "digest and contract"]
    session_ms: Annotated[float | None, "creating the session"]
    first_run_ms: Annotated[float | None, "first run of one image"]
    total_ms: Annotated[float | None, "all of it"]
    batch_first_run_ms: Annotated[dict[str, float], "by batch size"] = field(default_factory=dict)
    p50_ms: Annotated[dict[str, float], "of runs afterwards"] = field(default_factory=dict)
    error: Annotated[float | None, "worst of the outputs checked, absolute, in logits"] = None
    peak_memory_bytes: Annotated[int | None, "largest resident size of the process"] = None


@dataclass(frozen=True)
class ColdStart:
    """Fresh processes, one after the other."""

    n_processes: Annotated[int, "fresh processes"]
    processes: Annotated[tuple[FreshProcess, ...], "in order"]


@dataclass(frozen=True)
class Reason:
    """Why a trace is not VALID."""

    name: Annotated[str, "of the rule, see [verdicts](../verdicts.md)"]
    status: Annotated[Status, "what the rule alone makes of it"]
    value: Annotated[float | None, "found; a share, unless the text says otherwise"]
    threshold: Annotated[float | None, "allowed"]
    text: Annotated[str, "in words, with what helps"]
    batch_size: Annotated[int | None, "the row it comes from"] = None

    def line(self) -> str:
        """Return the reason as people read it."""
        return f"{f'batch {self.batch_size}: ' if self.batch_size else ''}{self.name}: {self.text}"

    def summary(self) -> str:
        """Return `drift at batch 8 (14.0 % > 10 %)`; values of other rules are no shares."""
        found = self.name + f" at batch {self.batch_size:,}" * bool(self.batch_size)
        if self.status != "NOISY" or self.value is None or self.threshold is None:
            return found
        return f"{found} ({percent(self.value)} > {percent(self.threshold, 0)})"


@dataclass(frozen=True)
class Verdict:
    """VALID without a reason; INVALID with one that forbids the numbers; else NOISY."""

    status: Annotated[Status, "whether the numbers may be believed"]
    reasons: Annotated[tuple[Reason, ...], "why not"]


@dataclass(frozen=True)
class Split:
    """Where a run through bound buffers spends its time: medians in milliseconds."""

    host_to_device_ms: Annotated[float, "copying in"]
    compute_ms: Annotated[float, "running"]
    device_to_host_ms: Annotated[float, "copying out"]


@dataclass(frozen=True)
class Latency:
    """The timed runs at one batch size, one caller, back to back.

    Up to a limit every sample is kept, in order; beyond it a histogram. Percentiles come from the
    samples in both cases; a browser leaves them and the verdict to the reader of its samples.
    """

    batch_size: Annotated[int, "images a run"]
    n_runs: Annotated[int, "timed"]
    n_warmup: Annotated[int | None, "runs before, not timed"] = None
    elapsed_s: Annotated[float | None, "seconds, with what lies between runs"] = None
    images_per_s: Annotated[float | None, "over the time of the runs"] = None
    mean_ms: Annotated[float | None, "of a run"] = None
    min_ms: Annotated[float | None, "of a run"] = None
    max_ms: Annotated[float | None, "of a run"] = None
    percentiles_ms: Annotated[tuple[Percentile, ...], "p50 to p99.9, ms"] = ()
    cpu_ms_per_run: Annotated[float | None, "processor time of all threads"] = None
    n_switched: Annotated[int | None, "runs in which the kernel took a core away"] = None
    waited_share: Annotated[
        float | None, "of the time: the waits for a core of all threads, summed"
    ] = None
    timer_step_ns: Annotated[float | None, "smallest step of the clock"] = None
    n_outputs_checked: Annotated[int, "timed outputs compared afterwards"] = 0
    largest_output_error: Annotated[float | None, "of those, absolute, in logits"] = None
    share_of_bound: Annotated[
        float | None, "bound over p50; above 1 the peak was measured too low"
    ] = None
    split: Annotated[Split | None, "through bound buffers"] = None
    verdict: Annotated[Verdict | None, "on this batch size"] = None
    samples_ns: Annotated[list[int] | None, "every run in order; or, if too many,"] = None
    histogram_ns: Annotated[list[tuple[int, int]] | None, "[lower edge, count], 1 % wide"] = None

    def percentile(self, p: float) -> Percentile | None:
        """Return the entry of `p`, None where there is none."""
        return next((found for found in self.percentiles_ms if abs(found.p - p) < 1e-9), None)


@dataclass(frozen=True)
class Throughput:
    """Images a second under one load."""

    batch_size: Annotated[int, "images a run"]
    threads: Annotated[int, "of each caller's session"]
    n_callers: Annotated[int, "at the same time"]
    images_per_s: Annotated[float, "median of the rounds"]
    rounds_images_per_s: Annotated[tuple[float, ...], "each round's"]


@dataclass(frozen=True)
class Minute:
    """One minute of a paced run."""

    minute: Annotated[int, "counted from 0"]
    n_runs: Annotated[int, "timed"]
    p50_ms: Annotated[float | None, "median run"]
    p90_ms: Annotated[float | None, "90th percentile"]
    clock_mhz: Annotated[float | None, "highest clock of any core, MHz"]
    temperature_c: Annotated[float | None, "hottest thermal zone, °C"]


@dataclass(frozen=True)
class Paced:
    """One image a run, for long."""

    pace_hz: Annotated[float | None, "runs a second asked for; null: back to back"]
    duration_s: Annotated[float, "seconds"]
    n_late: Annotated[int, "runs that began over a tenth of a period late"]
    n_dropped: Annotated[int, "periods that passed while a run was still going"]
    percentiles_ms: Annotated[tuple[Percentile, ...], "p50 to p99.9, ms"]
    minutes: Annotated[tuple[Minute, ...], "in order"]
    penalty: Annotated[float | None, "paced p50 over that of runs back to back"]


@dataclass(frozen=True)
class Pair:
    """The model against the first of the same bench, on the same images."""

    name: Annotated[str, "the model compared with"]
    model_sha256: Annotated[str, "of its file"]
    n: Annotated[int, "images"]
    n_lost: Annotated[int, "right there, wrong here"]
    n_gained: Annotated[int, "wrong there, right here"]
    n_differing: Annotated[int, "labels that differ"]
    differing: Annotated[list[int], "indices of those images"]
    mcnemar_p: Annotated[float, "exact McNemar test of n_lost against n_gained"]
    shown: Annotated[list[int], "indices of the images that the picture shows"]


@dataclass(frozen=True)
class Race:
    """The model and another one under one use, timed in turn, round after round, by one caller."""

    name: Annotated[str, "the model"]
    other: Annotated[str, "the model that it raced"]
    batch_size: Annotated[int, "images a run"]
    threads: Annotated[int, "of each session"]
    ms: Annotated[float, "a run, median of the rounds, ms"]
    other_ms: Annotated[float, "a run of the other, ms"]
    ratio: Annotated[float, "times the other's speed: median of the rounds' ratios"]
    ratio_interval_95: Annotated[Interval, "of that median"]
    ratios: Annotated[tuple[float, ...], "each round's"]

    @property
    def use(self) -> str:
        """The use in words."""
        return f"batch {self.batch_size} on {self.threads} thread{'s' * (self.threads > 1)}"

    @property
    def outcome(self) -> Literal["faster", "slower", "cannot tell"]:
        """What the interval says of the model."""
        low, high = self.ratio_interval_95.low, self.ratio_interval_95.high
        return "faster" if low > 1 else "slower" if high < 1 else "cannot tell"


@dataclass(frozen=True)
class Result:
    """Everything that was measured of one model on one machine."""

    schema: Annotated[str, f"`{SCHEMA}`"]
    measured_at: Annotated[str, "when, ISO 8601 with its zone"]
    convnet_edge: Annotated[str, "version of this program"]
    model: Annotated[Model, "the file"]
    provider: Annotated[Provider, "what ran it"]
    machine: Annotated[Machine, "where"]
    settings: Annotated[dict[str, Setting], "the options that decide the measurement"]
    checks: Annotated[tuple[Check, ...], "before anything was timed"] = ()
    cost: Annotated[Cost | None, "what an image takes"] = None
    profile: Annotated[tuple[NodeTime, ...], "nodes in running order"] = ()
    accuracy: Annotated[Accuracy | None, "on the test images"] = None
    cold_start: Annotated[ColdStart | None, "of fresh processes"] = None
    latency: Annotated[tuple[Latency, ...], "by batch size"] = ()
    throughput: Annotated[tuple[Throughput, ...], "by load"] = ()
    paced: Annotated[Paced | None, "with --pace or --sustain"] = None
    pairs: Annotated[tuple[Pair, ...], "with several models"] = ()
    races: Annotated[tuple[Race, ...], "with several models, by use"] = ()
    verdict: Annotated[Verdict | None, "on all batch sizes together"] = None
    peak_memory_bytes: Annotated[int | None, "largest resident size of the process"] = None
    failed: Annotated[str | None, "the check that ended the bench, if one did"] = None
    interrupted: Annotated[bool, "stopped; what was measured until then is here"] = False

    __repr__ = brief

    @property
    def memory_bytes(self) -> int | None:
        """The peak memory of a program that runs the model alone: a fresh process's, if any ran."""
        processes = self.cold_start.processes if self.cold_start else ()
        peaks = [one.peak_memory_bytes for one in processes if one.peak_memory_bytes is not None]
        return max(peaks, default=self.peak_memory_bytes)
