"""Open a classifier from elsewhere, with "unproved" in memory where others hold a contract.

What the graph tells, what a person says, and outputs of this machine's onnxruntime with its
optimisations off stand in for the contract, so that such a file is measured as any other is. Those
outputs show whether provider and batch size change them, and prove nothing. To seal such a file is
the host's business (`convnet-edge adopt`).
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .. import admission, contract
from ..classifier import Classifier
from ..contract import PROBABILITIES, Array, Cost
from ..errors import InputError
from ..model_file import (
    Graph,
    ModelFile,
    is_sealed,
    naming,
    open_model,
    open_stated,
    read_graph,
    read_model,
)
from ..options import UnprovedOptions, require
from ..pictures.preprocess import Preprocessing
from ..selftest import PIXEL_TOLERANCE, TOLERANCE_FACTOR, largest_error
from ..session import Settings
from .given import CLASSIFIER, EXPORT_ANEW, EXPORT_OTHERWISE, Told, describe, read_classes

MAX_IMAGES, MAX_PIXELS = 16, 1 << 20  # of random pictures, and of all of them
N_CELLS, SEED = 8, 0
RANDOM = f"of {N_CELLS} x {N_CELLS} random colours, seed {SEED}"


def open_any(path: Path, given: UnprovedOptions, *, ceiling: float = 1.0) -> ModelFile:
    """Open a model file by the contract that it holds, else as unproved.

    ceiling: how many times what is usual an unproved one may take, as it is run for its outputs.

    Raises:
        InputError: unreadable, none that can be run, or `given` makes no sense of it.
    """
    found = look_into(path, given)
    if found.holds_contract:
        return found
    with naming(path), _made_elsewhere():
        return _with_outputs(found, given, Settings(ceiling=ceiling))


def look_into(path: Path, given: UnprovedOptions) -> ModelFile:
    """Read a model file as `open_any`, but run nothing: an unproved one's outputs are zeros."""
    data = read_model(path)
    with naming(path):
        if is_sealed(data):
            return replace(open_model(data), path=path)
    with naming(path), _made_elsewhere():
        graph = read_graph(data)
        told = describe(graph, given)
        labels = _class_labels(given, told.signature.n_classes)
        images = random_images(told.preprocessing)
        nothing = np.zeros((len(images), len(labels)))
        document = _document(path.stem, graph, told) | {
            "class_labels": labels,
            "goldens": describe_outputs(images, nothing, floor=1.0),
        }
        return state(data, document, path)


@contextmanager
def _made_elsewhere() -> Iterator[None]:
    """Let a refusal send no one to `convnet-edge export`, which did not write the file."""
    try:
        yield
    except InputError as error:
        error.next_step = error.next_step.replace(contract.NEXT_STEP, EXPORT_OTHERWISE)
        raise


def is_unproved(path: Path) -> bool:
    """Return whether a model file holds no contract; InputError if it is none."""
    data = read_model(path)
    with naming(path):
        return not is_sealed(data)


def state(data: bytes, document: dict[str, Any], path: Path | None) -> ModelFile:
    """Read a file by the `document` that stands in for a contract, with what it costs in it.

    Raises:
        InputError: the graph is none that is admitted.
    """
    unknown = open_stated(data, _as_text(document | {"cost": asdict(Cost(0, 1, {}))}), path)
    known = document | {"cost": asdict(admission.cost(unknown))}
    return open_stated(data, _as_text(known), path)


@contextmanager
def stand_in(file: ModelFile) -> Iterator[Path | None]:
    """Give other processes the document that a file lacks, as one of its own; None of others."""
    if file.holds_contract:
        yield None
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "contract.json"
        path.write_bytes(_as_text(file.contract.document))
        yield path


def require_used(files: Iterable[ModelFile], given: UnprovedOptions) -> None:
    """Refuse what is given where every model says it by itself."""
    said = [one.name for one in fields(UnprovedOptions) if getattr(given, one.name) is not None]
    if said and all(file.holds_contract for file in files):
        flag = f"--{said[0].replace('_', '-')}"
        raise InputError(
            f"{flag} for a model that holds its own contract",
            expected=f"{flag} with an .onnx from elsewhere alone",
            next_step=f"leave {flag} out",
        )


def require_told(file: ModelFile, given: UnprovedOptions) -> None:
    """Refuse to score a model on pictures of which it cannot know class or pixels."""
    for path, flag, what in (
        (given.classes, "--classes", "a file with the names of its classes"),
        (given.preprocessing, "--preprocessing", "a file that says how pictures are prepared"),
    ):
        found = f"--data for {file.path or 'a model'}, which holds no contract"
        require(file.holds_contract or path is not None, found, what, flag, verb="add")


