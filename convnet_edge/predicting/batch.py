"""Label any number of pictures in as many processes as there are cores; answers go to parts.

Every picture has a row, one that cannot be read has its error. What was written is kept: a second
start with the same model does the rest.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

from ..data import processes
from ..runtime.classifier import Classifier
from ..runtime.errors import EdgeError, InputError
from ..runtime.files import brief
from ..runtime.measure.machine import usable_cores, versions
from . import parts, sources
from .answers import Answers, Spent
from .cluster import Cluster
from .formats import Columns, Format, as_text, choose_format
from .labelling import Labelling, largest_of, task_of
from .options import PredictOptions
from .parts import Parts
from .predict import open_classifier
from .sources import Item

TOLD_EVERY_S = 0.2
Progress = Callable[["Labelled"], None]


@dataclass
class Labelled:
    """What `predict --out` did so far.

    n: pictures that have a row, those of earlier starts included; n_errors: of them unreadable.
    n_new: of this start, in elapsed_s seconds. n_total: None as long as nobody has counted them.
    spent: seconds of all processes.
    """

    folder: Path
    n: int = 0
    n_errors: int = 0
    n_new: int = 0
    n_total: int | None = None
    elapsed_s: float = 0.0
    spent: Spent = field(default_factory=Spent)

    @property
    def per_s(self) -> float:
        """Pictures a second of this start."""
        return self.n_new / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def limit(self) -> str:
        """What takes most of the processes' time, in words."""
        whole = sum(self.spent)
        if not whole:
            return ""
        shares = {
            name: round(100 * s / whole) for name, s in zip(Spent._fields, self.spent, strict=True)
        }
        most, *others = sorted(shares, key=lambda name: -shares[name])
        rest = ", ".join(f"{one} {shares[one]} %" for one in others)
        return f"{most} takes {shares[most]} % of the time, {rest}"

    __repr__ = brief


def label(
    options: PredictOptions, progress: Progress = lambda _: None, command: str = "from Python"
) -> Labelled:
    """Label the pictures of `options.images` that have no answer in `options.out` yet.

    progress: hears several times a second how far it is. command: as which the answers name it.

    Example: `ce.label(ce.PredictOptions(["photos/"], out="answers"))`

    Raises:
        InputError: model, provider or folder cannot be opened; the folder is of another model.
    """
    out = options.out
    if out is None:
        raise InputError(
            "no folder for the answers", expected="one", next_step="name it with --out"
        )
    with contextlib.ExitStack() as closing:
        n_workers, started = options.workers or usable_cores(), list[processes.Process]()
        if options.engine == "local":  # they import what they need while this opens the model
            started = closing.enter_context(processes.begun(Labelling.module, n_workers))
        classifier = open_classifier(options)
        columns = Columns(
            classifier.contract.class_labels,
            min(options.n_top, len(classifier.contract.class_labels)),
            options.digest,
        )
        form = choose_format(as_csv=options.format == "csv")
        stated = _statement(options, classifier, columns, form) | {"command": command}
        kept = closing.enter_context(contextlib.closing(Parts(out, form, columns, stated)))
        if options.retry_errors:
            kept.drop_errors()
        known, n, n_errors = kept.done()
        found = Labelled(out, n, n_errors)
        Thread(target=_count, args=(options, found), daemon=True).start()
        job = Labelling(task_of(options, classifier), largest_of(classifier))

        def label_all(items: Iterable[Item]) -> Iterator[Answers]:
            if options.engine == "local":
                return processes.run(job, items, n_workers, started)
            return Cluster(job, classifier, options.workers).run(items)

        _run(label_all, job, options, kept, known, found, progress)
    return found


def _run(
    label_all: Callable[[Iterable[Item]], Iterator[Answers]],
    job: Labelling,
    options: PredictOptions,
    kept: Parts,
    known: parts.Done,
    found: Labelled,
    progress: Progress,
) -> None:
    """Label what is not known yet, and keep it, whatever ends this."""
    began = told = time.monotonic()

    def take(answers: Answers) -> None:
        nonlocal told
        kept.add(answers)
        found.n, found.n_new = found.n + len(answers), found.n_new + len(answers)
        found.n_errors += len(answers.errors)
        found.spent = found.spent.plus(answers.spent)
        now = time.monotonic()
        if now - told > TOLD_EVERY_S:
            told, found.elapsed_s = now, now - began
            progress(found)

    def new() -> Iterator[Item]:
        for item in sources.find(options.images):
            if not item.name.isascii():
                item = item._replace(name=as_text(item.name))
            if known and known.take(item.name):
                continue
            if item.error is None:
                yield item
            else:
                take(job.failed([item.name], [item.error.line]))

    try:
        for answers in label_all(new()):
            take(answers)
    finally:  # Ctrl-C, too
        kept.flush()
        found.elapsed_s = time.monotonic() - began
        progress(found)


def _statement(
    options: PredictOptions, classifier: Classifier, columns: Columns, form: Format
) -> dict[str, Any]:
    """Return what the answers follow from."""
    return {
        "schema": parts.SCHEMA,
        "model": classifier.contract.document.get("name"),
        "model_sha256": classifier.file.sha256,
        "class_labels": list(columns.class_labels),
        "preprocessing": asdict(classifier.contract.preprocessing)
        | {"size": list(classifier.contract.preprocessing.size), "invert_said": options.invert},
        "provider": classifier.session.provider,
        "columns": columns.names(),
        "n_top": columns.n_top,
        "format": form.suffix.removeprefix("."),
        "versions": versions(),
    }


def _count(options: PredictOptions, found: Labelled) -> None:
    """Count the pictures, beside the work, so that the time that is left can be told."""
    with contextlib.suppress(EdgeError, OSError, ValueError):  # what is wrong is told by its row
        found.n_total = sources.count(options.images)
