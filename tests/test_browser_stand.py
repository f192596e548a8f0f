"""Compare, Inside and Poster, and what visitors take home, in a real Chromium."""

from __future__ import annotations

import base64
import re
import time

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browsing import SETTLED, choose, photograph, press, rerun, turn_tab, turn_to

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SOURCES = "images => images.map(each => each.src)"


def compared(page: Page) -> None:
    press(page.get_by_role("button", name="Compare", exact=True))
    ended(page)


def done(page: Page) -> Locator:
    """What the status line says of a comparison that is there; a screen reader's line says it until
    the next one has begun."""
    return page.locator(".board .status .text").filter(has_text="Done: same face").first


def ended(page: Page) -> None:
    """A comparison that is there, with its scores."""
    expect(done(page)).to_be_visible()
    expect(page.get_by_role("heading", name="Scores")).to_be_visible()
    page.wait_for_selector(SETTLED)


def drawn(page: Page, name: str = "Results") -> list[str]:
    """The pictures of a board."""
    return page.get_by_role("group", name=name).locator("img.after").evaluate_all(SOURCES)


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
    press(page.get_by_role("button", name="Link").first)
    link = page.get_by_test_id("stCode").inner_text().strip()
    other = visit("/?" + link.split("?", 1)[1])
    ended(other)
    assert drawn(other) == pictures


def test_a_comparison_is_looked_at_closely(visit):
    """The lens by keys and by pointer, the slider between any two, and the error maps."""
    page = visit()
    turn_to(page, "Compare")
    compared(page)
    pictures = drawn(page)
    group = page.get_by_role("group", name="Results")
    lenses = group.locator(".lens")
    places = "all => all.map(l => [l.style.left, l.style.top, l.hidden].join())"
    group.focus()
    for key in ("ArrowLeft", "ArrowUp"):
        group.press(key)
    by_keys = lenses.evaluate_all(places)
    assert len(by_keys) == 4 and len(set(by_keys)) == 1 and by_keys[0].endswith("false")
    shown = lenses.locator("img").evaluate_all("all => all.map(i => [i.src, i.style.left])")
    assert [source for source, _ in shown] == pictures
    assert len({left for _, left in shown}) == 1
    group.locator(".square").nth(2).hover(position={"x": 30, "y": 40})
    by_pointer = lenses.evaluate_all(places)
    assert len(set(by_pointer)) == 1 and by_pointer != by_keys

    pair = page.locator(".panels.single")

    def both() -> list[str | None]:
        return [pair.locator(f"img.{part}").get_attribute("src") for part in ("before", "after")]

    assert both() == [pictures[0], pictures[2]], "the first and the last at first"
    choose(page, "Left", "Tuned")
    choose(page, "Right", "Original")
    assert both() == [pictures[2], pictures[3]]

    maps = drawn(page, "Error maps")
    assert len(maps) == 3 and len({*maps, *pictures}) == 7, "one of each, but the original"


