"""Shared by all tests: one tiny trained model, and its export."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import tiny
from faults import unsealed
from typer.main import get_command
from typer.testing import CliRunner, Result

from convnet_edge.data import fashion_mnist as data
from convnet_edge.exporting.options import ExportOptions
from convnet_edge.runtime.measure import machine
from convnet_edge.runtime.measure.accuracy import ImageSet
from convnet_edge.training.options import TrainOptions

N_FEW = 300
DRAWING = ("drawing", "reporting", "web")  # whose tests look at pictures
BRIEF = {
    "runtime.measure.race.SLOT_S": 0.01,
    "reporting.compare.STEADY_S": 0.02,
    "runtime.measure.bench.N_PROCESSES": 1,
    "runtime.measure.bench.QUICK_DURATION_S": 0.02,
    "runtime.measure.bench.QUICK_RACE_S": 0.01,
    "runtime.measure.bench.STEADY_S": 0.02,
    "runtime.measure.bench.THROUGHPUT_S": 0.1,
    "runtime.measure.cost.N_PROFILED": 10,
    "runtime.measure.cost.SIDE": 128,
}
ON_REQUEST = ("slow", "index", "browser", "arm")  # pyproject.toml says what they need


signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores


def pytest_addoption(parser: pytest.Parser) -> None:
    for marker in ON_REQUEST:
        parser.addoption(f"--{marker}", action="store_true", help=f"run the tests marked {marker}")
    parser.addoption("--require-cuda", action="store_true", help="a skipped cuda test fails")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for marker in ON_REQUEST:
            if item.get_closest_marker(marker) and not config.getoption(f"--{marker}"):
                item.add_marker(pytest.mark.skip(reason=f"needs --{marker}"))
        lacks_gpu = item.get_closest_marker("cuda") and not machine.gpu_names()
        if lacks_gpu and not config.getoption("--require-cuda"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here"))


def pytest_collection_finish() -> None:
    gc.freeze()  # the modules are there to stay: going through them took a twentieth of the time


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the cache of who runs the tests alone, but for matplotlib's list of fonts."""
    usual = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    with pytest.MonkeyPatch.context() as patch:
        if "MPLCONFIGDIR" not in os.environ:
            patch.setenv("MPLCONFIGDIR", str(Path(usual, "matplotlib")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _commands_made_once() -> Iterator[None]:
    """Else Typer's runner makes every command of a program again for each line that it runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", cache(get_command))
        yield


@pytest.fixture
def rendered() -> None:
    """Asked for by tests in which a picture's pixels matter."""


@pytest.fixture(autouse=True)
def _painted_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes most of a picture's time: its layout, and the pixels."""
    if request.path.parent.name not in DRAWING and "rendered" not in request.fixturenames:
        monkeypatch.setattr(
            "matplotlib.figure.Figure.savefig", lambda _, file, **__: file.write(b"<svg></svg>")
        )


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benching, comparing and quantising take moments; how fast a model is, is of no interest."""
    for name, value in BRIEF.items():
        monkeypatch.setattr(f"convnet_edge.{name}", value)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run one command line in an empty current directory."""
    from convnet_edge.commands.app import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run_command(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run_command


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """The hand-made grey model as a file, for tests that need no training."""
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny.grey())
    return path


@pytest.fixture(scope="session")
def test_set() -> ImageSet:
    return data.load_test_set()


@pytest.fixture(scope="session")
def few(test_set) -> ImageSet:
    """The first test images: those that the tiny model is scored, proved and exported with."""
    images, labels = test_set.images[:N_FEW], test_set.labels[:N_FEW]
    return replace(test_set, images=images, labels=labels, sha256="fe" * 32)


@pytest.fixture
def on_few(few, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load_test_set", lambda: few)


@pytest.fixture(scope="session")
def trained(few, tmp_path_factory: pytest.TempPathFactory):
    """One epoch on the embedded sample: the tiny trained model of all tests."""
    from convnet_edge.training import loop, record

    out = tmp_path_factory.mktemp("trained") / "tiny.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load_test_set", lambda: few)
        patch.setattr(record, "MOST_DECIDING", 1_000)  # all 10,000 take as long as the epoch
        return loop.train(TrainOptions(data="sample", epochs=1, out=out))


@pytest.fixture(scope="session")
def exported(trained, few, tmp_path_factory: pytest.TempPathFactory):
    from convnet_edge.exporting import export

    out = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load_test_set", lambda: few)
        return export.export(ExportOptions(checkpoint=trained.checkpoint_path, out=out))


@pytest.fixture(scope="session")
def model_bytes(exported) -> bytes:
    return exported.model_path.read_bytes()


@pytest.fixture(scope="session")
def graph_bytes(model_bytes: bytes) -> bytes:
    """The exported graph without its contract."""
    return unsealed(model_bytes)


@pytest.fixture(scope="session")
def reference(trained, few):
    """What float64 PyTorch says of the few."""
    from convnet_edge.networks import checkpoint, convnet
    from convnet_edge.sealing import parity

    model, _ = checkpoint.load_model(trained.checkpoint_path)
    return parity.from_pytorch(few.images, convnet.reference_logits(model, few.images))
