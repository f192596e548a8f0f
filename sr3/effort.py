"""How few network evaluations give the same picture: the curve of `sr3.curve` as a chart.

Invariant: every number of a sentence or caption is read from the table of curves; without rows
the chart has no figure, and says which command measures them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from sr3 import figures, results
from sr3.charts import Chart
from sr3.checkpoints import find_checkpoint, registry
from sr3.config import ModelConfig
from sr3.curve import FOLDER, METRICS, compare, curve, lines
from sr3.errors import SR3Error
from sr3.evaluate import sampler_label
from sr3.folder import hash_of, read_config
from sr3.looks import Look
from sr3.metrics import METRICS as KNOWN
from sr3.metrics import Interval

TITLE = "How few evaluations are enough?"
COMMAND = "`python -m benchmarks.samplers --checkpoint NAME` measures it"
FEW = 10  # evaluations, at most, of what the sentences call few


def effort(
    table: pd.DataFrame, config: ModelConfig, checkpoint_hash: str, domain: str, look: Look
) -> Chart:
    """A figure a metric, of one checkpoint on one domain's images; `table` is the curves' own."""
    parts = {m: curve(table, config, checkpoint_hash, m, domain) for m in METRICS}
    known = [part.assign(metric=metric) for metric, part in parts.items() if not part.empty]
    chart = Chart("evaluations", TITLE, pd.concat(known) if known else pd.DataFrame())
    if not known:
        return replace(chart, missing=f"No way to sample was measured yet: {COMMAND}.")
    sizes = sorted(set(chart.data["n"]))
    best = config.sampling
    usual = f"{best.sampler}, eta {best.eta:g}, {best.spacing} spacing from time step {best.start}"
    n = " to ".join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))
    return replace(
        chart,
        figures=tuple(figures.effort(chart.data, m, look) for m in METRICS if not parts[m].empty),
        sentences=tuple(_best(parts[m], m) for m in reversed(METRICS) if not parts[m].empty),
        more=_against_the_chain(table[table["domain"] == domain], config, checkpoint_hash),
        caption=(
            f"{domain}, n = {n} images, one seed; intervals: 95% bootstrap over images. "
            f"Each line differs in what its name says from the recommended sampling: {usual}."
        ),
    )


def effort_of(name: str, look: Look, folder: Path = FOLDER) -> Chart:
    """The chart of a registered checkpoint, on the domain that it was trained on.

    Raises CheckpointError where there is none of that name.
    """
    path, entry = find_checkpoint(name), registry().get(name)
    domain = (entry and entry.domain) or ""
    return effort(results.read(folder), read_config(path), hash_of(path), domain, look)


def _best(part: pd.DataFrame, metric: str) -> str:
    """Which way is best with few evaluations, and where the recommended one stands."""
    known, rows = KNOWN[metric], part[part["steps"] <= FEW].to_dict("records")
    if not rows:
        return f"{known.title}: nothing was measured with at most {FEW} evaluations."
    sign = -1 if known.better == "lower" else 1
    best = max(rows, key=lambda row: sign * row["mean"])
    text = (
        f"{known.title} {known.arrow} with at most {FEW} evaluations is best at {_value(best)}: "
        f"{best['line']}, {best['steps']}"
    )
    mine = [row for row in rows if row["line"] == "recommended"]
    if not mine or best["line"] == "recommended":
        return text + "."
    last = max(mine, key=lambda row: row["steps"])
    return f"{text}; recommended, {last['steps']}: {_value(last)}."


def _value(row: Mapping[Hashable, Any]) -> str:
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _against_the_chain(
    table: pd.DataFrame, config: ModelConfig, checkpoint_hash: str
) -> tuple[str, ...]:
    """A sentence for each few evaluations that were measured on the images of the whole chain;
    `table` is of one domain."""
    usual, *_, paper = lines(config.sampling, config.schedule.steps)
    labels = [
        sampler_label(replace(config.sampling, **line.changes), config.sampling)
        for line in (usual, paper)
    ]
    many = labels[1], config.schedule.steps
    mine = table[(table["checkpoint_hash"] == checkpoint_hash) & (table["sampler"] == labels[0])]
    said = []
    for steps in sorted({int(k) for k in mine["steps"] if k <= FEW}):
        try:
            gaps = compare(table, checkpoint_hash, (labels[0], steps), many)
        except SR3Error:  # not on the same images
            continue
        if gaps:
            told = "; ".join(_gap(metric, gap) for metric, gap in gaps.items())
            said.append(
                f"{steps} recommended evaluations minus the paper's {many[1]:,}, the same "
                f"{next(iter(gaps.values())).n} images: {told}."
            )
    return tuple(said)


def _gap(metric: str, gap: Interval) -> str:
    return f"{KNOWN[metric].title} {gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"
