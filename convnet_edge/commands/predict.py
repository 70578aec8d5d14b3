"""`predict`: labels of pictures, or the tutorial's grid of test images."""

from __future__ import annotations

import csv
import gc
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import typer

from ..fleet.options import FleetOptions
from ..predicting.options import ORDINALS, PredictOptions
from ..runtime.errors import CheckFailedError, EdgeError, InputError
from ..runtime.files import percent, visible
from ..runtime.options import require
from ..sealing.default_model import choose_model, shipped_model
from .terminal import Terminal

if TYPE_CHECKING:
    from ..predicting.predict import Prediction


@dataclass(frozen=True)
class WhereOptions(PredictOptions, FleetOptions):
    """What to label, and on which machine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_here("out", "plot", "top", "invert", "preprocessing", "classes")
        needed = bool(self.images) or not self.elsewhere
        require(needed, "other machines without pictures", "SOURCE to name some", "SOURCE",
                verb="add")  # fmt: skip


def command(options: WhereOptions, terminal: Terminal) -> None:
    """Label pictures, with the three likeliest classes; without any, draw the tutorial's grid.

    Example: convnet-edge predict photos/ boot.jpg --format csv > labels.csv
    Example: convnet-edge predict archive/ --out answers --model exported/mine.onnx
    Example: convnet-edge predict boot.jpg --on pi@board
    """
    from ..runtime.elsewhere.unproved import is_unproved

    path = choose_model(options.model)
    shown = f"{path.name}, the shipped one" if path == shipped_model() else str(path)
    terminal.note(f"model: {shown}{' (unproved)' * is_unproved(path)}")
    if options.out is not None:
        _write_parts(options, terminal)
        return
    is_table = options.format != "text"  # one of no rows, if there are no pictures
    labelled = list(_label(options, terminal)) if options.images or is_table else []
    answers = [answer for answer, _ in labelled]
    document: dict[str, Any] = {"predictions": answers}
    if options.plot or not options.images:  # beside answers, the grid's lines are asides
        beside = bool(answers) or is_table
        document["grid"] = _draw_grid(options, Terminal(json=True) if beside else terminal)
    terminal.finish(document)
    errors = [error for _, error in labelled if error]  # each has been told
    if errors:
        if len(answers) > 1:
            terminal.note(f"{len(answers) - len(errors):,} labelled, {len(errors):,} unreadable")
        raise typer.Exit(min(error.exit_code for error in errors))


def _label(
    options: WhereOptions, terminal: Terminal
) -> Iterator[tuple[dict[str, Any], EdgeError | None]]:
    """Predict, print each answer as it comes (if stdout is not for JSON), and yield it."""
    from ..runtime.classifier import NOT_SURE
    from ..runtime.pictures.decode import frames_note

    shown_as = None if terminal.json else options.format
    table = csv.writer(_Rows(), lineterminator="\n")
    if shown_as == "csv":
        table.writerow(_csv_columns(options.n_top))
    for answer in _answers(options, terminal):
        path = str(answer.path)
        if answer.error is not None:
            terminal.note(f"convnet-edge: {answer.error.line}")
            yield {"path": path, "error": answer.error.line}, answer.error
            continue
        if note := frames_note(answer.n_frames):
            terminal.note(f"{path}: {note}")
        top = [{"label": label, "probability": share} for label, share in answer.top]
        sure = {"sure": not answer.unsure}
        document = {"path": path, "label": answer.label, **sure, "top": top}
        if shown_as == "text":
            shares = ", ".join(f"{label} {percent(share)}" for label, share in answer.top)
            terminal.say(f"{path}: {NOT_SURE * answer.unsure}{answer.label}   ({shares})")
        elif shown_as == "csv":
            fields = (field for label, share in answer.top for field in (label, f"{share:.6f}"))
            table.writerow((path, *fields, "no" if answer.unsure else "yes"))
        elif shown_as == "jsonl":
            typer.echo(visible(json.dumps(document, ensure_ascii=False)))  # one line, not folded
        yield document, None


def _answers(options: WhereOptions, terminal: Terminal) -> Iterator[Prediction]:
    """Yield the answers of this machine, or of those that are named."""
    from ..bundling.options import BundleOptions
    from ..fleet import pictures
    from ..predicting.predict import predict

    if not options.elsewhere:
        yield from predict(options)
        return
    hosts, models = options.machines(), (choose_model(options.model),)
    bundle = BundleOptions(models, ceiling=options.ceiling)
    with terminal.progress():
        yield from pictures.predict(hosts, bundle, options.images, options.provider, terminal.step)


def _csv_columns(n_top: int) -> list[str]:
    others = [(name, f"{name}_probability") for name in ORDINALS[1:n_top]]
    return ["path", "label", "probability", *(name for pair in others for name in pair), "sure"]


def _write_parts(options: PredictOptions, terminal: Terminal) -> None:
    """Label any number of pictures, and keep the answers in parts."""
    from ..predicting.batch import Labelled, label

    gc.freeze()  # what was imported stays: no collection needs to look at it

    def show(found: Labelled) -> None:
        errors = f", {found.n_errors:,} unreadable" * bool(found.n_errors)
        pace = f"{found.n:,} pictures{errors}, {found.per_s:,.0f}/s"
        if found.n_total:
            left_s = (found.n_total - found.n) / found.per_s if found.per_s else 0
            terminal.share(found.n / found.n_total, f"{pace}, {_clock(left_s)} left")
        else:
            terminal.step(pace)

    with terminal.progress():
        found = label(options, show, shlex.join(["convnet-edge", *sys.argv[1:]]))
    earlier = f" ({found.n - found.n_new:,} of them before)" * (found.n > found.n_new > 0)
    if found.n and not found.n_new:
        earlier = ", all of them before"
    terminal.answer(
        f"{found.n:,} pictures in {options.out}{earlier}: {found.n - found.n_errors:,} labelled, "
        f"{found.n_errors:,} unreadable"
    )
    if found.n_new:
        pace = f"{found.n_new:,} in {_clock(found.elapsed_s)}, {found.per_s:,.0f} pictures/s"
        terminal.say(": ".join(filter(None, (pace, found.limit))))
    if found.n_errors:
        terminal.note("why, says the column error; to try again: --retry-errors")
    said = {"folder": str(found.folder), "per_s": found.per_s, "spent": found.spent._asdict()}
    terminal.finish(asdict(found) | said)
    if found.n_errors and options.strict:
        raise typer.Exit(CheckFailedError.exit_code)
    if found.n and found.n == found.n_errors:  # a name that was mistyped, most likely
        raise InputError(
            f"none of {found.n:,} pictures could be read",
            expected="at least one",
            next_step=f"see the column error in {found.folder}, then name others",
        )


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


class _Rows:
    """Where rows go: to files and programs unchanged but for what is no text, visible to people."""

    def write(self, text: str) -> None:
        whole = text.encode(errors="backslashreplace").decode()
        sys.stdout.write(f"{visible(text[:-1])}\n" if sys.stdout.isatty() else whole)


def _draw_grid(options: PredictOptions, terminal: Terminal) -> dict[str, Any]:
    """Predict and draw 15 random test images, as the tutorial does."""
    from ..data import dataset
    from ..drawing.pictures import draw_grid
    from ..predicting.predict import open_classifier
    from ..runtime.elsewhere.unproved import require_told

    classifier = open_classifier(options)
    require_told(classifier.file, options)
    test = dataset.require_test_set(dataset.Task.of(classifier.contract), options)
    grid = draw_grid(options.plot_out, classifier, test, seed=options.seed)
    for index, name, true_name in zip(grid.indices, grid.names, grid.true_names, strict=True):
        wrong = "" if name == true_name else f"   wrong: it is {true_name}"
        terminal.say(f"test image {index:5}: {name}{wrong}")
    terminal.wrote((), (grid.picture,))
    return {**asdict(grid), "picture": str(grid.picture.path)}
