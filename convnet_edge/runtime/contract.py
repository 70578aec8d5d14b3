"""The contract: the one JSON document inside an exported file that makes it self-describing.

Labels, input, preprocessing, training, measurements, golden vectors, and two SHA-256 digests:
`graph_sha256` over the file's bytes without the contract's own metadata entry, and
`contract_sha256` over the document's text with its own 64 digits written as zeros. A digest shows
that nothing changed since the export; it is no signature and says nothing of who made the file.
Running the model against the golden vectors is the self-test's business.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import onnxfile
from .errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

KEY = "convnet_edge"
SCHEMA = 1
MAX_CONTRACT_BYTES = 4 << 20
MAX_GOLDENS = 256
MAX_SIDE = 4096
_ZEROS = "0" * 64


@dataclass(frozen=True)
class Goldens:
    """Real images with the logits that float64 PyTorch gave for them.

    images: (K, H, W) uint8; logits: (K, C) float64, rounded to 1e-9; indices: (K,) positions in
    the test set; floor: the largest error of float32 PyTorch on the whole test set; tolerance:
    the largest error allowed, an absolute difference of logits.
    """

    images: Array
    logits: Array
    indices: Array
    floor: float
    tolerance: float


@dataclass(frozen=True)
class SamplePicture:
    """An encoded picture and the (H, W) uint8 pixels that preprocessing must make of it, ±2."""

    name: str
    encoded: bytes
    pixels: Array


@dataclass(frozen=True)
class Contract:
    """The parsed document. `image_shape`: (H, W) of the grey input; `document`: all of it."""

    class_labels: tuple[str, ...]
    input_name: str
    output_name: str
    image_shape: tuple[int, int]
    goldens: Goldens
    samples: tuple[SamplePicture, ...]
    graph_sha256: str
    contract_sha256: str
    document: dict[str, Any]

    @property
    def name(self) -> str:
        """The model's name, as given at export."""
        return str(self.document.get("name", "model"))


@dataclass(frozen=True)
class Digests:
    """The digests computed from a file's bytes, to compare with those it states."""

    graph_sha256: str
    contract_sha256: str


def seal(model: bytes, document: dict[str, Any]) -> bytes:
    """Return the final file: `model` (a ModelProto without contract) with `document` inside."""
    digest = {"graph_sha256": hashlib.sha256(model).hexdigest(), "contract_sha256": _ZEROS}
    text = json.dumps(
        {**document, "schema": SCHEMA, "digest": digest},
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
    own = hashlib.sha256(text.encode()).hexdigest()
    text = text.replace(_stated_digest(_ZEROS), _stated_digest(own))
    return onnxfile.append_metadata(model, KEY, text.encode())


def read_contract(data: bytes) -> Contract:
    """Read the contract out of a model file's bytes.

    Raises:
        InputError: not ONNX, no contract or several, or one whose content makes no sense.
    """
    entry = _entry(data)
    try:
        document = json.loads(entry.value)
        if document["schema"] != SCHEMA:
            raise InputError(
                f"the contract has schema {document['schema']!r}",
                expected=f"schema {SCHEMA}",
                next_step="use the convnet-edge version that exported the file",
            )
        return _parse(document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"the contract in the file is damaged ({type(error).__name__}: {error})",
            expected="the document that `convnet-edge export` writes",
            next_step=onnxfile.NEXT_STEP,
        ) from error


def compute_digests(data: bytes, contract: Contract) -> Digests:
    """Return both digests as they follow from `data`, whatever the contract states."""
    entry = _entry(data)
    graph = hashlib.sha256(data[: entry.start] + data[entry.end :]).hexdigest()
    stated, zeros = (_stated_digest(d).encode() for d in (contract.contract_sha256, _ZEROS))
    text = entry.value.replace(stated, zeros)
    return Digests(graph, hashlib.sha256(text).hexdigest())


def encode_bytes(data: bytes) -> str:
    """Return `data` as it stands in the document: base64."""
    return base64.b64encode(data).decode()


def _stated_digest(digest: str) -> str:
    return f'"contract_sha256":"{digest}"'


def _entry(data: bytes) -> onnxfile.Metadata:
    entries = [entry for entry in onnxfile.parse(data).metadata if entry.key == KEY]
    if len(entries) != 1:
        raise InputError(
            f"{len(entries) or 'no'} contracts in the file (metadata entry {KEY!r})",
            expected="a model written by `convnet-edge export`, which describes itself",
            next_step=onnxfile.NEXT_STEP,
        )
    if len(entries[0].value) > MAX_CONTRACT_BYTES:
        raise InputError(
            f"the contract has {len(entries[0].value):,} bytes",
            expected=f"at most {MAX_CONTRACT_BYTES:,}",
            next_step=onnxfile.NEXT_STEP,
        )
    return entries[0]


def _parse(document: dict[str, Any]) -> Contract:
    labels = tuple(document["class_labels"])
    if not 2 <= len(labels) <= 10_000 or not all(isinstance(label, str) for label in labels):
        raise ValueError("class_labels are not 2 to 10,000 names")
    channels, height, width = (int(size) for size in document["input"]["shape"])
    if channels != 1 or not all(1 <= side <= MAX_SIDE for side in (height, width)):
        raise ValueError(f"input shape {channels} x {height} x {width} is not one grey image")
    digest = document["digest"]
    if any(len(bytes.fromhex(digest[key])) != 32 for key in ("graph_sha256", "contract_sha256")):
        raise ValueError("digests are not SHA-256")
    shape = (height, width)
    return Contract(
        class_labels=labels,
        input_name=str(document["input"]["name"]),
        output_name=str(document["output"]["name"]),
        image_shape=shape,
        goldens=_parse_goldens(document["goldens"], shape, len(labels)),
        samples=tuple(
            SamplePicture(
                str(sample["name"]),
                _decode(sample["encoded"]),
                np.frombuffer(_decode(sample["pixels"]), np.uint8).reshape(shape),
            )
            for sample in document["preprocessing"]["samples"]
        ),
        graph_sha256=digest["graph_sha256"],
        contract_sha256=digest["contract_sha256"],
        document=document,
    )


def _parse_goldens(document: dict[str, Any], shape: tuple[int, int], n_classes: int) -> Goldens:
    logits = np.array(document["logits"], np.float64)
    indices = np.array(document["indices"], np.int64)
    floor, tolerance = float(document["floor"]), float(document["tolerance"])
    if logits.ndim != 2 or logits.shape[1] != n_classes or len(logits) != len(indices):
        raise ValueError(f"golden logits of shape {logits.shape}")
    if not 1 <= len(logits) <= MAX_GOLDENS or not np.isfinite(logits).all():
        raise ValueError("golden logits are missing, too many, or not finite")
    if not (math.isfinite(tolerance) and tolerance > 0 and math.isfinite(floor)):
        raise ValueError(f"tolerance {tolerance}, floor {floor}")
    images = np.frombuffer(_decode(document["images"]), np.uint8).reshape(len(logits), *shape)
    return Goldens(images, logits, indices, floor, tolerance)


def _decode(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error
