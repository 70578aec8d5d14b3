"""Show a page that `bundle --target web` made: to this computer alone, or to the network it is in.

Sends the headers that give the page threads; any static HTTPS host can take its place.
"""

import contextlib
import errno
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any, NoReturn

from ..runtime.errors import InputError
from ..runtime.files import MIB, read_bytes
from .options import ServeOptions
from .site import HEADERS, REMAKE, SITE, WORKER, read_site

CONTENT_TYPES = {  # browsers run nothing of another type, whatever this computer's tables say
    **SimpleHTTPRequestHandler.extensions_map,
    **dict.fromkeys((".js", ".mjs"), "text/javascript"),
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}
USUAL_PORTS = {"http": 80, "https": 443}
ELSEWHERE, ALL_HOSTS = "192.0.2.1", "224.0.0.1"  # RFC 5737's documentation, RFC 1112's group
ELSEWHERE_6 = "2001:db8::1"  # RFC 3849
NEW_CERTIFICATE = "mkcert -cert-file cert.pem -key-file key.pem ADDRESS"


class PageServer(ThreadingTCPServer):
    """Serves the files that a page's site.json lists, and nothing else.

    urls: where it can be opened, the likeliest first. is_local: whether by this computer alone.
    hosts: the names that browsers may know it by, beside the address that they reached.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128  # browsers open several connections each

    def __init__(self, folder: Path, options: ServeOptions) -> None:
        self.names = {*read_site(folder), SITE, WORKER}
        self.context = _tls(options.cert, options.key) if options.cert and options.key else None
        host, port = options.host, options.port
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self.address_family, address = found[0][0], found[0][4]
            super().__init__(address, partial(_Handler, directory=folder))  # type: ignore[arg-type]
        except (OSError, UnicodeError) as error:  # a UnicodeError: what can be no name
            is_no_address = isinstance(error, UnicodeError | socket.gaierror)
            is_foreign = getattr(error, "errno", None) == errno.EADDRNOTAVAIL
            raise InputError(
                f"{host}, port {port}, cannot be used: {getattr(error, 'strerror', error)}",
                expected="an address or name of this computer and a free port",
                next_step="take every address with --host 0.0.0.0"
                if is_no_address or is_foreign
                else "let a port be chosen with --port 0",
            ) from error
        if self.context is not None:  # the handshake waits for a client's own thread
            self.socket = self.context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        bound = _address_of(self.socket)
        self.is_local = bound.is_loopback
        shown = [_in_url(host)]
        if bound.is_unspecified:
            shown = _own_addresses(self.address_family) or ["localhost"]
        scheme = "https" if self.context else "http"
        port = self.server_address[1]
        self.port_text = "" if port == USUAL_PORTS[scheme] else f":{port}"  # as browsers write it
        self.urls = [f"{scheme}://{name}{self.port_text}/" for name in shown]
        name = socket.gethostname()
        self.hosts = {text.lower() for text in ("localhost", _in_url(host), name, f"{name}.local")}

    def server_bind(self) -> None:
        """Take IPv4 too where all of IPv6 is asked for."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet of clients that leave or do not shake hands; anything else is a defect."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError, ssl.SSLError)):
            super().handle_error(request, client_address)


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    extensions_map = CONTENT_TYPES
    timeout = 30  # seconds for a client's next byte
    server: PageServer

    def send_head(self) -> Any:
        hosts = {*self.server.hosts, _in_url(str(_address_of(self.connection)))}
        asked = self.headers.get("Host", "").lower()
        if asked not in {f"{host}{self.server.port_text}" for host in hosts}:
            # a foreign page whose name points here must not read this one (DNS rebinding)
            return self.send_error(HTTPStatus.FORBIDDEN, "open it under its own address")
        name = Path(self.translate_path(self.path)).relative_to(self.directory).as_posix()
        if name == ".":
            name = self.path = "index.html"
        found, folder = Path(self.directory, name), Path(self.directory).resolve()
        # a folder from elsewhere may hold links that lead out of it, and pipes
        if name not in self.server.names or not found.is_file() or found.resolve() != folder / name:
            return self.send_error(HTTPStatus.NOT_FOUND, "not a file of this page")
        return super().send_head()

    def end_headers(self) -> None:
        for name, value in {**HEADERS, "Cache-Control": "no-cache"}.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing of requests: the address is printed once, by the command line."""


def serve(options: ServeOptions, ready: Callable[[PageServer], None]) -> None:
    """Serve a page until Ctrl-C, the one in a folder here if none is named.

    ready: gets what serves it.

    Raises:
        InputError: the folder holds no page, none is named and here are none or several, the
            certificate cannot be used, or the address or the port cannot.
    """
    here = sorted(path.parent for path in Path().glob(f"*/{SITE}"))
    found = [options.folder] if options.folder else here
    if len(found) != 1:
        raise InputError(
            f"no page was named, and the pages here are: {', '.join(map(str, here)) or 'none'}",
            expected="one folder with a page",
            next_step="name one of them" if found else REMAKE,
        )
    with PageServer(found[0], options) as server, contextlib.suppress(KeyboardInterrupt):
        ready(server)
        server.serve_forever()


def _tls(cert: Path, key: Path) -> ssl.SSLContext:
    """Return what proves this server by the certificate in `cert` and its key, both PEM."""
    for path, mark in ((cert, "CERTIFICATE-----"), (key, "PRIVATE KEY-----")):
        if mark.encode() not in read_bytes(path, limit=MIB, next_step=NEW_CERTIFICATE):
            raise _no_certificate(f"{path} has no line that ends in {mark}")

    def refuse() -> NoReturn:
        raise InputError(
            f"{key} needs a passphrase",
            expected="a key without one",
            next_step=f"openssl pkey -in {key} -out plain.pem, and --key plain.pem",
        )

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, password=refuse)
    except ssl.SSLError as error:
        raise _no_certificate(f"{cert} and {key} cannot be used: {error.reason}") from error
    return context


def _no_certificate(found: str) -> InputError:
    expected = "--cert with a certificate and --key with the key that it was made for, both PEM"
    return InputError(found, expected=expected, next_step=NEW_CERTIFICATE)


def _own_addresses(family: socket.AddressFamily) -> list[str]:
    """Return, as in a URL, where other devices find this computer; the way out comes first.

    Sends nothing: a datagram socket that is connected knows the address that it would send from.
    """
    ways = [(socket.AF_INET, ELSEWHERE, 0)]
    ways += [(socket.AF_INET, ALL_HOSTS, index) for index, _ in socket.if_nameindex()]
    if family == socket.AF_INET6:
        ways.append((family, ELSEWHERE_6, 0))
    found = []
    for kind, target, interface in ways:
        with contextlib.suppress(OSError), socket.socket(kind, socket.SOCK_DGRAM) as probe:
            if interface:
                choice = struct.pack("4s4si", b"", b"", interface)  # ip(7): struct ip_mreqn
                probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, choice)
            probe.connect((target, 9))
            found.append(_address_of(probe))
    return [_in_url(str(one)) for one in dict.fromkeys(found) if not one.is_loopback]


def _address_of(one: socket.socket) -> IPv4Address | IPv6Address:
    """Return this computer's end of a socket."""
    address = ip_address(one.getsockname()[0].partition("%")[0])  # the rest names an interface
    return getattr(address, "ipv4_mapped", None) or address


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
