"""What each chart shows, as a table: derived from the one table of measurements, never stored.

Invariants: a view has a row for each thing measured and none for what was not; every row has its
mean, its 95% interval, the images `n` and the fine-tuning `seeds` that it is of; `gain` columns
are over the parent on the same images, more is better in every metric. An empty table gives empty
views.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import pandas as pd

from sr3 import answers
from sr3.answers import MAIN
from sr3.bootstrap import bootstrap, interval_of
from sr3.cells import Cell, images_label
from sr3.checkpoints import registry
from sr3.combine import Recipe
from sr3.errors import SR3Error
from sr3.evaluate import bicubic_hash
from sr3.folder import read_settings
from sr3.gains import Measured, alike, commonest_sampling, whole_range
from sr3.gap import Chain, along_chain, chain_table, read_metric
from sr3.looks import KINDS, Kind
from sr3.results import newest_weights

BASELINES = ("bicubic", "regression")
METRIC_ORDER = ("psnr", "ssim", "lpips")  # of small multiples
QUALITY = ("domain", "metric", "checkpoint", "kind", "mean", "low", "high", "n", "seeds")
GAINS = ("metric", "domain", "images", "updates", "range", "gain", "low", "high", "n", "seeds")
TRADES = (
    "metric", "checkpoint", "kind", "images", "gain", "gain_low", "gain_high", "n_target",
    "change", "change_low", "change_high", "n_source", "seeds", "front", "names", "sentence",
)  # fmt: skip
GAPS = ("domain", "time", "checkpoint", "kind", "gap", "low", "high", "ratio", "ratio_low",
        "ratio_high", "n_reference", "n_domain")  # fmt: skip
INDICES = ("domain", "reference", "time", "checkpoint", "index", "lowest", "highest", "splits",
           "n", "floor")  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """What a checkpoint is, for people: fine-tunes that differ in the seed alone share it."""

    kind: Kind
    label: str
    images: int | None = None  # of a plain fine-tune; None: all, or another kind
    order: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Along:
    """One checkpoint's errors along the chain, on the source and on another domain."""

    what: Identity
    domain: str
    trained_on: tuple[int, int] | None  # time steps; None: not known
    chain: Chain


