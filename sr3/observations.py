"""Question 1 and what the charts show beside the answers, each as numbers and as one sentence.

How the parent does on each domain against the baselines; whether its error there nears that on
the source as the noise grows, and what fine-tuning makes of it; whether more updates still help.

Invariants as in `sr3.answers`: more is better, same images on both sides, 95% intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sr3.answers import MAIN
from sr3.bootstrap import bootstrap, interval_of
from sr3.cells import Cell, images_label
from sr3.gains import alike
from sr3.gap import Chain
from sr3.metrics import METRICS, Interval
from sr3.srga import divergence_of
from sr3.verdicts import seeds_told, signed, sized, verdict
from sr3.views import Along, Story


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
class Level:
    """The parent's mean on one domain, beside bicubic enlargement on the same images."""

    metric: str
    domain: str
    checkpoint: str
    value: Interval
    bicubic: float
    own: bool  # whether it was trained on this domain
    home: Interval | None  # its mean on its own domain; None: not measured

    @property
    def sentence(self) -> str:
        metric = METRICS[self.metric]
        form = ".2f" if metric.unit else ".3f"
        where = f"its own domain, {self.domain}" if self.own else self.domain
        return (
            f"{metric.title} of {self.checkpoint} on {where}: {sized(self.value, form)}"
            f"{self._beside_home}; bicubic enlargement: {self.bicubic:{form}}."
        )

    @property
    def _beside_home(self) -> str:
        """Other images, so no pairs: told apart where the intervals do not meet."""
        if self.own or self.home is None:
            return ""
        above, below = self.value.low > self.home.high, self.value.high < self.home.low
        if not (above or below):
            return ", not told apart from that on its own domain"
        better = above == (METRICS[self.metric].better == "higher")
        return f", {'better' if better else 'worse'} than on its own domain"


@dataclass(frozen=True)
class Fading:
    """How many times the source's error a domain's is: with the least noise, where it is lowest,
    and with the most noise; how that changes is paired, by the same images at all time steps."""

    domain: str
    source: str
    checkpoint: str
    times: tuple[int, int, int]  # time steps: the first, the lowest one's, the last
    ratios: tuple[Interval, Interval, Interval]  # of mean absolute errors of the clean estimate
    whole: Interval  # the last ratio over the first
    rise: Interval  # the last ratio over that at the lowest one's time step

    @property
    def sentence(self) -> str:
        first, lowest, last = (_ratio(ratio) for ratio in self.ratios)
        start, least, end = (f"time step {time:,}" for time in self.times)
        dips = self.times[1] not in (self.times[0], self.times[2])
        middle = f"{lowest} times at its least, {least}, " if dips else ""
        again = ""
        if dips and self.rise.low > 1:
            again = f"; from its least it grows again by a factor of {_ratio(self.rise)}"
        return (
            f"On {self.domain} the error of {self.checkpoint}'s clean estimate is {first} times "
            f"that on {self.source} at {start}, {middle}and {last} times at {end} (n = "
            f"{self.whole.n}), a factor of {_ratio(self.whole)} from first to last: "
            f"{self._told}{again}."
        )

    @property
    def _told(self) -> str:
        gap = min(self.ratios[0].mean, self.ratios[2].mean) >= 1
        what = "the gap" if gap else "the ratio"
        if self.whole.high < 1:
            return f"{what} {'fades' if gap else 'falls'} with the noise"
        if self.whole.low > 1:
            return f"{what} grows with the noise"
        return f"{what} cannot be said to fall or to grow from end to end"


@dataclass(frozen=True)
class Shift:
    """What fine-tuning made of the gap along the chain: the ratio of a fine-tune over that of its
    parent, on the same images and noise, as geometric means over time steps."""

    domain: str
    source: str
    checkpoint: str
    parent: str
    trained_on: tuple[int, int] | None  # None: not known
    inside: Interval  # over the time steps trained on; of all, where the range is not known
    outside: Interval | None  # over the others; None: there are none

    @property
    def sentence(self) -> str:
        steps = "all time steps"
        if self.trained_on is not None and self.outside is not None:
            first, last = self.trained_on
            steps = f"the time steps that it was trained on ({first}:{last})"
        text = (
            f"{self.checkpoint} against {self.parent}: the error on {self.domain} over that on "
            f"{self.source} changes by a factor of {_ratio(self.inside)} over {steps}"
        )
        if self.outside is not None:
            text += f", and by {_ratio(self.outside)} over the others"
        return f"{text} (n = {self.inside.n})."


