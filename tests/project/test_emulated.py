"""The shipped files on processors that are not here: same integers bit for bit, same labels.

`tests/project/emulated_setup.sh` fetches the emulator, and an arm64 Python with the locked wheels.
"""

import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import faults
import made
import numpy as np
import pytest
from emulated import CPUS, EMULATED, EXPORTED, TIMEOUT_S, Cpu, emulator

import convnet_edge
from convnet_edge.quantizing import portable
from convnet_edge.runtime import Classifier, contract, selftest
from convnet_edge.runtime.measure import machine
from convnet_edge.runtime.model_file import open_model
from convnet_edge.sealing import seal

WORKER = Path(__file__).with_name("emulated_worker.py")
FLOAT, PORTABLE, ORT_CPU = (f"fashion-mnist{kind}.onnx" for kind in ("", ".int8", ".int8-ort"))
FULL_RANGE, BRANCHING = "full-range.onnx", "branching.onnx"

pytestmark = pytest.mark.arm


class Outcome(NamedTuple):
    """What one processor made of the files; logits: (N, C) float32 by file name."""

    cpu: Cpu
    logits: dict[str, np.ndarray]
    report: dict


@pytest.fixture(scope="module")
def model_paths(few, tmp_path_factory) -> dict[str, Path]:
    """The shipped files, one whose weights have all 8 bits, one of swish, gate, sum and mean."""
    from onnxruntime import quantization

    real = quantization.QDQQuantizer

    def with_8_bits(model, **options):
        return real(model, **options | {"reduce_range": False})

    pixels = few.images[:, None].astype(np.float32) / np.float32(255)
    calibrated = portable.calibrate(faults.unsealed((EXPORTED / FLOAT).read_bytes()), pixels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantization, "QDQQuantizer", with_8_bits)
        eight_bits = calibrated.quantised()
    document = open_model(EXPORTED / PORTABLE).contract.document
    folder, side = tmp_path_factory.mktemp("made"), few.images.shape[1]
    (folder / FULL_RANGE).write_bytes(contract.seal(eight_bits, document))
    branching = portable.calibrate(made.branching(side).SerializeToString(), pixels).quantised()
    document = made.document(side) | {"input": seal.describe_input("uint8", (1, side, side))}
    (folder / BRANCHING).write_bytes(seal.seal(branching, document))
    shipped = {name: EXPORTED / name for name in (FLOAT, PORTABLE, ORT_CPU)}
    return shipped | {name: folder / name for name in (FULL_RANGE, BRANCHING)}


@pytest.fixture(scope="module")
def here(few, model_paths) -> dict[str, np.ndarray]:
    """The logits of the processor that is here."""
    return {
        name: Classifier(path, threads=1).logits(few.images) for name, path in model_paths.items()
    }


@pytest.fixture(scope="module")
def outcomes(few, model_paths, tmp_path_factory) -> dict[str, Outcome]:
    if not (EMULATED / "ready").exists():
        pytest.fail(f"{EMULATED} is not set up: run tests/project/emulated_setup.sh")
    folder = tmp_path_factory.mktemp("emulated")
    runtime = Path(convnet_edge.__file__).parent / "runtime"
    shutil.copytree(runtime, folder / "copied_runtime")
    np.save(folder / "images.npy", few.images)

    def run(name: str) -> Outcome:
        cpu = CPUS[name]
        packages = [str(folder), *([str(EMULATED / "site")] if cpu.part else [])]
        done = subprocess.run(
            [*emulator(name, cpu), str(WORKER),
             str(folder / "images.npy"), str(folder / f"{name}.npz"),
             *map(str, model_paths.values())],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(packages)},
            capture_output=True, text=True, timeout=TIMEOUT_S,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}\n{done.stdout}{done.stderr[-3000:]}"
        with np.load(folder / f"{name}.npz") as logits:
            report = json.loads(done.stdout.splitlines()[-1])
            return Outcome(cpu, dict(logits), report)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(CPUS, pool.map(run, CPUS), strict=True))


@pytest.fixture(params=list(CPUS))
def outcome(request, outcomes) -> Outcome:
    return outcomes[request.param]


def test_emulated_cpu_has_its_features_and_the_versions_of_here(outcome):
    features = set(outcome.report["features"])
    assert outcome.cpu.has <= features
    assert not outcome.cpu.lacks & features
    for package in ("numpy", "onnxruntime", "pillow"):
        assert outcome.report["versions"][package] == machine.versions()[package]


@pytest.mark.parametrize("name", [FLOAT, PORTABLE, ORT_CPU])
def test_selftest_of_a_shipped_file_passes_on_emulated_cpu(outcome, name):
    checks = outcome.report["checks"][name]
    assert len(checks) == 4
    assert all(check["passed"] for check in checks), checks


def test_integer_logits_of_both_layouts_are_those_of_here_bit_for_bit(outcome, here):
    names = (PORTABLE, ORT_CPU)
    found = {logits[name].tobytes() for logits in (outcome.logits, here) for name in names}
    assert len(found) == 1


def test_integers_of_swish_gate_sum_and_mean_are_those_of_here_bit_for_bit(outcome, here):
    assert outcome.logits[BRANCHING].tobytes() == here[BRANCHING].tobytes()
    assert here[BRANCHING].std(axis=0).min() > 0.1


def test_float_logits_of_emulated_cpu_are_within_the_golden_tolerance(outcome, here):
    tolerance = open_model((EXPORTED / FLOAT).read_bytes()).contract.goldens.tolerance
    assert selftest.largest_error(outcome.logits[FLOAT], here[FLOAT]) <= tolerance
    assert (outcome.logits[FLOAT].argmax(axis=1) == here[FLOAT].argmax(axis=1)).all()


def test_weights_of_8_bits_saturate_on_haswell_alone(outcomes):
    """Why the shipped ones have 7, and that the emulation shows the difference."""
    logits = {name: outcome.logits[FULL_RANGE] for name, outcome in outcomes.items()}
    assert logits["cortex-a72"].tobytes() == logits["cortex-a76"].tobytes()
    assert selftest.largest_error(logits["Haswell"], logits["cortex-a76"]) > 0.01
