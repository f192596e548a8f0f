"""Every page, and what opens on it, at three sizes, light and dark: axe-core, and no overhang."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from sr3.ui.frame import PAGES
from tests.app_server import FIRST
from tests.browsing import (
    COLOURS,
    SETTLED,
    SHAPES,
    Watch,
    faults,
    photograph,
    press,
    rerun,
    turn_tab,
    turn_to,
    viewport,
)

pytestmark = [pytest.mark.browser, pytest.mark.slow]
# The rules are asked where their answer can differ: those of colours in both schemes, all others
# in one; None asks none: the stand has the desktop's names, roles and colours.
RULES: dict[str, dict[str, str | None]] = {
    "light": {"desktop": "", "phone": SHAPES, "stand": None},
    "dark": {"stand": None, "phone": COLOURS, "desktop": COLOURS},
}


def looked_at(page: Page, states: Iterator[str]) -> list[str]:
    """What is wrong with each state, once it is there, at every size and in both schemes."""
    found = []
    for state in states:
        page.wait_for_selector(SETTLED)
        for scheme, sizes in RULES.items():
            for size, rules in sizes.items():
                found += faults(page, state, size, scheme, rules)
        page.emulate_media(color_scheme="light")
    return found


def first_page(page: Page) -> Iterator[str]:
    expect(page.get_by_role("region", name="A short tour")).to_be_visible()
    expect(page.get_by_text("Done: 16 × 16").first).to_be_visible()
    yield "tour, result"
    press(page.get_by_role("button", name="Skip", exact=True))
    for expander in ("Settings", "Your runs", "What am I looking at?", "The equations"):
        press(page.locator("summary").filter(has_text=expander))
    expect(page.locator(".katex-display").first).to_be_visible()
    yield "settings, past runs, equations"
    press(page.get_by_role("button", name="Link").first)
    expect(page.get_by_test_id("stCode")).to_be_visible()
    yield "link"
    page.keyboard.press("Escape")
    turn_tab(page, "Camera")
    yield "camera"
    turn_tab(page, "Upload")
    yield "upload"
    page.locator("input[type=file]").set_input_files(photograph())
    with rerun(page):
        press(page.get_by_text("Choose the square myself"))
    expect(page.get_by_role("group", name="The square that is used")).to_be_visible()
    yield "crop"


def runs(page: Page) -> Iterator[str]:
    turn_to(page, "Compare")
    yield "Compare, before"
    press(page.get_by_role("button", name="Compare", exact=True))
    expect(page.get_by_text("Done: same face").first).to_be_visible()
    expect(page.get_by_role("heading", name="Scores")).to_be_visible()
    yield "Compare"
    turn_to(page, "Inside")
    for tab, button, done in (
        ("The chain", "Run the chain", "Now scrub"), ("Samples", "Draw samples", "all of them fit"),
        ("Consistency", "Run both", "reduced again"), ("Step counts", "Run them", "does more"),
    ):  # fmt: skip
        if tab != "The chain":
            turn_tab(page, tab)
        press(page.get_by_role("button", name=button))
        expect(page.get_by_text(done).first).to_be_visible()
        yield f"Inside, {tab}"


def tables(page: Page) -> Iterator[str]:
    for name, there in (
        ("Domains", ".js-plotly-plot .main-svg"), ("Fine-tuning", ".js-plotly-plot .main-svg"),
        ("Checkpoints", "[data-testid=stDataFrame] canvas"), ("About", "h1"),
    ):  # fmt: skip
        turn_to(page, name)
        tabs = page.get_by_role("tab")
        for number in range(max(tabs.count(), 1)):
            if tabs.count():
                press(tabs.nth(number))
                page.wait_for_selector(SETTLED)
            expect(page.locator(there).first).to_be_visible()
            yield f"{name}, part {number + 1}"


def slides(page: Page) -> Iterator[str]:
    turn_to(page, "Poster")
    expect(page.locator(".reel .caption")).to_contain_text("seed 0")
    yield "Poster, start"
    for number in range(1, 6):
        page.keyboard.press("ArrowRight")
        expect(page.locator(".where")).to_have_text(f"{number} of 5")
        yield f"Poster, {number}"


@pytest.mark.parametrize("states", [first_page, runs, tables, slides])
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_screen(visit, states):
    page = visit(cookies=(FIRST,) if states is first_page else ())
    assert looked_at(page, states(page)) == []


def test_a_wall_can_be_read_from_afar(visit):
    page = visit(size="stand")
    button = page.get_by_role("button", name="Super-resolve", exact=True)
    expect(button).to_be_visible()
    letters = float(button.evaluate("each => parseFloat(getComputedStyle(each).fontSize)"))
    assert letters > viewport("stand")["height"] / 80
    words = button.get_by_text("Super-resolve").bounding_box()
    assert words is not None and words["height"] < 2 * letters  # in one line
    page.set_viewport_size(viewport("desktop"))
    assert page.evaluate("getComputedStyle(document.documentElement).fontSize") == "16px"


def test_every_page_can_be_reloaded(visit, stand):
    """At its own address Streamlit first looks for the server under the page's name, finds nothing
    there twice, and a browser says so; nothing else may go wrong."""
    context = visit().context
    for _, label, _ in PAGES[1:]:
        page = context.new_page()
        watch = Watch(page)
        page.goto(f"{stand.address}/{label}")
        expect(page).to_have_title(re.compile("· SR3 Lab"))
        page.wait_for_selector(SETTLED)
        expect(page.get_by_role("alert")).to_have_count(0)
        asked = [f"{stand.address}/{label}/_stcore/{what}" for what in ("health", "host-config")]
        known = [f"404 from {url}" for url in asked]
        other = [fault for fault in watch.faults if fault not in known]
        assert all("status of 404" in each for each in other) and len(other) <= 2, watch.faults
        page.close()
