"""Label any number of pictures in as many processes as there are cores; answers go to parts.

Every picture has a row, one that cannot be read has its error. What was written is kept: a second
start with the same model does the rest.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Thread
from typing import IO, Any

import numpy as np

from ..data import processes
from ..data.reader import at_once, decoder_crashed
from ..runtime.classifier import Classifier
from ..runtime.errors import InputError
from ..runtime.measure.machine import usable_cores, versions
from ..runtime.measure.result import brief
from . import parts, sources
from .options import PredictOptions
from .parts import Columns, Parts, Row
from .predict import open_classifier
from .sources import Item
from .worker import Spent

LARGEST = 64  # pictures that a process gets at once
MAX_LINE_BYTES = 1 << 24
TOLD_EVERY_S = 0.2
PASSED_ON = ("provider", "ceiling", "invert", "preprocessing", "classes", "image_size")
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


class _Labelling:
    """Opening pictures and labelling them: `processes.Job`."""

    module = "convnet_edge.predicting.worker"

    def __init__(self, options: PredictOptions, classifier: Classifier) -> None:
        given = {name: _plain(getattr(options, name)) for name in PASSED_ON}
        given["model"] = str(classifier.file.path)
        k = min(options.n_top or 1, len(classifier.contract.class_labels))
        self.task: dict[str, Any] = {
            "options": given, "sha256": classifier.file.sha256, "k": k, "digest": options.digest
        }  # fmt: skip
        self.largest = min(
            at_once(classifier.contract.preprocessing, LARGEST), classifier.batch_size
        )
        self.spent = Spent()
        self._digest = options.digest

    def ask(self, items: Sequence[Item]) -> list[tuple[Any, ...]]:
        return [item[:4] for item in items]

    def read(self, stream: IO[bytes], items: Sequence[Item]) -> Iterator[Row]:
        """Yield the rows that `worker.answer` writes of these items."""
        line = stream.readline(MAX_LINE_BYTES)
        if not line.endswith(b"\n"):
            return
        head = json.loads(line)
        places, k = head["places"], self.task["k"]
        n = len(places)
        best, scores, unsure, digests = (
            stream.read(size) for size in (4 * n * k, 4 * n * k, n, 32 * len(items) * self._digest)
        )
        if len(unsure) < n or len(digests) < 32 * len(items) * self._digest:
            return
        self.spent = Spent(*map(sum, zip(self.spent, head["spent"], strict=True)))
        top = zip(
            np.frombuffer(best, np.int32).reshape(n, k).tolist(),
            np.frombuffer(scores, np.float32).reshape(n, k).tolist(),
            np.frombuffer(unsure, bool).tolist(),
            strict=True,
        )
        answers = dict(zip(places, top, strict=True))
        for place, item in enumerate(items):
            digest = digests[32 * place : 32 * (place + 1)]
            sha256 = digest.hex() if any(digest) else None
            if place in answers:
                classes, shares, is_unsure = answers[place]
                yield Row(item.name, classes, shares, is_unsure, sha256=sha256)
            else:
                yield Row(item.name, error=head["errors"][str(place)], sha256=sha256)

    def crashed(self, item: Item, why: str) -> Row:
        return Row(item.name, error=decoder_crashed(item.name, why).line)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def label(
    options: PredictOptions, progress: Progress = lambda _: None, command: str = "from Python"
) -> Labelled:
    """Label the pictures of `options.images` that have no answer in `options.out` yet.

    progress: hears several times a second how far it is. command: as which the answers name it.

    Example: `ce.label(ce.PredictOptions(["photos/"], out="answers"))`

    Raises:
        InputError: model, provider or folder cannot be opened; the folder is of another model.
    """
    assert options.out
    classifier = open_classifier(options)
    columns = Columns(
        classifier.contract.class_labels,
        min(options.n_top, len(classifier.contract.class_labels)),
        options.digest,
    )
    form = parts.choose_format(as_csv=options.format == "csv")
    stated = _statement(options, classifier, columns, form) | {"command": command}
    kept = Parts(options.out, form, columns, stated)
    try:
        if options.retry_errors:
            kept.drop_errors()
        known, n, n_errors = kept.done()
        found = Labelled(options.out, n, n_errors)
        Thread(target=_count, args=(options, found), daemon=True).start()
        job = _Labelling(options, classifier)
        _run(job, options, kept, known, found, progress)
    finally:
        kept.close()
    return found


def _run(
    job: _Labelling,
    options: PredictOptions,
    kept: Parts,
    known: parts.Done,
    found: Labelled,
    progress: Progress,
) -> None:
    """Label what is not known yet, and keep it, whatever ends this."""
    began = told = time.monotonic()

    def take(row: Row) -> None:
        nonlocal told
        kept.add(row)
        found.n, found.n_new = found.n + 1, found.n_new + 1
        found.n_errors += row.error is not None
        now = time.monotonic()
        if now - told > TOLD_EVERY_S:
            told, found.elapsed_s, found.spent = now, now - began, job.spent
            progress(found)

    def new() -> Iterator[Item]:
        for item in sources.find(options.images):
            named = item._replace(name=visible_name(item.name))
            if known.take(named.name):
                continue
            if item.error is None:
                yield named
            else:
                take(Row(named.name, error=item.error.line))

    try:
        for row in processes.run(job, new(), options.workers or usable_cores()):
            take(row)
    finally:  # Ctrl-C, too
        kept.flush()
        found.elapsed_s, found.spent = time.monotonic() - began, job.spent
        progress(found)


def visible_name(name: str) -> str:
    """Return a path as text that every table holds: bytes that are no UTF-8 as escapes."""
    return name if name.isascii() else name.encode(errors="backslashreplace").decode()


def _statement(
    options: PredictOptions, classifier: Classifier, columns: Columns, form: parts.Format
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
    try:
        found.n_total = sum(1 for _ in sources.find(options.images))
    except InputError:  # it is told where the pictures are looked for to be opened
        return
