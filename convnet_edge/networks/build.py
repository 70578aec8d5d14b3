"""Build the network that `--arch WHERE:WHAT` names, and check that it classifies such images.

To name a network runs the Python that defines it: a library's, or a file of one's own. Its weights
are the business of `weights`; how it is trained, stored or exported that of the stages.
"""

import copy
import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ..runtime.errors import InputError, MissingPackageError, first_line, some
from ..runtime.options import require
from . import REFERENCE, convnet, source
from .memory import copied, is_out_of_memory
from .source import Source

LIBRARIES = ("torchvision", "timm")
NOT_OPTIONS = ("pretrained", "checkpoint", "weights")  # with which a library would open others
IN_MEMORY = "memory"  # where a network is that only the Python which made it has
N_CHECKED = 2  # images of the first batch: what holds for one only shows with more
ALIKE = 1e-3  # of the largest logit: far above what float32 makes of another order of adding up
SURE = 1e-4  # of a sum of probabilities
STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
# how paths begin that are torch's, Python's or this program's
NOT_THEIRS = (
    str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), importlib.__file__,
    "<frozen ",
)  # fmt: skip
# what a network raises at images, arguments or numbers that it is not made for
FAILURES = (
    RuntimeError, TypeError, ValueError, LookupError, AssertionError, AttributeError,
    ArithmeticError, NameError,
)  # fmt: skip
WRAPPERS = {"DataParallel", "DistributedDataParallel", "OptimizedModule", "ScriptModule"}
MISTAKES = (AttributeError, NameError, ZeroDivisionError)  # of these, whatever the images

# what --arch names, or in Python what it would: a class, a function, or a network itself
Arch = str | Callable[..., Any]


@dataclass(frozen=True)
class Named:
    """What makes a network. source: the file that defines it; None of a library's."""

    arch: str
    make: Callable[..., Any]
    source: Source | None = None

    @property
    def source_sha256(self) -> str | None:
        """The digest of its source; None without one."""
        return self.source.sha256 if self.source else None


def find(arch: Arch) -> Named:
    """Return what `arch` names: WHERE:WHAT, split at the last colon; "convnet" is the tutorial's.

    Imports the module, or runs the file, that it is in.

    Raises:
        InputError: it can be read in two ways or none, or nothing of that name is there.
    """
    if not isinstance(arch, str):
        return _given(arch)
    if arch == REFERENCE:
        return Named(arch, convnet.make)
    where, _, what = arch.rpartition(":")
    if where == IN_MEMORY:
        raise InputError(
            f"the network {what} was in the memory of the Python that trained it",
            expected="its class, or the network itself",
            next_step="give it again: from Python with arch=, or with --arch FILE.py:NAME",
        )
    if not where or not what:
        file = Path(f"{arch.removesuffix(':').removesuffix('.py')}.py")
        if file.is_file():
            names = source.networks_in(file) or ["NAME"]
            raise InputError(
                f"--arch {arch} names no network in {file}",
                expected="FILE.py:NAME",
                next_step=f"write {' or '.join(f'{file}:{name}' for name in names)}",
            )
        raise _unreadable(arch, what or where)
    if where in LIBRARIES:
        return Named(arch, _from_library(where, what))
    if (path := _file(arch, where)) is None:
        module = _import(arch, where)
        return Named(arch, _member(arch, module, what), _source(module.__file__))
    found = source.read(path)
    return Named(arch, _member(arch, _run(path), what), found)


def find_stored(arch: str, source_sha256: str | None, *, allow_changed_source: bool) -> Named:
    """Return what a file names, be it from anywhere: a library's network, or one in a file here.

    That is run only if it has the SHA-256 that the file states; no module is imported.

    Raises:
        InputError: as `find`; it names a module, or a file whose digest is not stated or another.
    """
    where = arch.rpartition(":")[0]
    if where and where not in (*LIBRARIES, IN_MEMORY):
        if (path := _file(arch, where)) is None:
            raise InputError(
                f"the network is {arch}, a module's, which is not run because a file says so",
                expected="your word that it is yours",
                next_step=f"pass --arch {arch}",
            )
        if source_sha256 is None:
            raise InputError(
                f"the network is in {path}, whose sha256 is not stated: it is not run because a "
                "file says so",
                expected="your word that it is yours",
                next_step=f"pass --arch {arch}",
            )
        if not allow_changed_source:
            require_same_source(arch, source.read(path), source_sha256)
    return find(arch)


