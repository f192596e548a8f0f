"""A tab that is closed, or reloaded, in mid-run: its job is gone within two ticks, in Chromium."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import expect

from tests.browsing import SETTLED, press, rerun

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.mark.parametrize("how", ["close", "reload"])
def test_the_job_of_a_tab_that_goes_is_gone_within_two_ticks(visit, stand, how):
    page = visit()
    expect(page.get_by_text("Ready.")).to_be_visible()
    page.wait_for_selector(SETTLED)
    press(page.get_by_text("Settings"))
    with rerun(page):
        page.get_by_role("slider", name="Steps").press("End")
    before = len(stand.diary())
    with stand.mood("slow"):  # it would last forty seconds
        press(page.get_by_role("button", name="Super-resolve"))
        expect(page.get_by_text("% noise").first).to_be_visible()
        page.close() if how == "close" else page.reload()
        ended = awaited(stand, before, "cancelled")
    assert len(ended) == 1, stand.diary()[before:]
    _, visitor, end, steps = ended[0]
    left = [line[2] for line in awaited(stand, before, "left") if line[1] == visitor]
    assert len(left) == 1 and int(end) - int(left[0]) <= 2 and int(steps) < 200


def awaited(stand, before: int, word: str) -> list[list[str]]:
    """The lines of the diary that begin with a word, once there is one."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if lines := [line for line in stand.diary()[before:] if line[0] == word]:
            return lines
        time.sleep(0.05)
    return []