def random_images(how: Preprocessing) -> Array:
    """Return pictures of random colours, uint8 as `how` makes them: two at least."""
    height, width = how.size
    n = max(2, min(MAX_IMAGES, MAX_PIXELS // (height * width)))
    cells = np.random.default_rng(SEED).integers(0, 256, (n, N_CELLS, N_CELLS, how.channels))
    rows, columns = (np.arange(side) * N_CELLS // side for side in how.size)
    images: Array = cells[:, rows][:, :, columns].astype(np.uint8)
    return images.reshape(n, *how.shape)


def describe_outputs(images: Array, logits: Array, *, floor: float) -> dict[str, Any]:
    """Return `images` and the `logits` (N, C) that they must give, as they stand in a contract."""
    return {
        "indices": list(range(len(images))),
        "images": contract.encode_pixels(images),
        "logits": logits.astype(float).tolist(),
        "floor": floor,
        "tolerance": TOLERANCE_FACTOR * floor,
    }


def noise(logits: Array, others: Iterable[Array]) -> float:
    """Return the largest difference of the same logits computed otherwise; at least a rounding."""
    rounding = float(np.spacing(np.abs(logits).max().astype(np.float32)))
    return max(rounding, *(largest_error(other, logits) for other in others))


def _with_outputs(file: ModelFile, given: UnprovedOptions, settings: Settings) -> ModelFile:
    """Run the random pictures, and state what came of them."""
    plain = Classifier(file, settings=replace(settings, fuse=False))
    images, labels = file.contract.goldens.images, file.contract.class_labels
    first = plain.session.run(plain.to_input(images[:1]))
    if first.ndim != 2 or len(first) != 1 or first.shape[1] < 2:
        raise InputError(
            f"one image gives an output of shape {first.shape}",
            expected=CLASSIFIER,
            next_step=EXPORT_ANEW,
        )
    document = file.contract.document
    if first.shape[1] != len(labels):  # the graph does not say how many
        document = document | {"class_labels": _class_labels(given, first.shape[1])}
        nothing = np.zeros((len(images), first.shape[1]))
        document["goldens"] = describe_outputs(images, nothing, floor=1.0)
        file = open_stated(file.data, _as_text(document), file.path)
        return _with_outputs(file, given, settings)
    logits = plain.logits(images)
    if not np.isfinite(logits).all():
        raise InputError(
            f"outputs that are not finite, of pictures {RANDOM}",
            expected="numbers",
            next_step="say with --preprocessing what its pixels should be",
        )
    fused = Classifier(file, settings=settings)
    floor = noise(logits, [fused.logits(images, batch_size=size) for size in (1, len(images))])
    document = document | {"goldens": describe_outputs(images, logits, floor=floor)}
    return open_stated(file.data, _as_text(document), file.path)


def _document(name: str, graph: Graph, told: Told) -> dict[str, Any]:
    """Return what a contract says, but for classes and outputs."""
    signature = told.signature
    ends = [node.op_type for node in graph.nodes if signature.given in node.outputs]
    is_uint8 = signature.dtype == "uint8"
    return {
        "schema": contract.SCHEMA,
        "file_sha256": "",
        "name": name,
        "proof": "unproved",
        "input": {
            "name": signature.taken,
            "dtype": signature.dtype,
            "shape": list(signature.image_shape),
            "layout": f"NCHW, {'one image' if graph.takes_one else 'batch axis free'}",
            "range": [0, 255] if is_uint8 else [0.0, 1.0],
            "scale": "the uint8 value" if is_uint8 else "uint8 value / 255",
        },
        "output": {
            "name": signature.given,
            "dtype": "float32",
            "meaning": PROBABILITIES if ends == ["Softmax"] else "as the file gives it",
        },
        "preprocessing": {
            **told.preprocessing.document(),
            "pixel_tolerance": PIXEL_TOLERANCE,
            "samples": [],
            **told.normalization,
        },
        "decision": None,
        "parameters": {"n": graph.n_float_weights},
        "versions": {},
    }


def _class_labels(given: UnprovedOptions, n: int | None) -> list[str]:
    if given.classes is not None:
        return list(read_classes(given.classes, n))
    return [f"class {number}" for number in range(n or 2)]


def _as_text(document: dict[str, Any]) -> bytes:
    return json.dumps(document, allow_nan=False).encode()
