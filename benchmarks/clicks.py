"""From the click to the picture, as the page itself sees it: `python -m benchmarks.clicks`.

    python -m benchmarks.clicks                    # measure, write docs/clicks.json and the README
    python -m benchmarks.clicks --print            # measure, and write nothing
    python -m benchmarks.clicks --from docs/clicks.json     # the README alone

Debian's Chromium opens the app of this machine; a watch inside the page notes when a status is
painted: from a click (or, on a first visit, from the address) to the first frame of a run and to
its result. On an idle machine; the first visit of all, which loads the network, is left out.

Invariant: what stands between the README's marks is `block` of `docs/clicks.json`, or of nothing;
tests/test_clicks.py compares the two.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import Browser, Page, expect

from benchmarks.screenshots import PATIENCE, ROOT, SETTLED, SIZES, free_port, in_browser
from sr3.checkpoints import registry
from sr3.folder import read_config

FILE = ROOT / "docs" / "clicks.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- clicks: python -m benchmarks.clicks -->\n", "<!-- /clicks -->\n"
NOTHING = "From the click to the picture: not measured yet.\n"
HEAD = "| | | median | least to most | at most |\n|---|---|---|---|---|\n"
FRAME, RESULT = "first frame", "result, 10 steps"
# Where, what, and the most seconds that it should take.
LIMITS = {
    ("first page, a click", FRAME): 0.5, ("first page, a click", RESULT): 1.5,
    ("Compare, three networks, a click", FRAME): 0.5,
    ("Compare, three networks, a click", RESULT): 3.0,
    ("a first visit, the address", FRAME): 3.0, ("a first visit, the address", RESULT): 3.0,
}  # fmt: skip
NETWORKS, STEPS = 3, 10
# `marks` holds milliseconds: where they count from, and when the first frame and the result of a
# run that is not `old`, the one on the page at the click, were painted. A quick run is done when it
# is first seen, in the words of the run before it: so runs are told apart by their names.
WATCH = """(() => {
  const marks = window.sr3Marks = { from: 0, frame: null, result: null, armed: false, old: '' }
  let seen = ''
  const painted = (name) => requestAnimationFrame(() => requestAnimationFrame(() => {
    marks[name] ??= performance.now() - marks.from
  }))
  const observer = new MutationObserver((changes) => {
    for (const root of new Set(changes.map((each) => each.target.getRootNode()))) {
      const said = root.querySelector?.('.status .text')?.textContent
      const run = root.querySelector?.('[data-run]')?.dataset.run
      if (!said || !run) continue
      seen = run
      if (run === marks.old) continue
      if (/^(Step|Done)/.test(said)) painted('frame')
      if (said.startsWith('Done')) painted('result')
    }
  })
  const attach = Element.prototype.attachShadow
  Element.prototype.attachShadow = function (settings) {
    const root = attach.call(this, settings)
    observer.observe(root, { subtree: true, childList: true, characterData: true })
    return root
  }
  addEventListener('click', (event) => {
    if (!marks.armed) return
    Object.assign(marks, { from: event.timeStamp, frame: null, result: null })
    Object.assign(marks, { armed: false, old: seen })
  }, true)
})()"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", type=Path, dest="source", metavar="FILE")
    parser.add_argument("--print", action="store_true", dest="dry", help="write nothing")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    if options.source is None:
        measured = measure(options.repeats)
    else:
        measured = json.loads(options.source.read_text(encoding="utf-8"))
    print(block(measured))
    if not options.dry:
        FILE.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        write_readme(README, measured)


