"""The README: what it shows is run, what it states is what was measured."""

import hashlib
import json
import re

import pytest
import readme_table
from pages import REPOSITORY, blocks, lay_out, lines, run_line, run_python

README = (REPOSITORY / "README.md").read_text()
TRAINING = (REPOSITORY / "docs" / "training.md").read_text()


def commands():
    found = [line for block in blocks(README, "sh") for line in lines(block)]
    return [line for line in found if line.startswith("convnet-edge ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, test_set):
    path = tmp_path_factory.mktemp("readme")
    lay_out(path, test_set)
    return path


@pytest.mark.slow
def test_commands_of_the_readme_run_in_order(folder):
    assert len(commands()) >= 7
    for line in commands():
        run_line(line, folder)
    assert (folder / "exported" / "convnet.onnx").exists()
    assert (folder / "runs" / "predictions.png").exists()


def test_python_of_the_readme_runs_and_knows_a_boot(folder):
    (code,) = blocks(README, "python")
    assert len([line for line in code.splitlines() if line]) <= 5
    assert run_python(["-c", code], folder, code).startswith("['Ankle Boot']")


def test_make_targets_of_the_readme_exist():
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    makefile = (REPOSITORY / "Makefile").read_text()
    assert {"quickstart", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_table_is_made_from_the_stored_results():
    files = (REPOSITORY / "exported").glob("*.onnx")
    shipped = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    for result in readme_table._stored("bench"):
        assert result["model"]["model_sha256"] in shipped
    assert readme_table.table() in README
    assert readme_table.recipe_table() in README
    assert readme_table.training_table() in TRAINING
    assert readme_table.kills() in " ".join(TRAINING.split())
    peers = json.loads((readme_table.REFERENCE_DIR / "peers-cpu.json").read_text())
    card = (REPOSITORY / "exported" / "README.md").read_text()
    assert readme_table.peers_table(peers["rows"]) in card
    assert f"within each of {peers['n_rounds']} rounds" in card
    for row in peers["rows"]:
        assert row["name"].split(",")[0] != "convnet-edge" or row["model_sha256"] in shipped


def test_page_on_verdicts_states_the_thresholds_and_floors_of_the_code():
    from convnet_edge.runtime.measure import stats, verdict

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
    for page in (REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
