"""The noise schedule: which noise levels there are, how training draws them, how sampling visits.

A noise level is sqrt(alpha_bar), 1 for a clean image and near 0 for pure noise. Time steps are
counted as in the paper, 1..T, with alpha_bar[0] = 1; a fractional time interpolates the level
linearly between two steps, since the network takes any level in between. All in float64: at the
clean end 1 - alpha_bar is 1e-6, which float32 would round by several percent.

Sources: SR3 (arXiv 2104.07636), section 2.4; levels uniform in log signal-to-noise as in
DPM-Solver (2206.00927); the `karras` spacing is equation 5 of EDM (2206.00364) on sigma / alpha.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from sr3.config import ScheduleConfig, Spacing
from sr3.errors import ConfigError

# Where an image's residual over its bicubic enlargement is decided: half the log noise-to-signal
# ratio is drawn from a normal around these (`draw(how="focused")`), as EDM draws its sigma.
FOCUS_MEAN, FOCUS_DEVIATION, FOCUS_SHARE = -1.8, 1.4, 0.9
KARRAS_RHO = 7.0


class NoiseSchedule:
    """alpha_bar of a linear-beta schedule, float64, indices 0..T with alpha_bar[0] = 1."""

    def __init__(self, config: ScheduleConfig | None = None) -> None:
        self.config = config or ScheduleConfig()
        betas = torch.linspace(
            self.config.beta_start, self.config.beta_end, self.config.steps, dtype=torch.float64
        )
        one = torch.ones(1, dtype=torch.float64)
        self.alpha_bar = torch.cat([one, torch.cumprod(1 - betas, 0)])  # (T + 1,)
        self._levels = self.alpha_bar.sqrt()

    @property
    def steps(self) -> int:
        """T, the last time step."""
        return self.config.steps

    def level(self, time: Tensor | float) -> Tensor:
        """sqrt(alpha_bar) at (fractional) time steps in [0, T]; float64, shape of `time`."""
        time = torch.as_tensor(time, dtype=torch.float64)
        if bool((time < 0).any()) or bool((time > self.steps).any()):
            raise ConfigError(f"time steps must lie in 0..{self.steps}; got {time.tolist()}.")
        below = time.floor().long().clamp(max=self.steps - 1)
        return torch.lerp(self._levels[below], self._levels[below + 1], time - below)

    def time(self, level: Tensor | float) -> Tensor:
        """The inverse of `level`: the (fractional) time step at which a level stands."""
        level = torch.as_tensor(level, dtype=torch.float64)
        descending = -self._levels
        above = torch.searchsorted(descending, -level.reshape(-1)).clamp(1, self.steps)
        low, high = self._levels[above - 1], self._levels[above]
        return (above - 1 + (low - level.reshape(-1)) / (low - high)).reshape(level.shape)

    def log_noise(self, time: Tensor | float) -> Tensor:
        """ln(sqrt(1 - alpha_bar) / sqrt(alpha_bar)): minus half the log signal-to-noise ratio."""
        return log_noise_of_level(self.level(time))

    def levels(
        self, steps: int, spacing: Spacing = "uniform", start: int | None = None, end: int = 1
    ) -> Tensor:
        """The `steps` levels at which the network is asked, then 1.0 (clean): (steps + 1,).

        `uniform` spaces them evenly in time from `start` (default T), `log_snr` evenly in log
        signal-to-noise and `karras` with rho = 7, both from `start` to `end`. The 2,000-step
        alpha_bar is respaced; the betas are never re-made for fewer steps, which would leave
        signal in the "pure" noise.
        """
        start = self.steps if start is None else start
        if not 1 <= end <= start <= self.steps:
            raise ConfigError(
                f"sampling needs 1 <= end <= start <= {self.steps}; got end {end}, start {start}."
            )
        if steps < 1:
            raise ConfigError(f"steps must be at least 1; got {steps}.")
        return _respaced(self, steps, spacing, start, end).clone()

    def _respace(self, steps: int, spacing: Spacing, start: int, end: int) -> Tensor:
        if spacing == "uniform":
            times = start * (1 - torch.arange(steps + 1, dtype=torch.float64) / steps)
            return self.level(times)
        fraction = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
        first, last = self.log_noise(start), self.log_noise(end)
        if spacing == "log_snr":
            log_noise = first + fraction * (last - first)
        else:
            ends = (first / KARRAS_RHO).exp(), (last / KARRAS_RHO).exp()
            log_noise = KARRAS_RHO * (ends[0] + fraction * (ends[1] - ends[0])).log()
        return torch.cat([level_of_log_noise(log_noise), torch.ones(1, dtype=torch.float64)])

    def draw(
        self,
        batch: int,
        generator: torch.Generator,
        how: str = "uniform",
        time_range: tuple[int, int] | None = None,
    ) -> Tensor:
        """Noise levels for training, one an image: (batch,) float64.

        `uniform` is SR3's: a time step t in (A, B], then uniform between the levels of t - 1 and
        t (the public code draws t once a batch; here once an image, which lowers the variance).
        `log_snr` is uniform in log signal-to-noise, `focused` a normal on it that is cut to the
        range, with a tenth of `log_snr`. No level outside `time_range` = (A, B] is ever drawn.
        """
        first, last = time_range or (0, self.steps)
        if not 0 <= first < last <= self.steps:
            raise ConfigError(
                f"a range of time steps A:B must satisfy 0 <= A < B <= {self.steps}; "
                f"got {first}:{last}."
            )
        u = torch.rand(batch, generator=generator, dtype=torch.float64)
        if how == "uniform":
            return self.level(first + (1 - u) * (last - first))
        low, high = self.log_noise(max(first, 1)), self.log_noise(last)
        log_noise = low + u * (high - low)
        if how == "focused":
            focus = torch.rand(batch, generator=generator, dtype=torch.float64) < FOCUS_SHARE
            log_noise = torch.where(focus, _cut_normal(u, low, high), log_noise)
        level = level_of_log_noise(log_noise)
        return level.clamp(self._levels[last], self._levels[max(first, 1)])


def level_device(device: torch.device) -> torch.device:
    """Where float64 levels of images on `device` lie: beside them on CUDA, whose graphs take them,
    else on the CPU, since an accelerator may have no float64 (Apple's MPS has none)."""
    return device if device.type == "cuda" else torch.device("cpu")


def everywhere(level: float, x: Tensor) -> Tensor:
    """A noise level for each image of `x` (batch, ...): (batch,) float64 on its `level_device`."""
    return torch.full((len(x),), level, dtype=torch.float64, device=level_device(x.device))


@lru_cache(maxsize=64)  # by schedule: an engine asks anew for each job
def _respaced(
    schedule: NoiseSchedule, steps: int, spacing: Spacing, start: int, end: int
) -> Tensor:
    return schedule._respace(steps, spacing, start, end)


def log_noise_of_level(level: Tensor) -> Tensor:
    """ln(sqrt(1 - alpha_bar) / sqrt(alpha_bar)) from sqrt(alpha_bar)."""
    return ((1 - level.square()).sqrt() / level).log()


def level_of_log_noise(log_noise: Tensor) -> Tensor:
    """sqrt(alpha_bar) from ln(sqrt(1 - alpha_bar) / sqrt(alpha_bar))."""
    return torch.sigmoid(-2 * log_noise).sqrt()


def _cut_normal(u: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The quantile `u` of a normal around the focus, cut to [low, high]."""

    def share(value: Tensor) -> Tensor:
        return (1 + torch.erf((value - FOCUS_MEAN) / (FOCUS_DEVIATION * math.sqrt(2)))) / 2

    quantile = share(low) + u * (share(high) - share(low))
    value = FOCUS_MEAN + FOCUS_DEVIATION * math.sqrt(2) * torch.erfinv(2 * quantile - 1)
    return torch.minimum(torch.maximum(value, low), high)
