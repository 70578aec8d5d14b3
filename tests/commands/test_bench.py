"""`bench` as a person runs it: what is written, shown and drawn; measuring has its own tests."""

import json
import subprocess
import sys
import time

import faults
import pytest
import tiny
from PIL import Image
from results import read as read_result

from convnet_edge.data import dataset
from convnet_edge.drawing import pictures
from convnet_edge.runtime.measure import bench as stage
from convnet_edge.runtime.measure import machine, race

N = 400
FIND_TEST_SET = dataset.find_test_set
SHORT = ("--duration", "0.05", "--min-runs", "11", "--threads", "1", "--out", "r.json")


@pytest.fixture(autouse=True)
def on_tiny_images(brief, monkeypatch):
    """The hand-made images are the test set."""
    monkeypatch.setattr(dataset, "find_test_set", lambda *_: tiny.image_set(N))


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures, which take a second each, are not made; that of the differences is."""
    for name in ("latency", "confusion", "reliability", "prediction_grid"):
        monkeypatch.setattr(
            pictures, name, lambda path, *_, **__: pictures.Picture(path, drawn=False)
        )


def test_result_pictures_and_tables_of_a_run(rendered, run, tiny_model, tmp_path):
    result = run("bench", tiny_model, *SHORT, "--batch-sizes", "1,64", "--profile",
                 "--pace", "50hz", "--sustain", "0.5s", "--verbose")  # fmt: skip
    assert result.exit_code == 0, result.output
    found = read_result(tmp_path / "r.json")
    assert [row.batch_size for row in found.latency] == [1, 64]
    assert found.accuracy.n == N
    assert (found.paced.pace_hz, found.paced.duration_s) == (50, 0.5)
    assert found.settings["threads"] == 1
    drawn = {"latency", "confusion", "reliability", "predictions", "profile", "minutes"}
    assert {path.name.split(".")[1] for path in tmp_path.glob("r.*.png")} == drawn
    text = result.stdout
    (wrote,) = [line for line in text.splitlines() if line.startswith("wrote r.json, ")]
    assert all(f".{what}.png" in wrote for what in drawn)
    for part in ("Provider", "95 % interval", "n/a (needs 6,636)", "Cold start", "verdict:",
                 "Profile", "Throughput"):  # fmt: skip
        assert part in text, part
    assert text.index("Cost of an image") < text.index("Time of a run")
    assert text.endswith("next: convnet-edge report r.json\n")


def test_json_is_the_result_file_and_tables_fit_80_columns(
    undrawn, run, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    result = run("bench", tiny_model, *SHORT, "--batch-sizes", "1,8,64,256", "--json",
                 "--verbose")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((tmp_path / "r.json").read_text())
    text = result.stderr
    tables = text[text.index("Classes") : text.index("verdict: ")]
    assert max(map(len, tables.splitlines())) <= 80
    assert "…" not in tables


def test_noisy_is_exit_0_unless_strict(undrawn, run, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "involuntary_switches", iter(range(10**9)).__next__)
    monkeypatch.setattr(machine, "waited_ns", lambda: None)
    command = ("bench", tiny_model, *SHORT, "--quick")
    relaxed = run(*command)
    assert relaxed.exit_code == 0, relaxed.output
    assert "\n  NOISY: " in relaxed.stdout
    reasons = read_result(tmp_path / "r.json").verdict.reasons
    assert "interrupted runs" in {reason.name for reason in reasons}
    strict = run(*command, "--strict")
    assert strict.exit_code == 1
    assert "is NOISY" in strict.stderr


def test_killed_bench_leaves_what_it_measured(tmp_path):
    command = [sys.executable, "-m", "convnet_edge", "bench", "--out", "r.json"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    path, deadline = tmp_path / "r.json", time.monotonic() + 60
    try:
        while not (path.exists() and read_result(path).accuracy):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    found = read_result(path)
    assert found.interrupted
    assert found.verdict is None


def test_interrupted_bench_names_the_file_to_read(undrawn, run, tiny_model, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "_time_batch", interrupt)
    result = run("bench", tiny_model, *SHORT)
    assert result.exit_code == 130
    assert result.stderr.endswith(
        "; next: see what was measured with `convnet-edge report r.json`\n"
    )
    assert "1 interrupted" in run("report", "r.json").stdout


def test_unwritable_result_is_exit_2_before_anything_is_measured(run, tiny_model, monkeypatch):
    monkeypatch.setattr(stage, "_score", lambda *_: pytest.fail("measured"))
    result = run("bench", tiny_model, "--out", "/proc/absent/r.json")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def test_several_models_are_paired_with_the_first(rendered, undrawn, run, tiny_model, tmp_path):
    other = tiny_model.with_name("other.onnx")
    other.write_bytes(tiny.grey_uint8())
    result = run("bench", tiny_model, other, "--quick", "--threads", "1")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "benchmarks" / "results"
    assert (folder / "other-cpu-1t.differences.png").stat().st_size > 5_000
    first, second = (read_result(folder / f"{stem}-cpu-1t.json") for stem in ("tiny", "other"))
    assert (first.pairs, first.races) == ((), ())
    raced = [(race.name, race.other, race.batch_size, race.threads) for race in second.races]
    assert raced == [("other.onnx", tiny_model.name, size, 1) for size in (1, 64)]
    (said,) = race.advise(second.races)
    assert said in " ".join(result.stdout.split())
    (pair,) = second.pairs
    assert pair.name == tiny_model.name
    assert pair.n_gained - pair.n_lost == second.accuracy.n_correct - first.accuracy.n_correct
    assert f"against {tiny_model.name}: " in result.stdout
    assert result.stdout.endswith("next: convnet-edge report\n")


def test_two_files_of_one_name_are_refused_before_anything_is_measured(run, tiny_model, tmp_path):
    other = tmp_path / "pr" / tiny_model.name
    other.parent.mkdir()
    other.write_bytes(tiny.grey_uint8())
    result = run("bench", tiny_model, other, "--quick")
    assert result.exit_code == 2
    assert f"results of {tiny_model}, {other} would take the same name" in result.stderr
    assert not (tmp_path / "benchmarks").exists()


def test_error_that_leaves_no_result_is_a_document_where_json_is_asked_for(run, tmp_path):
    for command in (("bench",), ("verify",), ("compare", "absent.onnx"), ("report",)):
        result = run(*command, "absent.onnx", "--json")
        assert result.exit_code == 2
        told = json.loads(result.stdout)
        assert set(told) == {"error", "exit_code"}
        assert told["exit_code"] == 2
        assert told["error"] in result.stderr.replace("\n", " ")


def test_models_whose_test_images_are_not_here_are_timed_and_not_compared(
    undrawn, run, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(dataset, "find_test_set", FIND_TEST_SET)
    other = tiny_model.with_name("colours.onnx")
    other.write_bytes(tiny.rgb())
    result = run("bench", tiny_model, other, "--quick", "--threads", "1")
    assert result.exit_code == 0, result.output
    assert result.output.count("accuracy: not measured") == 2
    assert "name them with --data" in result.output
    for stem in ("tiny", "colours"):
        found = read_result(tmp_path / "benchmarks" / "results" / f"{stem}-cpu-1t.json")
        assert (found.accuracy, found.pairs, found.races) == (None, (), ())  # of other shapes
        assert found.latency


def test_source_without_a_test_side_is_refused_before_anything_is_measured(
    run, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(dataset, "find_test_set", FIND_TEST_SET)
    for number, image in enumerate(tiny.images(12)):
        part, label = ("train", "test")[number // 6], tiny.LABELS[number % 3]
        path = tmp_path / "untested" / part / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        if part == "test":
            path.write_bytes(b"damaged")
    result = run("bench", tiny_model, "--data", "untested", *SHORT)
    assert result.exit_code == 2
    expected = "convnet-edge: untested has no test pictures; expected some that no model learned"
    assert expected in result.stderr
    assert result.stderr.endswith("; next: change --data\n")
    assert not (tmp_path / "r.json").exists()


def test_every_model_is_looked_at_before_any_is_measured(run, tiny_model, tmp_path):
    other, names = tmp_path / "other.onnx", [f"not {name}" for name in tiny.LABELS]
    renamed = faults.change_document(
        tiny_model.read_bytes(), lambda document: document.update(class_labels=names)
    )
    other.write_bytes(renamed)
    told = {"absent.onnx": "absent.onnx does not exist", other: "other.onnx have other classes"}
    for second, expected in told.items():
        result = run("bench", tiny_model, second, *SHORT[:-2])
        assert result.exit_code == 2
        assert expected in result.stderr
        assert not (tmp_path / "benchmarks").exists()


@pytest.mark.slow
def test_two_busy_processes_turn_the_verdict_to_noisy(run, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "QUICK_DURATION_S", 0.8)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"])
            for _ in range(2 * machine.usable_cores())]  # fmt: skip
    try:
        assert run("bench", tiny_model, "--quick", "--out", "r.json").exit_code == 0
    finally:
        for process in busy:
            process.kill()
            process.wait()
    verdict = read_result(tmp_path / "r.json").verdict
    assert verdict.status == "NOISY"
    assert "interrupted runs" in {reason.name for reason in verdict.reasons}
