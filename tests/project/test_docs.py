"""README and docs: what they show is run where it can be, and every command in them exists."""

import re
import shlex
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from environments import run
from pages import REPOSITORY, blocks, fences, lay_out, lines, run_line

from convnet_edge import __version__
from convnet_edge.runtime import __main__ as device
from convnet_edge.runtime.archive import Archive

DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"
JOIN = REPOSITORY / "CONTRIBUTING.md"
TUTORIALS = [DOCS / "tutorial.md", DOCS / "own-pictures.md", DOCS / "own-networks.md"]
GUIDES = [README, *TUTORIALS, *sorted((DOCS / "how-to").glob("*.md"))]
NOT_TYPED = ("python", "text")  # code has its own test; text is what a command printed


def name(page):
    return str(page.relative_to(REPOSITORY))


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

    program, *arguments = shlex.split(line.partition(" > ")[0])  # to a file: the shell's
    if program != "convnet-edge":
        bundle = Archive(Path(arguments[0]), {}, {"models": []})
        device._parser(bundle).parse_args(arguments[1:])
        return
    group = get_command(app)
    context = group.make_context(program, list(arguments))
    if not arguments[0].startswith("-"):
        command_name, command, rest = group.resolve_command(context, arguments)
        command.make_context(command_name, rest, parent=context)


@pytest.mark.parametrize(("page", "line"), typed(), ids=str)
def test_command_in_a_guide_parses(page, line):
    parse(line)


@pytest.mark.parametrize("line", ["convnet-edge bench --nonsense", "python3 x.pyz nonsense"])
def test_wrong_command_does_not_parse(line):
    with pytest.raises((Exception, SystemExit), match=r"nonsense|^2$"):
        parse(line)


def test_every_page_is_in_its_index_and_every_guide_names_commands():
    tutorial, index = ((DOCS / name).read_text() for name in ("tutorial.md", "README.md"))
    pages = {page for page, _ in typed()}
    for page in GUIDES:
        assert name(page) in pages, page
        assert page.parent.name != "how-to" or f"(how-to/{page.name})" in tutorial, page
    for page in DOCS.rglob("*.md"):
        inside = page.relative_to(DOCS).as_posix()
        assert inside == "README.md" or f"]({inside})" in index, inside


def test_readme_is_short_and_links_lead_somewhere():
    assert len(README.read_text().splitlines()) <= 150
    for page in (*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_make_targets_of_the_readme_exist():
    texts = "\n".join(page.read_text() for page in (README, JOIN))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", texts, re.MULTILINE))
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert {"quickstart", "test"} <= named <= {*targets}


def test_who_joins_finds_every_room_and_who_cites_the_version():
    rooms = {path.parent.name for path in REPOSITORY.glob("convnet_edge/*/__init__.py")}
    assert rooms - set(re.findall(r"(\w+)/`", JOIN.read_text())) == set()
    citation = (REPOSITORY / "CITATION.cff").read_text()
    assert f"\nversion: {__version__}\n" in citation
    assert "http" not in citation + JOIN.read_text() + (REPOSITORY / "SECURITY.md").read_text()


def test_python_of_the_readme_runs_and_knows_a_boot(tmp_path, test_set):
    lay_out(tmp_path, test_set)
    (code,) = blocks(README.read_text(), "python")
    assert len([line for line in code.splitlines() if line]) <= 5
    assert run(sys.executable, "-c", code, cwd=tmp_path).startswith("['Ankle Boot']")


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_sh_and_python_of_a_guide_run_in_order(page, tmp_path, test_set):
    lay_out(tmp_path, test_set)
    for language, content in fences(page.read_text()):
        if language == "sh":
            for line in lines(content):
                if not line.startswith("make "):
                    run_line(line, tmp_path)
        elif language == "python":
            run(sys.executable, "-c", content, cwd=tmp_path)


def test_recording_shows_what_quickstart_does_today():
    source = (REPOSITORY / "convnet_edge" / "commands" / "quickstart.py").read_text()
    stages = re.findall(r'^ +\("([a-z][^"]+)", \w+, ', source, re.MULTILINE)
    assert len(stages) == 7
    picture = ElementTree.parse(DOCS / "quickstart.svg")
    shown = [
        "".join(row.itertext()).replace("\N{NO-BREAK SPACE}", " ")
        for row in picture.iter("{http://www.w3.org/2000/svg}text")
    ]
    wanted = [f"{number}/{len(stages)} {what}" for number, what in enumerate(stages, start=1)]
    assert [row for row in shown if row in wanted] == wanted
    assert "$ convnet-edge quickstart" in shown
