"""A tab that is closed, or reloaded, in mid-run: its job is gone within two ticks, in Chromium."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.app_server import make_checkpoints
from tests.test_browser import ROOT, SETTLED, _await_health, chromium  # noqa: F401  a fixture

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def served(chromium, tmp_path_factory) -> Iterator[tuple[str, Path]]:  # noqa: F811
    """The app's address and its diary."""
    folder = make_checkpoints(tmp_path_factory.mktemp("checkpoints"))
    diary = folder / "diary.txt"
    diary.touch()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (folder / "server.log").open("w+")
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.watched_server", str(folder), str(port), str(diary)],
        cwd=ROOT, env=os.environ | {"SR3_LPIPS_WEIGHTS": str(folder / "none.pth")}, stdout=log,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        _await_health(f"http://127.0.0.1:{port}", server, Path(log.name))
        yield f"http://127.0.0.1:{port}", diary
    finally:
        server.terminate()
        server.wait(20)
        log.close()


def long_run(page: Page, address: str) -> None:
    """A run of 200 steps, ten seconds at least, that has begun to show frames."""
    page.set_default_timeout(30_000)
    page.goto(address)
    expect(page.get_by_text("Ready.")).to_be_visible(timeout=60_000)
    page.get_by_text("Settings").click()
    page.get_by_role("slider", name="Steps").press("End")
    page.wait_for_selector(SETTLED)
    page.get_by_role("button", name="Super-resolve").click()
    expect(page.get_by_text("% noise").first).to_be_visible()


@pytest.mark.parametrize("how", ["close", "reload"])
def test_the_job_of_a_tab_that_goes_is_gone_within_two_ticks(chromium, served, how):  # noqa: F811
    address, diary = served
    before = len(diary.read_text().splitlines())
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    long_run(page, address)
    page.close() if how == "close" else page.reload()
    deadline = time.monotonic() + 10
    while len(lines := diary.read_text().splitlines()[before:]) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    context.close()
    assert [line.split()[0] for line in lines[:2]] == ["left", "cancelled"], lines
    left, (_, ended, steps) = lines[0].split()[1], lines[1].split()
    assert int(ended) - int(left) <= 2 and int(steps) < 200
