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
TRAINING = (REPOSITORY / "docs" / "training.md").read_text()
# options that shorten a command which takes minutes as it stands; test_full_data runs it whole
SHORTENED = {
    "convnet-edge train": ["--data", "sample", "--epochs", "1"],
    "convnet-edge quantize": ["--data", "sample"],
    "convnet-edge bench": ["--quick"],
    "convnet-edge bench a.onnx b.onnx": ["--quick"],
    # two different models; which is faster here is not this test's business
    "convnet-edge compare a.onnx b.onnx": ["--pairs", "6", "--max-slowdown", "900%"],
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
    (path / "a.onnx").write_bytes(shipped.read_bytes())
    (path / "b.onnx").write_bytes(shipped.with_suffix(".int8-ort.onnx").read_bytes())
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
    assert module.table() in README
    assert module.recipe_table() in README
    assert module.training_table() in TRAINING
    assert module.kills() in " ".join(TRAINING.split())
    peers = json.loads((module.REFERENCE_DIR / "peers-cpu.json").read_text())
    card = (REPOSITORY / "exported" / "README.md").read_text()
    assert module.peers_table(peers["rows"]) in card
    assert f"within each of {peers['n_rounds']} rounds" in card
    for row in peers["rows"]:
        assert row["name"].split(",")[0] != "convnet-edge" or row["model_sha256"] in shipped()


def test_page_on_verdicts_states_the_thresholds_and_floors_of_the_code():
    from convnet_edge.runtime import stats, verdict

    page = (REPOSITORY / "docs" / "verdicts.md").read_text()
    lines = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("|")]
    rows = {cells[0].strip(): cells[1:] for cells in lines}
    for name, threshold in (
        ("coarse timer", verdict.MAX_TIMER_STEP_SHARE),
        ("wide interval", verdict.MAX_HALF_WIDTH_SHARE),
        ("drift", verdict.MAX_DRIFT_SHARE),
        ("two modes", verdict.MAX_MODE_DISTANCE_SHARE),
        ("interrupted runs", verdict.MAX_SWITCHED_SHARE),
        ("interrupted runs", verdict.MAX_WAITED_SHARE),
    ):
        assert f"{100 * threshold:g} %" in "".join(rows[name]), name
    assert f"{verdict.MIN_RUNS} runs" in "".join(rows["too few runs"])
    for p in (0.5, 0.9, 0.95, 0.99, 0.999):
        assert rows[f"p{100 * p:g}"][0].strip() == f"{stats.percentile_floor(p):,}"


def test_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= 150
    for page in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
