"""The first screen is the answer: at most 25 lines of 80 columns, and the next command to copy."""

from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import tiny
from emulated import EXPORTED
from PIL import Image

from convnet_edge.commands import terminal
from convnet_edge.data import dataset
from convnet_edge.drawing import sheets
from convnet_edge.drawing.pictures import Picture
from convnet_edge.runtime.measure import stats
from convnet_edge.runtime.measure.check import Check
from convnet_edge.runtime.measure.result import Interval, Race

LINES, COLUMNS = 25, 80


@pytest.fixture
def screen(run, brief, monkeypatch, tmp_path):
    """Run a command line as on a terminal of 80 columns; return its lines, once they fit."""
    monkeypatch.setattr(terminal, "is_terminal", lambda *, err: True)

    def show(*arguments, exit_code=0):
        monkeypatch.setenv("COLUMNS", str(COLUMNS))
        result = run(*arguments)
        assert result.exit_code == exit_code, result.output
        lines = result.output.splitlines()
        assert sum(max(1, ceil(len(line) / COLUMNS)) for line in lines) <= LINES, result.output
        whole = ("next: ", "convnet-edge: ")  # are there to be copied, or to be searched for
        # the folder of a test has a long name
        said = [line.replace(str(tmp_path), ".") for line in lines if not line.startswith(whole)]
        assert max(map(len, said)) <= COLUMNS, result.output
        return lines

    return show


def test_export_says_what_was_made_and_verbose_adds_every_check(screen, run, exported, monkeypatch):
    monkeypatch.setattr("convnet_edge.exporting.export.export", lambda *_: exported)
    path = exported.model_path
    brief = screen("export")
    assert brief[0].startswith("tiny.onnx: ")
    assert "opset 18, accuracy " in brief[0]
    assert brief[1].startswith("  labels as PyTorch's on 300 images; largest error ")
    assert brief[2].endswith(" checks hold")
    assert len(brief[3].removeprefix("  sha256 ")) == 64
    assert brief[-1] == f"next: convnet-edge verify {path}"
    whole = run("export", "--verbose").output
    assert whole.count("[✓]") > 15
    assert not any("[✓]" in line for line in brief)
    assert set(brief) <= set(whole.splitlines())
    noted = replace(exported, note="this matters")
    monkeypatch.setattr("convnet_edge.exporting.export.export", lambda *_: noted)
    assert "warning: this matters" in screen("export")


def raced(ratio):
    """Return what a race gives in which the first model is so many times as fast."""
    interval = Interval(0.9 * ratio, 1.1 * ratio)

    def run(*_, names, **__):
        return (Race(*names, 1, 1, 0.01 / ratio, 0.01, ratio, interval, (ratio,) * 7),)

    return run


SLOW_RATIOS = [pytest.param(ratio, marks=pytest.mark.slow) for ratio in (0.5, 2.0)]


@pytest.mark.parametrize("ratio", [1.0, *SLOW_RATIOS])
def test_quantize_says_size_gate_and_speed(screen, on_few, exported, monkeypatch, ratio):
    monkeypatch.setattr("convnet_edge.runtime.measure.race.run", raced(ratio))
    lines = screen("quantize", exported.model_path, "--data", "sample", "--out", "x.int8.onnx")
    said = {
        0.5: f"deploy {exported.model_path.name}: ",
        1.0: "neither",
        2.0: "deploy x.int8.onnx: ",
    }
    starts = "\n".join(lines).index
    assert said[ratio] in "\n".join(lines)
    assert (starts("x.int8.onnx: 2") < starts(said[ratio].split()[0])) == (ratio >= 1)
    assert any(line.startswith("  [✓] accuracy gate: ") for line in lines)
    assert lines[-1] == f"next: convnet-edge bench {exported.model_path} x.int8.onnx"


