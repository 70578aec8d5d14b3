"""`predict`: labels of pictures, or the tutorial's grid of test images."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..predicting.options import PredictOptions
from ..runtime.errors import InputError
from ..sealing.default_model import choose_model
from .terminal import Done, Terminal

if TYPE_CHECKING:
    from ..predicting import predict as stage

EXAMPLES = "Example: convnet-edge predict photos/ boot.jpg --format csv > labels.csv"
CSV_COLUMNS = (
    "path", "label", "probability", "second", "second_probability", "third", "third_probability",
)  # fmt: skip


def command(options: PredictOptions, terminal: Terminal) -> Done[None]:
    """Label pictures, with the three likeliest classes; without any, draw the tutorial's grid."""
    terminal.note(f"model: {choose_model(options.model)}")
    document: dict[str, Any] = {
        "predictions": list(_label(options, terminal)) if options.images else []
    }
    if options.plot or not options.images:
        beside = terminal if not options.images else Terminal(json=True)
        document["grid"] = _draw_grid(options, beside)
    failed = any("error" in answer for answer in document["predictions"])
    return Done(None, document, exit_code=InputError.exit_code if failed else 0)


def _label(options: PredictOptions, terminal: Terminal) -> Iterator[dict[str, Any]]:
    """Predict, print each answer as it comes (if stdout is not for JSON), and yield it."""
    from ..predicting import predict as stage

    shown_as = None if terminal.json else options.format
    if shown_as == "csv":
        _print_row(CSV_COLUMNS)
    for answer in stage.predict(options):
        if isinstance(answer, stage.Failure):
            terminal.note(f"convnet-edge: {answer.error}")
            yield {"path": str(answer.path), "error": str(answer.error)}
            continue
        if shown_as == "text":
            shares = ", ".join(f"{label} {share:.1%}" for label, share in answer.top)
            terminal.say(f"{answer.path}: {answer.label}   ({shares})")
        elif shown_as == "csv":
            fields = (field for label, share in answer.top for field in (label, f"{share:.6f}"))
            _print_row((str(answer.path), *fields))
        elif shown_as == "jsonl":
            terminal.say(json.dumps(_as_json(answer), ensure_ascii=False))
        yield _as_json(answer)


def _as_json(answer: stage.Prediction) -> dict[str, Any]:
    top = [{"label": label, "probability": share} for label, share in answer.top]
    return {"path": str(answer.path), "label": answer.label, "top": top}


def _print_row(fields: Sequence[str]) -> None:
    csv.writer(sys.stdout, lineterminator="\n").writerow(fields)


def _draw_grid(options: PredictOptions, terminal: Terminal) -> dict[str, Any]:
    from ..predicting.predict import draw_test_grid

    grid = draw_test_grid(options)
    for index, name, true_name in zip(grid.indices, grid.names, grid.true_names, strict=True):
        wrong = "" if name == true_name else f"   wrong: it is {true_name}"
        terminal.say(f"test image {index:5}: {name}?{wrong}")
    terminal.wrote((), (grid.picture,))
    return {**asdict(grid), "picture": str(grid.picture.path)}
