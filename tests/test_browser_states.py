"""Every state that a visitor may see, at three sizes; and the main path by keyboard alone."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.app_server import CROWD
from tests.browsing import (
    COLOURS,
    LATER,
    SETTLED,
    STILL,
    faults,
    press,
    rerun,
    turn_tab,
    turn_to,
    viewport,
)

pytestmark = [pytest.mark.browser, pytest.mark.slow]
# How a state is looked at: in which scheme, by which rules of axe-core. The stand's layout is the
# desktop's, with the same names, roles and colours: there only the width is in question.
LOOKS = {"desktop": ("light", ""), "phone": ("dark", COLOURS), "stand": ("light", None)}
# The element with the focus, also inside a component.
FOCUSED = """() => {
  let at = document.activeElement
  while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement
  return at
}"""


def test_every_state_is_told_and_fits(visit, stand):
    """Loading, waiting, stopped, empty, unreadable and failed, told to people and in the layout."""
    page, found = visit("/"), []

    def look(state: str) -> None:
        for size, (scheme, rules) in LOOKS.items():
            found.extend(faults(page, state, size, scheme, rules))
        page.set_viewport_size(viewport("desktop"))

    with stand.mood("shut"):
        page.reload()
        expect(page.get_by_text("Loading the checkpoint …")).to_be_visible()
        look("loading")
    expect(page.get_by_text("Ready.")).to_be_visible()
    page.wait_for_selector(SETTLED)
    with stand.mood("crowd"):
        for name, state in WITH_A_CROWD.items():
            state(page)
            look(name)
    with stand.mood("unlucky"):
        for name, state in UNLUCKY.items():
            state(page)
            look(name)
    assert found == []


def waiting(page: Page) -> None:
    press(page.get_by_role("button", name="Super-resolve"))
    expect(page.get_by_text(f"Waiting: {CROWD} ahead of you.").first).to_be_visible()
    expect(page.locator(".status .left")).to_contain_text("about")


def stop(page: Page) -> None:
    page.get_by_role("main").get_by_role("button", name="Stop").click()


def stopped(page: Page) -> None:
    stop(page)
    expect(page.get_by_text("Stopped before the first step.").first).to_be_visible()
    expect(page.get_by_role("button", name="Download PNG")).to_have_count(0)


def empty(page: Page) -> None:
    turn_tab(page, "Upload")
    expect(page.get_by_text("Choose a face to begin.")).to_be_visible()
    expect(page.get_by_role("button", name="Super-resolve")).to_be_disabled()


def unreadable(page: Page) -> None:
    bad = {"name": "a.png", "mimeType": "image/png", "buffer": b"<svg/>"}
    page.locator("input[type=file]").set_input_files(bad)
    expect(page.get_by_role("alert")).to_contain_text("PNG")
    expect(page.get_by_text("Choose a face to begin.")).to_be_visible()


def waiting_to_compare(page: Page) -> None:
    turn_to(page, "Compare")
    turn_tab(page, "Gallery")
    expect(page.get_by_role("radio", name="Astronaut")).to_be_checked()
    press(page.get_by_role("button", name="Compare", exact=True))
    expect(page.get_by_text("ahead of you").first).to_be_visible()
    expect(page.locator(".status .left").first).to_contain_text("about")


def stopped_comparing(page: Page) -> None:
    stop(page)
    expect(page.get_by_text("Stopped; what was there is kept.").first).to_be_visible()


def set_one_step(page: Page) -> None:
    press(page.get_by_text("Settings"))
    slider = page.get_by_role("slider", name="Steps")
    expect(slider).to_be_visible()
    if slider.input_value() != "1":  # settings stay from page to page
        with rerun(page):
            slider.press("Home")
    expect(slider).to_have_value("1")


def failed_to_compare(page: Page) -> None:
    set_one_step(page)  # which fails; the run starts anew by itself
    expect(page.get_by_role("alert")).to_contain_text("The network failed on this picture")
    expect(page.get_by_text("Failed; what was there is kept.").first).to_be_visible()


def failed(page: Page) -> None:
    turn_to(page, "Super-resolve")
    set_one_step(page)
    press(page.get_by_role("button", name="Super-resolve"))
    expect(page.get_by_role("alert")).to_contain_text("The network failed on this picture")
    expect(page.get_by_text("Failed before the first step.").first).to_be_visible()
    expect(page.get_by_role("button", name="Super-resolve")).to_be_enabled()


WITH_A_CROWD = {
    "waiting": waiting, "stopped": stopped, "empty": empty, "unreadable": unreadable,
    "waiting to compare": waiting_to_compare, "stopped comparing": stopped_comparing,
}  # fmt: skip
UNLUCKY = {"failed to compare": failed_to_compare, "failed": failed}


# --------------------------------------------------------------------------------------- keyboard
def tab_to(page: Page, wanted: str) -> Locator:
    """Press Tab until an element whose role and name hold `wanted` has the focus."""
    passed = []
    for _ in range(60):
        page.keyboard.press("Tab")
        at = page.evaluate_handle(FOCUSED).as_element()
        assert at is not None
        text = at.evaluate(
            """at => [at.type || at.getAttribute('role') || at.tagName.toLowerCase(),
                 at.getAttribute('aria-label') || at.closest('label')?.innerText || at.innerText
                 || ''].join(' ').trim()"""
        )
        if wanted in text and len(text) < 80:  # not a whole region
            return at
        passed.append(text)
    raise AssertionError(f"Tab never came to {wanted}: {passed}")


def is_seen(page: Page, at) -> bool:
    """Whether the picture around an element changes when it loses the focus."""
    box = at.bounding_box()
    clip = {"x": max(box["x"] - 10, 0), "y": max(box["y"] - 10, 0),
            "width": box["width"] + 20, "height": box["height"] + 20}  # fmt: skip

    def look() -> np.ndarray:
        data = page.screenshot(clip=clip, animations="disabled")  # fades end
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.int16)

    with_focus = look()
    at.evaluate("at => at.blur()")
    without = look()
    at.evaluate("at => at.focus({ focusVisible: true })")
    changed = np.abs(with_focus - without).max(axis=-1) > 40
    return int(changed.sum()) > 60


def test_the_main_path_by_keyboard_alone(visit, stand, tmp_path):
    page = visit()
    expect(page.get_by_text("Ready.")).to_be_visible()
    page.wait_for_selector(SETTLED)
    unseen = []

    def go(wanted: str) -> None:
        page.wait_for_selector(SETTLED)
        at = tab_to(page, wanted)
        at.evaluate(STILL)  # an expander may still open
        unseen.extend([] if is_seen(page, at) else [wanted])

    go("radio Astronaut")
    with rerun(page):
        page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="Noor")).to_be_checked()
    go("Settings")
    page.keyboard.press("Enter")
    expect(page.get_by_role("slider", name="Steps")).to_be_visible()
    go("range Steps")
    with rerun(page):
        page.keyboard.press("End")
    go("Super-resolve")
    with stand.mood("slow"):
        page.keyboard.press("Enter")
        expect(page.get_by_text(LATER).first).to_be_visible()
        page.keyboard.press("Enter")  # the same button, which is Stop now
        expect(page.get_by_text("what was there is kept").first).to_be_visible()
    page.wait_for_selector(SETTLED)
    go("range Step of the run")
    page.keyboard.press("Home")
    expect(page.get_by_text("Step 1 of 200")).to_be_visible()
    page.keyboard.press("End")
    go("range Before and after")
    page.keyboard.press("ArrowRight")
    go("Download PNG")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    download.value.save_as(tmp_path / "result.png")
    with Image.open(tmp_path / "result.png") as image:
        assert image.size == (128, 128)
    assert unseen == []
