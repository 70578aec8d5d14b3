"""Each trap is built: packages with real metadata, variables, quotas; nothing is imagined."""

import json
import sys
from pathlib import Path

import pytest

import convnet_edge
from convnet_edge.commands.doctor import Surroundings, diagnose
from convnet_edge.runtime.measure import machine

GOOD_IMPORT = "__version__ = '1.30.0'\ndef preload_dlls(): pass\n"


def install(folder, name, version, *, requires=(), code=None):
    """Put a package's metadata into `folder` as pip would, and its code."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [f"Requires-Dist: {requirement}" for requirement in requires]
    text = "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines])
    (info / "METADATA").write_text(text + "\n")
    if code is not None:
        package = folder / "onnxruntime"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text(code)


@pytest.fixture
def site(tmp_path):
    return tmp_path / "site-packages"


def look(site, **changes):
    """Return the findings of an environment that holds only `site`, by name."""
    standard = [path for path in sys.path if "site-packages" not in path]
    here = Surroundings(**{"path": (str(site), *standard), "environment": {}, **changes})
    return {finding.name: finding for finding in diagnose(here)}


def test_this_environment_has_no_problem():
    found = diagnose(Surroundings(environment={}))
    assert all(finding.status != "problem" for finding in found), found
    assert {"one onnxruntime", "onnxruntime can be imported"} <= {f.name for f in found}


def test_two_builds_of_onnxruntime_are_a_problem_with_one_command(site):
    install(site, "onnxruntime", "1.30.0", code=GOOD_IMPORT)
    assert look(site)["one onnxruntime"].status == "ok"
    install(site, "onnxruntime-gpu", "1.31.0")
    found = look(site)["one onnxruntime"]
    assert found.status == "problem"
    assert "onnxruntime 1.30.0 and onnxruntime-gpu 1.31.0" in found.found
    assert found.command.startswith("pip uninstall -y onnxruntime onnxruntime-gpu && ")


def test_no_onnxruntime_is_a_problem(site):
    site.mkdir()
    found = look(site)
    assert found["one onnxruntime"].status == "problem"
    assert found["onnxruntime can be imported"].status == "problem"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "signal 4"),
        ("raise ImportError('numpy.core._ARRAY_API not found')", "_ARRAY_API not found"),
    ],
)
def test_onnxruntime_that_cannot_be_imported_is_probed_apart(site, code, words):
    install(site, "onnxruntime", "1.21.0", code=code)
    found = look(site)["onnxruntime can be imported"]
    assert found.status == "problem"
    assert words in found.found
    assert "illegal instruction" in found.why


@pytest.mark.parametrize(("version", "status"), [("1.15.1", "problem"), ("1.16.0", "ok")])
def test_onnxruntime_older_than_the_files_is_a_problem(site, version, status):
    install(site, "onnxruntime", version, code=f"__version__ = {version!r}\n")
    found = look(site)["onnxruntime can be imported"]
    assert (found.status, found.found) == (status, f"version {version}")
    assert status == "ok" or "onnxruntime >= 1.16 (opset 18, IR 8)" in found.why
    assert status == "ok" or found.command == "pip install --upgrade onnxruntime"


def gpu_site(site, library=b"not a library"):
    install(site, "onnxruntime-gpu", "1.31.0", code=GOOD_IMPORT)
    capi = site / "onnxruntime" / "capi"
    capi.mkdir()
    (capi / "libonnxruntime_providers_cuda.so").write_bytes(library)
    (site / "convnet_edge").symlink_to(Path(convnet_edge.__file__).parent)
    numpy = Path(__import__("numpy").__file__).parent
    (site / "numpy").symlink_to(numpy)
    if (libraries := numpy.parent / "numpy.libs").exists():
        (site / "numpy.libs").symlink_to(libraries)


def test_cuda_library_that_does_not_load_is_named(site):
    gpu_site(site)
    found = look(site)["CUDA's libraries"]
    assert found.status == "problem"
    assert "libonnxruntime_providers_cuda.so" in found.found
    assert "onnxruntime-gpu[cuda,cudnn]" in found.command


@pytest.mark.skipif(bool(machine.gpu_names()), reason="a GPU is here")
def test_cuda_without_a_driver_names_the_driver(site):
    gpu_site(site)
    (site / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so").unlink()
    found = look(site)["CUDA's libraries"]
    assert found.status == "problem"
    assert found.command == "install the NVIDIA driver"


@pytest.mark.parametrize(
    ("torch", "vision", "wanted", "status"),
    [
        ("2.15.0+cu132", "0.29.2+cu132", "2.15.0", "ok"),
        ("2.15.0", "0.29.2", "2.15.0", "ok"),
        ("2.14.0", "0.29.2", "2.15.0", "problem"),
        ("2.15.0+cpu", "0.29.2+cu132", "2.15.0", "problem"),
    ],
)
def test_torch_and_torchvision_must_fit(site, torch, vision, wanted, status):
    install(site, "torch", torch)
    install(site, "torchvision", vision, requires=("numpy", f"torch=={wanted}"))
    found = look(site)["torch and torchvision fit"]
    assert found.status == status
    assert (found.command is None) == (status == "ok")


@pytest.mark.parametrize(("torch", "status"), [("2.9.0", "problem"), ("2.8.1", "ok")])
def test_missing_onnxscript_is_a_problem_from_torch_2_9_on(site, torch, status):
    install(site, "torch", torch)
    assert look(site)["torch's exporter"].status == status
    install(site, "onnxscript", "0.7.2")
    assert look(site)["torch's exporter"].status == "ok"


@pytest.mark.parametrize(
    ("text", "status"), [("1", "ok"), ("1,1", "ok"), ("100000", "problem"), ("many", "problem")]
)
def test_thread_variables_are_held_against_the_cores(site, text, status):
    site.mkdir()
    found = look(site, environment={"OMP_NUM_THREADS": text})["OMP_NUM_THREADS"]
    assert found.status == status
    if status == "problem":
        assert "OMP_NUM_THREADS" in found.command


@pytest.mark.parametrize(
    ("quota", "status"), [("50000", "problem"), ("100000", "ok"), ("max", "ok")]
)
def test_quota_below_one_core_is_a_problem(site, tmp_path, quota, status):
    site.mkdir()
    (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
    assert look(site, cgroup=tmp_path)["cores allowed"].status == status


def test_doctor_through_the_command_line(run, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    result = run("doctor")
    assert result.exit_code == 0, result.output
    assert "[✓] one onnxruntime" in result.stdout
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    result = run("doctor", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["healthy"] is False
    (bad,) = [row for row in found["findings"] if row["status"] == "problem"]
    assert bad["command"] == f"export OMP_NUM_THREADS={machine.usable_cores()}"
    assert found["machine"]["versions"]["onnxruntime"]
