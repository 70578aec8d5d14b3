"""The command line: every command's options from its dataclass, and one boundary for errors.

A command is two things: a frozen dataclass of options, declared in the stage's room, and a function
of it and a terminal, in its verb's file, whose docstring is the help. Heavy modules are imported
inside the functions, so that `--help` answers at once. All errors that are the user's to mend end
at `_boundary`; anything else keeps its traceback.
"""

import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from inspect import Parameter, Signature, cleandoc
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer._click.exceptions import ClickException, UsageError
from typer.core import TyperCommand, TyperGroup

from .. import __version__
from ..runtime.errors import INTERRUPTED, EdgeError, InputError, InterruptedRunError
from ..runtime.files import flush, open_streams, printing, visible
from ..runtime.options import Declared, declared, parse, require_values
from ..sealing.default_model import EXPORTED_DIR, choose_model, shipped_model
from ..training.launch import Launch, LostProcessError, read_launch
from . import (
    bench,
    bundle,
    data,
    doctor,
    export,
    inspect,
    predict,
    quantize,
    quickstart,
    report,
    train,
    verify,
)
from .terminal import Terminal

HOST_PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "safetensors", "jinja2")
PACKAGES = (*HOST_PACKAGES, "onnxruntime", "onnxruntime-gpu", "numpy", "pillow", "matplotlib",
            "typer")  # fmt: skip
NO_LIMIT = 10**9  # from which on the end of a range is none to a person
keyword = partial(Parameter, kind=Parameter.KEYWORD_ONLY)


@contextmanager
def _boundary() -> Iterator[None]:
    """Make of a known error one line on stderr and its exit code."""
    is_lost = False
    try:
        with printing():
            yield
        return
    except EdgeError as error:
        lines, exit_code = [*error.details, error.line], error.exit_code
        is_lost = isinstance(error, LostProcessError)
    except KeyboardInterrupt:
        lines, exit_code = [INTERRUPTED], InterruptedRunError.exit_code
    except BrokenPipeError:
        lines, exit_code = [], InputError.exit_code
    except ClickException as error:  # wrong usage: Typer shows it, with what was typed in it
        error.message = visible(error.message)
        known = error.ctx.command.params if isinstance(error, UsageError) and error.ctx else ()
        if "extra argument" in error.message and any(one.name == "data" for one in known):
            error.message += "; pictures are named by --data"
        raise
    except ImportError as error:
        # torch's library is `_C` to Python, in the folder torch
        where = {(error.name or "").partition(".")[0], Path(error.path or "").parent.name}
        package = next((name for name in HOST_PACKAGES if name in where), None)
        if package is None:
            raise
        absent = isinstance(error, ModuleNotFoundError)
        missing = InputError(
            f"{package} {'is not installed' if absent else f'cannot be loaded: {error}'}",
            expected="the host side of convnet-edge for this command",
            next_step=f"pip install {' '.join(HOST_PACKAGES)}"
            + ", or raise the limit on memory (ulimit -v)" * (not absent),
        )
        lines, exit_code = [missing.line], missing.exit_code
    try:
        here = read_launch()
    except InputError:  # which is no matter but to `train`, and said there
        here = Launch()
    # of the processes that torchrun started, one on each machine complains; it may be the lost one
    if lines and (here.rank == 0 or here.local_rank == 0 or is_lost):
        who = f"convnet-edge (process {here.rank})" if here.rank else "convnet-edge"
        with suppress(OSError):
            for line in (*lines[:-1], f"{who}: {lines[-1]}"):
                typer.echo(visible(line), err=True)
    raise typer.Exit(exit_code)


class _PlainHelp:
    """What commands and their group share: a help text without the type of a switch or a file."""

    def get_params(self, ctx: Any) -> list[Any]:
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for one in found:
            if one.param_type_name == "argument" or one.is_flag:
                one.display_type_rich = lambda **_: None
        return found


class _Command(_PlainHelp, TyperCommand):
    """A command."""


class _Group(_PlainHelp, TyperGroup):
    """All commands, behind the error boundary."""

    @_boundary()
    def make_context(self, info_name: str | None, args: list[str], *more: Any, **how: Any) -> Any:
        require_values(args)
        return super().make_context(info_name, args, *more, **how)

    @_boundary()
    def invoke(self, ctx: Any) -> Any:
        return super().invoke(ctx)


app = typer.Typer(
    name="convnet-edge",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Take an image classifier from PyTorch to an edge device, with proof at every step.\n\n"
    "[bold]train → export → verify → quantize → bench → report → bundle[/bold]: each works on the "
    "reference model without arguments, and ends with the next command to copy.",
    epilog="Exit codes: 0 done and proved · 1 a check failed · 2 wrong usage, or something "
    "missing or unreadable · 3 `compare` cannot tell · 130 interrupted.",
)


