"""Write the tables of docs/reference that follow from the code: run this file.

A test fails when the pages and the code differ. What the tables say is declared in
`runtime/measure/result.py`, in each room's `options.py` and in `runtime/errors.py`.
"""

from __future__ import annotations

import ast
import inspect
import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import convnet_edge as ce
from convnet_edge.commands.app import COMMANDS
from convnet_edge.runtime import errors
from convnet_edge.runtime.measure.result import Result, Setting
from convnet_edge.runtime.model_file import open_model
from convnet_edge.runtime.options import Declared, declared
from convnet_edge.sealing.default_model import shipped_model

FOLDER = Path(__file__).resolve().parent
PACKAGE = FOLDER.parents[1] / "convnet_edge"
MARKED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}


def keys(kind: Any = Result, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (key, type, meaning) of each field; `[]` is each item of a list, `.*` each name."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        assert get_origin(hint) is Annotated, f"{kind.__name__}.{name} says not what it means"
        inner, meaning = get_args(hint)
        key = f"{prefix}{name}"
        yield key, type_text(inner), meaning
        for found in _members(inner):
            items = get_origin(found) is tuple
            item = get_args(found)[0] if items else found
            if is_dataclass(item):
                yield from keys(item, f"{key}{'[]' * items}.")


def type_text(kind: Any) -> str:
    """Return the words for a type."""
    if kind == Setting:
        return "any plain value"
    origin, members = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if one is type(None) else type_text(one) for one in members)
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in members)
    if origin is dict:
        return f"{type_text(members[1])} by name"
    if origin is tuple and members[-1] is not Ellipsis:
        return f"[{', '.join(map(type_text, members))}]"
    if origin in (list, tuple):
        return f"list of {type_text(members[0])}"
    return "object" if is_dataclass(kind) else NAMES[kind]


def _members(kind: Any) -> Sequence[Any]:
    is_union = get_origin(kind) in (Union, types.UnionType)
    return [one for one in get_args(kind) if one is not type(None)] if is_union else [kind]


def result() -> str:
    """Return the table of a result's keys."""
    return table(("key", "type", "meaning"), [(f"`{key}`", *rest) for key, *rest in keys()])


def commands() -> dict[str, type]:
    """Return the dataclass of each command's options, of those that have some."""
    kinds = {name: get_type_hints(run).get("options") for name, run in sorted(COMMANDS.items())}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def options() -> str:
    """Return a section with a table for each command."""
    columns = ("option", "value", "default", "meaning")
    return "\n\n".join(
        f"## {command}\n\n{table(columns, [_option(one) for one in declared(kind)])}"
        for command, kind in commands().items()
    )


def _option(one: Declared) -> tuple[str, str, str, str]:
    value = type_text(one.kind) + ", several" * one.is_list
    limits = one.range_text
    default = one.default if isinstance(one.default, tuple) else (one.default,)
    texts = [f"{v:g}" if isinstance(v, float) else "yes" if v is True else "no" if v is False
             else str(v) for v in default if v is not None]  # fmt: skip
    shown = one.default_text or (f"`{','.join(texts)}`" if texts else "")
    shown = shown or ("none" if one.optional or one.is_list else "needed")
    return f"`{one.flag}`", value + f" {limits}" * bool(limits), shown, one.help


def steps() -> str:
    """Return how the shipped model's pictures are prepared."""
    listed = open_model(shipped_model()).contract.preprocessing.steps
    return "\n".join(f"{number}. {step}" for number, step in enumerate(listed, 1))


def exits() -> str:
    """Return the table of exit codes."""
    kinds = sorted(errors.EdgeError.__subclasses__(), key=lambda kind: kind.exit_code)
    rows = [(str(kind.exit_code), " ".join((kind.__doc__ or "").split())) for kind in kinds]
    return table(("code", "meaning"), [("0", "Done, and proved."), *rows])


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |"
                     for line in lines)  # fmt: skip


def functions() -> str:
    """Return a section for each function of the package: its signature and its docstring."""
    found = [name for name in dir(ce) if inspect.isfunction(getattr(ce, name)) and name[0] != "_"]
    return "\n\n".join(f"### {name}\n\n{_callable(_source(getattr(ce, name)))}" for name in found)


def classes() -> str:
    """Return a section for each result, and for what a device uses: fields and methods."""
    kinds = (kind for kind in _kinds() if not issubclass(kind, errors.EdgeError))
    return "\n\n".join(f"### {kind.__name__}\n\n{_class(_source(kind))}" for kind in kinds)


def raised() -> str:
    """Return the table of errors."""
    rows = [(f"`{kind.__name__}`", f"`{kind.__base__.__name__}`", str(kind.exit_code),
             _paragraphs(_source(kind))[0])
            for kind in _kinds() if issubclass(kind, errors.EdgeError)]  # fmt: skip
    return table(("error", "is a", "exit code", "meaning"), rows)


def _kinds() -> Iterator[Any]:
    found = (getattr(ce, name) for name in dir(ce) if not name.endswith("Options"))
    return filter(inspect.isclass, found)


def _source(what: Any) -> Any:
    return ast.parse(inspect.getsource(what)).body[0]


def _class(node: Any) -> str:
    fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
    rows = [[f"`{ast.unparse(part)}`" for part in (one.target, one.annotation)] for one in fields]
    methods = [one for one in node.body if isinstance(one, ast.FunctionDef)]
    shown = [one for one in methods if one.name[0] != "_" or one.name in ("__init__", "__call__")]
    parts = [*_paragraphs(node), *([table(("field", "type"), rows)] if rows else [])]
    return "\n\n".join([*parts, *map(_callable, shown)])


def _callable(node: Any) -> str:
    for defaults in (node.args.defaults, node.args.kw_defaults):  # a listener that hears nothing
        defaults[:] = [
            ast.Constant(...) if isinstance(one, ast.Lambda) else one for one in defaults
        ]
    if any("property" in ast.unparse(one) for one in node.decorator_list):
        signature = f"{node.name}: {ast.unparse(node.returns)}"
    else:
        signature = f"{node.name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns)}"
    return "\n\n".join([f"```python\n{signature}\n```", *_paragraphs(node)])


def _paragraphs(node: Any) -> list[str]:
    """Return the paragraphs of a docstring; of what it raises, a list."""
    found = []
    for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
        if paragraph.startswith("Raises:"):
            items = re.split(r"\n {4}(?=\w+:)", paragraph)[1:]
            found.append("\n".join(f"- raises `{' '.join(item.split()).replace(':', '`:', 1)}"
                                   for item in items))  # fmt: skip
        elif paragraph:
            found.append(" ".join(paragraph.split()))
    return found


def fill(page: str) -> str:
    """Return `page` with the generated parts as they follow from the code."""
    parts = {"result": result, "options": options, "steps": steps, "exits": exits,
             "functions": functions, "classes": classes, "raised": raised}  # fmt: skip
    return MARKED.sub(lambda found: f"{found[1]}{parts[found[2]]()}\n{found[3]}", page)


if __name__ == "__main__":
    for path in FOLDER.glob("*.md"):
        path.write_text(fill(path.read_text()))
