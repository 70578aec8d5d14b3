"""`serve`: the page's files with their headers and nothing else, to those who were asked in."""

import contextlib
import fcntl
import http.client
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import termios
import threading
import urllib.request
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import segno
from certificates import self_signed

from convnet_edge.bundling import serve, site
from convnet_edge.bundling.options import ServeOptions
from convnet_edge.runtime.errors import InputError

TYPES = {
    "index.html": "text/html",
    "main.js": "text/javascript",
    "manifest.webmanifest": "application/manifest+json",
    "ort/a.mjs": "text/javascript",
    "ort/a.wasm": "application/wasm",
    "models/a.onnx": "application/octet-stream",
    "test-set/images.gz": "application/gzip",
    "site.json": "application/json",
    "sw.js": "text/javascript",
}


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "page"
    for name in (*TYPES, "private.txt", "../secret.txt"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(f"this is {name}")
    listed = dict.fromkeys([*TYPES, "gone.js"], "sha256-")
    (out / "site.json").write_text(json.dumps({"schema": site.SCHEMA, "files": listed}))
    return out


class Served:
    """A server in a thread of its own, and a client that asks it."""

    def __init__(self, server):
        self.server, self.port = server, server.server_address[1]

    def connect(self, address="127.0.0.1"):
        return socket.create_connection((address, self.port), timeout=10)

    def __call__(self, target, method="GET", host="127.0.0.1:PORT", address="127.0.0.1"):
        connection = http.client.HTTPConnection(address, self.port, timeout=10)
        headers = {"Host": host.replace("PORT", str(self.port))}
        with contextlib.closing(connection):
            connection.request(method, target, headers=headers)
            response = connection.getresponse()
            return response, response.read()

    def is_alive(self):
        return self("/main.js")[0].status == 200


@pytest.fixture
def serving(folder):
    """Return a function that serves the folder with the options given."""
    with contextlib.ExitStack() as stack:

        def serving(**given):
            options = ServeOptions(**{"port": 0, **given})
            server = stack.enter_context(serve.PageServer(folder, options))
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return Served(server)

        yield serving


@pytest.fixture
def ask(serving):
    served = serving()
    assert served.server.server_address[0] == "127.0.0.1"  # this computer alone
    assert served.server.is_local
    return served


def test_listed_files_come_with_their_type_and_the_headers(ask, folder):
    for target in ("", "index.html?threads=2", *TYPES):
        response, body = ask(f"/{target}")
        name = target.split("?")[0] or "index.html"
        assert (response.status, body) == (200, (folder / name).read_bytes())
        assert response.headers["Content-Type"] == TYPES[name]
        assert response.headers["Content-Encoding"] is None
        assert dict(response.headers).items() >= site.HEADERS.items()


def test_anything_else_is_not_found(ask):
    for target in ("private.txt", "gone.js", "ort/", "../secret.txt", "%2e%2e/secret.txt",
                   "ort/../private.txt", "/etc/passwd", "nothing"):  # fmt: skip
        response, body = ask(f"/{target}")
        assert response.status == 404, target
        assert b"this is" not in body


def test_listed_name_that_is_a_link_a_pipe_or_a_folder_is_not_found(ask, folder):
    (folder / "main.js").unlink()
    (folder / "main.js").symlink_to("../secret.txt")
    (folder / "index.html").unlink()
    os.mkfifo(folder / "index.html")
    (folder / "gone.js").mkdir()
    shutil.rmtree(folder / "ort")
    (folder / "ort").symlink_to("..")
    inside = next(name.removeprefix("ort/") for name in TYPES if name.startswith("ort/"))
    (folder.parent / inside).write_text("this is beside it")
    for target in ("main.js", "index.html", "", "gone.js", f"ort/{inside}"):
        response, body = ask(f"/{target}")
        assert response.status == 404, target
        assert b"this is" not in body


def test_head_gives_the_length_alone_and_other_methods_are_refused(ask):
    response, body = ask("/main.js", method="HEAD")
    assert (response.status, response.headers["Content-Length"], body) == (200, "15", b"")
    assert ask("/main.js", method="POST")[0].status == 501


def test_foreign_host_name_is_refused(ask):
    assert ask("/site.json", host="localhost:PORT")[0].status == 200
    for host in ("evil.example", "127.0.0.1", ""):
        assert ask("/site.json", host=host)[0].status == 403


def test_page_without_its_first_file_lists_no_folder(ask, folder):
    (folder / "index.html").unlink()
    response, body = ask("/")
    assert response.status == 404
    assert b"private.txt" not in body


def test_usual_port_is_left_out_as_browsers_do(serving, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setitem(serve.USUAL_PORTS, "http", port)
    ask = serving(port=port)
    assert ask.server.urls == ["http://127.0.0.1/"]
    assert ask("/main.js", host="127.0.0.1")[0].status == 200


@pytest.mark.parametrize(
    ("host", "address", "allowed", "refused"),
    [
        ("0.0.0.0", "127.0.0.1", ["127.0.0.1", "desk", "Desk.local"], ["192.0.2.9", "e.example"]),
        ("localhost", "localhost", ["localhost"], ["0.0.0.0", "localhost.evil.example"]),
        ("::1", "::1", ["[::1]", "localhost"], ["::1", "[::2]", "127.0.0.1"]),
        ("::", "127.0.0.1", ["127.0.0.1"], ["[::1]"]),
        ("::", "::1", ["[::1]"], ["127.0.0.1", "[::]:1"]),
    ],
)
def test_hosts_are_the_names_and_the_address_that_was_reached(
    serving, monkeypatch, host, address, allowed, refused
):
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    monkeypatch.setattr(socket, "gethostname", lambda: "Desk")
    ask = serving(host=host)
    assert ask.server.is_local == (host not in ("0.0.0.0", "::"))
    for names, status in ((allowed, 200), (refused, 403)):
        for name in names:
            response, _ = ask("/main.js", host=f"{name}:PORT", address=address)
            assert response.status == status, name


@pytest.mark.parametrize("host", ["", "..", "a" * 70, "192.0.2.200", "nowhere.invalid"])
def test_address_that_is_not_of_this_computer_is_an_error_with_a_way_out(folder, host):
    with pytest.raises(InputError, match=r"cannot be used: .*host=0\.0\.0\.0"):
        serve.PageServer(folder, ServeOptions(host=host, port=0))


def test_own_addresses_are_found_on_every_interface_without_sending(serving, monkeypatch):
    found = {
        ("192.0.2.1", 0): "192.168.7.5",
        ("224.0.0.1", 1): "127.0.0.1",
        ("224.0.0.1", 2): "192.168.7.5",
        ("224.0.0.1", 4): "10.1.2.3",
        ("2001:db8::1", 0): "2001:db8:7::5%wlan0",
    }

    class Probe:  # nothing that could send
        interface = 0

        def __init__(self, family, kind):
            assert kind == socket.SOCK_DGRAM

        def setsockopt(self, level, option, value):
            assert (level, option) == (socket.IPPROTO_IP, socket.IP_MULTICAST_IF)
            self.interface = struct.unpack("4s4si", value)[2]

        def connect(self, target):
            self.target = target[0]
            if (self.target, self.interface) not in found:
                raise OSError("unreachable")

        def getsockname(self):
            return (found[self.target, self.interface], 9)

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda *_: None  # noqa: E731

    monkeypatch.setattr(socket, "socket", Probe)
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(i, f"n{i}") for i in range(1, 5)])
    assert serve._own_addresses(socket.AF_INET) == ["192.168.7.5", "10.1.2.3"]
    assert serve._own_addresses(socket.AF_INET6)[2:] == ["[2001:db8:7::5]"]


def test_computer_without_a_network_shows_its_own_address(serving, monkeypatch):
    monkeypatch.setattr(serve, "_own_addresses", lambda _: [])
    ask = serving(host="0.0.0.0")
    assert ask.server.urls == [f"http://localhost:{ask.port}/"]


REQUEST = b"GET /main.js HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"\x00\xff\x16\x03\r\n\r\n", b"Error code: 400"),
        (b"GET /main.js HTTP/9.9.9\r\n\r\n", b"Error code: 400"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"HTTP/1.1 414"),
        (REQUEST + b"X: " + b"a" * 70_000 + b"\r\n\r\n", b"HTTP/1.1 431"),
        (REQUEST + b"X: a\r\n" * 200 + b"\r\n", b"HTTP/1.1 431"),
        (b"GET /\x00 HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n", b"HTTP/1.1 404"),
        (b"GET /main.js HTTP/1.1\r\n\r\n", b"HTTP/1.1 403"),
    ],
)
def test_request_that_makes_no_sense_is_refused_and_the_server_goes_on(ask, capfd, sent, answer):
    with ask.connect() as client:
        client.sendall(sent.replace(b"PORT", str(ask.port).encode()))
        assert answer in client.recv(4000)
    assert ask.is_alive()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("sent", [b"", b"GET /ma", REQUEST, REQUEST + b"\r\n"])
def test_client_that_leaves_in_the_middle_is_no_event(ask, folder, capfd, sent):
    handled = watch_threads(ask.server)
    (folder / "main.js").write_bytes(bytes(1 << 24))
    with ask.connect() as client:
        client.sendall(sent.replace(b"PORT", str(ask.port).encode()))
        if sent.endswith(b"\r\n\r\n"):
            client.recv(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    assert handled.acquire(timeout=10)
    assert ask.is_alive()
    assert capfd.readouterr().err == ""


def watch_threads(server):
    """Return a semaphore that counts the connections that the server is done with."""
    handled, done = threading.Semaphore(0), server.shutdown_request

    def count(request):
        done(request)
        handled.release()

    server.shutdown_request = count
    return handled


def test_defect_of_the_server_stays_visible(ask, capfd, monkeypatch):
    def fail(_):
        raise ZeroDivisionError

    handled = watch_threads(ask.server)
    monkeypatch.setattr(serve._Handler, "send_head", fail)
    with pytest.raises(http.client.RemoteDisconnected):
        ask("/main.js")
    assert handled.acquire(timeout=10)
    assert "ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.parametrize("sent", [b"", b"GET /ma", REQUEST])
def test_client_that_says_nothing_more_is_let_go(ask, capfd, monkeypatch, sent):
    assert 10 <= serve._Handler.timeout <= 60
    monkeypatch.setattr(serve._Handler, "timeout", 0.05)
    with ask.connect() as client:
        client.sendall(sent)
        assert client.recv(1) == b""
    assert capfd.readouterr().err == ""


def test_200_waiting_clients_do_not_keep_others_out(ask, capfd):
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(ask.connect()).sendall(b"GET /ma")
        assert ask.is_alive()
    assert capfd.readouterr().err == ""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def secure(serving, certificate):
    cert, key = certificate
    return serving(cert=cert, key=key)


def fetch(served, cert):
    """Return the first file, fetched by a client that trusts the certificate, if it is given."""
    context = ssl.create_default_context(cafile=cert)
    url = f"{served.server.urls[0]}main.js"
    with urllib.request.urlopen(url, timeout=10, context=context) as response:
        return response.read()


def test_own_certificate_makes_it_https(secure, certificate):
    assert secure.server.urls == [f"https://127.0.0.1:{secure.port}/"]
    assert secure.server.context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert fetch(secure, certificate[0]) == b"this is main.js"


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", REQUEST + b"\r\n"])
def test_client_that_does_not_shake_hands_holds_up_nobody(secure, certificate, capfd, sent):
    handled = watch_threads(secure.server)
    with secure.connect() as client:
        client.sendall(sent)
        assert fetch(secure, certificate[0]) == b"this is main.js"
        with pytest.raises(URLError, match="CERTIFICATE_VERIFY_FAILED"):
            fetch(secure, None)
    for _ in range(3):
        assert handled.acquire(timeout=10)
    assert fetch(secure, certificate[0]) == b"this is main.js"
    assert capfd.readouterr().err == ""


def test_handshake_that_is_not_finished_is_let_go(secure, monkeypatch):
    monkeypatch.setattr(serve._Handler, "timeout", 0.05)
    with secure.connect() as client:
        client.sendall(b"\x16\x03\x01")
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("missing", "does not exist"),
        ("folder", "is not a regular file"),
        ("no PEM", r"no line that ends in CERTIFICATE-----"),
        ("exchanged", r"no line that ends in CERTIFICATE-----"),
        ("damaged", "cannot be used"),
        ("another's key", "KEY_VALUES_MISMATCH"),
        ("passphrase", "needs a passphrase.*openssl pkey"),
    ],
)
def test_certificate_that_cannot_be_used_is_refused_before_listening(
    folder, certificate, tmp_path, monkeypatch, fault, said
):
    cert, key = certificate
    damaged = tmp_path / "damaged.pem"
    damaged.write_text(cert.read_text().replace("M", "N"))
    if fault in ("another's key", "passphrase"):
        _, key = self_signed(tmp_path, passphrase="secret" if fault == "passphrase" else "")
    cert, key = {
        "missing": (tmp_path / "none.pem", key),
        "folder": (tmp_path, key),
        "no PEM": (folder / "private.txt", key),
        "exchanged": (key, cert),
        "damaged": (damaged, key),
    }.get(fault, (cert, key))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("it listens"))
    with pytest.raises(InputError, match=said):
        serve.PageServer(folder, ServeOptions(cert=cert, key=key))


