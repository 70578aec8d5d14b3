"""The Python API: the functions and options of the commands, at a light import's price."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import convnet_edge as ce

STAGES = ("train", "export", "verify", "quantize", "inspect", "bench", "compare", "report",
          "bundle", "predict")  # fmt: skip
OPTIONS = [f"{stage.capitalize()}Options" for stage in STAGES]


@pytest.mark.parametrize("name", [*STAGES, *OPTIONS, "Classifier"])
def test_each_name_is_there_and_documented(name):
    assert getattr(ce, name).__doc__


def test_unknown_names_are_told_apart_from_missing_rooms():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ce.trian  # noqa: B018 - asking is the test


@pytest.mark.parametrize(
    "use",
    [
        f"for name in {OPTIONS}: getattr(ce, name)",
        *(f"app({line.split()}, standalone_mode=False)" for line in ("--help", "bench --help")),
    ],
)
def test_options_and_help_import_no_framework(use):
    code = (
        "import sys, convnet_edge as ce\nfrom convnet_edge.commands.app import app\n"
        f"{use}\nheavy = {{'torch', 'numpy', 'onnx', 'onnxruntime', 'matplotlib', 'PIL'}}\n"
        "print('heavy:', heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("heavy: set()\n"), done.stdout + done.stderr


def test_a_device_can_parse_it():
    ast.parse(Path(ce.__file__).read_text(), feature_version=(3, 10))
