"""The command line of a bundle on its device: selftest, predict, bench, info.

Numpy and onnxruntime; Pillow only for picture files. Writes nothing but what --out names, and reads
its models from the archive in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .archive import Archive, read_archive
from .classifier import Classifier
from .contract import NEXT_STEP
from .errors import CheckFailedError, EdgeError, InputError, InterruptedRunError
from .files import print_any_letter, write_json
from .measure import cold_start, machine
from .measure.bench import Listener, bench_model, require_believable
from .measure.options import BenchOptions
from .measure.result import Check, Result, as_json
from .measure.tables import tables_of, to_text
from .measure.timing import Load, median_ms, take_turns
from .options import Declared, declared, parse
from .selftest import run_selftest
from .session import Settings

SELFTEST_SCHEMA = "convnet-edge/selftest/1"
EXAMPLES = "selftest: proof on this machine, in seconds. predict IMAGE...: label and probabilities."
DEFAULTS: dict[str, Any] = {"batch_sizes": (1, 8)}  # where a device's differ from the host's
TABLES = ("cold start", "latency", "split", "throughput", "paced", "minutes")
N_ROUNDS, SLOT_S = 5, 0.05  # of choosing the fastest model


@dataclass(frozen=True)
class Call:
    """One command as it was typed. options: for all but `bench`, only how a model is opened."""

    archive_path: Path
    archive: Archive
    asked: argparse.Namespace
    options: BenchOptions


@dataclass(frozen=True)
class Candidate:
    """One model of the bundle on this machine. refused: why it is not usable, None if it passed."""

    name: str
    classifier: Classifier | None
    checks: tuple[Check, ...]
    refused: str | None


def main(archive_path: str, arguments: list[str] | None = None) -> int:
    """Run one command of the bundle at `archive_path`; return the exit code."""
    print_any_letter()
    path = Path(archive_path)
    asked = _parser(path.name).parse_args(arguments)
    try:
        code: int = asked.run(Call(path, read_archive(path), asked, _options(asked)))
    except EdgeError as error:
        print(f"{path.name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{path.name}: interrupted", file=sys.stderr)
        return InterruptedRunError.exit_code
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
        for one in declared(BenchOptions):
            opens = one.name in ("provider", "threads")
            if opens or (command == "bench" and not one.about.positional):
                _add(sub, one)
        if command == "predict":
            sub.add_argument("images", nargs="*", type=Path, metavar="IMAGE")
    return parser


def _add(parser: argparse.ArgumentParser, one: Declared) -> None:
    """Add an option as declared; what is not given stays out of the namespace."""
    default, text = DEFAULTS.get(one.name, one.default), one.about.help.replace("%", "%%")
    about: dict[str, Any] = {"dest": one.name, "default": argparse.SUPPRESS}
    if one.kind is bool:
        flag = f"--no-{one.flag[2:]}" if default else one.flag
        action = "store_false" if default else "store_true"
        parser.add_argument(flag, action=action, help=f"{'Not: ' * default}{text}", **about)
        return
    listed = ",".join(map(str, default)) if one.is_list else default
    shown = one.about.default_text if default is None else listed
    if shown is not None and one.name != "out":  # a device writes nothing unasked
        text += f" Default: {shown}."
    parser.add_argument(one.flag, metavar=one.about.metavar or "VALUE", help=text, **about)


def _options(asked: argparse.Namespace) -> BenchOptions:
    """Return what was asked for, checked as on the host.

    Raises:
        InputError: a value is outside its range, or stands for none.
    """
    given = {
        one.name: value if one.kind is bool else parse(one, value)
        for one in declared(BenchOptions)
        if (value := getattr(asked, one.name, None)) is not None
    }
    return BenchOptions(**{**DEFAULTS, **given})


def _info(call: Call) -> int:
    manifest = call.archive.manifest
    if call.asked.json:
        _print_json(manifest)
        return 0
    print(f"{call.archive.name}: convnet-edge {manifest['convnet_edge']}")
    for entry in manifest["models"]:
        kind = f"int8 ({entry['layout']})" if entry["layout"] else "float32"
        print(
            f"  {entry['name']}: {kind}, {entry['model_bytes']:,} bytes, sha256 "
            f"{entry['model_sha256'][:16]}…, test accuracy {entry['accuracy']:.2%} of "
            f"{entry['n_test_images']:,}"
        )
    test = "with" if manifest["test_set"] else "without"
    print(f"  {test} the test set; classes: {', '.join(manifest['class_labels'])}")
    return 0


def _selftest(call: Call) -> int:
    candidates, provider = _candidates(call), call.options.provider
    passed = all(candidate.refused is None for candidate in candidates)
    if call.asked.json:
        models = [
            {
                "name": candidate.name,
                "passed": candidate.refused is None,
                "refused": candidate.refused,
                "checks": as_json(candidate.checks),
            }
            for candidate in candidates
        ]
        found = {"schema": SELFTEST_SCHEMA, "bundle": call.archive.name, "provider": provider}
        _print_json({**found, "passed": passed, "models": models, "machine": machine.passport()})
        return 0 if passed else CheckFailedError.exit_code
    print("[✓] archive: its bytes are those that were bundled")
    for candidate in candidates:
        print(f"{candidate.name} on {provider}:")
        for check in candidate.checks:
            print(f"  {check.line()}")
        if candidate.refused is not None:
            print(f"  [x] {candidate.refused}")
    print("PASS" if passed else "FAIL")
    return 0 if passed else CheckFailedError.exit_code


def _predict(call: Call) -> int:
    (_, classifier), rows, code = _choose(call), [], 0
    if not call.asked.images:
        rows = [(s.name, classifier(s.pixels).top(3)[0]) for s in classifier.contract.samples]
    for path in call.asked.images:
        try:
            rows.append((str(path), classifier([path]).top(3)[0]))
        except InputError as error:
            print(f"{call.archive.name}: {error}", file=sys.stderr)
            code = error.exit_code
    if call.asked.json:
        answers = [
            {"path": name, "label": top[0][0],
             "top": [{"label": label, "probability": share} for label, share in top]}
            for name, top in rows
        ]  # fmt: skip
        _print_json({"predictions": answers})
        return code
    for name, top in rows:
        shares = ", ".join(f"{label} {share:.1%}" for label, share in top)
        print(f"{name}: {top[0][0]}   ({shares})")
    return code


def _bench(call: Call) -> int:
    options, (chosen, classifier) = call.options, _choose(call)
    out = None if options.out is None else options.result_path(Path(chosen.name))

    def keep(result: Result) -> None:
        if out is not None:
            write_json(out, as_json(result))

    measured = bench_model(
        classifier,
        options,
        name=chosen.name,
        version=call.archive.manifest["convnet_edge"],
        test=call.archive.test_set(),
        checks=chosen.checks,
        start=cold_start.Task(call.archive_path, member=chosen.name),
        listener=Listener(
            stage=_say,
            keep=lambda result: None if out is None else write_json(out, as_json(result)),
        ),
    )
    if call.asked.json:
        _print_json(as_json(measured.result))
    else:
        _show(measured.result, (*TABLES, "profile") if options.profile else TABLES)
    if out is not None:
        print(f"wrote {out}", file=sys.stderr)
    require_believable([measured.result], strict=options.strict)
    return 0


def _show(result: Result, names: Iterable[str]) -> None:
    ran, where = result.provider, result.machine
    print(f"{result.model.name} on {ran.obtained}, {ran.threads} threads")
    print(f"machine {where.id}: {where.cpu}, {where.usable_cores} usable cores")
    if result.accuracy is not None:
        print(f"test accuracy {result.accuracy.summary()}")
    width = shutil.get_terminal_size().columns
    for table in tables_of(result):
        if table.name in names:
            print(f"\n{to_text(table, width)}")
    if result.verdict is not None:
        print(f"\nverdict: {result.verdict.status}")
        for reason in result.verdict.reasons:
            print(f"  {reason.line()}")


def _candidates(call: Call) -> list[Candidate]:
    """Open and check every model that was asked for.

    Raises:
        InputError: the bundle has no model of that name, or none can be opened.
    """
    models, wanted = call.archive.models(), call.asked.model
    if wanted is not None and wanted not in models:
        raise InputError(
            f"no model {wanted!r} in {call.archive.name}",
            expected=" or ".join(models),
            next_step="leave --model out for the fastest that passes here",
        )
    options = call.options
    settings = Settings(
        options.provider,
        options.threads,
        allow_cpu_nodes=options.allow_cpu_nodes,
        spin=options.spin,
    )
    found: list[Candidate] = []
    refusals: list[InputError] = []
    for name, model in models.items():
        if wanted not in (None, name):
            continue
        try:
            classifier = Classifier(model, settings=settings)
        except InputError as error:
            refusals.append(error)
            found.append(Candidate(name, None, (), f"cannot be opened: {error}"))
            continue
        checks = run_selftest(classifier)
        failed = [check for check in checks if not check.passed and not check.skipped]
        refused = f"{failed[0].name}: {failed[0].detail}" if failed else None
        found.append(Candidate(name, classifier, checks, refused))
    if len(refusals) == len(found):
        raise refusals[0]
    return found


def _choose(call: Call) -> tuple[Candidate, Classifier]:
    """Return the fastest model that passes here; say on stderr why it was taken.

    Raises:
        CheckFailedError: none passes.
    """
    candidates = _candidates(call)
    refused = [f"{c.name} is left out, {c.refused}" for c in candidates if c.refused is not None]
    usable = [(c, c.classifier) for c in candidates if c.refused is None and c.classifier]
    if not usable:
        raise CheckFailedError(
            "; ".join(refused), expected="a model that passes here", next_step=NEXT_STEP
        )
    why = "the one asked for or the only one"
    if len(candidates) > 1:
        loads = [Load(classifier, 1) for _, classifier in usable]
        images = usable[0][1].contract.goldens.images
        rounds = take_turns(loads, images, n_rounds=N_ROUNDS, slot_s=SLOT_S)
        timed = sorted(zip(map(median_ms, rounds), usable, strict=True), key=lambda pair: pair[0])
        usable = [pair for _, pair in timed]
        listed = ", ".join(f"{one.name} {time_ms:.3f} ms" for time_ms, (one, _) in timed)
        why = f"the fastest that passes here (one image: {listed})"
    print(f"model: {'; '.join((f'{usable[0][0].name}, {why}', *refused))}", file=sys.stderr)
    return usable[0]


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


if __name__ == "__main__":  # a bundle's own start is bundling/start.py
    if len(sys.argv) < 2:
        sys.exit("usage: python -m convnet_edge.runtime NAME.pyz COMMAND")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
