"""`bundle` and `serve`: what is handed over, and a look at the page."""

from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from ..bundling.options import BundleOptions, ServeOptions
from .terminal import Terminal

if TYPE_CHECKING:
    from ..bundling.serve import PageServer

NEXT = {"pyz": "python3 {} selftest", "web": "convnet-edge serve {}"}
SCREEN_COLUMNS = 80
MAX_QR_LINES = 20  # of a screen's 25: the others are text
QUIET_MODULES = 2  # of light around it: cameras need no more


def command(options: BundleOptions, terminal: Terminal) -> None:
    """Make one file for a device: models, runtime and proof; Python, numpy, onnxruntime run it.

    There: python3 NAME.pyz selftest, predict IMAGE..., bench, info. Of several models the fastest
    that passes its self-test on the device is taken.

    Example: convnet-edge bundle exported/fashion-mnist.onnx exported/fashion-mnist.int8-ort.onnx
    --with-test-set; then on the device: python3 fashion-mnist.pyz selftest
    """
    from ..bundling.bundle import bundle
    from ..runtime.measure.tables import heading, shown

    made = bundle(options)
    names = ", ".join(made.checks)
    terminal.answer(
        f"{made.path.name}: {names}; {sum(map(len, made.checks.values()))} checks hold here"
    )
    for name, value in made.document.items():
        if name not in ("path", "manifest", "files"):
            terminal.say(f"{heading(name)}: {shown(name, value)}")
    if made.n_test_images:
        terminal.say(f"test pictures: {made.n_test_images:,}, for whoever gets this")
    terminal.wrote([Path(path) for path in made.document.get("files", [made.path])])
    words = NEXT.get(options.target, "").split()
    terminal.finish(made.document, *(word.format(made.path) for word in words))


def serve(options: ServeOptions, terminal: Terminal) -> None:
    """Show the page in browsers, with the headers that give it threads; Ctrl-C ends it.

    Only this computer can open it, unless --host says otherwise. Browsers give a page threads and
    offline use over HTTPS: --cert and --key, or an Android phone on its cable after `adb reverse
    tcp:8000 tcp:8000`.

    Example: convnet-edge serve fashion-mnist-web --host 0.0.0.0
    """
    from ..bundling.serve import serve

    serve(options, lambda server: _announce(server, terminal))


def _announce(server: PageServer, terminal: Terminal) -> None:
    """Say where the page can be opened; other devices get a picture of it to photograph."""
    first, *others = server.urls
    terminal.say(f"{first}   (Ctrl-C ends it)")
    if server.is_local:
        return
    if others:
        terminal.say(shorten(f"also {' '.join(others)}", SCREEN_COLUMNS, placeholder=" …"))
    if sys.stdout.isatty():
        terminal.draw(_qr_code(first))
    terminal.say("Every device in this network can open it.")
    if server.context is None:
        terminal.say(
            "Plain HTTP: one thread, no offline use, the file's SHA-256 is not checked.",
            "--cert and --key give it all of that.",
        )


def _qr_code(url: str) -> list[str]:
    """Return the lines of a QR code of `url`, none if they are too many for a screen.

    Light on dark: not every camera reads it inverted.
    """
    import segno

    text = StringIO()
    segno.make_qr(url, error="l").terminal(text, border=QUIET_MODULES, compact=True)
    lines = text.getvalue().splitlines()
    return lines if len(lines) <= MAX_QR_LINES else []
