import sys
import types
from importlib import metadata

import pytest

from convnet_edge.runtime import providers

ORT = types.SimpleNamespace(
    __version__="0.0",
    get_all_providers=lambda: ["CPUExecutionProvider", "XnnpackExecutionProvider"],
)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("cpu", "CPUExecutionProvider"),
        ("CUDA", "CUDAExecutionProvider"),
        ("CUDAExecutionProvider", "CUDAExecutionProvider"),
        ("openvino", "OpenVINOExecutionProvider"),
        ("xnnpack", "XnnpackExecutionProvider"),
    ],
)
def test_full_name_takes_short_and_full_names(asked, name):
    assert providers.full_name(ORT, asked) == name


def test_two_builds_that_overwrite_each_other_are_named(monkeypatch):
    installed = {"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.31.0"}

    def version(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    error = providers.unavailable("cuda", "some reason")
    assert "some reason; onnxruntime 1.30.0 and onnxruntime-gpu 1.31.0" in error.found
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in error.next_step


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("libcublasLt.so.13: cannot open", "here is libcublasLt 12, this onnxruntime was built"),
        ("libcublasLt.so.12: cannot open", None),
        ("libcudnn.so.9: cannot open", None),
        ("something else", None),
    ],
)
def test_cuda_of_another_major_is_found_beside_the_missing_one(tmp_path, monkeypatch, reason, hint):
    library = tmp_path / "nvidia" / "cublas" / "lib" / "libcublasLt.so.12"
    provider = tmp_path / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so"
    for path in (library, provider):
        path.parent.mkdir(parents=True)
        path.touch()

    def load(*_, **__):
        raise OSError(reason)

    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(providers.ctypes, "CDLL", load)
    here = types.SimpleNamespace(__file__=str(provider.parents[1] / "__init__.py"))
    found = providers.missing_part(here, "cuda")
    assert found.startswith(reason)
    assert (hint in found) if hint else found == reason
