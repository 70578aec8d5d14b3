"""The contract: the one JSON document inside an exported file that makes it self-describing.

Of its two SHA-256, `graph_sha256` is over the file's bytes without the contract's own metadata
entry, `contract_sha256` over the document's text with its own 64 digits written as zeros. They show
that nothing changed since the export; they are no signature and do not say who made the file.
"""

import base64
import hashlib
import json
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import InputError
from .protobuf import field

Array = np.ndarray[Any, np.dtype[Any]]

KEY = "convnet_edge"
METADATA_FIELD = 14  # ModelProto.metadata_props
NEXT_STEP = "export the model again with `convnet-edge export`"
SCHEMA = 2
MAX_CONTRACT_BYTES = 4 << 20
MAX_GOLDENS = 256
MAX_SAMPLES = 4
MAX_SIDE = 4096
MAX_PIXELS_BYTES = 64 << 20  # of golden images and sample pictures
MAX_DEPTH = 16
MAX_NUMBER = 1e20
INPUT_DTYPES = ("float32", "uint8")  # pixels in [0, 1], or grey values
LAYOUTS = {
    "portable": "standard QDQ, for any runtime",
    "ort-cpu": "for onnxruntime's CPU provider only",
}
_ZEROS = "0" * 64
_NUMBER = (int, float)
# what is read of the document as it stands, by part
_KINDS: dict[str, dict[str, Any]] = {
    "input": {"name": str, "scale": str, "shape": list},
    "output": {"name": str},
    "measured": {"what": str, "accuracy": _NUMBER, "n": int},
    "training": {"data": str, "n_images": int, "recipe": str, "epochs": int, "seed": int},
    "preprocessing": {"samples": list},
    "goldens": {"floor": _NUMBER, "tolerance": _NUMBER, "indices": list},
}
_INTEGER_KINDS: dict[str, dict[str, Any]] = {
    "parameters": {"n": int},
    "quantization": {"layout": str, "weight_bits": int, "n_multiplications": int | None},
}


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

    input_dtype: "float32" for pixels in [0, 1], "uint8" for grey values. quantization: how the
    model was made integer, None of a float one. float_counts: parameters, and multiplications of
    one image if known, of the float model that an integer one was made from; None of a float one.
    graph_sha256, contract_sha256: as stated, whatever the file's bytes give.
    """

    class_labels: tuple[str, ...]
    input_name: str
    input_dtype: str
    output_name: str
    image_shape: tuple[int, int]
    goldens: Goldens
    samples: tuple[SamplePicture, ...]
    quantization: dict[str, Any] | None
    float_counts: tuple[int, int | None] | None
    graph_sha256: str
    contract_sha256: str
    document: dict[str, Any]


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
    entry = field(1, KEY.encode()) + field(2, text.encode())
    return model + field(METADATA_FIELD, entry)


def parse(text: bytes) -> Contract:
    """Read a contract's document; InputError for another schema, or content without sense."""
    try:
        document = json.loads(text)
        _require_plain(document)
        return _parse(document)
    except (
        ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, zlib.error,
    ) as error:  # fmt: skip
        raise InputError(
            f"the contract in the file is damaged, or of another version ({type(error).__name__}: "
            f"{str(error)[:300]})",
            expected=f"the document, schema {SCHEMA}, that `convnet-edge export` writes",
            next_step=f"{NEXT_STEP}, or use the version that exported it",
        ) from error


def digest_of(text: bytes, stated: Contract) -> str:
    """Return the `contract_sha256` that follows from the document's `text`."""
    own, zeros = (_stated_digest(digest).encode() for digest in (stated.contract_sha256, _ZEROS))
    return hashlib.sha256(text.replace(own, zeros)).hexdigest()


def encode_bytes(data: bytes) -> str:
    """Return `data` as it stands in the document: base64."""
    return base64.b64encode(data).decode()


def encode_pixels(pixels: Array) -> str:
    """Return uint8 `pixels` as they stand in the document: row by row, zlib, base64."""
    return encode_bytes(zlib.compress(pixels.tobytes(), 9))


def _stated_digest(digest: str) -> str:
    return f'"contract_sha256":"{digest}"'