def require_same_source(arch: str, found: Source | None, stated: str | None) -> None:
    """Check that the Python which defines a network has the SHA-256 that is stated, if one is.

    Raises:
        InputError: it has another.
    """
    sha256 = found.sha256 if found else None
    if stated and sha256 != stated:
        names = some(found.beside) if found else ""
        beside = f", or one beside it that it imports ({names})," if names else ""
        raise InputError(
            f"the file of {arch}{beside} has changed since then (sha256 {str(sha256)[:16]}…, not "
            f"{stated[:16]}…)",
            expected="the file that it was trained with: other code may give other answers",
            next_step="put that file back, or pass --allow-changed-source if the change is none "
            "to the network",
        )


def _file(arch: str, where: str) -> Path | None:
    """Return the file that `where` names, by its path or as a module; None if it names none."""
    path = Path(where)
    if path.suffix == ".py":
        return path
    beside = Path(*where.split(".")).with_suffix(".py")
    if not beside.is_file():
        return None
    if _is_installed(where):
        raise InputError(
            f"--arch {arch} may be {beside} in this folder, or the installed {where}",
            expected=f"./{beside}:{arch.rpartition(':')[2]}, or a module that is no file here",
            next_step="write it so, or run this in another folder",
        )
    return beside


def _given(arch: Callable[..., Any]) -> Named:
    """Return what Python code has at hand, under the name that it could be had by.

    A network itself has none: nothing tells what it was made with.
    """
    kind = type(arch) if isinstance(arch, nn.Module) else arch
    module, name = kind.__module__, getattr(kind, "__qualname__", type(kind).__name__)
    path = getattr(sys.modules.get(module), "__file__", None)
    where = str(path) if module == "__main__" and path else module
    if isinstance(arch, nn.Module):
        return Named(f"{IN_MEMORY}:{name}", lambda: copy.deepcopy(arch), _source(path))
    return Named(f"{where}:{name}", arch, _source(path))


def _source(path: str | None) -> Source | None:
    return None if path is None else source.read(Path(path))


def build(
    named: Named,
    *,
    image_shape: tuple[int, int, int],
    n_classes: int,
    options: Mapping[str, Any],
) -> nn.Module:
    """Return the network with random weights, its lazy layers made, in training mode.

    It is given those of `num_classes`, `in_channels` or `in_chans`, and `image_size` that it has a
    parameter for (a function that takes any: `num_classes`), then `options`.
    image_shape: (C, H, W).

    Raises:
        InputError: it takes other arguments or images, or gives something else than (N, n_classes).
    """
    channels, *sides = image_shape
    side = sides[0] if sides[0] == sides[1] else tuple(sides)
    known = {"num_classes": n_classes, "in_channels": channels, "in_chans": channels,
             "image_size": side}  # fmt: skip
    for name in options:
        if _is_library(named.arch) and name.startswith(NOT_OPTIONS):
            raise InputError(
                f"--arch-option {name}",
                expected="what the network is made with; its weights are named apart",
                next_step="name them with --weights",
            )
    taken = inspect.signature(named.make).parameters
    # a function that takes any passes them on, as those of libraries do
    any_taken = any(one.kind is one.VAR_KEYWORD for one in taken.values())
    given = {*taken, *["num_classes"] * (any_taken and inspect.isfunction(named.make))}
    arguments = {name: value for name, value in known.items() if name in given} | dict(options)
    _require_known(named.arch, taken, arguments, n_classes)
    refused = f"{named.arch} cannot be made with {_listed(arguments)}"
    change = "change --arch-option, or the network"
    with _explained(refused, "arguments that it takes; VALUE is JSON, else text", change):
        model = named.make(**arguments)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{named.arch} gives a {type(model).__name__}",
            expected="a class or function that gives a torch.nn.Module",
            next_step="name that with --arch",
        )
    if WRAPPERS & {kind.__name__ for kind in type(model).__mro__}:
        raise InputError(
            f"{named.arch} gives a {type(model).__name__}, which holds the network",
            expected="the network itself",
            next_step="return it without torch.compile, torch.jit.script or DataParallel",
        )
    if not isinstance(model, convnet.Convnet):  # which is known to
        _check(named.arch, model, image_shape, n_classes)
    return model.train()


