"""The contract: the one JSON document inside an exported file that makes it self-describing.

Its `file_sha256` is over the whole file's bytes, with its own 64 digits written as zeros. It shows
that nothing changed since the export; it is no signature and does not say who made the file.
"""

import base64
import hashlib
import json
import math
import zlib
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

import numpy as np

from .errors import InputError
from .pictures.preprocess import Array as Array
from .pictures.preprocess import Preprocessing
from .protobuf import field

KEY = "convnet_edge"
METADATA_FIELD = 14  # ModelProto.metadata_props
NEXT_STEP = "export the model again with `convnet-edge export`"
SCHEMA = 3
MAX_CONTRACT_BYTES = 4 << 20
MAX_GOLDENS = 256
MAX_SAMPLES = 4
MAX_SIDE = 4096
MAX_CLASSES = 10_000
MAX_PIXELS_BYTES = 64 << 20  # of golden images and sample pictures
MAX_DEPTH = 16
MAX_NUMBER = 1e20
INPUT_DTYPES = ("float32", "uint8")  # pixels in [0, 1], or as they are stored
LAYOUTS = {
    "portable": "standard QDQ, for any runtime",
    "ort-cpu": "for onnxruntime's CPU provider only",
}
Proof = Literal["unproved", "adopted"]
PROOFS: dict[Proof, str] = {
    "unproved": "nothing is proved of it: it came from elsewhere as it is",
    "adopted": "no PyTorch network was there to compare with: proved against onnxruntime with its "
    "optimisations off, and ONNX's reference evaluator as far as that ran it",
}  # of what no float64 PyTorch proved
PROBABILITIES = "probabilities"  # the meaning of an output after a softmax
_ZEROS = "0" * 64
Number: TypeAlias = int | float


@dataclass(frozen=True)
class Goldens:
    """Real images with the logits that float64 PyTorch gave for them.

    images: (K, H, W) or (K, H, W, 3) uint8; logits: (K, C) float64, rounded to 1e-9; indices: (K,)
    positions in the test set; floor: the largest error of float32 PyTorch on the whole test set;
    tolerance: the largest error allowed, an absolute difference of logits.
    """

    images: Array
    logits: Array
    indices: Array
    floor: float
    tolerance: float


@dataclass(frozen=True)
class SamplePicture:
    """An encoded picture and the uint8 pixels that preprocessing must make of it, ±2."""

    name: str
    encoded: bytes
    pixels: Array


@dataclass(frozen=True)
class Decision:
    """When an answer is "not sure".

    threshold: the probability below which it is. max_unevenness: of the picture's border, beyond
    which it is; None where no background is removed. data: which n images these come from;
    coverage: the share of them that is sure.
    """

    threshold: Number
    max_unevenness: Number | None
    data: str
    n: int
    coverage: Number


@dataclass(frozen=True)
class Cost:
    """What the graph takes, as the device finds it again before the file is opened.

    n_multiplications: of one image, in convolutions and products of matrices. peak_bytes: the
    largest sum of the results of one image that are needed at the same time, the image among them,
    and of all that is made of weights alone; as onnxruntime may keep them. operators: how often
    each occurs, by name.
    """

    n_multiplications: int
    peak_bytes: int
    operators: dict[str, int]


# what is read of the document as it stands, by part
_KINDS: dict[str, dict[str, Any]] = {
    "input": {"name": str, "scale": str, "shape": list},
    "output": {"name": str},
    "measured": {"what": str, "accuracy": Number, "n": int, "sha256": str},
    "training": {"data": str, "n_images": int, "recipe": str, "epochs": int, "seed": int},
    "preprocessing": {"samples": list},
    "goldens": {"floor": Number, "tolerance": Number, "indices": list},
    "parameters": {"n": int},
    "decision": {one.name: one.type for one in fields(Decision)},
    "cost": {"n_multiplications": int, "peak_bytes": int, "operators": dict},
    "quantization": {"layout": str, "weight_bits": int, "n_multiplications": int | None},
}
_OPTIONAL = ("decision", "quantization")
_UNKNOWN = {"unproved": ("training", "measured"), "adopted": ("training",)}  # by proof


