import sys
import types
from importlib import metadata

import pytest

from convnet_edge.runtime import providers
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.measure import machine


def onnxruntime_with(*names, folder="/nowhere"):
    return types.SimpleNamespace(
        __version__="0.0",
        __file__=f"{folder}/onnxruntime/__init__.py",
        get_available_providers=lambda: list(names),
        get_all_providers=lambda: ["XnnpackExecutionProvider", *names],
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
    assert providers.full_name(onnxruntime_with("CPUExecutionProvider"), asked) == name


def test_full_name_of_an_unknown_provider_lists_the_known():
    with pytest.raises(InputError, match="cpu, cuda, openvino") as caught:
        providers.full_name(onnxruntime_with(), "tpu")
    assert "xnnpack" in caught.value.expected


def test_provider_that_is_not_built_in_names_what_installs_it():
    with pytest.raises(InputError, match="built without it") as caught:
        providers.require_built_in(onnxruntime_with(), "OpenVINOExecutionProvider")
    assert "onnxruntime-openvino" in caught.value.next_step
    assert "--provider cpu" in caught.value.next_step


def test_two_builds_that_overwrite_each_other_are_named(monkeypatch):
    installed = {"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.31.0"}

    def version(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(InputError, match="overwrite each other") as caught:
        providers.require_built_in(onnxruntime_with(), "CUDAExecutionProvider")
    assert "onnxruntime 1.30.0 and onnxruntime-gpu 1.31.0" in str(caught.value)
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in caught.value.next_step


def test_library_that_does_not_load_is_named(tmp_path):
    capi = tmp_path / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    (capi / "libonnxruntime_providers_cuda.so").write_bytes(b"not a library")
    found = providers.missing_part(onnxruntime_with(folder=tmp_path), "cuda")
    assert "libonnxruntime_providers_cuda.so" in found


def test_cuda_of_another_major_is_found_beside_the_missing_one(tmp_path, monkeypatch):
    library = tmp_path / "nvidia" / "cublas" / "lib" / "libcublasLt.so.12"
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    text = "libcublasLt.so.13: cannot open shared object file: No such file or directory"
    assert "here is libcublasLt 12, this onnxruntime was built for 13" in providers._other_major(
        text
    )
    assert providers._other_major(text.replace("13", "12")) is None
    assert providers._other_major("libcudnn.so.9: cannot open shared object file") is None
    assert providers._other_major("something else") is None


def test_cuda_without_a_device_says_so(monkeypatch):
    monkeypatch.setattr(machine, "gpu_names", list)
    found = providers.missing_part(onnxruntime_with(), "cuda")
    assert "no NVIDIA device" in found
    assert "NVIDIA driver" in providers.unavailable("cuda", found).next_step
    monkeypatch.setattr(machine, "gpu_names", lambda: ["NVIDIA Test"])
    assert providers.missing_part(onnxruntime_with(), "cuda") is None


def test_unavailable_never_offers_the_cpu_silently():
    error = providers.unavailable("coreml", "some reason")
    assert error.exit_code == 2
    assert "some reason" in str(error)
    assert "the CPU never takes its place unasked" in error.expected
