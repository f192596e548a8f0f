"""The paired bootstrap behind every interval of the answers and charts.

Images are resampled, the same ones for all that is compared, and seeds too where several runs
differ in their seed alone. Invariant: the same values and seed give the same resamples; a drawing
is made once and shared, since the charts of one table ask for the same few again and again.

Source: the paired bootstrap of Efron and Tibshirani (1993), over both factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sr3.errors import SR3Error
from sr3.metrics import Interval

RESAMPLES = 2000
DRAWINGS = 8  # kept; 16 KB an image each

Values = NDArray[np.float64]


def bootstrap(
    gains: pd.DataFrame, groups: Sequence[Sequence[str]], seed: int
) -> tuple[Values, Values, int]:
    """Means (groups,) of each group's columns, their resamples (draws, groups), and n images.

    Images are resampled once for all groups; so are seeds, by their places, so that groups with
    the same seeds stay paired. SR3Error where the columns share no image.
    """
    names = [name for group in groups for name in group]
    values = gains[names].dropna().to_numpy(np.float64)  # (images, columns)
    n = len(values)
    if not n:
        raise SR3Error("The table's checkpoints share no image: measure them on the same ones.")
    weights, places = _drawing(n, max(map(len, groups)), seed)
    drawn = weights @ values  # (draws, columns), of every group at once
    means, draws = np.empty(len(groups)), np.empty((RESAMPLES, len(groups)))
    first = 0
    for k, size in enumerate(map(len, groups)):
        part = slice(first, first + size)
        means[k] = values[:, part].mean()
        picks = (places[:, :size] * size).astype(int)
        draws[:, k] = np.take_along_axis(drawn[:, part], picks, axis=1).mean(axis=1)
        first += size
    return means, draws, n


@lru_cache(maxsize=DRAWINGS)
def _drawing(n: int, most: int, seed: int) -> tuple[Values, Values]:
    """How often each of n images is drawn, as shares (draws, images), and where among `most`
    seeds each draw picks, (draws, seeds) in [0, 1)."""
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n
    places = generator.random((RESAMPLES, most))
    weights.flags.writeable = places.flags.writeable = False  # shared
    return weights, places


def interval_of(mean: float, draws: Values, n: int) -> Interval:
    """A mean with the 95% interval of its resamples."""
    if n == 1:
        return Interval(float(mean), float("nan"), float("nan"), 1)
    low, high = bounds_of(draws)
    return Interval(float(mean), low, high, n)


def bounds_of(values: Any) -> tuple[float, float]:
    """The 2.5% and 97.5% order statistics; interpolation would make numbers that no cell has."""
    ordered = np.sort(np.asarray(values, np.float64))
    cut = round(0.025 * (len(ordered) - 1))
    return float(ordered[cut]), float(ordered[-1 - cut])
