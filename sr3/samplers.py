"""Samplers as coroutines: each yields `(x_t, noise_level)`, is sent x0, returns the final image.

Invariants: a sampler owns no model, moves nothing to a device and keeps no history beyond what
its method needs; a yielded tensor is never changed afterwards; all randomness comes from the
`noise` argument. What happens between the network's estimate and the update (clamping, low-
resolution consistency) is `refine`, applied by whoever drives the coroutine, so that every driver
shows the very estimate the sampler used.

`levels` is (n + 1,) float64, descending noise: n levels at which the network is asked, then the
level of the result (1.0, clean). x is (batch, 3, h, w) float32; a yielded noise level is
(batch,) float64, one an image, on x's `level_device`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from sr3.config import SamplerConfig
from sr3.errors import ConfigError
from sr3.schedule import NoiseSchedule, everywhere

Sampler = Generator[tuple[Tensor, Tensor], Tensor, Tensor]
Noise = Callable[[], Tensor]


class SeededNoise:
    """Standard normal noise from one CPU generator an image: batch size and device change nothing.

    `seeds` holds a (seed, index) pair an image; each call gives the next (batch, *shape) draw.
    """

    def __init__(
        self,
        seeds: Sequence[tuple[int, int]],
        shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape, self.device = shape, device
        self.generators = [torch.Generator().manual_seed(_mixed(pair)) for pair in seeds]

    def __call__(self) -> Tensor:
        draws = [torch.randn(self.shape, generator=generator) for generator in self.generators]
        return torch.stack(draws).to(self.device)


def _mixed(pair: tuple[int, int]) -> int:
    """One 63-bit seed from (seed, index), by NumPy's entropy mixing."""
    if min(pair) < 0:
        raise ConfigError(f"seed must be 0 or more; got {pair[0]}.")
    return int(np.random.SeedSequence(list(pair)).generate_state(1, np.uint64)[0] >> 1)


def ancestral(x: Tensor, levels: Tensor, *, noise: Noise) -> Sampler:
    """SR3's own sampler: the posterior q(x_after | x_t, x0) with its posterior variance.

    DDPM (2006.11239), equations 6 and 7, written for any pair of levels, so that it also runs on
    a respaced chain; on all 2,000 levels it is the public implementation's. No noise is added at
    the last step, whose variance is zero.
    """
    for now, after in pairwise(levels.double().tolist()):
        x0 = yield x, everywhere(now, x)
        bar_now, bar_after = now**2, after**2
        alpha = bar_now / bar_after
        beta = 1 - alpha
        x = (after * beta / (1 - bar_now)) * x0 + (alpha**0.5 * (1 - bar_after) / (1 - bar_now)) * x
        if after < 1:
            x = x + (beta * (1 - bar_after) / (1 - bar_now)) ** 0.5 * noise()
    return x


def ddim(x: Tensor, levels: Tensor, *, noise: Noise, eta: float = 0.0) -> Sampler:
    """DDIM (2010.02502), equations 12 and 16: eta 0 is deterministic, eta 1 is `ancestral`."""
    for now, after in pairwise(levels.double().tolist()):
        x0 = yield x, everywhere(now, x)
        s_now, s_after = (1 - now**2) ** 0.5, (1 - after**2) ** 0.5
        sigma = eta * (s_after / s_now) * max(1 - (now / after) ** 2, 0.0) ** 0.5
        eps = (x - now * x0) / s_now
        x = after * x0 + max(s_after**2 - sigma**2, 0.0) ** 0.5 * eps
        if sigma > 0:
            x = x + sigma * noise()
    return x


def dpmpp(x: Tensor, levels: Tensor) -> Sampler:
    """DPM-Solver++ 2M (2211.01095, algorithm 2), data prediction, deterministic.

    The first step and the step to a clean image are first order: the latter's step in log
    signal-to-noise is infinite, where the formula's limit is x0 itself.
    """
    before: Tensor | None = None
    h_before = 0.0
    for now, after in pairwise(levels.double().tolist()):
        x0 = yield x, everywhere(now, x)
        if after >= 1:
            return x0
        s_now, s_after = (1 - now**2) ** 0.5, (1 - after**2) ** 0.5
        h = float(np.log(after / s_after) - np.log(now / s_now))
        estimate = x0
        if before is not None and h_before > 0:
            ratio = h / (2 * h_before)  # 1 / (2 r), r = h_before / h
            estimate = (1 + ratio) * x0 - ratio * before
        x = (s_after / s_now) * x - after * float(np.expm1(-h)) * estimate
        before, h_before = x0, h
    return x


def start_point(condition: Tensor, level: float, noise: Noise, *, from_noise: bool) -> Tensor:
    """The first x_t: pure noise, or the noised low-resolution estimate a c + s eps (CCDF,
    2112.05146, equation 6), at which a chain that starts late begins."""
    if from_noise:
        return noise()
    return level * condition + math.sqrt(1 - level**2) * noise()


def make_sampler(
    config: SamplerConfig, schedule: NoiseSchedule, condition: Tensor, noise: Noise
) -> Sampler:
    """The coroutine that a `SamplerConfig` describes, for a batch of conditions."""
    levels = schedule.levels(config.steps, config.spacing, config.start, config.end)
    from_noise = config.start == schedule.steps
    x = start_point(condition, float(levels[0]), noise, from_noise=from_noise)
    match config.sampler:
        case "ancestral":
            return ancestral(x, levels, noise=noise)
        case "ddim":
            return ddim(x, levels, noise=noise, eta=config.eta)
        case "dpmpp":
            return dpmpp(x, levels)


class Refine:
    """The optional steps between the network's x0 and the sampler's update.

    `clamp` holds x0 in [-1, 1]. `consistency` adds the smallest change that makes x0 reduce to
    exactly the low-resolution input: bicubic reduction is a separable linear map R (a
    low x high matrix an axis), so the change is R^+ (y - R x0 R^T) R^+^T with the pseudo-inverse
    R^+. It comes last, so the result is exact (values may leave [-1, 1] by a little).
    """

    def __init__(self, low_res: Tensor, size: int, *, clamp: bool, consistency: bool) -> None:
        """`low_res` (batch, 3, l, l) in [-1, 1]; `size` the side of x0."""
        self.clamp, self.consistency = clamp, consistency
        self.low_res = low_res
        self.reduce, self.restore = _reduction(size, low_res.shape[-1], low_res.device)

    def __call__(self, x0: Tensor) -> Tensor:
        if self.clamp:
            x0 = x0.clamp(-1, 1)
        if self.consistency:
            missing = self.low_res - self.reduce @ x0 @ self.reduce.T
            x0 = x0 + self.restore @ missing @ self.restore.T
        return x0


@lru_cache(maxsize=16)
def _reduction(size: int, low_res: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """R (low, size) and its pseudo-inverse (size, low), float32; shared, never changed."""
    reduce = reduction_matrix(size, low_res)
    return reduce.float().to(device), torch.linalg.pinv(reduce).float().to(device)


def reduction_matrix(size: int, low_res: int) -> Tensor:
    """Pillow's antialiased bicubic (a = -0.5) along one axis: (low_res, size) float64.

    Each output pixel is a weighted mean over a window of four output pixels' width, the weights
    normalised to 1 where the border cuts the window.
    """
    scale = size / low_res
    centre = (torch.arange(low_res, dtype=torch.float64)[:, None] + 0.5) * scale
    pixel = torch.arange(size, dtype=torch.float64)[None] + 0.5
    distance = ((pixel - centre) / scale).abs()
    near = ((1.5 * distance) - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weights / weights.sum(dim=1, keepdim=True)
