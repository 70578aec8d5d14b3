"""Read where this process stands among those that torchrun started; that takes no torch."""

import os
from dataclasses import dataclass

from ..runtime.errors import InputError


@dataclass(frozen=True)
class Launch:
    """One process of a launch. rank: 0-based, of `size`. local_rank: on its machine, if told."""

    rank: int = 0
    size: int = 1
    local_rank: int | None = None


def read_launch() -> Launch:
    """Return what torchrun's variables say; without them, a process alone.

    Raises:
        InputError: they are no numbers, or do not fit each other.
    """
    said = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    try:
        rank, size, local_rank = (None if text is None else int(text) for text in said.values())
        found = Launch(rank or 0, 1 if size is None else size, local_rank)
        if not 0 <= found.rank < found.size or (local_rank or 0) < 0:
            raise ValueError("out of range")
    except ValueError as error:
        raise InputError(
            ", ".join(f"{name}={text}" for name, text in said.items() if text is not None),
            expected="what torchrun sets: RANK from 0 to WORLD_SIZE - 1, LOCAL_RANK 0 or more",
            next_step="start with `torchrun --nproc-per-node N cli.py train`, or unset them",
        ) from error
    return found