def _require_known(
    arch: str,
    taken: Mapping[str, inspect.Parameter],
    arguments: Mapping[str, Any],
    n_classes: int,
) -> None:
    """Check that nothing that it must be made with is missing."""
    missing = [
        name
        for name, one in taken.items()
        if one.default is one.empty and one.kind not in STARRED and name not in arguments
    ]
    if not missing:
        return
    next_step = "pass " + " ".join(f"--arch-option {name}=VALUE" for name in missing)
    if "num_classes" not in taken:
        rest = f" (if that is the number of classes: {n_classes}), or call it num_classes"
        next_step = f"pass --arch-option {missing[0]}={n_classes}{rest}"
    raise InputError(
        f"{arch} needs {', '.join(missing)}, of which nothing is known",
        expected="num_classes, in_channels or in_chans, and image_size, which are; others by "
        "--arch-option",
        next_step=next_step,
    )


def read_option(text: str) -> tuple[str, Any]:
    """Return name and value of `--arch-option name=value`; what is not JSON is text.

    Raises:
        InputError: it has no name.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise InputError(f"--arch-option {text}", expected="name=value", next_step="write it so")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, {"True": True, "False": False, "None": None}.get(value, value)


def _check(arch: str, model: nn.Module, image_shape: tuple[int, int, int], n_classes: int) -> None:
    """Run a batch through the network, in both modes, and look at what comes."""
    images = torch.zeros(N_CHECKED, *image_shape)
    wanted = f"({N_CHECKED}, {n_classes})"
    refused = f"{arch} fails on images of {_sizes(image_shape)}"
    change = "change --image-size, or the network"
    with torch.no_grad(), _explained(refused, "a network for images of this size", change):
        model.eval()(images)  # makes lazy layers
        # a copy, whose running statistics may change
        found = [model(images), copied(model).train()(images)]
    if not any(parameter.numel() for parameter in model.parameters()):
        raise InputError(
            f"{arch} has no parameters", expected="a network to train", next_step="name another"
        )
    for mode, logits in zip(("", " in training"), found, strict=True):
        next_step = "let it take num_classes, or say so with --arch-option"
        if not isinstance(logits, torch.Tensor):
            got = f"a {type(logits).__name__}"
            if not _is_library(arch):
                next_step = "return the logits alone"
        elif tuple(logits.shape) != (N_CHECKED, n_classes):
            got = f"values of shape {tuple(logits.shape)}"
        elif logits.dtype != torch.float32:
            got = f"{str(logits.dtype).removeprefix('torch.')}"
            next_step = "let its last operation give float32"
        else:
            continue
        raise InputError(
            f"{arch} gives {got}{mode} for {N_CHECKED} images",
            expected=f"float32 logits of shape {wanted}: one for each of the {n_classes} classes",
            next_step=next_step,
        )


def require_own_logits(arch: str, model: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Check that a network to be trained gives each image logits, its own, in eval mode.

    The export proves it of the trained network, in float64; here it is known before the training.

    Raises:
        InputError: what it gives is random, depends on the other images, or is probabilities.
    """
    if isinstance(model, convnet.Convnet):  # which is known to
        return
    images = torch.rand(N_CHECKED, *image_shape, generator=torch.Generator().manual_seed(0))
    trial, given = copied(model).eval(), images.clone()
    refused, expected = f"{arch} does not take one image", "a network for any number of images"
    with torch.no_grad(), _explained(refused, expected, "let each image be judged alone"):
        logits, again = trial(images), trial(images)
        alone = torch.cat([trial(image[None]) for image in images])
    if not images.equal(given):
        raise InputError(
            f"{arch} changes the images that it is given",
            expected="them left as they are: others look at them, too",
            next_step="write x = x - 0.5, not x -= 0.5",
        )
    if not logits.isfinite().all():  # statistics of a batch may keep it small, in training
        with torch.no_grad():
            require(
                bool(trial.train()(images).isfinite().all()),
                f"{arch} gives NaN or infinite logits, with the weights that it begins with",
                f"numbers, for {N_CHECKED} images of noise",
                "what it divides by, and what grows",
                verb="look at",
            )
        return
    tolerance = ALIKE * float(logits.abs().max())
    for other, found, next_step in (
        (again, "the same images other logits when it runs again",
         "leave out what is random, or draw it if self.training alone"),
        (alone, "an image other logits when it is alone", "let each image be judged alone"),
    ):  # fmt: skip
        if other.shape != logits.shape or not (other - logits).abs().max() <= tolerance:
            raise InputError(
                f"{arch} gives {found}, in eval mode",
                expected="logits that depend on the image alone",
                next_step=next_step,
            )
    if (logits >= 0).all() and ((logits.sum(1) - 1).abs() <= SURE).all():
        raise InputError(
            f"{arch} gives probabilities, rows that add up to 1",
            expected="logits, any numbers",
            next_step="leave out the last softmax (training applies it)",
        )


