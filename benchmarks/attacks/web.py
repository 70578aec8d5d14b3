"""The page and its server: damaged files, hostile folders, raw requests, servers that lie."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import faults
import numpy as np
import page_models
import tiny

from convnet_edge.bundling import serve, site
from convnet_edge.bundling.options import ServeOptions
from convnet_edge.runtime.errors import EdgeError
from convnet_edge.runtime.model_file import open_model

from .cases import (
    END_S,
    REPOSITORY,
    Case,
    ImpossibleError,
    Random,
    attack,
    damaged,
    judge,
    odd,
    pick,
    require_three_parts,
    start,
)

# what the page does with files of which it knows nothing; tells whether each is found unaltered
PAGE = """
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { InputError, readContract } from "./contract.js";
import { readTestSet } from "./testset.js";
const known = { shape: [6, 6, 1], labels: ["a", "b", "c"] };
async function ask(action) {
  try {
    return (await action()).isUnaltered ?? false;
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return false;
  }
}
for await (const line of createInterface({ input: process.stdin })) {
  const [model, tests] = JSON.parse(line).map((path) => readFileSync(path));
  const found = [await ask(() => readContract(model)), await ask(() => readTestSet(known, tests))];
  await new Promise(setImmediate); // what nobody waited for ends this process
  console.log(JSON.stringify(found));
}
"""


@cache
def node() -> subprocess.Popen[str]:
    """Start Node, which asks the page's code about files until this process ends."""
    program = shutil.which("node")
    if program is None:
        raise ImpossibleError("no Node.js here")
    return subprocess.Popen(
        [program, "--input-type=module", "-e", PAGE], cwd=REPOSITORY / "convnet_edge" / "web",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@attack("page", 5000)
def page(case: Case) -> None:
    """Give the web page damaged and hostile models and test sets; Node runs its code."""
    from convnet_edge.runtime import contract

    process = node()
    assert process.stdin
    assert process.stdout
    made = case.rng.choice((tiny.grey, tiny.grey_uint8, tiny.rgb))()
    model, tests = case.folder / "model.onnx", case.folder / "test-set.npz"
    altered = damaged(case.rng, made)
    if case.number % 2:
        document = json.loads(json.dumps(open_model(made).contract.document))
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError, OverflowError):
            altered = contract.seal(faults.unsealed(made), odd(case.rng, document))
    model.write_bytes(altered)
    arrays = io.BytesIO()
    np.savez_compressed(
        arrays, images=np.zeros((4, 6, 6), np.uint8), labels=np.array([0, 1, 2, 0]),
        sha256=np.array("0" * 64),
    )  # fmt: skip
    tests.write_bytes(damaged(case.rng, arrays.getvalue()))
    print(json.dumps([str(model), str(tests)]), file=process.stdin, flush=True)
    answer = process.stdout.readline()
    if not answer.startswith("["):
        node.cache_clear()
        raise AssertionError(answer + process.communicate()[0])
    is_unaltered, _ = json.loads(answer)
    assert not is_unaltered or case.number % 2 or altered == made, "a change was not noticed"


N_REQUESTS, N_SLOW = 100, 200
LINE_PARTS = (
    b"GET ", b"POST ", b"HEAD ", b"/", b"/main.js", b"/../../etc/passwd", b"/%2e%2e/%00",
    b" HTTP/1.1", b" HTTP/9.9", b"\r\n", b"\n", b"Host: 127.0.0.1\r\n", b"Host: evil\r\n",
    b"\r\n\r\n", b"\x00" * 9, b"\xff\xfe", b"Content-Length: -1\r\n", b"Range: bytes=5-1\r\n",
    b"A: " + b"b" * 70_000 + b"\r\n", b"Transfer-Encoding: chunked\r\n", b"\x16\x03\x01",
    b"Connection: keep-alive\r\n",
)  # fmt: skip


