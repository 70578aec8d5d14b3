"""Let other machines label pictures that are here."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..bundling.options import BundleOptions
from ..predicting import sources
from ..predicting.predict import Prediction
from ..runtime.errors import InputError
from ..runtime.files import MIB
from ..runtime.options import require
from .boards import Visit, nonsense, visit

MAX_SENT_BYTES = 64 * MIB


def predict(
    hosts: list[str],
    models: BundleOptions,
    images: Iterable[Path],
    provider: str,
    step: Callable[[str], None] = lambda _: None,
) -> Iterator[Prediction]:
    """Yield each machine's answer to each picture, by the names that scp gives to files there.

    One that gave none has an answer of its own, with the error.

    Raises:
        InputError: the pictures are more than it is reasonable to send, or a model cannot be sent.
    """
    named, files = dict[str, str](), dict[str, bytes]()
    for number, item in enumerate(sources.find(images)):
        try:
            data = item.read()
        except InputError as error:
            yield Prediction(Path(item.name), error=error)
            continue
        name = f"{number}{Path(item.name).suffix}"
        named[name], files[name] = item.name, data
        n_bytes = sum(map(len, files.values()))
        require(n_bytes <= MAX_SENT_BYTES, "more pictures than are sent to another machine",
                f"{MAX_SENT_BYTES // MIB} MiB", "SOURCE")  # fmt: skip
    command = ["predict", "--json", "--provider", provider, *files]
    for found in visit(hosts, models, [command], files=files, step=step) if files else ():
        yield from _answers(found, named)


def _answers(found: Visit, named: dict[str, str]) -> Iterator[Prediction]:
    try:
        rows = [_answer(row, found.host, named) for row in found.answers[0]["predictions"]]
    except (LookupError, TypeError, ValueError) as misfit:
        error = found.error or nonsense(found.host, misfit)
        rows = [Prediction(Path(found.host), error=error)]
    yield from rows


def _answer(row: dict[str, Any], host: str, named: dict[str, str]) -> Prediction:
    path = Path(f"{host}:{named[row['path']]}")
    if "error" in row:
        what, _, rest = str(row["error"]).replace(row["path"], str(path)).partition("; expected ")
        expected, _, next_step = rest.partition("; next: ")
        return Prediction(path, error=InputError(what, expected=expected, next_step=next_step))
    top = tuple((str(one["label"]), float(one["probability"])) for one in row["top"])
    return Prediction(path, top, not row["sure"])
