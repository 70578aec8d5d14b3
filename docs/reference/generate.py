"""Write the tables of docs/reference that follow from the code: run this file.

A test fails when the pages and the code differ. The meanings stand here, the shapes in
convnet_edge/results.py, the exit codes in convnet_edge/runtime/errors.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from convnet_edge.reporting.results import DOCUMENT
from convnet_edge.reporting.shape import LARGEST, Flag, Many, Named, Number, Record, Shape, Text
from convnet_edge.runtime import errors

FOLDER = Path(__file__).resolve().parent
MARKED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
# by the last part of a key; a whole key comes first where one word means two things
MEANINGS = {
    "schema": "`convnet-edge/bench/2`",
    "measured_at": "when, ISO 8601 with its zone",
    "convnet_edge": "version of this program",
    "model.name": "the file's name",
    "model_bytes": "size of the file",
    "model_sha256": "of the whole file",
    "graph_sha256": "of the file without its contract",
    "n_parameters": "weights and biases",
    "n_multiplications": "of one image",
    "input_dtype": "`float32` in [0, 1] or `uint8` grey values",
    "integers": "whether the model is quantised",
    "asked": "the provider asked for",
    "obtained": "the provider of the session: `cpu`, `cuda`, `wasm`, …",
    "tested": "whether this project tests that provider",
    "provider.threads": "intra-op threads of the session",
    "spin": "whether waiting threads spin",
    "io_binding": "whether buffers stayed on the device",
    "cuda_graph": "whether runs were replayed from a captured CUDA graph",
    "precision": "`float32` or `tf32`",
    "placement.*[]": "operator types by the provider that holds them",
    "n_nodes_run.*": "nodes by the provider that ran them, from a profile",
    "n_copies": "copies between devices in a run",
    "gpu_libraries[]": "CUDA libraries mapped into the process",
    "id": "of what makes two machines' times comparable",
    "cpu": "name of the processor",
    "architecture": "`x86_64`, `aarch64`, … or `wasm`",
    "isa[]": "instruction sets that matter here",
    "cores": "logical cores",
    "usable_cores": "those that affinity and cgroup leave",
    "cgroup_cores": "the cgroup's quota in cores",
    "affinity[]": "numbers of the cores allowed",
    "governor": "Linux's frequency governor",
    "smt": "whether cores are threads of one core",
    "machine.temperature_c": "hottest thermal zone at the start, °C",
    "minutes[].temperature_c": "hottest thermal zone, °C",
    "machine.clock_mhz": "highest clock of any core at the start, MHz",
    "minutes[].clock_mhz": "highest clock of any core, MHz",
    "load_1min": "load average",
    "memory_bytes": "of the machine",
    "memory_available_bytes": "at the start",
    "system": "operating system and release; in a browser its user agent",
    "container": "`docker`, `podman`, … if in one",
    "python": "version",
    "gpus[]": "names",
    "gpu_driver": "NVIDIA driver's version",
    "versions.*": "by package",
    "batch_sizes[]": "timed, images a run",
    "settings.duration_s": "least time a batch size, seconds",
    "paced.duration_s": "seconds",
    "min_runs": "least runs a batch size",
    "quick": "whether `--quick` was given",
    "checks[].name": "of the check",
    "passed": "whether it held",
    "detail": "in words",
    "checks[].value": "measured",
    "limit": "allowed",
    "skipped": "could not be run here; neither passes nor fails",
    "weight_bytes": "of the weights",
    "peak_multiplications_per_s": "what this processor can do, measured",
    "peak_of": "by which operation",
    "bound_ms": "least time of one image that follows from the peak, ms",
    "n_processes": "fresh processes",
    "interpreter_ms": "start of Python, ms",
    "import_ms": "import of onnxruntime, ms",
    "read_ms": "reading the file, ms",
    "check_ms": "digests and contract, ms",
    "session_ms": "creating the session, ms",
    "first_run_ms": "first run of one image, ms",
    "total_ms": "all of it, ms",
    "batch_first_run_ms.*": "first run by batch size, ms",
    "processes[].p50_ms.*": "median run by batch size afterwards, ms",
    "peak_memory_bytes": "largest resident size of the process",
    "accuracy.n": "images",
    "n_correct": "of them right",
    "accuracy.accuracy": "share that is right",
    "interval.low": "95 % interval (Wilson)",
    "interval.high": "95 % interval (Wilson)",
    "label": "of the class",
    "classes[].n": "images of the class",
    "recall": "right among those of the class",
    "f1": "harmonic mean of both",
    "confusion[][]": "counts: a row for what it is, a column for what the model says",
    "calibration.error": "expected calibration error",
    "bins[].low": "lower edge of confidence",
    "bins[].high": "upper edge of confidence",
    "bins[].n": "images in the bin",
    "confidence": "their mean confidence",
    "bins[].accuracy": "share of them that is right",
    "images_sha256": "of the test images, decompressed",
    "batch_size": "images a run; of a verdict's reason: the row it comes from",
    "n_runs": "timed",
    "n_warmup": "runs before, not timed",
    "elapsed_s": "seconds, with what lies between runs",
    "images_per_s": "over the elapsed time",
    "mean_ms": "of a run, ms",
    "min_ms": "ms",
    "max_ms": "ms",
    "p": "which: 0.5, 0.9, 0.95, 0.99, 0.999",
    "floor": "fewest samples from which it may be stated",
    "percentiles_ms[].value": "nearest rank, ms; null below the floor",
    "percentiles_ms[].low": "95 % order-statistic interval, ms",
    "percentiles_ms[].high": "95 % order-statistic interval, ms",
    "n_outputs_checked": "timed outputs compared afterwards",
    "largest_output_error": "of those, absolute, in logits",
    "cpu_ms_per_run": "processor time of all threads, ms",
    "n_switched": "runs in which the kernel took a core away",
    "waited_share": "of the time, that threads waited for a core",
    "split.*": "host to device, run, device to host, ms",
    "share_of_bound": "bound over p50",
    "samples_ns[]": "every run in order, ns; or, if too many,",
    "histogram_ns[][]": "[lower edge in ns, count], bins 1 % wide",
    "verdict.status": "`VALID`, `NOISY` or `INVALID`",
    "reasons[].name": "of the rule, see [verdicts](../verdicts.md)",
    "reasons[].status": "what the rule alone makes of it",
    "reasons[].value": "found",
    "threshold": "allowed",
    "text": "in words, with what helps",
    "throughput[].threads": "of each caller's session",
    "n_callers": "at the same time",
    "rounds_images_per_s[]": "each round's",
    "pace_hz": "runs a second asked for",
    "n_late": "runs that began over a tenth of a period late",
    "n_dropped": "periods that passed while a run was still going",
    "minute": "counted from 0",
    "minutes[].p50_ms": "ms",
    "p90_ms": "ms",
    "penalty": "paced p50 over that of runs back to back",
    "scenario": "LoadGen's",
    "mode": "LoadGen's",
    "valid": "whether LoadGen calls the run valid",
    "loadgen[].accuracy": "share that is right",
    "profile[].name": "of the node",
    "op_type": "of the node",
    "profile[].provider": "that ran it",
    "median_us": "µs a run",
    "share": "of all nodes' time",
    "pairs[].name": "the model compared with",
    "pairs[].n": "images",
    "n_lost": "right there, wrong here",
    "n_gained": "wrong there, right here",
    "n_differing": "labels that differ",
    "mcnemar_p": "exact McNemar test of n_lost against n_gained",
    "failed": "the check that ended the bench, if one did",
    "interrupted": "true if it was stopped; what was measured until then is here",
    "classes[].precision": "right among those said to be of the class",
}


def leaves(shape: Shape, key: str = "") -> Iterator[tuple[str, Shape]]:
    """Yield (key, shape) of each value; `[]` is each item of a list, `.*` each name of a map."""
    if isinstance(shape, Record):
        for name, inner in shape.fields.items():
            yield from leaves(inner, f"{key}.{name}" if key else name)
    elif isinstance(shape, Many):
        yield from leaves(shape.item, f"{key}[]")
    elif isinstance(shape, Named):
        yield from leaves(shape.item, f"{key}.*")
    else:
        yield key, shape


def meaning(key: str) -> str:
    """Return what `key` means: the longest end of it that has a meaning decides.

    Raises:
        KeyError: it has none.
    """
    ends = [end for end in MEANINGS if key == end or key.endswith(f".{end}")]
    if not ends:
        raise KeyError(key)
    return MEANINGS[max(ends, key=len)]


def describe(shape: Shape) -> str:
    """Return the type and range of a value."""
    match shape:
        case Text(choices=choices):
            return " \\| ".join(f"`{choice}`" for choice in choices) or "text"
        case Flag():
            return "true \\| false"
        case Number(low=low, high=high, whole=whole):
            kind = "integer" if whole else "number"
            if high < LARGEST:
                return f"{kind}, {low:g} to {high:g}"
            return f"{kind} ≥ {low:g}" if low > -LARGEST else kind
        case _:
            raise TypeError(type(shape))


def result() -> str:
    """Return the table of a result's keys."""
    rows = ["| key | type | needed | meaning |", "| --- | --- | --- | --- |"]
    for key, shape in leaves(DOCUMENT):
        needed = "yes" if getattr(shape, "required", False) else ""
        rows.append(f"| `{key}` | {describe(shape)} | {needed} | {meaning(key)} |")
    return "\n".join(rows)


def exits() -> str:
    """Return the table of exit codes."""
    kinds = sorted(errors.EdgeError.__subclasses__(), key=lambda kind: kind.exit_code)
    rows = ["| code | meaning |", "| --- | --- |", "| 0 | Done, and proved. |"]
    for kind in kinds:
        text = " ".join((kind.__doc__ or "").split())
        rows.append(f"| {kind.exit_code} | {text} |")
    return "\n".join(rows)


def fill(page: str) -> str:
    """Return `page` with the generated parts as they follow from the code."""
    parts = {"result": result, "exits": exits}
    return MARKED.sub(lambda found: f"{found[1]}{parts[found[2]]()}\n{found[3]}", page)


def main() -> None:
    """Write every page anew."""
    for path in FOLDER.glob("*.md"):
        path.write_text(fill(path.read_text()))


if __name__ == "__main__":
    main()
