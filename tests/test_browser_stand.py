"""Compare, Inside, Poster and what visitors bring and take, in a real Chromium; and axe-core."""

from __future__ import annotations

import base64
import io
import re
import time
from collections.abc import Iterator
from pathlib import Path

import axe_playwright_python
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from sr3.ui.portraits import PORTRAITS, draw
from tests import study_table
from tests.app_server import make_pair
from tests.test_browser import SETTLED, Watch, chromium, served

pytestmark = [pytest.mark.browser, pytest.mark.slow]
__all__ = ["chromium"]  # a fixture
AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
HOME_AFTER = 12  # seconds: longer than a busy machine takes to draw a slide
SIZES = {"desktop": (1440, 900), "phone": (390, 844), "stand": (3840, 2160)}


@pytest.fixture(scope="module")
def address(chromium, tmp_path_factory) -> Iterator[str]:
    """The app with two networks of one family and a table of measurements."""
    checkpoints = make_pair(tmp_path_factory.mktemp("checkpoints"))
    study_table.write(checkpoints, "whole")
    with served(checkpoints, SR3_POSTER_HOME=str(HOME_AFTER)) as found:
        yield found


@pytest.fixture
def visit(chromium, address):
    """Open the app anew, at a size and in a scheme; nothing may go wrong meanwhile."""
    opened: list[tuple[Page, Watch]] = []

    def go(path: str = "/", size: str = "desktop", scheme: str = "light", **more: object) -> Page:
        width, height = SIZES[size]
        page = new_page(chromium, width, height, scheme, **more)
        opened.append((page, Watch(page)))
        page.goto(f"{address}{path}")
        page.wait_for_selector(SETTLED)
        return page

    yield go
    for page, _ in opened:
        page.context.close()
    assert [watch.faults for _, watch in opened if watch.faults] == []


def new_page(browser: Browser, width: int, height: int, scheme: str, **more: object) -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, **more
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    return page


def turn_to(page: Page, name: str) -> None:
    page.get_by_role("link", name=name, exact=True).click()
    page.wait_for_selector(SETTLED)


def compared(page: Page) -> None:
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("Done: the same face").first).to_be_visible()
    expect(page.get_by_role("heading", name="Scores")).to_be_visible()
    page.wait_for_selector(SETTLED)


def drawn(page: Page) -> list[str]:
    """The pictures of the first board."""
    group = page.get_by_role("group", name="Results")
    return group.locator("img.after").evaluate_all("images => images.map(each => each.src)")


# ------------------------------------------------------------------------------------- comparison
def test_networks_are_compared_in_step_and_a_link_restores_the_pixels(visit):
    page = visit()
    turn_to(page, "Compare")
    compared(page)
    pictures = drawn(page)
    assert len(pictures) == 4 and len(set(pictures)) == 4
    timeline = page.get_by_role("slider", name="Step of the run")
    timeline.press("Home")
    first = drawn(page)
    assert first[0] == pictures[0] and first[3] == pictures[3], "bicubic and original stay"
    assert first[1] != pictures[1] and first[2] != pictures[2], "both networks go back together"
    page.get_by_role("button", name="Play the run").click()
    expect(timeline).to_have_attribute("aria-valuetext", re.compile("Done"))
    page.get_by_role("button", name="Link").click()
    link = page.get_by_test_id("stCode").inner_text().strip()
    other = visit("/?" + link.split("?", 1)[1])
    expect(other.get_by_text("Done: the same face").first).to_be_visible()
    other.wait_for_selector(SETTLED)
    expect(other.get_by_role("heading", name="Scores")).to_be_visible()
    assert drawn(other) == pictures


def test_the_lens_shows_the_same_place_of_every_picture(visit):
    page = visit()
    turn_to(page, "Compare")
    compared(page)
    group = page.get_by_role("group", name="Results")
    group.focus()
    group.press("ArrowLeft")
    group.press("ArrowUp")
    lenses = group.locator(".lens")
    places = lenses.evaluate_all("all => all.map(l => [l.style.left, l.style.top, l.hidden])")
    assert len(places) == 4 and len({tuple(place) for place in places}) == 1 and not places[0][2]
    shown = lenses.locator("img").evaluate_all("all => all.map(i => [i.src, i.style.left])")
    assert [source for source, _ in shown] == drawn(page)
    assert len({left for _, left in shown}) == 1


def drawn_anew(page, before):
    """The pictures once a new run has ended: what is on the page before it begins looks alike."""
    done = page.get_by_text("Done: the same face").first
    until = time.monotonic() + 60
    while time.monotonic() < until:
        page.wait_for_selector(SETTLED)
        after = drawn(page)
        if after != before and done.is_visible():
            page.wait_for_timeout(300)
            if drawn(page) == after and done.is_visible():
                return after
        page.wait_for_timeout(100)
    raise AssertionError("no new run ended within a minute")


