"""A table's fine-tunes of one parent, and what each gains over it, image by image.

Invariants: a gain is signed so that more is better in every metric, and is of one checkpoint over
its parent on the same images and sampling seeds. Fine-tunes of several plans are neither joined nor
compared (`of_plans`): a plan's other settings may differ.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import pandas as pd

from sr3.cells import Cell
from sr3.metrics import METRICS
from sr3.results import newest_weights


class Measured:
    """The part of a table that is of one parent, with one way of sampling: the commonest one
    among its fine-tunes, unless told."""

    def __init__(
        self, table: pd.DataFrame, parent: str, sampling: tuple[str, int] | None = None
    ) -> None:
        names = table["checkpoint"].unique()
        every = {name: cell for name in names if (cell := Cell.parse(name))}
        self.parent = parent
        mine = {name: cell for name, cell in every.items() if cell.parent == parent}
        tuned = table[table["checkpoint"].isin(mine)]
        if sampling is None and len(tuned):
            sampling = commonest_sampling(tuned)
        sampling = sampling or ("", 0)
        keep = (table["sampler"] == sampling[0]) & (table["steps"] == sampling[1])
        self.sampling = sampling
        self.cells = of_plans(mine, table[keep])
        here = table.loc[keep & table["checkpoint"].isin(mine), "checkpoint"].nunique()
        self.older = here - len(self.cells)  # fine-tunes of earlier plans, of which nothing is told
        others = set(names) - set(every) - {"bicubic", "regression", parent}
        self.others = sorted(others)  # spliced and interpolated ones, say
        rows = table[keep & table["checkpoint"].isin([*self.cells, *others, parent])]
        levels = ["domain", "metric", "checkpoint", "image", "seed"]
        values = _comparable(newest_weights(rows), parent).groupby(levels)["value"].mean()
        self._wide: dict[tuple[str, str], pd.DataFrame] = {}
        for key, group in values.groupby(level=["domain", "metric"]):
            domain, metric = cast(tuple[str, str], key)
            self._wide[domain, metric] = group.droplevel([0, 1]).unstack("checkpoint")
        self.metrics = [name for name in METRICS if any(name == m for _, m in self._wide)]

    @cached_property
    def targets(self) -> list[str]:
        """The domains that were tuned on."""
        return sorted({cell.target for cell in self.cells.values()})

    def gains(self, metric: str, domain: str) -> pd.DataFrame:
        """A row an image, a column a checkpoint: its gain over the parent, more is better; a mean
        over the sampling seeds that both have.

        Images that not all were measured on, or where PSNR is infinite, are left out.
        """
        wide = self._wide.get((domain, metric))
        if wide is None or self.parent not in wide:
            return pd.DataFrame()
        sign = 1.0 if METRICS[metric].better == "higher" else -1.0
        gains = wide.drop(columns=self.parent).sub(wide[self.parent], axis=0) * sign
        return gains.groupby(level="image").mean().replace([np.inf, -np.inf], np.nan)


def commonest_sampling(rows: pd.DataFrame) -> tuple[str, int] | None:
    """The (sampler, steps) that most rows have, of equals the first; None of no rows."""
    if rows.empty:
        return None
    most: Any = rows.groupby(["sampler", "steps"], sort=False).size().idxmax()
    return str(most[0]), int(most[1])


def _comparable(rows: pd.DataFrame, parent: str) -> pd.DataFrame:
    """The rows but for LPIPS of another backbone than the parent's."""
    of_parent = rows.loc[rows["checkpoint"] == parent, "lpips_backbone"].dropna()
    return rows[(rows["metric"] != "lpips") | rows["lpips_backbone"].isin(of_parent)]


def of_plans(cells: dict[str, Cell], rows: pd.DataFrame) -> dict[str, Cell]:
    """The cells to tell of, each with its plan in place of the digest, so that cells are equal
    only within one plan; of cells that differ in their plan (or seed) alone, those of the newest.

    A digest knows the seed, so it does not say which cells were declared together. But two digests
    of one name are of two plans, and plans follow each other: the second one began no later than
    with its first such cell. The sampling seeds tell plans apart too.
    """
    mine = rows[rows["checkpoint"].isin(cells)].groupby("checkpoint")
    first, seeds = mine["created"].min(), mine["seed"].unique()
    order = sorted(first.index, key=lambda name: (first[name], name))
    titles: dict[str, int] = {}
    began: dict[int, int] = {}  # the place at which the first, second, ... plan began
    for place, name in enumerate(order):
        title = cells[name].title
        number = titles[title] = titles.get(title, -1) + 1
        began.setdefault(number, place)
    plans: dict[str, Cell] = {}
    newest: dict[Cell, str] = {}
    for place, name in enumerate(order):
        number = sum(start <= place for start in began.values())
        plan = f"plan {number}, sampling seeds {sorted(map(int, seeds[name]))}"
        plans[name] = replace(cells[name], digest=plan)
        newest[_planless(cells[name])] = plan
    return {n: cell for n, cell in plans.items() if newest[_planless(cell)] == cell.digest}


def _planless(cell: Cell) -> Cell:
    return replace(cell.but("seed"), digest="")


def alike(gains: pd.DataFrame, cells: dict[str, Cell]) -> dict[Cell, list[str]]:
    """Checkpoints that differ in the seed alone, by what they share; seeds in order."""
    groups: dict[Cell, list[str]] = {}
    for name in sorted((n for n in gains if n in cells), key=lambda name: cells[name].seed):
        groups.setdefault(cells[name].but("seed"), []).append(name)
    return groups


def whole_range(cells: dict[str, Cell]) -> tuple[int, int]:
    return max((c.range for c in cells.values()), key=lambda r: r[1] - r[0], default=(0, 0))