def drawn_anew(page: Page, before: list[str]) -> list[str]:
    """The pictures once a new run has ended: what is on the page before it begins looks alike."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        page.wait_for_selector(SETTLED)
        after = drawn(page)
        if len(after) == len(before) and after != before and done(page).is_visible():
            page.wait_for_timeout(300)
            if drawn(page) == after and done(page).is_visible():
                return after
        page.wait_for_timeout(100)
    raise AssertionError("no new run ended within a minute")


def test_sliders_mix_anew_and_keep_what_is_the_same(visit):
    page = visit()
    turn_to(page, "Compare")
    choose(page, "Compare", "Interpolated")
    page.keyboard.press("Escape")
    with rerun(page):  # four at most: bicubic leaves
        press(
            page.locator("[data-baseweb=tag] [role=presentation]")
            .or_(page.get_by_role("button", name="Remove Bicubic"))
            .first
        )
    choose(page, "Compare", "Spliced")
    page.keyboard.press("Escape")
    compared(page)
    for slider, key, said, place in (
        ("Interpolation weight", "ArrowRight", "w = 0.55", 3),
        ("Splice at time step", "End", "t = 1950", 4),
    ):
        before = drawn(page)
        with rerun(page):
            page.get_by_role("slider", name=slider).press(key)
        expect(page.get_by_text(said).first).to_be_visible()
        after = drawn_anew(page, before)
        changed = [one != other for one, other in zip(before, after, strict=True)]
        assert [k for k, differs in enumerate(changed) if differs] == [place]


FILMS = {"GIF": "image/gif", "MP4": "video/mp4", "Card": "image/png"}
PLAY = """([kind, data]) => new Promise((done, failed) => {
  const media = document.createElement(kind.startsWith('video') ? 'video' : 'img')
  media.onerror = () => failed(new Error('does not play'))
  media.onload = () => done([media.naturalWidth, media.naturalHeight])
  media.ontimeupdate = () => {
    if (media.currentTime > 0.2) done([media.videoWidth, media.videoHeight])
  }
  media.muted = true
  media.src = data
  media.play?.()
})"""
# How many frames the browser finds, how long they last in seconds, and how many differ.
FRAMES = """async (data) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))
  const decoder = new ImageDecoder({ type: 'image/gif', data: bytes })
  await Promise.all([decoder.tracks.ready, decoder.completed])
  const count = decoder.tracks.selectedTrack.frameCount, seen = new Set()
  let length = 0
  for (let frameIndex = 0; frameIndex < count; frameIndex++) {
    const { image } = await decoder.decode({ frameIndex })
    const pixels = new Uint8Array(image.allocationSize())
    await image.copyTo(pixels)
    seen.add(pixels.reduce((sum, value) => (31 * sum + value) % 1000003, 7))
    length += image.duration / 1e6
    image.close()
  }
  decoder.close()
  return [count, length, seen.size]
}"""


def test_the_films_play(visit, tmp_path):
    page = visit()
    press(page.get_by_role("button", name="Super-resolve"))
    expect(page.get_by_text("Done: 16 × 16").first).to_be_visible()
    page.wait_for_selector(SETTLED)
    sizes = films(page, tmp_path)
    assert all(w == 2 * h for w, h in sizes), "the noisy image beside the clean estimate"
    turn_to(page, "Compare")
    compared(page)
    assert all(w == 2 * h for w, h in films(page, tmp_path)), "the two networks side by side"


def films(page: Page, folder) -> set[tuple[int, int]]:
    """Play what can be taken home; the sizes of the films' frames."""
    sizes = set()
    for name, kind in FILMS.items():
        with page.expect_download() as download:
            press(page.get_by_role("button", name=name, exact=True))
        path = folder / name
        download.value.save_as(path)
        data = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        size = tuple(page.evaluate(PLAY, [kind, data]))
        if name != "Card":
            sizes.add(size)
        if name == "GIF":
            count, length, different = page.evaluate(FRAMES, data.split(",")[1])
            assert count > 5 and length > 0.5 and different > count / 2, "it moves"
    return sizes


# ----------------------------------------------------------------------------------------- inside
def test_the_chain_is_taken_apart(visit):
    page = visit()
    turn_to(page, "Inside")
    press(page.get_by_role("button", name="Run the chain"))
    expect(page.get_by_text("Now scrub through them").first).to_be_visible()
    page.wait_for_selector(SETTLED)
    expect(page.get_by_role("button", name="Download PNG")).to_be_visible()
    done = drawn(page, "The chain")
    page.get_by_role("slider", name="Step of the run").press("Home")
    expect(page.get_by_text("Step 1 of 10").first).to_be_visible()
    first = drawn(page, "The chain")
    assert len(first) == 4 and len(set(first)) == 4
    assert [a != b for a, b in zip(first, done, strict=True)] == [True, True, True, False]
    curve = page.locator(".path polyline").get_attribute("points")
    shares = [float(point.split(",")[1]) for point in curve.split()]
    assert len(shares) == 11 and shares == sorted(shares), "noise falls step by step"


def test_the_other_parts_of_the_chain(visit):
    page = visit()
    turn_to(page, "Inside")
    for tab, button, done, pictures in (
        ("Samples", "Draw samples", "all of them fit", 9),
        ("Consistency", "Run both", "reduced again", 4),
        ("Step counts", "Run them", "where does more", 6),
    ):
        turn_tab(page, tab)
        press(page.get_by_role("button", name=button))
        expect(page.get_by_text(done).first).to_be_visible()
        expect(page.get_by_role("table").first).to_be_visible()
        shown = page.locator(".panels img.after:not([hidden])")
        expect(shown).to_have_count(pictures)
        assert len(set(shown.evaluate_all(SOURCES))) >= pictures - 1


