"""The report: what it puts side by side, what it warns of; no result can break its page."""

import dataclasses
import json
import re
import sys
from html.parser import HTMLParser

import faults
import numpy as np
import pytest
import results as made
from PIL import Image

from convnet_edge.drawing import charts, pictures
from convnet_edge.reporting import report
from convnet_edge.reporting.options import ReportOptions
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.files import as_json
from convnet_edge.runtime.measure import accuracy, tables

EVIL = "<script>alert(1)</script>|x|[a](javascript:b)`*\"'&amp;{{ 7 * 7 }}"
UNMEASURED = {"accuracy": None, "latency": [], "cold_start": None, "verdict": None}
FAILED = {"failed": "golden vectors: largest error 0.4 > 1.8e-05", **UNMEASURED}
# batch 1: about ms, accuracy
POINTS = ((0.08, 0.9323), (0.02, 0.90), (0.04, 0.91), (0.04, 0.905), (0.2, 0.9323), (0.06, 0.905))
ROW = {"batch_size": 1, "n_runs": 1, "verdict": {"status": "VALID", "reasons": []}}
ODD = {
    "mathematics": {"model__name": r"$\frac{$.onnx"},
    "underscore": {"model__name": "_a.onnx"},
    "another script": {"model__name": "衣服.onnx"},
    "a long name": {"model__name": "x" * 20_000},
    "one batch size": {"batch_ms": {256: 4.0}},
    "very fast and very slow": {"batch_ms": {1: 1e-5, 4096: 1e8}},
    "constant": {"latency": [{**ROW, "images_per_s": 5.0, "samples_ns": [7, 7, 7]}]},
    "times of zero": {"latency": [{**ROW, "images_per_s": 0.0, "samples_ns": [0]}]},
    "an interval beside its value": {"accuracy__interval": {"low": 0.99, "high": 0.1}},
    "a histogram": {"latency": [{**ROW, "histogram_ns": [[1000, 5], [1010, 9], [9000, 1]]}]},
}


def make(folder, *paths, name="report.html"):
    return report.report(ReportOptions(tuple(paths) or (folder,), folder / name))


class Elements(HTMLParser):
    """Every element and attribute that a browser would see."""

    def __init__(self, text):
        super().__init__()
        self.names, self.attributes, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The report of a result with every number, and of faster or more accurate ones.

    Batch 1 of each is VALID; as a whole the first is NOISY.
    """
    folder = tmp_path_factory.mktemp("whole")
    made.write(folder, "0.json", verdict={"status": "NOISY", "reasons": [made.NOISY]})
    for i, (time_ms, share) in enumerate(POINTS[1:], 1):
        made.write(folder, f"{i}.json", batch_ms={1: time_ms}, accuracy__accuracy=share,
                   accuracy__n_correct=round(10_000 * share))  # fmt: skip
    return make(folder)


@pytest.fixture
def plain(monkeypatch):
    """No matplotlib."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def cells(markdown):
    """Return the cells of each table row, split where Markdown splits."""
    rows = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def test_report_has_its_files_its_charts_and_every_table_of_each_result(whole):
    names = {path.name for path in whole.html_path.parent.iterdir() if path.suffix != ".json"}
    charts = {f"report.{name}.png" for name in ("latency", "batches", "accuracy", "size")}
    assert names == {"report.html", "report.md", *charts}
    for picture in whole.pictures:
        with Image.open(picture.path) as image:
            assert image.convert("L").getextrema()[0] < 100
    page = whole.html_path.read_text()
    assert page.count("<svg") == page.count('role="img"') == 4
    assert whole.markdown_path.read_text() == whole.markdown
    found = Elements(page)
    for table in tables.tables_of(dataclasses.replace(made.full(), failed=None)):
        assert table.caption in found.texts
        assert {cell for row in table.rows for cell in row} <= {*found.texts, "NOISY"}


def test_page_shows_the_worst_pairs_of_many_classes_and_no_matrix(tmp_path, plain):
    labels = np.arange(31)
    score = accuracy.score(np.roll(labels, 1), labels, tuple(f"class {i}" for i in labels))
    made.write(tmp_path, accuracy=as_json(score))
    found = Elements(make(tmp_path).html_path.read_text())
    assert "The pairs of classes confused most" in found.texts
    assert not any("Confusion matrix" in text for text in found.texts)
    assert found.texts.count("class 0") == 2 + 1  # as what it is and what is said, and as a class


