"""The day at the stand: what its memory is taken for."""

from __future__ import annotations

import math

import pytest

from benchmarks import stand


def day(server: float, page: float) -> list[stand.Row]:
    """Thirty minutes, a visitor every 25 s, memory that warms up, wavers and grows by so many MB a
    minute."""
    rows = []
    for k in range(72):
        seconds = 25.0 * k
        warmth = 800 - 200 * math.exp(-seconds / 60) + 9 * (-1) ** k
        rows.append((seconds, warmth + server * seconds / 60, 26 + page * seconds / 60))
    return rows


def test_what_wavers_is_flat_and_what_grows_is_told():
    server, page = stand.judge(day(0.0, 0.0)).splitlines()
    assert server.startswith("The server is flat: 8") and page.startswith("The page is flat: 26.0")
    server, page = stand.judge(day(1.6, 0.05)).splitlines()
    assert server.startswith("The server grows") and page.startswith("The page is flat")
    slope = float(server.split("second half, ")[1].split(" MB")[0])
    assert slope == pytest.approx(1.6, abs=0.3)
    assert "grows" in stand.judge(day(0.0, 0.2)).splitlines()[1]


def test_a_short_run_tells_nothing():
    assert "too few to tell" in stand.judge(day(0.0, 0.0)[:20])
