"""What visitors bring, in a real Chromium: the clipboard, several files, a finger; and the tour."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from sr3.jobs import MAX_FRAMES
from sr3.ui.portraits import PORTRAITS, draw
from tests.app_server import FIRST
from tests.browsing import SETTLED, photograph, press, rerun, turn_tab, turn_to

pytestmark = [pytest.mark.browser, pytest.mark.slow]
# Writes down each status that a stage or a board shows: nine tenths of a run's frames come several
# at a time, so that whoever plays them shows many more than whoever does not.
TOLD = """() => {
  window.told = new Set()
  const look = (root) => {
    for (const each of root.querySelectorAll('*')) if (each.shadowRoot) look(each.shadowRoot)
    const text = root.querySelector('.status .text')
    if (text) window.told.add(text.textContent)
  }
  const every = () => { look(document); requestAnimationFrame(every) }
  every()
}"""
STEPS_TOLD = "() => [...window.told].filter((each) => each.startsWith('Step ')).length"


def paste(page: Page, picture: Image.Image) -> None:
    out = io.BytesIO()
    picture.save(out, "PNG")
    page.evaluate(
        """async (data) => {
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))
          const clipboardData = new DataTransfer()
          clipboardData.items.add(new File([bytes], 'a.png', { type: 'image/png' }))
          window.dispatchEvent(new ClipboardEvent('paste', { clipboardData, cancelable: true }))
        }""",
        base64.b64encode(out.getvalue()).decode(),
    )


def square_by_hand(page):
    """Paste a picture with a face and ask for its square, which is given."""
    sheet = Image.new("RGB", (400, 300), (120, 140, 120))
    sheet.paste(draw(PORTRAITS[1]).resize((200, 200)), (20, 60))
    with rerun(page):
        paste(page, sheet)
    with rerun(page):
        press(page.get_by_text("Choose the square myself"))
    return page.get_by_role("group", name="The square that is used")


def test_paste_a_picture_and_choose_the_square(visit):
    page = visit()
    turn_tab(page, "Upload")
    expect(page.get_by_role("button", name="Paste from the clipboard")).to_be_visible()
    square = square_by_hand(page)
    expect(square).to_be_visible()
    reduced = page.get_by_role("img", name="The reduced face").first
    before, box = reduced.get_attribute("src"), square.bounding_box()
    for _ in range(5):
        square.press("ArrowRight")
    expect(reduced).not_to_have_attribute("src", before)
    assert square.bounding_box()["x"] > box["x"]


def test_several_files_can_be_chosen_from(visit):
    page = visit()
    turn_tab(page, "Upload")
    files = [photograph("png", person, 160) for person in (0, 1)]
    page.locator("input[type=file]").set_input_files(files)
    expect(page.get_by_role("combobox", name="Which picture?")).to_be_visible()
    expect(page.get_by_text("Ready.")).to_be_visible()


def test_a_visitor_s_own_face_is_there_on_every_page(visit):
    """Uploaded beside a paste, resolved, and found again with its result; then removed."""
    page = visit()
    turn_tab(page, "Upload")
    with rerun(page):
        paste(page, draw(PORTRAITS[2]).resize((200, 200)))
    with rerun(page):
        page.locator("input[type=file]").set_input_files([photograph("png", 1, 160)])
    expect(page.get_by_role("combobox", name="Which picture?")).to_have_value("1. 1.png")
    press(page.get_by_role("button", name="Super-resolve"))
    expect(page.get_by_text("Done: 16 × 16").first).to_be_visible()
    for name in ("Compare", "About", "Super-resolve"):
        turn_to(page, name)
    expect(page.get_by_text("Done: 16 × 16").first).to_be_visible()
    expect(page.get_by_role("combobox", name="Which picture?")).to_have_value("Earlier: 1.png")
    for left in ("From the clipboard.", "Choose a face to begin."):
        with rerun(page):
            press(page.get_by_role("button", name="Remove this picture"))
        expect(page.get_by_text(left).first).to_be_visible()


def test_what_is_chosen_on_one_page_is_chosen_on_the_other_and_back(visit):
    """A face of the gallery, and a square; what a page showed before comes back with no click."""
    page = visit()
    for where, name in (("Super-resolve", "Ines"), ("Compare", "Noor"), ("Super-resolve", "Ines")):
        turn_to(page, where)
        with rerun(page):
            page.get_by_role("radio", name=name).check(force=True)
    turn_to(page, "Compare")
    expect(page.get_by_role("radio", name="Ines")).to_be_checked()
    square, lefts = square_by_hand(page), []
    for where, key in (("Super-resolve", "ArrowRight"), ("Compare", "ArrowRight"),
                       ("Super-resolve", "ArrowLeft"), ("Compare", "ArrowLeft")):  # fmt: skip
        turn_to(page, where)
        arrived = square.evaluate("each => each.style.left")
        assert arrived == (lefts or [arrived])[-1], "as it was left on the other page"
        with rerun(page):
            for _ in range(5):
                square.press(key)
        lefts.append(square.evaluate("each => each.style.left"))
    assert len(set(lefts)) > 1


def test_a_finger_does_it(visit):
    """Taps alone, on a phone: a face, a run, another network, the lens."""
    page = visit(size="phone", has_touch=True)
    expect(page.get_by_text("Ready.")).to_be_visible()
    with rerun(page):
        page.get_by_role("radio", name="Ines").tap(force=True)
    expect(page.get_by_role("radio", name="Ines")).to_be_checked()
    page.get_by_role("button", name="Super-resolve").tap()
    expect(page.get_by_text("Done: 16 × 16").first).to_be_visible()
    with rerun(page):
        page.get_by_role("link", name="Compare", exact=True).tap()
    page.get_by_role("button", name="Compare", exact=True).tap()
    expect(page.get_by_text("Done: same face").first).to_be_visible()
    page.wait_for_selector(SETTLED)
    group = page.get_by_role("group", name="Results")
    lenses = group.locator(".lens")
    assert lenses.evaluate_all("all => all.every(each => each.hidden)"), "none without a finger"
    page.get_by_role("button", name="Lens").first.tap()
    assert not lenses.evaluate_all("all => all.some(each => each.hidden)")
    where = "each => each.style.left"
    before = lenses.first.evaluate(where)
    group.locator(".square").nth(1).tap(position={"x": 20, "y": 20})
    assert lenses.first.evaluate(where) != before


def test_the_tour_is_dismissed_for_good(visit):
    """To its end, by Escape or by Skip."""
    page = visit(cookies=(FIRST,))
    tour = page.get_by_role("region", name="A short tour")
    for title in ("Choose a face", "Watch it work", "Look twice"):
        expect(page.get_by_role("heading", name=title)).to_be_visible()
        press(page.get_by_role("button", name="Next", exact=True))
    press(page.get_by_role("button", name="Done", exact=True))
    for how in ("at its end", "Escape", "Skip"):
        expect(tour).to_have_count(0)
        page.reload()
        expect(page.get_by_text("Done: 16 × 16").first).to_be_visible()  # by itself, at first
        page.wait_for_selector(SETTLED)
        expect(tour).to_have_count(0)
        if how == "Skip":
            break
        page.evaluate("localStorage.clear()")  # as if never seen
        page.reload()
        if how == "at its end":
            page.get_by_role("button", name="Next", exact=True).press("Escape")
        else:
            press(page.get_by_role("button", name="Skip", exact=True))


def test_whoever_wants_no_motion_sees_the_last_frame_at_once(visit):
    """`prefers-reduced-motion`: the stage, the board and the stand's loop play nothing."""
    page = visit(reduced_motion="reduce")
    expect(page.get_by_text("Ready.")).to_be_visible()
    page.evaluate(TOLD)
    press(page.get_by_text("Settings"))
    with rerun(page):
        page.get_by_role("slider", name="Steps").press("End")
    press(page.get_by_role("button", name="Super-resolve"))
    expect(page.get_by_text("Done: 16 × 16").first).to_be_visible()
    assert page.evaluate(STEPS_TOLD) < MAX_FRAMES / 2
    turn_to(page, "Inside")  # a board of one network: several take longer, in more parts
    page.evaluate("window.told.clear()")
    press(page.get_by_role("button", name="Run the chain"))
    expect(page.get_by_text("Now scrub").first).to_be_visible()
    assert page.evaluate(STEPS_TOLD) < MAX_FRAMES / 2
    turn_to(page, "Poster")
    expect(page.locator(".reel .caption")).to_contain_text("seed 0")
    clean = page.locator(".reel .clean")
    before = clean.get_attribute("src")
    for _ in range(5):
        page.wait_for_timeout(200)  # longer than a frame of the loop
        assert clean.get_attribute("src") == before
