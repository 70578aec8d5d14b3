"""The Python API: the functions and options of the commands, at a light import's price."""

import ast
import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import results
from pages import REPOSITORY

import convnet_edge as ce

STAGES = ("train", "export", "verify", "quantize", "inspect", "bench", "compare", "report",
          "bundle", "predict")  # fmt: skip
BENCHED = REPOSITORY / "benchmarks/results/reference/fashion-mnist-cpu-xeon-1-thread.json"
OPTIONS = [f"{stage.capitalize()}Options" for stage in STAGES]


@pytest.mark.parametrize("name", [*STAGES, *OPTIONS, "Classifier"])
def test_each_name_is_there_and_documented(name):
    assert getattr(ce, name).__doc__


def test_unknown_names_are_told_apart_from_missing_rooms():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ce.trian  # noqa: B018 - asking is the test


def test_options_and_help_import_no_framework():
    code = (
        "import sys, convnet_edge as ce\nfrom convnet_edge.commands.app import app\n"
        f"for name in {OPTIONS}: getattr(ce, name)\n"
        "for line in (['--help'], ['bench', '--help']): app(line, standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'matplotlib', 'PIL'}\n"
        "print('heavy:', heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("heavy: set()\n"), done.stdout + done.stderr


def test_a_device_can_parse_it():
    ast.parse(Path(ce.__file__).read_text(), feature_version=(3, 10))


WRONG = [
    (ce.TrainOptions, "epochs", "3", "a whole number from 0 to 10,000"),
    (ce.TrainOptions, "epochs", 2.5, "a whole number from 0 to 10,000"),
    (ce.TrainOptions, "epochs", True, "a whole number from 0 to 10,000"),
    (ce.TrainOptions, "seed", None, "a whole number from 0 to [0-9,]+"),
    (ce.TrainOptions, "data", Path("photos"), "text"),
    (ce.TrainOptions, "data", ["sample"], "text"),
    (ce.TrainOptions, "out", 5, "a name that ends in .safetensors"),
    (ce.TrainOptions, "resume", "yes", "True or False"),
    (ce.TrainOptions, "learning_rate", "fast", "a number above 0"),
    (ce.TrainOptions, "learning_rate", float("nan"), "a number above 0"),
    (ce.BenchOptions, "batch_sizes", 0, "whole numbers from 1 to 4,096"),
    (ce.BenchOptions, "batch_sizes", "8", "a tuple of whole numbers from 1 to 4,096"),
    (ce.BenchOptions, "batch_sizes", ("8",), "whole numbers from 1 to 4,096"),
    (ce.BenchOptions, "batch_sizes", (), "whole numbers from 1 to 4,096"),
    (ce.BenchOptions, "threads", 2**64, "a whole number from 1 to 4,096"),
    (ce.BenchOptions, "min_runs", 2**64, "a whole number from 11 to 1,000,000,000"),
    (ce.BenchOptions, "duration_s", "4s", "a number above 0 and at most 3,600"),
    (ce.BenchOptions, "provider", 3, "text"),
    (ce.BenchOptions, "models", "a.onnx", "a tuple of paths"),
    (ce.CompareOptions, "base", None, "a path"),
]


@pytest.mark.parametrize(("kind", "name", "value", "expected"), WRONG)
def test_a_value_of_another_type_is_one_error_that_names_the_argument(kind, name, value, expected):
    with pytest.raises(ce.InputError) as caught:
        kind(**{name: value})
    assert re.match(rf"{name}=.*; expected {expected}; next: change {name}$", str(caught.value))


def test_text_stands_for_a_path_and_a_list_or_a_number_for_a_tuple():
    options = ce.BenchOptions(["a.onnx", Path("b.onnx")], batch_sizes=[np.int64(8)], out="r")
    assert options == ce.BenchOptions((Path("a.onnx"), Path("b.onnx")), batch_sizes=(8,),
                                      out=Path("r"))  # fmt: skip
    assert type(options.batch_sizes[0]) is int
    assert ce.TrainOptions(image_size=32).image_size == (32,)
    assert ce.ExportOptions("c.safetensors", out="x.onnx").out_path == Path("x.onnx")


@pytest.mark.parametrize("kind", [ce.InputError, ce.CheckFailedError])
def test_an_error_passes_whole_from_one_process_to_another(kind):
    error = kind("--seed 3", expected="4", next_step="change --seed", details=("a", "b"))
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.details) == (kind, str(error), error.details)
    assert str(error) == "seed=3; expected 4; next: change seed"


def test_what_a_stage_returns_says_in_a_line_what_it_is(trained, exported, tmp_path):
    file = ce.inspect(ce.InspectOptions(exported.model_path))
    verified = ce.verify(ce.VerifyOptions(exported.model_path, out=tmp_path / "v.json"))
    for found, path in (
        (trained, trained.checkpoint_path),
        (exported, exported.model_path),
        (verified, verified.report_path),
        (trained.test, "accuracy=0."),
        (exported.report, "passed=True"),
        (exported.report.comparison, "n_images=300"),
        (verified.report, "provider='cpu'"),
        (file, f"{len(file.data):,} bytes"),
        (exported.picture, exported.picture.path),
        (ce.Benched(Path("r.json"), results.read(BENCHED), (exported.picture,)), "r.json"),
        (results.read(BENCHED), "status='NOISY'"),
    ):
        shown = repr(found)
        assert shown.startswith(f"{type(found).__name__}(")
        assert str(path) in shown
        assert len(shown) < 1000, shown
        assert "\n" not in shown


@pytest.mark.parametrize("name", STAGES)
def test_each_function_s_example_makes_its_options_and_calls_it(name):
    example = re.search(r"Example: `(.+)`", getattr(ce, name).__doc__)[1]
    package = MagicMock(**{kind: getattr(ce, kind) for kind in OPTIONS})
    eval(example, {"ce": package})
    ((options,), _) = getattr(package, name).call_args
    assert type(options) is getattr(ce, f"{name.capitalize()}Options")


@pytest.mark.parametrize("name", STAGES)
def test_each_function_needs_its_options_alone(name):
    parameters = list(inspect.signature(getattr(ce, name)).parameters.values())
    assert parameters[0].name == "options"
    assert all(one.default is not one.empty for one in parameters[1:])


def test_what_can_be_asked_for_is_listed():
    assert {*STAGES, *OPTIONS, "TrainResult", "Predictions", "InputError"} <= set(dir(ce))
