"""The README's figures of speed, from one run of `python -m sr3 bench` on an idle machine.

    python -m benchmarks.speed                   # measure (minutes), write docs/bench.json, README
    python -m benchmarks.speed --from docs/bench.json        # the README alone, from a run's JSON

Invariant: what stands between the README's marks is `block` of `docs/bench.json`, or of nothing;
tests/test_bench.py compares the two.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sr3.bench import BenchSettings, bench, circumstances

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docs" / "bench.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- speed: python -m benchmarks.speed -->\n", "<!-- /speed -->\n"
NOTHING = "Figures on an idle machine: not measured yet. On a GPU: not measured.\n"
HEAD = "| | | measured | least to most | share of the floor | |\n|---|---|---|---|---|---|\n"
LEFT_OUT = {"matrix rate", "copy rate", "operations", "threads"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", type=Path, dest="source", metavar="FILE")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.source is None:
        settings = BenchSettings(repeats=arguments.repeats)
        found = circumstances(settings)  # the load before it begins
        rows = []
        for row in bench(settings):
            print(f"{row.figure}, {row.setting}", flush=True)
            rows.append(row.to_json())
        text = json.dumps(found | {"rows": rows}, indent=1)
    else:
        text = arguments.source.read_text(encoding="utf-8")
    FILE.write_text(text.rstrip() + "\n", encoding="utf-8")
    write_readme(README, json.loads(text))


def write_readme(file: Path, measured: dict[str, Any] | None) -> None:
    """Put the block of a run between the marks."""
    put_between(file, BEGIN, END, block(measured))


def put_between(file: Path, begin: str, end: str, made: str) -> None:
    """Put a text between two marks of a file, which it has once."""
    before, rest = file.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    file.write_text(before + begin + made + end + after, encoding="utf-8")


def block(measured: dict[str, Any] | None) -> str:
    """What stands between the marks for a run's JSON; None: nothing was measured."""
    if measured is None:
        return NOTHING
    rates = {row["figure"]: row for row in measured["rows"] if row["figure"] in LEFT_OUT}
    lines = [
        f"{measured['choice']}; {measured['threads']} threads of {measured['cores']} cores, torch "
        f"{measured['torch']}, load {measured['load']:.1f} at the start; it multiplies matrices at "
        f"{_short(rates['matrix rate']['value'])} GFLOP/s ({rates['matrix rate']['setting']}) and "
        f"copies at {_short(rates['copy rate']['value'])} GB/s.\n\n",
        HEAD,
    ]
    lines += [_line(row) for row in measured["rows"] if row["figure"] not in LEFT_OUT]
    return "".join(lines)


def _line(row: dict[str, Any]) -> str:
    value = "not measured" if row["value"] is None else f"{_short(row['value'])} {row['unit']}"
    if row["figure"] == "agreement" and row["value"] is None:
        value = "the same bits"
    spread = "" if row["low"] is None else f"{_short(row['low'])} to {_short(row['high'])}"
    reached = "" if row["reached"] is None else f"{row['reached']:.0%}"
    note = "" if row["value"] is None else row["note"]
    cells = row["figure"], row["setting"], value.strip(), spread, reached, note
    return f"| {' | '.join(cells)} |\n"


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


if __name__ == "__main__":
    main()
