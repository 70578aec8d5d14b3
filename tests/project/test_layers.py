"""The package's rooms: who may import whom, and what runs without the host's packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import convnet_edge

PACKAGE = Path(convnet_edge.__file__).parent
ROWS = (  # arrows go down: a room imports rooms of the rows below it, and none of its own
    {"commands"},
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
    "pydantic": {"reporting"},
    "jinja2": {"reporting"},
    "click": set(),
}
MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "web"
)
MAX_MODULES, MAX_FUNCTION_LINES = 14, 60


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path, nodes=None):
    """Yield the absolute name of each import among `nodes`, by default of the whole file."""
    package = ("convnet_edge", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())) if nodes is None else nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *((node.module,) if node.module else ())))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def arrows():
    """Return the arrows between rooms, drawn from the imports: {(room, imported room): files}."""
    found = {}
    for path in MODULES:
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "convnet_edge" and len(parts) > 2:
                found.setdefault((room_of(path), parts[1]), set()).add(path.name)
    return found


def row_of(room):
    return next(number for number, rooms in enumerate(ROWS) if room in rooms)


def test_every_folder_is_a_room_of_the_rule():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set().union(*ROWS)


def test_arrows_go_down():
    for (room, imported), files in arrows().items():
        if room in ROOT or room == imported:
            continue
        assert row_of(room) < row_of(imported), f"{room} imports {imported} in {sorted(files)}"


def test_modules_import_each_other_in_no_circle():
    def name_of(path):
        return ".".join(("convnet_edge", *path.relative_to(PACKAGE).with_suffix("").parts))

    names = {name_of(path) for path in MODULES}
    edges = {}
    for path in MODULES:  # at import time, and not for types alone
        found = set(imports(path, ast.parse(path.read_text()).body))
        edges[name_of(path)] = names & {*found, *(name.rpartition(".")[0] for name in found)}
    for left in iter(lambda: {n for n in edges if not edges[n] & set(edges)}, set()):
        for name in left:  # they import none of those that remain
            del edges[name]
    assert not edges, f"in a circle, or upon one: {sorted(edges)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_what_its_room_may(path):
    room = room_of(path)
    for name in imports(path):
        top = name.split(".")[0]
        if room == "runtime" and top != "convnet_edge":
            assert top in RUNTIME_MAY
        if room == "runtime" and top == "convnet_edge":
            assert name.startswith("convnet_edge.runtime"), f"reaches out of the runtime: {name}"
        assert top not in FRAMEWORKS or room in FRAMEWORKS[top], f"{room} imports {top}"


def test_rooms_hold_no_more_modules_than_a_glance_takes():
    for folder in {path.parent for path in MODULES}:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MAX_MODULES, f"{folder.name} has {len(modules)}"


def test_no_function_is_longer_than_a_screen():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                n_lines = node.end_lineno - node.lineno + 1
                assert n_lines <= MAX_FUNCTION_LINES, f"{path.name}: {node.name} has {n_lines}"


def test_library_never_prints_exits_or_reads_arguments():
    for path in MODULES:
        if room_of(path) == "commands" or path.name in ("__main__.py", "start.py"):
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
from convnet_edge.commands.app import main
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
def test_device_commands_run_without_the_hosts_packages(arguments, tmp_path):
    command = [sys.executable, "-c", BLOCKER, HOST, *arguments]
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
        "import sys\nfrom convnet_edge.commands.app import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'torchvision', 'onnx', 'onnxruntime', 'matplotlib', 'PIL', 'numpy'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr
