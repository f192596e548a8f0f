"""What the browser tests share: the served app and its moods, pages under watch, and waits that
last until the state is there.

Streamlit answers an action a while later, draws a page from top to bottom, and says that its script
has ended before it has begun the next run. So a test waits for the run that its action asks for
(`rerun`), and clicks what no longer moves (`press`): on a busy machine nothing else is sure.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import axe_playwright_python
import pillow_heif
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, BrowserType, Locator, Page, expect

from sr3.ui.portraits import PORTRAITS, draw

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = os.environ.get("SR3_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
QUIET = [
    "--no-sandbox", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--disable-gpu",
]  # fmt: skip
# Rules of axe-core that depend on the colours, and the others: settings of `axe.run`.
COLOURS = "runOnly: ['color-contrast', 'link-in-text-block']"
SHAPES = "rules: { 'color-contrast': { enabled: false }, 'link-in-text-block': { enabled: false } }"
AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
SIZES = {"desktop": (1440, 900), "phone": (390, 844), "stand": (3840, 2160)}
SETTLED = "[data-testid='stApp'][data-test-script-state='notRunning']"
PATIENCE = 60_000  # milliseconds: a busy machine is no failure
expect.set_options(timeout=PATIENCE)
# A step of a slow run that comes when a second press is no double click any more.
LATER = re.compile(r"Step ([4-9]|\d\d+) of 200")
# Counts the script's runs, and its fragments', that have ended, from the server's messages: on the
# page a short run may go by in one frame. Field 6 of a message is `script_finished`; its value 2
# says that the next run follows at once.
COUNT_RUNS = """(() => {
  window.sr3Runs = 0
  const ended = (bytes) => {
    let at = 0
    const number = () => {
      for (let value = 0, scale = 1; ; scale *= 128) {
        const byte = bytes[at++]
        value += (byte & 127) * scale
        if (!(byte & 128)) return value
      }
    }
    while (at < bytes.length) {
      const tag = number(), value = number()
      if (tag === 48) return value !== 2
      if (tag % 8 === 2) at += value
      else if (tag % 8) return false
    }
    return false
  }
  window.WebSocket = class extends WebSocket {
    constructor(...given) {
      super(...given)
      this.addEventListener('message', ({ data }) => {
        if (data instanceof ArrayBuffer && ended(new Uint8Array(data))) window.sr3Runs += 1
      })
    }
  }
})()"""
# Resolved once an element has kept its place for FRAMES frames in which nothing was animated, or
# after so many frames: a page that polls may never be without a fade.
STILL = """(element, most) => new Promise((done) => {
  const FRAMES = 8
  let still = 0, before = '', left = most ?? 600
  const look = () => {
    const { x, y, width, height } = element.getBoundingClientRect()
    const now = [x, y, width, height].join()
    const moving = document.getAnimations().some((each) =>
      each.playState === 'running' && each.effect.getComputedTiming().endTime !== Infinity)
    still = now === before && !moving ? still + 1 : 0
    before = now
    left -= 1
    if (still < FRAMES && left) requestAnimationFrame(look); else done()
  }
  look()
})"""
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


# -------------------------------------------------------------------------------------- the server
@dataclass(frozen=True)
class Stand:
    """The app as it is served for tests, and its folder."""

    address: str
    folder: Path

    @contextmanager
    def mood(self, *names: str) -> Iterator[None]:
        """The moods of `tests.app_server` for a while."""
        for name in names:
            (self.folder / name).touch()
        try:
            yield
        finally:
            for name in names:
                (self.folder / name).unlink(missing_ok=True)

    def diary(self) -> list[list[str]]:
        """The words of each line so far."""
        file = self.folder / "diary.txt"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


@contextmanager
def served(folder: Path) -> Iterator[Stand]:
    """The app on a free port, with a registry folder and without LPIPS."""
    port, log = free_port(), folder / "server.log"
    environment = os.environ | {
        "SR3_LPIPS_WEIGHTS": str(folder / "none.pth"), "PYTHONFAULTHANDLER": "1",
    }  # fmt: skip
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.app_server", str(folder), str(port)],
            cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
        with serving(server, f"http://127.0.0.1:{port}", log):
            yield Stand(f"http://127.0.0.1:{port}", folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(server: subprocess.Popen, address: str, log: Path) -> Iterator[float]:
    """Wait until a server is healthy, and end it afterwards; the seconds that it took."""
    context = ssl._create_unverified_context() if address.startswith("https") else None
    began = time.monotonic()
    try:
        while time.monotonic() - began < 90:
            assert server.poll() is None, log.read_text()
            try:
                with urllib.request.urlopen(
                    f"{address}/_stcore/health", timeout=2, context=context
                ) as answer:
                    assert answer.read() == b"ok"
                    break
            except OSError:
                time.sleep(0.1)
        else:
            pytest.fail(f"not healthy after 90 s: {log.read_text()[-500:]}")
        yield time.monotonic() - began
    finally:
        end(server, log)


def end(server: subprocess.Popen, log: Path, patience: float = 60) -> None:
    """Tell a server to stop; one that does not fails, with where its threads are."""
    server.terminate()
    try:
        server.wait(patience)
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGABRT)  # faulthandler: all stacks into the log
        server.wait(patience)
        pytest.fail(f"not stopped after {patience} s: {log.read_text()[-5000:]}")


# ----------------------------------------------------------------------------------------- a page
def launch(kind: BrowserType, *flags: str) -> Browser:
    """Debian's Chromium; without it the tests are skipped, or fail where it is required."""
    if not Path(CHROMIUM).exists():
        reason = f"Chromium is missing ({CHROMIUM}): install it, or set SR3_CHROMIUM."
        if os.environ.get("SR3_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return kind.launch(executable_path=CHROMIUM, args=[*QUIET, *flags])


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


def new_context(
    browser: Browser, size: str = "desktop", scheme: str = "light", **more: object
) -> BrowserContext:
    """A browser that was never here, at a size and in a scheme."""
    context = browser.new_context(viewport=viewport(size), color_scheme=scheme, **more)
    context.add_init_script(COUNT_RUNS)
    context.set_default_timeout(PATIENCE)
    return context


def viewport(size: str) -> dict[str, int]:
    return dict(zip(("width", "height"), SIZES[size], strict=True))


@contextmanager
def rerun(page: Page) -> Iterator[None]:
    """What is done inside makes the script run: wait until it has."""
    before = page.evaluate("window.sr3Runs")
    yield
    page.wait_for_function("before => window.sr3Runs > before", arg=before)
    page.evaluate(DRAWN)
    page.wait_for_selector(SETTLED)


def wait_for_quiet(page: Page, seconds: float, most: float = 20) -> None:
    """Until the script has not run for so long: something may still be loaded, but no poll may
    go on for `most` seconds."""
    for _ in range(int(most / seconds)):
        runs = page.evaluate("window.sr3Runs")
        page.wait_for_timeout(1000 * seconds)
        if page.evaluate("window.sr3Runs") == runs:
            return
    raise AssertionError("the script still runs again and again")


def press(button: Locator, **how: object) -> None:
    """Click what no longer moves, once the script rests: between the press and the release of a
    mouse an expander that opens, or a chart that is drawn anew, would push it away."""
    button.page.wait_for_selector(SETTLED)
    button.scroll_into_view_if_needed()
    button.evaluate(STILL)
    button.click(**how)


def turn_to(page: Page, name: str) -> None:
    """Another page of the app, by its link."""
    page.wait_for_selector(SETTLED)
    with rerun(page):
        page.get_by_role("link", name=name, exact=True).click()


def turn_tab(page: Page, name: str) -> None:
    """Another tab, of those whose script runs when they are opened."""
    page.wait_for_selector(SETTLED)
    with rerun(page):
        page.get_by_role("tab", name=name).click()


def choose(page: Page, label: str, option: str) -> None:
    """An option of a select box, single or multiple: a list that opens while the page is drawn
    closes again, so it is opened until the option is there."""
    page.wait_for_selector(SETTLED)
    box, wanted = page.get_by_role("combobox", name=label), page.get_by_role("option", name=option)
    for _ in range(20):
        box.click()
        try:
            expect(wanted).to_be_visible(timeout=2_000)
            break
        except AssertionError:
            page.keyboard.press("Escape")
    with rerun(page):
        wanted.click()


# ------------------------------------------------------------------------------------ what is seen
def faults(page: Page, state: str, size: str, scheme: str, rules: str | None) -> list[str]:
    """What is wrong with a page at a size and in a scheme, once no transition runs: by axe-core's
    `rules` (None: none of them), and what is wider than the screen."""
    page.set_viewport_size(viewport(size))
    page.emulate_media(color_scheme=scheme)
    page.locator("html").evaluate(STILL, 60)
    name = f"{state}, {size}, {scheme}"
    found = [] if rules is None else serious(page, name, rules)
    wide = overhang(page)
    return [*found, f"{name}: {wide} pixels too wide"] if wide > 0 else found


def overhang(page: Page) -> int:
    """By how many pixels the page is wider than the screen."""
    main = "document.querySelector('[data-testid=stMain]')"
    return int(page.evaluate(f"{main} ? {main}.scrollWidth - innerWidth : 0"))


def serious(page: Page, name: str, rules: str = "") -> list[str]:
    """What axe-core calls serious or critical, by all its rules or those of `COLOURS`, `SHAPES`."""
    if not page.evaluate("'axe' in window"):
        page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
    settings = f"{{ resultTypes: ['violations'], preload: false, {rules} }}"
    # Streamlit's own sign that a script runs is left out: it comes and fades at any time.
    rest = "{ include: document, exclude: [['[data-testid=stStatusWidget]']] }"
    report = page.evaluate(f"axe.run({rest}, {settings})")
    return [
        f"{name}: {each['id']}: {node['html'][:160]}"
        for each in report["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def photograph(kind: str = "jpeg", person: int = 2, size: int = 300) -> dict[str, Any]:
    """A drawn face as a file to upload; a JPEG has a secret in it."""
    out, face = io.BytesIO(), draw(PORTRAITS[person]).resize((size, size))
    if kind == "heic":
        pillow_heif.from_pillow(face).save(out, quality=95)
    else:
        exif = Image.Exif()
        exif[0x010E] = "a secret description"
        face.save(out, kind, exif=exif)
    name = f"{person}.{kind}"
    return {"name": name, "mimeType": f"image/{kind}", "buffer": out.getvalue()}
