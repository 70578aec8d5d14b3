"""Open pictures and label them, in a process of its own; what it is asked comes from `batch`."""

import hashlib
import time
from typing import Any

import numpy as np

from ..data.worker import open_replies, requests
from ..runtime.classifier import Classifier
from ..runtime.errors import InputError
from ..runtime.pictures.preprocess import Array, Prepared, decode_picture
from .answers import DIGEST_BYTES, NO_CLASS, Answers, Spent
from .options import PredictOptions
from .predict import open_classifier
from .sources import Item


def serve(task: dict[str, Any]) -> None:
    """Answer lines of items, each with `Answers`."""
    replies = open_replies()
    options = PredictOptions(**task["options"])
    classifier = open_classifier(options, threads=1, isolate=False)
    if classifier.file.sha256 != task["sha256"]:
        raise SystemExit(
            f"{options.model} has changed since the first of these processes opened it"
        )
    for request in requests(replies, limited=options.provider == "cpu"):
        replies.write(answer(classifier, task, request).to_bytes())
        replies.flush()


def answer(classifier: Classifier, task: dict[str, Any], items: list[Any]) -> Answers:
    """Label the pictures of these items, together."""
    how, clock = classifier.contract.preprocessing, time.perf_counter
    invert, has_digests = task["options"]["invert"], task["digest"]
    pictures, errors, digests = list[Prepared](), dict[int, str](), bytearray()
    reading = decoding = 0.0
    for place, asked in enumerate(items):
        item = Item(asked, asked) if isinstance(asked, str) else Item(*asked)
        started, data = clock(), b""
        try:
            data = item.read()
            reading += clock() - started
            started = clock()
            pictures.append(decode_picture(data, how, name=item.name, invert=invert))
            decoding += clock() - started
        except InputError as error:
            errors[place] = error.line
        if has_digests:
            digests += hashlib.sha256(data).digest() if data else bytes(DIGEST_BYTES)
    started = clock()
    found = classifier.answer(pictures)
    best = np.argsort(-found.probabilities, axis=1, kind="stable")[:, : task["k"]]
    scores = np.take_along_axis(found.probabilities, best, axis=1)
    n, answered = len(items), [place for place in range(len(items)) if place not in errors]
    return Answers(
        [],
        errors,
        _spread(best.astype(np.int32), answered, n, NO_CLASS),
        _spread(scores.astype(np.float32), answered, n, 0),
        _spread(found.unsure, answered, n, False),
        np.frombuffer(digests, np.uint8).reshape(n, -1),
        Spent(reading, decoding, clock() - started),
    )


def _spread(rows: Array, places: list[int], n: int, missing: float) -> Array:
    """Return `n` rows, these at their places."""
    found = np.full((n, *rows.shape[1:]), missing, rows.dtype)
    found[places] = rows
    return found
