"""The four questions, answered from the table alone, each as numbers and as one plain sentence.

Invariants: what was not measured has no answer; gains are those of `sr3.gains`, more is better;
intervals are 95% percentile bootstraps that resample the images, the same ones for both sides of a
comparison, and, where several fine-tunes differ in their seed alone, those seeds too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sr3.bootstrap import bootstrap, bounds_of, interval_of
from sr3.cells import Cell, images_label
from sr3.gains import Measured, alike, whole_range
from sr3.metrics import METRICS, Interval
from sr3.verdicts import bounds_told, moved, seeds_told, signed, verdict

SHARE = 0.9  # of the best cell's gain: what counts as repaired
PLAIN = "plain fine-tuning of the whole chain"
MAIN = ("lpips", "ssim", "psnr")  # the metrics that are told


# ------------------------------------------------------------------------------------- the answers
@dataclass(frozen=True)
class Least:
    """Question 2: the least data, and then the fewest updates, with which plain fine-tuning of the
    whole chain repairs the target."""

    metric: str
    target: str
    gain: Interval  # of the best cell: of those that surely gain, if there are any
    best: tuple[int | None, int]  # its images (None: all) and updates
    images: int | None = None
    updates: int | None = None  # None: no cell gains surely
    asked: float = SHARE  # of the best gain
    share: Interval | None = None  # what it reaches; in a resample, of that resample's best
    images_between: tuple[int | None, int | None] = (None, None)  # the choice in 95% of resamples
    updates_between: tuple[int, int] = (0, 0)
    front: tuple[tuple[int | None, int], ...] = ()  # every choice that none is below in both
    seeds: int = 0  # of the least cell
    best_seeds: int = 0
    longest: bool = False  # whether nothing with the best cell's images was tuned for longer
    shorter: tuple[tuple[int, int], ...] = ()  # fewer images, tuned for fewer updates than these
    elsewhere: Sure | None = None  # what else surely gains, and surely more than the best cell

    @property
    def sentence(self) -> str:
        told = f"{_title(self.metric)} on {self.target}: "
        best = f"{images_label(self.best[0])} and {self.best[1]:,} updates"
        gained = f"{signed(self.gain)} with {best} ({seeds_told(self.best_seeds)})"
        if self.updates is None or self.share is None:
            told += f"no {PLAIN} surely gains; the best gain is {gained}"
            return f"{told}.{self._open_end}{self._higher}"
        if (self.images, self.updates) == self.best:
            told += (
                f"the best gain of {PLAIN} is {gained}, and neither fewer images nor, with as "
                f"many, fewer updates reach {self.asked:.0%} of it"
            )
        else:
            told += (
                f"{images_label(self.images)} and {self.updates:,} updates reach "
                f"{self.share.mean:.0%} ({bounds_told(self.share, '.0%')}; "
                f"{seeds_told(self.seeds)}) of the best gain of {PLAIN}, {gained}"
            )
        told += f"; in 95% of resamples the choice is {self._between}."
        return f"{told}{self._cut_short}{self._open_end}{self._higher}"

    @property
    def _between(self) -> str:
        images = dict.fromkeys(images_label(count) for count in self.images_between)
        updates = dict.fromkeys(f"{count:,}" for count in self.updates_between)
        return f"{' to '.join(images)} and {' to '.join(updates)} updates"

    @property
    def _open_end(self) -> str:
        if not self.longest:
            return ""
        images = images_label(self.best[0])
        return f" No longer run with {images} was measured: more may still help."

    @property
    def _cut_short(self) -> str:
        """Which fewer images had no chance, as they were not tuned as long."""
        if not self.shorter:
            return ""
        runs: dict[int, list[int]] = {}
        for images, most in self.shorter:
            runs.setdefault(most, []).append(images)
        told = "; ".join(
            f"{' and '.join(map(str, counts))} image{'s' * (counts != [1])}, {most:,} updates"
            for most, counts in runs.items()
        )
        return f" Fewer images were not tuned as long ({told} at most)."

    @property
    def _higher(self) -> str:
        if (other := self.elsewhere) is None:
            return ""
        more = "What surely gains" if self.updates is None else "Another way gains more"
        return f" {more}: {other.name}, {signed(other.gain)} ({seeds_told(other.seeds)})."


@dataclass(frozen=True)
class Sure:
    """A checkpoint that surely gains."""

    name: str  # its settings but the seed, or its name
    gain: Interval
    seeds: int


@dataclass(frozen=True)
class Contrast:
    """One setting against another, all else equal, on one domain: questions 3 and the baseline."""

    metric: str
    domain: str
    ours: str
    baseline: str
    images: int | None
    updates: int
    difference: Interval  # ours - baseline, more is better
    seeds: int

    @property
    def sentence(self) -> str:
        return (
            f"{_title(self.metric)} on {self.domain}, {images_label(self.images)} and "
            f"{self.updates:,} updates: {verdict(self.ours, self.difference, self.baseline)} "
            f"({seeds_told(self.seeds)})."
        )


@dataclass(frozen=True)
class Trade:
    """Question 4: what a checkpoint gains on the target, and what the source pays for it."""

    metric: str
    target: str
    source: str
    name: str  # its settings but the seed, or its name
    gain: Interval
    change: Interval  # on the source; below 0: forgotten
    seeds: int
    front: bool  # whether no other is better on both
    checkpoints: tuple[str, ...] = ()  # in the table, one a seed

    @property
    def sentence(self) -> str:
        place = ", on the Pareto front" if self.front else ""
        return (
            f"{_title(self.metric)}, {self.name}: {moved(self.target, self.gain)}, "
            f"{moved(self.source, self.change)} ({seeds_told(self.seeds)}){place}."
        )


Answer = Least | Contrast | Trade


def answer_all(table: pd.DataFrame, parent: str, source: str) -> list[Answer]:
    """Every answer that the table holds for a parent, in the questions' order."""
    study = Measured(table, parent)
    found: list[Answer] = []
    for target in study.targets:
        for metric in (name for name in MAIN if name in study.metrics):
            least = least_needed(study, metric, target)
            found += [least] if least else []
            found += range_effects(study, metric, target, target)
            found += range_effects(study, metric, target, source)
            found += against_scratch(study, metric, target)
            found += [each for on in (target, source) for each in spared(study, metric, target, on)]
            found += [trade for trade in trades(study, metric, target, source) if trade.front]
    return found


