"""The commands, given an .onnx that another exporter wrote."""

import json

import foreign
import pytest
import tiny

from convnet_edge.reporting import compare
from convnet_edge.runtime.measure.result import FreshProcess


@pytest.fixture
def theirs(tmp_path):
    path = tmp_path / "theirs.onnx"
    path.write_bytes(foreign.rgb())
    return path


@pytest.fixture
def said(tmp_path):
    """What has to be said for an accuracy."""
    how = foreign.say(tmp_path, mean=foreign.MEAN, std=foreign.STD)
    return ("--data", foreign.pictures(tmp_path), "--classes", foreign.name_classes(tmp_path),
            "--preprocessing", how)  # fmt: skip


def test_inspect_tells_what_the_graph_does_and_claims_nothing(run, theirs):
    shown = run("inspect", theirs)
    assert "unproved: nothing is proved of it" in shown.stdout
    assert "[-] digest" in shown.stdout
    assert shown.stdout.endswith(f"next: convnet-edge bench {theirs}\n")
    found = json.loads(run("inspect", theirs, "--json").stdout)
    assert found["digest_holds"] is None
    assert found["contract"]["proof"] == "unproved"
    assert not {"goldens", "measured", "training", "file_sha256"} & set(found["contract"])


def test_bench_and_report_mark_it_everywhere(run, theirs, brief, tmp_path):
    done = run("bench", theirs, "--quick", "--threads", "1", "--out", "r.json")
    assert done.exit_code in (0, 1), done.output  # how believable its times are, is the machine's
    assert "theirs.onnx (unproved)" in done.stdout
    assert "ran random pictures" in done.stderr
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["model"]["proof"] == "unproved"
    assert result["accuracy"] is None
    assert [row["batch_size"] for row in result["latency"]] == [1, 64]
    assert run("report", "r.json").exit_code == 0
    for name in ("report.md", "report.html"):
        page = (tmp_path / "runs" / name).read_text()
        assert "theirs.onnx (unproved)" in page
        assert "unproved: nothing is proved of it" in page


def test_bench_scores_it_on_pictures_that_are_explained(run, theirs, said, brief, tmp_path):
    run("bench", theirs, "--quick", "--threads", "1", "--out", "r.json", *said)
    score = json.loads((tmp_path / "r.json").read_text())["accuracy"]
    assert score["n"] == 15
    assert [one["label"] for one in score["classes"]] == list(tiny.LABELS)


@pytest.mark.parametrize("missing", ["--classes", "--preprocessing"])
def test_pictures_without_an_explanation_are_refused(run, theirs, said, missing):
    place = said.index(missing)
    refused = run("bench", theirs, *said[:place], *said[place + 2 :])
    assert refused.exit_code == 2
    assert f"next: add {missing}" in refused.stderr


def test_batch_fixed_at_one_is_benched_at_one(run, theirs, brief, tmp_path):
    theirs.write_bytes(foreign.rgb(foreign.fix_batch(1)))
    done = run("bench", theirs, "--quick", "--threads", "1", "--out", "r.json")
    assert done.exit_code in (0, 1), done.output
    latency = json.loads((tmp_path / "r.json").read_text())["latency"]
    assert [row["batch_size"] for row in latency] == [1]
    refused = run("bench", theirs, "--batch-sizes", "64")
    assert refused.exit_code == 2
    assert (
        "batch sizes 64 for a graph that is fixed at 1; expected --batch-sizes 1" in refused.stderr
    )


def test_compare_takes_turns_with_it(run, theirs, tmp_path, monkeypatch):
    own = tmp_path / "own.onnx"
    own.write_bytes(tiny.rgb())

    def answer(task):
        assert (task.contract_path is None) == (task.model_path == own)
        return FreshProcess(1, 1, 1, 1, 1, 1, 6, {}, {"1": 1.0}), [1_000_000] * 11

    monkeypatch.setattr(compare, "start_process", answer)
    done = run("compare", own, theirs, "--json")
    assert done.exit_code == 0, done.output
    assert f"NEW {theirs} (unproved)" in done.stderr
    found = json.loads(done.stdout)
    assert found["proofs"] == [None, "unproved"]
    assert "classes" not in found
    refused = run("compare", own, theirs, "--min-accuracy", "1%")
    assert "which holds no contract" in refused.stderr
    theirs.write_bytes(foreign.rgb(foreign.fix_batch(1)))
    refused = run("compare", own, theirs, "--batch-size", "8")
    assert "takes one image a run; expected --batch-size 1" in refused.stderr


def test_predict_names_outputs_by_number_or_as_they_are_said(run, theirs, said, tmp_path):
    picture = next((tmp_path / "photos").rglob("*.png"))
    shown = run("predict", picture, "--model", theirs)
    assert f"model: {theirs} (unproved)" in shown.stderr
    assert f"{picture}: class " in shown.stdout
    named = run("predict", picture, "--model", theirs, *said[2:]).stdout
    assert any(f"{picture}: {label} " in named for label in tiny.LABELS)


def test_what_is_said_of_a_model_that_says_it_itself_is_refused(run, tiny_model):
    for command in ("inspect", "bench"):
        refused = run(command, tiny_model, "--image-size", "8")
        assert refused.exit_code == 2
        assert "--image-size for a model that holds its own contract" in refused.stderr


def test_verify_says_how_such_a_file_is_sealed(run, theirs):
    refused = run("verify", theirs)
    assert refused.exit_code == 2
    assert "convnet-edge adopt" in refused.stderr


def test_adopt_then_verify_and_bench_without_naming_pictures(run, theirs, said, brief, tmp_path):
    done = run("adopt", theirs, *said)
    assert done.exit_code == 0, done.output
    assert "adopted: no PyTorch network was there" in done.stdout
    assert "15 pictures" in done.stdout
    assert done.stdout.endswith("next: convnet-edge verify exported/theirs.onnx\n")
    verified = run("verify", "exported/theirs.onnx")
    assert verified.exit_code == 0
    assert "theirs.onnx (adopted)" in verified.stdout
    run("bench", "exported/theirs.onnx", "--quick", "--threads", "1", "--out", "r.json")
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["model"]["proof"], result["accuracy"]["n"]) == ("adopted", 15)


def test_quantize_of_what_lacks_words_or_opset_says_so(run, theirs, said):
    theirs.write_bytes(foreign.rgb(foreign.as_older_exporters_do))
    assert "next: add --classes" in run("quantize", theirs, *said[:2]).stderr
    refused = run("quantize", theirs, *said)
    assert refused.exit_code == 2
    assert "of opset 11" in refused.stderr
    assert "convnet-edge adopt" in refused.stderr