@pytest.mark.parametrize(("given", "lacking"), [("cert", "key"), ("key", "cert")])
def test_certificate_and_key_belong_together(given, lacking):
    with pytest.raises(InputError, match=f"{given} without {lacking}.*both, or neither") as caught:
        ServeOptions(**{given: "x.pem"})
    assert caught.value.line.endswith(f"; next: add --{lacking} FILE")


def test_taken_port_is_an_error_with_a_way_out(folder):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(InputError, match=r"cannot be used.*port=0") as caught:
            serve.PageServer(folder, ServeOptions(port=other.getsockname()[1]))
    assert "host" not in caught.value.next_step


@pytest.mark.parametrize("content", [None, "[", "{}", '{"schema": "other", "files": {}}', "[1]"])
def test_folder_without_a_page_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "site.json").write_text(content)
    why = "site.json: " if content else "it has no site.json"
    with pytest.raises(InputError, match=rf"{tmp_path.name} is no page: {why}.*--target web"):
        serve.PageServer(tmp_path, ServeOptions(port=0))


def test_without_a_name_there_must_be_one_page_here(folder, monkeypatch):
    shutil.copytree(folder, folder.with_name("second"))
    monkeypatch.chdir(folder.parent)
    with pytest.raises(InputError, match="page, second"):
        serve.serve(ServeOptions(), print)
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match="none"):
        serve.serve(ServeOptions(), print)


def test_command_takes_the_one_page_here_prints_its_address_and_ends_with_ctrl_c(folder):
    command = [sys.executable, "-m", "convnet_edge", "serve", "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder.parent, **pipes) as it:
        line = it.stdout.readline()
        port = int(line.split(":")[2].split("/")[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/main.js", timeout=10) as response:
            assert response.read() == b"this is main.js"
        it.send_signal(signal.SIGINT)
        try:
            _, errors = it.communicate(timeout=20)
        finally:
            it.kill()
    assert (it.returncode, errors) == (0, "")


def test_first_screen_has_the_address_as_a_picture_and_says_what_works(folder):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 25, 80, 0, 0))
    command = [sys.executable, "-m", "convnet_edge", "serve", "--port", "0", "--host", "0.0.0.0"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    with subprocess.Popen(command, cwd=folder.parent, **pipes) as it:
        os.close(theirs)
        shown = b""
        try:
            while not shown.endswith(b"all of that.\r\n"):
                assert select.select([ours], [], [], 20)[0], shown
                shown += os.read(ours, 4096)
        finally:
            it.kill()
    os.close(ours)
    style = re.compile(r"\x1b\[[\d;]*m")
    text = style.sub("", shown.decode())
    lines = text.splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 80
    url, ending = lines[0].split("   ")
    assert ending == "(Ctrl-C ends it)"
    assert "one thread, no offline use" in text
    drawn = [line for line in lines if set(line) <= set("█▀▄ ")]
    halves = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}
    rows = [[halves[letter][half] for letter in line] for line in drawn for half in (0, 1)]
    modules = [row[2:-2] for row in rows[2:]][: len(rows[0]) - 4]
    assert modules == [list(row) for row in segno.make_qr(url, error="l").matrix]
    on_black = {"\x1b[97m", "\x1b[40m", "\x1b[0m"}  # white on black, always
    assert set(style.findall(shown.decode())) == on_black


def test_no_picture_where_it_would_not_fit_or_is_not_looked_at(run, monkeypatch):
    from convnet_edge.commands import bundle

    assert len(bundle._qr_code("http://[2001:db8:1111:2222:3333:4444:5555:6666]:65535/")) == 19
    assert bundle._qr_code(f"http://{'a' * 200}/") == []
    server = SimpleNamespace(urls=["http://192.0.2.7/"] * 9, is_local=False, context=None)
    monkeypatch.setattr(serve, "serve", lambda _, ready: ready(server))
    first, also, *rest = run("serve").output.splitlines()
    assert first == "http://192.0.2.7/   (Ctrl-C ends it)"
    assert also.startswith("also http://192.0.2.7/ ")
    assert len(also) <= 80
    assert len(rest) == 3