# ---------------------------------------------------------------------------------- the questions
def least_needed(
    study: Measured, metric: str, target: str, share: float = SHARE, seed: int = 0
) -> Least | None:
    """The smallest (images, updates) of plain fine-tuning over the whole chain whose gain is at
    least `share` of the best cell's; None where nothing was measured."""
    gains = study.gains(metric, target)
    plain = {n: c for n, c in study.cells.items() if c.plain and c.target == target}
    whole = whole_range(plain)
    groups = alike(gains, {n: c for n, c in plain.items() if c.range == whole})
    cells = sorted(groups, key=lambda cell: (_number(cell.images), cell.updates))
    if not cells:
        return None
    means, draws, n = bootstrap(gains, [groups[cell] for cell in cells], seed)
    every = [interval_of(means[k], draws[:, k], n) for k in range(len(cells))]
    sure = np.array([_surely(gain) for gain in every])
    best = int(np.where(sure, means, -np.inf).argmax() if sure.any() else means.argmax())
    grid = [(cell.images, cell.updates) for cell in cells]
    count = [len(groups[cell]) for cell in cells]
    longest = all(k <= grid[best][1] for images, k in grid if images == grid[best][0])
    joined = {name for names in groups.values() for name in names}
    elsewhere = _best_elsewhere(
        study, gains, target, joined, groups[cells[best]] if sure[best] else [], seed
    )
    if not sure[best]:
        return Least(
            metric, target, every[best], grid[best], best_seeds=count[best], longest=longest,
            elsewhere=elsewhere,
        )  # fmt: skip
    reached = np.flatnonzero(means >= share * means[best])
    least = int(reached[0])  # cells are sorted: least data, then fewest updates
    # In each resample the best is found and the whole choice made again.
    tops = draws[:, sure].max(axis=1)
    picks = (draws >= np.where(tops > 0, share * tops, tops)[:, None]).argmax(axis=1)
    ratio = draws[tops > 0, least] / tops[tops > 0]  # of no gain there is no share
    between = [
        bounds_of([key(cells[pick]) for pick in picks])
        for key in (lambda cell: _number(cell.images), lambda cell: cell.updates)
    ]
    images = tuple(None if np.isinf(v) else int(v) for v in between[0])
    front = [
        grid[i] for i in reached
        if not any(_below(cells[j], cells[i]) for j in reached if j != i)
    ]  # fmt: skip
    return Least(
        metric, target, every[best], grid[best], *grid[least], share,
        interval_of(means[least] / means[best], ratio, n), (images[0], images[1]),
        (int(between[1][0]), int(between[1][1])), tuple(front), count[least], count[best], longest,
        _shorter(grid, grid[least]), elsewhere,
    )  # fmt: skip


def _shorter(
    grid: list[tuple[int | None, int]], least: tuple[int | None, int]
) -> tuple[tuple[int, int], ...]:
    """(images, most updates) of the fewer images that were never tuned for as many updates."""
    most: dict[int, int] = {}
    for images, updates in grid:
        if images is not None and images < _number(least[0]):
            most[images] = max(most.get(images, 0), updates)
    return tuple((images, updates) for images, updates in most.items() if updates < least[1])


def _surely(gain: Interval) -> bool:
    return gain.mean > 0 and (gain.n == 1 or gain.low > 0)


def _best_elsewhere(
    study: Measured, gains: pd.DataFrame, target: str, left_out: set[str], best: list[str],
    seed: int,
) -> Sure | None:  # fmt: skip
    """Of the checkpoints that were tuned on a target or made of others, but for some, that which
    surely gains most, and surely more than the `best` ones; measured on all images that those
    were."""
    cells = {n: c for n, c in study.cells.items() if c.target == target and n not in left_out}
    whole = whole_range(study.cells)
    groups = [(cell.words(whole), names) for cell, names in alike(gains, cells).items()]
    groups += [(name, [name]) for name in study.others]
    found = []
    for name, names in groups:
        if all(_covers(gains, sorted(left_out), each) for each in names):
            means, draws, n = bootstrap(gains, [names, *([best] if best else [])], seed)
            gain = interval_of(means[0], draws[:, 0], n)
            more = interval_of(means[0] - means[-1], draws[:, 0] - draws[:, -1], n)
            if not best or _surely(more):
                found.append(Sure(name, gain, len(names)))
    return max(filter(lambda each: _surely(each.gain), found),
               key=lambda each: each.gain.mean, default=None)  # fmt: skip


def range_effects(
    study: Measured, metric: str, target: str, domain: str, seed: int = 0
) -> list[Contrast]:
    """Each range of time steps against the whole chain, at equal images, updates and seeds."""
    cells = {n: c for n, c in study.cells.items() if c.plain and c.target == target}
    whole = whole_range(cells)
    parts = {n: c for n, c in cells.items() if c.range != whole}
    full = {n: c for n, c in cells.items() if c.range == whole}
    return list(_contrasts(study, metric, domain, parts, full, ("range",), seed))


def against_scratch(study: Measured, metric: str, target: str, seed: int = 0) -> list[Contrast]:
    """Plain fine-tuning against training from scratch, at equal images, updates and seeds; from
    scratch may have a learning rate of its own."""
    cells = {n: c for n, c in study.cells.items() if c.target == target}
    new = {n: c for n, c in cells.items() if c.scratch}
    old = {n: c for n, c in cells.items() if c.plain}
    return list(_contrasts(study, metric, target, old, new, ("scratch", "rate"), seed))


def spared(study: Measured, metric: str, target: str, domain: str, seed: int = 0) -> list[Contrast]:
    """Replay, and LoRA, against plain fine-tuning, at equal images, updates and seeds."""
    cells = {n: c for n, c in study.cells.items() if c.target == target and not c.scratch}
    plain = {n: c for n, c in cells.items() if c.plain}
    replayed = {n: c for n, c in cells.items() if c.replay and not c.lora}
    low_rank = {n: c for n, c in cells.items() if c.lora and not c.replay}
    return [
        *_contrasts(study, metric, domain, replayed, plain, ("replay",), seed),
        *_contrasts(study, metric, domain, low_rank, plain, ("lora",), seed),
    ]


