"""`bundle` and `serve`: what is handed over, and a look at the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundling.options import BundleOptions, ServeOptions
from .terminal import Done, Terminal

if TYPE_CHECKING:
    from ..bundling.pyz import Bundle
    from ..bundling.site import Site


def command(options: BundleOptions, terminal: Terminal) -> Done:
    """Make one file for a device: models, runtime and proof; Python, numpy, onnxruntime run it.

    There: python3 NAME.pyz selftest, predict IMAGE..., bench, info. Of several models the fastest
    that passes its self-test on the device is taken.

    Example: convnet-edge bundle exported/fashion-mnist.onnx exported/fashion-mnist.int8-ort.onnx
    --with-test-set; then on the device: python3 fashion-mnist.pyz selftest
    """
    from ..bundling.pyz import Bundle

    made = bundle(options)
    if isinstance(made, tuple):
        terminal.wrote(made)
        return Done({"files": [str(path) for path in made]})
    terminal.say(
        *(f"{name}: {len(checks)} checks hold here" for name, checks in made.checks.items())
    )
    document: dict[str, Any] = {"path": str(made.path)}
    if isinstance(made, Bundle):
        terminal.say(f"{made.n_bytes:,} bytes, sha256 {made.sha256}")
        sizes = {"bundle_bytes": made.n_bytes, "bundle_sha256": made.sha256}
        document |= {**sizes, "manifest": made.manifest}
        next_command = f"python3 {made.path} selftest"
    else:
        terminal.say(f"{made.n_files} files, {made.n_bytes / 1e6:.1f} MB, id {made.id}")
        document |= {"n_files": made.n_files, "site_bytes": made.n_bytes, "id": made.id}
        next_command = f"convnet-edge serve {made.path}"
    terminal.wrote((made.path,))
    return Done(document, next_command)


def bundle(options: BundleOptions) -> Bundle | Site | tuple[Path, ...]:
    """Write the .pyz, the page's folder or the test data's files that `options.target` asks for.

    Raises:
        InputError: a model is unreadable, does not fit the others, or nothing can be written.
        CheckFailedError: a model does not pass its self-test here.
    """
    from ..bundling import pyz, site, testdata

    if options.target == "testdata":
        return testdata.lay_out(options)
    return site.lay_out(options) if options.target == "web" else pyz.bundle(options)


def serve(options: ServeOptions, terminal: Terminal) -> Done:
    """Show the page on this computer, with the headers that give it threads; Ctrl-C ends it.

    Only this computer can open it. An Android phone on its cable can after `adb reverse tcp:8000
    tcp:8000`; for others put the folder on any HTTPS host.

    Example: convnet-edge serve fashion-mnist-web --port 8080
    """
    from ..bundling.serve import serve

    serve(options, lambda url: terminal.say(f"{url}   (Ctrl-C ends it)"))
    return Done()
