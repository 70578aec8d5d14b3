"""Show a page that `bundle --target web` made, on this computer alone.

Sends the headers that give the page threads; any static HTTPS host can take its place.
"""

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ..runtime.errors import InputError
from .options import ServeOptions
from .site import HEADERS, REMAKE, SITE, WORKER, read_site

ADDRESS = "127.0.0.1"

CONTENT_TYPES = {  # browsers run nothing of another type, whatever this computer's tables say
    **SimpleHTTPRequestHandler.extensions_map,
    **dict.fromkeys((".js", ".mjs"), "text/javascript"),
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}


class PageServer(ThreadingHTTPServer):
    """Serves the files that a page's site.json lists, and nothing else."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        self.names = {*read_site(folder), SITE, WORKER, "."}
        try:
            super().__init__((ADDRESS, port), partial(_Handler, directory=folder))
        except OSError as error:
            raise InputError(
                f"port {port} cannot be used: {error.strerror}",
                expected="a free port",
                next_step="let one be chosen with --port 0",
            ) from error
        self.hosts = [f"{name}:{self.server_address[1]}" for name in (ADDRESS, "localhost")]
        self.url = f"http://{self.hosts[0]}/"


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    extensions_map = CONTENT_TYPES
    server: PageServer

    def send_head(self) -> Any:
        if self.headers.get("Host") not in self.server.hosts:
            # a foreign page whose name points here must not read this one (DNS rebinding)
            return self.send_error(HTTPStatus.FORBIDDEN, "open it under its own address")
        name = Path(self.translate_path(self.path)).relative_to(self.directory).as_posix()
        if name not in self.server.names:
            return self.send_error(HTTPStatus.NOT_FOUND, "not a file of this page")
        return super().send_head()

    def end_headers(self) -> None:
        for name, value in {**HEADERS, "Cache-Control": "no-cache"}.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing of requests: the address is printed once, by the command line."""


def serve(options: ServeOptions, ready: Callable[[str], None]) -> None:
    """Serve a page, the one in a folder here if none is named; `ready` gets its address.

    Raises:
        InputError: the folder holds no page, none is named and here are none or several, or the
            port is taken.
    """
    here = sorted(path.parent for path in Path().glob(f"*/{SITE}"))
    found = [options.folder] if options.folder else here
    if len(found) != 1:
        raise InputError(
            f"no page was named, and the pages here are: {', '.join(map(str, here)) or 'none'}",
            expected="one folder with a page",
            next_step="name one of them" if found else REMAKE,
        )
    with PageServer(found[0], options.port) as server:
        ready(server.url)
        server.serve_forever()
