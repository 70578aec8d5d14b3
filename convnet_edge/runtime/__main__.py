"""The command line of a bundle on its device: selftest, predict, bench, info.

Numpy and onnxruntime; Pillow only for picture files. Writes nothing but what --out names, and reads
its models from the archive in memory. What measures is imported by what measures: in an archive
Python compiles every module that it imports, anew at each start.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .archive import Archive, read_archive
from .classifier import NOT_SURE, Classifier, Predictions
from .contract import NEXT_STEP
from .errors import INTERRUPTED, CheckFailedError, EdgeError, InputError, InterruptedRunError
from .files import (
    as_json,
    flush,
    fold,
    json_text,
    open_streams,
    percent,
    printing,
    require_writable,
    visible,
    write_json,
)
from .measure import machine
from .measure.check import Check
from .measure.options import DEVICE_BATCH_SIZES, BenchOptions
from .options import Declared, declared, parse, require, require_values
from .pictures import decode, preprocess
from .selftest import run_selftest

if TYPE_CHECKING:
    from .measure.result import Result

OPTIONS = {one.name: one for one in declared(BenchOptions) if not one.positional}
DEFAULTS: dict[str, Any] = {
    "batch_sizes": DEVICE_BATCH_SIZES
}  # where a device's differ from the host's
N_ROUNDS, SLOT_S = 5, 0.05  # of choosing the fastest model


@dataclass(frozen=True)
class Candidate:
    """One model of the bundle on this machine. refused: why it is not usable, None if it passed."""

    name: str
    passed: bool
    refused: str | None
    checks: tuple[Check, ...] = ()


def main(archive_path: str, arguments: list[str] | None = None) -> int:
    """Run one command of the bundle at `archive_path`; return the exit code."""
    open_streams()
    path, arguments = Path(archive_path), sys.argv[1:] if arguments is None else arguments
    try:
        with printing():
            require_values(arguments)
            archive = read_archive(path)
            parser = _parser(archive)
            if not arguments:
                parser.print_help()
                return InputError.exit_code
            asked = parser.parse_args(arguments)
            given = {name: value for name, value in vars(asked).items() if name in OPTIONS}
            options = BenchOptions(**{**DEFAULTS, **given})
            code: int = asked.run(archive, asked, options)
            return code
    except EdgeError as error:
        line, code = error.line, error.exit_code
    except KeyboardInterrupt:
        line, code = INTERRUPTED, InterruptedRunError.exit_code
    except BrokenPipeError:
        return InputError.exit_code
    with contextlib.suppress(OSError):
        _say(f"{path.name}: {line}", aside=True)
        flush(sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        expected = "a command line as its help has it"
        raise InputError(message, expected=expected, next_step=f"{self.prog} --help")


def _say(*lines: str, aside: bool = False) -> None:
    for line in lines:
        print(visible(line), file=sys.stderr if aside else sys.stdout)


def _stage(text: str) -> None:
    """Show on a terminal what goes on, in one line that the next one replaces."""
    if sys.stderr.isatty():
        print(f"{visible(text)[:79]:<79}", end="\r", file=sys.stderr, flush=True)


def _parser(archive: Archive) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"python3 {archive.path.name}",
        description="A model in one file, with its own proof. selftest: proof on this machine, in "
        "seconds. predict IMAGE...: label and probabilities.",
        epilog="Exit codes: 0 done and proved, 1 a check failed, 2 wrong usage or something "
        "missing, 130 interrupted. Needs numpy and onnxruntime; pillow for picture files.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for run, text in (
        (_selftest, "prove file, provider and preprocessing on this machine"),
        (_predict, "label pictures; without any, the samples in the bundle"),
        (_bench, "measure accuracy, cold start and latency here, with a verdict"),
        (_info, "say what the bundle holds"),
    ):
        sub = commands.add_parser(run.__name__.lstrip("_"), help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="one JSON document on stdout")
        if run is not _info:
            sub.add_argument(
                "--model",
                choices=tuple(archive.models()),
                metavar="NAME",  # as argparse trips over brackets in the names of files
                help="Of the bundle. Default: the fastest that passes here.",
            )
            for name in OPTIONS if run is _bench else ("provider", "threads", "ceiling"):
                _add(sub, OPTIONS[name])
        if run is _bench:
            sub.add_argument("--verbose", action="store_true", help="every check and table")
        if run is _predict:
            sub.add_argument("images", nargs="*", type=Path, metavar="IMAGE")
    return parser


def _add(parser: argparse.ArgumentParser, one: Declared) -> None:
    """Add an option as declared; what is not given stays out of the namespace."""
    default, text = DEFAULTS.get(one.name, one.default), one.help.replace("%", "%%")
    about: dict[str, Any] = {"dest": one.name, "default": argparse.SUPPRESS}
    if one.kind is bool:
        flag = f"--no-{one.flag[2:]}" if default else one.flag
        action = "store_false" if default else "store_true"
        switched = f"Switch off: {text[0].lower()}{text[1:]}" if default else text
        parser.add_argument(flag, action=action, help=switched, **about)
        return
    listed = ",".join(map(str, default)) if one.is_list else default
    shown = one.default_text if default is None else listed
    if shown is not None and one.name != "out":  # a device writes nothing unasked
        text += f" Default: {shown}."
    about |= {"metavar": one.metavar, "type": lambda value: parse(one, value)}
    parser.add_argument(one.flag, help=text, **about)


def _show(asked: argparse.Namespace, document: Any, lines: list[str]) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    folded = (part for line in lines for part in fold(line, width))
    _say(*(json_text(document).split("\n") if asked.json else folded))


def _info(archive: Archive, asked: argparse.Namespace, _: BenchOptions) -> int:
    manifest = archive.manifest
    lines = [f"{archive.path.name}: convnet-edge {manifest['convnet_edge']}"]
    for entry in manifest["models"]:
        kind = f"int8 ({entry['layout']})" if entry["layout"] else "float32"
        lines.append(
            f"  {entry['name']}: {kind}, {entry['model_bytes']:,} bytes, sha256 "
            f"{entry['model_sha256'][:16]}…, test accuracy {percent(entry['accuracy'], 2)} of "
            f"{entry['n_test_images']:,}"
        )
    test = "with" if manifest["test_set"] else "without"
    lines.append(f"  {test} the test set; classes: {', '.join(manifest['class_labels'])}")
    _show(asked, manifest, lines)
    return 0


def _selftest(archive: Archive, asked: argparse.Namespace, options: BenchOptions) -> int:
    candidates, _ = _candidates(archive, asked.model, options, isolate=True)
    passed = all(candidate.passed for candidate in candidates)
    lines = ["[✓] archive: its bytes are those that were bundled"]
    for one in candidates:
        lines.append(f"{one.name} on {options.provider}:")
        lines += [f"  {check.line()}" for check in one.checks]
        lines += [f"  [x] {one.refused}"] * (not one.passed)
    document = {
        "schema": "convnet-edge/selftest/1",
        "bundle": archive.path.name,
        "provider": options.provider,
        "passed": passed,
        "models": as_json(candidates),
        "machine": machine.passport(),
    }
    _show(asked, document, [*lines, "PASS" if passed else "FAIL"])
    if asked.json:
        _say(*(f"{one.name}: {one.refused}" for one in candidates if one.refused), aside=True)
    return 0 if passed else CheckFailedError.exit_code


def _predict(archive: Archive, asked: argparse.Namespace, options: BenchOptions) -> int:
    rows: list[tuple[str, Predictions]] = []
    chosen, opened = _choose(archive, asked.model, options)
    classifier, unread = opened[chosen.name], list[dict[str, Any]]()
    if not asked.images:
        rows = [(sample.name, classifier(sample.pixels)) for sample in classifier.contract.samples]
    for path in asked.images:
        try:
            require(not Path(path).is_dir(), f"{path}, a folder", "pictures", f"{path}/*.jpg",
                    verb="name them, as")  # fmt: skip
            picture = preprocess.to_pixels(path, classifier.contract.preprocessing)
            rows.append((str(path), classifier.answer([picture])))
            if note := decode.frames_note(picture.n_frames):
                _say(f"{path}: {note}", aside=True)
        except InputError as error:
            _say(f"{archive.path.name}: {error.line}", aside=True)
            unread.append({"path": str(path), "error": error.line})
    answers, lines = [*unread], []
    for name, found in rows:
        (top,), unsure = found.top(3), bool(found.unsure[0])
        shares = ", ".join(f"{label} {percent(share)}" for label, share in top)
        lines.append(f"{name}: {NOT_SURE * unsure}{top[0][0]}   ({shares})")
        listed = [{"label": label, "probability": share} for label, share in top]
        answers.append({"path": name, "label": top[0][0], "sure": not unsure, "top": listed})
    _show(asked, {"predictions": answers}, lines)
    return InputError.exit_code if unread else 0


def _bench(archive: Archive, asked: argparse.Namespace, options: BenchOptions) -> int:
    from .measure import bench, cold_start, screen

    if options.out is not None:
        require_writable(options.result_path(Path(asked.model or "model")))
    chosen, opened = _choose(archive, asked.model, options, refuses=asked.model is None)
    classifier = opened.pop(chosen.name)
    out = None if options.out is None else options.result_path(Path(chosen.name))

    def say(*lines: str) -> None:
        _stage("")
        if not asked.json:
            _say(*lines)

    last: list[Result] = []

    def keep(found: Result) -> None:
        last[:] = [found]
        if out is not None:
            write_json(out, as_json(found))

    shown = screen.Screen(say, verbose=asked.verbose)
    try:
        result = bench.bench_model(
            classifier,
            options,
            name=chosen.name,
            version=archive.manifest["convnet_edge"],
            test=archive.test_set(),
            checks=chosen.checks,
            start=cold_start.Task(archive.path, member=chosen.name),
            listener=bench.Listener(_stage, keep=keep, opened=shown.opened, timed=shown.timed),
            rivals=tuple(opened.items()),
        ).result
        shown.ended(result)
    finally:  # one that failed says why, and what was measured before
        if asked.json and last:
            _say(*json_text(as_json(last[0])).split("\n"))
    if out is not None:
        _say(f"wrote {out}", aside=True)
    bench.require_believable([result], strict=options.strict)
    return 0


def _candidates(
    archive: Archive,
    wanted: str | None,
    options: BenchOptions,
    *,
    isolate: bool | None = None,
) -> tuple[list[Candidate], dict[str, Classifier]]:
    """Open and check every model that was asked for; return also those that could be opened."""
    found: list[Candidate] = []
    opened: dict[str, Classifier] = {}
    errors: list[InputError] = []
    for name, model in archive.models().items():
        if wanted not in (None, name):
            continue
        try:
            opened[name] = Classifier(model, settings=options.session_settings, isolate=isolate)
        except InputError as error:
            errors.append(error)
            found.append(Candidate(name, False, f"cannot be opened: {error.line}"))
            continue
        checks = run_selftest(opened[name])
        failed = (f"{c.name}: {c.detail}" for c in checks if not c.passed and not c.skipped)
        refused = next(failed, None)
        found.append(Candidate(name, refused is None, refused, checks))
    if not opened:
        raise errors[0]
    return found, opened


def _choose(
    archive: Archive, wanted: str | None, options: BenchOptions, *, refuses: bool = True
) -> tuple[Candidate, dict[str, Classifier]]:
    """Return the fastest model that passes here, and all that do; say on stderr why that one.

    refuses: where none passes; else the first that can be opened stands for them.
    """
    candidates, opened = _candidates(archive, wanted, options)
    usable = [one for one in candidates if one.passed]
    refused = [f"{one.name} is left out, {one.refused}" for one in candidates if not one.passed]
    if not usable and not refuses:
        usable, refused = [one for one in candidates if one.name in opened], []
    if not usable:
        raise CheckFailedError(
            "; ".join(refused), expected="a model that passes here", next_step=NEXT_STEP
        )
    why = "the one asked for or the only one"
    if len(candidates) > 1:
        from .measure.timing import Load, median_ms, take_turns

        loads = [Load(opened[one.name], 1) for one in usable]
        images = loads[0].classifier.contract.goldens.images
        rounds = take_turns(loads, images, n_rounds=N_ROUNDS, slot_s=SLOT_S)
        times_ms = {one.name: median_ms(found) for one, found in zip(usable, rounds, strict=True)}
        usable.sort(key=lambda one: times_ms[one.name])
        listed = ", ".join(f"{one.name} {times_ms[one.name]:.3f} ms" for one in usable)
        why = f"the fastest that passes here (one image: {listed})"
    chosen = usable[0]
    _say(f"model: {'; '.join((f'{chosen.name}, {why}', *refused))}", aside=True)
    return chosen, {one.name: opened[one.name] for one in usable}


if __name__ == "__main__":  # a bundle's own start is bundling/bootstrap.py
    if len(sys.argv) < 2:
        sys.exit("usage: python -m convnet_edge.runtime NAME.pyz COMMAND")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
