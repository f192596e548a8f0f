"""The first page in a real Chromium: the whole way of a visitor, and nothing leaves the machine."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from sr3.ui.polling import POLL
from tests.browsing import (
    LATER,
    SETTLED,
    photograph,
    press,
    rerun,
    turn_tab,
    turn_to,
    wait_for_quiet,
)

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def page(visit) -> Page:
    page = visit()
    expect(page.get_by_text("Ready.")).to_be_visible()
    page.wait_for_selector(SETTLED)
    return page


def start(page: Page) -> None:
    """Press the button and wait for the first frame of a run."""
    press(page.get_by_role("button", name="Super-resolve"))
    expect(page.get_by_text("% noise").first).to_be_visible()


def run_to_end(page: Page) -> None:
    press(page.get_by_role("button", name="Super-resolve"))
    expect(page.get_by_text("Done: 16 × 16").first).to_be_visible()
    page.wait_for_selector(SETTLED)


def set_steps(page: Page, key: str) -> None:
    """All the steps there are (End), or one (Home)."""
    if not (steps := page.get_by_role("slider", name="Steps")).is_visible():
        press(page.get_by_text("Settings"))
    with rerun(page):
        steps.press(key)


def test_a_screen_reader_is_told_of_every_run_though_it_ends_as_the_one_before(page):
    run_to_end(page)
    page.locator(".stage .announce").evaluate(
        "each => { window.said = []; new MutationObserver(() => said.push(each.textContent))"
        ".observe(each, { childList: true }) }"
    )
    press(page.get_by_role("button", name="Super-resolve"))
    page.wait_for_function("said.length > 1 && said.at(-1).startsWith('Done')")
    assert page.evaluate("said") == ["Started.", "Done: 16 × 16 became 128 × 128 in 10 steps."]


def test_choose_run_scrub_compare_download(page, tmp_path):
    with rerun(page):
        page.get_by_role("radio", name="Ines").check(force=True)
    expect(page.get_by_role("radio", name="Ines")).to_be_checked()
    run_to_end(page)
    divider = page.get_by_role("slider", name="Before and after")
    divider.press("ArrowRight")
    expect(divider).to_have_attribute("aria-valuetext", "51 % bicubic")
    timeline = page.get_by_role("slider", name="Step of the run")
    timeline.press("Home")
    expect(page.get_by_text("Step 1 of 10")).to_be_visible()
    timeline.press("End")
    expect(page.get_by_text("Done: 16 × 16").first).to_be_visible()
    with page.expect_download() as download:
        press(page.get_by_role("button", name="Download PNG"))
    path = tmp_path / "result.png"
    download.value.save_as(path)
    assert download.value.suggested_filename == "sr3-tiny-seed0.png"
    with Image.open(path) as image:
        assert image.format == "PNG" and image.size == (128, 128) and image.info == {}
    chunks = path.read_bytes()
    assert not any(name in chunks for name in (b"tEXt", b"iTXt", b"eXIf", b"tIME"))


def test_stop_and_run_again(page, stand):
    set_steps(page, "End")
    with stand.mood("slow"):  # it would last forty seconds
        start(page)
        expect(page.get_by_text(LATER).first).to_be_visible()
        page.get_by_role("main").get_by_role("button", name="Stop").click()
        expect(page.get_by_text("what was there is kept").first).to_be_visible()
        page.wait_for_selector(SETTLED)
        wait_for_quiet(page, 5 * POLL)  # nothing is polled any more
    set_steps(page, "Home")
    press(page.get_by_role("button", name="Super-resolve"))
    expect(page.get_by_text("in 1 step.").first).to_be_visible()
    press(page.get_by_role("button", name="Try another seed"))
    expect(page.get_by_role("spinbutton", name="Seed")).to_have_value("1")
    expect(page.get_by_text("seed 1. One sample").first).to_be_visible()


def test_upload_a_good_and_a_bad_file(page):
    turn_tab(page, "Upload")
    chooser = page.locator("input[type=file]")
    chooser.set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"<svg/>"})
    box = page.get_by_role("alert")
    expect(box).to_have_count(1)
    assert box.inner_text().strip().endswith(".") and "Traceback" not in box.inner_text()
    expect(page.get_by_role("button", name="Super-resolve")).to_be_disabled()
    chooser.set_input_files(photograph("heic"))
    expect(page.get_by_text("Ready.")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    run_to_end(page)


def corners(squares: Locator) -> np.ndarray:
    return np.array([list(squares.nth(k).bounding_box().values()) for k in range(4)])


def test_nothing_moves_when_frames_arrive(page, stand):
    squares = page.locator("figure .square")
    before = corners(squares)
    with stand.mood("slow"):
        start(page)
        with stand.mood("held"):
            assert page.get_by_role("button", name="Super-resolve").count() == 0
            assert page.get_by_text("% noise").first.is_visible(), "the run is under way"
            during = corners(squares)
    expect(page.get_by_text("Done: 16 × 16").first).to_be_visible()
    assert np.abs(during - before).max() < 1
    assert np.abs(corners(squares) - before).max() < 1


def test_choose_a_mark_and_download_its_table(page):
    turn_to(page, "Fine-tuning")
    turn_tab(page, "What does it cost?")
    chart = page.locator(".js-plotly-plot").first
    expect(chart.locator(".main-svg").first).to_be_visible()
    place = chart.evaluate(
        """plot => {
          const k = plot.data.findIndex(trace => trace.name === 'with replay')
          const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect()
          return {x: xaxis._offset + xaxis.d2p(plot._fullData[k].x[0]),
                  y: yaxis._offset + yaxis.d2p(plot._fullData[k].y[0])}
        }"""
    )
    with rerun(page):
        press(chart, position=place)
    expect(page.get_by_text("25% of each batch")).to_be_visible()
    press(page.get_by_text("Table", exact=True))
    expect(page.get_by_test_id("stDataFrame").locator("canvas").first).to_be_visible()
    with page.expect_download() as download:
        press(page.get_by_role("button", name="Download CSV"))
    assert download.value.suggested_filename == "sr3-forgetting-anime.csv"
    with page.expect_download() as download:
        press(page.locator(".modebar-btn").first)
    assert download.value.suggested_filename == "sr3-forgetting-anime.png"
