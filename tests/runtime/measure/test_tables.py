import dataclasses

import pytest
import results as made

from convnet_edge.runtime.measure import tables
from convnet_edge.runtime.measure.check import Check
from convnet_edge.runtime.measure.result import Percentile, Reason, Verdict
from convnet_edge.runtime.measure.tables import Table

NAMES = ("model", "provider", "settings", "machine", "versions", "checks", "cost", "cold start",
         "latency", "classes", "confusion", "calibration", "throughput", "paced", "minutes",
         "profile", "pairs")  # fmt: skip


@pytest.fixture(scope="module")
def full():
    return made.full()


def cells(table):
    return {row[0]: row[1] for row in table.rows}


def test_full_result_has_every_table_in_reading_order_and_rows_fit_their_columns(full):
    found = tables.tables_of(full)
    assert tuple(table.name for table in found) == NAMES
    for table in found:
        assert {len(row) for row in table.rows} == {len(table.columns)}
        assert all(isinstance(cell, str) and cell for row in table.rows for cell in row)


def test_what_was_not_measured_has_no_table(full):
    empty = {"accuracy": None, "latency": (), "paced": None, "cost": None, "cold_start": None,
             "profile": (), "pairs": (), "throughput": (), "checks": ()}  # fmt: skip
    found = tables.tables_of(dataclasses.replace(full, **empty))
    assert tuple(table.name for table in found) == NAMES[:5]


def test_every_field_of_model_provider_and_machine_is_shown(full):
    found = {table.name: table for table in tables.tables_of(full)}
    for name, part in (("model", full.model), ("provider", full.provider)):
        assert len(found[name].rows) == len(dataclasses.fields(part))
    assert len(found["machine"].rows) == len(dataclasses.fields(full.machine)) - 1
    assert cells(found["machine"])["clock MHz"] == "2,400"
    assert cells(found["machine"])["memory"] == "25,277 MB"
    assert cells(found["provider"])["placement"] == "CPUExecutionProvider: Conv, Relu, Gemm"


def test_percentile_below_its_floor_says_what_it_needs(full):
    missing = Percentile(0.99, 662, None, None, None)
    assert tables.percentile_text(missing) == "n/a (needs 662)"
    assert tables.percentile_text(None) == tables.NONE
    assert tables.percentile_text(Percentile(0.5, 11, 2.5, 2.25, 12.0)) == "2.500 (2.250–12.000)"
    latency = {table.name: table for table in tables.tables_of(full)}["latency"]
    (row,) = [row for row in latency.rows if row[0] == "p99 ms"]
    assert row[2] == "needs 662"


@pytest.mark.parametrize(
    ("name", "value", "heading", "text"),
    [
        ("bound_ms", 2.5, "bound ms", "2.500"),
        ("n_lost", 1234, "lost", "1,234"),
        ("images_per_s", 1234.5, "images/s", "1,234"),
        ("temperature_c", -5.5, "temperature °C", "-5.5"),
        ("share_of_bound", 0.4, "of the bound", "40.0 %"),
    ],
)
def test_fields_of_a_result_are_shown_with_their_units(name, value, heading, text):
    assert (tables.heading(name), tables.shown(name, value)) == (heading, text)


def model(name, *, status="VALID", reasons=(), batch_ms=None, **changes):
    """Return a finished result of a model of this name."""
    whole = made.full(batch_ms or {1: 0.08, 8: 0.5, 64: 2.6, 256: 11.0})
    changes = {"failed": None, "pairs": (), "verdict": Verdict(status, reasons), **changes}
    return dataclasses.replace(whole, model=dataclasses.replace(whole.model, name=name), **changes)


DRIFT = Reason(**made.NOISY | {"batch_size": 8})
NAMED = ("fashion-mnist.onnx", "a-very-long-name-of-a-model-" * 4 + ".int8.onnx", "衣服.onnx")


def screen(*results):
    """Return the lines of a bench's first screen, as they come."""
    lines = tables.screen_head(results[0])
    for one in results:
        for n_timed in range(1, len(one.latency) + 1):
            lines.append(tables.screen_row(dataclasses.replace(one, latency=one.latency[:n_timed])))
        lines += tables.screen_end(one)
    return lines


def test_first_screen_names_a_model_once_and_ends_with_its_verdict():
    found = screen(
        model(NAMED[0]),
        model(NAMED[1], status="NOISY", reasons=(DRIFT,) * 3),
        model(NAMED[2], accuracy=None, cold_start=None),
    )
    assert max(map(len, found)) <= tables.WIDTH
    assert found[1].split() == [
        "model", "batch", "p50", "ms", "p99", "ms", "images/s", "accuracy", "memory",
    ]  # fmt: skip
    assert found[2].split()[:3] == ["fashion-mnist.onnx", "1", "0.0807"]
    assert [line.split()[0] for line in found[3:6]] == ["8", "64", "256"]
    assert len({len(line) for line in found[3:6]}) == 1  # numbers are set to the right
    assert found[6] == "  VALID"
    assert found[7].startswith("a-very")
    assert ".int8.onnx" in found[7]  # what tells names apart is at both ends
    assert "  NOISY: drift at batch 8 (14.0 %, at most 10 %); 2 more with --verbose" in found
    assert len(found) == 2 + 3 * 5


def test_first_screen_compares_with_the_first_model(full):
    pair = dataclasses.replace(full.pairs[0], name=NAMED[0], n_lost=90, mcnemar_p=1e-9)
    (line,) = tables.screen_end(model("b.onnx", pairs=(pair,)))[1:]
    assert line.startswith(f"against {NAMED[0]}: ")
    assert "90 right answers lost" in line


def test_first_screen_names_checks_that_failed_and_no_others():
    bad = Check("golden vectors", False, "largest error 0.4 > 1.8e-05")
    lost = model("a.onnx", checks=(Check("digest", True, "x"), bad), latency=(), verdict=None,
                 failed="golden vectors: largest error 0.4")  # fmt: skip
    failed, end = tables.screen_end(lost)
    assert failed == "[x] golden vectors: largest error 0.4 > 1.8e-05"
    assert end == "  failed: golden vectors: largest error 0.4"


def test_answer_in_one_line_has_speed_memory_and_verdict():
    line = tables.in_one_line(model("a.onnx"))
    assert line.startswith("a.onnx: p50 0.0807 ms at batch 1, ")
    assert line.endswith(": VALID")


def test_text_is_aligned_and_folds_its_last_column_within_the_width():
    table = Table("x", "Caption", ("what", "value"), (("a", "b"), ("longer", "word " * 40)))
    lines = tables.to_text(table, width=60).splitlines()
    assert lines[:3] == ["Caption", "what    value", "a       b"]
    assert len(lines) > 5
    assert all(len(line) <= 60 for line in lines)
    assert all(line.startswith("        word") for line in lines[4:])


def test_markdown_escapes_what_it_would_take_for_its_own():
    table = Table("x", "A|B", ("a", "b"), (("<i>", "x|y [z](q)"),))
    row = tables.to_markdown(table).splitlines()[-1]
    assert row == r"| &lt;i&gt; | x\|y \[z\](q) |"
