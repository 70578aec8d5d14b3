"""`bundle` and `serve`: what is handed over, and a look at the page."""

from pathlib import Path

from ..bundling.options import BundleOptions, ServeOptions
from .terminal import Terminal

NEXT = {"pyz": "python3 {} selftest", "web": "convnet-edge serve {}"}


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
    terminal.answer(f"{made.path}: {names}; {sum(map(len, made.checks.values()))} checks hold here")
    for name, value in made.document.items():
        if name not in ("path", "manifest", "files"):
            terminal.say(f"{heading(name)}: {shown(name, value)}")
    terminal.wrote([Path(path) for path in made.document.get("files", [made.path])])
    terminal.finish(made.document, NEXT.get(options.target, "").format(made.path))


def serve(options: ServeOptions, terminal: Terminal) -> None:
    """Show the page on this computer, with the headers that give it threads; Ctrl-C ends it.

    Only this computer can open it. An Android phone on its cable can after `adb reverse tcp:8000
    tcp:8000`; for others put the folder on any HTTPS host.

    Example: convnet-edge serve fashion-mnist-web --port 8080
    """
    from ..bundling.serve import serve

    serve(options, lambda url: terminal.say(f"{url}   (Ctrl-C ends it)"))