def test_table_has_a_row_for_each_result_and_batch_size(tmp_path, plain):
    made.write(tmp_path, "a.json", batch_ms={1: 0.08, 8: 0.5})
    made.write(tmp_path, "b.json", batch_ms={4: 0.3})
    measured = [row for row in cells(make(tmp_path).markdown) if len(row) == 10][2:]
    assert [(row[0], row[4]) for row in measured] == [("1", "1"), ("1", "8"), ("2", "4")]
    p50 = made.full({1: 0.08}).latency[0].percentile(0.5)
    assert measured[0][5] == f"{p50.value:.4f} ({p50.low:.4f}–{p50.high:.4f})"
    assert measured[1][6] == "n/a (needs 662)"
    assert measured[0][8:] == ["93.23 % (92.72–93.71)", "VALID"]


def test_of_very_many_results_a_few_are_charted_and_all_are_listed(tmp_path, monkeypatch):
    """A chart of 900 took minutes, and was then too high for a picture."""
    charted = []

    def chart(path, entries, *_, **__):
        charted.append([one.number for one in entries])
        return pictures.Picture(path, drawn=False)

    for name in ("latency", "batches", "accuracy", "sizes"):
        monkeypatch.setattr(charts, name, chart)
    n = report.MAX_CHARTED + 5
    for i in range(n):
        made.write(tmp_path, f"{i:02}.json", batch_ms={1: n - i}, machine__id=f"{i // 12:016}",
                   machine__cpu=f"cpu {i}", model__model_sha256=f"{i:064}")  # fmt: skip
    made_report = make(tmp_path)
    assert {len(numbers) for numbers in charted} == {report.MAX_CHARTED}
    assert all({12, 24, 25} <= set(numbers) for numbers in charted)  # the fastest of each machine
    assert f"charts show {report.MAX_CHARTED} of {n} results" in made_report.warnings[-1]
    listed = [row for row in cells(made_report.markdown) if row[0].isdigit()]
    assert len(listed) == 2 * n
    assert made_report.warnings[0].endswith(f"; and {n - report.MAX_LISTED} more")


@pytest.mark.parametrize(("n", "n_rows", "more"), [(1, 3, None), (4, 12, None), (40, 12, 108)])
def test_screen_holds_every_row_or_the_most_telling_ones(tmp_path, plain, n, n_rows, more):
    for i in range(n):
        made.write(
            tmp_path, f"{i:02}.json", model__name=f"{'long-' * 20}{i:02}.onnx", races=[],
            machine__id=f"{i % 2:016}", batch_ms={1: 0.02 + abs(i - 30) / 99, 8: 0.5, 64: 2.6},
        )  # fmt: skip
    made_report = make(tmp_path)
    head, *rest = made_report.summary
    assert max(map(len, made_report.summary[: n_rows + 2])) <= 80
    assert head == f"{n} result{'s' * (n > 1)}: {n} VALID"
    columns, *rows = rest[rest.index("") + 1 :] if n > 1 else rest
    assert columns.split()[:4] == ["#", "file", "on", "batch"]
    assert len(rows) == n_rows + bool(more)
    if more:  # shown are those that none of the same machine beats in speed and accuracy
        assert {"31", "30"} <= {row.split()[0] for row in rows[:-1]}
        assert rows[-1] == f"{more} more rows in {made_report.markdown_path}"


def test_fleet_is_told_what_to_deploy_on_each_machine(tmp_path, plain):
    made.write(tmp_path, "a.json", machine__name="pi@one", model__name="slow.onnx",
               batch_ms={1: 2.0}, accuracy__interval={"low": 0.5, "high": 0.9})  # fmt: skip
    made.write(tmp_path, "b.json", machine__name="pi@one", model__name="fast.onnx",
               batch_ms={1: 1.0}, accuracy__interval={"low": 0.4, "high": 0.6})  # fmt: skip
    made.write(tmp_path, "c.json", machine__name="pi@one", model__name="wrong.onnx",
               batch_ms={1: 0.1}, accuracy__interval={"low": 0.1, "high": 0.3})  # fmt: skip
    made.write(tmp_path, "d.json", machine__name="two", model__name="bad.onnx", latency=[],
               failed="golden vectors")  # fmt: skip
    made.write(tmp_path, "e.json", machine__name="three", model__name="x.onnx", accuracy=None,
               verdict__status="INVALID")  # fmt: skip
    found = make(tmp_path)
    _, *rest = found.summary
    told = rest[: rest.index("")]
    assert told[0] == "Deploy the fastest that is not shown to be less accurate:"
    assert [re.split(r" {2,}", line)[:2] for line in told[2:]] == [
        ["A: pi@one, AMD EPYC", "2, fast.onnx"],
        ["B: two, AMD EPYC", "none"],
        ["C: three, AMD EPYC", "none"],
    ]
    assert "What to deploy on each machine" in found.markdown


