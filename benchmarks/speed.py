"""The README's figures of speed, from runs of `python -m sr3 bench` on idle machines.

    python -m benchmarks.speed            # measure (minutes) into docs/bench-*.json, and the README
    python -m benchmarks.speed --again    # the README alone, from the runs in docs/

A run of a device in a precision replaces the one before it. Set SR3_LPIPS_WEIGHTS, or the agreement
in LPIPS is not measured.

Invariant: what stands between the README's marks is `block` of the runs in docs/, which
tests/test_bench.py compares.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sr3.bench import BenchSettings, bench, circumstances

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs"
README = ROOT / "README.md"
BEGIN, END = "<!-- speed: python -m benchmarks.speed -->\n", "<!-- /speed -->\n"
NOTHING = "Figures on an idle machine: not measured yet. On a GPU: not measured.\n"
HEAD = "| | | measured | least to most | share of the floor | |\n|---|---|---|---|---|---|\n"
LEFT_OUT = {"matrix rate", "copy rate", "operations", "threads"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    if not arguments.again:
        settings = BenchSettings(repeats=arguments.repeats)
        run = circumstances(settings)  # the load before it begins
        run["rows"] = []
        for row in bench(settings):
            print(f"{row.figure}, {row.setting}", flush=True)
            run["rows"].append(row.to_json())
        name = f"bench-{run['device']}-{_rates(run)['matrix rate']['setting']}.json"
        (FOLDER / name).write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    write_readme(README, runs(FOLDER))


def runs(folder: Path) -> list[dict[str, Any]]:
    """The runs that a folder keeps, by name."""
    files = sorted(folder.glob("bench-*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def write_readme(file: Path, measured: Sequence[dict[str, Any]]) -> None:
    """Put the block of some runs between the marks."""
    put_between(file, BEGIN, END, block(measured))


def put_between(file: Path, begin: str, end: str, made: str) -> None:
    """Put a text between two marks of a file, which it has once."""
    before, rest = file.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    file.write_text(before + begin + made + end + after, encoding="utf-8")


def block(measured: Sequence[dict[str, Any]]) -> str:
    """What stands between the marks for the JSON of some runs."""
    return "\n".join(map(_of_run, measured)) or NOTHING


def _of_run(run: dict[str, Any]) -> str:
    """What a machine is, what matters most, and the folded table of all."""
    rates = _rates(run)
    rows = {(row["figure"], row["setting"]): row for row in run["rows"]}
    told = []
    if row := rows.get(("image", "10 steps")):
        told.append(f"a picture in 10 steps takes {_value(row)}")
    if row := rows.get(("all served", "16 visitors")):
        told.append(f"16 visitors are served in {_value(row)}, {row['note']}")
    if row := rows.get(("step, ours", "97.8M, batch 1")):
        told.append(f"a step of the public network has {row['note']}")
    lines = [
        f"**{run['choice']}**; {run['threads']} threads of {run['cores']} cores, torch "
        f"{run['torch']}, load {run['load']:.1f} at the start; it multiplies matrices at "
        f"{_short(rates['matrix rate']['value'])} GFLOP/s ({rates['matrix rate']['setting']}) and "
        f"copies at {_short(rates['copy rate']['value'])} GB/s.",
        f" There {'; '.join(told)}." if told else "",
        "\n\n<details><summary>All figures</summary>\n\n",
        HEAD,
    ]
    lines += [_line(row) for row in run["rows"] if row["figure"] not in LEFT_OUT]
    return "".join([*lines, "\n</details>\n"])


def _rates(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["figure"]: row for row in run["rows"] if row["figure"] in LEFT_OUT}


def _value(row: dict[str, Any]) -> str:
    return f"{_short(row['value'])} {row['unit']}".strip()


def _line(row: dict[str, Any]) -> str:
    value = row["note"] if row["value"] is None else _value(row)  # why not, or "the same bits"
    spread = "" if row["low"] is None else f"{_short(row['low'])} to {_short(row['high'])}"
    reached = "" if row["reached"] is None else f"{row['reached']:.0%}"
    note = "" if row["value"] is None else row["note"]
    cells = row["figure"], row["setting"], value, spread, reached, note
    return f"| {' | '.join(cells)} |\n"


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


if __name__ == "__main__":
    main()
