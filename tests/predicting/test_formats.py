"""Parts as CSV and as Parquet say the same of the same answers."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest

from convnet_edge.predicting.answers import NO_CLASS, Answers, Spent
from convnet_edge.predicting.formats import Columns, Csv, choose_format

LABELS = ("Ankle Boot", "café", "靴")
ANSWERS = Answers(
    ["a.png", "b/ü.png", "c,\n.png", "d.png"],
    {1: "b/ü.png is em\udcffpty", 3: "no picture"},
    np.array([[0, 2], [NO_CLASS] * 2, [2, 1], [NO_CLASS] * 2], np.int32),
    np.array([[0.75, 0.125], [0, 0], [1.0, 0.0], [0, 0]], np.float32),
    np.array([False, False, True, False]),
    np.array([[1] * 32, [0] * 32, [255] * 32, [3] * 32], np.uint8),
    Spent(),
)
WANTED = [
    ("a.png", "Ankle Boot", 0.75, 0, True, None, "01" * 32),
    ("b/ü.png", None, None, None, None, "b/ü.png is em\\udcffpty", None),
    ("c,\n.png", "靴", 1.0, 2, False, None, "ff" * 32),
    ("d.png", None, None, None, None, "no picture", "03" * 32),
]
TOP = [
    [{"label": "Ankle Boot", "score": 0.75}, {"label": "靴", "score": 0.125}],
    None,
    [{"label": "靴", "score": 1.0}, {"label": "café", "score": 0.0}],
    None,
]
NAMES = ["path", "label", "score", "index", "sure", "error", "sha256"]


@pytest.mark.parametrize("n_top", [0, 2])
def test_parquet_holds_each_column(n_top):
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = Columns(LABELS, n_top, digest=True)
    data = choose_format(as_csv=False).write(columns, ANSWERS, {"schema": "s"})
    table = parquet.read_table(io.BytesIO(data))
    assert table.column_names == columns.names()
    assert {name: str(table.schema.field(name).type) for name in NAMES} == {
        "path": "string", "label": "string", "score": "float", "index": "int32", "sure": "bool",
        "error": "string", "sha256": "string",
    }  # fmt: skip
    assert [tuple(row[name] for name in NAMES) for row in table.to_pylist()] == WANTED
    if n_top:
        assert table.column("top").to_pylist() == TOP
    assert json.loads(table.schema.metadata[b"convnet_edge"]) == {"schema": "s"}


@pytest.mark.parametrize("n_top", [0, 2])
def test_csv_says_the_same(n_top):
    columns = Columns(LABELS, n_top, digest=True)
    text = Csv().write(columns, ANSWERS, {}).decode()
    names, *rows = csv.reader(io.StringIO(text, newline=""))
    assert names == columns.names()
    shown = {None: "", True: "yes", False: "no"}
    for row, wanted in zip(rows, WANTED, strict=True):
        found = dict(zip(names, row, strict=True))
        for name, value in zip(NAMES, wanted, strict=True):
            is_number = name in ("score", "index") and value is not None
            assert found[name] == (f"{value:g}" if is_number else shown.get(value, value)), name
    if n_top:
        tops = [row[names.index("top")] for row in rows]
        assert [json.loads(top) if top else None for top in tops] == TOP


def test_columns_that_nobody_asked_for_are_not_there():
    columns = Columns(LABELS, 0, digest=False)
    assert columns.names() == NAMES[:-1]
    assert Csv().write(columns, ANSWERS, {}).startswith(",".join(NAMES[:-1]).encode() + b"\n")


def test_parquet_is_written_without_pandas():
    pytest.importorskip("pyarrow")
    code = (
        "import sys, test_formats as t; "
        "t.choose_format(as_csv=False).write(t.Columns(t.LABELS, 2, True), t.ANSWERS, {}); "
        "sys.exit('pandas' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(
        [__file__.rpartition("/")[0], *sys.path])})  # fmt: skip
