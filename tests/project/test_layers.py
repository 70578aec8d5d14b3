"""The package's rooms: who may import whom, and what runs without the host's packages."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import foreign
import pytest
import tiny

import convnet_edge

PACKAGE = Path(convnet_edge.__file__).parent
ROWS = (  # arrows go down: a room imports rooms of the rows below it, and none of its own
    {"commands"},
    {"fleet"},
    {"training", "exporting", "quantizing", "reporting", "bundling", "predicting"},
    {"networks", "data", "drawing", "sealing"},
    {"runtime"},
)
ROOT = "__init__", "__main__"
RUNTIME_MAY = {"numpy", "onnxruntime", "PIL"} | set(sys.stdlib_module_names)
FRAMEWORKS = {  # who may import what
    "torch": {"networks", "training", "exporting"},
    "torchvision": {"data"},
    "onnx": {"exporting", "quantizing"},
    "matplotlib": {"drawing"},
    "typer": {"commands"},
    "rich": {"commands"},
    "segno": {"commands"},
    "pydantic": {"networks", "reporting"},
    "jinja2": {"reporting"},
    "click": set(),
}
MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "web"
)
MAX_MODULES, MAX_FUNCTION_LINES = 14, 60


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def parsed(path):
    return ast.parse(path.read_text())


def imports(path, nodes=None):
    """Yield the absolute name of each import among `nodes`, by default of the whole file."""
    package = ("convnet_edge", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(parsed(path)) if nodes is None else nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *((node.module,) if node.module else ())))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def row_of(room):
    return next(number for number, rooms in enumerate(ROWS) if room in rooms)


def test_every_folder_is_a_room_of_the_rule():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set().union(*ROWS)


def test_modules_import_each_other_in_no_circle():
    edges = {}
    for path in MODULES:  # at import time, and not for types alone
        name = ".".join(("convnet_edge", *path.relative_to(PACKAGE).with_suffix("").parts))
        found = set(imports(path, parsed(path).body))
        edges[name] = {*found, *(name.rpartition(".")[0] for name in found)}
    TopologicalSorter(edges).prepare()  # raises a CycleError


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_what_its_room_may(path):
    room = room_of(path)
    for name in imports(path):
        top, *inner = name.split(".")
        if room == "runtime":
            assert top in RUNTIME_MAY or name.startswith("convnet_edge.runtime"), name
        elif top == "convnet_edge" and len(inner) > 1 and room not in (*ROOT, inner[0]):
            assert row_of(room) < row_of(inner[0]), f"an arrow up: {room} imports {name}"
        assert top not in FRAMEWORKS or room in FRAMEWORKS[top], f"{room} imports {top}"


def test_rooms_hold_no_more_modules_than_a_glance_takes():
    for folder in {path.parent for path in MODULES}:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MAX_MODULES, f"{folder.name} has {len(modules)}"


def test_no_function_is_longer_than_a_screen_and_the_library_never_exits_or_reads_arguments():
    for path in MODULES:
        is_program = room_of(path) == "commands" or path.name in ("__main__.py", "bootstrap.py")
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef):
                n_lines = node.end_lineno - node.lineno + 1
                assert n_lines <= MAX_FUNCTION_LINES, f"{path.name}: {node.name} has {n_lines}"
            elif isinstance(node, ast.Name | ast.Attribute) and not is_program:
                # lint sees to `print`
                assert ast.unparse(node) not in ("exit", "quit", "sys.exit", "sys.argv"), path


BLOCKER = """
import sys
blocked = sys.argv.pop(1).split(",")
for name in blocked:
    sys.modules[name] = None
if "bench" in sys.argv:
    from convnet_edge.runtime.measure import bench
    bench.N_PROCESSES, bench.QUICK_DURATION_S = 1, 0.05
from convnet_edge.commands.app import main
main()
"""
HOST = "torch,torchvision,onnx,onnxscript,safetensors,matplotlib"


def blocked(command_line, folder):
    command = [sys.executable, "-c", BLOCKER, HOST, *command_line.split()]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    "command_line", ["verify", "inspect", "bench --quick --threads 1", "predict --plot"]
)
def test_device_commands_run_without_the_hosts_packages(command_line, tmp_path):
    done = blocked(command_line, tmp_path)
    assert done.returncode == 0, done.stderr
    if command_line.startswith(("bench", "predict")):
        assert re.search("left out [1-9] pictures?, matplotlib is not installed", done.stderr)
        assert "pip install matplotlib" in done.stderr
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    "command_line",
    ["inspect theirs.onnx", "bench theirs.onnx --quick --threads 1",
     "predict photo.png --model theirs.onnx"],
)  # fmt: skip
def test_a_model_from_elsewhere_needs_no_more_than_ours(command_line, tmp_path):
    (tmp_path / "theirs.onnx").write_bytes(foreign.rgb())
    (tmp_path / "photo.png").write_bytes(tiny.pictures()[0].encoded)
    done = blocked(command_line, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "unproved" in done.stdout + done.stderr


@pytest.mark.parametrize("command_line", ["train", "export"])
def test_host_commands_without_the_host_say_what_installs_it(command_line, tmp_path):
    done = blocked(command_line, tmp_path)
    assert done.returncode == 2
    assert "pip install torch torchvision onnx onnxscript safetensors" in done.stderr
    assert "Traceback" not in done.stderr
