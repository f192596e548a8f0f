"""A day at the stand, shortened: `python -m benchmarks.stand --minutes 30`.

Scripted visitors drive the poster page one after another: the slides by key, then a run of a face
of the gallery or of a file of their own, then a rest until the page goes home; every third one
compares networks in a tab of their own and closes it. The memory of the server and of the browser's
page is written down after each, and a line is laid through the second half of it, warm-up left out:
its slope is what grows. Ends with 1 where a slope is over MOST, or cannot be told.
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from playwright.sync_api import CDPSession, Page, expect

from benchmarks.screenshots import SERVE, SETTLED, free_port, in_browser
from sr3.ui.portraits import PORTRAITS, draw

HOME_AFTER = 15  # seconds: a round is short, and a run ends within it on a busy machine
MOST = {"server": 0.5, "page": 0.1}  # MB a minute: 240 MB and 48 MB in a stand's eight hours
WARM = 600  # seconds that the server's heap takes to find its size
LEAST = 20  # visitors in the second half, below which a slope says nothing
# Chooses a file. Playwright's own way keeps the input and all of the page around it for ever.
GIVE = """(data) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))
  const chosen = new DataTransfer()
  chosen.items.add(new File([bytes], 'photograph.jpg', { type: 'image/jpeg' }))
  const input = document.querySelector('input[type=file]')
  input.files = chosen.files
  input.dispatchEvent(new Event('change', { bubbles: true }))
}"""
Row = tuple[float, float, float]  # seconds, MB of the server, MB of the page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--checkpoints", default="", help="a folder with a registry.toml")
    options = parser.parse_args()
    port = free_port()
    serve = ["-c", SERVE, str(port), options.checkpoints]
    with in_browser(serve, port, SR3_POSTER_HOME=str(HOME_AFTER)) as (server, browser, address):
        page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        page.set_default_timeout(120_000)
        expect.set_options(timeout=120_000)
        page.goto(f"{address}/?page=poster")
        expect(page.locator(".reel .caption")).to_contain_text("seed")
        rows = watch(page, server.pid, 60 * options.minutes)
    print(report := judge(rows))
    sys.exit(report.count("is flat") < len(MOST))


def watch(page: Page, pid: int, seconds: float) -> list[Row]:
    """Visitors until the time is over, with the memory after each."""
    developer = page.context.new_cdp_session(page)
    began, rows = time.monotonic(), []
    while (now := time.monotonic() - began) < seconds:
        visit(page, len(rows))
        rows.append((now, resident(pid), heap(developer)))
        held = developer.send("Memory.getDOMCounters")
        print(
            "{:7.0f} s   server {:6.0f} MB   page {:6.1f} MB".format(*rows[-1]),
            f"  {held['nodes']} nodes, {held['jsEventListeners']} listeners", flush=True,
        )  # fmt: skip
    return rows


def visit(page: Page, number: int) -> None:
    """One visitor: the slides, a run, and the way home by itself; or a comparison beside it."""
    for slide in range(1, 6):
        page.keyboard.press("ArrowRight")
        expect(page.locator(".where")).to_have_text(f"{slide} of 5")
        page.wait_for_selector(SETTLED)
    if number % 3 == 1:
        page.get_by_role("tab", name="Upload").click()
        expect(page.locator("input[type=file]")).to_be_attached()
        page.evaluate(GIVE, photograph(number))
        expect(page.get_by_text("Ready.").first).to_be_visible()
        page.wait_for_selector(SETTLED)
    page.get_by_role("button", name="Super-resolve").click()
    expect(page.get_by_text("Done: 16").first).to_be_visible()
    if number % 3 == 2:
        compare(page)
    expect(page.locator(".where")).to_have_text("Start")
    page.wait_for_selector(SETTLED)


def compare(page: Page) -> None:
    """Another visitor, in a tab of their own, which they close."""
    tab = page.context.new_page()
    tab.goto(page.url.split("/Poster")[0] + "/?page=compare")
    tab.get_by_role("button", name="Compare", exact=True).click()
    expect(tab.get_by_text("Done: same face").first).to_be_visible()
    tab.close()
    page.bring_to_front()


def photograph(number: int) -> str:
    """A JPEG of a drawn face in base64; no two are alike."""
    out, size = io.BytesIO(), 600 + number
    draw(PORTRAITS[number % len(PORTRAITS)]).resize((size, size)).save(out, "JPEG")
    return base64.b64encode(out.getvalue()).decode()


def judge(rows: Sequence[Row]) -> str:
    """A sentence for each memory: where it stood, and whether it grows."""
    late = np.array([row for row in rows[len(rows) // 2 :] if row[0] >= WARM])
    if len(late) < LEAST:
        return (
            f"{len(late)} visitors in the second half, after {WARM} seconds, are too few to tell; "
            "let it run longer."
        )
    said = []
    for place, (name, most) in enumerate(MOST.items(), 1):
        slope = 60 * np.polyfit(late[:, 0], late[:, place], 1)[0]
        verdict = "grows" if slope > most else "is flat"
        said.append(
            f"The {name} {verdict}: {late[:, place].mean():.1f} MB in the second half, "
            f"{slope:+.2f} MB a minute (at most {most:g}), {len(rows)} visitors."
        )
    return "\n".join(said)


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
