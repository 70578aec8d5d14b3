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
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import model_file as onnxfile
from .errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

KEY = "convnet_edge"
SCHEMA = 2
MAX_CONTRACT_BYTES = 4 << 20
MAX_GOLDENS = 256
MAX_SIDE = 4096
INPUT_DTYPES = ("float32", "uint8")
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
    """The parsed document. `image_shape`: (H, W) of the grey input; `document`: all of it.

    input_dtype: "float32" for pixels in [0, 1], "uint8" for grey values.
    """

    class_labels: tuple[str, ...]
    input_name: str
    input_dtype: str
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

    @property
    def quantization(self) -> dict[str, Any] | None:
        """How the model was made integer; None of a float one."""
        return self.document.get("quantization")


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
                next_step="export it again, or use the convnet-edge version that exported it",
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
    graph = hashlib.sha256(without_contract(data)).hexdigest()
    stated, zeros = (_stated_digest(d).encode() for d in (contract.contract_sha256, _ZEROS))
    text = entry.value.replace(stated, zeros)
    return Digests(graph, hashlib.sha256(text).hexdigest())


def without_contract(data: bytes) -> bytes:
    """Return the file without its contract: what `seal` was given."""
    entry = _entry(data)
    return data[: entry.start] + data[entry.end :]


def require_unaltered(data: bytes, contract: Contract) -> None:
    """Check both digests: a file that changed since its export is not opened.

    Raises:
        InputError: a digest is not the one that the file states.
    """
    computed = compute_digests(data, contract)
    for name, found, stated in (
        ("graph", computed.graph_sha256, contract.graph_sha256),
        ("contract", computed.contract_sha256, contract.contract_sha256),
    ):
        if found != stated:
            raise InputError(
                f"the file was altered after its export: its {name} digest is {found[:16]}…, the "
                f"file states {stated[:16]}…",
                expected="the bytes that were proved at export",
                next_step="fetch the file again, or export it anew",
            )


def encode_bytes(data: bytes) -> str:
    """Return `data` as it stands in the document: base64."""
    return base64.b64encode(data).decode()


def encode_pixels(pixels: Array) -> str:
    """Return uint8 `pixels` as they stand in the document: row by row, zlib, base64."""
    return encode_bytes(zlib.compress(pixels.tobytes(), 9))


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
    if not isinstance(document["class_labels"], list):
        raise TypeError("class_labels are no list")
    labels = tuple(document["class_labels"])
    if not 2 <= len(labels) <= 10_000 or not all(isinstance(label, str) for label in labels):
        raise ValueError("class_labels are not 2 to 10,000 names")
    channels, height, width = (int(size) for size in document["input"]["shape"])
    if channels != 1 or not all(1 <= side <= MAX_SIDE for side in (height, width)):
        raise ValueError(f"input shape {channels} x {height} x {width} is not one grey image")
    input_dtype = document["input"]["dtype"]
    if input_dtype not in INPUT_DTYPES:
        raise ValueError(f"input of type {input_dtype!r}, not {' or '.join(INPUT_DTYPES)}")
    digest = document["digest"]
    if any(len(bytes.fromhex(digest[key])) != 32 for key in ("graph_sha256", "contract_sha256")):
        raise ValueError("digests are not SHA-256")
    shape = (height, width)
    return Contract(
        class_labels=labels,
        input_name=str(document["input"]["name"]),
        input_dtype=input_dtype,
        output_name=str(document["output"]["name"]),
        image_shape=shape,
        goldens=_parse_goldens(document["goldens"], shape, len(labels)),
        samples=tuple(
            SamplePicture(
                str(sample["name"]),
                _decode(sample["encoded"]),
                _decode_pixels(sample["pixels"], shape),
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
    images = _decode_pixels(document["images"], (len(logits), *shape))
    return Goldens(images, logits, indices, floor, tolerance)


def _decode_pixels(text: Any, shape: tuple[int, ...]) -> Array:
    """Undo `encode_pixels`, never unpacking more than `shape` holds."""
    unpack = zlib.decompressobj()
    try:
        data = unpack.decompress(_decode(text), math.prod(shape) + 1)
    except zlib.error as error:
        raise ValueError(f"pixels are not zlib: {error}") from error
    return np.frombuffer(data, np.uint8).reshape(shape)


def _decode(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error
