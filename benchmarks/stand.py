"""A day at the stand, shortened: `python -m benchmarks.stand --minutes 30`.

Scripted visitors drive the poster page (slides by key, a run of their own, a rest until it goes
home), while the memory of the server and of the browser's page is written down once a round. The
last line compares the second half of the time with the first: flat memory means about 0.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import CDPSession, Page, expect, sync_playwright

from benchmarks.screenshots import ROOT, SERVE, SETTLED, await_health, free_port

HOME_AFTER = 15  # seconds: a round is short, and a run ends within it on a busy machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--checkpoints", default="", help="a folder with a registry.toml")
    options = parser.parse_args()
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(port), options.checkpoints], cwd=ROOT,
        env=os.environ | {"SR3_POSTER_HOME": str(HOME_AFTER)},
    )  # fmt: skip
    try:
        await_health(f"http://127.0.0.1:{port}", server)
        with sync_playwright() as playwright:
            chromium = os.environ.get("SR3_CHROMIUM") or shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.set_default_timeout(120_000)
            expect.set_options(timeout=120_000)
            page.goto(f"http://127.0.0.1:{port}/?page=poster")
            expect(page.locator(".reel .caption")).to_contain_text("seed")
            watch(page, server.pid, 60 * options.minutes)
    finally:
        server.terminate()
        server.wait(20)


def watch(page: Page, pid: int, seconds: float) -> None:
    """Rounds until the time is over, with the memory after each."""
    developer = page.context.new_cdp_session(page)
    began, rows = time.monotonic(), []
    while (now := time.monotonic() - began) < seconds:
        visit(page)
        rows.append((now, resident(pid), heap(developer)))
        held = developer.send("Memory.getDOMCounters")
        print(
            "{:7.0f} s   server {:6.0f} MB   page {:6.1f} MB".format(*rows[-1]),
            f"  {held['nodes']} nodes, {held['jsEventListeners']} listeners", flush=True,
        )  # fmt: skip
    half = len(rows) // 2
    early, late = rows[half // 2 : half], rows[half + half // 2 :]  # what warms up is left out
    for name, place in (("server", 1), ("page", 2)):
        means = [sum(row[place] for row in part) / max(len(part), 1) for part in (early, late)]
        print(
            f"{name}: {means[0]:.1f} MB in the first half, {means[1] - means[0]:+.1f} in the second"
        )


def visit(page: Page) -> None:
    """One visitor: the slides, a run, and the way home by itself."""
    for number in range(1, 6):
        page.keyboard.press("ArrowRight")
        expect(page.locator(".where")).to_have_text(f"{number} of 5")
        page.wait_for_selector(SETTLED)
    page.get_by_role("button", name="Super-resolve").click()
    expect(page.get_by_text("Done: 16").first).to_be_visible()
    expect(page.locator(".where")).to_have_text("Start")
    page.wait_for_selector(SETTLED)


def resident(pid: int) -> float:
    """A process's memory in MB (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def heap(developer: CDPSession) -> float:
    """The page's JavaScript memory in MB, after a collection."""
    developer.send("HeapProfiler.collectGarbage")
    return float(developer.send("Runtime.getHeapUsage")["usedSize"]) / 2**20


if __name__ == "__main__":
    main()
