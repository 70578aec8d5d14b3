"""The package's layers: who may import whom, and what runs without the host's packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import convnet_edge

PACKAGE = Path(convnet_edge.__file__).parent
STAGES = {
    "train", "export", "quantize", "verify", "inspect", "bench", "compare", "report", "bundle",
    "doctor", "predict", "serve",
}  # fmt: skip
EDGE = {"cli", "show"}  # the command line, and what it prints
RUNTIME_MAY = {"numpy", "onnxruntime", "PIL"} | set(sys.stdlib_module_names)
TORCH_MAY = {
    "model", "train", "checkpoint", "export",
    "batches", "cost", "optimizers", "processes", "resume", "step",
}  # fmt: skip
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """Yield (top-level package or '.'-prefixed relative module) for each import in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level and not node.module:
                yield from ("." * node.level + alias.name for alias in node.names)
            else:
                yield "." * node.level + (node.module or "")


def test_runtime_imports_nothing_but_numpy_onnxruntime_and_pillow():
    for path in (PACKAGE / "runtime").glob("*.py"):
        for name in imports(path):
            if name.startswith("."):
                assert not name.startswith(".."), f"{path.name} reaches out of the runtime: {name}"
            else:
                if path.stem == "start":  # outside of the package, where a bundle begins
                    assert name in {"convnet_edge.runtime.device", "hashlib", "os", "sys"}
                    continue
                assert name.split(".")[0] in RUNTIME_MAY, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    if path.stem in EDGE or path.parent != PACKAGE:
        return
    for name in imports(path):
        module = name.removeprefix(".").split(".")[0]
        if name.startswith("."):
            assert module not in STAGES, f"{path.name} imports the stage {module}"
            assert module not in EDGE or path.stem == "__main__"
        if name.split(".")[0] == "torch":
            assert path.stem in TORCH_MAY
        if name.split(".")[0] == "onnx":
            assert path.stem in ("export", "quantize", "rewrite", "integer")
        assert name.split(".")[0] != "click"


def test_library_never_prints_exits_or_reads_arguments():
    for path in MODULES:
        if path.stem in ("cli", "__main__", "device", "start"):
            continue
        answers_over_a_pipe = path.stem == "cold_start"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                allowed = answers_over_a_pipe and node.func.id == "print"
                assert allowed or node.func.id not in ("print", "exit", "quit"), path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("sys", "exit"), ("sys", "argv")}, path


BLOCKER = """
import sys
blocked = sys.argv.pop(1).split(",")
for name in blocked:
    sys.modules[name] = None
from convnet_edge.cli import main
main()
"""
HOST = "torch,torchvision,onnx,onnxscript,safetensors,matplotlib"


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify"],
        ["inspect"],
        ["bench", "--quick", "--threads", "1"],
        ["predict", "--plot"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_device_commands_run_without_the_hosts_packages(arguments, exported, tmp_path):
    model = ["--model"] if arguments[0] == "predict" else []
    command = [sys.executable, "-c", BLOCKER, HOST, *arguments, *model, str(exported.model_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    if arguments[0] in ("bench", "predict"):
        assert "left out, matplotlib is not installed" in done.stderr
        assert "convnet-edge[plot]" in done.stderr
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("arguments", [["train"], ["export"]])
def test_host_commands_without_the_host_say_what_installs_it(arguments, tmp_path):
    command = [sys.executable, "-c", BLOCKER, HOST, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert 'pip install "convnet-edge[train,cpu]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["bench", "--help"], ["train", "--help"]])
def test_help_imports_no_framework(arguments, tmp_path):
    code = (
        "import sys\nfrom convnet_edge.cli import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'torchvision', 'onnx', 'onnxruntime', 'matplotlib', 'PIL', 'numpy'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr
