"""People who do not exist: a mean colour becomes a 16x16 face, and that becomes 128x128.

The paper's cascade (SR3, section 4.5) with the same network class at both stages: the first one is
conditioned on a single pixel, the mean colour of the face, drawn from the Gaussian of the mean
colours of its training images. So the chain as a whole is unconditional.

Invariant: face k of a seed depends on (seed, k) alone, not on how many are made at once (up to the
rounding of a batch's arithmetic).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sr3.checkpoints import ROOT
from sr3.errors import CheckpointError, ConfigError
from sr3.folder import COLOURS
from sr3.images import Pixels
from sr3.metrics import Values
from sr3.pipeline import SuperResolver

FIRST = ROOT / "faces-16"  # the first stage that is in the repository


@dataclass(frozen=True)
class Colours:
    """A Gaussian over mean colours, RGB in [0, 1]."""

    mean: Values  # (3,)
    covariance: Values  # (3, 3)

    def draw(self, seed: int, index: int) -> Pixels:
        """The colour of face `index` of a seed: one pixel, (1, 1, 3) uint8."""
        generator = np.random.default_rng([seed, index])
        colour = generator.multivariate_normal(self.mean, self.covariance)
        pixel: Pixels = np.rint(colour.clip(0, 1) * 255).astype(np.uint8)[None, None]
        return pixel


@dataclass(frozen=True)
class Generated:
    """One face that nobody has."""

    index: int
    image: Pixels  # (128, 128, 3)
    low_res: Pixels  # (16, 16, 3), what the second stage was given
    colour: Pixels  # (1, 1, 3), what the first stage was given


def fit_colours(pixels: Pixels) -> Colours:
    """The Gaussian of the mean colours of images (n, h, w, 3), n at least 2."""
    means = pixels.reshape(len(pixels), -1, 3).mean(axis=1) / 255
    return Colours(means.mean(axis=0), np.cov(means, rowvar=False))


def load_colours(checkpoint: Path) -> Colours:
    """The colours beside a first stage. Raises CheckpointError for none, or bad ones."""
    path = checkpoint / COLOURS
    try:
        values = json.loads(path.read_text())
        mean = np.array(values["mean"], np.float64)
        covariance = np.array(values["covariance"], np.float64)
        sound = bool(np.isfinite(mean).all() and (np.linalg.eigvalsh(covariance) > 0).all())
    except (OSError, ValueError, KeyError, TypeError, np.linalg.LinAlgError) as error:
        raise CheckpointError(
            f"{path} cannot be read: make it with `python -m benchmarks.colours`."
        ) from error
    if mean.shape != (3,) or covariance.shape != (3, 3) or not sound:
        raise CheckpointError(f"{path} is no Gaussian over colours: make it anew.")
    return Colours(mean, covariance)


def generate(
    first: SuperResolver,
    second: SuperResolver,
    colours: Colours,
    count: int,
    seed: int = 0,
    batch: int = 8,
) -> Iterator[Generated]:
    """Faces 0..count-1 of a seed, a batch at a time.

    Raises ConfigError at once for a count or seed out of range and for stages that do not fit.
    """
    if count < 1 or batch < 1:
        raise ConfigError(f"count and batch must be at least 1; got {count} and {batch}.")
    if seed < 0:
        raise ConfigError(f"A seed must be 0 or more; got {seed}.")
    if first.low_size != 1:
        raise ConfigError(
            f"{first.name} takes {first.low_size}x{first.low_size} images: the first stage of a "
            "cascade takes one pixel, such as `faces-16`."
        )
    if first.high_size != second.low_size:
        raise ConfigError(
            f"{first.name} makes faces of {first.high_size} pixels, but {second.name} takes "
            f"{second.low_size}: choose stages that fit."
        )
    return _generate(first, second, colours, count, seed, batch)


def _generate(
    first: SuperResolver,
    second: SuperResolver,
    colours: Colours,
    count: int,
    seed: int,
    batch: int,
) -> Iterator[Generated]:
    for part in range(math.ceil(count / batch)):
        indices = range(part * batch, min((part + 1) * batch, count))
        seeds = [(seed, index) for index in indices]
        colour = np.stack([colours.draw(seed, index) for index in indices])
        small = first.draw(colour, seeds, first.config.sampling)
        large = second.draw(small, seeds, second.config.sampling)
        for k, index in enumerate(indices):
            yield Generated(index, large[k], small[k], colour[k])