def _parse(document: dict[str, Any]) -> Contract:
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema {str(document['schema'])[:80]}, not {SCHEMA}")
    labels = document["class_labels"]
    named = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    if not named or not 2 <= len(labels) <= 10_000:
        raise ValueError("class_labels are not a list of 2 to 10,000 names")
    quantization, float_counts = document.get("quantization"), None
    _require_kinds(document, _KINDS if quantization is None else _KINDS | _INTEGER_KINDS)
    channels, height, width = document["input"]["shape"]
    if channels != 1 or not all(1 <= side <= MAX_SIDE for side in (height, width)):
        raise ValueError(f"input shape {channels} x {height} x {width} is not one grey image")
    input_dtype = document["input"]["dtype"]
    if input_dtype not in INPUT_DTYPES:
        raise ValueError(f"input of type {input_dtype!r}, not {' or '.join(INPUT_DTYPES)}")
    if quantization is not None:
        if quantization["layout"] not in LAYOUTS:
            raise ValueError(f"layout {quantization['layout'][:80]!r}, not {' or '.join(LAYOUTS)}")
        float_counts = document["parameters"]["n"], quantization["n_multiplications"]
    shape, samples = (height, width), document["preprocessing"]["samples"]
    n_images = len(document["goldens"]["indices"]) + len(samples)
    if len(samples) > MAX_SAMPLES or n_images * height * width > MAX_PIXELS_BYTES:
        raise ValueError(
            f"{len(samples)} sample pictures, more than {MAX_SAMPLES}, or {n_images} images of "
            f"{height} x {width} pixels, more than {MAX_PIXELS_BYTES:,}"
        )
    return Contract(
        class_labels=tuple(labels),
        input_name=document["input"]["name"],
        input_dtype=input_dtype,
        output_name=document["output"]["name"],
        image_shape=shape,
        goldens=_parse_goldens(document["goldens"], shape, len(labels)),
        samples=tuple(
            SamplePicture(str(s["name"]), _decode(s["encoded"]), _decode_pixels(s["pixels"], shape))
            for s in samples
        ),
        quantization=quantization,
        float_counts=float_counts,
        graph_sha256=str(document["digest"]["graph_sha256"]),
        contract_sha256=str(document["digest"]["contract_sha256"]),
        document=document,
    )


def _require_plain(value: Any, depth: int = 0) -> None:
    """Raise ValueError unless all within `value` can be printed, stored and reckoned with."""
    if depth > MAX_DEPTH:
        raise ValueError(f"lists or objects within each other, more than {MAX_DEPTH}")
    if isinstance(value, _NUMBER) and not abs(value) < MAX_NUMBER:  # NaN is not below it either
        raise ValueError(f"a number that is not below {MAX_NUMBER:g}")
    if isinstance(value, str):
        value.encode()  # half of a surrogate pair cannot be printed
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for part in value:
            _require_plain(part, depth + 1)


def _require_kinds(document: dict[str, Any], kinds: dict[str, dict[str, Any]]) -> None:
    """Raise TypeError unless the document's parts have these keys, with values of such kinds."""
    for part, expected in kinds.items():
        for key, kind in expected.items():
            if not isinstance(document[part][key], kind):
                raise TypeError(f"{part}.{key} is {str(document[part][key])[:80]!r}")
    versions = document["versions"].values()
    if not all(isinstance(text, str) for stage in versions for text in stage.values()):
        raise TypeError("versions are not names")


def _parse_goldens(document: dict[str, Any], shape: tuple[int, int], n_classes: int) -> Goldens:
    logits = np.array(document["logits"], np.float64)
    indices = np.array(document["indices"], np.int64)
    floor, tolerance = float(document["floor"]), float(document["tolerance"])
    if logits.shape != (len(indices), n_classes) or indices.ndim != 1 or indices.min(initial=0) < 0:
        raise ValueError(f"golden logits of shape {logits.shape}")
    if not 1 <= len(logits) <= MAX_GOLDENS or not np.isfinite(logits).all():
        raise ValueError("golden logits are missing, too many, or not finite")
    if tolerance <= 0:
        raise ValueError(f"tolerance {tolerance}")
    images = _decode_pixels(document["images"], (len(logits), *shape))
    return Goldens(images, logits, indices, floor, tolerance)


def _decode_pixels(text: Any, shape: tuple[int, ...]) -> Array:
    """Undo `encode_pixels`, never unpacking more than `shape` holds."""
    n_bytes = math.prod(shape)
    data = zlib.decompressobj().decompress(_decode(text), n_bytes + 1)
    return np.frombuffer(data, np.uint8).reshape(shape)


def _decode(text: Any) -> bytes:
    return base64.b64decode(text, validate=True)
