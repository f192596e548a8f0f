"""Quality against network evaluations: which sampler, spacing and start gives most for its cost.

The rows are those of `sr3.evaluate` in a table of their own (`checkpoints/curves`), since most are
of validation images, on which defaults are chosen; `compare` on test images then says whether few
evaluations do as well as the 2,000-step chain. Measuring goes on where it was stopped.

Invariants: a setting is told from another by the table's `sampler` and `steps` alone; nothing that
has been measured on the same images and weights is measured again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sr3 import results
from sr3.config import ModelConfig, SamplerConfig
from sr3.domains import Domain, Split
from sr3.evaluate import evaluate, image_names, sampler_label
from sr3.metrics import Interval, Scorer
from sr3.pipeline import SuperResolver

FOLDER = Path(__file__).parent.parent / "checkpoints" / "curves"
STEPS = (1, 2, 4, 6, 10, 20, 50)
METRICS = ("psnr", "ssim", "lpips")
COLUMNS = ["line", "steps", "mean", "low", "high", "n"]


@dataclass(frozen=True)
class Line:
    """One line of the figure: a way to sample, at several numbers of evaluations."""

    title: str
    changes: dict[str, Any]  # from the checkpoint's recommended settings
    steps: tuple[int, ...] = STEPS


def lines(recommended: SamplerConfig, last: int) -> list[Line]:
    """The ways that are compared; `last` is the noisiest time step. Each differs from the
    recommended one in what its title says."""
    noise = {"start": last}
    ancestral = {"sampler": "ancestral", "spacing": "uniform", "consistency": False}
    return [
        Line("recommended", {}),
        Line("DPM-Solver++ 2M", {"sampler": "dpmpp"}),
        Line("DDIM, eta 0", {"sampler": "ddim", "eta": 0.0}),
        Line("DDIM, eta 1", {"sampler": "ddim", "eta": 1.0}),
        Line("ancestral", {"sampler": "ancestral"}),
        Line("from pure noise", noise),
        Line("DPM-Solver++ 2M from pure noise", {"sampler": "dpmpp"} | noise),
        Line("uniform spacing", {"spacing": "uniform"}),
        Line("Karras spacing", {"spacing": "karras"}),
        Line("without data consistency", {"consistency": not recommended.consistency}),
        Line("the paper's chain", ancestral | noise, (20, 100, last)),
    ]


def measure(
    model: SuperResolver,
    domain: Domain,
    checkpoint_hash: str,
    what: Sequence[Line],
    *,
    split: Split = "validation",
    images: int = 64,
    seed: int = 0,
    batch: int = 8,
    folder: Path = FOLDER,
    scorer: Scorer | None = None,
) -> Iterator[tuple[str, int]]:
    """Measure what is missing, into the table in `folder`; yields (title, steps) as each is done.

    Raises ConfigError, DomainError and SR3Error.
    """
    scorer = scorer or Scorer.load()
    names = set(image_names(domain, domain.subset(split, images)))
    done = set()
    for line in what:
        for steps in line.steps:
            settings = model.settings(**line.changes, steps=steps)
            label = sampler_label(settings, model.config.sampling)
            if (label, steps) not in done and not _known(
                results.read(folder), domain.name, checkpoint_hash, label, steps, seed, names
            ):
                rows: list[dict[str, Any]] = []
                for progress in evaluate(
                    model, domain, checkpoint_hash, split=split, images=images, seed=seed,
                    batch=batch, baselines=(), scorer=scorer, **line.changes, steps=steps,
                ):  # fmt: skip
                    rows += progress.rows
                results.append(rows, folder)
            done.add((label, steps))
            yield line.title, steps


def _known(
    table: pd.DataFrame, domain: str, checkpoint_hash: str, label: str, steps: int, seed: int,
    names: set[str],
) -> bool:  # fmt: skip
    mine = table[(table["checkpoint_hash"] == checkpoint_hash) & (table["domain"] == domain)]
    mine = mine[(mine["sampler"] == label) & (mine["steps"] == steps) & (mine["seed"] == seed)]
    mine = mine[mine["metric"] == "psnr"]
    return names <= set(mine["image"])


def curve(
    table: pd.DataFrame, config: ModelConfig, checkpoint_hash: str, metric: str, domain: str
) -> pd.DataFrame:
    """What a figure draws: `line` (its title), `steps` (evaluations), `mean`, `low`, `high` (95%
    bootstrap over images), `n`; sorted by line in the order of `lines`, then by steps.

    Of several sets of images that on which most settings were measured is taken; of equals, the
    largest. Empty where nothing was measured.
    """
    mine = table[(table["checkpoint_hash"] == checkpoint_hash) & (table["metric"] == metric)]
    mine = mine[mine["domain"] == domain]
    if mine.empty:
        return pd.DataFrame(columns=COLUMNS)
    sets = {
        name: (len(part[["sampler", "steps"]].drop_duplicates()), part["image"].nunique())
        for name, part in mine.groupby("file_list_hash")
    }
    fullest = max(sets, key=lambda name: sets[name])
    summary = results.summary(mine[mine["file_list_hash"] == fullest])
    found, seen = [], set()
    for line in lines(config.sampling, config.schedule.steps):
        label = sampler_label(replace(config.sampling, **line.changes), config.sampling)
        if label in seen:  # what is recommended, by its own name
            continue
        seen.add(label)
        part = summary[summary["sampler"] == label].sort_values("steps")
        found.append(part.assign(line=line.title))
    return pd.concat(found)[COLUMNS].drop_duplicates().reset_index(drop=True)


def compare(
    table: pd.DataFrame, checkpoint_hash: str, few: tuple[str, int], many: tuple[str, int]
) -> dict[str, Interval]:
    """Metric -> mean of `few` minus `many` with its paired bootstrap interval, over the images of
    `many`, if `few` has them all (and maybe more); each is a (`sampler`, `steps`) of the table.

    Few do no worse where LPIPS's interval reaches to 0 or below, and SSIM's to 0 or above.
    """
    mine = table[table["checkpoint_hash"] == checkpoint_hash]
    whole = mine[(mine["sampler"] == many[0]) & (mine["steps"] == many[1])]
    # A name is one image of a domain, whatever list it is in.
    same = mine["domain"].isin(whole["domain"]) & mine["image"].isin(whole["image"])
    mine = mine[same].assign(file_list_hash="those of both")

    def part(setting: tuple[str, int], metric: str) -> pd.DataFrame:
        sampler, steps = setting
        right = (mine["sampler"] == sampler) & (mine["steps"] == steps)
        return mine[right & (mine["metric"] == metric)]

    pairs = {metric: (part(few, metric), part(many, metric)) for metric in METRICS}
    return {
        metric: results.difference(*pair)
        for metric, pair in pairs.items()
        if not pair[1].empty and set(pair[0]["image"]) == set(pair[1]["image"])
    }
