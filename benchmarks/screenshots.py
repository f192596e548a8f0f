"""Pictures of every page and state into screenshots/: `python -m benchmarks.screenshots`.

Desktop, phone and 4K stand, light and dark; with `--checkpoints DIR` the app is served with that
registry folder, and `--scheme`, `--size`, `--page` limit what is made. `--docs` puts the README's
pictures, which hold no face but the astronaut and drawn ones, from the folder into docs/.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"desktop": (1440, 900), "phone": (390, 844), "stand": (3840, 2160)}
SCHEMES = ("light", "dark")
SETTLED = "[data-testid='stApp'][data-test-script-state='notRunning']"
OTHERS = {  # page: a text of it
    "Domains": "Does it generalize?",
    "Fine-tuning": "How little is enough",
    "Checkpoints": "Networks run here on",
    "About": "Licence and data",
}
RUNS = {  # page: tab -> its button, and what it says at the end
    "Compare": {"": ("Compare", "Done: same face")},
    "Inside": {
        "The chain": ("Run the chain", "Now scrub"), "Samples": ("Draw samples", "Done: all"),
        "Consistency": ("Run both", "Done: reduced"), "Step counts": ("Run them", "Done: where"),
    },
}  # fmt: skip
FIRST, POSTER = "Super-resolve", "Poster"
PAGES = (FIRST, *RUNS, *OTHERS, POSTER)
DOCS = {  # the README's picture: the screenshot, and how many pixels of its height
    "app": ("desktop-light-result", 900), "compare": ("desktop-light-compare-1", 1440),
    "inside": ("desktop-light-inside-1", 1090), "poster": ("desktop-light-poster-0", 900),
    "fine-tuning": ("desktop-light-fine-tuning-1", 960),
}  # fmt: skip
MOST = 400_000  # bytes of each
PATIENCE = 300_000  # milliseconds: a busy machine takes its time
SERVE = """
import sys, pathlib, sr3.checkpoints
from streamlit.web import cli
from sr3.ui import live, tour
live.AT_ONCE = tour.SHOWN = False
if sys.argv[2]: sr3.checkpoints.ROOT = pathlib.Path(sys.argv[2])
sys.argv = ["streamlit", "run", "app.py", "--server.headless=true", "--server.port=" + sys.argv[1],
            "--server.address=127.0.0.1", "--server.fileWatcherType=none"]
cli.main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", default="", help="a folder with a registry.toml")
    parser.add_argument("--out", type=Path, default=ROOT / "screenshots")
    parser.add_argument("--size", choices=SIZES, help="only this one")
    parser.add_argument("--scheme", choices=SCHEMES, help="only this one")
    parser.add_argument("--page", choices=PAGES, action="append", help="only these")
    parser.add_argument("--docs", action="store_true", help="only fill docs/ from the folder")
    options = parser.parse_args()
    if options.docs:
        fill_docs(options.out)
        return
    pages = options.page or list(PAGES)
    options.out.mkdir(exist_ok=True)
    port = free_port()
    with in_browser(["-c", SERVE, str(port), options.checkpoints], port) as (_, browser, address):
        for size in [options.size] if options.size else SIZES:
            for scheme in [options.scheme] if options.scheme else SCHEMES:
                take(browser, address, size, scheme, options.out, pages)


@contextmanager
def in_browser(
    arguments: Sequence[str], port: int, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], Browser, str]]:
    """A server by Python's `arguments` that listens at `port`, a Chromium, the address."""
    server = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=os.environ | environment)
    address = f"http://127.0.0.1:{port}"
    try:
        await_health(address, server)
        with sync_playwright() as playwright:
            chromium = os.environ.get("SR3_CHROMIUM") or shutil.which("chromium")
            yield (
                server,
                playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]),
                address,
            )
    finally:
        server.terminate()
        server.wait(20)


