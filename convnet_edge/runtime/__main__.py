"""The command line of a bundle on its device: selftest, predict, bench, info.

Numpy and onnxruntime; Pillow only for picture files. Writes nothing but what --out names, and reads
its models from the archive in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import selftest
from .archive import Archive, read_archive
from .classifier import Classifier
from .errors import CheckFailedError, EdgeError, InputError, InterruptedRunError
from .files import print_any_letter, write_json
from .idx import ImageSet
from .measure import cold_start, cost, document, machine, tuning
from .measure.latency import Latency, measure_latency
from .model_file import NEXT_STEP

EXIT_INTERRUPTED = InterruptedRunError.exit_code
N_PROCESSES = 5
N_ROUNDS, N_RUNS = 5, 20
SELFTEST_SCHEMA = "convnet-edge/selftest/1"
EXAMPLES = "selftest: proof on this machine, in seconds. predict IMAGE...: label and probabilities."


@dataclass(frozen=True)
class Candidate:
    """One model of the bundle on this machine. p50_ms: of one image, None if it is not usable.

    refused: why it is not, None if it passed.
    """

    name: str
    classifier: Classifier | None
    checks: tuple[selftest.Check, ...]
    refused: str | None
    p50_ms: float | None = None


def main(archive_path: str, arguments: list[str] | None = None) -> int:
    """Run one command of the bundle at `archive_path`; return the exit code."""
    print_any_letter()
    options = _parser(Path(archive_path).name).parse_args(arguments)
    try:
        archive = read_archive(Path(archive_path))
        code: int = options.run(archive, Path(archive_path), options)
    except EdgeError as error:
        print(f"{Path(archive_path).name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{Path(archive_path).name}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python3 {name}",
        description="A model in one file, with its own proof. " + EXAMPLES,
        epilog="Exit codes: 0 done and proved, 1 a check failed, 2 wrong usage or something "
        "missing, 130 interrupted. Needs numpy and onnxruntime; pillow for picture files.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    texts = {
        "selftest": (_selftest, "prove file, provider and preprocessing on this machine"),
        "predict": (_predict, "label pictures; without any, the samples in the bundle"),
        "bench": (_bench, "measure accuracy, cold start and latency here, with a verdict"),
        "info": (_info, "say what the bundle holds"),
    }
    for command, (run, text) in texts.items():
        sub = commands.add_parser(command, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="one JSON document on stdout")
        if command == "info":
            continue
        sub.add_argument("--model", help="of the bundle; default: the fastest that passes here")
        sub.add_argument("--provider", default="cpu", help="cpu, cuda, openvino, ... (cpu)")
        sub.add_argument("--threads", type=int, help="default: the tuned, else all usable cores")
        if command == "predict":
            sub.add_argument("images", nargs="*", type=Path, metavar="IMAGE")
        if command == "bench":
            sub.add_argument("--batch-sizes", default="1,8", help="comma-separated (1,8)")
            sub.add_argument("--duration", type=float, default=4.0, help="seconds a batch size (4)")
            sub.add_argument("--out", type=Path, help="write the result there, for `report`")
    return parser


def _info(archive: Archive, _: Path, options: argparse.Namespace) -> int:
    if options.json:
        print(json.dumps(archive.manifest, indent=2))
        return 0
    print(f"{archive.name}: convnet-edge {archive.manifest['convnet_edge']}")
    for entry in archive.manifest["models"]:
        kind = f"int8 ({entry['layout']})" if entry["layout"] else "float32"
        print(
            f"  {entry['name']}: {kind}, {entry['model_bytes']:,} bytes, sha256 "
            f"{entry['model_sha256'][:16]}…, test accuracy {entry['accuracy']:.2%} of "
            f"{entry['n_test_images']:,}"
        )
    test = "with" if archive.manifest["test_set"] else "without"
    print(f"  {test} the test set; classes: {', '.join(archive.manifest['class_labels'])}")
    return 0


def _selftest(archive: Archive, _: Path, options: argparse.Namespace) -> int:
    candidates = _candidates(archive, options)
    passed = all(candidate.refused is None for candidate in candidates)
    if options.json:
        print(json.dumps(_selftest_json(archive, candidates, options), indent=2))
        return 0 if passed else CheckFailedError.exit_code
    print("[✓] archive: its bytes are those that were bundled")
    for candidate in candidates:
        print(f"{candidate.name} on {options.provider}:")
        for check in candidate.checks:
            print(f"  {check.line()}")
        if candidate.refused is not None:
            print(f"  [x] {candidate.refused}")
    print("PASS" if passed else "FAIL")
    return 0 if passed else CheckFailedError.exit_code


def _selftest_json(
    archive: Archive, candidates: list[Candidate], options: argparse.Namespace
) -> dict[str, Any]:
    return {
        "schema": SELFTEST_SCHEMA,
        "bundle": archive.name,
        "provider": options.provider,
        "passed": all(candidate.refused is None for candidate in candidates),
        "models": [
            {
                "name": candidate.name,
                "passed": candidate.refused is None,
                "refused": candidate.refused,
                "checks": selftest.as_json(candidate.checks),
            }
            for candidate in candidates
        ],
        "machine": machine.passport(),
    }


def _predict(archive: Archive, _: Path, options: argparse.Namespace) -> int:
    chosen, why = _choose(archive, options)
    classifier = chosen.classifier
    assert classifier is not None
    print(f"model: {why}", file=sys.stderr)
    rows, code = [], 0
    if not options.images:
        samples = classifier.contract.samples
        for sample in samples:
            rows.append((sample.name, classifier(sample.pixels[None]).top(3)[0]))
    for path in options.images:
        try:
            rows.append((str(path), classifier([path]).top(3)[0]))
        except InputError as error:
            print(f"{archive.name}: {error}", file=sys.stderr)
            code = error.exit_code
    if options.json:
        answers = [
            {"path": name, "label": top[0][0],
             "top": [{"label": label, "probability": share} for label, share in top]}
            for name, top in rows
        ]  # fmt: skip
        print(json.dumps({"predictions": answers}, indent=2, ensure_ascii=False))
        return code
    for name, top in rows:
        shares = ", ".join(f"{label} {share:.1%}" for label, share in top)
        print(f"{name}: {top[0][0]}   ({shares})")
    return code


def _bench(archive: Archive, path: Path, options: argparse.Namespace) -> int:
    sizes = _sizes(options.batch_sizes)
    if not 0 < options.duration <= 3600:
        raise InputError(
            f"--duration {options.duration:g}",
            expected="seconds, above 0 and at most 3600",
            next_step="change --duration",
        )
    chosen, why = _choose(archive, options)
    classifier = chosen.classifier
    assert classifier is not None
    print(f"model: {why}", file=sys.stderr)
    found = document.describe(
        classifier,
        name=chosen.name,
        asked=options.provider,
        version=archive.manifest["convnet_edge"],
        settings={"batch_sizes": list(sizes), "duration_s": options.duration, "quick": False},
    )
    found["checks"] = selftest.as_json(chosen.checks)
    found["interrupted"] = True
    try:
        latencies = _measure(archive, path, chosen, found, options)
        judged, found["verdict"] = document.verdict_json(latencies)
        del found["interrupted"]
    finally:
        found["peak_memory_bytes"] = machine.peak_memory_bytes()
        if options.out is not None:
            write_json(options.out, found)
    if options.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _show(found, latencies)
    if options.out is not None:
        print(f"wrote {options.out}", file=sys.stderr)
    return CheckFailedError.exit_code if judged.status == "INVALID" else 0


def _measure(
    archive: Archive,
    path: Path,
    chosen: Candidate,
    found: dict[str, Any],
    options: argparse.Namespace,
) -> list[Latency]:
    classifier = chosen.classifier
    assert classifier is not None
    found["cost"] = document.cost_json(cost.estimate(classifier))
    test: ImageSet | None = archive.test_set()
    images = classifier.contract.goldens.images
    if test is not None:
        _say(f"accuracy on {len(test):,} test images")
        images = test.images
        _, found["accuracy"] = document.accuracy_json(classifier(images), test)
    _say(f"cold start, {N_PROCESSES} fresh processes")
    sizes = _sizes(options.batch_sizes)
    task = cold_start.Task(
        path, options.provider, classifier.session.threads, batch_sizes=sizes, member=chosen.name
    )
    processes = [cold_start.start_process(task).as_json() for _ in range(N_PROCESSES)]
    found["cold_start"] = {"n_processes": N_PROCESSES, "processes": processes}
    latencies, found["latency"] = [], []
    for size in sizes:
        _say(f"latency, batch {size}")
        latency = measure_latency(
            classifier, images, batch_size=size, duration_s=options.duration, min_runs=130
        )
        latencies.append(latency)
        bound_ms = found["cost"]["bound_ms"]
        row = document.latency_json(latency, n_rows=len(sizes), bound_ms=bound_ms)
        found["latency"].append(row)
    return latencies


def _show(found: dict[str, Any], latencies: list[Latency]) -> None:
    passport, provider = found["machine"], found["provider"]
    print(f"{found['model']['name']} on {provider['obtained']}, {provider['threads']} threads")
    print(f"machine {passport['id']}: {passport['cpu']}, {passport['usable_cores']} usable cores")
    if "accuracy" in found:
        score = found["accuracy"]
        ends = score["interval"]
        print(
            f"test accuracy {score['accuracy']:.2%} (95 % {ends['low']:.2%} to {ends['high']:.2%}, "
            f"n = {score['n']:,})"
        )
    starts = [row["total_ms"] for row in found["cold_start"]["processes"]]
    middle, ends = statistics.median(starts), (min(starts), max(starts))
    print(f"cold start {middle:.0f} ms ({ends[0]:.0f} to {ends[1]:.0f})")
    for latency in latencies:
        parts = []
        for p in latency.percentiles_ms():
            value = f"n/a (needs {p.floor:,})" if p.value is None else f"{p.value:.3f}"
            parts.append(f"p{100 * p.p:g} {value}")
        speed = f"{latency.images_per_s:,.0f} images/s; {len(latency.samples_ns):,} runs"
        print(f"batch {latency.batch_size}: {', '.join(parts)} ms; {speed}")
    print(f"verdict: {found['verdict']['status']}")
    for reason in found["verdict"]["reasons"]:
        print(f"  batch {reason['batch_size']}: {reason['name']}: {reason['text']}")


def _candidates(archive: Archive, options: argparse.Namespace) -> list[Candidate]:
    """Open and check every model that was asked for.

    Raises:
        InputError: the bundle has no model of that name, or none can be opened.
    """
    models = archive.models()
    if options.model is not None and options.model not in models:
        raise InputError(
            f"no model {options.model!r} in {archive.name}",
            expected=" or ".join(models),
            next_step="leave --model out for the fastest that passes here",
        )
    found: list[Candidate] = []
    refusals: list[InputError] = []
    for name, model in models.items():
        if options.model not in (None, name):
            continue
        threads = options.threads or _tuned_threads(archive, name, model, options.provider)
        try:
            classifier = Classifier(model, options.provider, threads)
        except InputError as error:
            refusals.append(error)
            found.append(Candidate(name, None, (), f"cannot be opened: {error}"))
            continue
        checks = selftest.run_selftest(model, classifier)
        failed = [check for check in checks if not check.passed and not check.skipped]
        refused = f"{failed[0].name}: {failed[0].detail}" if failed else None
        found.append(Candidate(name, classifier, checks, refused))
    if len(refusals) == len(found):
        raise refusals[0]
    return found


def _choose(archive: Archive, options: argparse.Namespace) -> tuple[Candidate, str]:
    """Return the fastest model that passes here, and why it was taken.

    Raises:
        CheckFailedError: none passes.
    """
    candidates = _candidates(archive, options)
    usable = [c for c in candidates if c.refused is None]
    refused = [f"{c.name} is left out, {c.refused}" for c in candidates if c.refused is not None]
    if not usable:
        raise CheckFailedError(
            "; ".join(refused), expected="a model that passes here", next_step=NEXT_STEP
        )
    if len(candidates) == 1:
        return usable[0], f"{usable[0].name}, the one asked for or the only one"
    times = _time(usable)
    order = sorted(usable, key=lambda candidate: times[candidate.name])
    listed = ", ".join(f"{c.name} {times[c.name]:.3f} ms" for c in order)
    why = f"{order[0].name}, the fastest that passes here (p50 of one image: {listed})"
    return order[0], "; ".join((why, *refused))


def _time(usable: list[Candidate]) -> dict[str, float]:
    """Return the median milliseconds of one image by model, measured in turn."""
    samples: dict[str, list[int]] = {candidate.name: [] for candidate in usable}
    for _ in range(N_ROUNDS):
        for candidate in usable:
            classifier = candidate.classifier
            assert classifier is not None
            image = classifier.to_input(classifier.contract.goldens.images[:1])
            for _ in range(N_RUNS):
                started = time.perf_counter_ns()
                classifier.session.run(image)
                samples[candidate.name].append(time.perf_counter_ns() - started)
    return {name: statistics.median(found) / 1e6 for name, found in samples.items()}


def _tuned_threads(archive: Archive, name: str, model: bytes, provider: str) -> int | None:
    """Return the threads that were tuned on this very machine, if the bundle holds them."""
    stored = archive.manifest.get("tunings", {}).get(name)
    found = stored and tuning.match(stored, model, provider)
    return found.threads if found else None


def _sizes(text: str) -> tuple[int, ...]:
    with contextlib.suppress(ValueError):
        sizes = tuple(int(part) for part in text.split(","))
        if all(1 <= size <= 4096 for size in sizes):
            return sizes
    raise InputError(
        f"--batch-sizes {text!r}",
        expected="numbers from 1 to 4096, as in 1,8",
        next_step="change --batch-sizes",
    )


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr)
