"""What the product says of its options: each is there, and is named as one would type it."""

import ast
import re
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

import convnet_edge
from convnet_edge.commands.app import COMMANDS
from convnet_edge.runtime.errors import FLAG, InputError
from convnet_edge.runtime.options import declared

PACKAGE = Path(convnet_edge.__file__).parent
STAGES = [kind for run in COMMANDS.values() if (kind := get_type_hints(run).get("options"))]
DECLARED = {one.flag: one for kind in STAGES for one in declared(kind) if not one.positional}
SWITCHES = {"--json", "--help", "--version", "--verbose"}
# programs with options of their own
OTHERS = re.compile(r"\b(?:pip|npm|torchrun|container)\b[^`;,]*")
RAISES_NOTHING = {"doctor.py"}  # what it prints is to be copied, and never becomes an error


def texts():
    """Yield (file, text) of every string of the package that may be shown; {} is what it holds."""
    for path in sorted(PACKAGE.rglob("*.py")):
        inner = set()  # parts of an f-string, which are walked after it
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                inner.update(node.values)
                parts = [getattr(part, "value", "{}") for part in node.values]
                yield path.name, "".join(part if isinstance(part, str) else "{}" for part in parts)
            elif isinstance(getattr(node, "value", None), str) and node not in inner:
                yield path.name, node.value


NAMING = sorted({(name, text) for name, text in texts() if re.search(r"(?<!\S)--[a-z]", text)})


def test_every_option_that_is_named_exists():
    assert len(NAMING) > 40
    for name, text in NAMING:
        for flag in re.findall(r"(?<![\w-])--[a-z-]*[a-z](?![\w-])", OTHERS.sub("", text)):
            known = flag in DECLARED or flag.replace("--no-", "--") in DECLARED
            assert known or flag in SWITCHES, f"{name}: {flag} in {text!r}"


def test_what_other_programs_are_told_stands_between_backticks():
    for name, text in NAMING:
        if name not in RAISES_NOTHING and "\n" not in text:  # nor is a docstring shown so
            assert "--" not in "".join(OTHERS.findall(re.sub("`[^`]*`", "", text))), (name, text)


def may_hold(one, word):
    """Whether `word` can be the value of an option that is declared so."""
    if one.kind is bool:
        return False
    if get_origin(one.kind) is Literal:
        return word.rstrip(":;,.") in get_args(one.kind)
    return one.kind not in (int, float) or not word.isalpha() or word.isupper()


def test_an_option_s_value_is_told_from_the_words_that_follow():
    n_values = 0
    for name, text in NAMING:
        for found in FLAG.finditer(text):
            one = DECLARED.get(found["flag"])
            if found["value"] and one is not None:
                word = re.match(r"\S*", text[found.end() :])[0]
                assert may_hold(one, word), f"{name}: {found[0]}{word} in {text!r}"
                n_values += 1
    assert n_values > 8


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("pass --provider cpu", "pass provider=cpu"),
        ("--epochs '3'", "epochs='3'"),
        ("leave --threads out", "leave threads out"),
        ("more --pairs", "more n_pairs"),
        ("--duration 3, --out a/b.json", "duration_s=3, out=a/b.json"),
        ("--cert without --key", "cert without key"),
        ("--cuda-graph with --provider cpu", "cuda_graph with provider=cpu"),
        ("see `convnet-edge bench --profile`", "see `convnet-edge bench --profile`"),
        ("my--file.onnx and a/--b.onnx", "my--file.onnx and a/--b.onnx"),
    ],
)
def test_error_names_the_argument_in_python_and_the_option_on_the_command_line(written, said):
    error = InputError(written, expected=written, next_step=written)
    assert str(error) == f"{said}; expected {said}; next: {said}"
    assert error.line == f"{written}; expected {written}; next: {written}"