def measure(repeats: int) -> dict[str, Any]:
    """All rows, by a server and a browser of their own."""
    load = os.getloadavg()[0]  # before it begins
    port = free_port()
    serve = ["-m", "streamlit", "run", "app.py", "--server.headless=true",
             f"--server.port={port}", "--server.address=127.0.0.1",
             "--server.fileWatcherType=none"]  # fmt: skip
    with in_browser(serve, port) as (_, browser, address):
        networks = ",".join(rivals())
        compare = f"{address}/?page=compare&face=Astronaut&models={networks}&steps={STEPS}"
        rows = take(browser, address, compare, repeats)
        version = browser.version
    return {
        "cores": os.cpu_count(), "load": round(load, 2), "torch": torch.__version__,
        "chromium": version, "repeats": repeats, "rows": rows,
    }  # fmt: skip


def rivals() -> list[str]:
    """The first networks of the list that recommend ten steps."""
    here = {name: entry for name, entry in registry().items() if entry.available}
    ten = [n for n, entry in here.items() if read_config(entry.path).sampling.steps == STEPS]
    return ten[:NETWORKS]


def take(browser: Browser, address: str, compare: str, repeats: int) -> list[dict[str, Any]]:
    """Visits and clicks in turn, at the addresses of the first page and of a comparison that start
    by themselves; a row for each of LIMITS, values in seconds."""
    found: dict[tuple[str, str], list[float]] = {key: [] for key in LIMITS}
    opened(browser, address).context.close()  # loads the network
    opened(browser, compare).context.close()  # and the others
    for _ in range(repeats):
        page = opened(browser, address)
        note(found, "a first visit, the address", page)
        click(page, "Super-resolve")
        note(found, "first page, a click", page)
        page.context.close()
        page = opened(browser, compare)
        click(page, "Compare")
        note(found, "Compare, three networks, a click", page)
        page.context.close()
    return [
        {"where": where, "what": what, "limit": limit, "values": found[where, what]}
        for (where, what), limit in LIMITS.items()
    ]


def opened(browser: Browser, address: str) -> Page:
    """A browser that was never here at an address that starts a run by itself, after that run."""
    width, height = SIZES["desktop"]
    context = browser.new_context(viewport={"width": width, "height": height})
    context.add_init_script(WATCH)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(address)
    rest(page)
    return page


def click(page: Page, name: str) -> None:
    """Press a page's button, and wait for the result."""
    page.evaluate("sr3Marks.armed = true")
    page.get_by_role("button", name=name, exact=True).click()
    rest(page)


def rest(page: Page) -> None:
    """Until the result is painted and the script rests."""
    page.wait_for_function("!sr3Marks.armed && sr3Marks.result !== null", timeout=PATIENCE)
    expect(page.get_by_text("Done:").first).to_be_visible(timeout=PATIENCE)
    page.wait_for_selector(SETTLED)


def note(found: dict[tuple[str, str], list[float]], where: str, page: Page) -> None:
    marks = page.evaluate("sr3Marks")
    found[where, FRAME].append(round(marks["frame"] / 1000, 3))
    found[where, RESULT].append(round(marks["result"] / 1000, 3))


# -------------------------------------------------------------------------------------- the README
def write_readme(file: Path, measured: dict[str, Any] | None) -> None:
    """Put the block of a run between the marks."""
    text = file.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    file.write_text(before + BEGIN + block(measured) + END + after, encoding="utf-8")


def block(measured: dict[str, Any] | None) -> str:
    """What stands between the marks for a run's JSON; None: nothing was measured."""
    if measured is None:
        return NOTHING
    count = measured["repeats"]
    lines = [
        f"In Chromium {measured['chromium']} beside the server on {measured['cores']} cores, torch "
        f"{measured['torch']}, load {measured['load']:.1f} at the start; {count} "
        f"time{'s' if count > 1 else ''} each.\n\n",
        HEAD,
    ]
    for row in measured["rows"]:
        values, limit = row["values"], row["limit"]
        median = statistics.median(values)
        over = "" if median <= limit else ", **over**"
        lines.append(
            f"| {row['where']} | {row['what']} | {median:.2f} s | "
            f"{min(values):.2f} to {max(values):.2f} | {limit:g} s{over} |\n"
        )
    return "".join(lines)


if __name__ == "__main__":
    main()
