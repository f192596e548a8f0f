"""Where pictures differ, as pictures: error maps, what a step changed, the spread of samples.

Invariants: pictures are uint8 RGB (height, width, 3); a map's colours have one fixed scale, so
that two maps can be compared; nothing is stretched to its own largest value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sr3.images import Pixels

Values = NDArray[np.float64]
FULL = 64.0  # grey levels at which a map's colour is full: a quarter of the range

# Dark to light, as the error grows; its lightness rises all the way.
SEQUENTIAL = ((0, 0, 0), (0, 58, 92), (0, 114, 178), (230, 159, 0), (255, 246, 214))
# Darker (blue), unchanged (grey), lighter (vermillion).
DIVERGING = ((86, 180, 233), (0, 88, 140), (40, 40, 40), (170, 70, 0), (255, 154, 87))

# Where the parts of a face lie in a picture framed as in FFHQ: rows, columns, as shares.
ZONES = {
    "the hair and forehead": ((0.0, 0.36), (0.15, 0.85)),
    "the eyes": ((0.36, 0.56), (0.15, 0.85)),
    "the nose and cheeks": ((0.56, 0.70), (0.15, 0.85)),
    "the mouth": ((0.70, 0.86), (0.25, 0.75)),
    "the neck and chin": ((0.86, 1.0), (0.15, 0.85)),
    "the edges and background": ((0.0, 1.0), (0.0, 0.15)),
}


@dataclass(frozen=True)
class Spread:
    """Several samples of one face: their mean and how far they lie apart."""

    mean: Pixels  # (h, w, 3)
    deviation: Values  # (h, w), standard deviation over samples, grey levels, mean over RGB
    map: Pixels  # the deviation in colours

    @property
    def level(self) -> float:
        """The mean deviation, grey levels."""
        return float(self.deviation.mean())


def error(picture: Pixels, reference: Pixels) -> Values:
    """(h, w) mean absolute difference over RGB, grey levels."""
    difference = picture.astype(np.float64) - reference.astype(np.float64)
    values: Values = np.abs(difference).mean(axis=-1)
    return values


def error_map(picture: Pixels, reference: Pixels, full: float = FULL) -> Pixels:
    """The error in colours, (h, w, 3): black for none, light from `full` grey levels up."""
    return coloured(error(picture, reference) / full, SEQUENTIAL)


def change_map(before: Pixels, after: Pixels) -> Pixels:
    """What became lighter (orange) or darker (blue), (h, w, 3); full at a quarter of `FULL`."""
    change = after.astype(np.float64).mean(axis=-1) - before.astype(np.float64).mean(axis=-1)
    return coloured(0.5 + change / (FULL / 2), DIVERGING)


def spread(samples: Pixels) -> Spread:
    """The mean and the spread of (k, h, w, 3) samples."""
    values = samples.astype(np.float64)
    deviation: Values = values.std(axis=0).mean(axis=-1)
    mean = values.mean(axis=0).round().astype(np.uint8)
    return Spread(mean, deviation, coloured(deviation / (FULL / 2), SEQUENTIAL))


def coloured(shares: Values, anchors: tuple[tuple[int, int, int], ...]) -> Pixels:
    """(h, w) in [0, 1], clipped, along evenly spaced anchor colours -> (h, w, 3)."""
    places = np.linspace(0, 1, len(anchors))
    clipped = shares.clip(0, 1)
    bands = [np.interp(clipped, places, [anchor[k] for anchor in anchors]) for k in range(3)]
    return np.stack(bands, axis=-1).round().astype(np.uint8)


def place_of_most(one: Pixels, other: Pixels) -> tuple[float, float]:
    """(x, y) in [0, 1] where two pictures differ the most, over an eighth of the side."""
    values = error(one, other)
    window = max(values.shape[0] // 8, 1)
    kernel = np.ones(window) / window
    for axis in (0, 1):
        values = np.apply_along_axis(np.convolve, axis, values, kernel, "same")
    y, x = np.unravel_index(int(values.argmax()), values.shape)
    return float((x + 0.5) / values.shape[1]), float((y + 0.5) / values.shape[0])


def zone_of_most(one: Pixels, other: Pixels) -> str:
    """The part of the face in which two pictures differ the most, on average over it."""
    values = error(one, other)
    height, width = values.shape
    found: dict[str, float] = {}
    for name, (rows, columns) in ZONES.items():
        part = values[_span(rows, height), _span(columns, width)]
        if name.endswith("background"):  # both edges
            part = np.concatenate(
                [part, values[:, ::-1][_span(rows, height), _span(columns, width)]]
            )
        found[name] = float(part.mean())
    return max(found, key=lambda name: found[name])


def _span(shares: tuple[float, float], size: int) -> slice:
    return slice(round(shares[0] * size), round(shares[1] * size))
