"""The domain gap along the chain: how well a checkpoint denoises each domain at each noise level.

An image is noised to a level with known noise and denoised in one step; the error is that of the
clean estimate, clamped to [-1, 1] as every sampler clamps it, against the image. No sampling is
involved, so it shows at which levels two domains differ for the network.

Invariants: draw k of the i-th image is the same noise in every domain, level and checkpoint, so
differences are paired; float32, whatever the device is fast in. Rows of the one table:

    metric   x0_mae@t=500, x0_mse@t=500   mean over pixels (in [-1, 1] units) and draws, an image
             srga@t=500|REFERENCE         index of a domain's features against the reference's;
                                          image "all", a seed a split of the images
    sampler  one-step draws=8, srga n=30  how it was measured; steps 1
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sr3 import srga
from sr3.bootstrap import bounds_of
from sr3.checkpoints import name_in_tables
from sr3.config import ModelConfig
from sr3.denoiser import signal_and_noise
from sr3.domains import Domain, Split, list_hash, load_pixels
from sr3.errors import ConfigError, DomainError, SR3Error
from sr3.evaluate import code_commit, image_names
from sr3.images import degrade, enlarge, to_tensor
from sr3.metrics import RESAMPLES
from sr3.pipeline import SuperResolver
from sr3.samplers import SeededNoise
from sr3.unet import UNet

MEASURES = ("x0_mae", "x0_mse")
Values = NDArray[np.float64]
SPLITS = 5  # of the images, for the index: the spread that the choice of images alone makes
POOLED_SIDE = 32  # larger feature maps are averaged down to this: the index needs them in memory


@dataclass(frozen=True)
class GapSettings:
    """How the gap is measured."""

    times: tuple[int, ...]
    split: Split = "test"
    images: int | None = None  # of the split, a seed-fixed subset; None: all
    draws: int = 8  # noise draws an image and level
    seed: int = 0
    batch: int = 16
    srga: bool = True

    def check(self, model: ModelConfig) -> None:
        """Raises ConfigError for time steps outside a model's schedule, or none."""
        last = model.schedule.steps
        odd = [time for time in self.times if not 1 <= time <= last]
        if odd or not self.times:
            raise ConfigError(f"times must be time steps in 1..{last}; got {odd or 'none'}.")
        if self.draws < 1 or self.batch < 1:
            raise ConfigError("draws and batch must be at least 1.")


@dataclass(frozen=True)
class Found:
    """Rows of one domain, and what they are."""

    domain: str
    what: str
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class _Set:
    names: tuple[str, ...]
    x0: Tensor  # (n, 3, h, w) in [-1, 1]
    condition: Tensor  # (n, 3, h, w)
    columns: dict[str, Any]  # what all rows share


def metric_name(measure: str, time: int, reference: str | None = None) -> str:
    """The table's `metric`: `x0_mae@t=500`, or `srga@t=500|REFERENCE`."""
    return f"{measure}@t={time}" + (f"|{reference}" if reference else "")


def measure_gap(
    model: SuperResolver, checkpoint_hash: str, domains: Sequence[Domain], settings: GapSettings
) -> Iterator[Found]:
    """Rows of each domain; the first one is the reference of the generalization index.

    Images are read at once. Raises ConfigError and DomainError.
    """
    settings.check(model.config)
    if not domains:
        raise ConfigError("The gap needs at least one domain.")
    sets = [_read(model, checkpoint_hash, domain, settings) for domain in domains]
    if settings.srga and min(len(data.names) for data in sets) < 4:
        raise DomainError("The index needs at least four images of each domain: use --no-srga.")
    return _measure(model, domains, sets, settings)


def _measure(
    model: SuperResolver, domains: Sequence[Domain], sets: Sequence[_Set], settings: GapSettings
) -> Iterator[Found]:
    half = min(len(data.names) for data in sets) // 2
    for time in settings.times:
        reference: NDArray[Any] | None = None
        for domain, data in zip(domains, sets, strict=True):
            with Features(model.network) if settings.srga else nullcontext() as features:
                errors = denoising_errors(model, data.x0, data.condition, time, settings, features)
            rows = _error_rows(data, errors, time, settings)
            if features is not None:
                found = features.take()
                reference = found if reference is None else reference
                against = domains[0].name, reference
                rows += _index_rows(data, found, against, half, time)
            mean = errors.mean(axis=(0, 2))
            yield Found(domain.name, f"t = {time}, mean absolute error {mean[0]:.4f}", rows)


def _read(
    model: SuperResolver, checkpoint_hash: str, domain: Domain, settings: GapSettings
) -> _Set:
    entries = domain.subset(settings.split, settings.images)
    if not entries:
        raise DomainError(f"{domain.name} has no {settings.split} images: choose another split.")
    high = load_pixels(entries, model.high_size)
    condition = enlarge(degrade(high, model.low_size), model.high_size)
    columns = {
        "checkpoint": name_in_tables(model.name), "checkpoint_hash": checkpoint_hash,
        "domain": domain.name, "steps": 1, "code_commit": code_commit(),
        "file_list_hash": list_hash(entries), "lpips_backbone": None,
    }  # fmt: skip
    return _Set(image_names(domain, entries), to_tensor(high), to_tensor(condition), columns)


def denoising_errors(
    model: SuperResolver,
    x0: Tensor,
    condition: Tensor,
    time: int,
    settings: GapSettings,
    features: Features | None = None,
) -> NDArray[np.float64]:
    """Errors of the clean estimate at a time step: (images, [absolute, squared], draws).

    `x0` and `condition` (images, 3, h, w) in [-1, 1]; noise of (seed + draw, image's place).
    """
    errors = np.empty((len(x0), 2, settings.draws))
    level = model.schedule.level(float(time))
    for draw in range(settings.draws):
        for start in range(0, len(x0), settings.batch):
            part = slice(start, min(start + settings.batch, len(x0)))
            clean = x0[part]
            pairs = [(settings.seed + draw, place) for place in range(part.start, part.stop)]
            eps = SeededNoise(pairs, (3, *clean.shape[2:]))()
            levels = level.expand(len(clean))
            a, s = signal_and_noise(levels)
            if features is not None:
                features.active = draw == 0
            estimate = model.denoise(a * clean + s * eps, condition[part], levels).cpu()
            error = (estimate.clamp(-1, 1) - clean).double().flatten(1)
            errors[part, 0, draw] = error.abs().mean(dim=1)
            errors[part, 1, draw] = error.square().mean(dim=1)
    return errors


def _error_rows(
    data: _Set, errors: NDArray[np.float64], time: int, settings: GapSettings
) -> list[dict[str, Any]]:
    shared = data.columns | {"sampler": f"one-step draws={settings.draws}", "seed": settings.seed}
    return [
        shared | {"image": image, "metric": metric_name(measure, time), "value": float(value)}
        for image, values in zip(data.names, errors.mean(axis=2), strict=True)
        for measure, value in zip(MEASURES, values, strict=True)
    ]


# -------------------------------------------------------------------------------------- derive
def read_metric(name: str) -> tuple[str, int, str | None] | None:
    """What `metric_name` was given; None for a metric that is not of the gap."""
    found = re.fullmatch(r"(x0_mae|x0_mse|srga)@t=(\d+)(?:\|(.+))?", name)
    return (found[1], int(found[2]), found[3]) if found else None


@dataclass(frozen=True)
class Chain:
    """One checkpoint's errors on two domains along the chain, with their resamples: one draw takes
    the same images at every time step, so that what changes along the chain is paired."""

    times: tuple[int, ...]
    means: tuple[Values, Values]  # (times,) of the reference and of the domain
    draws: tuple[Values, Values]  # (resamples, times), independent: two domains are no pairs
    images: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def ratio(self) -> Values:
        """How many times the reference's error the domain's is, (times,)."""
        return self.means[1] / self.means[0]

    @property
    def ratios(self) -> Values:
        """Its resamples, (resamples, times)."""
        return self.draws[1] / self.draws[0]


def along_chain(
    table: pd.DataFrame, reference: str, domain: str, measure: str = "x0_mae", seed: int = 0
) -> Chain:
    """Both domains' errors at each time step that both have, for one checkpoint, over the images
    that were measured at all of them.

    Raises SR3Error where the table holds several checkpoints, file lists or ways of measuring.
    """
    parsed = {str(name): read_metric(str(name)) for name in table["metric"].unique()}
    times = {name: found[1] for name, found in parsed.items() if found and found[0] == measure}
    rows = table[table["metric"].isin(times)]
    sides = [_one_setting(rows, each).rename(columns=times) for each in (reference, domain)]
    both = sorted({int(str(time)) for time in set(sides[0]) & set(sides[1])})
    tables = [side[both].dropna() for side in sides]
    one, other = (side.to_numpy(np.float64) for side in tables)
    first, second = (_resampled_means(each, seed + k) for k, each in enumerate((one, other)))
    names = tuple(tuple(map(str, side.index)) for side in tables)
    return Chain(
        tuple(both), (one.mean(axis=0), other.mean(axis=0)), (first, second),
        (names[0], names[1]),
    )  # fmt: skip


