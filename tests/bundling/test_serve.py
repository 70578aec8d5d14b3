"""`serve`: the page's files with their headers, to this computer alone, and nothing else."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest

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


@pytest.fixture
def ask(folder):
    with serve.PageServer(folder, 0) as server:
        assert server.server_address[0] == "127.0.0.1"  # this computer alone
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()

        def ask(target, method="GET", host="127.0.0.1:PORT"):
            host = host.replace("PORT", str(server.server_address[1]))
            connection = http.client.HTTPConnection(*server.server_address, timeout=10)
            connection.request(method, target, headers={"Host": host})
            response = connection.getresponse()
            body = response.read()
            connection.close()
            return response, body

        yield ask
        server.shutdown()
        thread.join()


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


def test_head_gives_the_length_alone_and_other_methods_are_refused(ask):
    response, body = ask("/main.js", method="HEAD")
    assert (response.status, response.headers["Content-Length"], body) == (200, "15", b"")
    assert ask("/main.js", method="POST")[0].status == 501


def test_foreign_host_name_is_refused(ask):
    assert ask("/site.json", host="localhost:PORT")[0].status == 200
    for host in ("evil.example", "127.0.0.1", ""):
        assert ask("/site.json", host=host)[0].status == 403


def test_taken_port_is_an_error_with_a_way_out(folder):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(InputError, match=r"cannot be used.*port=0"):
            serve.PageServer(folder, other.getsockname()[1])


@pytest.mark.parametrize("content", [None, "[", "{}", '{"schema": "other", "files": {}}', "[1]"])
def test_folder_without_a_page_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "site.json").write_text(content)
    with pytest.raises(InputError, match="bundle --target web"):
        serve.PageServer(tmp_path, 0)


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
    assert it.returncode == 130
    assert errors == "convnet-edge: interrupted\n"
