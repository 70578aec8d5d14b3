"""The page in a real browser: its proof, its answers, its numbers, and what goes wrong."""

import base64
import contextlib
import io
import itertools
import json
import re
import shutil
import threading
from functools import partial

import faults
import numpy as np
import page_models
import pytest
import results
from certificates import self_signed
from contrast import CONTRAST
from emulated import EXPORTED, REPOSITORY
from environments import run
from PIL import Image
from pydantic import TypeAdapter

from convnet_edge.bundling import serve
from convnet_edge.bundling.bundle import bundle
from convnet_edge.bundling.options import BundleOptions, ServeOptions
from convnet_edge.reporting.options import ReportOptions
from convnet_edge.reporting.report import report
from convnet_edge.runtime import Classifier, archive
from convnet_edge.runtime.files import as_json
from convnet_edge.runtime.measure import accuracy, stats
from convnet_edge.runtime.measure.result import MAX_MATRIX, Result
from convnet_edge.runtime.model_file import open_model
from convnet_edge.runtime.pictures import preprocess

MODELS = tuple(EXPORTED / f"fashion-mnist{kind}.onnx" for kind in ("", ".int8", ".int8-ort"))
SAMPLE = open_model(MODELS[0]).contract.samples[0]
PROVED = "#status.good, #status.bad"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

pytestmark = [pytest.mark.browser, pytest.mark.index]
# the score of a network that says `said` of images that are `truth`
SCORE = """async ({ labels, truth, said }) => {
  const { measureAccuracy } = await import("./testset.js");
  const run = async (batch) => {
    const logits = new Float32Array(batch.length * labels.length);
    batch.forEach((label, i) => { logits[i * labels.length + label] = 1; });
    return logits;
  };
  const test = { images: Uint8Array.from(said), labels: truth, n: said.length, sha256: null };
  const signal = new AbortController().signal;
  return measureAccuracy({ side: 1, contract: { labels }, prepare: (batch) => batch, run }, test,
                         { onProgress() {}, signal });
}"""


@pytest.fixture(scope="module")
def ort_web(tmp_path_factory):
    """Install onnxruntime-web by the committed lock, in a copy."""
    if not shutil.which("npm"):
        pytest.skip("no npm here")
    folder = tmp_path_factory.mktemp("npm")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(REPOSITORY / name, folder)
    run("npm", "ci", "--ignore-scripts", cwd=folder)
    return folder / "node_modules" / "onnxruntime-web"


@pytest.fixture(scope="module")
def folder(ort_web, tmp_path_factory):
    out = tmp_path_factory.mktemp("web") / "page"
    return bundle(BundleOptions(MODELS, target="web", ort_web=ort_web, out=out)).path


