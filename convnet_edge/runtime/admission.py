"""Refuse a model file that is not a plain classifier before onnxruntime opens it.

A file from elsewhere may be made to fill the memory, to run for hours, or to read other files. Of
an admitted one the operators are known, and the shapes of one image, its memory and its work follow
from the weights (`operators.follow`); they are bounded here, and have to be those that the file
states. Whether it computes the right thing is the self-test's business.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import fields
from itertools import chain

import numpy as np

from .contract import MAX_CONTRACT_BYTES, MAX_SIDE, Cost
from .errors import InputError
from .files import MIB
from .model_file import ELEMENT_TYPES, Graph, ModelFile
from .operators.follow import Followed, follow, refusal
from .operators.rules import INT64, RULES

# integer attributes and what each may be; no other may occur
ATTRIBUTES: dict[str, Collection[int]] = {
    **dict.fromkeys(
        (
            "antialias",
            "exclude_outside",
            "noop_with_empty_axes",
            "storage_order",
            "training_mode",
            "transA",
        ),
        (0,),
    ),
    **dict.fromkeys(
        (
            "allowzero",
            "ceil_mode",
            "channels_last",
            "count_include_pad",
            "exclusive",
            "keepdims",
            "reverse",
            "transB",
        ),
        (0, 1),
    ),
    **dict.fromkeys(("axes", "axis", "batch_dims", "end", "perm", "start"), range(-8, 9)),
    **dict.fromkeys(("dilations", "kernel_shape", "strides"), range(1, MAX_SIDE + 1)),
    **dict.fromkeys(("group", "num_outputs", "split"), range(1, 1 << 16)),
    **dict.fromkeys(("ends", "seed", "starts", "value_int", "value_ints"), INT64),
    "blocksize": range(1, 1 << 6),
    "pads": range(1 << 10),
    "spatial": (1,),
    "stash_type": (1,),
    "to": frozenset(ELEMENT_TYPES.values()),
}
TEXTS = {  # paddings, modes of Pad, DepthToSpace and Resize, approximations of Gelu
    "CRD", "DCR", "NOTSET", "SAME_LOWER", "SAME_UPPER", "VALID", "align_corners", "asymmetric",
    "constant", "cubic", "edge", "floor", "half_pixel", "linear", "nearest", "none",
    "pytorch_half_pixel", "reflect", "round_prefer_floor", "stretch", "tanh",
}  # fmt: skip
ELEMENT_BYTES = {number: np.dtype(name).itemsize for name, number in ELEMENT_TYPES.items()}
MANY_RESULTS = ("Split", "Dropout")
MAX_NODES = 4096
MAX_OTHER_BYTES = MAX_CONTRACT_BYTES + MIB  # of the file, without the weights that are stored raw
# the ceiling, which an option raises
MAX_WEIGHTS = 1 << 26  # numbers that layers take or that are unpacked for them, each time
MAX_IMAGE_BYTES = 2048 * MIB  # of one image, and of all golden images, which run as one batch
MAX_IMAGE_STEPS = 1 << 32  # of one image: as long as 2^36 multiplications take
MAX_PROOF_STEPS = MAX_IMAGE_STEPS << 4  # of all golden images


def admit(file: ModelFile, *, ceiling: float = 1.0) -> Followed:
    """Return what one image takes in `file`, if it is as it was exported, and safe to open.

    ceiling: how many times the usual memory and work it may take.

    Raises:
        InputError: it is not; saying why.
    """
    if file.holds_contract and not file.digest.passed:
        raise InputError(
            f"the file was altered after its export: {file.digest.name}: {file.digest.detail}",
            expected="the bytes that were proved at export",
            next_step="fetch the file again, or export it anew",
        )
    found = _follow(file)
    _require_below(file, found, ceiling)
    for one in fields(Cost):
        real, stated = (getattr(cost, one.name) for cost in (found.cost, file.contract.cost))
        if real != stated:
            says = f"{one.name} {str(stated)[:200]}, the graph has {str(real)[:200]}"
            raise refusal(f"the contract states {says}")
    return found


def cost(file: ModelFile) -> Cost:
    """Return what a contract of `file` has to state; InputError if it would be refused."""
    return _follow(file).cost


def _follow(file: ModelFile) -> Followed:
    for reason in chain(_foreign_parts(file), _foreign_weights(file)):
        raise refusal(reason)
    return follow(file)


def _foreign_parts(file: ModelFile) -> Iterator[str]:
    if (len(file.inputs), len(file.outputs)) != (1, 1):
        yield f"the graph has {len(file.inputs)} inputs and {len(file.outputs)} outputs, not one"
    if len(file.nodes) > MAX_NODES:
        yield f"the graph has {len(file.nodes):,} operations, more than {MAX_NODES:,}"
    yield from foreign_nodes(file)
    ((_, taken),) = file.inputs.items()
    how = file.contract.preprocessing
    shape: tuple[int, ...] = (how.channels, *how.size)
    if taken[1:] != shape or (isinstance(taken[0], int) and taken[0] < 1):
        says = ", ".join(map(str, taken))[:80]
        yield f"the graph takes ({says}), its contract says (batch, {', '.join(map(str, shape))})"


def foreign_nodes(graph: Graph) -> Iterator[str]:
    """Yield what no device admits of the operations of a graph, whatever their sizes."""
    for node in graph.nodes:
        if node.name not in RULES:
            yield f"the graph has the operation {node.name!r}"
        for attribute, values in node.integers.items():
            allowed = ATTRIBUTES.get(attribute, ())
            if [value for value in values if value not in allowed]:
                yield f"the operation {node.name} has {attribute} {list(values[:8])}"
        if unknown := set(node.texts) - TEXTS:
            yield f"the operation {node.name} has the setting {min(unknown)!r}"
        if len(node.outputs) != 1 and not (node.outputs and node.op_type in MANY_RESULTS):
            yield f"the operation {node.name} has {len(node.outputs)} results, not one"


def _foreign_weights(file: ModelFile) -> Iterator[str]:
    held = ((f"{node.name} {key}", one) for node in file.nodes for key, one in node.tensors.items())
    for name, weight in chain(file.weights.items(), held):
        if weight.element_type not in ELEMENT_BYTES:
            yield f"the weights {name!r} are of type {weight.element_type}"
        n = math.prod(weight.dims)
        needed = n * ELEMENT_BYTES[weight.element_type]
        few = min(weight.dims, default=0) >= 0 and n <= len(weight.content)
        if len(weight.raw) not in (0, needed) or not few:
            yield f"the weights {name!r} are not as many as their shape says"
    other_bytes = len(file.data) - sum(len(weight.raw) for weight in file.weights.values())
    if other_bytes > MAX_OTHER_BYTES:
        yield f"{other_bytes:,} bytes beside the weights, more than {MAX_OTHER_BYTES:,}"


def _require_below(file: ModelFile, found: Followed, ceiling: float) -> None:
    """Raise an InputError if the file takes more memory or work than the ceiling."""
    n_goldens, peak = len(file.contract.goldens.images), found.cost.peak_bytes
    n_steps = found.n_steps
    for n, limit, what in (
        (found.n_weights, ceiling * MAX_WEIGHTS, "the layers take {:,} weights"),
        (peak, ceiling * MAX_IMAGE_BYTES, "one image may take {:,} bytes"),
        (n_steps, ceiling * MAX_IMAGE_STEPS, "one image may take {:,} steps"),
        (peak * n_goldens, ceiling * MAX_IMAGE_BYTES, "the golden images may take {:,} bytes"),
        (n_steps * n_goldens, ceiling * MAX_PROOF_STEPS, "the golden images may take {:,} steps"),
    ):
        if n > limit:
            raise InputError(
                f"{what.format(n)}, more than {limit:,.0f}",
                expected="a graph that a small machine can run",
                next_step="raise --ceiling if you trust the file and this machine is large enough",
            )
