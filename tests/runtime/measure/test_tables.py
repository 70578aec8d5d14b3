import dataclasses

import numpy as np
import pytest
import results as made

from convnet_edge.runtime.measure import accuracy, tables
from convnet_edge.runtime.measure.result import Percentile
from convnet_edge.runtime.measure.tables import Table

NAMES = ("model", "provider", "settings", "machine", "versions", "checks", "cost", "cold start",
         "latency", "classes", "confusion", "confused", "calibration", "throughput", "paced",
         "minutes", "profile", "pairs", "races")  # fmt: skip


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
             "profile": (), "pairs": (), "races": (), "throughput": (), "checks": ()}  # fmt: skip
    found = tables.tables_of(dataclasses.replace(full, **empty))
    assert tuple(table.name for table in found) == NAMES[:5]


def test_every_field_of_model_provider_and_machine_is_shown(full):
    model, machine = full.model, full.machine
    full = dataclasses.replace(
        full,
        model=dataclasses.replace(model, proof="adopted"),
        machine=dataclasses.replace(machine, name="pi@board"),
    )
    found = {table.name: table for table in tables.tables_of(full)}
    for name, part in (("model", full.model), ("provider", full.provider)):
        assert len(found[name].rows) == len(dataclasses.fields(part))
    assert len(found["machine"].rows) == len(dataclasses.fields(full.machine)) - 1
    assert cells(found["machine"])["clock MHz"] == "2,400"
    assert cells(found["machine"])["memory"] == "25,277 MB"
    assert cells(found["provider"])["placement"] == "CPUExecutionProvider: Conv × 2, Relu, Gemm"


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


def test_very_many_classes_are_bounded_to_those_of_the_lowest_f1():
    labels = np.arange(150)
    said = np.where(labels % 3 == 0, 1, labels)
    found = tables.tables_of(
        dataclasses.replace(
            made.full(), accuracy=accuracy.score(said, labels, tuple(map(str, labels)))
        )
    )
    by_name = {table.name: table for table in found}
    assert "confusion" not in by_name
    assert len(by_name["confused"].rows) == 10
    assert by_name["confused"].rows[0] == ("0", "1", "1", "1")
    classes = by_name["classes"]
    assert len(classes.rows) == tables.MAX_CLASSES
    assert [row[0] for row in classes.rows[:50]] == [str(label) for label in labels[::3]]
    assert classes.caption.endswith("; of 150 classes the 100 of the lowest F1")


def test_text_is_aligned_and_folds_its_last_column_within_the_width():
    table = Table("x", "Caption", ("what", "value"), (("a", "b"), ("longer", "word " * 40)))
    lines = tables.to_text(table, width=60)
    assert lines[:3] == ["Caption", "what    value", "a       b"]
    assert len(lines) > 5
    assert all(len(line) <= 60 for line in lines)
    assert all(line.startswith("        word") for line in lines[4:])


def test_markdown_escapes_what_it_would_take_for_its_own():
    table = Table("x", "A|B", ("a", "b"), (("<i>", "x|y [z](q)"),))
    row = tables.to_markdown(table).splitlines()[-1]
    assert row == r"| &lt;i&gt; | x\|y \[z\](q) |"
