"""The README: what it shows is run, what it states is what was measured."""

import hashlib
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text()
# options that shorten a command which takes minutes as it stands; test_full_data runs it whole
SHORTENED = {
    "convnet-edge train": ["--data", "sample", "--epochs", "1"],
    "convnet-edge quantize": ["--data", "sample"],
    "convnet-edge bench": ["--quick"],
}


def shipped():
    """Return the SHA-256 of every shipped file."""
    files = (REPOSITORY / "exported").glob("*.onnx")
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands():
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("convnet-edge ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, test_set):
    """A user's folder: the shipped model, and pictures."""
    path = tmp_path_factory.mktemp("readme")
    (path / "photos").mkdir()
    (path / "exported").mkdir()
    shipped = REPOSITORY / "exported" / "fashion-mnist.onnx"
    (path / "exported" / "fashion-mnist.onnx").write_bytes(shipped.read_bytes())
    boot = 255 - test_set.images[0].repeat(8, axis=0).repeat(8, axis=1)
    Image.fromarray(boot).save(path / "boot.jpg")
    Image.fromarray(boot).save(path / "photos" / "boot.png")
    return path


@pytest.mark.slow
def test_commands_of_the_readme_run_in_order(folder):
    assert len(commands()) >= 7
    for line in commands():
        arguments = shlex.split(line)[1:] + SHORTENED.get(line, [])
        done = subprocess.run(
            [sys.executable, "-m", "convnet_edge", *arguments],
            cwd=folder, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert (folder / "exported" / "convnet.onnx").exists()
    assert (folder / "runs" / "predictions.png").exists()


def test_python_of_the_readme_runs_and_knows_a_boot(folder):
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line]) <= 5
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("['Ankle Boot']")


def test_make_targets_of_the_readme_exist():
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    makefile = (REPOSITORY / "Makefile").read_text()
    assert {"quickstart", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_table_is_made_from_the_stored_results():
    spec = importlib.util.spec_from_file_location(
        "readme_table", REPOSITORY / "benchmarks" / "readme_table.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for result in module._stored("bench"):
        assert result["model"]["model_sha256"] in shipped()
    for made in (module.table(), module.recipe_table(), module.training_table()):
        assert made in README
    assert module.kills() in " ".join(README.split())
    peers = json.loads((module.REFERENCE_DIR / "peers-cpu.json").read_text())
    card = (REPOSITORY / "exported" / "README.md").read_text()
    assert module.peers_table(peers["rows"]) in card
    assert f"within each of {peers['n_rounds']} rounds" in card
    for row in peers["rows"]:
        assert row["name"].split(",")[0] != "convnet-edge" or row["model_sha256"] in shipped()


def test_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= 150
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (REPOSITORY / target).exists(), target
