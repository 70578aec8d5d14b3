"""Files mutated at random, with and without a digest that fits again: refused, or right."""

import os
import random
import resource
import subprocess
import sys
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


def open_model_and_run(data: bytes, number: int) -> None:
    import faults

    from convnet_edge.runtime import Classifier, contract, model_file

    stated = model_file.open_model(data).contract
    rng = random.Random(number)
    # every second one as by somebody who wants it to be run
    if number % 2:
        mutated = contract.seal(mutate(faults.unsealed(data), rng), stated.document)
    else:
        mutated = mutate(data, rng)
    Classifier(mutated, threads=1).logits(stated.goldens.images)


def load_checkpoint(data: bytes, number: int) -> None:
    from convnet_edge.networks import checkpoint

    path = Path("mutated.safetensors")
    path.write_bytes(mutate(data, random.Random(number)))
    checkpoint.load_model(path)


def work(attempt: str, path: str) -> None:
    """Print what comes of each attempt, a line each: what was printed outlives a crash."""
    from convnet_edge.runtime.errors import EdgeError

    data = Path(path).read_bytes()
    for number in range(N_MUTATIONS):
        try:
            globals()[attempt](data, number)
            print("ran", flush=True)
        except EdgeError:
            print("refused", flush=True)


def outcomes(attempt, path: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, __file__, attempt.__name__, str(path)],
        capture_output=True, text=True, timeout=SECONDS_EACH * N_MUTATIONS, cwd=path.parent,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    found = done.stdout.split()
    assert done.returncode == 0, f"mutation {len(found)}\n{done.stderr[-3000:]}"
    assert len(found) == N_MUTATIONS
    assert found.count("refused") > N_MUTATIONS // 4
    return found


@pytest.mark.slow
def test_mutated_models_are_refused_or_run_and_never_crash(tiny_model):
    without_a_fitting_digest = outcomes(open_model_and_run, tiny_model)[::2]
    assert set(without_a_fitting_digest) == {"refused"}


@pytest.mark.slow
def test_mutated_shipped_models_are_refused_or_run_and_never_crash(tmp_path):
    for source in EXPORTED.glob("fashion-mnist*.onnx"):
        path = tmp_path / source.name
        path.write_bytes(source.read_bytes())
        outcomes(open_model_and_run, path)


@pytest.mark.slow
def test_mutated_checkpoints_are_refused_or_load_and_never_crash(trained, tmp_path):
    path = tmp_path / "whole.safetensors"
    path.write_bytes(trained.checkpoint_path.read_bytes())
    outcomes(load_checkpoint, path)


if __name__ == "__main__":
    work(*sys.argv[1:])
