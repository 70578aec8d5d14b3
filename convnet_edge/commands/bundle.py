"""`bundle` and `serve`: what is handed over, and a look at the page."""

from __future__ import annotations

from pathlib import Path

from ..bundling.options import BundleOptions, ServeOptions
from .terminal import Done, Terminal

EXAMPLES = (
    "Example: convnet-edge bundle exported/fashion-mnist.onnx "
    "exported/fashion-mnist.int8-ort.onnx --with-test-set; then on the device: "
    "python3 fashion-mnist.pyz selftest"
)
SERVE_EXAMPLES = "Example: convnet-edge serve fashion-mnist-web --port 8080"


def command(options: BundleOptions, terminal: Terminal) -> Done[Path]:
    """Make one file for a device: models, runtime and proof; Python, numpy, onnxruntime run it.

    There: python3 NAME.pyz selftest, predict IMAGE..., bench, info. Of several models the fastest
    that passes its self-test on the device is taken.
    """
    targets = {"pyz": _bundle_file, "web": _bundle_page, "testdata": _bundle_testdata}
    return targets[options.target](options, terminal)


def serve(options: ServeOptions, terminal: Terminal) -> Done[None]:
    """Show the page on this computer, with the headers that give it threads; Ctrl-C ends it.

    Only this computer can open it. An Android phone on its cable can after `adb reverse tcp:8000
    tcp:8000`; for others put the folder on any HTTPS host.
    """
    from ..bundling import serve as stage

    stage.serve(options, lambda url: terminal.say(f"{url}   (Ctrl-C ends it)"))
    return Done(None)


def _bundle_file(options: BundleOptions, terminal: Terminal) -> Done[Path]:
    from ..bundling import pyz

    made = pyz.bundle(options)
    for name, checks in made.checks.items():
        terminal.say(f"{name}: {len(checks)} checks hold here")
    terminal.say(f"{made.n_bytes:,} bytes, sha256 {made.sha256}")
    terminal.wrote((made.path,))
    document = {
        "path": str(made.path),
        "bundle_bytes": made.n_bytes,
        "bundle_sha256": made.sha256,
        "manifest": made.manifest,
    }
    return Done(made.path, document, f"python3 {made.path} selftest")


def _bundle_page(options: BundleOptions, terminal: Terminal) -> Done[Path]:
    from ..bundling import site

    made = site.lay_out(options)
    for name, held in made.checks.items():
        terminal.say(f"{name}: {len(held)} checks hold here")
    terminal.say(f"{made.n_files} files, {made.n_bytes / 1e6:.1f} MB, id {made.id}")
    terminal.wrote((made.path,))
    document = {
        "path": str(made.path),
        "n_files": made.n_files,
        "site_bytes": made.n_bytes,
        "id": made.id,
    }
    return Done(made.path, document, f"convnet-edge serve {made.path}")


def _bundle_testdata(options: BundleOptions, terminal: Terminal) -> Done[Path]:
    from ..bundling import testdata

    files = testdata.lay_out(options)
    terminal.wrote(files)
    return Done(files[0], {"files": [str(path) for path in files]})
