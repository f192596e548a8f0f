"""The tables of the README and of the cards, in Markdown, from the measured rows alone.

    python -m benchmarks.tables checkpoints/metrics

The rows are made by `python -m sr3 evaluate ... --out checkpoints/metrics`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from sr3.cells import Cell
from sr3.results import difference, read, summary

ORDER = ("bicubic", "regression")  # then the checkpoints
SHOWN = {"psnr": 2, "ssim": 3, "lpips": 3, "consistency_psnr": 1}
TITLES = ("PSNR dB ↑", "SSIM ↑", "LPIPS ↓", "LR-PSNR dB ↑")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, nargs="?", default=Path("checkpoints/metrics"))
    arguments = parser.parse_args()
    table = read(arguments.table)
    table = table[table.checkpoint.map(lambda name: Cell.parse(name) is None)]  # no cell of a study
    print(quality(summary(table)))
    print()
    print(against_bicubic(table))


def quality(means: pd.DataFrame) -> str:
    """A row a domain and checkpoint: mean [95% interval]."""
    lines = [f"| domain | n | | {' | '.join(TITLES)} |", "|---|---|---|" + "---|" * len(TITLES)]
    for (domain, rank, name), rows in means.assign(rank=means.checkpoint.map(_rank)).groupby(
        ["domain", "rank", "checkpoint"]
    ):
        by_metric = rows.set_index("metric")
        cells = [_cell(by_metric, metric, digits) for metric, digits in SHOWN.items()]
        steps = f", {rows.steps.iloc[0]} steps" if rank == len(ORDER) else ""
        lines.append(f"| {domain} | {rows.n.iloc[0]} | {name}{steps} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rank(checkpoint: str) -> int:
    return ORDER.index(checkpoint) if checkpoint in ORDER else len(ORDER)


def _cell(rows: pd.DataFrame, metric: str, digits: int) -> str:
    if metric not in rows.index:
        return "not measured"
    row = rows.loc[metric]
    return f"{row['mean']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def against_bicubic(table: pd.DataFrame) -> str:
    """Paired differences to bicubic, and the ratio of the LPIPS means."""
    lines = [
        "| domain | | PSNR - bicubic, dB | SSIM - bicubic | LPIPS / bicubic |",
        "|---|---|---|---|---|",
    ]
    ours = table[~table.checkpoint.isin(ORDER)]
    for (domain, name), rows in ours.groupby(["domain", "checkpoint"]):
        base = table[(table.checkpoint == "bicubic") & (table.domain == domain)]
        gains = []
        for metric, digits in (("psnr", 2), ("ssim", 3)):
            gain = difference(rows[rows.metric == metric], base[base.metric == metric])
            gains.append(
                f"{gain.mean:+.{digits}f} [{gain.low:+.{digits}f}, {gain.high:+.{digits}f}]"
            )
        lpips = [part[part.metric == "lpips"].value for part in (rows, base)]
        ratio = "not measured" if lpips[0].empty else f"{lpips[0].mean() / lpips[1].mean():.3f}"
        lines.append(f"| {domain} | {name} | {' | '.join(gains)} | {ratio} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
