"""What holds for every test; the one Chromium and the one served app of those in a browser."""

from __future__ import annotations

import os
import sys

import pytest

# For these networks, and for processes beside each other, a second thread only waits for the first:
# on two busy cores that made a training of the tests nine times as long. Read when torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import sr3.cores  # noqa: F401  nor do idle threads spin: before any test loads torch


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """Those in a browser come last: Playwright keeps an event loop in this thread to the end. Of
    two processes one takes the files of these, the other all other tests, and helps then."""

    def in_browser(item):
        return item.get_closest_marker("browser") is not None

    items.sort(key=in_browser)
    for item in items:
        name = item.path.stem if in_browser(item) else "others"
        item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(autouse=True)
def own_main_module():
    """AppTest leaves the page as `__main__`, which processes started later would run."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture
def measured_anew():
    """A device is chosen as at the start of a process; the function makes it so again."""
    from sr3 import devices

    def forget() -> None:
        devices._best.cache_clear()
        devices._chosen.cache_clear()

    forget()
    yield forget
    forget()


@pytest.fixture
def fresh_app(monkeypatch):
    """For a page run by AppTest: no LPIPS, no run before a click, nothing left of another test."""
    from sr3.errors import MetricUnavailable
    from sr3.ui import live, service

    def unavailable():
        raise MetricUnavailable("LPIPS is not available: this is a test.")

    monkeypatch.setattr("sr3.metrics.load_lpips", unavailable)
    monkeypatch.setattr(live, "AT_ONCE", False)
    yield
    for cached in (service.engine, service.resolver, service.scorer):
        cached.clear()


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    from tests.browsing import launch

    with sync_playwright() as playwright:
        browser = launch(playwright.chromium)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def stand(chromium, tmp_path_factory):
    """The app with two networks of one family and a table of measurements."""
    from tests import study_table
    from tests.app_server import make_pair
    from tests.browsing import served

    folder = make_pair(tmp_path_factory.mktemp("stand"))
    study_table.write(folder, "whole")
    with served(folder) as found:
        yield found


@pytest.fixture(scope="session")
def contexts(chromium):
    """Browsers by size and scheme: those who were here have the app's files in their cache."""
    made = {}
    yield made
    for each in made.values():
        each.close()


@pytest.fixture
def visit(chromium, stand, contexts):
    """Open the app anew; nothing may go wrong meanwhile. With `more`, in a browser of its own; with
    `clock`, the page's time can be turned forward."""
    from tests.browsing import SETTLED, Watch, new_context

    opened, own = [], []

    def go(path="/", size="desktop", scheme="light", cookies=(), clock=False, **more):
        if cookies or more:
            context = new_context(chromium, size, scheme, **more)
            own.append(context)
            context.add_cookies([{"name": n, "value": "1", "url": stand.address} for n in cookies])
        elif (size, scheme) in contexts:
            context = contexts[size, scheme]
        else:
            context = contexts[size, scheme] = new_context(chromium, size, scheme)
        page = context.new_page()
        opened.append((page, Watch(page)))
        if clock:
            page.clock.install()
        page.goto(f"{stand.address}{path}")
        page.wait_for_selector(SETTLED)
        return page

    yield go
    for each in [page for page, _ in opened] + own:
        each.close()
    assert [watch.faults for _, watch in opened if watch.faults] == []
