"""The noise schedule against NumPy in float64, and what training draws against its distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from sr3.config import ScheduleConfig
from sr3.errors import ConfigError
from sr3.schedule import NoiseSchedule, level_of_log_noise

SCHEDULE = NoiseSchedule()
BETAS = 1e-6 + (1e-2 - 1e-6) * np.arange(2000) / 1999
ALPHA_BAR = np.concatenate([[1.0], np.exp(np.cumsum(np.log1p(-BETAS)))])
LEVELS = np.sqrt(ALPHA_BAR)
# ln(sqrt(1 - alpha_bar) / sqrt(alpha_bar)); 1 - alpha_bar without its cancellation near t = 0
LOG_NOISE = 0.5 * np.log(np.expm1(-np.cumsum(np.log1p(-BETAS))))  # index t - 1
RANGES = [(0, 2000), (0, 1), (0, 500), (500, 1000), (526, 527), (1500, 2000), (1999, 2000)]
HOWS = ["uniform", "log_snr", "focused"]


def times_of(levels: np.ndarray) -> np.ndarray:
    """Fractional time steps, by interpolation in the table."""
    return np.interp(-levels, -LEVELS, np.arange(2001.0))


def log_noise_of(levels: torch.Tensor) -> np.ndarray:
    level = levels.double().numpy()
    return 0.5 * np.log((1 - level) * (1 + level)) - np.log(level)


def draw(count: int, how: str, time_range=None, seed: int = 0) -> torch.Tensor:
    return SCHEDULE.draw(count, torch.Generator().manual_seed(seed), how, time_range)


# ------------------------------------------------------------------------------------ the table
def test_alpha_bar_is_the_product_of_one_minus_beta():
    assert SCHEDULE.alpha_bar.dtype == torch.float64
    np.testing.assert_allclose(SCHEDULE.alpha_bar.numpy(), ALPHA_BAR, rtol=1e-11, atol=0)
    assert float(SCHEDULE.alpha_bar[0]) == 1
    assert float(SCHEDULE.alpha_bar[-1]) == pytest.approx(4.386e-05, rel=2e-4)
    assert 1 - float(SCHEDULE.alpha_bar[1]) == pytest.approx(1e-6, rel=1e-9)  # float64


@pytest.mark.parametrize(
    ("index", "snr", "tolerance"),
    [
        (50, 155, 0.5),
        (200, 9.4, 0.05),
        (500, 1.15, 0.005),
        (526, 1, 0.01),
        (1000, 0.089, 5e-4),
        (1356, 0.01, 5e-5),
        (1500, 0.0035, 5e-5),
    ],
)
def test_signal_to_noise_is_the_tabled_one(index, snr, tolerance):
    time = index + 1  # the reference table counts steps from 0, as the public code does
    assert abs(math.exp(-2 * float(SCHEDULE.log_noise(time))) - snr) < tolerance


def test_log_noise_is_exact_at_the_clean_end():
    found = SCHEDULE.log_noise(torch.arange(1, 2001)).numpy()
    np.testing.assert_allclose(found, LOG_NOISE, rtol=0, atol=1e-9)


def test_level_of_log_noise_undoes_it():
    times = torch.tensor([1.0, 3.3, 500.0, 1999.5, 2000.0])
    found = level_of_log_noise(SCHEDULE.log_noise(times))
    assert float((found - SCHEDULE.level(times)).abs().max()) < 1e-14


def test_a_fractional_time_interpolates_the_level():
    found = SCHEDULE.level(torch.tensor([0.0, 0.25, 499.0, 499.5, 1999.9, 2000.0]))
    expected = np.interp([0.0, 0.25, 499.0, 499.5, 1999.9, 2000.0], np.arange(2001), LEVELS)
    assert found.dtype == torch.float64
    # 1999.9 and the like arrive as float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-12)
    assert float(SCHEDULE.level(1999.9)) == pytest.approx(0.1 * LEVELS[1999] + 0.9 * LEVELS[2000])


def test_time_is_the_inverse_of_level():
    times = torch.cat(
        [torch.arange(2001, dtype=torch.float64), torch.rand(500, dtype=torch.float64) * 2000]
    )
    assert float((SCHEDULE.time(SCHEDULE.level(times)) - times).abs().max()) < 1e-6
    assert SCHEDULE.time(0.5).shape == ()
    assert SCHEDULE.time(torch.full((2, 3), 0.5)).shape == (2, 3)


def test_another_schedule_is_its_own():
    small = NoiseSchedule(ScheduleConfig(beta_start=0.1, beta_end=0.3, steps=3))
    expected = [1, 0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7]
    np.testing.assert_allclose(small.alpha_bar.numpy(), expected, rtol=1e-12)
    assert small.steps == 3


# ------------------------------------------------------------------------------------- sampling
@pytest.mark.parametrize("spacing", ["uniform", "log_snr", "karras"])
@pytest.mark.parametrize(("start", "end"), [(2000, 1), (960, 6), (37, 12)])
@pytest.mark.parametrize("steps", [1, 2, 10, 37])
def test_levels_rise_from_the_start_to_clean(spacing, start, end, steps):
    levels = SCHEDULE.levels(steps, spacing, start, end)
    assert levels.dtype == torch.float64 and levels.shape == (steps + 1,)
    assert float(levels[0]) == pytest.approx(LEVELS[start], abs=1e-12)
    assert float(levels[-1]) == 1
    assert bool((levels.diff() > 0).all())
    if steps > 1:
        last = start / steps if spacing == "uniform" else end
        assert float(SCHEDULE.time(levels[-2])) == pytest.approx(last, abs=1e-5)


def test_uniform_levels_are_even_in_time():
    times = times_of(SCHEDULE.levels(20, "uniform").numpy())
    np.testing.assert_allclose(times, np.arange(2000, -1, -100), atol=1e-6)
    np.testing.assert_allclose(SCHEDULE.levels(2000).numpy(), LEVELS[::-1], rtol=1e-11)


def test_log_snr_levels_are_even_in_log_snr():
    found = log_noise_of(SCHEDULE.levels(9, "log_snr", 1500, 20)[:-1])
    np.testing.assert_allclose(found, np.linspace(LOG_NOISE[1499], LOG_NOISE[19], 9), atol=1e-8)


def test_karras_levels_are_even_in_the_seventh_root_of_sigma():
    sigma = np.exp(log_noise_of(SCHEDULE.levels(9, "karras", 1500, 20)[:-1]))
    ends = np.exp(LOG_NOISE[[1499, 19]]) ** (1 / 7)
    np.testing.assert_allclose(sigma, np.linspace(*ends, 9) ** 7, rtol=1e-8)


# ------------------------------------------------------------------------------------- training
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("time_range", RANGES)
def test_no_level_outside_the_range_is_drawn(how, time_range):
    first, last = time_range
    levels = draw(20_000, how, time_range)
    assert levels.dtype == torch.float64 and levels.shape == (20_000,)
    assert bool(levels.isfinite().all())
    low, high = SCHEDULE.level(float(last)), SCHEDULE.level(float(first))
    assert bool((levels >= low).all())
    assert bool((levels < high).all() if how == "uniform" else (levels <= high).all())
    if how == "uniform" or last > 1:  # log signal-to-noise is infinite before t = 1
        assert len(levels.unique()) > 19_000  # continuous, and not piled up at an end


@pytest.mark.parametrize("time_range", RANGES)
def test_uniform_draws_are_uniform_in_time(time_range):
    first, last = time_range
    times = times_of(draw(20_000, "uniform", time_range).numpy())
    assert stats.kstest(times, stats.uniform(first, last - first).cdf).pvalue > 1e-3


@pytest.mark.parametrize("time_range", [(0, 2000), (0, 500), (500, 1000), (1500, 2000)])
@pytest.mark.parametrize("how", ["log_snr", "focused"])
def test_draws_follow_their_law_in_log_noise(how, time_range):
    low, high = LOG_NOISE[max(time_range[0], 1) - 1], LOG_NOISE[time_range[1] - 1]
    flat = stats.uniform(low, high - low)
    bell = stats.truncnorm((low + 1.8) / 1.4, (high + 1.8) / 1.4, loc=-1.8, scale=1.4)
    share = {"log_snr": 0.0, "focused": 0.9}[how]
    values = log_noise_of(draw(20_000, how, time_range))

    def law(x):
        return share * bell.cdf(x) + (1 - share) * flat.cdf(x)

    assert stats.kstest(values, law).pvalue > 1e-3


def test_draws_depend_on_the_generator_alone():
    assert torch.equal(draw(8, "focused", seed=3), draw(8, "focused", seed=3))
    assert not torch.equal(draw(8, "focused", seed=3), draw(8, "focused", seed=4))


# --------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize("time", [-1, -1e-9, 2000.001, 2001])
def test_a_time_outside_the_schedule_is_refused(time):
    with pytest.raises(ConfigError, match=r"0\.\.2000"):
        SCHEDULE.level(time)


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_refused(steps):
    with pytest.raises(ConfigError, match=str(steps)):
        SCHEDULE.levels(steps)


@pytest.mark.parametrize("time_range", [(5, 5), (9, 3), (-1, 5), (0, 2001)])
def test_a_wrong_range_is_refused(time_range):
    first, last = time_range
    with pytest.raises(ConfigError, match=f"{first}:{last}"):
        draw(2, "uniform", time_range)
