"""What holds for every test."""

from __future__ import annotations

import sys

import pytest

import sr3.cores  # noqa: F401  before any test loads torch: its idle threads leave others the cores


@pytest.fixture(autouse=True)
def own_main_module():
    """AppTest leaves the page as `__main__`, which processes started later would run."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main
