"""The report's page in a real browser."""

import re
import shutil

import pytest
import results as made
from contrast import CONTRAST

from convnet_edge.reporting.options import ReportOptions
from convnet_edge.reporting.report import report


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_opened_from_disk_is_quiet_fits_a_phone_and_reads_well(tmp_path, scheme):
    from playwright.sync_api import sync_playwright

    made.write(tmp_path, "a.json", reasons=[made.NOISY], model__name="long-name-" * 12 + ".onnx")
    made.write(tmp_path, "b.json", failed="golden vectors: " + "x" * 300, latency=[])
    made.write(tmp_path, "c.json", machine__id="f" * 16, verdict__status="INVALID")
    url = report(ReportOptions((tmp_path,), tmp_path / "report.html")).html_path.as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 360, "height": 780}, color_scheme=scheme)
        noises, requests = [], []
        page.on("console", lambda message: noises.append(message.text))
        page.on("pageerror", lambda error: noises.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(url)
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        width = page.evaluate("document.documentElement.scrollWidth")
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        n_scrolling = page.evaluate(
            "[...document.querySelectorAll('.scroll')]"
            ".filter(part => part.scrollWidth > part.clientWidth).length"
        )
        smallest_contrast = page.evaluate(CONTRAST)
        text_px = page.evaluate(
            "Math.min(...[...document.querySelectorAll('svg text')]"
            ".map(text => text.getBoundingClientRect().height))"
        )
        browser.close()
    assert noises == []
    assert requests == [url]
    assert width == 360
    assert n_scrolling > 0
    brightness = max(map(int, re.findall(r"\d+", background)))
    assert brightness < 40 if scheme == "dark" else brightness == 255
    assert smallest_contrast >= 4.5
    assert text_px >= 8