class Story:
    """The part of a table that is about one parent."""

    def __init__(self, table: pd.DataFrame, parent: str, source: str | None) -> None:
        self.table, self.parent, self.source = table, parent, source
        self.study = Measured(table, parent)

    @property
    def targets(self) -> list[str]:
        """The domains that were tuned on."""
        return self.study.targets

    @cached_property
    def metrics(self) -> list[str]:
        """The metrics that are told, in the order of small multiples."""
        here = set(self.table["metric"].unique())
        return [name for name in METRIC_ORDER if name in here]

    @cached_property
    def domains(self) -> list[str]:
        """The measured domains: the source first, then the nearest, the tuned-on ones last."""
        here = sorted(self.table.loc[self.table["metric"].isin(MAIN), "domain"].unique())
        return sorted(here, key=lambda name: (name != self.source, name in self.targets, name))

    @cached_property
    def sampling(self) -> tuple[str, int]:
        """The way of sampling that charts show: the fine-tunes', else the parent's commonest."""
        if self.study.cells:
            return self.study.sampling
        rows = self.table[(self.table["checkpoint"] == self.parent) & _told(self.table)]
        return commonest_sampling(rows) or ("", 0)

    @cached_property
    def backbone(self) -> str:
        """LPIPS's backbone, or several."""
        return ", ".join(sorted(self.table["lpips_backbone"].dropna().unique())) or "not measured"

    @cached_property
    def _by_hash(self) -> dict[str, str]:
        """A fine-tune's name by its weights: the gap is measured under a folder's name."""
        rows = self.table[self.table["checkpoint"].isin(self.study.cells)]
        rows = rows.drop_duplicates("checkpoint_hash", keep="last")
        return dict(zip(rows["checkpoint_hash"], rows["checkpoint"], strict=True))

    def identify(self, name: str, digest: str = "") -> Identity:
        """What a checkpoint of the table is."""
        if (cell := self._cell(name, digest)) is not None:
            return self.identify_cell(cell)
        if name == self.parent:
            return Identity("parent", f"{name} (parent)", order=(2,))
        if name in BASELINES:
            kind: Kind = "bicubic" if name == "bicubic" else "regression"
            return Identity(kind, KINDS[kind], order=(BASELINES.index(name),))
        kind = made_as(name)
        return Identity(kind, name, order=(3, list(KINDS).index(kind), name))

    def identify_cell(self, cell: Cell) -> Identity:
        """What a fine-tune is; the seed is left out, and the target where there is one alone."""
        limited = cell.range != self.whole
        kind: Kind = "plain"
        for name, holds in (("range", limited), ("replay", bool(cell.replay)),
                            ("lora", bool(cell.lora)), ("scratch", cell.scratch)):  # fmt: skip
            kind = name if holds else kind  # type: ignore[assignment]
        target = f"{cell.target}, " if len(self.targets) > 1 else ""
        label = target + cell.words(self.whole)
        order = (3, list(KINDS).index(kind), cell.range, _size(cell.images), cell.updates, label)
        return Identity(kind, label, cell.images, order)

    @cached_property
    def whole(self) -> tuple[int, int]:
        """The whole chain."""
        return whole_range(self.study.cells)

    # ------------------------------------------------------------------------------------ domains
    @cached_property
    def _shown(self) -> pd.DataFrame:
        """Rows of the told metrics that compare: one way of sampling, the images of a domain that
        most checkpoints were measured on, the parent's own regression, bicubic of its sizes."""
        table = self.table[_told(self.table)]
        sampler, steps = self.sampling
        ours = (table["sampler"] == sampler) & (table["steps"] == steps)
        known = [self.parent, *self.study.cells, *self.study.others]
        hashes = set(table.loc[table["checkpoint"] == self.parent, "checkpoint_hash"])
        regression = (table["checkpoint"] == "regression") & table["checkpoint_hash"].isin(hashes)
        bicubic = table["checkpoint_hash"] == bicubic_of(self.table, self.parent)
        table = table[(ours & table["checkpoint"].isin(known)) | regression | bicubic]
        counts = table.groupby(["domain", "image"])["checkpoint"].nunique()
        most = counts.groupby(level="domain").transform("max")
        pairs = pd.MultiIndex.from_frame(table[["domain", "image"]])
        return table[pairs.isin(counts[counts == most].index)]

    @cached_property
    def _wide(self) -> dict[tuple[str, str], pd.DataFrame]:
        """By metric and domain: `values`."""
        means = self._shown.groupby(["metric", "domain", "image", "checkpoint"])["value"].mean()
        return {
            cast(tuple[str, str], key): group.droplevel([0, 1])
            .unstack("checkpoint")
            .dropna(axis="columns")  # half measured is not measured yet
            for key, group in means.groupby(level=["metric", "domain"])
        }

    def values(self, metric: str, domain: str) -> pd.DataFrame:
        """A row an image, a column a checkpoint of the table: its mean over sampling seeds."""
        return self._wide.get((metric, domain), pd.DataFrame())

    @cached_property
    def identities(self) -> dict[str, Identity]:
        """Each label of the quality chart -> what it is, in order."""
        found = {self.identify(name) for name in self._shown["checkpoint"].unique()}
        return {each.label: each for each in sorted(found, key=lambda each: each.order)}

    @cached_property
    def highlights(self) -> list[str]:
        """Labels worth showing first: baselines, parent, and of each kind the best on the first
        target, with the least that suffices."""
        chosen = {k for k, each in self.identities.items() if each.kind in (*BASELINES, "parent")}
        metric = next((name for name in MAIN if name in self.metrics), None)
        if self.targets and metric:
            target = self.targets[0]
            best: dict[Kind, str] = {}
            for name, label in self._by_gain(metric, target):
                best.setdefault(self.identify(name).kind, label)
            chosen |= set(best.values())
            least = answers.least_needed(self.study, metric, target)
            if least is not None and least.updates is not None:
                cell = Cell("", target, least.images, least.updates, self.whole, 0)
                chosen.add(self.identify_cell(cell).label)
        return [label for label in self.identities if label in chosen]

    def _by_gain(self, metric: str, target: str) -> list[tuple[str, str]]:
        gains = self.study.gains(metric, target).mean().sort_values(ascending=False)
        return [(str(name), self.identify(str(name)).label) for name in gains.index]

    def quality(self, labels: Iterable[str] | None = None) -> pd.DataFrame:
        """Mean of each metric, domain and checkpoint; columns QUALITY. Labels as `identities`;
        None: all."""
        wanted = set(self.identities if labels is None else labels)
        names = {n: self.identify(n) for n in self._shown["checkpoint"].unique()}
        names = {name: each for name, each in names.items() if each.label in wanted}
        rows = self._shown[self._shown["checkpoint"].isin(names)]
        found = []
        for domain, metric in rows[["domain", "metric"]].drop_duplicates().itertuples(index=False):
            wide = self.values(metric, domain)
            wide = wide[[name for name in wide if name in names]]
            groups = _grouped(wide.columns, names)
            for each, values in zip(groups, _means(wide, list(groups.values())), strict=True):
                found.append((domain, metric, each.label, each.kind, *values))
        frame = pd.DataFrame(found, columns=list(QUALITY))
        order = [list(self.identities), self.domains, list(METRIC_ORDER)]
        for key, column, known in zip(
            "cdm", ("checkpoint", "domain", "metric"), order, strict=True
        ):
            frame[f"_{key}"] = frame[column].map(known.index)
        return _sorted(frame, ["_m", "_d", "_c"])[list(QUALITY)]

    # --------------------------------------------------------------------------------- fine-tuning
    def gains(self, target: str, domains: Sequence[str], ranges: bool = False) -> pd.DataFrame:
        """Gains of plain fine-tuning by images, updates and range, columns GAINS; over the whole
        chain alone, or with `ranges` of every range that has a partner over the whole chain."""
        cells = {n: c for n, c in self.study.cells.items() if c.plain and c.target == target}
        limited = {c.but("range", "seed") for c in cells.values() if c.range != self.whole}
        if ranges:
            cells = {n: c for n, c in cells.items() if c.but("range", "seed") in limited}
        else:
            cells = {n: c for n, c in cells.items() if c.range == self.whole}
        return self._gains(cells, domains)

    def _gains(self, cells: dict[str, Cell], domains: Sequence[str]) -> pd.DataFrame:
        found = []
        for metric in self.metrics:
            for domain in domains:
                gains = self.study.gains(metric, domain)
                groups = alike(gains, cells)
                for cell, values in zip(groups, _means(gains, list(groups.values())), strict=True):
                    span = f"{cell.range[0]}:{cell.range[1]}"
                    row = (metric, domain, images_label(cell.images), cell.updates, span)
                    found.append((*row, *values, _size(cell.images), *cell.range))
        frame = pd.DataFrame(found, columns=[*GAINS, "_images", "_first", "_last"])
        order = ["_images", "updates", "_first", "_last"]
        return frame.sort_values(order, kind="stable")[list(GAINS)].reset_index(drop=True)

    def trades(self, target: str) -> pd.DataFrame:
        """Gain on the target against change on the source, columns TRADES, a row a checkpoint
        (seeds joined) and metric; the best on the target first."""
        found = []
        for metric in self.metrics if self.source else []:
            for trade in answers.trades(self.study, metric, target, self.source or ""):
                each = self.identify(trade.checkpoints[0])
                if each.kind == "scratch":
                    continue  # no fine-tune; it has a chart of its own
                gain, change = trade.gain, trade.change
                found.append((
                    metric, each.label, each.kind, images_label(each.images), gain.mean, gain.low,
                    gain.high, gain.n, change.mean, change.low, change.high, change.n, trade.seeds,
                    trade.front, "\n".join(trade.checkpoints), trade.sentence,
                ))  # fmt: skip
        return pd.DataFrame(found, columns=list(TRADES))

    def scratch(self, target: str) -> pd.DataFrame:
        """Means on the target of training from scratch and of plain fine-tuning with as many
        images, by updates; columns QUALITY, `line` and `updates`."""
        cells = [c for c in self.study.cells.values() if c.target == target]
        images = {c.images for c in cells if c.scratch}
        labels = {
            self.identify_cell(c).label: c
            for c in cells
            if c.images in images and (c.scratch or (c.plain and c.range == self.whole))
        }
        frame = self.quality(labels) if labels else self.quality([])
        frame = frame[frame["domain"] == target]
        lines = [_line(labels[label]) for label in frame["checkpoint"]]
        updates = [labels[label].updates for label in frame["checkpoint"]]
        frame = frame.assign(line=lines, updates=updates)
        return frame.sort_values(["line", "updates"], kind="stable").reset_index(drop=True)

    # ---------------------------------------------------------------------------- along the chain
    def _of_gap(self, measures: Sequence[str]) -> pd.DataFrame:
        """Rows of the gap's measures, with `identity` and `time`."""
        parsed = {name: read_metric(name) for name in self.table["metric"].unique()}
        wanted = [name for name, found in parsed.items() if found and found[0] in measures]
        rows = self.table[self.table["metric"].isin(wanted)]
        foreign = {n for n in rows["checkpoint"].unique() if self._foreign(str(n))}
        ours = newest_weights(rows[~rows["checkpoint"].isin(foreign)])
        return ours.sort_values("created", kind="stable")

    def _foreign(self, name: str) -> bool:
        """Whether a checkpoint is another parent, or was made of one."""
        cell = Cell.parse(name)
        parent = cell.parent if cell else name
        return parent != self.parent and parent in parents(self.table)

    @cached_property
    def chains(self) -> list[Along]:
        """Each checkpoint and domain whose gap was measured, of the newest measurement."""
        found = []
        rows = self._of_gap(("x0_mae",))
        for (name, digest), part in rows.groupby(["checkpoint", "checkpoint_hash"], sort=False):
            # The newest measurement alone: another number of draws or images does not compare.
            newest = part.groupby("domain").tail(1).set_index("domain")
            keys = ["domain", "file_list_hash", "sampler", "seed"]
            index = pd.MultiIndex.from_frame(newest.reset_index()[keys])
            part = part[pd.MultiIndex.from_frame(part[keys]).isin(index)]
            each = self.identify(str(name), str(digest))
            others = [domain for domain in newest.index if domain != self.source]
            for domain in others if self.source in newest.index else []:
                pair = part[part["domain"].isin([self.source, domain])]
                pair = pair[pair.groupby("metric")["domain"].transform("nunique") == 2]
                if not pair.empty:
                    chain = along_chain(pair, str(self.source), domain)
                    trained = self._trained_on(str(name), str(digest))
                    found.append(Along(each, str(domain), trained, chain))
        return found

    def gap(self) -> pd.DataFrame:
        """The denoising error of each domain against the source's, by time step and checkpoint;
        columns GAPS."""
        found = [
            chain_table(each.chain).assign(
                domain=each.domain, checkpoint=each.what.label, kind=each.what.kind,
                _order=pd.Series([each.what.order] * len(each.chain.times)),
            )
            for each in self.chains
        ]  # fmt: skip
        frame = pd.concat(found) if found else pd.DataFrame(columns=[*GAPS, "_order"])
        return _sorted(frame, ["domain", "_order", "time"])[list(GAPS)]

    def _cell(self, name: str, digest: str) -> Cell | None:
        """The fine-tune of a name, or of weights under another name; an older plan's too."""
        cells = self.study.cells
        known = cells.get(name) or cells.get(self._by_hash.get(digest, "")) or Cell.parse(name)
        return known if known is not None and known.parent == self.parent else None

    def _trained_on(self, name: str, digest: str) -> tuple[int, int] | None:
        """The time steps that a fine-tune was trained on; None where it is not known."""
        if (cell := self._cell(name, digest)) is not None:
            return cell.range
        entry = registry().get(name)
        first, _, last = (entry.range if entry and entry.range else "").partition(":")
        return (int(first), int(last)) if first.isdigit() and last.isdigit() else None

    def index(self) -> pd.DataFrame:
        """The SRGA-style index of each domain against the reference, by time step and checkpoint;
        columns INDICES: mean, lowest and highest of random splits into `n` images a side, and
        `floor`: the highest of two halves of the reference itself, with as many images."""
        found = []
        for keys, part in self._of_gap(("srga",)).groupby(
            ["domain", "metric", "checkpoint", "checkpoint_hash"]
        ):
            domain, metric, name, digest = keys
            _, time, reference = read_metric(str(metric)) or ("", 0, None)
            how = str(part["sampler"].iloc[-1])
            values = part[part["sampler"] == how]["value"]
            each = self.identify(str(name), str(digest))
            sizes = len(values), int(how.split("n=")[-1])
            spread = values.mean(), values.min(), values.max(), *sizes
            found.append((domain, reference, time, each.label, *spread, np.nan, each.order))
        frame = pd.DataFrame(found, columns=[*INDICES, "_order"])
        same = ["reference", "time", "checkpoint", "n"]
        halves = frame[frame["domain"] == frame["reference"]].set_index(same)["highest"]
        frame["floor"] = halves.reindex(pd.MultiIndex.from_frame(frame[same])).to_numpy()
        return _sorted(frame, ["domain", "_order", "time"])[list(INDICES)]


