"""Give a network weights that were trained elsewhere: from a file, or its library's own.

A head of another size is replaced and named; anything else that does not fit is refused. To build
the network is the business of `build`.
"""

import contextlib
import hashlib
import importlib
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ..runtime.errors import InputError, first_line
from ..runtime.files import read_bytes
from ..runtime.pictures.preprocess import Preprocessing
from . import MAX_CHECKPOINT_BYTES, checkpoint

PRETRAINED = "pretrained"  # what --weights calls a library's own
WRAPPERS = ("state_dict", "model_state_dict", "model", "model_ema")  # how others call it
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile and lightning
COUNTER = "num_batches_tracked"  # of normalisation: older files have none
STATE_DICT = ".safetensors, or .pt or .pth with a state dict"
SAVE = "save it anew: torch.save(model.state_dict(), PATH)"
FOREIGN = re.compile(r"Unsupported \w+: GLOBAL ([\w.]+)")  # as torch says what it does not load


@dataclass(frozen=True)
class Usual:
    """How the pictures were made that weights were trained on.

    mean, deviation: by channel, of pixels in [0, 1]. size: (H, W). share: of the sides of a
    picture's middle that is cut out. filter: of resizing. channels, fit, background: as those
    options of `train`, None where they are not known.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    size: tuple[int, int]
    share: float
    filter: Any
    channels: Any = None
    fit: Any = None
    background: Any = None


@dataclass(frozen=True)
class Weights:
    """Weights that were trained elsewhere.

    usual: None where nothing is known of their pictures. sha256: of their file; None of a
    library's.
    """

    name: str
    tensors: Mapping[str, Tensor]
    usual: Usual | None
    sha256: str | None


def find(named: str, arch: str) -> Weights:
    """Return the weights for `arch`: its library's own of "pretrained", else those of a file.

    Raises:
        InputError: not there, unreadable, or the library publishes none.
    """
    if named != PRETRAINED:
        return _of_file(Path(named), arch)
    try:
        usual = _usual(arch)
        if usual is None:
            raise ValueError("it is no library's network with weights")
        name, tensors = _download(arch)
    except (OSError, RuntimeError, ValueError, AttributeError) as error:
        raise InputError(
            f"the weights of {arch} cannot be had: {first_line(error)}",
            expected="torchvision:NAME or timm:NAME, and a network connection",
            next_step=f"fetch {_address(arch)} elsewhere, and name the file with --weights FILE",
        ) from error
    return Weights(name, tensors, usual, None)


def _of_file(path: Path, arch: str) -> Weights:
    """Return the weights in a file; a checkpoint of ours also says how its pictures were made.

    The weights of a library's network are taken to be trained on pictures as its own are.
    """
    tensors = read_weights(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, "pt") as opened:
            is_ours = checkpoint.HEADER_KEY in (opened.metadata() or {})
        if is_ours:
            return Weights(path.name, tensors, _usual_of(path), digest)
    return Weights(path.name, tensors, _usual(arch), digest)


def _usual_of(path: Path) -> Usual:
    """Return what a checkpoint of ours says of its pictures."""
    header = checkpoint.load(path, kind="model").header
    try:
        stored = checkpoint.read_header(checkpoint.Network, header["model"])
        how = Preprocessing.read(header["preprocessing"])
    except (KeyError, TypeError, ValueError) as error:
        raise checkpoint.misfit(path, error) from error
    n, channels = how.channels, "grey" if how.channels == 1 else "rgb"
    means, deviations = stored.normalization or ([0.0] * n, [1.0] * n)
    moments = tuple(means), tuple(deviations)
    return Usual(*moments, how.size, how.share, how.filter, channels, how.fit, how.background)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file, or of what `torch.save` wrote of a state dict.

    Nothing that the file holds is run.

    Raises:
        InputError: missing, damaged, or it holds anything but tensors.
    """
    data = read_bytes(path, limit=MAX_CHECKPOINT_BYTES, next_step="name another with --weights")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load(data))
        _require_size(data)
        with warnings.catch_warnings():  # of pickle's versions
            warnings.simplefilter("ignore")
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        while len(within := [found[name] for name in WRAPPERS if name in found]) == 1:
            found = within[0]
        state = {str(name): one.detach() for name, one in found.items()}
    except pickle.UnpicklingError as error:  # whose text is torch's advice to run the file
        foreign = FOREIGN.search(str(error))
        other = f"a whole model, or other objects of Python ({foreign[1]})" if foreign else ""
        found = f"holds {other}, not its weights" if foreign else "is no file of weights"
        raise InputError(f"{path} {found}", expected=STATE_DICT, next_step=SAVE) from error
    except (
        safetensors.SafetensorError, RuntimeError, ValueError, TypeError,
        AttributeError, LookupError, EOFError, OSError, MemoryError,
    ) as error:  # fmt: skip
        raise InputError(
            f"{path} holds no weights that can be read ({type(error).__name__}: "
            f"{first_line(error)})",
            expected=STATE_DICT,
            next_step=SAVE,
        ) from error
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): one for name, one in state.items()}
    return state