@pytest.mark.slow
def test_bench_of_three_models_at_four_batch_sizes(screen, tiny_model, monkeypatch):
    monkeypatch.setattr(dataset, "find_test_set", lambda *_: tiny.image_set(400))
    for undrawn in ("commands.bench._draw", "reporting.report._figures"):
        monkeypatch.setattr(f"convnet_edge.{undrawn}", lambda *_: iter(()))
    monkeypatch.setattr("convnet_edge.runtime.measure.race.run", raced(1.0))
    others = [tiny_model.with_name(f"a-model-of-quite-a-long-name.{n}.onnx") for n in range(2)]
    for other in others:
        other.write_bytes(tiny_model.read_bytes())
    lines = screen("bench", tiny_model, *others, "--duration", "0.02", "--min-runs", "11")
    rows = [line.split() for line in lines[2:]]
    assert lines[1].split()[0] == "model"
    assert [row[1] for row in rows if row[0] == "tiny.onnx"] == ["1"]
    assert [row[0] for row in rows].count("256") == 3
    assert sum(row[0].rstrip(":") in ("VALID", "NOISY") for row in rows) == 3
    assert lines[-1] == "next: convnet-edge report"
    report = screen("report")
    assert report[0].startswith("3 results: ")
    assert "12 rows" not in report[-3]
    assert report[-1] == "wrote runs/report.html, .md"  # no model of these names lies in exported/


def test_data_says_what_a_folder_holds_and_what_will_hurt(screen, tmp_path):
    for index in range(48):
        place = tmp_path / "a folder of pictures" / f"class {index % 4}" / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(index).integers(0, 256, (12, 10, 3), np.uint8)
        Image.fromarray(noise).save(place)
    place.with_name("broken.png").write_bytes(b"")
    lines = screen("data", "a folder of pictures")
    assert lines[0].startswith("48 pictures of 4 classes: ")
    assert "left out (1):" in lines
    assert any(line.startswith("  class 3/broken.png: ") for line in lines)
    assert lines[-1] == "next: convnet-edge train --data 'a folder of pictures'"


def messy(folder):
    """Make a folder of all that can be wrong with pictures, of each more than a screen holds."""
    rng = np.random.default_rng(0)

    def save(values, part, number, name):
        label = f"class {number} of a name as long as people who name folders like them to be"
        place = folder / part / label / name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(place)
        return place

    for number in range(12):
        images = rng.integers(0, 256, (40 if number == 1 else 5, 8, 8), np.uint8)
        images = images.repeat(8, axis=1).repeat(8, axis=2)
        for index, image in enumerate(images):
            kept = save(image, "train", number, f"day {number % 2 * index % 2}/{index}.png")
        if number % 3:
            save(rng.integers(0, 256, (9, 7, 3), np.uint8), "test", number, "fine.png")
            save(images[0], "test", number, "the same.png")
            images[1, 0, 0] ^= 1
            save(images[1], "test", number, "nearly the same.png")
            kept.with_name("a broken picture of a long name.png").write_bytes(b"")


@pytest.mark.parametrize(("allow", "exit_code"), [("--recheck", 1), ("--allow-leaks", 0)])
def test_data_keeps_to_a_screen_whatever_is_wrong(
    screen, run, tmp_path, monkeypatch, allow, exit_code
):
    for name in ("contact_sheet", "pair_sheet"):
        monkeypatch.setattr(sheets, name, lambda path, *_, **__: Picture(path, drawn=True))
    messy(tmp_path / "messy")
    lines = screen("data", "messy", allow, exit_code=exit_code)
    for heading in ("left out (", "pixel-equal in ", "near-duplicates in ", "warnings ("):
        assert any(line.startswith(heading) and ", the first " in line for line in lines), heading
    assert any("no test picture, so scores 'not measured'" in line for line in lines)
    assert "(more with --verbose)" in lines
    whole = run("data", "messy", allow, "--verbose").output.splitlines()
    assert len(whole) > 2 * len(lines)
    assert "(more with --verbose)" not in whole


