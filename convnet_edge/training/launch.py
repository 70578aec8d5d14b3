"""Read where this process stands among those that torchrun started; that takes no torch."""

import os
from dataclasses import dataclass

from ..runtime.errors import InputError, InterruptedRunError


class LostProcessError(InterruptedRunError):
    """Another process of the launch is gone: whoever is left says so, as it may be the first."""


@dataclass(frozen=True)
class Launch:
    """One process of a launch. rank: 0-based, of `size`. local_rank: on its machine, if told."""

    rank: int = 0
    size: int = 1
    local_rank: int | None = None

    @property
    def leads(self) -> bool:
        """True for the one process that prints and writes."""
        return self.rank == 0

    def share(self, start: int, stop: int) -> tuple[int, int]:
        """Return this process's part of images [start, stop): parts differ by one image at most."""
        n = stop - start
        return start + n * self.rank // self.size, start + n * (self.rank + 1) // self.size


def read_launch() -> Launch:
    """Return what torchrun's variables say; without them, a process alone.

    Raises:
        InputError: they are no numbers, or do not fit each other.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    said = {name: os.environ[name] for name in names if name in os.environ}
    try:
        rank, size = int(said.get("RANK", 0)), int(said.get("WORLD_SIZE", 1))
        local_rank = int(said["LOCAL_RANK"]) if "LOCAL_RANK" in said else None
        if not 0 <= rank < size or (local_rank or 0) < 0:
            raise ValueError("out of range")
    except ValueError as error:
        raise InputError(
            ", ".join(f"{name}={text}" for name, text in said.items()),
            expected="what torchrun sets: RANK from 0 to WORLD_SIZE - 1, LOCAL_RANK 0 or more",
            next_step="start with `torchrun --nproc-per-node N cli.py train`, or unset them",
        ) from error
    return Launch(rank, size, local_rank)