def _require_size(data: bytes) -> None:
    """Raise ValueError if what `torch.save` wrote would unfold to more than a file may hold."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            n = sum(one.file_size for one in archive.infolist())
        if n > MAX_CHECKPOINT_BYTES:
            raise ValueError(f"it unfolds to {n:,} bytes, more than {MAX_CHECKPOINT_BYTES:,}")


def fit(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> tuple[str, ...]:
    """Load `tensors` into `model`; return the names of those of a head of another size, left out.

    The head is the one module whose tensors differ in their first axis alone: the classes. Of a
    network for grey, a convolution of RGB's is summed over its colours.

    Raises:
        InputError: tensors are missing, are too many, have other shapes, or are not finite.
    """
    state = model.state_dict()
    own = {name: one for name, one in state.items() if COUNTER not in name}
    given = {name: one for name, one in tensors.items() if COUNTER not in name}
    given = {name: _as_grey(one, own.get(name, one)) for name, one in given.items()}
    misfits = [name for name in own.keys() & given.keys() if own[name].shape != given[name].shape]
    modules = {name.rpartition(".")[0] for name in misfits}
    of_classes = all(own[name].shape[1:] == given[name].shape[1:] for name in misfits)
    if own.keys() != given.keys() or len(modules) > 1 or not of_classes:
        raise InputError(
            f"{source} does not fit the network: {checkpoint.differences(own, given)}",
            expected=f"its {len(own)} tensors, of which the last layer's may have other classes",
            next_step="name the network that they were trained in with --arch and --arch-option",
        )
    kept = {
        name: one
        for name, one in {**tensors, **given}.items()
        if name in state and one.shape == state[name].shape
    }
    for name, one in kept.items():
        if state[name].isfinite().all() and not one.isfinite().all():
            raise InputError(
                f"{name} of {source} holds numbers that are not finite",
                expected="weights of a training that did not fail",
                next_step="name others with --weights",
            )
    model.load_state_dict(kept, strict=False)
    return tuple(sorted(misfits))


def _as_grey(weight: Tensor, own: Tensor) -> Tensor:
    """Return the weight of a convolution of RGB as that of grey, if `own` is one."""
    is_rgb = weight.dim() == own.dim() == 4 and weight.shape[1] == 3
    grey = weight.sum(1, keepdim=True) if is_rgb else weight
    return grey if grey.shape == own.shape else weight


def _usual(arch: str) -> Usual | None:
    """Return what the library of `arch` says of the pictures for its weights, if it has some."""
    library, _, name = arch.partition(":")
    if library == "torchvision":
        models = importlib.import_module("torchvision.models")
        how = models.get_model_weights(name).DEFAULT.transforms()
        side, larger = how.crop_size[0], how.resize_size[0]
        share, filter_ = min(1.0, side / larger), how.interpolation.value
        return Usual(tuple(how.mean), tuple(how.std), (side, side), share, filter_)
    if library == "timm":
        timm = importlib.import_module("timm")
        if (found := timm.get_pretrained_cfg(name)) and found.has_weights:
            size, share = tuple(found.input_size[1:]), min(1.0, found.crop_pct)
            return Usual(tuple(found.mean), tuple(found.std), size, share, found.interpolation)
    return None


def _address(arch: str) -> str:
    """Return where the library of `arch` has its weights from, as far as it says so."""
    library, _, name = arch.partition(":")
    with contextlib.suppress(ValueError, AttributeError):  # a name that the library does not know
        if library == "torchvision":
            models = importlib.import_module("torchvision.models")
            return str(models.get_model_weights(name).DEFAULT.url)
    return "them"


def _download(arch: str) -> tuple[str, Mapping[str, Tensor]]:
    library, _, name = arch.partition(":")
    if library == "torchvision":
        models = importlib.import_module("torchvision.models")
        weights = models.get_model_weights(name).DEFAULT
        return str(weights), weights.get_state_dict(progress=False, check_hash=True)
    timm = importlib.import_module("timm")
    model = timm.create_model(name, pretrained=True)
    return f"{name}.{model.pretrained_cfg['tag']}", model.state_dict()
