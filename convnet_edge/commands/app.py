"""The command line: every command's options from its dataclass, and one boundary for errors.

A command is two things, each in its verb's file: a frozen dataclass of options, declared in the
stage's room, and a function of it and a terminal. Heavy modules are imported inside the functions,
so that `--help` answers at once. All errors that are the user's to mend end at `_Group.invoke`;
anything else keeps its traceback.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from inspect import Parameter, Signature, cleandoc
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..bundling.options import BundleOptions, ServeOptions
from ..exporting.options import ExportOptions, VerifyOptions
from ..predicting.options import PredictOptions
from ..quantizing.options import QuantizeOptions
from ..reporting.options import CompareOptions, ReportOptions
from ..runtime.errors import EdgeError, InputError
from ..runtime.files import print_any_letter
from ..runtime.measure.options import BenchOptions
from ..runtime.options import Declared, declared, parse
from ..training.options import TrainOptions
from . import (
    bench,
    bundle,
    compare,
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
from .terminal import Done, Terminal, rank

PACKAGES = (
    "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu",
    "safetensors", "numpy", "pillow", "matplotlib", "typer",
)  # fmt: skip
HOST_PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "safetensors", "jinja2")


class _Group(TyperGroup):
    """The error boundary: a known error becomes one line on stderr and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeError as error:
            _complain(str(error), error.details)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            _complain("interrupted")
            raise typer.Exit(130) from error
        except ModuleNotFoundError as error:
            if error.name not in HOST_PACKAGES:
                raise
            missing = InputError(
                f"{error.name} is not installed",
                expected="the host side of convnet-edge for this command",
                next_step='pip install "convnet-edge[train,cpu]"',
            )
            _complain(str(missing))
            raise typer.Exit(missing.exit_code) from error


def _complain(text: str, details: tuple[str, ...] = ()) -> None:
    """Print an error; of the processes that torchrun started, one on each machine does."""
    if rank() == 0 or os.environ.get("LOCAL_RANK") == "0":
        who = f"convnet-edge (process {rank()})" if rank() else "convnet-edge"
        for line in (*details, f"{who}: {text}"):
            typer.echo(line, err=True)


app = typer.Typer(
    name="convnet-edge",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Take an image classifier from PyTorch to an edge device, with proof at every step.\n\n"
    "[bold]train → export → verify → quantize → bench → report → bundle[/bold]; each works "
    "without arguments, each ends with the next command to copy.",
    epilog="Exit codes: 0 done and proved · 1 a check failed · 2 wrong usage, or something "
    "missing or unreadable · 3 `compare` cannot tell · 130 interrupted.",
)


def main() -> None:
    """Run the command line (entry point of `convnet-edge` and of cli.py)."""
    print_any_letter()
    app(prog_name="convnet-edge")


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib import metadata

    typer.echo(f"convnet-edge {__version__}\npython {sys.version.split()[0]}")
    for package in PACKAGES:
        try:
            typer.echo(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            typer.echo(f"{package} not installed")
    raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print every version that matters.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Take options that hold for no single command."""


def bridge(
    run: Callable[..., Done[Any]], options: type | None = None, *, json: bool = True
) -> Callable[..., None]:
    """Return the function from whose signature Typer makes the command `run(options, terminal)`."""
    ones = declared(options) if options else ()
    parameters = [_parameter(one) for one in ones]
    if json:
        flag = typer.Option("--json", help="Print the result as one JSON document on stdout.")
        parameters.append(_keyword("json", Annotated[bool, flag], default=False))

    def command(**given: Any) -> None:
        terminal = Terminal(json=given.pop("json", False))
        values = {one.name: _value(one, given[one.name]) for one in ones}
        terminal.finish(run(*([options(**values)] if options else []), terminal))

    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    paragraphs = cleandoc(run.__doc__ or "").split("\n\n")
    command.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    return command


def _keyword(name: str, annotation: Any, *, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _parameter(one: Declared) -> Parameter:
    """Return the parameter from which Typer makes the option or the argument."""
    default = one.default
    kind = one.kind | None if one.optional else one.kind
    if _is_text(one):
        kind, default = str if default is not None else str | None, _text(one)
    elif one.is_list:
        kind, default = list[one.item] | None, None  # type: ignore[name-defined]
    elif default is None and not one.optional:
        default = Parameter.empty  # must be given
    metavar = one.metavar or (one.flag if one.positional else None)
    shown: dict[str, Any] = {"help": one.help, "metavar": metavar}
    if default is None or default is False:
        shown["show_default"] = one.default_text or False
    if one.positional:
        return _keyword(one.name, Annotated[kind, typer.Argument(**shown)], default=default)
    option = typer.Option(_flags(one), **shown, **_range(one))
    return _keyword(one.name, Annotated[kind, option], default=default)


def _is_text(one: Declared) -> bool:
    """Return whether `runtime.options.parse` makes the value of what is typed."""
    return one.units is not None or (one.is_list and not one.positional)


def _text(one: Declared) -> str | None:
    """Return what a person would type for the default of an option that is parsed."""
    if one.default is None:
        return None
    listed = one.default if one.is_list else (one.default,)
    return one.default_text or ",".join(f"{number:g}" for number in listed)


def _flags(one: Declared) -> str:
    is_switch = one.kind is bool and (one.optional or one.default)
    return f"{one.flag}/--no-{one.flag.removeprefix('--')}" if is_switch else one.flag


def _range(one: Declared) -> dict[str, Any]:
    """Return the ends of the range that Typer checks and shows; `check` knows the others."""
    if one.kind not in (int, float) or _is_text(one):
        return {}
    ends = {"min": one.low, "max": one.high}
    return {
        name: int(end) if end % 1 == 0 else end for name, end in ends.items() if math.isfinite(end)
    }


def _value(one: Declared, given: Any) -> Any:
    """Return what the dataclass takes for what Typer gives."""
    if given is not None and _is_text(one):
        return parse(one, given)
    return tuple(given or ()) if one.is_list else given


for name, function, options, examples in (
    ("train", train.command, TrainOptions, train.EXAMPLES),
    ("export", export.command, ExportOptions, export.EXAMPLES),
    ("quantize", quantize.command, QuantizeOptions, quantize.EXAMPLES),
    ("verify", verify.command, VerifyOptions, verify.EXAMPLES),
    ("inspect", inspect.command, inspect.InspectOptions, None),
    ("bench", bench.command, BenchOptions, bench.EXAMPLES),
    ("compare", compare.command, CompareOptions, compare.EXAMPLES),
    ("report", report.command, ReportOptions, report.EXAMPLES),
    ("bundle", bundle.command, BundleOptions, bundle.EXAMPLES),
    ("serve", bundle.serve, ServeOptions, bundle.SERVE_EXAMPLES),
    ("predict", predict.command, PredictOptions, predict.EXAMPLES),
    ("doctor", doctor.command, None, None),
    ("quickstart", quickstart.command, None, None),
):
    has_json = name not in ("serve", "quickstart")
    app.command(name, epilog=examples)(bridge(function, options, json=has_json))
