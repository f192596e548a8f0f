"""The tables of the README and of the cards, in Markdown, from the measured rows alone.

    python -m benchmarks.tables                    # a checkpoint on each domain, beside bicubic
    python -m benchmarks.tables --target anime     # its fine-tunes: what they gain and cost
    python -m benchmarks.tables --checkpoint lite-2 --against lite    # paired differences

The rows are made by `python -m sr3 evaluate ... --out checkpoints/metrics` and by the study.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from sr3.gains import commonest_sampling
from sr3.metrics import METRICS
from sr3.results import difference, read, summary
from sr3.views import Story, bicubic_of, source_of

ORDER = ("bicubic", "regression")  # then the checkpoints
SHOWN = {"psnr": 2, "ssim": 3, "lpips": 3, "consistency_psnr": 1}
TITLES = ("PSNR dB ↑", "SSIM ↑", "LPIPS ↓", "LR-PSNR dB ↑")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, nargs="?", default=Path("checkpoints/metrics"))
    parser.add_argument("--checkpoint", default="lite")
    parser.add_argument("--target", help="a domain that was tuned on")
    parser.add_argument("--against", help="another checkpoint, each in its own usual steps")
    arguments = parser.parse_args()
    table, name = read(arguments.table), arguments.checkpoint
    if arguments.target:
        print(fine_tunes(Story(table, name, source_of(table, name)), arguments.target))
        return
    if arguments.against:
        print(against(table, name, arguments.against))
        return
    table = shown(table, name)
    print(quality(summary(table)))
    print()
    print(against_bicubic(table))


def shown(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows that these tables are of: their metrics of a checkpoint in its usual steps, and of
    the baselines with its weights or sizes."""
    table = table[table.metric.isin(SHOWN)]
    ours = table[table.checkpoint == name]
    sampler, steps = commonest_sampling(ours) or ("", 0)
    usual = ours[(ours.sampler == sampler) & (ours.steps == steps)]
    same = table.checkpoint_hash.isin({bicubic_of(table, name), *ours.checkpoint_hash})
    return pd.concat([table[table.checkpoint.isin(ORDER) & same], usual])


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


def _signed(mean: float, low: float, high: float, digits: int) -> str:
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


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
            gains.append(_signed(gain.mean, gain.low, gain.high, digits))
        lpips = [part[part.metric == "lpips"].value for part in (rows, base)]
        ratio = "not measured" if lpips[0].empty else f"{lpips[0].mean() / lpips[1].mean():.3f}"
        lines.append(f"| {domain} | {name} | {' | '.join(gains)} | {ratio} |")
    return "\n".join(lines)


def against(table: pd.DataFrame, name: str, other: str) -> str:
    """A row a domain: the paired differences of two checkpoints, and of how many images."""
    metrics = {"lpips": 4, "ssim": 4, "psnr": 2}
    heads = " | ".join(f"{METRICS[m].label} - {other}'s" for m in metrics)
    lines = [f"| {name} on | n | {heads} |", "|---|---|" + "---|" * len(metrics)]
    ours, theirs = (part[part.checkpoint == each] for each in (name, other)
                    for part in [shown(table, each)])  # fmt: skip
    for domain, rows in ours.groupby("domain"):
        cells, n = [], 0
        for metric, digits in metrics.items():
            base = theirs[(theirs.domain == domain) & (theirs.metric == metric)]
            gap = difference(rows[rows.metric == metric], base)
            cells.append(_signed(gap.mean, gap.low, gap.high, digits))
            n = gap.n
        lines.append(f"| {domain} | {n} | {' | '.join(cells)} |")
    return "\n".join(lines)


def fine_tunes(story: Story, target: str) -> str:
    """A row a fine-tune, best LPIPS first: gains (more is better) on the target and the source."""
    metrics = {"lpips": 3, "ssim": 3, "psnr": 2}
    heads = [f"{domain}, {METRICS[m].title}" for domain in (target, story.source) for m in metrics]
    lines = [f"| | seeds | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
    trades = story.trades(target)
    for label in trades.checkpoint[trades.metric == "lpips"]:
        rows = trades[trades.checkpoint == label].set_index("metric")
        cells = [
            _signed(rows.at[m, mean], rows.at[m, f"{mean}_low"], rows.at[m, f"{mean}_high"], digits)
            for mean in ("gain", "change")
            for m, digits in metrics.items()
        ]
        lines.append(f"| {label} | {rows.seeds.iloc[0]} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
