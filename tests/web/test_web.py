"""The page in a real browser: its proof, its answers, its numbers, and what goes wrong."""

import functools
import hashlib
import http.server
import json
import shutil
import subprocess
import threading
from pathlib import Path

import faults
import numpy as np
import pytest
from convnet_edge.reporting.results import read_result
from test_browser import CONTRAST

from convnet_edge.bundling import serve, site
from convnet_edge.bundling.options import BundleOptions
from convnet_edge.bundling.pyz import lay_out_page
from convnet_edge.reporting.options import ReportOptions
from convnet_edge.reporting.report import report
from convnet_edge.runtime import Classifier, preprocess
from convnet_edge.runtime.measure import stats, verdict
from convnet_edge.runtime.model_file import open_model

REPOSITORY = Path(__file__).resolve().parents[2]
MODELS = tuple(
    REPOSITORY / "exported" / f"fashion-mnist{kind}.onnx" for kind in ("", ".int8", ".int8-ort")
)
PROVED = "#status.good, #status.bad"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}

pytestmark = [pytest.mark.browser, pytest.mark.index]


@pytest.fixture(scope="module")
def ort_web(tmp_path_factory):
    """Install onnxruntime-web by the committed lock, in a copy."""
    if not shutil.which("npm"):
        pytest.skip("no npm here")
    folder = tmp_path_factory.mktemp("npm")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(REPOSITORY / name, folder)
    command = ["npm", "ci", "--ignore-scripts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "node_modules" / "onnxruntime-web"


@pytest.fixture(scope="module")
def folder(ort_web, tmp_path_factory):
    out = tmp_path_factory.mktemp("web") / "page"
    lay_out_page(BundleOptions(MODELS, target="web", ort_web=ort_web, out=out))
    return out


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            # a name that is not this computer's: an origin that browsers hold for insecure
            args=["--no-sandbox", "--host-resolver-rules=MAP lan.test 127.0.0.1"],
        )
        yield browser
        browser.close()


@pytest.fixture
def show(browser, folder):
    """Return a function that serves a folder and opens it; each page must stay quiet."""
    opened = []

    def show(shown=folder, *, quiet=True, query="", **options):
        server = serve.PageServer(shown, 0)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        page = context.new_page()
        noises, requests = [], []
        page.on("console", lambda message: noises.append(message.text))
        page.on("pageerror", lambda error: noises.append(str(error)))
        context.on("request", lambda request: requests.append(request.url))
        page.goto(server.url + query)
        opened.append((server, thread, context, quiet, noises, requests))
        return page

    yield show
    for server, thread, context, quiet, noises, requests in opened:
        context.close()
        server.shutdown()
        server.server_close()
        thread.join()
        assert noises == [] or not quiet
        assert [url for url in requests if not url.startswith((server.url, "blob:"))] == []


def proved(page):
    page.wait_for_selector(PROVED)
    assert page.inner_text("#status").startswith("Self-test: PASS"), page.inner_text("#error")
    return page


def answer(page, action):
    """Do `action` and return the answer that it brings."""
    page.evaluate("document.getElementById('answer').textContent = 'waiting'")
    action()
    page.wait_for_selector("#answer:not(:has-text('waiting'))")
    return page.inner_text("#answer")


def seen_pixels(page):
    """Return what the network sees, (28, 28) uint8."""
    values = page.evaluate(
        "() => [...document.getElementById('seen').getContext('2d')"
        ".getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 === 0)"
    )
    return np.array(values, np.uint8).reshape(28, 28)


@pytest.mark.parametrize("threads", [1, 2])
def test_every_model_proves_itself_and_scores_as_in_python(show, folder, test_set, threads):
    page = proved(show(query=f"?threads={threads}"))
    assert page.evaluate("() => crossOriginIsolated")
    assert page.input_value("#threads") == str(threads)
    for path in MODELS:
        page.select_option("#model", label=path.name)
        page.wait_for_selector("#status:not(:has-text('Opening'))")
        proved(page)
        checks = page.locator("#checks li").all_text_contents()
        assert len(checks) == 4
        assert all(check.startswith("✓") for check in checks)
        page.click("#score")
        page.wait_for_selector("#confusion:not([hidden]) table")
        rows = page.locator("#confusion tbody tr").all()
        found = [[int(text) for text in row.locator("td").all_text_contents()[:10]] for row in rows]
        assert np.sum(found) == 10_000
        expected = (Classifier(path)(test_set.images).labels == test_set.labels).sum()
        assert abs(np.trace(found) - expected) <= 3


def test_result_is_read_by_report_beside_one_of_bench(show, tmp_path):
    page = proved(show())
    page.click("#score")
    page.wait_for_selector("#confusion:not([hidden]) table")
    page.click("#bench")
    page.wait_for_selector("#latency:not([hidden]) table")
    with page.expect_download() as download:
        page.click("#save")
    path = tmp_path / "browser.json"
    download.value.save_as(path)
    found = read_result(path).document
    assert found["provider"]["obtained"] == "wasm"
    assert found["model"]["name"] == "fashion-mnist.onnx"
    assert found["accuracy"]["n"] == 10_000
    assert [row["batch_size"] for row in found["latency"]] == [1, 8]
    for row in found["latency"]:
        assert row["n_outputs_checked"] > 10
        assert row["largest_output_error"] < 2e-5
        assert row["percentiles_ms"][0]["value"] > 0
    assert found["verdict"]["status"] == page.inner_text("#measured").removeprefix("Verdict: ")
    reference = REPOSITORY / "benchmarks/results/reference/fashion-mnist-cpu-epyc-1-thread.json"
    made = report(ReportOptions((path, reference), tmp_path / "report.html"))
    assert "wasm" in made.markdown_path.read_text()


def test_stop_ends_a_measurement_and_keeps_the_page_usable(show):
    page = proved(show())
    page.click("#bench")
    page.click("#stop")
    page.wait_for_selector("#measured:has-text('Stopped')")
    assert page.is_hidden("#stop")
    assert page.is_enabled("#bench")


@pytest.mark.parametrize("way", ["file", "camera", "drop", "paste"])
def test_picture_is_seen_as_python_sees_it(show, way, tmp_path):
    stated = open_model(MODELS[0].read_bytes()).contract
    sample = stated.samples[0]
    path = tmp_path / sample.name
    path.write_bytes(sample.encoded)
    page = proved(show())
    give = """([way, bytes, name]) => {
      const data = new DataTransfer()
      data.items.add(new File([new Uint8Array(bytes)], name))
      const event = way === 'drop'
        ? new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })
        : new ClipboardEvent('paste', { clipboardData: data, bubbles: true })
      document.body.dispatchEvent(event)
    }"""
    if way in ("file", "camera"):
        said = answer(page, lambda: page.set_input_files(f"#{way}", path))
    else:
        given = [way, list(sample.encoded), sample.name]
        said = answer(page, lambda: page.evaluate(give, given))
    label = Classifier(MODELS[0])(sample.pixels[None]).top(1)[0][0][0]
    assert said.startswith(f"{sample.name}: {label}")
    difference = seen_pixels(page).astype(int) - preprocess.decode_picture(sample.encoded, (28, 28))
    assert np.abs(difference).max() <= 2


def test_inversion_is_said_and_can_be_overruled(show):
    page = proved(show())
    answer(page, page.locator("#samples button").first.click)
    assert "inverted, because its border is bright" in page.inner_text("#seen-text")
    before = seen_pixels(page)
    answer(page, page.locator("input[value=no]").check)
    assert "not inverted, as asked" in page.inner_text("#seen-text")
    np.testing.assert_allclose(seen_pixels(page), 255 - before, atol=1)


