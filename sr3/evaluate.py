"""Measure a checkpoint on a domain by the one protocol, as rows of the one table (`sr3.results`).

Invariants: sample k of an image is drawn with seed `seed + k`, the very bits that
`upscale(image, seed=seed + k)` gives, so a row's `seed` alone makes its image again, whatever the
batch and the number of samples; while one batch is scored, the network draws the next.

Baselines are rows like any other checkpoint's:

    bicubic     the condition itself; no network, seed 0, sampler "none", 0 steps; its hash tells
                the sizes (`bicubic_hash`)
    regression  the checkpoint's own one-step estimate: pure noise x_T (of `seed`, sample 0 alone)
                at the noisiest level of the schedule, sqrt(alpha_bar[T]); the network's x0 there,
                refined (clamp, consistency) as the checkpoint's sampling refines it, is the
                result. Sampler "regression", 1 step, the checkpoint's hash.

With K > 1 samples, metric `psnr_of_mean_K` (seed: the first) is the PSNR of their mean image,
rounded to 8 bit.
"""

from __future__ import annotations

import dataclasses
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from sr3.checkpoints import name_in_tables
from sr3.config import SamplerConfig, check_seed
from sr3.domains import Domain, Entry, Split, list_hash, load_pixels
from sr3.errors import ConfigError
from sr3.images import Pixels, degrade, enlarge
from sr3.metrics import Scorer, psnr
from sr3.pipeline import SuperResolver

BASELINES = ("bicubic", "regression")
ROOT = Path(__file__).resolve().parent.parent

Row = dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """Rows of the images scored since the last one, and how far the evaluation is."""

    rows: list[Row]
    done: int  # samples scored
    total: int
    seconds: float
    network_seconds: float  # of them, drawing images

    @property
    def remaining(self) -> float:
        """Seconds that are expected to be left."""
        return self.seconds * (self.total - self.done) / max(self.done, 1)


@dataclass(frozen=True)
class _Variant:
    """One thing to measure: the checkpoint or a baseline."""

    checkpoint: str
    checkpoint_hash: str
    sampler: str
    steps: int
    seeds: tuple[int, ...]
    settings: SamplerConfig | None  # None: bicubic


@dataclass(frozen=True)
class _Set:
    """The images measured, at both resolutions."""

    names: tuple[str, ...]
    high: Pixels  # (n, h, h, 3)
    low: Pixels  # (n, l, l, 3)
    columns: Row  # what all rows share


def evaluate(
    model: SuperResolver,
    domain: Domain,
    checkpoint_hash: str,
    *,
    split: Split = "test",
    images: int | None = None,
    samples: int = 1,
    seed: int = 0,
    batch: int = 8,
    baselines: Sequence[str] = BASELINES,
    scorer: Scorer | None = None,
    **changes: Any,
) -> Iterator[Progress]:
    """Measure `samples` draws of `images` (None: all) images of a split, `batch` a forward pass.

    `checkpoint_hash` as `checkpoints.hash_of` gives it; `changes` as for `SuperResolver.upscale`.
    Settings and images are checked at once. Raises ConfigError and DomainError.
    """
    if samples < 1 or batch < 1:
        raise ConfigError(f"samples and batch must be at least 1; got {samples} and {batch}.")
    if odd := sorted(set(baselines) - set(BASELINES)):
        raise ConfigError(f"There is no baseline {odd[0]!r}; there are {', '.join(BASELINES)}.")
    check_seed(seed)
    settings = model.settings(**changes)
    entries = domain.subset(split, images)
    if not entries:
        raise ConfigError(f"{domain.name} has no {split} images: choose another split.")
    high = load_pixels(entries, model.high_size)
    columns = {
        "domain": domain.name,
        "code_commit": code_commit(),
        "file_list_hash": list_hash(entries),
    }
    data = _Set(image_names(domain, entries), high, degrade(high, model.low_size), columns)
    seeds = tuple(range(seed, seed + samples))
    variants = _variants(model, checkpoint_hash, settings, seeds, baselines)
    return _measure(model, data, variants, batch, scorer or Scorer.load())


def _variants(
    model: SuperResolver,
    checkpoint_hash: str,
    settings: SamplerConfig,
    seeds: tuple[int, ...],
    baselines: Sequence[str],
) -> list[_Variant]:
    """The baselines, then the checkpoint itself."""
    label = sampler_label(settings, model.config.sampling)
    enlargement = bicubic_hash(model.low_size, model.high_size)
    ours = _Variant(
        name_in_tables(model.name), checkpoint_hash, label, settings.steps, seeds, settings
    )
    known = {
        "bicubic": _Variant("bicubic", enlargement, "none", 0, (0,), None),
        "regression": dataclasses.replace(
            ours, checkpoint="regression", sampler="regression", steps=1, seeds=seeds[:1],
            settings=one_step(model),
        ),
    }  # fmt: skip
    return [*(known[name] for name in baselines), ours]


def bicubic_hash(low: int, high: int) -> str:
    """The table's `checkpoint_hash` of bicubic enlargement from `low` to `high` pixels a side:
    "bicubic" from 16 to 128, as tables have it from when there were no other sizes."""
    return "bicubic" if (low, high) == (16, 128) else f"bicubic {low}-{high}"