def require_gradients(arch: str, model: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Check that a loss has gradients, which a network to be trained needs.

    Raises:
        InputError: it has none, or none can be found.
    """
    images = torch.rand(N_CHECKED, *image_shape, generator=torch.Generator().manual_seed(0))
    trial, labels = copied(model).train(), torch.zeros(N_CHECKED, dtype=torch.long)
    mend = "leave out no_grad and detach, and change nothing in place that was used before"
    with _explained(f"{arch} cannot be trained", "logits that have gradients", mend):
        torch.autograd.backward(nn.functional.cross_entropy(trial(images), labels))


@contextmanager
def blamed(arch: str, model: nn.Module) -> Iterator[None]:
    """Turn what the code of `model` raises in training into an InputError; all else passes."""
    try:
        yield
    except (*FAILURES, SystemExit) as error:
        foreign, code = _foreign(error), getattr(type(model).forward, "__code__", None)
        is_own = code and code.co_filename in {one.filename for one in foreign}
        if not is_own or is_out_of_memory(error):
            raise
        place = f"{Path(foreign[-1].filename).name}:{foreign[-1].lineno}"
        raise InputError(
            f"{arch} fails in training: {type(error).__name__}: {first_line(error)} ({place})",
            expected="a network that runs on any of the pictures",
            next_step="mend that line",
        ) from error


def _foreign(error: BaseException) -> list[traceback.FrameSummary]:
    """Return where an error passed through code that is neither torch's nor ours."""
    frames = traceback.extract_tb(error.__traceback__)
    return [one for one in frames if not one.filename.startswith(NOT_THEIRS)]


@contextmanager
def _explained(found: str, expected: str, next_step: str) -> Iterator[None]:
    """Turn what a network raises into an InputError that names its file and line."""
    try:
        yield
    except (*FAILURES, SystemExit) as error:
        foreign, place, then = _foreign(error), "", next_step
        if foreign:
            path = Path(foreign[-1].filename)
            place = f" ({path.name}:{foreign[-1].lineno})"
            # what torch raises at other sizes is a RuntimeError
            is_told = (foreign[-1].line or "").startswith("raise")
            is_own = not source.INSTALLED & {*path.parts}
            if is_own and (is_told or not isinstance(error, RuntimeError)):
                then = f"mend that line, or {next_step}"
            if is_own and isinstance(error, MISTAKES):
                expected, then = "a network that runs", "mend that line"
        reason = first_line(error)
        if isinstance(error, MISTAKES):
            reason = f"{type(error).__name__}: {reason}"
        if isinstance(error, SystemExit):
            reason = "it ends the program, by sys.exit or the like"
        raise InputError(
            f"{found}: {reason}{place}",
            expected=expected,
            next_step=then,
        ) from error


def _from_library(library: str, name: str) -> Callable[..., nn.Module]:
    """Return what makes torchvision's or timm's network `name` with random weights.

    Raises:
        InputError: there is none, or timm is not installed.
    """
    if library == "torchvision":
        models = importlib.import_module("torchvision.models")
        names = models.list_models(module=models)
    else:
        try:
            timm = importlib.import_module("timm")
        except ImportError as error:
            raise MissingPackageError(
                "timm is not installed", expected="timm", next_step="pip install timm"
            ) from error
        names = timm.list_models()
    if name not in names:
        near = get_close_matches(name, names, cutoff=0.3)
        raise InputError(
            f"{library} has no classifier {name!r}",
            expected=f"one of its {len(names)}",
            next_step=f"did you mean {' or '.join(near)}?" if near else "name one of these",
        )

    def from_torchvision(
        num_classes: int, in_channels: int, image_size: Any, **options: Any
    ) -> nn.Module:
        if name.startswith("vit_"):  # the others take any
            options.setdefault("image_size", image_size)
        with warnings.catch_warnings():  # of defaults that will change
            warnings.simplefilter("ignore")
            made: nn.Module = models.get_model(
                name, weights=None, num_classes=num_classes, **options
            )
        if in_channels != 3:
            _take_channels(made, in_channels)
        return made

    def from_timm(num_classes: int, in_chans: int, image_size: Any, **options: Any) -> nn.Module:
        if timm.get_pretrained_cfg_value(name, "fixed_input_size"):
            options.setdefault("img_size", image_size)
        made: nn.Module = timm.create_model(
            name, num_classes=num_classes, in_chans=in_chans, **options
        )
        return made

    return from_torchvision if library == "torchvision" else from_timm


def _take_channels(model: nn.Module, n: int) -> None:
    """Let the first convolution of a network for RGB take images of `n` channels."""
    place, first = next((p, m) for p, m in model.named_modules() if isinstance(m, nn.Conv2d))
    names = ("out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    taken: dict[str, Any] = {name: getattr(first, name) for name in names}
    parent, _, name = place.rpartition(".")
    new = nn.Conv2d(n, bias=first.bias is not None, **taken)
    setattr(model.get_submodule(parent), name, new)


def _import(arch: str, where: str) -> ModuleType:
    """Import the module `where`."""
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if not where.startswith(str(error.name)):  # it is there, and misses another
            raise MissingPackageError(
                f"--arch {arch} needs {error.name}, which is not installed",
                expected="it",
                next_step=f"pip install {error.name}",
            ) from error
        raise _unreadable(arch, arch.rpartition(":")[2]) from error
    except SystemExit as error:
        raise InputError(
            f"--arch {arch}: {where} ends the program when it is imported",
            expected="a module that defines the network",
            next_step="let it do so under if __name__ == '__main__' alone",
        ) from error
    except (ValueError, TypeError) as error:  # no name of a module
        raise _unreadable(arch, arch.rpartition(":")[2]) from error


def _run(path: Path) -> ModuleType:
    """Run the file `path` as a module; it may import what lies beside it."""
    folder, name = str(path.resolve().parent), path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as dataclasses in it look themselves up
    sys.path.insert(0, folder)
    try:
        with _explained(f"{path} does not run", "a file that defines the network", "name another"):
            spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise InputError(
            f"{path} does not run: {error}",
            expected="a Python file that defines the network",
            next_step="mend it: python " + str(path),
        ) from error
    finally:
        sys.path.remove(folder)
    return module


def _member(arch: str, module: ModuleType, what: str) -> Callable[..., Any]:
    """Return the class or function `what` of a module."""
    found = getattr(module, what, None)
    if callable(found):
        return found  # type: ignore[no-any-return]
    names = [name for name, one in vars(module).items() if _makes_networks(one, module)]
    near = get_close_matches(what, names, cutoff=0) or ["another"]
    raise InputError(
        f"--arch {arch}: {module.__name__} has no class or function {what}",
        expected=f"one of {', '.join(names) or 'its classes and functions'}",
        next_step=f"did you mean {near[0]}?",
    )


def _makes_networks(one: Any, module: ModuleType) -> bool:
    is_own = getattr(one, "__module__", "") == module.__name__
    is_network = isinstance(one, type) and issubclass(one, nn.Module)
    return is_own and (is_network or inspect.isfunction(one))


def _is_installed(where: str) -> bool:
    """Whether a module of this name can be imported from elsewhere than this folder."""
    first, here = where.partition(".")[0], {"", str(Path.cwd())}
    return any(
        importlib.machinery.PathFinder.find_spec(first, [folder])
        for folder in sys.path
        if folder not in here
    )


def _is_library(arch: str) -> bool:
    return arch.partition(":")[0] in LIBRARIES


def _unreadable(arch: str, name: str) -> InputError:
    models = importlib.import_module("torchvision.models")
    known = [name, *get_close_matches(name, models.list_models(module=models), n=1, cutoff=0.3)]
    return InputError(
        f"--arch {arch} names no network",
        expected="convnet, torchvision:NAME, timm:NAME, FILE.py:NAME or MODULE:NAME",
        next_step=f"write torchvision:{known[-1]} or timm:{known[0]}, or name a file",
    )


def _sizes(image_shape: Sequence[int]) -> str:
    return " x ".join(map(str, image_shape))


def _listed(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items()) or "no arguments"
