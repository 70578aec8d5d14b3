"""The docs: what they show is run where it can be, and every command in them exists."""

import re
import shlex

import pytest
from pages import REPOSITORY, fences, lay_out, lines, run_line, run_python

from convnet_edge.runtime import __main__ as device

DOCS = REPOSITORY / "docs"
GUIDES = [DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md"))]
NOT_TYPED = ("python", "text")  # code has its own test; text is what a command printed


def name(page):
    return str(page.relative_to(DOCS))


def typed():
    """Return (page, line) of each command of this program in the guides, in fences and in text."""
    found = []
    for page in GUIDES:
        text = page.read_text()
        for language, content in fences(text):
            if language not in NOT_TYPED:
                found += [(name(page), line) for line in lines(content)]
        inline = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.M))
        found += [(name(page), " ".join(code.split())) for code in inline]
    return [(page, line) for page, line in dict.fromkeys(found) if is_ours(line)]


def is_ours(line):
    program, *rest = line.split()
    bundle = program in ("python", "python3", "py") and bool(rest) and rest[0].endswith(".pyz")
    return bundle or (program == "convnet-edge" and bool(rest))


def parse(line):
    """Parse a command line as the program would; raise what it would, run nothing."""
    from typer.main import get_command

    from convnet_edge.commands.app import app

    program, *arguments = shlex.split(line)
    if program != "convnet-edge":
        device._parser(arguments[0]).parse_args(arguments[1:])
        return
    group = get_command(app)
    context = group.make_context(program, list(arguments))
    if not arguments[0].startswith("-"):
        command_name, command, rest = group.resolve_command(context, arguments)
        command.make_context(command_name, rest, parent=context)


@pytest.mark.parametrize(("page", "line"), typed(), ids=str)
def test_command_in_a_guide_parses(page, line):
    parse(line)


@pytest.mark.parametrize(
    "line",
    [
        "convnet-edge nonsense",
        "convnet-edge bench --nonsense",
        "convnet-edge bundle --target nonsense",
        "python3 fashion-mnist.pyz nonsense",
        "python3 fashion-mnist.pyz bench --nonsense",
    ],
)
def test_wrong_command_does_not_parse(line):
    with pytest.raises((Exception, SystemExit), match=r"nonsense|2"):
        parse(line)


def test_every_guide_is_linked_and_names_commands():
    tutorial = (DOCS / "tutorial.md").read_text()
    pages = {page for page, _ in typed()}
    for page in GUIDES[1:]:
        assert f"(how-to/{page.name})" in tutorial, page.name
        assert name(page) in pages, page.name
    assert "tutorial.md" in pages


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_sh_and_python_of_a_guide_run_in_order(page, tmp_path, test_set):
    lay_out(tmp_path, test_set)
    for language, content in fences(page.read_text()):
        if language == "sh":
            for line in lines(content):
                run_line(line, tmp_path)
        elif language == "python":
            run_python(["-c", content], tmp_path, content)
