"""Open pictures and label them, in a process of its own; what it is asked comes from `batch`."""

import hashlib
import json
import time
from typing import IO, Any

import numpy as np

from ..data.worker import open_replies, requests
from ..runtime.classifier import Classifier
from ..runtime.errors import InputError
from ..runtime.pictures.preprocess import Prepared, decode_picture
from .labelling import Spent
from .options import PredictOptions
from .predict import open_classifier
from .sources import Item


def serve(task: dict[str, Any]) -> None:
    """Answer lines of items, each with a line of JSON and arrays."""
    replies = open_replies()
    options = PredictOptions(**task["options"])
    classifier = open_classifier(options, threads=1, isolate=False)
    if classifier.file.sha256 != task["sha256"]:
        raise SystemExit(
            f"{options.model} has changed since the first of these processes opened it"
        )
    for request in requests(replies, limited=options.provider == "cpu"):
        answer(classifier, task, request, replies)


def answer(
    classifier: Classifier, task: dict[str, Any], items: list[Any], replies: IO[bytes]
) -> None:
    """Label the pictures of these items, together, and write what `batch` reads."""
    how, clock = classifier.contract.preprocessing, time.perf_counter
    invert, has_digests = task["options"]["invert"], task["digest"]
    pictures, errors, digests = list[Prepared](), dict[int, str](), list[bytes]()
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
        digests.append(hashlib.sha256(data).digest() if has_digests and data else bytes(32))
    started = clock()
    found = classifier.answer(pictures)
    order = np.argsort(-found.probabilities, axis=1, kind="stable")
    best = order[:, : task["k"]].astype(np.int32)
    scores = np.take_along_axis(found.probabilities, best, axis=1).astype(np.float32)
    spent = Spent(reading, decoding, clock() - started)
    head = {"errors": errors, "spent": spent}
    replies.write(json.dumps(head).encode() + b"\n")
    for part in (best, scores, found.unsure):
        replies.write(part.tobytes())
    replies.write(b"".join(digests) if has_digests else b"")
    replies.flush()