@dataclass(frozen=True)
class Contract:
    """The parsed document; `document`: all of it.

    input_dtype: "float32" for pixels in [0, 1], "uint8" for pixels as they are. proof: None of a
    file proved against float64 PyTorch, else one of `PROOFS`. normalization: mean and deviation by
    channel, of pixels in [0, 1], where an unproved graph leaves them to its caller. decision: None
    where every answer is one. quantization: how the model was made integer, None of a float one.
    file_sha256: as stated, whatever the bytes give.
    """

    class_labels: tuple[str, ...]
    input_name: str
    input_dtype: str
    output_name: str
    proof: Proof | None
    preprocessing: Preprocessing
    normalization: tuple[Array, Array] | None
    goldens: Goldens
    samples: tuple[SamplePicture, ...]
    decision: Decision | None
    quantization: dict[str, Any] | None
    cost: Cost
    file_sha256: str
    document: dict[str, Any]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of an image's pixels: (H, W) of grey, (H, W, 3) of RGB."""
        return self.preprocessing.shape

    @property
    def gives_probabilities(self) -> bool:
        """Whether an unproved graph ends in a softmax of its own."""
        return bool(self.document["output"].get("meaning") == PROBABILITIES)


def seal(model: bytes, document: dict[str, Any]) -> bytes:
    """Return the final file: `model` (a ModelProto without contract) with `document` inside."""
    text = json.dumps(
        {**document, "schema": SCHEMA, "file_sha256": _ZEROS},
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
    entry = field(1, KEY.encode()) + field(2, text.encode())
    zeroed = model + field(METADATA_FIELD, entry)
    # a graph is not searched: it may hold anything
    head, tail = zeroed[: len(model)], zeroed[len(model) :]
    return head + _with_digest(tail, _ZEROS, hashlib.sha256(zeroed).hexdigest())


def digest_of(data: memoryview, start: int, end: int, stated: Contract) -> str:
    """Return the `file_sha256` of a file's `data`, whose contract's text is data[start:end]."""
    digest = hashlib.sha256(data[:start])
    digest.update(_with_digest(bytes(data[start:end]), stated.file_sha256, _ZEROS))
    digest.update(data[end:])
    return digest.hexdigest()


def _with_digest(text: bytes, old: str, new: str) -> bytes:
    return text.replace(f'"file_sha256":"{old}"'.encode(), f'"file_sha256":"{new}"'.encode())


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


def encode_bytes(data: bytes) -> str:
    """Return `data` as it stands in the document: base64."""
    return base64.b64encode(data).decode()


def encode_pixels(pixels: Array) -> str:
    """Return uint8 `pixels` as they stand in the document: row by row, zlib, base64."""
    return encode_bytes(zlib.compress(pixels.tobytes(), 9))


def scale_and_offset(mean: Array, std: Array) -> tuple[Array, Array]:
    """Return what to multiply pixels in [0, 1] by, and then to add: float32 (C, 1, 1) each."""
    both = (1 / std, -mean / std)
    scale, offset = (values.astype(np.float32).reshape(-1, 1, 1) for values in both)
    return scale, offset


def _parse(document: dict[str, Any]) -> Contract:
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema {str(document['schema'])[:80]}, not {SCHEMA}")
    labels = document["class_labels"]
    named = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    if not named or not 2 <= len(labels) <= MAX_CLASSES:
        raise ValueError(f"class_labels are not a list of 2 to {MAX_CLASSES:,} names")
    _require_kinds(document)
    bytes.fromhex((document.get("measured") or {"sha256": ""})["sha256"])
    preprocessing = Preprocessing.read(document["preprocessing"])
    (height, width), channels = preprocessing.size, preprocessing.channels
    if document["input"]["shape"] != [channels, height, width] or max(height, width) > MAX_SIDE:
        raise ValueError(
            f"input shape {str(document['input']['shape'])[:80]}, preprocessing gives {channels} x "
            f"{height} x {width}, of at most {MAX_SIDE} pixels a side"
        )
    input_dtype = document["input"]["dtype"]
    if input_dtype not in INPUT_DTYPES:
        raise ValueError(f"input of type {input_dtype!r}, not {' or '.join(INPUT_DTYPES)}")
    quantization = document.get("quantization")
    if quantization is not None and quantization["layout"] not in LAYOUTS:
        raise ValueError(f"layout {quantization['layout'][:80]!r}, not {' or '.join(LAYOUTS)}")
    shape, samples = preprocessing.shape, document["preprocessing"]["samples"]
    n_images = len(document["goldens"]["indices"]) + len(samples)
    if len(samples) > MAX_SAMPLES or n_images * math.prod(shape) > MAX_PIXELS_BYTES:
        raise ValueError(
            f"{len(samples)} sample pictures, more than {MAX_SAMPLES}, or {n_images} images of "
            f"{math.prod(shape):,} bytes, more than {MAX_PIXELS_BYTES:,} in all"
        )
    proof = document.get("proof")
    if proof not in (None, *PROOFS):
        raise ValueError(f"proof {str(proof)[:80]!r}, not {' or '.join(PROOFS)}")
    return Contract(
        class_labels=tuple(labels),
        input_name=document["input"]["name"],
        input_dtype=input_dtype,
        output_name=document["output"]["name"],
        proof=proof,
        preprocessing=preprocessing,
        normalization=_parse_normalization(document),
        goldens=_parse_goldens(document["goldens"], shape, len(labels)),
        samples=tuple(
            SamplePicture(str(s["name"]), _decode(s["encoded"]), _decode_pixels(s["pixels"], shape))
            for s in samples
        ),
        decision=_parse_decision(document["decision"]),
        quantization=quantization,
        cost=_parse_cost(document["cost"]),
        file_sha256=str(document["file_sha256"]),
        document=document,
    )


def _require_plain(value: Any, depth: int = 0) -> None:
    """Raise ValueError unless all within a list or object can be printed, stored, reckoned with."""
    if depth > MAX_DEPTH:
        raise ValueError(f"lists or objects within each other, more than {MAX_DEPTH}")
    for part in [*value, *value.values()] if isinstance(value, dict) else value:
        if isinstance(part, (dict, list)):
            _require_plain(part, depth + 1)
        elif isinstance(part, str):
            part.encode()  # half of a surrogate pair cannot be printed
        elif isinstance(part, (int, float)) and not abs(part) < MAX_NUMBER:  # nor is NaN
            raise ValueError(f"a number that is not below {MAX_NUMBER:g}")


def _require_kinds(document: dict[str, Any]) -> None:
    """Raise TypeError unless the document's parts have their keys, with values of their kinds."""
    for part, expected in _KINDS.items():
        unknown = _UNKNOWN.get(str(document.get("proof")), ())
        if part in (*_OPTIONAL, *unknown) and document.get(part) is None:
            continue
        for key, kind in expected.items():
            if not isinstance(document[part][key], kind):
                raise TypeError(f"{part}.{key} is {str(document[part][key])[:80]!r}")
    versions = document["versions"].values()
    if not all(isinstance(text, str) for stage in versions for text in stage.values()):
        raise TypeError("versions are not names")


def _parse_normalization(document: dict[str, Any]) -> tuple[Array, Array] | None:
    stated = document["preprocessing"]
    if "mean" not in stated and "std" not in stated:
        return None
    mean, std = (np.array(stated[key], np.float64) for key in ("mean", "std"))
    n_channels, input_dtype = stated["channels"], document["input"]["dtype"]
    if document.get("proof") != "unproved" or input_dtype != "float32":
        raise ValueError("mean and std, which the graph should hold")
    if {mean.shape, std.shape} != {(n_channels,)} or not (std > 0).all():
        raise ValueError(f"mean {stated['mean']} and std {stated['std']}"[:200])
    return mean, std


def _parse_decision(document: dict[str, Any] | None) -> Decision | None:
    if document is None:
        return None
    found = Decision(**document)
    if min(found.threshold, found.max_unevenness or 0, found.n, found.coverage) < 0:
        raise ValueError(f"decision {str(document)[:200]}")
    return found


def _parse_cost(document: dict[str, Any]) -> Cost:
    found = Cost(**document)
    counts = found.operators.values()
    if found.peak_bytes < 1 or not all(isinstance(n, int) and n > 0 for n in counts):
        raise ValueError(f"cost {str(document)[:200]}")
    return found


def _parse_goldens(document: dict[str, Any], shape: tuple[int, ...], n_classes: int) -> Goldens:
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
