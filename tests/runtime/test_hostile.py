"""Files mutated at random, with and without digests that fit again: refused, or right."""

import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

EXPORTED = Path(__file__).parents[2] / "exported"
N_MUTATIONS = 400
MEMORY_LIMIT = 8 << 30
SECONDS_EACH = 5


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Flip, overwrite, cut out, repeat or cut off bytes, most of them where the structure is."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        # weights fill the middle: half of all changes go to the ends, where lengths and names are
        near_an_end = rng.choice((rng.randrange(2000), -1 - rng.randrange(2000)))
        place = rng.choice((near_an_end, rng.randrange(len(data)))) % len(changed)
        kind = rng.randrange(6)
        if kind == 0:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del changed[place : place + rng.randrange(1, 40)]
        elif kind == 3:
            changed[place:place] = changed[place : place + rng.randrange(1, 40)]
        elif kind == 4:
            changed[place:place] = b"\xff" * rng.randrange(1, 10)
        else:
            del changed[max(1, place) :]
    return bytes(changed)


def models(path: Path) -> Iterator[Callable[[], str]]:
    """Yield the opening of mutation after mutation of a model file."""
    import faults
    import numpy as np

    from convnet_edge.runtime import Classifier, contract
    from convnet_edge.runtime.model_file import open_model

    model = path.read_bytes()
    graph, stated = faults.unsealed(model), open_model(model).contract

    def open_and_run(mutated):
        logits = Classifier(mutated, threads=1).logits(stated.goldens.images)
        return "ran" if np.isfinite(logits).all() else "not finite"

    for number in range(N_MUTATIONS):
        rng = random.Random(number)
        # every second one as by somebody who wants it to be run
        mutated = mutate(graph if number % 2 else model, rng)
        yield partial(
            open_and_run, contract.seal(mutated, stated.document) if number % 2 else mutated
        )


def checkpoints(path: Path) -> Iterator[Callable[[], str]]:
    """Yield the loading of mutation after mutation of a checkpoint."""
    from convnet_edge.networks import checkpoint

    data, other = path.read_bytes(), path.with_name("mutated.safetensors")
    for number in range(N_MUTATIONS):
        other.write_bytes(mutate(data, random.Random(number)))
        yield lambda: str(checkpoint.load_model(other) and "ran")


def work(attempts: Iterable[Callable[[], str]]) -> None:
    """Print what comes of each attempt, one JSON line each: what was printed outlives a crash."""
    from convnet_edge.runtime.errors import EdgeError

    for attempt in attempts:
        try:
            outcome = attempt()
        except EdgeError as error:
            outcome = f"refused: {error}"[:300]
        print(json.dumps(outcome), flush=True)


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))


def outcomes(kind: str, path: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, __file__, kind, str(path)],
        capture_output=True, text=True, timeout=SECONDS_EACH * N_MUTATIONS,
        preexec_fn=limit_memory, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"mutation {len(found)}\n{done.stderr[-3000:]}"
    assert len(found) == N_MUTATIONS
    assert sum(outcome.startswith("refused") for outcome in found) > N_MUTATIONS // 4
    return found


def test_mutated_models_are_refused_or_run_and_never_crash(tiny_model):
    found = outcomes("onnx", tiny_model)
    without_fitting_digests = found[::2]
    assert all(outcome.startswith("refused") for outcome in without_fitting_digests)


@pytest.mark.slow
def test_mutated_shipped_models_are_refused_or_run_and_never_crash(tmp_path):
    for source in EXPORTED.glob("fashion-mnist*.onnx"):
        path = tmp_path / source.name
        path.write_bytes(source.read_bytes())
        outcomes("onnx", path)


@pytest.mark.slow
def test_mutated_checkpoints_are_refused_or_load_and_never_crash(trained):
    outcomes("checkpoint", trained.checkpoint_path)


if __name__ == "__main__":
    work({"onnx": models, "checkpoint": checkpoints}[sys.argv[1]](Path(sys.argv[2])))
