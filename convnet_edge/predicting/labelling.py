"""What a process of `predict --out` is asked, and how its answers are read: `processes.Job`."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, TypedDict

from ..data.reader import at_once, decoder_crashed
from ..runtime.classifier import Classifier
from .answers import Answers
from .options import PredictOptions
from .sources import Item

LARGEST = 64  # pictures that a process gets at once
PASSED_ON = ("provider", "ceiling", "invert", "preprocessing", "classes", "image_size")


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
    """Opening pictures and labelling them."""

    module = "convnet_edge.predicting.worker"

    def __init__(self, task: Task, largest: int) -> None:
        self.task: dict[str, Any] = {**task}
        self.largest = largest

    def ask(self, items: Sequence[Item]) -> list[Any]:
        """Return what is sent for these items: of a whole file, its path."""
        return [item.path if item.is_named_so else item[:4] for item in items]

    def read(self, stream: IO[bytes], items: Sequence[Item]) -> Answers:
        """Return what `worker.answer` writes of these items; none if it did not come to an end."""
        try:
            return Answers.read(stream, [item.name for item in items])
        except EOFError:
            return self.failed([], [])

    def failed(self, paths: list[str], errors: Sequence[str]) -> Answers:
        """Return the answers of pictures that have an error each."""
        return Answers.failed(paths, errors, self.task["k"], digest=self.task["digest"])

    def crashed(self, item: Item, why: str) -> Answers:
        """Return the answer of an item that ended its process."""
        return self.failed([item.name], [decoder_crashed(item.name, why).line])