# ------------------------------------------------------------------------------------------ choose
def parents(table: pd.DataFrame) -> list[str]:
    """The checkpoints that a table is about: those that were tuned, the most often one first;
    where none was, those that are registered or alone."""
    names = [str(name) for name in table.loc[_told(table), "checkpoint"].unique()]
    tuned = Counter(cell.parent for name in names if (cell := Cell.parse(name)))
    if tuned:
        return [name for name, _ in tuned.most_common()]
    return sorted((n for n in names if n not in BASELINES), key=lambda n: (n not in registry(), n))


def source_of(table: pd.DataFrame, parent: str) -> str | None:
    """The domain that a parent was trained on, as the table calls it; None where not known."""
    entry = registry().get(parent)
    domain = entry.domain if entry else None
    return domain if domain in set(table["domain"].unique()) else None


def bicubic_of(table: pd.DataFrame, parent: str) -> str | None:
    """The hash of bicubic enlargement between a parent's sizes. Where it is not here to tell them,
    the only one that the table has; None of several, as nothing says which is the parent's."""
    entry = registry().get(parent)
    try:
        if entry:
            return bicubic_hash(*entry.sizes)
    except SR3Error:
        pass
    known = table.loc[table["checkpoint"] == "bicubic", "checkpoint_hash"].unique()
    return str(known[0]) if len(known) == 1 else None


