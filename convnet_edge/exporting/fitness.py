"""Prove by running it that a network's answer for an image is that image's alone.

Only of such a network can a file be proved: the same images give the same logits again, an image
gives them in any company, and float64 says what is right. What it is made of is read in `capture`.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..networks.build import FAILURES
from ..networks.capture import NOT_THEIRS, own_place, places_of, say_place
from ..networks.convnet import to_planes
from ..networks.memory import copied
from ..runtime.contract import Array
from ..runtime.errors import CheckFailedError, first_line
from ..runtime.measure.check import Check
from ..sealing.parity import TOLERANCE_FACTOR

BATCH_SIZES = (1, 2, 3, 7)
SAME = 1e-9  # of a module's largest number, in float64: what other orders of adding up come to


def check(model: nn.Module, images: Array) -> tuple[Check, ...]:
    """Run the first of uint8 `images` through copies of `model`, twice and in several batches.

    Raises:
        CheckFailedError: a check does not hold; it names the module in which that begins.
    """
    n = max(BATCH_SIZES)
    taken = to_planes(torch.from_numpy(np.resize(images[:n], (n, *images.shape[1:]))))
    pixels = taken.contiguous().double() / 255
    exact = copied(model).double().eval()
    right = _run(exact, pixels)
    # of float32, as a part of the network may compute in
    tolerance = TOLERANCE_FACTOR * torch.finfo(torch.float32).eps * float(right.abs().max())
    again = float((_run(exact, pixels) - right).abs().max())
    rows = [_run(exact, pixels[:size]) for size in BATCH_SIZES]
    apart = max(float((one - right[: len(one)]).abs().max()) for one in rows)
    sizes = ", ".join(map(str, BATCH_SIZES))
    found = (
        ("same images twice", f"{n} images, largest difference {again:.2g}", again, pixels),
        ("images in company", f"batches of {sizes}, largest difference {apart:.2g}", apart,
         pixels[:1]),
    )  # fmt: skip
    checks = []
    for name, detail, difference, other in found:
        if not difference <= tolerance:  # nor is it of NaN
            raise CheckFailedError(
                f"{name}: {detail}, allowed {tolerance:.2g}" + _begins(exact, pixels, other),
                expected="logits that depend on the image alone, in eval mode",
                next_step="change that module",
            )
        checks.append(Check(f"network: {name}", True, detail, difference, tolerance))
    return tuple(checks)


def _run(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Return the logits of `pixels` as the network's copy in float64 gives them."""
    try:
        with torch.no_grad():
            logits: Any = model(pixels)
    except FAILURES as error:
        place = say_place(model, own_place(places_of(error)))
        raise CheckFailedError(
            f"float64 reference: a batch of {len(pixels)} fails: {first_line(error)}{place}",
            expected="a network that computes in the type of its images, for any number of them",
            next_step="change that line",
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.shape[:-1] != pixels.shape[:1]:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise CheckFailedError(
            f"one output: {len(pixels)} images give {got}",
            expected="one row an image, a number for each class",
            next_step="let forward return the logits alone",
        )
    return logits


def _begins(model: nn.Module, first: torch.Tensor, second: torch.Tensor) -> str:
    """Return ` (it begins in Net, net.py:14)`: the first module whose rows of both differ."""
    runs = [list(_results(model, pixels)) for pixels in (first, second)]
    for (name, module, one), (*_, other) in zip(*runs, strict=False):
        n = min(len(one), len(other))
        if one.shape[1:] != other.shape[1:] or torch.allclose(
            one[:n], other[:n], rtol=0, atol=SAME * float(one.abs().max())
        ):
            continue
        code = inspect.unwrap(type(module).forward).__code__
        place = f"{Path(code.co_filename).name}:{code.co_firstlineno}"
        if code.co_filename.startswith(NOT_THEIRS):
            place = f"the module {name}"
        return f" (it begins in {type(module).__name__}, {place})"
    return ""


def _results(
    model: nn.Module, pixels: torch.Tensor
) -> Iterator[tuple[str, nn.Module, torch.Tensor]]:
    """Yield what each module of one run gave, in the order in which they were done."""
    done: list[tuple[str, nn.Module, torch.Tensor]] = []

    def keep(name: str, module: nn.Module, result: Any) -> None:
        if isinstance(result, torch.Tensor) and result.dim():
            done.append((name, module, result.clone()))

    hooks = [
        module.register_forward_hook(lambda one, _, result, name=name: keep(name, one, result))
        for name, module in model.named_modules()
    ]
    _run(model, pixels)
    for hook in hooks:
        hook.remove()
    yield from done
