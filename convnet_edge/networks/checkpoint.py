"""Store a trained convnet, or an unfinished run, as safetensors: never pickle.

The header is one JSON string (safetensors orders several keys at random). When to save is the
train stage's business.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import safetensors
import safetensors.torch
import torch
from pydantic import Field, TypeAdapter, ValidationError

from ..runtime.contract import MAX_CLASSES, MAX_SIDE
from ..runtime.errors import InputError
from ..runtime.files import MIB, read_bytes, write_atomically
from ..runtime.pictures.preprocess import Preprocessing
from .convnet import Architecture, Convnet

SCHEMA = 1
HEADER_KEY = "convnet_edge"
MAX_CHECKPOINT_BYTES = 512 * MIB
NEXT_STEP = "train again with `convnet-edge train`"

Header = TypeVar("Header")
Count = Annotated[int, Field(ge=0, lt=1 << 64)]
Amount = Annotated[float, Field(ge=0, lt=1e9)]  # seconds, losses, shares
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]  # pixels


@dataclass(frozen=True)
class _Network:
    image_shape: tuple[Literal[1, 3], Side, Side]  # grey or RGB
    kernel_size: Side
    width: Annotated[float, Field(gt=0, lt=1000)] = 1.0  # older files have none


@dataclass(frozen=True)
class _Training:
    data: str
    recipe: str
    n_images: Count
    epochs: Count
    seed: Count


@dataclass(frozen=True)
class _Tested:
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{2})+$")]


@dataclass(frozen=True)
class _Described:
    """What others read of a model's header; its score is measured again."""

    model: _Network
    class_labels: Annotated[list[str], Field(min_length=2, max_length=MAX_CLASSES)]
    preprocessing: dict[str, Any]
    decision: dict[str, Any] | None
    training: _Training
    test: _Tested | None  # where there was a test picture
    versions: dict[str, str]


MODEL_KEYS = tuple(one.name for one in fields(_Described))


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and the header that says what they are.

    kind: "model" or "resume". header: plain JSON values; a model's are those of `MODEL_KEYS`, with
    `describe_network` for the first.
    """

    kind: str
    tensors: dict[str, torch.Tensor]
    header: dict[str, Any]


def describe_network(architecture: Architecture) -> dict[str, Any]:
    """Return header["model"], from which the convnet is built again."""
    return {
        "image_shape": list(architecture.image_shape),
        "kernel_size": architecture.kernel_size,
        "width": architecture.width,
        "n_parameters": architecture.n_parameters,
    }


def to_bytes(checkpoint: Checkpoint) -> bytes:
    """Return the file that holds `checkpoint`; equal ones give equal bytes."""
    header = {"schema": SCHEMA, "kind": checkpoint.kind, **checkpoint.header}
    tensors = {name: t.detach().cpu().contiguous() for name, t in checkpoint.tensors.items()}
    text = json.dumps(header, sort_keys=True, allow_nan=False)
    return safetensors.torch.save(tensors, {HEADER_KEY: text})


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` atomically."""
    write_atomically(path, to_bytes(checkpoint))


def load(path: Path, *, kind: str) -> Checkpoint:
    """Read the checkpoint `path` of that `kind`.

    Raises:
        InputError: missing, truncated, foreign, of another kind or schema.
    """
    data = read_bytes(path, limit=MAX_CHECKPOINT_BYTES, next_step=NEXT_STEP)
    try:
        tensors = safetensors.torch.load(data)
        size = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][HEADER_KEY])
        if (header["schema"], header["kind"]) != (SCHEMA, kind):
            raise ValueError(f"a {header['kind']} file of schema {header['schema']}"[:200])
        json.dumps(header, allow_nan=False)  # what cannot be written again: NaN, 1e999
        return Checkpoint(kind, tensors, header)
    except (KeyError, TypeError, ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{path} is damaged or foreign ({type(error).__name__}: {error})",
            expected=f"a convnet-edge {kind} checkpoint (safetensors) of schema {SCHEMA}",
            next_step=NEXT_STEP,
        ) from error


def read_header(kind: type[Header], header: dict[str, Any]) -> Header:
    """Return what the dataclass `kind` declares of a header, every value of the declared type.

    Raises:
        ValueError: one is missing, or of another type or range.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(header), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def load_model(path: Path) -> tuple[Convnet, Checkpoint]:
    """Rebuild the trained convnet of the checkpoint `path`, on the CPU, in eval mode.

    Raises:
        InputError: unreadable (see `load`), or its weights do not fit its own header.
    """
    checkpoint = load(path, kind="model")
    try:
        model = Convnet(_read_architecture(checkpoint))
        model.load_state_dict(checkpoint.tensors)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in checkpoint.tensors.values()):
            raise ValueError("not all are finite")
    # InputError: a kernel larger than its images; RuntimeError: tensors of other names or shapes
    except (InputError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path} has weights that do not fit its header: {str(error).splitlines()[0][:300]}",
            expected="the trained convnet that the header describes",
            next_step=NEXT_STEP,
        ) from error
    return model.eval(), checkpoint


def _read_architecture(checkpoint: Checkpoint) -> Architecture:
    """Return the network of the header, once its size is known to be the stored tensors'."""
    described = read_header(_Described, checkpoint.header)
    try:
        Preprocessing.read(described.preprocessing)
    except (KeyError, TypeError) as error:
        raise ValueError(f"preprocessing: {error}") from error
    network, n_classes = described.model, len(described.class_labels)
    architecture = Architecture(network.image_shape, network.kernel_size, n_classes, network.width)
    n_stored = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    if architecture.n_parameters != n_stored:  # before anything of that size is built
        raise ValueError(f"{n_stored:,} numbers stored, {architecture.n_parameters:,} described")
    return architecture