def test_drawing_is_classified_and_cleared(show):
    page = proved(show())
    page.click("summary:has-text('Draw')")
    pad = page.locator("#pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()

    def draw():
        page.mouse.move(box["x"] + 60, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + 60, box["y"] + 220, steps=5)
        page.mouse.move(box["x"] + 220, box["y"] + 220, steps=5)
        page.mouse.up()

    assert answer(page, draw).startswith("Your drawing: ")
    drawn = seen_pixels(page)
    assert drawn[12, 6] > 200
    assert drawn[12, 20] == 0
    page.click("#clear")
    pixels = (
        "() => document.getElementById('pad').getContext('2d').getImageData(0, 0, 280, 280).data"
    )
    assert page.evaluate(f"() => ({pixels})().every((value) => value === 255)")


def test_test_image_comes_with_its_label(show):
    page = proved(show())
    said = answer(page, lambda: page.click("#test-image"))
    assert said.startswith("Test image ")
    assert " It is: " in said
    shares = page.locator("#bars li span:nth-child(2)").all_text_contents()
    assert sum(float(share.rstrip(" %")) for share in shares) == pytest.approx(100, abs=1)
    widths = page.evaluate(
        "() => [...document.querySelectorAll('#bars i')].map((bar) => bar.offsetWidth)"
    )
    assert widths[0] > 5 * widths[-1]


@pytest.mark.parametrize("damage", ["text", "empty", "truncated"])
def test_bad_file_is_a_sentence_and_the_page_goes_on(show, damage, tmp_path):
    page = proved(show())
    sample = open_model(MODELS[0].read_bytes()).contract.samples[0]
    bad = {"text": b"no picture", "empty": b"", "truncated": sample.encoded[:60]}[damage]
    path = tmp_path / "bad.png"
    path.write_bytes(bad)
    page.set_input_files("#file", path)
    page.wait_for_selector("#error:not([hidden])")
    text = page.inner_text("#error")
    assert text.startswith("bad.png is not a picture, or damaged")
    assert "next: choose another picture" in text
    answer(page, page.locator("#samples button").first.click)
    assert page.is_hidden("#error")


def change_model(folder, tmp_path, change, *, hide=False):
    """Return a copy of the page with its first model changed; hide: also from site.json."""
    out = tmp_path / "changed"
    shutil.copytree(folder, out)
    path = out / "models" / MODELS[0].name
    path.write_bytes(change(path.read_bytes()))
    if hide:
        document = json.loads((out / "site.json").read_text())
        document["models"][0]["model_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (out / "site.json").write_text(json.dumps(document))
    return out


def test_flipped_byte_of_the_model_is_a_sentence(show, folder, tmp_path):
    def flip(model):
        return model[:5000] + bytes([model[5000] ^ 1]) + model[5001:]

    page = show(change_model(folder, tmp_path, flip), quiet=False)
    page.wait_for_selector(PROVED)
    assert "is not the file that was bundled" in page.inner_text("#error")
    assert page.is_hidden("main")


def test_wrong_model_fails_its_selftest_and_is_not_used(show, folder, tmp_path):
    def nudge(model):
        return faults.change_sealed(model, faults.nudge_one_weight)

    page = show(change_model(folder, tmp_path, nudge, hide=True), quiet=False)
    page.wait_for_selector(PROVED)
    assert page.inner_text("#status").startswith("Self-test: FAIL (golden vectors")
    assert page.is_hidden("main")
    page.select_option("#model", label=MODELS[1].name)
    page.wait_for_selector("#status.good")
    assert page.is_visible("main")


def test_missing_file_on_the_server_is_a_sentence(show, folder, tmp_path):
    out = tmp_path / "incomplete"
    shutil.copytree(folder, out)
    (out / "models" / MODELS[0].name).unlink()
    page = show(out, quiet=False)
    page.wait_for_selector(PROVED)
    assert "next: upload it again" in page.inner_text("#error")


def test_browser_without_wasm_is_told_what_it_needs(browser, folder, show):
    page = show(quiet=False)
    context = page.context
    context.add_init_script("delete globalThis.WebAssembly")
    other = context.new_page()
    other.goto(page.url)
    other.wait_for_selector(PROVED)
    assert "this browser has no WebAssembly" in other.inner_text("#error")
    assert other.inner_text("#status") == "The page cannot work here."


def test_page_works_without_a_network_after_the_first_load(show):
    page = proved(show())
    page.wait_for_selector("#offline:has-text('Works without a network')")
    page.context.set_offline(True)
    page.reload()
    proved(page)
    assert answer(page, lambda: page.click("#test-image")).startswith("Test image ")


def test_plain_http_works_with_one_thread_and_says_what_it_lacks(browser, folder):
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        page = browser.new_page()
        page.goto(f"http://lan.test:{server.server_address[1]}/")
        proved(page)
        assert not page.evaluate("() => isSecureContext")
        assert page.locator("#checks li").first.text_content().startswith("– digests: not checked")
        assert "threads need HTTPS" in page.inner_text("#threads-text")
        page.wait_for_selector("#offline:has-text('Needs the network each time')")
        assert answer(page, lambda: page.click("#test-image")).startswith("Test image ")
        page.context.close()
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Any static host, without our headers."""

    def log_message(self, *arguments):
        """Say nothing."""


def test_server_without_the_headers_gets_threads_from_the_second_load(show, monkeypatch):
    monkeypatch.setattr(serve, "HEADERS", {"Content-Security-Policy": site.POLICY})
    page = proved(show())
    assert not page.evaluate("() => crossOriginIsolated")
    assert "until the page is isolated: reload it once" in page.inner_text("#threads-text")
    page.click("#bench")
    page.wait_for_selector("#latency:not([hidden]) table")
    assert "n/a (coarse clock)" in page.inner_text("#latency")
    assert "coarse timer" in page.inner_text("#reasons")
    page.wait_for_selector("#offline:has-text('Works without a network')")
    page.reload()
    proved(page)
    assert page.evaluate("() => crossOriginIsolated")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_shows_everything_within_its_width_and_readably(show, scheme, tmp_path):
    page = proved(show(viewport=PHONE, color_scheme=scheme, has_touch=True, is_mobile=True))
    answer(page, page.locator("#samples button").nth(1).tap)
    page.click("#score")
    page.wait_for_selector("#confusion:not([hidden]) table")
    assert page.evaluate("() => document.documentElement.scrollWidth") == PHONE["width"]
    assert page.evaluate(CONTRAST) >= 4.5
    sizes = page.evaluate(
        "() => [...document.querySelectorAll('button:not([hidden]), .button, select')]"
        ".map((part) => part.getBoundingClientRect().height)"
    )
    assert min(size for size in sizes if size) >= 44


def test_keyboard_reaches_every_control_and_each_has_a_name(show):
    page = proved(show())
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement.id"))
    wanted = {"file", "camera", "test-image", "model", "bench", "score", "save", "threads"}
    assert wanted <= reached
    nameless = page.evaluate(
        "() => [...document.querySelectorAll('button, input, select, canvas, progress')]"
        ".filter((part) => !(part.textContent.trim() || part.ariaLabel || part.labels?.length"
        " || part.getAttribute('aria-label') || part.closest('[aria-label]'))).length"
    )
    assert nameless == 0


def test_statistics_are_those_of_python(show):
    page = proved(show())
    rng = np.random.default_rng(0)
    for n in (10, 11, 64, 700, 7000):
        samples = rng.gamma(4.0, 0.1, n)
        found = page.evaluate(
            "async (samples) => { const s = await import('./stats.js')\n"
            "return s.PERCENTILES.map((p) => s.percentile(samples, p)) }",
            samples.tolist(),
        )
        for row in found:
            expected = stats.percentile(samples, row["p"])
            assert (row["floor"], row["value"]) == (expected.floor, expected.value)
            assert (row["low"], row["high"]) == (expected.low, expected.high)
    low_high = page.evaluate("async () => (await import('./stats.js')).wilsonInterval(9323, 10000)")
    expected = stats.wilson_interval(9323, 10_000)
    assert low_high == pytest.approx({"low": expected.low, "high": expected.high})


def trace_of(name):
    """Return samples in ms that one rule is there for, or quiet ones."""
    rng = np.random.default_rng(1)
    quiet = rng.normal(1.0, 0.02, 3000)
    return {
        "quiet": quiet,
        "few": quiet[:10],
        "wide": rng.lognormal(0.0, 1.0, 40),
        "drift": quiet * np.linspace(1.0, 1.5, 3000),
        "modes": quiet * np.where(np.arange(3000) // 400 % 2, 1.6, 1.0),
    }[name]


@pytest.mark.parametrize("name", ["quiet", "few", "wide", "drift", "modes"])
def test_verdicts_are_those_of_python(show, name):
    page, samples = proved(show()), trace_of(name)
    starts = np.concatenate([[0.0], np.cumsum(samples)[:-1]])
    found = page.evaluate(
        "async ([samplesMs, startsMs]) => (await import('./verdict.js')).judge({"
        " samplesMs, startsMs, stepMs: 0.005, nBlock: 1, error: 1e-6, tolerance: 1e-5 })",
        [samples.tolist(), starts.tolist()],
    )
    trace = verdict.Trace(samples * 1e6, starts * 1e6, None, 5000.0, None, 1e-6, 1e-5)
    expected = verdict.judge(trace)
    assert found["status"] == expected.status
    assert [row["name"] for row in found["reasons"]] == [row.name for row in expected.reasons]
    for row, reason in zip(found["reasons"], expected.reasons, strict=True):
        assert row["value"] == pytest.approx(reason.value)
        assert row["threshold"] == reason.threshold
    assert name == "quiet" or found["reasons"]


def test_wrong_outputs_make_a_timing_invalid(show):
    page = proved(show())
    found = page.evaluate(
        "async () => (await import('./verdict.js')).judge({ samplesMs: Array(200).fill(1),"
        " startsMs: Array.from({ length: 200 }, (_, i) => i), stepMs: 0.005, nBlock: 1,"
        " error: Infinity, tolerance: 1e-5 })"
    )
    assert (found["status"], found["reasons"][0]["name"]) == ("INVALID", "wrong outputs")