def made_as(name: str) -> Kind:
    """How a registered checkpoint that no study made was put together, from its settings;
    "other" where it is whole, not registered or not here."""
    entry = registry().get(name)
    try:
        settings = read_settings(entry.path) if entry else None
    except SR3Error:
        settings = None
    if isinstance(settings, Recipe) and settings.kind != "delta":
        return settings.kind
    return "other"


# ------------------------------------------------------------------------------------------- words
def _line(cell: Cell) -> str:
    if not cell.scratch:
        return f"fine-tuned, {images_label(cell.images)}"
    rate = f", rate {cell.rate:g}" if cell.rate else ""
    return f"from scratch, {images_label(cell.images)}{rate}"


def _size(images: int | None) -> float:
    return float("inf") if images is None else images


def _told(table: pd.DataFrame) -> pd.Series[bool]:
    return table["metric"].isin(METRIC_ORDER)


def _sorted(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    return frame.sort_values(columns, kind="stable").reset_index(drop=True)


def _grouped(columns: Iterable[str], names: dict[str, Identity]) -> dict[Identity, list[str]]:
    groups: dict[Identity, list[str]] = {}
    for name in columns:
        groups.setdefault(names[name], []).append(name)
    return groups


def _means(
    wide: pd.DataFrame, groups: list[list[str]]
) -> list[tuple[float, float, float, int, int]]:
    """(mean, low, high, n images, seeds) of each group of columns, over the images all have."""
    if not groups:
        return []
    finite = wide.replace([np.inf, -np.inf], np.nan)
    means, draws, n = bootstrap(finite, groups, 0)
    found = [interval_of(means[k], draws[:, k], n) for k in range(len(groups))]
    return [(f.mean, f.low, f.high, f.n, len(g)) for f, g in zip(found, groups, strict=True)]