def take(
    browser: Browser, address: str, size: str, scheme: str, out: Path, pages: list[str]
) -> None:
    """All states of some pages at one size and in one scheme."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=size == "phone"
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    page.goto(address)
    expect(page.get_by_text("Ready.")).to_be_visible()
    page.wait_for_selector(SETTLED)
    if FIRST in pages:
        first(page, out, size, scheme)
    runs(page, out, size, scheme, pages)
    if POSTER in pages:
        slides(page, out, size, scheme)
    others(page, address, out, size, scheme, pages)
    context.close()


def first(page: Page, out: Path, size: str, scheme: str) -> None:
    """The first page: before, in and after a run."""
    page.wait_for_timeout(800)
    start = page.get_by_role("button", name="Super-resolve")
    page.screenshot(path=out / f"{size}-{scheme}-idle.png")
    began = time.perf_counter()
    start.click()
    expect(page.get_by_text("% noise").first).to_be_visible()
    first = time.perf_counter() - began
    page.wait_for_timeout(300)
    page.screenshot(path=out / f"{size}-{scheme}-running.png")
    expect(page.get_by_text("Done:").first).to_be_visible()
    print(f"{size} {scheme}: first frame {first:.2f} s, done {time.perf_counter() - began:.2f} s")
    expect(page.get_by_text("LPIPS:").last).to_contain_text(re.compile("AlexNet|not available"))
    page.wait_for_selector(SETTLED)
    page.screenshot(path=out / f"{size}-{scheme}-result.png")
    whole(page, out / f"{size}-{scheme}-result-whole.png", SIZES[size][0])


def others(page: Page, address: str, out: Path, size: str, scheme: str, pages: list[str]) -> None:
    """The pages without a run, tab after tab."""
    width, height = SIZES[size]
    page.goto(address)
    for name, text in OTHERS.items():
        if name not in pages:
            continue
        page.set_viewport_size({"width": width, "height": height})
        page.goto(f"{address}/{name}")
        expect(page.get_by_text(text).first).to_be_visible()
        tabs = page.get_by_role("tab").count()
        for number in range(max(tabs, 1)):
            if tabs:
                page.set_viewport_size({"width": width, "height": height})
                page.get_by_role("tab").nth(number).click()
            page.wait_for_timeout(500)  # the script starts
            page.wait_for_selector(SETTLED)
            page.wait_for_timeout(1500)  # and the charts are drawn
            tab = f"-{number + 1}" if tabs else ""
            whole(page, out / f"{size}-{scheme}-{name.lower()}{tab}.png", width)


def runs(page: Page, out: Path, size: str, scheme: str, pages: list[str]) -> None:
    """Compare, and each part of Inside, after a run."""
    width, height = SIZES[size]
    for name, parts in RUNS.items():
        if name not in pages:
            continue
        page.set_viewport_size({"width": width, "height": height})
        page.get_by_role("link", name=name, exact=True).click()
        for number, (tab, (button, done)) in enumerate(parts.items(), 1):
            page.set_viewport_size({"width": width, "height": height})
            if tab:
                page.get_by_role("tab", name=tab).click()
            page.wait_for_selector(SETTLED)
            page.get_by_role("button", name=button, exact=True).click()
            expect(page.get_by_text(done).first).to_be_visible()
            if tab == "The chain":  # its middle tells more than its end
                timeline = page.get_by_role("slider", name="Step of the run")
                for key in ("Home", *["ArrowRight"] * 3):
                    timeline.press(key)
            page.wait_for_timeout(1500)  # the rest of the page follows
            page.wait_for_selector(SETTLED)
            whole(page, out / f"{size}-{scheme}-{name.lower()}-{number}.png", width)


def slides(page: Page, out: Path, size: str, scheme: str) -> None:
    """The poster's loop and its slides."""
    page.set_viewport_size(dict(zip(("width", "height"), SIZES[size], strict=True)))
    page.get_by_role("link", name="Poster", exact=True).click()
    expect(page.locator(".reel .caption")).to_contain_text("seed")
    for number in range(6):
        expect(page.locator(".where")).to_have_text(f"{number} of 5" if number else "Start")
        page.wait_for_selector(SETTLED)
        page.wait_for_timeout(1500)
        page.screenshot(path=out / f"{size}-{scheme}-poster-{number}.png")
        page.keyboard.press("ArrowRight")


def whole(page: Page, path: Path, width: int) -> None:
    """The page from top to bottom: Streamlit scrolls inside the window, so the window grows."""
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": width, "height": height})
    page.wait_for_timeout(400)
    page.screenshot(path=path)


def fill_docs(folder: Path) -> None:
    """The README's pictures, in 256 colours."""
    for name, (shot, height) in DOCS.items():
        with Image.open(folder / f"{shot}.png") as image:
            top = image.convert("RGB").crop((0, 0, image.width, min(height, image.height)))
        path = ROOT / "docs" / f"{name}.png"
        top.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
            path, optimize=True
        )
        if path.stat().st_size > MOST:
            raise SystemExit(f"{path} has {path.stat().st_size:,} bytes: over {MOST:,}.")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def await_health(address: str, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise SystemExit("the app did not start")


if __name__ == "__main__":
    main()