# ----------------------------------------------------------------------------------------- poster
def test_the_poster_is_driven_by_keys_and_comes_home(visit):
    """A minute without a touch leads home, by the page's own clock."""
    page = visit("/?page=poster", clock=True)
    expect(page.locator(".reel .caption")).to_contain_text("seed 0")
    expect(page.locator(".qr .note")).to_contain_text("works only on this machine")
    deck = page.locator(".st-key-sr3_deck")
    deck.evaluate("(deck) => deck.style.opacity = '.33'")  # as Streamlit does while a script runs
    above = "(deck) => deck.contains(document.elementFromPoint(innerWidth / 2, 20))"
    assert deck.evaluate(above), "the page's header is over the loop"
    where = page.locator(".where")
    for number, key in enumerate(("ArrowRight", " ", " ", "ArrowRight"), 1):
        page.keyboard.press(key)
        expect(where).to_have_text(f"{number} of 5")
        expect(page.locator(".js-plotly-plot, [data-testid=stAlert]").first).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(where).to_have_text("3 of 5")
    page.clock.fast_forward(50_000)
    expect(where).to_have_text("3 of 5")
    page.clock.fast_forward(15_000)
    expect(where).to_have_text("Start")
    page.wait_for_selector(SETTLED)
    page.get_by_role("button", name="Photograph me").click()
    button = page.get_by_role("button", name="Super-resolve")
    expect(button).to_be_visible()
    usual = button.bounding_box()["height"]
    page.set_viewport_size({"width": 3840, "height": 2160})
    assert button.bounding_box()["height"] > 2 * usual, "to be read and hit on a stand's screen"
    page.clock.fast_forward(65_000)
    expect(where).to_have_text("Start")
    code = page.get_by_role("img", name="A QR code").get_attribute("src")
    assert code.startswith("data:image/png")


def test_a_key_that_moves_the_square_turns_no_slide(visit):
    """Nor does one in a popover: the next slide would erase the visitor's photograph."""
    page = visit("/?page=poster")
    with rerun(page):
        page.get_by_role("button", name="Photograph me").click()
    where = page.locator(".where")
    expect(where).to_have_text("5 of 5")
    turn_tab(page, "Upload")
    page.locator("input[type=file]").set_input_files(photograph())
    with rerun(page):
        press(page.get_by_text("Choose the square myself"))
    square = page.get_by_role("group", name="The square that is used")
    square.press("ArrowUp")
    before = square.bounding_box()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowRight"):
        square.press(key)
    assert square.bounding_box()["x"] < before["x"]
    page.wait_for_timeout(500)  # the square is told to the server a while after the key
    page.wait_for_selector(SETTLED)
    expect(where).to_have_text("5 of 5")
    expect(square).to_be_visible()
    press(page.get_by_role("button", name="Super-resolve", exact=True))
    expect(page.get_by_text("Done: 16 × 16").first).to_be_visible()
    page.wait_for_selector(SETTLED)
    press(page.get_by_role("button", name="Link").first)
    told = page.get_by_role("dialog", name="Link")
    expect(told).to_be_visible()
    told.evaluate("each => { each.tabIndex = -1; each.focus() }")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    expect(told).to_have_count(0)
    page.wait_for_timeout(500)
    expect(where).to_have_text("5 of 5")
    page.keyboard.press("Escape")
    expect(where).to_have_text("Start")


def test_opening_the_stand_forgets_nobody_and_whoever_has_gone_is_forgotten(visit):
    page = visit(clock=True)
    start = page.get_by_role("button", name="Super-resolve", exact=True)
    runs, where = page.get_by_text("Your runs (1)"), page.locator(".where")

    def resolve() -> None:
        press(start)
        expect(page.get_by_text("Done: 16 × 16").first).to_be_visible()
        page.wait_for_selector(SETTLED)

    def turn(key: str, slide: str) -> None:
        with rerun(page):
            page.keyboard.press(key)
        expect(where).to_have_text(slide)

    def come() -> None:
        turn_to(page, "Poster")
        expect(page.locator(".reel .caption")).to_contain_text("seed 0")
        expect(where).to_have_text("Start")
        turn("ArrowRight", "1 of 5")

    def leave() -> None:
        page.wait_for_selector(SETTLED)
        with rerun(page):
            page.get_by_role("link", name="Leave").click()
        expect(start).to_be_visible()

    resolve()
    come()
    turn("ArrowLeft", "Start")
    turn("ArrowRight", "1 of 5")
    leave()
    expect(runs).to_be_visible()

    come()
    turn("ArrowLeft", "Start")
    with rerun(page):
        page.clock.fast_forward(65_000)  # nobody is there any more
    turn("ArrowRight", "1 of 5")
    leave()
    expect(runs).to_have_count(0)

    come()
    for slide in ("Start", "5 of 5"):
        turn("ArrowLeft", slide)
    resolve()
    turn("ArrowLeft", "4 of 5")
    leave()
    expect(runs).to_have_count(0)