@attack("server", 100, 60.0)
def server(case: Case) -> None:
    """Send raw bytes, and hold connections of slow clients open; others are served all the same."""
    page = case.folder / "page"
    page.mkdir()
    for name in ("index.html", "main.js", "sw.js"):
        (page / name).write_text(name)
    files = dict.fromkeys(("index.html", "main.js", "sw.js"), "sha256-")
    (page / "site.json").write_text(json.dumps({"schema": site.SCHEMA, "files": files}))
    process = start(["serve", str(page), "--port", "0"], case.folder)
    assert process.stdout
    port = 0
    while not port:
        words = process.stdout.readline()
        assert words, "it did not begin"
        found = re.search(r"http://127\.0\.0\.1:(\d+)", words)
        port = int(found[1]) if found else 0
    with contextlib.ExitStack() as open_:
        open_.callback(process.kill)
        for _ in range(N_SLOW if case.number % 10 == 0 else 3):
            slow = open_.enter_context(socket.create_connection(("127.0.0.1", port), END_S))
            slow.send(b"GET /main.js HT")
        for _ in range(N_REQUESTS):
            raw = b"".join(case.rng.choice(LINE_PARTS) for _ in range(case.rng.randrange(1, 12)))
            with contextlib.suppress(OSError):
                one = socket.create_connection(("127.0.0.1", port), END_S)
                with one:
                    one.sendall(raw)
                    one.shutdown(socket.SHUT_WR)
                    one.settimeout(0.05)
                    assert b"root:" not in one.recv(65536)
        began = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/main.js", timeout=END_S) as answer:
            assert answer.read() == b"main.js"
        assert time.monotonic() - began < END_S
        process.send_signal(signal.SIGINT)
        said, aside = process.communicate(timeout=END_S)
    judge(["serve"], process.returncode, said + aside, {0, 130})


# --- folders and servers that somebody else made ---

SECRET = b"what lies beside the page"
FILES = {"index.html": b"<p>", "main.js": b"//", "sw.js": b"/**/", "models/tiny.onnx": b"model"}
ASKED = ("", "site.json", *FILES, "../secret", "%2e%2e/secret", "models/../../secret", "models",
         "secret", "%00", "main.js/", "//etc/passwd")  # fmt: skip


@attack("web folders", 1000)
def web_folders(case: Case) -> None:
    """Serve a page whose folder was damaged or laid as a trap: an error, or no file but its own."""
    page, secret = case.folder / "page", case.folder / "secret"
    secret.write_bytes(SECRET)
    for name, content in FILES.items():
        (page / name).parent.mkdir(parents=True, exist_ok=True)
        (page / name).write_bytes(content)
    listed = {"schema": site.SCHEMA, "files": dict.fromkeys(FILES, "sha256-")}
    match case.number % 4:
        case 0:
            text = damaged(case.rng, json.dumps(listed).encode())
        case 1:
            text = json.dumps(odd(case.rng, listed)).encode(errors="surrogateescape")
        case 2:
            traps = dict.fromkeys((*FILES, *ASKED, str(secret), "/etc/passwd"), "sha256-")
            text = json.dumps(listed | {"files": traps}).encode()
        case _:
            text = json.dumps(listed).encode()
            lay_trap(case.rng, page, secret)
    (page / "site.json").write_bytes(text)
    try:
        server = serve.PageServer(page, ServeOptions(port=0))
    except EdgeError as error:
        require_three_parts(error)
        return
    port = server.server_address[1]
    with server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        for name in ASKED:
            with contextlib.suppress(urllib.error.HTTPError, http.client.HTTPException):
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/{name}", timeout=END_S
                ) as answer:
                    content = answer.read()
                assert content in (text, *FILES.values()), f"{name}: {content[:99]!r}"
        server.shutdown()


def lay_trap(rng: Random, page: Path, secret: Path) -> None:
    """Put something else where a file of the page was, or nothing."""
    path = page / rng.choice([*FILES])
    path.unlink()
    match rng.randrange(6):
        case 0:
            path.symlink_to(secret)
        case 1:
            os.mkfifo(path)
        case 2:
            path.mkdir()
        case 3:
            path.symlink_to(path.name)
        case 4:
            shutil.rmtree(page / "models")
            (page / "models").symlink_to(page.parent)
            (page.parent / "tiny.onnx").write_bytes(SECRET)


DATA = ("site.json", "models/colours.onnx", "test-set.npz", "ort/ort.wasm.min.mjs",
        "ort/ort-wasm-simd-threaded.mjs", "ort/ort-wasm-simd-threaded.wasm")  # fmt: skip
