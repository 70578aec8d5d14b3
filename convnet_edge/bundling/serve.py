"""Show a page that `bundle --target web` made, on this computer alone.

Sends the headers that give the page threads; any static HTTPS host can take its place.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..runtime.errors import InputError
from .options import ServeOptions
from .site import HEADERS, SITE, WORKER, read_site

ADDRESS = "127.0.0.1"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".gz": "application/gzip",
}


class PageServer(ThreadingHTTPServer):
    """Serves the files that a page's site.json lists, and nothing else.

    Raises:
        InputError: the folder holds no page, or the port is taken.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder.resolve()
        self.names = {*read_site(folder)["files"], SITE, WORKER}
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise InputError(
                f"port {port} {'is taken' if taken else f'cannot be used: {error.strerror}'}",
                expected="a free port",
                next_step="let one be chosen with --port 0",
            ) from error

    @property
    def port(self) -> int:
        """Return the port, also where 0 was asked for."""
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """Return what to open in a browser."""
        return f"http://{ADDRESS}:{self.port}/"

    def read(self, target: str) -> tuple[str, bytes] | None:
        """Return the content type and content of a request's target, None if it is not listed."""
        name = unquote(urlsplit(target).path).removeprefix("/") or "index.html"
        path = self.folder / name
        if name not in self.names or not path.resolve().is_relative_to(self.folder):
            return None
        try:
            content = path.read_bytes()
        except OSError:
            return None
        return CONTENT_TYPES.get(path.suffix, "application/octet-stream"), content


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PageServer

    def do_GET(self) -> None:
        """Send one file of the page."""
        host = self.headers.get("Host", "")
        if host not in {f"{name}:{self.server.port}" for name in (ADDRESS, "localhost")}:
            # a foreign page whose name points here must not read this one (DNS rebinding)
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"open it under its own address\n")
            return
        found = self.server.read(self.path)
        if found is None:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not a file of this page\n")
            return
        self._answer(HTTPStatus.OK, *found)

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, status: HTTPStatus, content_type: str, content: bytes) -> None:
        self.send_response(status)
        headers = {**HEADERS, "Content-Type": content_type, "Cache-Control": "no-cache"}
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing of requests: the address is printed once, by the command line."""


def choose_page(named: Path | None) -> Path:
    """Return `named`, else the one folder here that holds a page.

    Raises:
        InputError: there is none, or more than one.
    """
    if named is not None:
        return named
    found = sorted(path.parent for path in Path().glob(f"*/{SITE}"))
    if len(found) == 1:
        return found[0]
    listed = ", ".join(map(str, found)) or "none"
    raise InputError(
        f"no page was named, and the pages here are: {listed}",
        expected="one folder with a page",
        next_step="name one of them" if found else "make one with `bundle --target web`",
    )


def serve(config: ServeOptions, ready: Callable[[str], None]) -> None:
    """Serve until interrupted; `ready` gets the address once it answers.

    Raises:
        InputError: see PageServer and choose_page.
    """
    with PageServer(choose_page(config.folder), config.port) as server:
        ready(server.url)
        server.serve_forever()
