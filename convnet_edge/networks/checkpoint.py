"""Store a trained network, or an unfinished run, as safetensors: never pickle.

The header is one JSON string (safetensors orders several keys at random). When to save is the
train stage's business.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import safetensors
import safetensors.torch
import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import nn

from ..runtime.contract import MAX_CLASSES
from ..runtime.errors import InputError, some
from ..runtime.files import others_beside, read_bytes, write_atomically
from ..runtime.pictures.preprocess import Preprocessing
from . import MAX_CHECKPOINT_BYTES, build
from .build import Arch
from .normalized import Normalized

SCHEMA = 2
HEADER_KEY = "convnet_edge"
MAX_SIDE = 1024  # of an image, in pixels
MOST_TENSORS = 3  # tensors of which an error tells, by what is wrong with them
NEXT_STEP = "train again with `convnet-edge train`"

Header = TypeVar("Header")
Count = Annotated[int, Field(ge=0, lt=1 << 64)]
Amount = Annotated[float, Field(ge=0, lt=1e9)]  # seconds, losses, shares
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]  # pixels
Level = Annotated[float, Field(ge=-1e6, le=1e6)]
Deviation = Annotated[float, Field(gt=1e-6, le=1e6)]


@dataclass(frozen=True)
class Network:
    """From what a network is built again.

    arch, options: as `--arch` and `--arch-option` name them. image_shape: (C, H, W), grey or RGB.
    source_sha256: see `source.Source`, None of a library's. normalization: the mean and the
    deviation by channel of pixels in [0, 1] that it takes apart; None: it takes them as they are.
    n_parameters: trainable ones.
    """

    arch: Annotated[str, Field(max_length=1000)]
    image_shape: tuple[Literal[1, 3], Side, Side]
    options: dict[str, Any]
    source_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    normalization: tuple[list[Level], list[Deviation]] | None
    n_parameters: Count


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

    model: Network
    class_labels: Annotated[list[str], Field(min_length=2, max_length=MAX_CLASSES)]
    preprocessing: dict[str, Any]
    decision: dict[str, Any] | None
    training: _Training
    test: _Tested | None  # where there was a test picture
    versions: dict[str, str]


EARLIER = "earlier_sources"  # in what is said of the training: digests of files it began with
MODEL_KEYS = tuple(one.name for one in fields(_Described))


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and the header that says what they are.

    kind: "model" or "resume". header: plain JSON values; a model's are those of `MODEL_KEYS`.
    source_sha256: of the Python by which `load_model` built the network, which the header may not
    have; it is not stored.
    """

    kind: str
    tensors: dict[str, torch.Tensor]
    header: dict[str, Any]
    source_sha256: str | None = None

    @property
    def source_changed(self) -> bool:
        """Whether its network was built by other Python than it was trained with."""
        stated = self.header["model"]["source_sha256"]
        return stated is not None and self.source_sha256 not in (None, stated)


def to_bytes(checkpoint: Checkpoint) -> bytes:
    """Return the file that holds `checkpoint`; equal ones give equal bytes."""
    header = {"schema": SCHEMA, "kind": checkpoint.kind, **checkpoint.header}
    tensors, seen = {}, set[int]()
    for name, tensor in checkpoint.tensors.items():
        stored = tensor.detach().cpu().contiguous()
        is_tied = stored.data_ptr() in seen  # of several names, each gets its own
        seen.add(stored.data_ptr())
        tensors[name] = stored.clone() if is_tied else stored
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
    next_step = f"name another{others_beside(path)}, or {NEXT_STEP}"
    data = read_bytes(path, limit=MAX_CHECKPOINT_BYTES, next_step=next_step)
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


def load_model(
    path: Path, *, arch: Arch | None = None, allow_changed_source: bool = False
) -> tuple[nn.Module, Checkpoint]:
    """Rebuild the trained network of the checkpoint `path`, on the CPU, in eval mode.

    It takes pixels in [0, 1]. arch: where its Python is now, or the class, function or network
    itself; None: where the checkpoint says. That Python is run.

    Raises:
        InputError: unreadable (see `load`), its Python is not there or has changed, or the weights
            do not fit.
    """
    checkpoint = load(path, kind="model")
    try:
        described = _read_described(checkpoint)
    except ValueError as error:
        raise misfit(path, error) from error
    stored = described.model
    if arch is None:
        named = build.find_stored(
            stored.arch, stored.source_sha256, allow_changed_source=allow_changed_source
        )
    else:
        named = build.find(arch)
        if not allow_changed_source:
            build.require_same_source(named.arch, named.source, stored.source_sha256)
    try:
        model = build.build(
            named,
            image_shape=stored.image_shape,
            n_classes=len(described.class_labels),
            options=stored.options,
        )
        _load(model, checkpoint.tensors)
        _require_finite(model)
    except (InputError, ValueError) as error:  # InputError: a kernel larger than its images
        raise misfit(path, error) from error
    if stored.normalization:
        model = Normalized(model, *stored.normalization)
    return model.eval(), replace(checkpoint, source_sha256=named.source_sha256)


def misfit(path: Path, error: Exception) -> InputError:
    """Return the error that a checkpoint's header or weights make no sense."""
    reason = error.found if isinstance(error, InputError) else str(error)
    return InputError(
        f"{path} has weights that do not fit its header: {reason.splitlines()[0][:300]}",
        expected="the trained network that the header describes",
        next_step=NEXT_STEP,
    )


def _load(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load `tensors` into `model`; ValueError if they have other names or shapes than its own."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(differences(model.state_dict(), tensors) or str(error)) from error


def differences(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> str:
    """Return in words how the tensors `given` differ from a network's own; empty if they fit."""
    shapes = {
        name: [" x ".join(map(str, one[name].shape)) or "one number" for one in (given, own)]
        for name in own.keys() & given.keys()
    }
    parts = {
        "without": own.keys() - given.keys(),
        "with more": given.keys() - own.keys(),
        "of other shapes": [
            f"{name} ({one}, not {other})" for name, (one, other) in shapes.items() if one != other
        ],
    }
    return "; ".join(
        f"{word} {some(sorted(names), MOST_TENSORS)}" for word, names in parts.items() if names
    )


def _require_finite(model: nn.Module) -> None:
    """Raise ValueError if a weight is not finite; what a network only remembers may be infinite."""
    weights = all(bool(torch.isfinite(p).all()) for p in model.parameters())
    if not weights or any(bool(torch.isnan(b).any()) for b in model.buffers()):
        raise ValueError("not all are finite")


def _read_described(checkpoint: Checkpoint) -> _Described:
    """Return what the header of a model says; ValueError where it makes no sense."""
    described = read_header(_Described, checkpoint.header)
    try:
        Preprocessing.read(described.preprocessing)
    except (KeyError, TypeError) as error:
        raise ValueError(f"preprocessing: {error}") from error
    stored, n_channels = described.model, described.model.image_shape[0]
    if stored.normalization and any(len(part) != n_channels for part in stored.normalization):
        raise ValueError(f"model.normalization: not of {n_channels} channels")
    return described