def image_names(domain: Domain, entries: Sequence[Entry]) -> tuple[str, ...]:
    """The table's `image`: an entry's name, with its hash where the domain has that name twice."""
    count = Counter(entry.name for split in get_args(Split) for entry in domain.entries(split))
    return tuple(
        entry.name if count[entry.name] == 1 else f"{entry.name}#{entry.sha256[:8]}"
        for entry in entries
    )


def split_named(name: str) -> Split:
    """A split by name. Raises ConfigError."""
    if name not in get_args(Split):
        raise ConfigError(f"split must be one of {', '.join(get_args(Split))}; got {name!r}.")
    return cast(Split, name)


def one_step(model: SuperResolver) -> SamplerConfig:
    """The regression baseline as sampling: one estimate, of pure noise at the noisiest level."""
    return model.settings(sampler="dpmpp", steps=1, start=model.schedule.steps)


def sampler_label(settings: SamplerConfig, recommended: SamplerConfig) -> str:
    """The table's `sampler`: its name, then each other setting that is not the recommended one.

    The table tells measurements apart by this and `steps`: two settings must never share a label.
    """
    changed = [
        f"{field.name}={getattr(settings, field.name)}"
        for field in dataclasses.fields(SamplerConfig)
        if field.name not in ("sampler", "steps")
        and getattr(settings, field.name) != getattr(recommended, field.name)
    ]
    return " ".join([settings.sampler, *changed])


def _measure(
    model: SuperResolver, data: _Set, variants: Sequence[_Variant], batch: int, scorer: Scorer
) -> Iterator[Progress]:
    total = len(data.names) * sum(len(variant.seeds) for variant in variants)
    done, network = 0, 0.0
    began = time.perf_counter()
    waiting: Future[list[Row]] | None = None
    pending = 0
    with ThreadPoolExecutor(1, "sr3-scores") as pool:
        for variant in variants:
            size = max(1, batch // len(variant.seeds))  # images; an image's samples stay together
            for start in range(0, len(data.names), size):
                part = np.arange(start, min(start + size, len(data.names)))
                asked = time.perf_counter()
                results = _draw(model, data.low[part], variant, batch)
                network += time.perf_counter() - asked if variant.settings else 0.0
                if waiting is not None:
                    rows, done = waiting.result(), done + pending
                    yield Progress(rows, done, total, time.perf_counter() - began, network)
                waiting = pool.submit(_rows, data, part, results, variant, scorer)
                pending = len(part) * len(variant.seeds)
        assert waiting is not None
        yield Progress(waiting.result(), total, total, time.perf_counter() - began, network)


def _draw(model: SuperResolver, low: Pixels, variant: _Variant, batch: int) -> Pixels:
    """(n, l, l, 3) -> (n, seeds, h, h, 3) uint8."""
    if variant.settings is None:
        return enlarge(low, model.high_size)[:, None]
    jobs = [(index, seed) for index in range(len(low)) for seed in variant.seeds]
    drawn = []
    for start in range(0, len(jobs), batch):
        part = jobs[start : start + batch]
        seeds = [(seed, 0) for _, seed in part]
        drawn.append(model.draw(low[[i for i, _ in part]], seeds, variant.settings))
    out = np.concatenate(drawn)
    return out.reshape(len(low), len(variant.seeds), *out.shape[1:])


def _rows(
    data: _Set, part: np.ndarray[Any, Any], results: Pixels, variant: _Variant, scorer: Scorer
) -> list[Row]:
    """The rows of some images (indices `part`), `results` (n, seeds, h, h, 3)."""
    count = len(variant.seeds)
    flat = results.reshape(-1, *results.shape[2:])
    originals = data.high[part].repeat(count, axis=0)
    scores = scorer(flat, originals, data.low[part].repeat(count, axis=0))
    shared = data.columns | {
        "checkpoint": variant.checkpoint,
        "checkpoint_hash": variant.checkpoint_hash,
        "sampler": variant.sampler,
        "steps": variant.steps,
    }

    def row(index: int, seed: int, metric: str, value: float) -> Row:
        backbone = scorer.backbone if metric.startswith("lpips") else None
        image = data.names[part[index]]
        return shared | {
            "image": image, "seed": seed, "metric": metric, "value": value,
            "lpips_backbone": backbone,
        }  # fmt: skip

    rows = [
        row(place // count, variant.seeds[place % count], metric, value)
        for place, score in enumerate(scores)
        for metric, value in vars(score).items()
        if value is not None
    ]
    if count > 1:
        means = results.mean(axis=1).round().astype(np.uint8)
        values = psnr(means, data.high[part])
        rows += [
            row(index, variant.seeds[0], f"psnr_of_mean_{count}", float(value))
            for index, value in enumerate(values)
        ]
    return rows


# ------------------------------------------------------------------------------------- identity
def code_commit(root: Path = ROOT) -> str:
    """The git commit of this code, `-dirty` where the package differs; "unknown" outside git."""
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "HEAD")
    if top is None or commit is None or Path(top).resolve() != root.resolve():
        return "unknown"  # also where it is installed inside somebody else's repository
    return f"{commit}-dirty" if _git(root, "status", "--porcelain", "--", "sr3") else commit


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