def test_chain_of_next_lines(screen, run, tiny_model, monkeypatch):
    inspected = run("inspect").stdout  # nobody types site-packages
    assert inspected.endswith("next: convnet-edge verify\n")
    assert screen("verify")[-1] == "next: convnet-edge quantize"
    monkeypatch.setattr(stats, "fewest_for_drop", lambda _: 10**9)  # it would be refused
    assert screen("verify")[-1] == "next: convnet-edge bench"
    own = Path("exported/mine.onnx")
    own.parent.mkdir(exist_ok=True)
    own.write_bytes(tiny_model.read_bytes())
    said = " ".join(run("predict", "--plot-out", "grid.png").stderr.split())
    assert f"no model is named, the shipped one is taken; your own: --model {own} " in said
    assert f"taken; your own: {own}" in run("inspect").stderr
    assert "taken" not in run("inspect", own).stderr
    assert "convnet-edge verify" in screen("inspect", tiny_model)[-1]
    assert screen("bundle", tiny_model)[-1] == "next: python3 tiny.pyz selftest"


def test_pictures_that_cannot_be_drawn_are_counted_and_named_if_asked(capsys):
    pictures = [Picture(Path(f"long/{n}.png"), drawn=False) for n in "ab"]
    for verbose, named in ((False, ""), (True, ": long/a.png, long/b.png")):
        terminal.Terminal(verbose=verbose).wrote((), pictures)
        said = "left out 2 pictures, matplotlib is not installed (pip install matplotlib)"
        assert capsys.readouterr().err == f"{said}{named}\n"


def test_letters_that_no_font_has_are_named_once(capsys):
    pictures = [
        Picture(Path("a.png"), drawn=True, boxes=letters) for letters in ("犬猫", "猫鸟", "")
    ]
    terminal.Terminal().wrote((), pictures)
    assert "no font here has 犬猫鸟: boxes in the pictures" in capsys.readouterr().err


def test_next_after_verify_is_what_this_machine_can_do(run, tiny_model, monkeypatch):
    monkeypatch.setattr("convnet_edge.commands.verify.find_spec", lambda _: None)
    assert run("verify", tiny_model).stdout.endswith(f"next: convnet-edge bench {tiny_model}\n")


@pytest.mark.parametrize(("name", "numbers"), [("", "float32"), (".int8", "int8")])
def test_verify_says_in_which_numbers_it_computed(run, name, numbers):
    said = run("verify", EXPORTED / f"fashion-mnist{name}.onnx", "--out", "v.json").stdout
    assert f"on cpu, {numbers}: 4 of 4 checks hold" in " ".join(said.split())


@pytest.mark.slow
def test_quickstart_is_one_screen(screen, on_few, monkeypatch):
    lines = screen("quickstart")
    assert lines[0] == "About two minutes on two cores."
    assert not any("runs/quickstart" in line for line in lines[:-4])
    assert [line[:3] for line in lines if line[1:2] == "/"] == [f"{n}/7" for n in range(1, 8)]
    assert lines[-1].startswith("next: convnet-edge train")


def test_failed_checks_are_shown_without_being_asked_for(capsys):
    terminal.Terminal().checks([Check("one", True, "fine"), Check("two", False, "broken")])
    assert capsys.readouterr().out == "[x] two: broken\n"


def test_colours_are_for_terminals_that_want_them(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    terminal.Terminal().say("[✓] one", "INVALID: two")
    assert capsys.readouterr().out == "\x1b[32m[✓]\x1b[0m one\n\x1b[31mINVALID\x1b[0m: two\n"
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.Terminal().say("[✓] one")
    assert capsys.readouterr().out == "[✓] one\n"


@pytest.mark.parametrize(
    ("line", "width", "folded"),
    [
        ("a bb ccc", 80, ["a bb ccc"]),
        ("  a bb ccc", 7, ["  a bb", "    ccc"]),
        ("longer-than-any-line", 7, ["longer-than-any-line"]),
        ("a bb ccc", None, ["a bb ccc"]),
    ],
)
def test_lines_are_folded_between_words(line, width, folded):
    assert terminal.fold(line, width) == folded