@pytest.mark.parametrize(("p", "is_said"), [(2e-9, True), (0.4, False)])
def test_answers_shown_to_be_worse_are_said_before_the_speed(tmp_path, p, is_said):
    (pair,) = as_json(made.full().pairs)
    lost = {"name": "base.onnx", "n_lost": 90, "n_gained": 20, "mcnemar_p": p}
    made.write(tmp_path, "a.json", pairs=[pair | lost])
    found = make(tmp_path)
    for text in (" ".join(found.summary), " ".join(found.markdown.split())):
        assert ("90 right answers lost, 20 gained; shown: worse" in text) == is_said


def test_report_says_which_to_deploy_and_where(tmp_path, plain):
    (race,) = as_json(made.full().races)
    race |= {"name": "a.int8.onnx", "ratio": 2.0, "ratio_interval_95": {"low": 1.9, "high": 2.1}}
    made.write(tmp_path, "a.json", races=[race | {"other": f"{n}.onnx"} for n in range(10)])
    found = make(tmp_path)
    said = "deploy a.int8.onnx: faster than {}.onnx at batch 2 on 2 threads (2.00 ×)"
    assert (
        f"fashion-mnist.onnx, AMD EPYC (id 012345): on machines like this one {said.format(9)}."
        in found.markdown
    )
    page = (tmp_path / "report.html").read_text()
    assert (
        f"<p>fashion-mnist.onnx, AMD EPYC (id 012345): on machines like this one {said.format(0)}"
        in page
    )
    assert found.summary[-1] == "2 more such sentences on the page"
    assert said.format(7) in " ".join(found.summary)


def test_screen_has_p99_where_it_fits_and_says_where_reasons_are(tmp_path, plain, run):
    made.write(tmp_path, "a.json", model__name="a.onnx", reasons=[made.NOISY], batch_ms={1: 0.5},
               races=[])  # fmt: skip
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "a.onnx").touch()
    brief = run("report", "a.json").stdout.splitlines()
    assert brief[1].split()[4:8] == ["p50", "ms", "p99", "ms"]
    assert brief[3] == "NOISY or INVALID: why is on the page, and with --verbose"
    assert brief[-1] == "next: convnet-edge bundle exported/a.onnx"
    whole = run("report", "a.json", "--verbose").stdout
    assert whole.splitlines()[:3] == brief[:3]
    assert "\n1: result a.json; file a.onnx; " in whole
    assert f"\n1, a.onnx, batch 1: drift: {made.NOISY['text']}\n" in whole
    assert "|" not in whole
    made.write(tmp_path, "b.json", model__name="b" * 40)
    assert "p99" not in run("report", "b.json").stdout


def test_chart_of_one_batch_size_tells_its_verdict_not_the_whole_results(whole):
    page = whole.html_path.read_text()
    charted = {re.search('aria-label="([^".,]+)', chart)[1]: "(NOISY)" in chart
               for chart in re.findall("<figure>.*?</figure>", page, re.DOTALL)}  # fmt: skip
    assert charted == {"Time of one run": False, "Throughput by batch size": True,
                       "Accuracy against time": False, "Model file": False}  # fmt: skip


def test_same_results_give_the_same_bytes(whole, tmp_path):
    folder = whole.html_path.parent
    make(tmp_path, folder)
    again = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert again == {name: (folder / name).read_bytes() for name in again}
    assert len(again) == 6


def test_page_needs_nothing_else_and_allows_no_script(whole):
    page = whole.html_path.read_text()
    found = Elements(page)
    assert not {"script", "link", "img", "iframe", "object", "a"} & set(found.names)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert ("content", policy) in found.attributes
    values = [value or "" for name, value in found.attributes if not name.startswith("xmlns")]
    assert not [value for value in values if "://" in value]
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_charts_in_the_page_have_unique_ids_and_take_its_colour(whole):
    page = whole.html_path.read_text()
    ids = [value for name, value in Elements(page).attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 20
    used = re.findall(r'(?:url\(|href=")#([^")]+)', page)
    assert used
    assert set(used) <= set(ids)
    assert pictures.INK not in page
    assert page.count("currentColor") > 20
    assert "<style" not in page[page.index("<svg") :]


def test_pareto_front_holds_exactly_the_points_that_none_dominates(whole):
    best = {
        number
        for number, (time_ms, share) in enumerate(POINTS, 1)
        if not any(t <= time_ms and s >= share and (t, s) != (time_ms, share) for t, s in POINTS)
    }
    for text in (whole.markdown, whole.html_path.read_text()):
        named = re.search(r"Pareto front: ([\d, ]+): none", text)[1]
        assert {int(number) for number in named.split(", ")} == best == {1, 2, 3}


def test_hostile_names_stay_text(tmp_path):
    pair = {**made.document()["pairs"][0], "name": EVIL}
    path = made.write(
        tmp_path,
        model__name=EVIL, machine__cpu=EVIL, machine__id=EVIL, machine__versions={EVIL: EVIL},
        provider__obtained=EVIL, provider__placement={EVIL: [EVIL]}, failed=EVIL,
        accuracy__classes=[{**made.document()["accuracy"]["classes"][0], "label": EVIL}] * 10,
        measured_at=EVIL, reasons=[{**made.NOISY, "name": EVIL, "text": EVIL}],
        checks=[{"name": EVIL, "passed": False, "detail": EVIL}], settings={EVIL: EVIL},
        pairs=[pair],
    )  # fmt: skip
    made_report = make(tmp_path, path)
    found = Elements(made_report.html_path.read_text())
    assert "script" not in found.names
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert EVIL in found.texts
    assert "<script" not in made_report.markdown
    assert not re.search(r"(?<!\\)\]\(javascript", made_report.markdown)
    assert {len(row) for row in cells(made_report.markdown)} == {9, 10}


def test_failed_and_interrupted_results_are_listed_with_their_end(tmp_path, plain):
    made.write(tmp_path, "a.json", **FAILED)
    made.write(tmp_path, "b.json", interrupted=True, reasons=[made.NOISY], verdict=None)
    made_report = make(tmp_path)
    page = made_report.html_path.read_text()
    assert "2 results: 2 without a verdict, 1 failed, 1 interrupted" in page
    assert "golden vectors: largest error 0.4 &gt; 1.8e-05" in page
    assert [warning[:10] for warning in made_report.warnings] == ["1, a.json:", "2, b.json:"]
    assert f"drift: {made.NOISY['text']}" in made_report.markdown


def test_chart_without_a_number_is_left_out_and_none_at_all_is_said(tmp_path):
    found = make(tmp_path, made.write(tmp_path, **FAILED)).pictures
    assert [picture.path.name for picture in found] == ["report.size.png"]
    made_report = make(tmp_path, made.write(tmp_path, model__model_bytes=None, **FAILED))
    assert made_report.pictures == ()
    assert "nothing to chart" in made_report.html_path.read_text()


def test_without_matplotlib_the_page_says_what_installs_charts(tmp_path, plain):
    made_report = make(tmp_path, made.write(tmp_path))
    found = Elements(made_report.html_path.read_text())
    assert "svg" not in found.names
    assert any(pictures.INSTALL in text for text in found.texts)
    assert not any(picture.drawn for picture in made_report.pictures)
    assert "![" not in made_report.markdown
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "report.html", "report.md"}


def test_what_cannot_be_compared_is_warned_of_and_nothing_else(tmp_path, plain):
    made.write(tmp_path, "a.json")
    made.write(tmp_path, "b.json", batch_ms={1: 0.3})
    assert make(tmp_path).warnings == ()
    made.write(
        tmp_path, "b.json", machine__id="f" * 16, accuracy__test_sha256="00" * 32,
        machine__versions={"onnxruntime-gpu": "1.22.0"},
    )  # fmt: skip
    made_report = make(tmp_path)
    machines, versions, images = made_report.warnings
    assert machines.startswith("2 machines, whose times cannot be compared: A: AMD EPYC (id 0123")
    assert versions.endswith("1.22.0; 1.32")
    assert images.endswith("000000000000; 5b5b5b5b5b5b")
    assert "B: AMD EPYC (id ffffff)" in made_report.markdown


@pytest.mark.slow
@pytest.mark.parametrize("changes", ODD.values(), ids=ODD)
def test_odd_results_are_drawn_without_a_warning(tmp_path, changes):
    made_report = make(tmp_path, made.write(tmp_path, **changes))
    assert all(picture.drawn for picture in made_report.pictures)


@pytest.mark.slow
def test_any_value_replaced_gives_a_report_or_an_input_error(tmp_path, plain, monkeypatch):
    monkeypatch.setattr(report, "write_atomically", lambda path, data: None)
    document = made.document(batch_ms={1: 0.08}, reasons=[made.NOISY])
    document["latency"][0]["samples_ns"] = [70_000, 80_000]
    document["accuracy"]["classes"] = document["accuracy"]["classes"][:2]
    document["accuracy"]["confusion"] = [[3, 1], [0, 4]]
    document["accuracy"]["calibration"]["bins"] = document["accuracy"]["calibration"]["bins"][:2]
    path, n_reports, n_errors = tmp_path / "a.json", 0, 0
    for changed in faults.mutations(document):
        path.write_text(json.dumps(changed))
        try:
            make(tmp_path, path)
            n_reports += 1
        except InputError as error:
            assert str(path) in str(error)
            n_errors += 1
    assert n_reports > 300
    assert n_errors > 1000