@pytest.fixture(scope="module")
def colours(ort_web, tmp_path_factory):
    """Pages of a model of 40 colours: with its test set, and without."""
    root = tmp_path_factory.mktemp("colours")
    return [
        page_models.colour_page(root / name, ort_web, has_tests=name == "whole")
        for name in ("whole", "bare")
    ]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            # a name that is not this computer's: an origin that browsers hold for insecure
            args=[
                "--no-sandbox",
                "--host-resolver-rules=MAP lan.test 127.0.0.1",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def show(browser, folder):
    """Return a function that serves a folder and opens it; each page must stay quiet."""
    noises, requests, ours = [], [], ["blob:"]
    with contextlib.ExitStack() as stack:

        def show(shown=folder, *, served=None, alias="", quiet=True, query="", **options):
            server = serve.PageServer(shown, ServeOptions(port=0, **(served or {})))
            stack.enter_context(server)
            threading.Thread(target=server.serve_forever, args=(0.01,)).start()
            stack.callback(server.shutdown)
            server.hosts.add(alias)
            url = server.urls[0].replace("127.0.0.1", alias or "127.0.0.1")
            context = browser.new_context(**{"viewport": DESKTOP, **options})
            stack.callback(context.close)
            page = context.new_page()
            if quiet:
                page.on("console", lambda message: noises.append(message.text))
                page.on("pageerror", lambda error: noises.append(str(error)))
            context.on("request", lambda request: requests.append(request.url))
            page.goto(url + query)
            ours.append(url)
            return page

        yield show
    assert noises == []
    assert [url for url in requests if not url.startswith(tuple(ours))] == []


@pytest.fixture
def page(show):
    return proved(show())


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


def assert_seen(page, encoded, invert=None):
    """Compare what the network of garments sees with what Python's would."""
    expected = preprocess.decode_picture(encoded, preprocess.FASHION_MNIST, invert=invert).pixels
    assert expected.std() > 0 or invert is False  # nothing in it is lighter
    values = page.evaluate(
        "() => [...document.getElementById('seen').getContext('2d')"
        ".getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 === 0)"
    )
    assert np.abs(np.reshape(values, (28, 28)) - expected).max() <= 2


@pytest.mark.parametrize("threads", [1, 2])
def test_every_model_proves_itself_and_scores_as_in_python(show, folder, test_set, threads):
    page = proved(show(query=f"?threads={threads}"))
    assert page.evaluate("() => crossOriginIsolated")
    assert page.input_value("#threads") == str(threads)
    for path in (folder / "models" / one.name for one in MODELS):
        page.select_option("#model", label=path.name)
        page.wait_for_selector("#status:not(:has-text('Opening'))")
        proved(page)
        checks = page.locator("#checks li").all_text_contents()
        assert len(checks) == 4
        assert all(check.startswith("✓") for check in checks)
        page.click("#score")
        page.wait_for_selector("#confusion table")
        rows = page.locator("#confusion tbody tr").all()
        found = [[int(text) for text in row.locator("td").all_text_contents()[:10]] for row in rows]
        assert np.sum(found) == 10_000
        expected = (Classifier(path)(test_set.images).labels == test_set.labels).sum()
        assert abs(np.trace(found) - expected) <= 3


def saved_result(page, folder):
    with page.expect_download() as download:
        page.click("#save")
    path = folder / "browser.json"
    download.value.save_as(path)
    return path


def test_result_is_of_the_declared_schema_and_judged_by_report(page, folder, tmp_path):
    empty = results.read(saved_result(page, tmp_path))
    assert (empty.latency, empty.accuracy) == ((), None)
    assert all(check.passed for check in empty.checks)
    assert empty.cold_start.processes[0].session_ms > 0
    page.click("#score")
    page.wait_for_selector("#confusion table")
    page.click("#bench")
    page.wait_for_selector("#latency table")
    shown = page.locator("#latency tbody tr").first.locator("td").all_text_contents()
    path = saved_result(page, tmp_path)
    strict = TypeAdapter(Result).validate_json(path.read_bytes(), strict=True)
    names = partial(re.findall, r'"(\w+)": ?')
    assert set(names(path.read_text())) <= set(names(json.dumps(as_json(strict))))
    assert [(row.percentiles_ms, row.verdict) for row in strict.latency] == [((), None)] * 2
    found = results.read(path)
    assert found.provider.obtained == "wasm"
    model = (folder / "models" / MODELS[0].name).read_bytes()
    assert found.model.model_sha256 == open_model(model).sha256
    assert found.accuracy.interval == stats.wilson_interval(found.accuracy.n_correct, 10_000)
    assert [row.batch_size for row in found.latency] == [1, 8]
    for row in found.latency:
        assert row.n_runs == len(row.samples_ns) == row.n_outputs_checked >= 130
        assert row.largest_output_error < 2e-5
        assert row.verdict is not None
    assert shown[2] == f"{found.latency[0].percentile(0.5).value:.3f}"
    assert found.verdict is not None
    results.write(tmp_path, "host.json")
    page_path = report(ReportOptions((tmp_path,), tmp_path / "report.html")).html_path
    assert "wasm" in page_path.read_text()


def test_percentiles_and_their_floors_are_those_of_python(page):
    floors = page.evaluate("async () => (await import('./latency.js')).FLOORS")
    assert floors == {str(p): stats.percentile_floor(p) for p in (0.5, 0.9, 0.99)}
    rng = np.random.default_rng(0)
    for n in (10, 11, 64, 700, 7000):
        samples = rng.integers(10**5, 10**6, n)
        found = page.evaluate(
            "async (ns) => { const { FLOORS, percentileMs } = await import('./latency.js')\n"
            "return Object.keys(FLOORS).map((p) => percentileMs(ns, p)) }",
            samples.tolist(),
        )
        assert found == [stats.percentile(samples / 1e6, float(p)).value for p in floors]


@pytest.mark.parametrize("n_classes", [MAX_MATRIX, MAX_MATRIX + 1])
def test_score_is_that_of_python_with_a_matrix_or_the_worst_pairs(page, n_classes):
    truth, said = np.random.default_rng(0).integers(0, n_classes, (2, 700))
    labels = [f"class {i}" for i in range(n_classes)]
    found = page.evaluate(SCORE, {"labels": labels, "truth": truth.tolist(), "said": said.tolist()})
    expected = as_json(accuracy.score(said, truth, tuple(labels)))
    assert found.pop("interval") == pytest.approx(expected.pop("interval"))
    assert found == {name: expected[name] for name in found}
    assert bool(found["confusion"]) != bool(found["confused"])


def test_wrong_outputs_of_timed_runs_are_no_numbers_to_believe(page):
    text = page.evaluate(
        "async () => { const { showLatency } = await import('./view.js')\n"
        "showLatency([{ batch_size: 1, n_runs: 1, images_per_s: 1, samples_ns: [1],"
        " timer_step_ns: 5000, largest_output_error: Infinity }], 1e-5)\n"
        "return document.getElementById('measured').textContent }"
    )
    assert text.startswith("INVALID: ")
    assert "n/a (needs 11 runs)" in page.inner_text("#latency")


def test_stop_ends_a_measurement_and_keeps_the_page_usable(page):
    page.click("#bench")
    page.click("#stop")
    page.wait_for_selector("#measured:has-text('Stopped')")
    assert page.is_hidden("#stop")
    assert page.is_enabled("#bench")


def test_picture_is_seen_as_python_sees_it_however_it_is_given(show, tmp_path):
    path = tmp_path / SAMPLE.name
    path.write_bytes(SAMPLE.encoded)
    page = proved(show())
    give = """([way, bytes, name]) => {
      const data = new DataTransfer()
      data.items.add(new File([new Uint8Array(bytes)], name))
      const event = way === 'drop'
        ? new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })
        : new ClipboardEvent('paste', { clipboardData: data, bubbles: true })
      document.body.dispatchEvent(event)
    }"""
    ways = [partial(page.set_input_files, f"#{name}", path) for name in ("file", "camera")]
    content = list(SAMPLE.encoded)
    ways += [partial(page.evaluate, give, [n, content, SAMPLE.name]) for n in ("drop", "paste")]
    label = Classifier(MODELS[0])(SAMPLE.pixels[None]).top(1)[0][0][0]
    for way in ways:
        answer(page, lambda: page.click("#test-image"))  # so that no way sees another's pixels
        assert answer(page, way).startswith(f"{SAMPLE.name}: {label}")
        assert_seen(page, SAMPLE.encoded)


def test_photograph_is_shown_beside_what_a_network_of_colours_sees_of_it(show, colours, tmp_path):
    page = proved(show(colours[0]))
    assert page.is_hidden("#invert-choice")
    assert page.is_hidden("#drawing")
    said = page.inner_text("#classes")
    assert said.startswith("It knows: pale red,")
    assert said.count(",") == 12
    assert page.inner_text("#more-classes summary") == "and 28 more"
    page.click("#more-classes summary")
    assert page.inner_text("#more-classes p").endswith(", dark pink.")
    y, x = np.mgrid[:3000, :2000]
    photograph = np.stack([x // 8, y // 12, (x // 100 + y // 100) % 2 * 80], axis=-1)
    path = tmp_path / "photo.png"
    Image.fromarray(photograph.astype(np.uint8)).save(path, compress_level=1)
    assert "photo.png: " in answer(page, lambda: page.set_input_files("#file", path))
    expected = page_models.crop(Image.open(path))
    found = page.evaluate(
        "() => [...document.getElementById('seen').getContext('2d')"
        ".getImageData(0, 0, 24, 32).data]"
    )
    found = np.array(found).reshape(32, 24, 4)[..., :3]
    assert np.abs(found - np.asarray(expected, int)).max() <= 2
    page.wait_for_selector("#own", state="visible")
    size = page.evaluate("() => [document.getElementById('given').width, given.height]")
    assert size == [427, 640]
    answer(page, lambda: page.click("#test-image"))
    page.wait_for_selector("#own", state="hidden")


def test_random_pictures_become_pythons_pixels_by_any_fit_and_filter(page, tmp_path):
    paths = page_models.oddities(tmp_path, 2)
    for channels, fit, kind in itertools.product(
        (1, 3), ("pad", "crop", "stretch"), ("area", "bilinear", "bicubic")
    ):
        how = preprocess.Preprocessing((12, 10), channels, fit=fit, filter=kind, share=0.9)
        found = page.evaluate(
            """async ([pictures, how]) => {
                const { decodePicture } = await import('./picture.js')
                const all = pictures.map((one) => decodePicture(new Uint8Array(one), how))
                return (await Promise.all(all)).map(({ pixels }) => [...pixels])
            }""",
            [[list(path.read_bytes()) for path in paths], how.document()],
        )
        for pixels, path in zip(found, paths, strict=True):
            expected = preprocess.to_pixels(path, how).pixels.astype(int)
            assert np.abs(np.reshape(pixels, how.shape) - expected).max() <= 2, (path.name, how)


def test_strips_of_a_photograph_are_read_and_never_all_of_it(show, colours):
    page = proved(show(colours[0]))
    most = page.evaluate(
        """async () => {
            const { fitBitmap } = await import('./picture.js')
            const { preprocessing } = await (await import('./contract.js')).readContract(
              new Uint8Array(await (await fetch('models/colours.onnx')).arrayBuffer()))
            const canvas = new OffscreenCanvas(6000, 4000)
            canvas.getContext('2d').fillRect(0, 0, 10, 10)
            const sizes = []
            const { getImageData } = OffscreenCanvasRenderingContext2D.prototype
            OffscreenCanvasRenderingContext2D.prototype.getImageData = function (x, y, w, h) {
              sizes.push(w * h)
              return getImageData.call(this, x, y, w, h)
            }
            fitBitmap(canvas.transferToImageBitmap(), preprocessing)
            return [Math.max(...sizes), sizes.reduce((a, b) => a + b)]
        }"""
    )
    assert most[0] < 300_000
    assert most[1] > 4000 * 3000 * 0.8


def test_answer_below_the_decision_or_on_a_busy_background_is_not_sure(page):
    doubts = page.evaluate(
        """async () => {
            const { findDoubt } = await import('./model.js')
            const decision = { threshold: 0.6, max_unevenness: 0.1 }
            return [[0.61, null, decision], [0.61, 0.1, decision], [0.99, 0.11, decision],
              [0.59, 0, decision], [0.61, 0.9, { ...decision, max_unevenness: null }],
              [0.1, 1, null],
            ].map(([share, unevenness, one]) => findDoubt([['Bag', share]], unevenness, one))
        }"""
    )
    busy, unlikely = (
        "no single object on a plain background",
        "below the 60 % that its answers need",
    )
    assert doubts == [None, None, busy, unlikely, None, None]


def test_picture_of_no_class_gets_no_label_but_the_closest(show, colours, tmp_path):
    page = proved(show(colours[0]))
    between = page_models.colour_values()[:2].mean(axis=0) * 255
    path = tmp_path / "between.png"
    Image.fromarray(np.full((60, 50, 3), between, np.uint8)).save(path)
    said = answer(page, lambda: page.set_input_files("#file", path))
    assert re.match(
        r"between.png: not sure: below the 50 % .* Closest: pale (red|orange), 4\d", said
    )
    assert page.locator("#bars li").count() == 10


def test_live_camera_classifies_what_is_in_its_frame_until_stopped(show, colours):
    page = proved(show(colours[0], permissions=["camera"]))
    said = answer(page, lambda: page.click("#live"))
    assert re.match(r"In the frame: (not sure: .*)?\w+ green", said)
    page.wait_for_selector("#rate:has-text(' frames/s, ')")
    assert float(page.inner_text("#rate").split()[0]) > 0
    ratio = page.evaluate(
        "() => { const box = document.getElementById('frame').getBoundingClientRect()\n"
        "return box.width / box.height }"
    )
    assert ratio == pytest.approx(24 / 32, abs=0.05)
    page.evaluate("() => { globalThis.track = video.srcObject.getTracks()[0] }")
    page.click("#stop-live")
    page.wait_for_selector("#view", state="hidden")
    assert page.evaluate("() => track.readyState") == "ended"
    assert page.is_enabled("#live")


def test_hidden_page_and_another_picture_let_go_of_the_camera(show, colours, tmp_path):
    page = proved(show(colours[0], permissions=["camera"]))
    path = tmp_path / "red.png"
    Image.new("RGB", (40, 40), "red").save(path)
    hide = "() => { Object.defineProperty(document, 'hidden', { get: () => true }) }"
    for end, said in (
        (lambda: page.set_input_files("#file", path), ""),
        (lambda: page.evaluate("() => track.stop()"), "the camera stopped; "),
        (lambda: page.evaluate(hide), "the camera was stopped when the page was hidden; "),
    ):
        answer(page, lambda: page.click("#live"))
        page.evaluate("() => { globalThis.track = video.srcObject.getTracks()[0] }")
        end()
        page.wait_for_function("() => track.readyState === 'ended'")
        page.wait_for_selector("#view", state="hidden")
        assert page.inner_text("#error").startswith(said)
        assert bool(said) == page.is_visible("#error")


@pytest.mark.parametrize(
    ("refusal", "said"),
    [("NotAllowedError", "was not allowed"), ("NotFoundError", "no camera"), ("Odd", "it broke")],
)
def test_no_camera_is_a_sentence_and_the_page_goes_on(show, colours, refusal, said):
    page = proved(show(colours[1]))
    page.evaluate(
        "(name) => { navigator.mediaDevices.getUserMedia = () => Promise.reject("
        "Object.assign(new Error('it broke'), { name })) }",
        refusal,
    )
    page.click("#live")
    page.wait_for_selector(f"#error:has-text('{said}; expected a camera')")
    assert page.is_hidden("#view")
    answer(page, page.locator("#samples button").first.click)
    assert page.is_hidden("#error")


def test_many_classes_show_the_worst_pairs_and_a_page_without_tests_still_measures(show, colours):
    page = proved(show(colours[0]))
    page.click("#score")
    page.wait_for_selector("#confusion table")
    rows = [row.inner_text().split("\t") for row in page.locator("#confusion tbody tr").all()]
    assert 1 <= len(rows) <= 10
    counts = [int(count) for *_, count, _ in rows]
    assert counts == sorted(counts, reverse=True)
    wrong = 200 - int(re.search(r"; (\d+) of 200", page.inner_text("#measured")).group(1))
    assert sum(counts) == wrong
    page = proved(show(colours[1]))
    assert page.is_hidden("#score")
    assert page.is_hidden("#test-image")
    page.click("#bench")
    page.wait_for_selector("#latency table")
    assert page.inner_text("#measured").startswith("Every run is kept")


def test_test_set_that_is_damaged_is_a_sentence_and_another_is_called_so(show, colours, tmp_path):
    shutil.copytree(colours[0], tmp_path / "page")
    path = tmp_path / "page" / archive.TEST_SET
    path.write_bytes(path.read_bytes()[:-9])
    page = proved(show(tmp_path / "page", quiet=False))
    page.click("#score")
    page.wait_for_selector("#error:has-text('the test set is damaged')")
    path.write_bytes(archive.encode_test_set(page_models.colour_set(120, seed=2)))
    page = proved(show(tmp_path / "page"))
    page.click("#score")
    page.wait_for_selector("#measured:has-text(' of 120), on other pictures than its export')")


def test_inversion_is_said_and_can_be_overruled(page):
    answer(page, page.locator("#samples button").first.click)
    said = page.inner_text("#seen-text")
    assert said.endswith(" grey, inverted, because it is darker than its background.")
    for choice, said in ("no", " not inverted, as asked."), ("yes", " inverted, as asked."):
        answer(page, lambda choice=choice: page.select_option("#invert", choice))
        assert page.inner_text("#seen-text").endswith(said)
        assert_seen(page, SAMPLE.encoded, invert=choice == "yes")


def test_drawing_is_classified_and_cleared(page):
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
    given = page.evaluate("() => document.getElementById('pad').toDataURL()")
    drawn = base64.b64decode(given.partition(",")[2])
    assert np.asarray(Image.open(io.BytesIO(drawn)).convert("L"))[140, 60] < 50
    assert_seen(page, drawn)
    page.click("#clear")
    pixels = "document.getElementById('pad').getContext('2d').getImageData(0, 0, 280, 280).data"
    assert page.evaluate(f"() => {pixels}.every((value) => value === 255)")


def test_test_image_comes_with_its_label(page):
    said = answer(page, lambda: page.click("#test-image"))
    assert said.startswith("Test image ")
    assert " It is: " in said
    assert "as it is" in page.inner_text("#seen-text")
    shares = page.locator("#bars li span:nth-child(2)").all_text_contents()
    assert sum(float(share.rstrip(" %")) for share in shares) == pytest.approx(100, abs=1)
    widths = page.evaluate(
        "() => [...document.querySelectorAll('#bars i')].map((bar) => bar.offsetWidth)"
    )
    assert widths[0] > 5 * widths[-1]


def test_bad_file_is_a_sentence_and_the_page_goes_on(page, tmp_path):
    refused = page_models.refused_pictures()
    refused["no picture that is known here"] = b""
    bad = {f"{what}; expected PNG, or JPEG": content for what, content in refused.items()}
    for said, content in (bad | {"damaged or too large": SAMPLE.encoded[:60]}).items():
        (tmp_path / "bad").write_bytes(content)
        page.set_input_files("#file", tmp_path / "bad")
        page.wait_for_selector(f"#error:has-text('bad is {said}')")
        assert re.search("next: (save it as PNG or JPEG|choose another)", page.inner_text("#error"))
        page.wait_for_selector("#answer:has-text('Nothing: the picture was refused.')")
        assert page.is_hidden("#shown")
        answer(page, page.locator("#samples button").first.click)
        assert page.is_hidden("#error")
    assert page.get_attribute("#file", "accept") == "image/png,image/jpeg"


@pytest.mark.parametrize("said", ["FAIL (digest", "FAIL (golden vectors", "upload it again"])
def test_wrong_model_fails_its_selftest_and_another_can_be_chosen(show, folder, tmp_path, said):
    out = tmp_path / "changed"
    shutil.copytree(folder, out)
    path = out / "models" / MODELS[0].name
    model = path.read_bytes()
    if "digest" in said:
        path.write_bytes(model[:5000] + bytes([model[5000] ^ 1]) + model[5001:])
    elif "golden" in said:
        path.write_bytes(faults.change_sealed(model, faults.nudge_one_weight))
    else:
        path.unlink()
    page = show(out, quiet=False)
    page.wait_for_selector(PROVED)
    assert said in page.inner_text("#status") + page.inner_text("#error")
    assert page.is_hidden("main")
    page.select_option("#model", label=MODELS[1].name)
    page.wait_for_selector("#status.good")
    assert page.is_visible("main")


@pytest.mark.parametrize(
    ("name", "said"),
    [("site.json", "site.json is damaged ("), ("ort/ort.wasm.min.mjs", "onnxruntime cannot be")],
)
@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"{}"])
def test_server_that_sends_something_else_is_told_in_a_sentence(
    show, folder, tmp_path, name, said, content
):
    out = tmp_path / "changed"
    shutil.copytree(folder, out)
    page = show(out, quiet=False)
    proved(page)
    page.route(f"**/{name}", lambda route: route.fulfill(body=content, content_type="text/html"))
    page.evaluate("navigator.serviceWorker.ready.then((one) => one.unregister())")
    page.reload()
    page.wait_for_selector("#status.bad")
    assert said in page.inner_text("#error")
    assert "; expected " in page.inner_text("#error")


def test_browser_without_wasm_is_told_what_it_needs(show):
    page = show(quiet=False)
    page.add_init_script("delete globalThis.WebAssembly")
    page.reload()
    page.wait_for_selector(PROVED)
    assert "this browser has no WebAssembly" in page.inner_text("#error")
    assert page.inner_text("#status") == "The page cannot work here."


def test_page_works_without_a_network_after_the_first_load(page):
    page.wait_for_selector("#offline:has-text('Works without a network')")
    page.context.set_offline(True)
    page.reload()
    proved(page)
    assert answer(page, lambda: page.click("#test-image")).startswith("Test image ")


def test_plain_http_works_with_one_thread_and_says_what_it_lacks(show, tmp_path):
    page = proved(show(alias="lan.test", quiet=False))
    assert not page.evaluate("() => isSecureContext")
    assert page.inner_text("#status") == "Self-test: PASS; digest not checked: needs HTTPS"
    assert page.locator("#checks li").first.text_content().startswith("– digest: not checked")
    assert "threads need HTTPS" in page.inner_text("#threads-text")
    page.wait_for_selector("#offline:has-text('Needs the network each time')")
    assert answer(page, lambda: page.click("#test-image")).startswith("Test image ")
    path = tmp_path / SAMPLE.name
    path.write_bytes(SAMPLE.encoded)
    for name in ("file", "camera"):  # that of the system, which a page needs no permission for
        given = partial(page.set_input_files, f"#{name}", path)
        assert answer(page, given).startswith(f"{SAMPLE.name}: ")
    assert page.is_hidden("#view")
    page.click("#live")
    page.wait_for_selector("#error:has-text('over plain HTTP no live camera; expected a camera')")
    page.click("#score")
    page.wait_for_selector("#confusion table")
    found = results.read(saved_result(page, tmp_path))
    assert found.model.model_sha256 is found.machine.id is None
    assert [check.skipped for check in found.checks] == [True, False, False, False]
    results.write(tmp_path, "host.json")
    assert "wasm" in report(ReportOptions((tmp_path,), tmp_path / "x.html")).html_path.read_text()


def test_own_certificate_gives_threads_and_digest(show, tmp_path):
    cert, key = self_signed(tmp_path)
    served = {"cert": cert, "key": key}
    # the worker, and so use without a network, needs a certificate that the browser knows
    page = proved(show(served=served, quiet=False, alias="lan.test", ignore_https_errors=True))
    assert page.url.startswith("https://lan.test:")
    assert page.evaluate("() => isSecureContext && crossOriginIsolated")
    assert page.locator("#checks li").first.text_content().startswith("✓ digest")


def test_server_without_the_headers_gets_threads_from_the_second_load(show, monkeypatch):
    monkeypatch.setattr(serve, "HEADERS", {})
    page = proved(show())
    assert not page.evaluate("() => crossOriginIsolated")
    assert "the page is not isolated. Reload it once" in page.inner_text("#threads-text")
    page.wait_for_selector("#offline:has-text('Works without a network')")
    page.reload()
    proved(page)
    assert page.evaluate("() => crossOriginIsolated")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_shows_everything_within_its_width_and_readably(show, scheme, tmp_path):
    page = proved(show(viewport=PHONE, color_scheme=scheme, has_touch=True, is_mobile=True))
    answer(page, page.locator("#samples button").nth(1).tap)
    page.click("#score")
    page.wait_for_selector("#confusion table")
    assert page.evaluate("() => document.documentElement.scrollWidth") == PHONE["width"]
    assert page.evaluate(CONTRAST) >= 4.5
    sizes = page.evaluate(
        "() => [...document.querySelectorAll('button:not([hidden]), .button, select')]"
        ".map((part) => part.getBoundingClientRect().height)"
    )
    assert min(size for size in sizes if size) >= 44


def test_keyboard_reaches_every_control_and_each_has_a_name(page):
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement.id"))
    wanted = {"file", "camera", "live", "test-image", "model", "bench", "score", "save", "threads"}
    assert wanted <= reached
    nameless = page.evaluate(
        "() => [...document.querySelectorAll('button, input, select, canvas, progress')]"
        ".filter((part) => !(part.textContent.trim() || part.ariaLabel || part.labels?.length"
        " || part.getAttribute('aria-label') || part.closest('[aria-label]'))).length"
    )
    assert nameless == 0
