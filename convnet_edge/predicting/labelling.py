"""What a process of `predict --out` is asked, and how its answers are read: `processes.Job`."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, TypedDict

import numpy as np

from ..data.reader import at_once, decoder_crashed
from ..runtime.classifier import Classifier
from .options import PredictOptions
from .parts import Row
from .sources import Item

LARGEST = 64  # pictures that a process gets at once
MAX_LINE_BYTES = 1 << 24
PASSED_ON = ("provider", "ceiling", "invert", "preprocessing", "classes", "image_size")


class Spent(NamedTuple):
    """Seconds that processes spent on their pictures."""

    reading: float = 0.0
    decoding: float = 0.0
    labelling: float = 0.0

    def plus(self, other: Sequence[float]) -> "Spent":
        """Return the sum."""
        return Spent(*map(sum, zip(self, other, strict=True)))


class Task(TypedDict):
    """What a process needs to begin, for JSON: `worker.serve`.

    options: `PredictOptions`' arguments. sha256: the model file's. k: classes of each answer.
    """

    options: dict[str, Any]
    sha256: str
    k: int
    digest: bool


def task_of(options: PredictOptions, classifier: Classifier) -> Task:
    """Return what the processes are to do."""
    given = {name: _plain(getattr(options, name)) for name in PASSED_ON}
    k = min(options.n_top or 1, len(classifier.contract.class_labels))
    path = str(classifier.file.path)
    return Task(
        options=given | {"model": path}, sha256=classifier.file.sha256, k=k, digest=options.digest
    )


def largest_of(classifier: Classifier) -> int:
    """Return how many pictures a process gets at once."""
    return min(at_once(classifier.contract.preprocessing, LARGEST), classifier.batch_size)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


class Labelling:
    """Opening pictures and labelling them. spent: by all processes so far."""

    module = "convnet_edge.predicting.worker"

    def __init__(self, task: Task, largest: int) -> None:
        self.task: dict[str, Any] = {**task}
        self.largest, self.spent = largest, Spent()

    def ask(self, items: Sequence[Item]) -> list[Any]:
        """Return what is sent for these items: of a whole file, its path."""
        return [item.path if item.is_named_so else item[:4] for item in items]

    def read(self, stream: IO[bytes], items: Sequence[Item]) -> Iterator[Row]:
        """Yield the rows that `worker.answer` writes of these items."""
        line = stream.readline(MAX_LINE_BYTES)
        if not line.endswith(b"\n"):
            return
        head = json.loads(line)
        n, k = len(items) - len(head["errors"]), self.task["k"]
        n_digest_bytes = 32 * len(items) * self.task["digest"]
        best, scores, unsure, digests = (
            stream.read(size) for size in (4 * n * k, 4 * n * k, n, n_digest_bytes)
        )
        if len(unsure) < n or len(digests) < n_digest_bytes:
            return
        self.spent = self.spent.plus(head["spent"])
        top = zip(
            np.frombuffer(best, np.int32).reshape(n, k).tolist(),
            np.frombuffer(scores, np.float32).reshape(n, k).tolist(),
            np.frombuffer(unsure, bool).tolist(),
            strict=True,
        )
        errors, sha256 = head["errors"], None
        for place, item in enumerate(items):
            if n_digest_bytes:
                digest = digests[32 * place : 32 * (place + 1)]
                sha256 = digest.hex() if any(digest) else None
            if errors and str(place) in errors:
                yield Row(item.name, (), (), False, errors[str(place)], sha256)
            else:
                classes, shares, is_unsure = next(top)
                yield Row(item.name, classes, shares, is_unsure, None, sha256)

    def crashed(self, item: Item, why: str) -> Row:
        """Return the row of an item that ended its process."""
        return Row(item.name, error=decoder_crashed(item.name, why).line)