def gap_along_chain(
    table: pd.DataFrame, reference: str, domain: str, measure: str = "x0_mae", seed: int = 0
) -> pd.DataFrame:
    """A domain's mean error minus the reference's at each time step, for one checkpoint.

    Columns: time, reference, domain (means), gap, low, high (95%, both domains' images resampled
    independently: they are not pairs), ratio, ratio_low, ratio_high, n_reference, n_domain.
    Raises SR3Error as `along_chain`.
    """
    return chain_table(along_chain(table, reference, domain, measure, seed))


def chain_table(chain: Chain) -> pd.DataFrame:
    """A row a time step, with the columns of `gap_along_chain`."""
    one, other = chain.draws
    gap, ratio = (
        np.transpose([bounds_of(drawn) for drawn in x.T]) for x in (other - one, chain.ratios)
    )
    return pd.DataFrame({
        "time": chain.times, "reference": chain.means[0], "domain": chain.means[1],
        "gap": chain.means[1] - chain.means[0], "low": gap[0], "high": gap[1],
        "ratio": chain.ratio, "ratio_low": ratio[0], "ratio_high": ratio[1],
        "n_reference": len(chain.images[0]), "n_domain": len(chain.images[1]),
    })  # fmt: skip


def _one_setting(rows: pd.DataFrame, domain: str) -> pd.DataFrame:
    """A domain's errors, an image a row and a metric a column, which must be of one measurement."""
    part = rows[rows["domain"] == domain]
    settings = ["checkpoint_hash", "file_list_hash", "sampler", "seed"]
    if len(part[settings].drop_duplicates()) != 1:
        raise SR3Error(
            f"The gap needs exactly one measurement of {domain}: choose one checkpoint, file "
            "list, number of draws and seed."
        )
    return part.pivot(index="image", columns="metric", values="value").sort_index()


def _resampled_means(values: Values, seed: int) -> Values:
    """(images, times) -> (resamples, times), the same images at every time step."""
    places = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    means: Values = np.stack([column[places].mean(axis=1) for column in values.T], axis=1)
    return means


# ------------------------------------------------------------------------- generalization index
class Features:
    """What a network feeds to its last convolution, collected while `active` within `with`."""

    def __init__(self, network: nn.Module) -> None:
        self.active = True
        self._parts: list[Tensor] = []
        heads = [part.head for part in network.modules() if isinstance(part, UNet)]
        self._hooks = [head.register_forward_pre_hook(self._collect) for head in heads]

    def _collect(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.active:
            maps = inputs[0].float()
            if maps.shape[-1] > POOLED_SIDE:
                maps = F.adaptive_avg_pool2d(maps, POOLED_SIDE)
            self._parts.append(maps.flatten(1).cpu())

    def take(self) -> NDArray[Any]:
        """(images, values) float32."""
        out: NDArray[Any] = torch.cat(self._parts).numpy()
        return out

    def __enter__(self) -> Features:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the network as it was: others share it."""
        for hook in self._hooks:
            hook.remove()


def _index_rows(
    data: _Set, found: NDArray[Any], against: tuple[str, NDArray[Any]], half: int, time: int
) -> list[dict[str, Any]]:
    """The index of `found` against half of the reference, a row a random split.

    The reference against itself: its one half against the other.
    """
    name, reference = against
    rows = []
    for split in range(SPLITS):
        generator = np.random.default_rng(split)
        order = generator.permutation(len(reference))
        first, rest = order[:half], order[half : 2 * half]
        test = rest if found is reference else generator.permutation(len(found))[:half]
        value = srga.index(reference[first], found[test])
        rows.append(data.columns | {
            "image": "all", "seed": split, "metric": metric_name("srga", time, name),
            "value": value, "sampler": f"srga n={half}",
        })  # fmt: skip
    return rows