def main() -> None:
    """Run the command line; `convnet_edge.__main__` is where it starts."""
    open_streams()
    if not re.fullmatch("[1-9][0-9]{1,3}", os.environ.get("COLUMNS", "80")):
        del os.environ["COLUMNS"]  # Rich cannot reckon with it
    try:
        app(prog_name="convnet-edge")
    finally:
        with suppress(OSError):
            flush(sys.stderr)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print every version that matters.")
    ] = False,
) -> None:
    """Take options that hold for no single command."""
    if not version:
        return
    from ..runtime.measure import machine

    installed = machine.versions(PACKAGES)
    typer.echo(f"convnet-edge {__version__}\npython {sys.version.split()[0]}")
    for package in PACKAGES:
        typer.echo(f"{package} {installed.get(package, 'not installed')}")
    raise typer.Exit


def bridge(
    run: Callable[..., None], flags: Sequence[str] = ("json", "verbose")
) -> Callable[..., None]:
    """Return the function from whose signature Typer makes the command `run(options, terminal)`.

    flags: those of FLAGS that it takes; they decide how its terminal shows things.
    """
    options = get_type_hints(run).get("options")
    ones = declared(options) if options else ()
    parameters = [_parameter(one) for one in ones]
    for name in flags:
        flag = typer.Option(f"--{name}", help=FLAGS[name])
        parameters.append(keyword(name, annotation=Annotated[bool, flag], default=False))

    def command(**given: Any) -> None:
        terminal = Terminal(**{name: given.pop(name) for name in flags})
        for one in ones:
            if one.is_list and (given[one.name] is not None or not one.optional):
                given[one.name] = tuple(given[one.name] or ())
        try:
            chosen = [options(**given)] if options else []
            for one in ones:
                if one.name in ("model", "models") and not getattr(chosen[0], one.name):
                    _tell_shipped(one, terminal)
            run(*chosen, terminal)
        except EdgeError as error:
            if not terminal.finished:  # a program that reads the JSON learns of it, too
                terminal.finish({"error": error.line, "exit_code": error.exit_code})
            raise

    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    paragraphs = cleandoc(run.__doc__ or "").split("\n\n")
    command.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    return command


def _tell_shipped(one: Declared, terminal: Terminal) -> None:
    """Say that the shipped model is taken, where there are others that may be meant."""
    shipped = shipped_model()
    own = [path for path in EXPORTED_DIR.glob("*.onnx") if not path.match(f"{shipped.stem}*")]
    if own and choose_model(None) == shipped:
        named = " or ".join(map(str, sorted(own)[:3]))
        flag = "" if one.positional else f"{one.flag} "
        terminal.note(f"no model is named, the shipped one is taken; your own: {flag}{named}")


def _parameter(one: Declared) -> Parameter:
    """Return the parameter from which Typer makes the option or the argument."""
    kind, default = one.kind, one.default
    metavar = one.metavar or (one.flag if one.positional else None)
    shown: dict[str, Any] = {"help": _help(one), "metavar": metavar}
    if one.panel and not one.positional:
        shown["rich_help_panel"] = one.panel
    if one.units is not None or (one.is_list and not (one.positional or one.repeated)):
        kind, shown["parser"] = str, partial(parse, one)
        if default is not None:  # as a person would type it
            listed = default if one.is_list else (default,)
            default = one.default_text or ",".join(f"{number:g}" for number in listed)
    elif one.is_list:
        kind, default = list[one.kind], None  # type: ignore[name-defined]
    elif default is None and not one.optional:
        default = Parameter.empty  # must be given
    if default is None or default is False:
        shown["show_default"] = one.default_text or False
    is_switch = kind is bool and (one.optional or default)
    flag = f"{one.flag}/--no-{one.flag.removeprefix('--')}" if is_switch else one.flag
    about = typer.Argument(**shown) if one.positional else typer.Option(flag, **shown)
    return keyword(one.name, annotation=Annotated[kind, about], default=default)


def _help(one: Declared) -> str:
    """Return the help text of an option, with its range in words where that tells a person."""
    if one.kind not in (int, float) or one.units or one.is_list:
        return one.help
    known = one if one.high < NO_LIMIT else replace(one, high=math.inf)
    text = known.range_text
    return f"{one.help} {text[0].upper()}{text[1:]}." if text else one.help


PANELS: dict[str, dict[str, Callable[..., None]]] = {
    "Train": {"data": data.command, "train": train.command},
    "Prove": {
        "export": export.command,
        "quantize": quantize.command,
        "verify": verify.command,
        "inspect": inspect.command,
        "adopt": export.adopt,
    },
    "Measure": {"bench": bench.command, "compare": report.compare, "report": report.command},
    "Hand over": {"bundle": bundle.command, "serve": bundle.serve, "predict": predict.command},
    "Help": {"doctor": doctor.command, "quickstart": quickstart.command},
}
COMMANDS = {name: run for panel in PANELS.values() for name, run in panel.items()}
FLAGS = {
    "json": "Print the result as one JSON document on stdout.",
    "verbose": "Print every check and table, not the answer alone.",
}
TAKERS = {
    "json": {*COMMANDS} - {"serve", "quickstart"},
    "verbose": {"adopt", "data", "train", "export", "quantize", "bench", "report", "quickstart"},
}
for panel, runs in PANELS.items():
    for name, run in runs.items():
        flags = [flag for flag in FLAGS if name in TAKERS[flag]]
        app.command(name, cls=_Command, rich_help_panel=panel)(bridge(run, flags))
