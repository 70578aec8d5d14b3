"""What README and docs state is what the code does and what was measured."""

import hashlib
import json
import re

import generate
import pytest
import readme_table
from pages import REPOSITORY

from convnet_edge.quantizing import quantize
from convnet_edge.quantizing.options import QuantizeOptions
from convnet_edge.runtime import selftest
from convnet_edge.runtime.measure import stats, verdict
from convnet_edge.runtime.model_file import open_model
from convnet_edge.sealing import parity

DOCS = REPOSITORY / "docs"
SHIPPED = sorted((REPOSITORY / "exported").glob("fashion-mnist*.onnx"))


@pytest.mark.parametrize("path", sorted((DOCS / "reference").glob("*.md")), ids=lambda p: p.name)
def test_generated_parts_are_up_to_date(path):
    assert path.read_text() == generate.fill(path.read_text())


def test_every_field_of_a_result_and_every_command_s_options_have_their_row():
    page = (DOCS / "reference" / "result.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert {"machine.cpu", "latency[].percentiles_ms[].value", "pairs[].shown"} <= set(rows)
    assert len(set(rows)) == len(rows) > 150
    page = (DOCS / "reference" / "options.md").read_text()
    commands = {"adopt", "bench", "bundle", "compare", "data", "export", "inspect", "predict",
                "quantize", "report", "serve", "train", "verify"}  # fmt: skip
    assert set(re.findall(r"^## (\w+)$", page, re.MULTILINE)) == commands
    assert "| `--pairs` | integer from 6 to 1,000 | `11` |" in page


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_contract_s_keys_are_all_described(path):
    page = (DOCS / "reference" / "contract.md").read_text()
    document = open_model(path).contract.document
    for key, value in document.items():
        assert f"`{key}`" in page, key
        inner = value[0] if isinstance(value, list) and isinstance(value[0], dict) else value
        for name in inner if isinstance(inner, dict) and key != "training" else ():
            assert f"`{name}`" in page, f"{key}.{name}"
    for sample in document["preprocessing"]["samples"]:
        assert all(f"`{name}`" in page for name in sample)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_contract_page_lists_the_steps_of_the_shipped_file(path):
    page = (DOCS / "reference" / "contract.md").read_text()
    stated = open_model(path).contract.document["preprocessing"]
    listed = [f"{number}. {step}\n" for number, step in enumerate(stated["steps"], 1)]
    assert len(listed) > 5
    assert "".join(listed) in page
    assert stated["pixel_tolerance"] == selftest.PIXEL_TOLERANCE


def test_explanations_state_the_code_s_constants_and_the_shipped_scores():
    explanation = DOCS / "explanation"
    parity_page, int8_page = (
        " ".join((explanation / name).read_text().split()) for name in ("parity.md", "int8.md")
    )
    assert f"at most {parity.TOLERANCE_FACTOR} times that floor" in parity_page
    assert f"opset {parity.OPSET} and IR {parity.IR_VERSIONS[parity.OPSET]}" in parity_page
    *most, last = parity.BATCH_SIZES
    assert f"batches of {', '.join(map(str, most))} and {last} images" in parity_page
    assert f"come from {quantize.N_CALIBRATION:,} training images" in int8_page
    several = f"{quantize.N_COSTLY:,} to {quantize.N_GATE:,} of training"
    assert f"the validation pictures or {several}" in int8_page
    assert f"`--max-drop`, {QuantizeOptions.max_drop:g} points by default" in int8_page
    report = json.loads((REPOSITORY / "exported/fashion-mnist.int8.quantize.json").read_text())
    test = report["test"]
    stated = f"{test['n_lost']} lost, {test['n_gained']} gained of {test['n']:,}, McNemar p = "
    assert f"<!-- shipped -->{stated}{test['mcnemar_p']:.2f}<!-- end -->" in int8_page


def test_table_is_made_from_the_stored_results():
    shipped = {hashlib.sha256(path.read_bytes()).hexdigest() for path in SHIPPED}
    readme = (REPOSITORY / "README.md").read_text()
    training = (DOCS / "training.md").read_text()
    for result in readme_table._stored("bench"):
        assert result["model"]["model_sha256"] in shipped
    assert readme_table.table() in readme
    assert readme_table.recipe_table() in readme
    assert readme_table.training_table() in training
    assert readme_table.kills() in " ".join(training.split())
    peers = json.loads((readme_table.REFERENCE_DIR / "peers-cpu.json").read_text())
    card = (REPOSITORY / "exported" / "README.md").read_text()
    assert readme_table.peers_table(peers["rows"]) in card
    assert f"within each of {peers['n_rounds']} rounds" in card
    pages = card + (DOCS / "reference" / "runtimes.md").read_text()
    for result in readme_table._stored("peers"):
        assert readme_table.peers_table(result["rows"]) in pages


def test_page_on_verdicts_states_the_thresholds_and_floors_of_the_code():
    page = (DOCS / "verdicts.md").read_text()
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
