"""Each trap is built: packages with real metadata, variables, quotas; nothing is imagined."""

import json
import sys
from pathlib import Path

import pytest

import convnet_edge
from convnet_edge.commands.doctor import THREAD_VARIABLES, diagnose
from convnet_edge.runtime.measure import machine

GOOD_IMPORT = "__version__ = '1.30.0'\ndef preload_dlls(): pass\n"
WITHOUT_GPU = pytest.mark.skipif(bool(machine.gpu_names()), reason="a GPU is here")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def unprobed(monkeypatch):
    """Start no Python to import onnxruntime in, which some traps have nothing to do with."""
    monkeypatch.setattr("convnet_edge.commands.doctor._probe", lambda _: None)


@pytest.fixture
def site(tmp_path):
    (tmp_path / "site-packages").mkdir()
    return tmp_path / "site-packages"


def install(folder, name, version, *, requires=(), code=None):
    """Put a package's metadata into `folder` as pip would, and its code."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = [f"Requires-Dist: {requirement}" for requirement in requires]
    text = "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines])
    (info / "METADATA").write_text(text + "\n")
    if code is not None:
        (folder / "onnxruntime").mkdir()
        (folder / "onnxruntime" / "__init__.py").write_text(code)


def look(site, name, status):
    """Return that finding of an environment of `site` alone, which must have that status."""
    standard = [path for path in sys.path if "site-packages" not in path]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(site), *standard])
        (found,) = (finding for finding in diagnose() if finding.name == name)
    assert found.status == status
    assert (found.command is None) == (status == "ok")
    return found


ONE, FIT, EXPORTER = "one onnxruntime", "torch and torchvision fit", "torch's exporter"


@pytest.mark.parametrize(
    ("trap", "packages", "status"),
    [
        (ONE, {}, "problem"),
        (ONE, {"onnxruntime": "1.30.0"}, "ok"),
        (ONE, {"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.31.0"}, "problem"),
        (FIT, {"torch": "2.15.0+cu132", "torchvision": "0.29.2+cu132"}, "ok"),
        (FIT, {"torch": "2.15.0", "torchvision": "0.29.2"}, "ok"),
        (FIT, {"torch": "2.14.0", "torchvision": "0.29.2"}, "problem"),
        (FIT, {"torch": "2.15.0+cpu", "torchvision": "0.29.2+cu132"}, "problem"),
        (EXPORTER, {"torch": "2.8.1"}, "ok"),
        (EXPORTER, {"torch": "2.9.0"}, "problem"),
        (EXPORTER, {"torch": "2.9.0", "onnxscript": "0.7.2"}, "ok"),
    ],
)
def test_packages_that_lack_or_overwrite_each_other_are_a_problem(
    unprobed, site, trap, packages, status
):
    for name, version in packages.items():
        install(site, name, version, requires=("numpy", "torch==2.15.0"))
    found = look(site, trap, status).found
    assert all(f"{name} {version}" in found for name, version in packages.items())


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "problem", "signal 4"),
        ("raise ImportError('_ARRAY_API not found')", "problem", "_ARRAY_API not found"),
        ("__version__ = '1.15.1'", "problem", "version 1.15.1"),
        ("__version__ = '1.16.0'", "ok", "version 1.16.0"),
    ],
)
def test_onnxruntime_is_imported_apart(site, code, status, words):
    install(site, "onnxruntime", "1.21.0", code=code)
    assert words in look(site, "onnxruntime can be imported", status).found


@pytest.mark.parametrize(
    ("library", "command"),
    [
        pytest.param(b"not a library", "onnxruntime-gpu[cuda,cudnn]", id="does not load"),
        pytest.param(None, "install the NVIDIA driver", id="no driver", marks=WITHOUT_GPU),
    ],
)
def test_what_keeps_cuda_from_loading_is_named(site, library, command):
    install(site, "onnxruntime-gpu", "1.31.0", code=GOOD_IMPORT)
    (site / "onnxruntime" / "capi").mkdir()
    if library is not None:
        path = site / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so"
        path.write_bytes(library)
    packages = Path(__import__("numpy").__file__).parents[1]
    for path in (Path(convnet_edge.__file__).parent, *packages.glob("numpy*")):
        (site / path.name).symlink_to(path)
    found = look(site, "CUDA's libraries", "problem")
    assert command in found.command
    assert library is None or "libonnxruntime_providers_cuda.so" in found.found


@pytest.mark.parametrize(
    ("text", "status"), [("1", "ok"), ("1,1", "ok"), ("100000", "problem"), ("many", "problem")]
)
def test_thread_variables_are_held_against_the_cores(unprobed, site, monkeypatch, text, status):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    look(site, "OMP_NUM_THREADS", status)


@pytest.mark.parametrize(("quota", "status"), [(0.5, "problem"), (1.0, "ok"), (None, "ok")])
def test_quota_below_one_core_is_a_problem(unprobed, site, monkeypatch, quota, status):
    monkeypatch.setattr(machine, "cgroup_cores", lambda: quota)
    look(site, "cores allowed", status)


def test_doctor_through_the_command_line(run, monkeypatch):
    result = run("doctor")
    assert result.exit_code == 0, result.output
    assert "[✓] one onnxruntime" in result.stdout
    assert "[✓] onnxruntime can be imported" in result.stdout
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    result = run("doctor", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["healthy"] is False
    (bad,) = [row for row in found["findings"] if row["status"] == "problem"]
    assert bad["command"] == f"export OMP_NUM_THREADS={machine.usable_cores()}"
    assert found["machine"]["versions"]["onnxruntime"]
