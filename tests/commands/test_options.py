"""Options stand in one place: what is declared is what the command line takes and shows."""
# ruff: noqa: RUF009 - `option` returns a field

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from convnet_edge import CompareOptions
from convnet_edge.commands.app import COMMANDS, PANELS, app, bridge
from convnet_edge.runtime.errors import InputError
from convnet_edge.runtime.options import SHARE, TIME, Options, declared, option

STAGES = {name: get_type_hints(command).get("options") for name, command in COMMANDS.items()}


@dataclass(frozen=True)
class Every(Options):
    """One option of each kind."""

    base: Path = option(None, "A file.", positional=True)
    others: tuple[Path, ...] = option((), "More.", positional=True, metavar="FILE")
    n_pairs: int = option(11, "Pairs.", low=6, high=1000, flag="--pairs")
    threads: int | None = option(None, "Threads.", low=1, default_text="all of them")
    rate: float = option(0.5, "A rate.", above=0, high=1)
    sizes: tuple[int, ...] = option((1, 8), "Sizes.", low=1)
    crop: tuple[int, ...] | None = option(None, "Crop.", low=1, default_text="the whole")
    slowdown: float = option(0.05, "Of time.", units=SHARE, default_text="5%", metavar="SHARE")
    sustain_s: float | None = option(None, "How long.", units=TIME, flag="--sustain")
    layout: Literal["portable", "ort-cpu"] = option("portable", "Layout.")
    quick: bool = option(False, "Fast.")
    spin: bool = option(True, "Busy.")
    invert: bool | None = option(None, "Negative.", default_text="the border decides")
    out: Path | None = option(None, "Where to.", suffixes=(".onnx",))


def call(options, *arguments):
    """Return the options that a command gets, and what the program printed."""
    got, app = [], typer.Typer()

    def command(options: options, terminal):
        """Do it."""
        got.append((options, terminal.json))

    app.command()(bridge(command))
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "120"})
    return (*got, result)


@pytest.mark.parametrize("name", sorted({*STAGES} - {"adopt", "compare", "doctor", "quickstart"}))
def test_a_command_without_arguments_means_the_defaults(name):
    assert call(STAGES[name])[0] == (STAGES[name](), False)


def test_compare_without_arguments_lacks_its_models():
    assert call(CompareOptions)[-1].exit_code == 2
    (got, _), _ = call(CompareOptions, "a.onnx", "b.onnx")
    assert got == CompareOptions(Path("a.onnx"), Path("b.onnx"))


def test_each_kind_of_option_arrives_as_its_type():
    (got, as_json), _ = call(
        Every, "a", "b", "c", "--pairs", "7", "--threads", "3", "--rate", "1", "--sizes", "4,5",
        "--crop", "6", "--slowdown", "2%", "--sustain", "10m", "--layout", "ort-cpu", "--quick",
        "--no-spin", "--no-invert", "--out", "x.onnx", "--json",
    )  # fmt: skip
    assert as_json
    assert got == Every(
        Path("a"), (Path("b"), Path("c")), 7, 3, 1.0, (4, 5), (6,), 0.02, 600.0, "ort-cpu", True,
        False, False, Path("x.onnx"),
    )  # fmt: skip


@pytest.mark.parametrize(
    "typed",
    [
        "--pairs 5", "--pairs many", "--threads 0", "--rate 0", "--rate nan", "--sizes 0",
        "--sizes ", "--sizes 1,b", "--slowdown slow", "--sustain parsecs", "--layout round",
        "--out x.pt",
    ],
)  # fmt: skip
def test_a_value_outside_its_declaration_is_refused(typed):
    flag, value = typed.split(" ")
    *got, result = call(Every, "a", flag, value)
    assert not got
    assert result.exit_code == 2 or isinstance(result.exception, InputError)
    assert flag in result.output + getattr(result.exception, "line", "")


def test_help_shows_what_is_declared():
    text = call(Every, "--help")[-1].output
    for part in (
        "Do it.", "BASE", "[FILE]...", "From 6 to 1,000.", "(all of them)", "[default: 1,8]",
        "[default: 5%]", "SHARE", "portable|ort-cpu", "--no-spin", "--no-invert",
        "(the border decides)", "Above 0 and at most 1.", "From 1.",
    ):  # fmt: skip
        assert part in text, part
    assert "--no-quick" not in text
    assert "<=" not in text
    assert "9,223" not in CliRunner().invoke(app, ["train", "--help"]).output


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_has_no_noise_of_types_and_puts_what_is_alike_together(name):
    text = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "120"}).output
    assert not re.search(r"<(bool|int|float|str|path|list)\b", text)
    panels = re.findall(r"╭─ ([\w ]+) ─", text)
    if not name:
        assert panels == ["Options", *PANELS]
        assert sorted(re.findall(r"^│ (\w+) ", text, re.MULTILINE)) == sorted(COMMANDS)
    elif STAGES[name] and {"out", "plot_out"} & {one.name for one in declared(STAGES[name])}:
        assert "Output" in panels
        assert re.search(r"Output ─(.*\n)+?│ --(plot-)?out ", text)