@dataclass(frozen=True)
class Drift:
    """How far a checkpoint's features drift on a domain, beside two halves of the reference."""

    domain: str
    reference: str
    checkpoint: str
    time: int  # of the time steps that were measured, where it is largest
    index: tuple[float, float, float]  # SRGA-style: mean, lowest and highest of random splits
    halves: tuple[float, float, float]
    n: int  # images a side, of both

    @property
    def sentence(self) -> str:
        above = self.index[1] > self.halves[2]
        told = "above that floor" if above else "not to be told from that floor"
        across, between = (divergence_of(each[0]) for each in (self.index, self.halves))
        return (
            f"The index of {self.checkpoint} on {self.domain} reaches {_splits(self.index)} at "
            f"time step {self.time:,}, a divergence of {across:.4f} nats; what two halves of "
            f"{self.reference} give at this n is {_splits(self.halves)}, {between:.4f} nats "
            f"(n = {self.n} images a side): it is {told}."
        )


@dataclass(frozen=True)
class Flattening:
    """What the last updates changed, with so many images."""

    metric: str
    domain: str
    images: str
    updates: tuple[int, int]
    difference: Interval  # of the gains, later - earlier
    later: float  # the later gain
    seeds: int

    @property
    def sentence(self) -> str:
        low, high = self.difference.low, self.difference.high
        told = "more still helps" if low > 0 else "it hurts" if high < 0 else "the curve is flat"
        if low > 0 and self.difference.mean < self.later:  # there was a gain already
            told += f", although {1 - self.difference.mean / self.later:.0%} of it had been reached"
        return (
            f"{METRICS[self.metric].title} on {self.domain}, {self.images}: going from "
            f"{self.updates[0]:,} to {self.updates[1]:,} updates changes the gain by "
            f"{signed(self.difference)}, {seeds_told(self.seeds)}: {told}."
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


def levels(story: Story, metric: str) -> list[Level]:
    """The parent on each domain where it and bicubic enlargement were measured."""
    found, home, names = [], None, [story.parent, "bicubic"]
    for domain in story.domains:  # the source comes first
        wide = story.values(metric, domain)
        if not set(names) <= set(wide):
            continue
        values = wide[names].replace([np.inf, -np.inf], np.nan)
        if values.dropna().empty:
            continue
        means, draws, n = bootstrap(values, [[name] for name in names], 0)
        value, own = interval_of(means[0], draws[:, 0], n), domain == story.source
        home = value if own else home
        found.append(Level(metric, domain, story.parent, value, float(means[1]), own, home))
    return found


def fadings(story: Story) -> list[Fading]:
    """For the parent, one a domain, by its name."""
    parents = (each for each in story.chains if each.what.kind == "parent")
    return [
        _fading(story, each)
        for each in sorted(parents, key=lambda each: each.domain)
        if len(each.chain.times) > 1
    ]


def _fading(story: Story, each: Along) -> Fading:
    chain, n = each.chain, len(each.chain.images[1])
    ratios, low = chain.ratios, int(chain.ratio.argmin())
    places = (0, low, -1)
    ends = [interval_of(chain.ratio[k], ratios[:, k], n) for k in places]
    whole = interval_of(chain.ratio[-1] / chain.ratio[0], ratios[:, -1] / ratios[:, 0], n)
    # Not each resample's own lowest: that is below the last one even where there is no dip.
    rise = interval_of(chain.ratio[-1] / chain.ratio[low], ratios[:, -1] / ratios[:, low], n)
    times = tuple(chain.times[k] for k in places)
    return Fading(
        each.domain, str(story.source), story.parent, (times[0], times[1], times[2]),
        (ends[0], ends[1], ends[2]), whole, rise,
    )  # fmt: skip


def shifts(story: Story) -> list[Shift]:
    """For each fine-tune whose gap was measured on the images of its parent's, by domain."""
    parents = {each.domain: each.chain for each in story.chains if each.what.kind == "parent"}
    found = []
    for each in sorted(story.chains, key=lambda each: (each.domain, each.what.order)):
        parent = parents.get(each.domain)
        if each.what.kind != "parent" and parent is not None:
            shift = _shift(story, each, parent)
            found += [shift] if shift else []
    return found


def _shift(story: Story, each: Along, parent: Chain) -> Shift | None:
    chain = each.chain
    if chain.images != parent.images or chain.times != parent.times:
        return None  # no pairs
    means = np.log(chain.ratio / parent.ratio)
    draws = np.log(chain.ratios / parent.ratios)
    first, last = each.trained_on or (0, max(chain.times))
    inside = np.array([first < time <= last for time in chain.times])
    if not inside.any():
        return None
    n = len(chain.images[1])
    parts = [
        interval_of(np.exp(means[part].mean()), np.exp(draws[:, part].mean(axis=1)), n)
        if part.any() else None
        for part in (inside, ~inside)
    ]  # fmt: skip
    assert parts[0] is not None
    return Shift(
        each.domain, str(story.source), each.what.label, story.parent, each.trained_on, parts[0],
        parts[1],
    )  # fmt: skip


def drifts(view: pd.DataFrame) -> list[Drift]:
    """One a checkpoint and domain but the reference; `view` as `Story.index` gives it."""
    at = ["checkpoint", "reference", "time", "n"]
    halves = view[view["domain"] == view["reference"]].set_index(at)
    found = []
    others = view[(view["domain"] != view["reference"]) & view["floor"].notna()]
    for _, rows in others.groupby(["checkpoint", "domain"], sort=False):
        row = rows.iloc[int(rows["index"].to_numpy().argmax())]
        floor = halves.loc[[tuple(row[at])]].iloc[0]
        ours, theirs = (
            (float(each["index"]), float(each["lowest"]), float(each["highest"]))
            for each in (row, floor)
        )
        found.append(Drift(row["domain"], row["reference"], row["checkpoint"], int(row["time"]),
                           ours, theirs, int(row["n"])))  # fmt: skip
    return found


def flattenings(story: Story, metric: str, target: str, domain: str) -> list[Flattening]:
    """Of plain fine-tuning over the whole chain, with seeds that both ends have: for the most
    images, and then for others that were tuned for longer than the fewest updates of any."""
    cells = {
        name: cell
        for name, cell in story.study.cells.items()
        if cell.plain and cell.target == target and cell.range == story.whole
    }
    gains = story.study.gains(metric, domain)
    lines: dict[float, dict[int, list[str]]] = {}  # by images: the names by updates
    for cell, names in alike(gains, cells).items():
        lines.setdefault(_size(cell), {})[cell.updates] = names
    short = min(map(max, lines.values()), default=0)
    sizes = [n for n in sorted(lines, reverse=True) if n == max(lines) or max(lines[n]) > short]
    found = [_flattening(metric, domain, gains, cells, lines[size]) for size in sizes]
    return [each for each in found if each is not None]


def _flattening(
    metric: str, domain: str, gains: pd.DataFrame, cells: Mapping[str, Cell],
    line: Mapping[int, list[str]],
) -> Flattening | None:  # fmt: skip
    """From the last but one of a line's updates to the last; None where no seed has both."""
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
    later, _, _ = bootstrap(gains, [list(pairs)], 0)
    return Flattening(metric, domain, images, (first, last), interval, later[0], len(pairs))


def _size(cell: Cell) -> float:
    return float("inf") if cell.images is None else cell.images


def main_metric(story: Story) -> str | None:
    """The metric of a headline."""
    return next((name for name in MAIN if name in story.metrics), None)


def _ratio(interval: Interval) -> str:
    return f"{interval.mean:.2f} (95% interval {interval.low:.2f} to {interval.high:.2f})"


def _splits(index: tuple[float, float, float]) -> str:
    mean, lowest, highest = index
    return f"{mean:.2f} ({lowest:.2f} to {highest:.2f} over random splits)"
