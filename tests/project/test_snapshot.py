"""What the command line promises to others, whatever the code behind it looks like.

For each command line of snapshot.txt: its exit code, the files it writes, and the keys of the JSON
that it prints and writes. Values are other tests' business. After an intended change:
UPDATE_SNAPSHOT=1 pytest tests/project/test_snapshot.py --slow, and read the difference.
"""

import json
import os
import re
from pathlib import Path

import faults
import pytest
from pages import REPOSITORY
from PIL import Image

from convnet_edge.commands.app import COMMANDS
from convnet_edge.data import fashion_mnist

SNAPSHOT = Path(__file__).with_name("snapshot.json")
TABLE = SNAPSHOT.with_suffix(".txt")  # each line runs in the folder that those before it left
UPDATE = bool(os.environ.get("UPDATE_SNAPSHOT"))

CASES: dict[str, list[str]] = {}
for text in TABLE.read_text().splitlines():
    if text.startswith(" "):
        CASES[[*CASES][-1]].append(text.strip())
    else:
        CASES[text.rstrip(":")] = []
CASES["options"] = [f"{command} --help" for command in COMMANDS]

# whose content follows from the machine or its calm, and whose names are data
UNSTABLE = {"versions", "isa", "affinity", "gpus", "gpu_libraries", "reasons", "samples_ns",
            "histogram_ns", "flips", "flips_outside_near_ties", "near_ties", "images",
            "float_layers", "kept_float"}  # fmt: skip
BY_DATA = {"placement", "n_nodes_run", "batch_first_run_ms", "p50_ms", "ops", "opsets", "inputs",
           "outputs", "files"}  # fmt: skip


def keys(value, path="", key=""):
    """Return the paths of all keys: lists as [], names that are data as *."""
    if key in UNSTABLE:
        return {path.replace("samples_ns", "TIMES").replace("histogram_ns", "TIMES") + ".*"}
    if isinstance(value, dict) and value:
        names = {name: "*" if key in BY_DATA else name for name in value}
        return set().union(*(keys(v, f"{path}.{names[n]}", names[n]) for n, v in value.items()))
    if isinstance(value, list) and value:
        return set().union(*(keys(item, f"{path}[]") for item in value))
    return {path}


def what_was_said(command, stdout):
    if "--help" in command:  # only where an option is declared, not where a text names one
        declared = re.findall(r"^\W*?((?:\s+(?:--[\w-]+|-\w\b)(?=\s|/))+)", stdout, re.MULTILINE)
        return sorted({option for found in declared for option in found.split()})
    if "--json" in command:
        return sorted(keys(json.loads(stdout))) if stdout.strip() else []
    if "jsonl" in command:
        return sorted(set().union(*(keys(json.loads(line)) for line in stdout.splitlines())))
    return stdout.splitlines()[:1] if "csv" in command else None


def contents(folder):
    """Return what each file is, so that one that is written again shows too."""
    return {path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in folder.rglob("*") if path.is_file()}  # fmt: skip


@pytest.fixture(scope="session")
def material(trained, exported, model_bytes, graph_bytes, few, tmp_path_factory):
    """Good and bad files, by name."""
    folder = tmp_path_factory.mktemp("material")
    files = {
        "copy.onnx": model_bytes,
        "truncated.onnx": model_bytes[: len(model_bytes) // 2],
        "altered.onnx": faults.change_graph(model_bytes, faults.put_nan),
        "unsealed.onnx": graph_bytes,
        "lying.onnx": faults.change_sealed(model_bytes, faults.nudge_one_weight),
        "spoilt.onnx": faults.change_sealed(model_bytes, faults.spoil_for_integers),
        "empty.png": b"",
        "broken.png": b"\x89PNG\r\n\x1a\n damaged",
        "text.txt": b"no model",
        "odd_json.json": b'{"schema": "another"}',
        "cut_checkpoint.safetensors": trained.checkpoint_path.read_bytes()[:-100],
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    (folder / "pictures").mkdir()
    for index in range(2):
        Image.fromarray(few.images[index]).save(folder / "pictures" / f"{index}.png")
    for index in range(20):
        for name in ("classes", "leaky"):
            path = folder / name / "ab"[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(few.images[index]).save(path)
    (folder / "leaky/b/twin.png").write_bytes((folder / "leaky/a/0.png").read_bytes())
    lock = json.loads((REPOSITORY / "package-lock.json").read_text())
    about = {"name": "onnxruntime-web",
             "version": lock["packages"]["node_modules/onnxruntime-web"]["version"]}  # fmt: skip
    (folder / "ort_web" / "dist").mkdir(parents=True)
    (folder / "ort_web" / "package.json").write_text(json.dumps(about))
    for name in ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        (folder / "ort_web" / "dist" / name).write_text("//")
    named = {path.stem: path for path in folder.iterdir()}
    return {**named, "model": exported.model_path, "checkpoint": trained.checkpoint_path,
            "picture": folder / "pictures" / "0.png"}  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [pytest.param(name, marks=pytest.mark.slow if "slow" in name else ()) for name in CASES],
)
def test_command_line_does_what_the_snapshot_says(
    run, few, on_few, brief, material, graph_bytes, tmp_path, monkeypatch, case
):
    if case.startswith("train"):
        monkeypatch.setattr(fashion_mnist, "load_training_set", lambda *_: few)
    elif case == "export":  # what PyTorch made of this checkpoint before
        monkeypatch.setattr("convnet_edge.exporting.graph.to_onnx", lambda *_, **__: graph_bytes)
    found = []
    for line in CASES[case]:
        before = contents(tmp_path)
        result = run(*(word.format(**material) for word in line.split()))
        assert isinstance(result.exception, SystemExit | None), result.exc_info  # no crash
        after = contents(tmp_path)
        written = sorted(name for name, state in after.items() if before.get(name) != state)
        step = {
            "command": line,
            "exit": "0 or 1" if line.startswith("doctor") else result.exit_code,
            "files": written,
        }
        said = what_was_said(line, result.stdout)
        if said:
            step["stdout"] = said
        for name in written:
            if name.endswith(".json"):
                inside = sorted(keys(json.loads((tmp_path / name).read_text())))
                step[name] = "as on stdout" if inside == said else inside
        found.append(step)
    known = json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else {}
    if UPDATE:
        whole = {name: {**known, case: found}[name] for name in CASES if name in {*known, case}}
        SNAPSHOT.write_text(json.dumps(whole, indent=1) + "\n")
    else:
        assert found == known[case]