def test_a_slider_mixes_anew_and_keeps_what_is_the_same(visit):
    page = visit()
    turn_to(page, "Compare")
    box = page.get_by_role("combobox", name="Compare")

    def settle():
        page.wait_for_timeout(700)  # the script starts
        page.wait_for_selector(SETTLED)

    settle()
    for name in ("Interpolated", "Spliced"):
        if name == "Spliced":  # four at most: bicubic leaves
            page.get_by_role("button", name="Remove Bicubic").or_(
                page.locator("[data-baseweb=tag] [role=presentation]").first
            ).first.click()
            settle()
        option = page.get_by_role("option", name=name)
        for _ in range(20):  # a list that opens while the page is drawn closes again
            box.click()
            page.wait_for_timeout(500)
            if option.is_visible():
                break
            page.keyboard.press("Escape")
        option.click()
        page.keyboard.press("Escape")
        settle()
    compared(page)
    before = drawn(page)
    page.get_by_role("slider", name="Interpolation weight").press("ArrowRight")
    expect(page.get_by_text("w = 0.55").first).to_be_visible()
    after = drawn_anew(page, before)
    changed = [one != other for one, other in zip(before, after, strict=True)]
    assert changed == [False, False, False, True, False, False]


def test_the_films_play(visit, tmp_path):
    page = visit()
    page.get_by_role("button", name="Super-resolve").click()
    expect(page.get_by_text("Done: 16 × 16").first).to_be_visible()
    page.wait_for_selector(SETTLED)
    kinds = {"GIF": "image/gif", "MP4": "video/mp4", "Card": "image/png"}
    for name, kind in kinds.items():
        with page.expect_download() as download:
            page.get_by_role("button", name=name, exact=True).click()
        path = tmp_path / name
        download.value.save_as(path)
        data = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        script = """([kind, data]) => new Promise((done, failed) => {
          const media = document.createElement(kind.startsWith('video') ? 'video' : 'img')
          media.onerror = () => failed(new Error('does not play'))
          media.onload = () => done([media.naturalWidth, media.naturalHeight, 1])
          media.ontimeupdate = () => {
            if (media.currentTime > 0.2) done([media.videoWidth, media.videoHeight, media.duration])
          }
          media.muted = true
          media.src = data
          media.play?.()
        })"""
        width, height, length = page.evaluate(script, [kind, data])
        if name != "Card":
            assert width == 2 * height and length > 0.5


# ----------------------------------------------------------------------------------------- inside
def test_the_chain_is_taken_apart(visit):
    page = visit()
    turn_to(page, "Inside")
    page.get_by_role("button", name="Run the chain").click()
    expect(page.get_by_text("Now scrub through them").first).to_be_visible()
    page.wait_for_selector(SETTLED)
    expect(page.get_by_role("button", name="Download PNG")).to_be_visible()
    group = page.get_by_role("group", name="The chain")
    sources = "images => images.map(each => each.src)"
    done = group.locator("img.after").evaluate_all(sources)
    page.get_by_role("slider", name="Step of the run").press("Home")
    expect(page.get_by_text("Step 1 of 10").first).to_be_visible()
    first = group.locator("img.after").evaluate_all(sources)
    assert len(first) == 4 and len(set(first)) == 4
    assert [a != b for a, b in zip(first, done, strict=True)] == [True, True, True, False]
    curve = page.locator(".path polyline").get_attribute("points")
    shares = [float(point.split(",")[1]) for point in curve.split()]
    assert len(shares) == 11 and shares == sorted(shares), "noise falls step by step"


@pytest.mark.parametrize(
    ("tab", "button", "done", "pictures"),
    [("Samples", "Draw samples", "all of them fit", 9),
     ("Consistency", "Run both", "reduced again", 4),
     ("Step counts", "Run them", "where does more", 6)],
)  # fmt: skip
def test_the_other_parts_of_the_chain(visit, tab, button, done, pictures):
    page = visit()
    turn_to(page, "Inside")
    page.get_by_role("tab", name=tab).click()
    page.wait_for_selector(SETTLED)
    page.get_by_role("button", name=button).click()
    expect(page.get_by_text(done).first).to_be_visible()
    expect(page.get_by_role("table").first).to_be_visible()
    shown = page.locator(".panels img.after:not([hidden])")
    expect(shown).to_have_count(pictures)
    assert len(set(shown.evaluate_all("images => images.map(each => each.src)"))) >= pictures - 1


# ----------------------------------------------------------------------------------------- poster
def test_the_poster_is_driven_by_keys_and_comes_home(visit):
    page = visit("/?page=poster")
    expect(page.locator(".reel .caption")).to_contain_text("seed 0")
    where = page.locator(".where")
    for number, key in enumerate(("ArrowRight", " ", " ", "ArrowRight"), 1):
        page.keyboard.press(key)
        expect(where).to_have_text(f"{number} of 5")
        expect(page.locator(".js-plotly-plot, [data-testid=stAlert]").first).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(where).to_have_text("3 of 5")
    expect(where).to_have_text("Start", timeout=HOME_AFTER * 1000 + 20_000)
    page.get_by_role("button", name="Photograph me").click()
    expect(page.get_by_role("button", name="Super-resolve")).to_be_visible()
    expect(where).to_have_text("Start", timeout=HOME_AFTER * 1000 + 20_000)
    assert (
        page.get_by_role("img", name="A QR code").get_attribute("src").startswith("data:image/png")
    )


