"""Question 1 and what the charts show beside the answers, each as numbers and as one sentence.

How the parent does on each domain against the baselines; whether its error there nears that on
the source as the noise grows; whether more updates still help.

Invariants as in `sr3.answers`: more is better, same images on both sides, 95% intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sr3.answers import MAIN, alike, signed, verdict
from sr3.bootstrap import bootstrap, interval_of
from sr3.cells import Cell
from sr3.metrics import METRICS, Interval
from sr3.views import Story, images_label


@dataclass(frozen=True)
class Transfer:
    """The parent against a baseline on one domain."""

    metric: str
    domain: str
    checkpoint: str
    baseline: str
    difference: Interval  # more is better

    @property
    def sentence(self) -> str:
        told = verdict(self.checkpoint, self.difference, self.baseline)
        return f"{METRICS[self.metric].title} on {self.domain}: {told}."


@dataclass(frozen=True)
class Fading:
    """How many times the source's error a domain's is, where the noise is least and most."""

    domain: str
    source: str
    checkpoint: str
    first: int  # time step, the least noise
    last: int
    at_first: Interval  # ratio of mean absolute errors of the clean estimate
    at_last: Interval

    @property
    def sentence(self) -> str:
        one, other = self.at_first, self.at_last
        told = "the gap cannot be said to fade or to grow with the noise"
        if other.high < one.low:
            told = "the gap fades with the noise"
        elif other.low > one.high:
            told = "the gap grows with the noise"
        return (
            f"The error of {self.checkpoint}'s clean estimate on {self.domain} is "
            f"{_ratio(one)} times that on {self.source} at time step {self.first:,}, and "
            f"{_ratio(other)} times at time step {self.last:,} (n = {other.n}): {told}."
        )


@dataclass(frozen=True)
class Flattening:
    """What the last updates changed, with the most images."""

    metric: str
    domain: str
    images: str
    updates: tuple[int, int]
    difference: Interval  # of the gains, later - earlier
    seeds: int

    @property
    def sentence(self) -> str:
        low, high = self.difference.low, self.difference.high
        told = "more still helps" if low > 0 else "it hurts" if high < 0 else "the curve is flat"
        seeds = f"{self.seeds} seed{'s' * (self.seeds != 1)}"
        return (
            f"{METRICS[self.metric].title} on {self.domain}, {self.images}: going from "
            f"{self.updates[0]:,} to {self.updates[1]:,} updates changes the gain by "
            f"{signed(self.difference)}, {seeds}: {told}."
        )


def transfers(story: Story, metric: str) -> list[Transfer]:
    """The parent against each baseline on each domain where both were measured."""
    found = []
    for domain in story.domains:
        wide = story.values(metric, domain)
        if story.parent not in wide:
            continue
        sign = 1.0 if METRICS[metric].better == "higher" else -1.0
        for baseline in (name for name in ("bicubic", "regression") if name in wide):
            gain = ((wide[story.parent] - wide[baseline]) * sign).to_frame("gain")
            gain = gain.replace([np.inf, -np.inf], np.nan)
            if gain["gain"].dropna().empty:
                continue
            means, draws, n = bootstrap(gain, [["gain"]], 0)
            label = story.identify(baseline).label
            interval = interval_of(means[0], draws[:, 0], n)
            found.append(Transfer(metric, domain, story.parent, label, interval))
    return found


def fadings(story: Story, gap: pd.DataFrame) -> list[Fading]:
    """For the parent, one a domain; `gap` as `Story.gap` gives it."""
    found = []
    for domain, rows in gap[gap["kind"] == "parent"].groupby("domain", sort=False):
        rows = rows.sort_values("time")
        if len(rows) < 2:
            continue
        ends = [
            Interval(row["ratio"], row["ratio_low"], row["ratio_high"], int(row["n_domain"]))
            for _, row in rows.iloc[[0, -1]].iterrows()
        ]
        times = int(rows["time"].iloc[0]), int(rows["time"].iloc[-1])
        found.append(Fading(str(domain), str(story.source), story.parent, *times, *ends))
    return found


def flattening(story: Story, metric: str, target: str, domain: str) -> Flattening | None:
    """Of plain fine-tuning over the whole chain, with seeds that both ends have."""
    cells = {
        name: cell
        for name, cell in story.study.cells.items()
        if cell.plain and cell.target == target and cell.range == story.whole
    }
    gains = story.study.gains(metric, domain)
    groups = alike(gains, cells)
    if not groups:
        return None
    most = max(map(_size, groups))
    line = {c.updates: names for c, names in groups.items() if _size(c) == most}
    if len(line) < 2:
        return None
    first, last = sorted(line)[-2:]
    by_seed = {cells[name].seed: name for name in line[first]}
    pairs = {n: by_seed[cells[n].seed] for n in line[last] if cells[n].seed in by_seed}
    if not pairs:
        return None
    change = pd.DataFrame({n: gains[n] - gains[earlier] for n, earlier in pairs.items()})
    means, draws, n = bootstrap(change, [list(pairs)], 0)
    images = images_label(cells[next(iter(pairs))].images)
    interval = interval_of(means[0], draws[:, 0], n)
    return Flattening(metric, domain, images, (first, last), interval, len(pairs))


def _size(cell: Cell) -> float:
    return float("inf") if cell.images is None else cell.images


def main_metric(story: Story) -> str | None:
    """The metric of a headline."""
    return next((name for name in MAIN if name in story.metrics), None)


def _ratio(interval: Interval) -> str:
    return f"{interval.mean:.2f} (95% interval {interval.low:.2f} to {interval.high:.2f})"
