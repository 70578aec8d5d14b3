"""Capture what a network computes for any number of images, or say which line forbids that.

Whether it computes the same for an image in any company is found by running it, in `fitness`.
"""

import contextlib
import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from ..runtime.errors import CheckFailedError, first_line
from . import build
from .build import FAILURES

EXAMPLE_BATCH_SIZE = 2  # 1 would be specialised to a constant (pytorch issue 151582)
NOT_THEIRS = (*build.NOT_THEIRS, "<")  # nor what was compiled of a text
FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in ')
SPECIALISED = "specialized it to be a constant"
SWITCHES = ("train", "training", "dropout_p")  # arguments that are false of what is left off

Place = tuple[str, int]  # file and line


def capture(
    model: nn.Module, image_shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> ExportedProgram:
    """Return what `model`, in eval mode, computes of images (N, C, H, W) for any N.

    Raises:
        CheckFailedError: it holds for some N alone, depends on what is in the images, draws random
            numbers, takes statistics of the batch, or gives something else than one row an image.
    """
    images = torch.zeros(EXAMPLE_BATCH_SIZE, *image_shape, dtype=dtype)
    failures = []
    for strict in (False, True):
        try:
            with quiet():
                shapes = ({0: Dim("batch")},)  # by position: the argument may have any name
                program = torch.export.export(
                    model, (images,), dynamic_shapes=shapes, strict=strict
                )
        except FAILURES as error:
            failures.append(error)
            continue
        _require_plain(program)
        return program
    raise _refusal(model, images, *failures) from failures[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep to ourselves what torch prints, logs and warns of its own internals."""
    before = logging.root.manager.disable
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        logging.disable()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.disable(before)


def own_place(places: Iterable[Place]) -> Place | None:
    """Return the last of `places` that is neither torch's nor this program's."""
    own = [place for place in places if not place[0].startswith(NOT_THEIRS)]
    return own[-1] if own else None


def places_of(error: BaseException) -> list[Place]:
    """Return where an error passed through, from where it was caught inwards."""
    return [(one.filename, one.lineno or 0) for one in traceback.extract_tb(error.__traceback__)]


def say_place(model: nn.Module, place: Place | None) -> str:
    """Return ` (in Net, net.py:14)`, of the module whose code that is; empty if it is unknown."""
    if place is None:
        return ""
    file, line = place
    name = f"{Path(file).name}:{line}"
    kinds = {type(module) for module in model.modules()}
    owners = {kind.__name__ for kind in kinds if (file, line) in _code_lines(kind)}
    return f" (in {min(owners)}, {name})" if owners else f" ({name})"


def _code_lines(kind: type) -> set[Place]:
    codes = [one.__code__ for one in vars(kind).values() if hasattr(one, "__code__")]
    return {(code.co_filename, line) for code in codes for *_, line in code.co_lines() if line}


def _refusal(
    model: nn.Module, images: torch.Tensor, eager: Exception, strict: Exception
) -> CheckFailedError:
    """Return what to say of a network that was captured neither by running it nor by reading it."""
    place = (
        own_place(places_of(eager))
        or own_place(_places_in(str(strict)))
        or own_place(_guards(model, images))
    )
    found = f"network capture: torch.export cannot follow the network: {first_line(eager)}"
    expected = "a network that torch.export can follow"
    if isinstance(eager, GuardOnDataDependentSymNode):
        found = "control flow: what the network computes depends on what is in the images"
        expected = "the same operations for any image, as with torch.where"
    elif "Constraints violated" in str(eager):
        found = "free batch axis: what the network computes depends on how many images there are"
        if SPECIALISED in str(eager):
            found = f"free batch axis: the network is made for {EXAMPLE_BATCH_SIZE} images at once"
        expected = "any number of images, as with x.flatten(1) or x.view(x.shape[0], -1)"
    return CheckFailedError(
        found + say_place(model, place), expected=expected, next_step="change that line"
    )


def _places_in(text: str) -> list[Place]:
    return [(found["file"], int(found["line"])) for found in FRAME.finditer(text)]


def _guards(model: nn.Module, images: torch.Tensor) -> Iterator[Place]:
    """Yield the lines that ask for the number of images, if torch may fix it as it likes."""
    with quiet(), contextlib.suppress(*FAILURES):  # else there is no line to name
        program = torch.export.export(model, (images,), dynamic_shapes=({0: Dim.AUTO},))
        mode = _value(_nodes(program, "placeholder")[-1]).fake_mode
        for guard in mode.shape_env.guards:
            frame = guard.sloc.maybe_user_loc or guard.sloc.framework_loc
            yield (frame.filename, frame.lineno) if hasattr(frame, "filename") else ("<", 0)


def _require_plain(program: ExportedProgram) -> None:
    """Refuse random numbers, statistics of the batch, and other outputs than one row an image."""
    for node in _nodes(program, "call_function"):
        tags = getattr(node.target, "tags", ())
        name = str(node.target).removeprefix("aten.").partition(".")[0]
        place = own_place(_places_in(node.meta.get("stack_trace") or ""))
        line = f" ({Path(place[0]).name}:{place[1]})" if place else ""
        kind = [kind for _, kind in (node.meta.get("nn_module_stack") or {}).values()][-1:]
        line = f" in {str(kind[0]).rpartition('.')[2]}{line}" if kind else line
        if torch.Tag.nondeterministic_seeded in tags and _is_on(node):
            raise CheckFailedError(
                f"random numbers: the network draws some whenever it runs: {name}{line}",
                expected="dropout and the like in training alone",
                next_step="pass training=self.training, or leave it out of forward",
            )
        if name == "batch_norm" and _is_on(node):
            raise CheckFailedError(
                f"batch statistics: batch norm takes those of the images at hand{line}",
                expected="running statistics in eval mode",
                next_step="let it follow the network's mode, and keep track_running_stats",
            )
    outputs: Any = _nodes(program, "output")[0].args[0]
    images = _value(_nodes(program, "placeholder")[-1]).shape
    shapes: list[Any] = [getattr(_value(one), "shape", ()) for one in outputs]
    plain = [len(one) == 2 and one[0] == images[0] and isinstance(one[1], int) for one in shapes]
    if plain != [True]:
        texts = [f"({', '.join(map(str, shape))})" for shape in (images, *shapes)]
        taken, *made = (text.replace(str(images[0]), "batch") for text in texts)
        raise CheckFailedError(
            f"one output: of images {taken} the network makes {' and '.join(made)}",
            expected="one row an image, a number for each class",
            next_step="let forward return the logits alone",
        )


def _nodes(program: ExportedProgram, op: str) -> list[torch.fx.Node]:
    return [node for node in program.graph.nodes if node.op == op]


def _value(node: Any) -> Any:
    return node.meta.get("val") if isinstance(node, torch.fx.Node) else node


def _is_on(node: Any) -> bool:
    """Whether an operation that has a switch for training, or a share to drop, is switched on."""
    taken = node.target._schema.arguments
    given = dict(zip((one.name for one in taken), node.args, strict=False)) | node.kwargs
    switch = [one for one in taken if one.name in SWITCHES]
    return all(bool(given.get(one.name, one.default_value)) for one in switch)
