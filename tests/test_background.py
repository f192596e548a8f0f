"""Threads that end with the server."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sr3.background import in_background

ENDS = """
import time
from sr3.background import in_background
in_background("long", lambda: time.sleep(600))
"""


def test_it_gives_what_the_work_gives_or_raises():
    assert in_background("sum", lambda: 1 + 1).result(10) == 2
    with pytest.raises(ZeroDivisionError):
        in_background("fault", lambda: 1 // 0).result(10)


def test_a_process_does_not_wait_for_it():
    """An executor's thread would keep it for ten minutes."""
    subprocess.run([sys.executable, "-c", ENDS], check=True, timeout=60)