LIES = (
    "damaged",
    "odd",
    "short",
    "empty",
    "a page",
    "404",
    "500",
    "moved",
    "as text",
    "hung up",
)
OUTCOME = "#status.good, #status.bad"
SCORED = "#error.bad, #measured:has-text(' of ')"
ORT_WEB = REPOSITORY / "node_modules" / "onnxruntime-web"


@dataclass
class Lies:
    """What a server does to one of the page's files; nothing where `how` is empty."""

    files: dict[str, bytes]
    name: str = ""
    how: str = ""
    body: bytes = b""

    @property
    def changes(self) -> bool:
        """Whether the file's bytes are not those that were asked for."""
        return self.how != "as text" and self.body != self.files[self.name]


@attack("lying server", 200, 60.0)
def lying_server(case: Case) -> None:
    """Let a server lie about a file that a browser asks for: no PASS of it, and no lie is kept."""
    name, how = pick(case, DATA, LIES)
    lies = Lies(page_files(), name, how)
    lies.body = damaged(case.rng, lies.files[name])
    if how == "odd" and name == "site.json":
        lies.body = json.dumps(odd(case.rng, json.loads(lies.files[name]))).encode()
    told = ThreadingHTTPServer(("127.0.0.1", 0), partial(Liar, lies))
    threading.Thread(target=told.serve_forever, daemon=True).start()
    context, noises = browser().new_context(), list[str]()
    try:
        shown = context.new_page()
        shown.on("pageerror", lambda error: noises.append(str(error)))
        shown.goto(f"http://127.0.0.1:{told.server_port}/")
        shown.wait_for_selector(OUTCOME, timeout=1000 * END_S)
        said = shown.inner_text("#status")
        passed = said.startswith("Self-test: PASS")
        if passed and name == "test-set.npz":
            shown.click("#score")
            shown.wait_for_selector(SCORED, timeout=1000 * END_S)
        words = shown.inner_text("#error")
        assert "unforeseen" not in words, words
        assert passed or "; expected " in words or "FAIL" in said, f"{said}: {words}"
        assert not (passed and lies.changes and name.startswith("models/")), "a lie passed"
        assert not noises, noises
        lies.how = ""
        shown.goto(f"http://127.0.0.1:{told.server_port}/")
        shown.wait_for_selector(OUTCOME, timeout=1000 * END_S)
        said = shown.inner_text("#status")
        assert said.startswith("Self-test: PASS"), f"a lie was kept: {said}"
    finally:
        context.close()
        told.shutdown()
        told.server_close()


class Liar(BaseHTTPRequestHandler):
    """Serves the page's files, but for one."""

    def __init__(self, lies: Lies, *given: Any) -> None:
        self.lies = lies
        super().__init__(*given)

    def do_GET(self) -> None:
        """Answer with a file, or with a lie."""
        name = self.path.lstrip("/").partition("?")[0] or "index.html"
        body, lies = self.lies.files.get(name), self.lies
        how = lies.how if name == lies.name else ""
        kind = {**serve.CONTENT_TYPES, ".html": "text/html", ".css": "text/css"}.get(
            Path(name).suffix, "application/octet-stream"
        )
        status = 404 if body is None or how == "404" else 500 if how == "500" else 200
        body = body or b""
        match how:
            case "damaged" | "odd":
                body = lies.body
            case "empty":
                body = b""
            case "a page":
                body, kind = lies.files["index.html"], "text/html"
            case "as text":
                kind = "text/plain"
            case "moved":
                status = 302
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for header, value in site.HEADERS.items():
            self.send_header(header, value)
        if how == "moved":
            self.send_header("Location", "/index.html")
        self.end_headers()
        if how == "hung up":
            return
        self.wfile.write(body[: len(body) // 2] if how == "short" else body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@cache
def page_files() -> dict[str, bytes]:
    """Return the files of a real page by name."""
    if not ORT_WEB.exists():
        raise ImpossibleError("no onnxruntime-web in node_modules here (npm ci)")
    with tempfile.TemporaryDirectory() as folder:
        page = page_models.colour_page(Path(folder), ORT_WEB, has_tests=True)
        return {
            path.relative_to(page).as_posix(): path.read_bytes()
            for path in page.rglob("*")
            if path.is_file()
        }


@cache
def browser() -> Any:
    """Start the browser, which ends with this process."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    if program is None:
        raise ImpossibleError("no chromium here")
    playwright = sync_playwright().start()
    return playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
