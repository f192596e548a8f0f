"""The app in a real Chromium: the whole way of a visitor, and nothing that leaves the machine."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from sr3.ui.portraits import PORTRAITS, draw
from tests import study_table
from tests.app_server import make_checkpoints

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = os.environ.get("SR3_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
QUIET = [
    "--no-sandbox", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip
expect.set_options(timeout=30_000)  # a busy machine is no failure
SETTLED = "[data-testid='stApp'][data-test-script-state='notRunning']"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        reason = f"Chromium is missing ({CHROMIUM}): install it, or set SR3_CHROMIUM."
        if os.environ.get("SR3_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(chromium, tmp_path_factory) -> Iterator[str]:
    """The app, served with a small untrained network on a free port, without LPIPS."""
    checkpoints = make_checkpoints(tmp_path_factory.mktemp("checkpoints"))
    study_table.write(checkpoints, "whole")
    with served(checkpoints) as found:
        yield found


@contextmanager
def served(
    checkpoints: Path, module: str = "tests.app_server", **environment: str
) -> Iterator[str]:
    """The address of the app on a free port, with a registry folder and without LPIPS."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = os.environ | {"SR3_LPIPS_WEIGHTS": str(checkpoints / "none.pth")} | environment
    log = (checkpoints / "server.log").open("w+")
    server = subprocess.Popen(
        [sys.executable, "-m", module, str(checkpoints), str(port)],
        cwd=ROOT, env=given, stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        _await_health(f"http://127.0.0.1:{port}", server, Path(log.name))
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)
        log.close()


def _await_health(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the app did not start: {log.read_text()[-500:]}")


class Watch:
    """Everything that must not happen while a page is open."""

    def __init__(self, page: Page) -> None:
        self.faults: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.faults.append(f"script error: {error}"))
        page.on("request", self._request)
        page.on("response", self._response)

    def _console(self, message) -> None:
        if message.type == "error":
            self.faults.append(f"console: {message.text}")

    def _request(self, request) -> None:
        url = urllib.parse.urlsplit(request.url)
        if url.scheme not in ("data", "blob") and url.hostname not in ("127.0.0.1", "localhost"):
            self.faults.append(f"left the machine: {request.url}")

    def _response(self, response) -> None:
        if response.status >= 400:
            self.faults.append(f"{response.status} from {response.url}")


@pytest.fixture
def page(chromium, address) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.set_default_timeout(30_000)
    watch = Watch(page)
    page.goto(address)
    expect(page.get_by_text("Ready.")).to_be_visible(timeout=60_000)
    yield page
    context.close()
    assert watch.faults == []


def run_to_end(page: Page) -> None:
    page.get_by_role("button", name="Super-resolve").click()
    expect(page.get_by_text("Done: 16 × 16").first).to_be_visible()
    page.wait_for_selector(SETTLED)


def picture() -> bytes:
    out = io.BytesIO()
    face = draw(PORTRAITS[2]).resize((300, 300))
    face.save(out, "JPEG", exif=_exif())
    return out.getvalue()


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "a secret description"
    return exif.tobytes()


def test_choose_run_scrub_compare_download(page, tmp_path):
    page.get_by_role("radio", name="Ines").check(force=True)
    expect(page.get_by_role("radio", name="Ines")).to_be_checked()
    run_to_end(page)
    divider = page.get_by_role("slider", name="Before and after")
    divider.press("ArrowRight")
    expect(divider).to_have_attribute("aria-valuetext", "51 % bicubic")
    timeline = page.get_by_role("slider", name="Step of the run")
    timeline.press("Home")
    expect(page.get_by_text("Step 1 of 10")).to_be_visible()
    timeline.press("End")
    expect(page.get_by_text("Done: 16 × 16").first).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download PNG").click()
    path = tmp_path / "result.png"
    download.value.save_as(path)
    assert download.value.suggested_filename == "sr3-tiny-seed0.png"
    with Image.open(path) as image:
        assert image.format == "PNG" and image.size == (128, 128) and image.info == {}
    chunks = path.read_bytes()
    assert not any(name in chunks for name in (b"tEXt", b"iTXt", b"eXIf", b"tIME"))


def test_stop_and_run_again(page):
    page.get_by_text("Settings").click()
    steps = page.get_by_role("slider", name="Steps")
    steps.press("End")
    page.wait_for_selector(SETTLED)
    page.get_by_role("button", name="Super-resolve").click()
    expect(page.get_by_text("% noise").first).to_be_visible()
    page.wait_for_timeout(400)  # a second click that comes sooner is a double click
    page.get_by_role("main").get_by_role("button", name="Stop").click()
    expect(page.get_by_text("what was there is kept").first).to_be_visible()
    steps.press("Home")
    page.wait_for_selector(SETTLED)
    page.get_by_role("button", name="Super-resolve").click()
    expect(page.get_by_text("in 1 step.").first).to_be_visible()


def test_upload_a_good_and_a_bad_file(page):
    page.get_by_role("tab", name="Upload").click()
    chooser = page.locator("input[type=file]")
    chooser.set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"<svg/>"})
    box = page.get_by_role("alert")
    expect(box).to_have_count(1)
    assert box.inner_text().strip().endswith(".") and "Traceback" not in box.inner_text()
    expect(page.get_by_role("button", name="Super-resolve")).to_be_disabled()
    chooser.set_input_files({"name": "b.jpg", "mimeType": "image/jpeg", "buffer": picture()})
    expect(page.get_by_text("Ready.")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    run_to_end(page)


def test_nothing_moves_when_frames_arrive(page):
    squares = page.locator("figure .square")
    before = [squares.nth(k).bounding_box() for k in range(4)]
    page.get_by_role("button", name="Super-resolve").click()
    expect(page.get_by_text("% noise").first).to_be_visible()
    assert page.get_by_role("button", name="Super-resolve").count() == 0
    during = [squares.nth(k).bounding_box() for k in range(4)]
    expect(page.get_by_text("Done: 16 × 16").first).to_be_visible()
    after = [squares.nth(k).bounding_box() for k in range(4)]
    corners = np.array([[list(box.values()) for box in boxes] for boxes in (before, during, after)])
    assert np.abs(corners - corners[0]).max() < 1


def go_to(page: Page, name: str) -> None:
    page.get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()
    page.wait_for_selector(SETTLED)


def test_choose_a_mark_and_download_its_table(page):
    go_to(page, "Fine-tuning")
    page.get_by_role("tab", name="What does it cost?").click()
    chart = page.locator(".js-plotly-plot").first
    expect(chart).to_be_visible()
    place = chart.evaluate(
        """plot => {
          const k = plot.data.findIndex(trace => trace.name === 'with replay')
          const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect()
          return [box.left + xaxis._offset + xaxis.d2p(plot._fullData[k].x[0]),
                  box.top + yaxis._offset + yaxis.d2p(plot._fullData[k].y[0])]
        }"""
    )
    page.mouse.click(*place)
    expect(page.get_by_text("25% of each batch")).to_be_visible()
    page.get_by_text("Table", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "sr3-forgetting-anime.csv"
    with page.expect_download() as download:
        page.locator(".modebar-btn").first.click()
    assert download.value.suggested_filename == "sr3-forgetting-anime.png"