# ----------------------------------------------------------------------------------------- inputs
def test_paste_a_picture_and_choose_the_square(visit):
    page = visit()
    page.get_by_role("tab", name="Upload").click()
    expect(page.get_by_role("button", name="Paste from the clipboard")).to_be_visible()
    sheet = Image.new("RGB", (400, 300), (120, 140, 120))
    sheet.paste(draw(PORTRAITS[1]).resize((200, 200)), (20, 60))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    page.evaluate(
        """async (data) => {
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))
          const clipboardData = new DataTransfer()
          clipboardData.items.add(new File([bytes], 'a.png', { type: 'image/png' }))
          window.dispatchEvent(new ClipboardEvent('paste', { clipboardData, cancelable: true }))
        }""",
        base64.b64encode(out.getvalue()).decode(),
    )
    page.get_by_text("Choose the square myself").click()
    square = page.get_by_role("group", name="The square that is used")
    expect(square).to_be_visible()
    page.wait_for_selector(SETTLED)
    reduced = page.get_by_role("img", name="The reduced face").first
    before, box = reduced.get_attribute("src"), square.bounding_box()
    for _ in range(5):
        square.press("ArrowRight")
    expect(reduced).not_to_have_attribute("src", before)
    assert square.bounding_box()["x"] > box["x"]


def test_several_files_can_be_chosen_from(visit):
    page = visit()
    page.get_by_role("tab", name="Upload").click()
    files = []
    for number in (0, 1):
        out = io.BytesIO()
        draw(PORTRAITS[number]).resize((160, 160)).save(out, "PNG")
        files.append({"name": f"{number}.png", "mimeType": "image/png", "buffer": out.getvalue()})
    page.locator("input[type=file]").set_input_files(files)
    expect(page.get_by_role("combobox", name="Which picture?")).to_be_visible()
    expect(page.get_by_text("Ready.")).to_be_visible()


def test_the_tour_is_dismissed_for_good(chromium, tmp_path_factory):
    checkpoints = make_pair(tmp_path_factory.mktemp("first"))
    with served(checkpoints, SR3_FIRST_VISIT="1") as address:
        page = new_page(chromium, 1440, 900, "light")
        page.goto(address)
        for title in ("Choose a face", "Watch it work", "Look twice"):
            expect(page.get_by_role("heading", name=title)).to_be_visible()
            page.get_by_role("button", name="Next", exact=True).click()
        page.get_by_role("button", name="Done", exact=True).click()
        expect(page.get_by_text("Done: 16 × 16").first).to_be_visible()
        page.reload()
        expect(page.get_by_text("Done: 16 × 16").first).to_be_visible()
        expect(page.get_by_role("region", name="A short tour")).to_have_count(0)
        page.context.close()


# ---------------------------------------------------------------------------------- accessibility
def ran(page: Page) -> None:
    page.get_by_role("button", name="Run the chain").click()
    expect(page.get_by_text("Now scrub").first).to_be_visible()


def charted(page: Page) -> None:
    expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible()


def titled(page: Page) -> None:
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def looped(page: Page) -> None:
    expect(page.locator(".reel .caption")).to_contain_text("seed 0")


# Page -> what shows that it is there; the stand's page, which has no links, comes last.
PAGES = {
    "Compare": compared, "Inside": ran, "Domains": charted, "Fine-tuning": charted,
    "Checkpoints": titled, "About": titled, "Poster": looped,
}  # fmt: skip


@pytest.mark.parametrize(
    ("size", "scheme"),
    [("desktop", "light"), ("desktop", "dark"), ("phone", "light"), ("phone", "dark"),
     ("stand", "dark")],
)  # fmt: skip
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_screen(visit, size, scheme):
    page = visit(size=size, scheme=scheme)
    found = serious(page, "Super-resolve")
    for name, there in PAGES.items():
        turn_to(page, name)
        there(page)
        tabs = page.get_by_role("tab") if name in ("Fine-tuning", "Checkpoints") else None
        for number in range(tabs.count() if tabs else 1):
            if tabs:
                tabs.nth(number).click()
            page.wait_for_selector(SETTLED)
            page.wait_for_timeout(600)  # fades end
            place = f"{name}, part {number + 1}"
            found += serious(page, place)
            wide = overhang(page)
            found += [f"{place}: {wide} pixels too wide"] if wide > 0 else []
    assert found == []


def overhang(page: Page) -> int:
    """By how many pixels the page is wider than the screen."""
    main = "document.querySelector('[data-testid=stMain]')"
    return int(page.evaluate(f"{main} ? {main}.scrollWidth - innerWidth : 0"))


def serious(page: Page, name: str) -> list[str]:
    """What axe-core calls serious or critical."""
    if not page.evaluate("'axe' in window"):
        page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
    report = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{name}: {each['id']}: {node['html'][:160]}"
        for each in report["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