def trades(study: Measured, metric: str, target: str, source: str, seed: int = 0) -> list[Trade]:
    """Gain on the target and change on the source of each checkpoint that was measured on both;
    the best on the target first."""
    there, here = study.gains(metric, target), study.gains(metric, source)
    cells = {n: c for n, c in study.cells.items() if c.target == target and n in here}
    whole = whole_range(study.cells)
    groups = [(cell.words(whole), names) for cell, names in alike(there, cells).items()]
    groups += [
        (n, [n])
        for n in study.others
        if all(_covers(gains, list(cells), n) for gains in (there, here))
    ]
    if not groups:
        return []
    lists = [names for _, names in groups]
    gain, gain_draws, gain_n = bootstrap(there, lists, seed)
    change, change_draws, change_n = bootstrap(here, lists, seed)
    found = [
        Trade(
            metric, target, source, name, interval_of(gain[k], gain_draws[:, k], gain_n),
            interval_of(change[k], change_draws[:, k], change_n), len(names),
            not bool(np.any((gain >= gain[k]) & (change >= change[k])
                            & ((gain > gain[k]) | (change > change[k])))),
            tuple(names),
        )
        for k, (name, names) in enumerate(groups)
    ]  # fmt: skip
    return sorted(found, key=lambda trade: -trade.gain.mean)


def _covers(gains: pd.DataFrame, cells: list[str], name: str) -> bool:
    """Whether a checkpoint was measured on all images that the cells (none: that any) were."""
    return name in gains and bool(gains[[*cells, name]].dropna(subset=cells)[name].notna().all())


def _contrasts(
    study: Measured, metric: str, domain: str, ours: dict[str, Cell], theirs: dict[str, Cell],
    settings: tuple[str, ...], seed: int,
) -> Iterator[Contrast]:  # fmt: skip
    """Pairs of cells that differ in some settings alone, seeds that both have joined."""
    gains = study.gains(metric, domain)
    baselines = sorted(alike(gains, theirs).items(), key=lambda item: _order(item[0]))
    for cell, names in sorted(alike(gains, ours).items(), key=lambda item: _order(item[0])):
        for other, partners in baselines:
            by_seed = {theirs[name].seed: name for name in partners}
            pairs = {n: by_seed[ours[n].seed] for n in names if ours[n].seed in by_seed}
            if cell.but(*settings) != other.but(*settings) or not pairs:
                continue
            differences = pd.DataFrame({n: gains[n] - gains[o] for n, o in pairs.items()})
            means, draws, n = bootstrap(differences, [list(pairs)], seed)
            yield Contrast(
                metric, domain, _of(cell, settings[0]), _of(other, settings[0]), cell.images,
                cell.updates, interval_of(means[0], draws[:, 0], n), len(pairs),
            )  # fmt: skip


# ------------------------------------------------------------------------------------------- words
def _number(images: int | None) -> float:
    return float("inf") if images is None else images


def _order(cell: Cell) -> tuple[Any, ...]:
    return cell.range, _number(cell.images), cell.updates, cell.title


def _below(one: Cell, other: Cell) -> bool:
    """Whether one needs no more of either than the other."""
    return _number(one.images) <= _number(other.images) and one.updates <= other.updates


def _of(cell: Cell, setting: str) -> str:
    if setting == "range":
        return f"training on time steps {cell.range[0]}:{cell.range[1]}"
    if setting in ("replay", "lora"):
        if cell.lora:
            return f"LoRA {cell.lora}"
        return f"replay {cell.replay:g}" if cell.replay else "plain fine-tuning"
    if not cell.scratch:
        return "fine-tuning"
    return "training from scratch" + (f" (rate {cell.rate:g})" if cell.rate else "")


def _title(metric: str) -> str:
    return METRICS[metric].title
