"""Which images an update is shown: endless reshuffled epochs, and a fixed share of older images.

Invariant: the images of update k depend on the seed and k alone, never on what was asked before,
so a resumed run sees the same ones.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from sr3.errors import ConfigError, TrainingError
from sr3.images import Pixels

TARGET, REPLAYED = 3, 4  # purposes of `mixed_seed`; 1 and 2 are the trainer's noise and dropout


class BatchSource(Protocol):
    """Where a trainer's images come from."""

    def __call__(self, step: int, count: int) -> Pixels:
        """The `count` images of update `step` (from 0): (count, h, w, 3) uint8."""


def mixed_seed(seed: int, purpose: int, count: int) -> int:
    """A 63-bit seed for one purpose and count, independent of all others."""
    entropy = np.random.SeedSequence([seed, purpose, count])
    return int(entropy.generate_state(1, np.uint64)[0] >> 1)


class Epochs:
    """An endless sequence over `pixels` (n, h, w, 3): each image once an epoch, reshuffled."""

    def __init__(self, pixels: Pixels, seed: int, purpose: int = TARGET) -> None:
        if len(pixels) == 0:
            raise TrainingError(
                "There are no images to train on: the domain's training split is empty."
            )
        self.pixels, self.seed, self.purpose = pixels, seed, purpose
        self._epoch = -1
        self._permutation: np.ndarray[Any, Any] = np.empty(0, int)

    def __call__(self, step: int, count: int) -> Pixels:
        return self.at(step * count, count)

    def at(self, first: int, count: int) -> Pixels:
        """`count` images from position `first` of the sequence on."""
        return self.pixels[[self.index(first + k) for k in range(count)]]

    def index(self, position: int) -> int:
        """Which image stands at a position."""
        epoch, offset = divmod(position, len(self.pixels))
        if epoch != self._epoch:
            seed = mixed_seed(self.seed, self.purpose, epoch)
            self._permutation = np.random.default_rng(seed).permutation(len(self.pixels))
            self._epoch = epoch
        return int(self._permutation[offset])


class Replay:
    """Batches of new images with a fixed share of old ones, against forgetting.

    Of the first n images of a run, floor(share * n) are old: no draw decides, so each batch holds
    the share rounded down or up, and any number of batches the share to within one image.
    """

    def __init__(self, new: Epochs, old: Epochs, share: float) -> None:
        if not 0 <= share < 1:
            raise ConfigError(f"replay must be a fraction of the batch in [0, 1); got {share}.")
        self.new, self.old = new, old
        self.share = Fraction(share).limit_denominator(10_000)  # 0.1 is a tenth, exactly

    def replayed(self, images: int) -> int:
        """How many of a run's first `images` images are old ones."""
        return math.floor(self.share * images)

    def __call__(self, step: int, count: int) -> Pixels:
        first = step * count
        before, after = self.replayed(first), self.replayed(first + count)
        old = self.old.at(before, after - before)
        new = self.new.at(first - before, count - (after - before))
        return np.concatenate([old, new])
