"""Every state that a visitor may see, at three sizes; and the main path by keyboard alone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.app_server import make_pair
from tests.crowded_server import CROWD
from tests.test_browser import SETTLED, Watch, chromium, served
from tests.test_browser_stand import SIZES, new_page, overhang, serious, turn_to

pytestmark = [pytest.mark.browser, pytest.mark.slow]
__all__ = ["chromium"]  # a fixture
SCHEMES = {"desktop": "light", "phone": "dark", "stand": "light"}
# The element with the focus, also inside a component.
FOCUSED = """() => {
  let at = document.activeElement
  while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement
  return at
}"""


@pytest.fixture(scope="module")
def crowded(chromium, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """The address of a slow app with a queue, and its folder."""
    folder = make_pair(tmp_path_factory.mktemp("crowded"))
    with served(folder, "tests.crowded_server") as address:
        yield address, folder


def test_every_state_is_told_and_fits(chromium, crowded):
    address, folder = crowded
    pages = {size: new_page(chromium, *SIZES[size], scheme) for size, scheme in SCHEMES.items()}
    watches = [Watch(page) for page in pages.values()]
    for page in pages.values():
        page.goto(address)
    found = []
    for size, page in pages.items():
        expect(page.get_by_text("Loading the checkpoint …")).to_be_visible()
        found += faults(page, size, "loading")
    (folder / "go").touch()
    for size, page in pages.items():
        expect(page.get_by_text("Ready.")).to_be_visible()
        for state in STATES:
            state(page)
            found += faults(page, size, state.__name__)
        page.context.close()
    assert found == []
    assert [watch.faults for watch in watches if watch.faults] == []


def waiting(page: Page) -> None:
    page.get_by_role("button", name="Super-resolve").click()
    expect(page.get_by_text(f"Waiting: {CROWD} ahead of you.").first).to_be_visible()
    expect(page.locator(".status .left")).to_contain_text("about")


def stopped(page: Page) -> None:
    page.get_by_role("main").get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped before the first step.").first).to_be_visible()
    expect(page.get_by_role("button", name="Download PNG")).to_have_count(0)


def empty(page: Page) -> None:
    page.get_by_role("tab", name="Upload").click()
    expect(page.get_by_text("Choose a face to begin.")).to_be_visible()
    expect(page.get_by_role("button", name="Super-resolve")).to_be_disabled()


def unreadable(page: Page) -> None:
    bad = {"name": "a.png", "mimeType": "image/png", "buffer": b"<svg/>"}
    page.locator("input[type=file]").set_input_files(bad)
    expect(page.get_by_role("alert")).to_contain_text("PNG")
    expect(page.get_by_text("Choose a face to begin.")).to_be_visible()


def waiting_to_compare(page: Page) -> None:
    turn_to(page, "Compare")
    page.get_by_role("tab", name="Gallery").click()
    page.wait_for_selector(SETTLED)
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("ahead of you").first).to_be_visible()
    expect(page.locator(".status .left").first).to_contain_text("about")


def failed_to_compare(page: Page) -> None:
    page.get_by_role("main").get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped; what was there is kept.").first).to_be_visible()
    set_one_step(page)  # which fails; the run starts anew by itself
    expect(page.get_by_role("alert")).to_contain_text("The network failed on this picture")
    expect(page.get_by_text("Failed; what was there is kept.").first).to_be_visible()


def set_one_step(page: Page) -> None:
    page.get_by_text("Settings").click()
    page.get_by_role("slider", name="Steps").press("Home")
    page.wait_for_selector(SETTLED)


def failed(page: Page) -> None:
    turn_to(page, "Super-resolve")
    set_one_step(page)
    page.wait_for_timeout(300)
    page.wait_for_selector(SETTLED)
    page.get_by_role("button", name="Super-resolve").click()
    expect(page.get_by_role("alert")).to_contain_text("The network failed on this picture")
    expect(page.get_by_text("Failed before the first step.").first).to_be_visible()
    expect(page.get_by_role("button", name="Super-resolve")).to_be_enabled()


STATES = (
    waiting, stopped, empty, unreadable, waiting_to_compare, failed_to_compare, failed,
)  # fmt: skip


def faults(page: Page, size: str, state: str) -> list[str]:
    """What is too wide, and, where that is quick, what axe-core finds."""
    name = f"{state}, {size}"
    wide = [f"{name}: {overhang(page)} pixels too wide"] if overhang(page) > 0 else []
    return wide + (serious(page, name) if size != "stand" else [])


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
        page.wait_for_timeout(300)  # fades end
        data = page.screenshot(clip=clip)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.int16)

    with_focus = look()
    at.evaluate("at => at.blur()")
    without = look()
    at.evaluate("at => at.focus({ focusVisible: true })")
    changed = np.abs(with_focus - without).max(axis=-1) > 40
    return int(changed.sum()) > 60


def test_the_main_path_by_keyboard_alone(chromium, tmp_path_factory, tmp_path):
    folder = make_pair(tmp_path_factory.mktemp("keys"))
    with served(folder) as address:
        page = new_page(chromium, *SIZES["desktop"], "light")
        watch = Watch(page)
        page.goto(address)
        expect(page.get_by_text("Ready.")).to_be_visible()
        page.wait_for_selector(SETTLED)
        unseen = []

        def go(wanted: str, *keys: str) -> None:
            at = tab_to(page, wanted)
            unseen.extend([] if is_seen(page, at) else [wanted])
            for key in keys:
                page.keyboard.press(key)
            page.wait_for_timeout(300)
            page.wait_for_selector(SETTLED)

        go("radio Astronaut", "ArrowRight")
        expect(page.get_by_role("radio", name="Noor")).to_be_checked()
        go("Settings", "Enter")
        go("range Steps", "End")
        go("Super-resolve", "Enter")
        expect(page.get_by_text("% noise").first).to_be_visible()
        page.wait_for_timeout(400)  # what comes sooner is a double press
        page.keyboard.press("Enter")  # the same button, which is Stop now
        expect(page.get_by_text("what was there is kept").first).to_be_visible()
        page.wait_for_selector(SETTLED)
        go("range Step of the run", "Home")
        expect(page.get_by_text("Step 1 of 200")).to_be_visible()
        page.keyboard.press("End")
        go("range Before and after", "ArrowRight")
        with page.expect_download() as download:
            go("Download PNG", "Enter")
        download.value.save_as(tmp_path / "result.png")
        with Image.open(tmp_path / "result.png") as image:
            assert image.size == (128, 128)
        page.context.close()
    assert unseen == [] and watch.faults == []
