"""The benchmark of clicks: what it writes, and that it measures on a real page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import clicks

ROOT = Path(__file__).resolve().parent.parent
RUN = {
    "cores": 2, "load": 0.04, "torch": "9", "chromium": "200", "repeats": 3,
    "rows": [
        {"where": "a page", "what": "first frame", "limit": 0.5, "values": [0.2, 0.9, 0.4]},
        {"where": "a page", "what": "result", "limit": 1.5, "values": [1.4, 1.6, 1.7]},
    ],
}  # fmt: skip


def test_the_readme_s_figures_are_the_file_s():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    there = clicks.FILE.exists()
    measured = json.loads(clicks.FILE.read_text(encoding="utf-8")) if there else None
    assert text.count(clicks.BEGIN) == text.count(clicks.END) == 1
    assert text.split(clicks.BEGIN)[1].split(clicks.END)[0] == clicks.block(measured)


def test_a_run_goes_into_the_readme(tmp_path):
    file = tmp_path / "README.md"
    file.write_text(f"before\n{clicks.BEGIN}old\n{clicks.END}after\n", encoding="utf-8")
    clicks.write_readme(file, RUN)
    text = file.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{clicks.BEGIN}") and text.endswith(f"{clicks.END}after\n")
    assert "| a page | first frame | 0.40 s | 0.20 to 0.90 | 0.5 s |\n" in text
    assert "| a page | result | 1.60 s | 1.40 to 1.70 | 1.5 s, **over** |\n" in text
    assert "load 0.0" in text and "3 times each" in text and "old" not in text


@pytest.mark.browser
@pytest.mark.slow
def test_clicks_are_measured_in_the_page(chromium, stand):
    """Without a bound: how fast is a matter of the machine."""
    link = f"{stand.address}/?face=Astronaut&models=tiny"
    rows = clicks.take(chromium, link, f"{link},tuned&page=compare", repeats=1)
    values = {(row["where"], row["what"]): row["values"] for row in rows}
    assert list(values) == list(clicks.LIMITS) and all(len(each) == 1 for each in values.values())
    for where in {where for where, _ in values}:
        (frame,), (result,) = values[where, clicks.FRAME], values[where, clicks.RESULT]
        assert 0 < frame <= result, where  # a quick run has ended by the first poll
