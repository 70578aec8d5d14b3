"""Label pictures on a Ray cluster: rows are paths, and each core has an actor with a process.

The actor's process is the same as on one machine, so that a picture which ends it costs one row;
the pictures have to be reachable by their paths from every node, the model is sent. Source:
https://docs.ray.io/en/latest/data/api/doc/ray.data.Dataset.map_batches.html
"""

import contextlib
import io
import itertools
import json
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..data import processes
from ..runtime.classifier import Classifier
from ..runtime.errors import InputError, MissingPackageError, first_line
from .answers import Answers
from .labelling import Labelling
from .sources import Item

WINDOW = 500_000  # paths that Ray holds at once; its actors begin anew for the next ones
BLOCK = 1024  # paths that an actor gets at once: the cost of one that is lost
CONNECT_S = 10.0


class Actor:
    """One core's share: a process that opens and labels pictures. given: as `run` makes it."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._folder = TemporaryDirectory()
        model = Path(self._folder.name, "model.onnx")
        model.write_bytes(given["model"])
        options = given["task"]["options"] | {"model": str(model)}
        if given["document"] is not None:
            stated = Path(self._folder.name, "contract.json")
            stated.write_text(given["document"])
            options |= {"preprocessing": str(stated), "classes": None, "image_size": None}
        self._job = Labelling(given["task"] | {"options": options}, given["largest"])
        self._worker = processes.Worker(self._job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the answers to the items of a row: their paths, and all else."""
        (asked,), n = batch["items"], self._job.largest
        items = [Item(*one) for one in json.loads(asked)]
        starts = range(0, len(items), n)
        found = Answers.joined(
            [one for at in starts for one in self._worker.answer(items[at : at + n])]
        )
        return {"paths": [json.dumps(found.paths)], "answers": [found.to_bytes()]}

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it was not made whole
            self._worker.close()
            self._folder.cleanup()


class Cluster:
    """Ray, of the cluster that RAY_ADDRESS or this machine's `ray start` names, else begun here.

    Raises:
        MissingPackageError: it is not installed.
        InputError: it cannot be reached.
    """

    def __init__(self, job: Labelling, classifier: Classifier, n_actors: int | None) -> None:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters is raised
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            self._ray, self._data = import_module("ray"), import_module("ray.data")
        except ImportError as error:
            raise MissingPackageError(
                f"ray cannot be imported: {error}",
                expected="Ray with its data part, for --engine ray",
                next_step="pip install 'convnet-edge[batch]', or leave --engine out",
            ) from error
        try:
            _require_reachable(os.environ.get("RAY_ADDRESS", ""))
            logging.getLogger("ray").setLevel(logging.ERROR)
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            if not self._ray.is_initialized():  # it prints what became of tasks on our stdout
                vars(import_module("ray._private.worker"))["_worker_logs_enabled"] = False
            with _quiet():
                self._ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="error")
            self._n = n_actors or int(self._ray.cluster_resources()["CPU"])
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise InputError(
                f"Ray cannot be started: {first_line(error.__cause__ or error)}",
                expected="a cluster at RAY_ADDRESS, or to begin one here",
                next_step="see `ray status`, which may want a token; or leave --engine out",
            ) from error
        file = classifier.file
        document = None if file.holds_contract else json.dumps(file.contract.document)
        self._given = {
            "model": file.data, "document": document, "task": job.task,
            "largest": job.largest,
        }  # fmt: skip

    def run(self, items: Iterable[Item]) -> Iterator[Answers]:
        """Yield the answers to `items`, in any order."""
        left = iter(items)
        strategy = self._data.ActorPoolStrategy(size=self._n)
        blocks = iter(lambda: list(itertools.islice(left, BLOCK)), [])
        while window := list(itertools.islice(blocks, WINDOW // BLOCK)):
            asked = [{"items": json.dumps([item[:4] for item in block])} for block in window]
            table = self._data.from_items(asked, override_num_blocks=len(asked))
            labelled = table.map_batches(
                Actor, fn_constructor_args=(self._given,), compute=strategy, num_cpus=1,
                batch_size=1,
            )  # fmt: skip
            try:
                for found in labelled.iter_rows():
                    paths = json.loads(found["paths"])
                    yield Answers.read(io.BytesIO(found["answers"]), paths)
            except self._ray.exceptions.RayError as error:
                raise InputError(
                    f"Ray gave up: {str(error).strip().splitlines()[-1][:300]}",
                    expected="this program on every node, and one of them to stay",
                    next_step="see `ray status`, and start again: what is done is kept",
                ) from error


def _require_reachable(address: str) -> None:
    """Raise an OSError if nobody listens there: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "//" not in host:
        socket.create_connection((host, int(port)), CONNECT_S).close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what a library in C++ writes to stderr meanwhile."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
