"""The samplers against closed forms, a plain float64 chain and diffusers' schedulers.

The clean image's estimate is always known exactly here: of Gaussian pixels x0 ~ N(MEAN, SPREAD^2)
the best estimate, the probability-flow path and every marginal have closed forms.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sr3.config import SamplerConfig
from sr3.samplers import (
    Refine,
    Sampler,
    SeededNoise,
    ancestral,
    ddim,
    dpmpp,
    make_sampler,
    reduction_matrix,
    start_point,
)
from sr3.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule()
MEAN, SPREAD = 0.3, 0.4
SHAPE = (1, 3, 8, 8)
Estimate = Callable[[Tensor, float], Tensor]


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noise_from(seed: int, shape: tuple[int, ...] = SHAPE) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator, dtype=torch.float64)


def drive(sampler: Sampler, estimate: Estimate) -> tuple[list[Tensor], list[float], Tensor]:
    """Everything that a sampler asks, and its result."""
    asked, levels = [], []
    x, level = next(sampler)
    while True:
        asked.append(x)
        levels.append(float(level[0]))
        try:
            x, level = sampler.send(estimate(x, levels[-1]))
        except StopIteration as stop:
            return asked, levels, stop.value


def gaussian(x: Tensor, level: float) -> Tensor:
    """E[x0 | x_t] for Gaussian pixels."""
    noise = 1 - level**2
    gain = level * SPREAD**2 / (level**2 * SPREAD**2 + noise)
    return MEAN + gain * (x - level * MEAN)


def curved(x: Tensor, level: float) -> Tensor:
    """A cheap estimate that depends on image and level, and leaves [-1, 1] before clamping."""
    return (1.5 * torch.sin(x + level) + 0.2 * x.roll(1, -1)).clamp(-1, 1)


def deviation(level: float) -> float:
    """Of x_t, for Gaussian pixels."""
    return math.sqrt(level**2 * SPREAD**2 + 1 - level**2)


def slope(errors: list[float]) -> float:
    """Order of convergence, from the last halving."""
    return math.log2(errors[-2] / errors[-1])


# ---------------------------------------------------------------------- ancestral, as published
def published_chain(x: Tensor, noise: Callable[[], Tensor], estimate: Estimate) -> list[Tensor]:
    """The public code's posterior over its 2,000 steps, in its own terms, in NumPy float64."""
    betas = np.linspace(1e-6, 1e-2, 2000)
    bar = np.cumprod(1 - betas)
    previous = np.append(1.0, bar[:-1])
    variance = betas * (1 - previous) / (1 - bar)
    log_variance = np.log(np.maximum(variance, 1e-20))
    of_x0 = betas * np.sqrt(previous) / (1 - bar)
    of_x = (1 - previous) * np.sqrt(1 - betas) / (1 - bar)
    path = []
    for t in reversed(range(2000)):
        path.append(x)
        mean = of_x0[t] * estimate(x, float(np.sqrt(bar[t]))) + of_x[t] * x
        x = mean + (noise() * math.exp(0.5 * log_variance[t]) if t > 0 else 0)
    return [*path, x]


def test_ancestral_is_the_public_implementation_over_all_steps():
    x = normal(*SHAPE)
    sampler = ancestral(x, SCHEDULE.levels(2000), noise=noise_from(1))
    asked, levels, result = drive(sampler, curved)
    expected = published_chain(x, noise_from(1), curved)
    assert len(asked) == 2000
    assert levels[0] == pytest.approx(math.sqrt(4.386e-05), rel=1e-4)
    worst = max(float((a - b).abs().max()) for a, b in zip([*asked, result], expected, strict=True))
    assert worst < 1e-8


def test_ancestral_adds_no_noise_at_the_last_step():
    calls = []

    def noise() -> Tensor:
        calls.append(1)
        return torch.zeros(SHAPE)

    x0 = normal(*SHAPE)
    *_, result = drive(ancestral(normal(*SHAPE), SCHEDULE.levels(7), noise=noise), lambda *_: x0)
    assert len(calls) == 6
    assert float((result - x0).abs().max()) < 1e-12


@pytest.mark.parametrize("spacing", ["uniform", "log_snr", "karras"])
def test_ddim_at_eta_one_is_ancestral(spacing):
    levels, x = SCHEDULE.levels(15, spacing), normal(*SHAPE)
    ours = drive(ddim(x, levels, noise=noise_from(1), eta=1.0), curved)
    theirs = drive(ancestral(x, levels, noise=noise_from(1)), curved)
    assert float((ours[2] - theirs[2]).abs().max()) < 1e-9
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert float((a - b).abs().max()) < 1e-9


# ------------------------------------------------------------------------- orders of convergence
def flow_errors(sampler: Callable[[Tensor, Tensor], Sampler], start: int, end: int) -> list[float]:
    """Errors against the exact probability-flow path, for 16 to 128 steps that stop at `end`."""
    first, last = float(SCHEDULE.level(start)), float(SCHEDULE.level(end))
    x = first * MEAN + deviation(first) * normal(*SHAPE)
    exact = last * MEAN + (x - first * MEAN) * deviation(last) / deviation(first)
    errors = []
    for steps in (16, 32, 64, 128):
        levels = SCHEDULE.levels(steps + 1, "log_snr", start, end)[:-1]  # end at `end`, not clean
        *_, found = drive(sampler(x, levels), gaussian)
        errors.append(float((found - exact).abs().max()))
    return errors


def test_ddim_converges_at_first_order():
    errors = flow_errors(lambda x, levels: ddim(x, levels, noise=noise_from(0)), 1800, 20)
    assert slope(errors) == pytest.approx(1, abs=0.1)
    assert errors[-1] < 0.1


def test_dpmpp_converges_at_second_order():
    errors = flow_errors(dpmpp, 1800, 20)
    assert slope(errors) == pytest.approx(2, abs=0.2)
    assert errors[-1] < 0.01


def test_dpmpp_keeps_its_order_on_uneven_steps():
    errors = []
    first, last = float(SCHEDULE.level(1500)), float(SCHEDULE.level(50))
    x = first * MEAN + deviation(first) * normal(*SHAPE)
    exact = last * MEAN + (x - first * MEAN) * deviation(last) / deviation(first)
    for steps in (16, 32, 64, 128):
        levels = SCHEDULE.levels(steps + 1, "karras", 1500, 50)[:-1]
        *_, found = drive(dpmpp(x, levels), gaussian)
        errors.append(float((found - exact).abs().max()))
    assert slope(errors) == pytest.approx(2, abs=0.25)


def test_the_first_step_of_dpmpp_is_ddim():
    x, levels = normal(*SHAPE), SCHEDULE.levels(2, "log_snr", 1000, 300)[:2]
    once, again = (
        drive(dpmpp(x, levels), gaussian),
        drive(ddim(x, levels, noise=noise_from(0)), gaussian),
    )
    assert float((once[2] - again[2]).abs().max()) < 1e-12


# --------------------------------------------------------------------------------------- moments
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_known_image_gives_the_right_marginal_at_every_level(eta):
    """With x0 known, x_t is N(a x0, 1 - a^2) at each level, on any levels and for any eta."""
    shape, x0 = (1, 3, 64, 64), torch.full((1, 3, 64, 64), 0.7, dtype=torch.float64)
    levels = SCHEDULE.levels(8, "uniform")
    first = float(levels[0])
    x = first * x0 + math.sqrt(1 - first**2) * normal(*shape)
    sampler = ddim(x, levels, noise=noise_from(1, shape), eta=eta)
    asked, visited, result = drive(sampler, lambda *_: x0)
    for x_t, level in zip(asked, visited, strict=True):
        assert float(x_t.mean()) == pytest.approx(0.7 * level, abs=0.04)
        assert float(x_t.std()) == pytest.approx(math.sqrt(1 - level**2), rel=0.03)
    assert float((result - x0).abs().max()) < 1e-12


def test_the_full_chain_draws_from_the_data():
    shape = (1, 3, 64, 64)
    sampler = ancestral(normal(*shape), SCHEDULE.levels(2000), noise=noise_from(1, shape))
    *_, result = drive(sampler, gaussian)
    assert float(result.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(result.std()) == pytest.approx(SPREAD, rel=0.03)


# ------------------------------------------------------------------------- diffusers as an oracle
def diffusers_scheduler(kind: str, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports' deprecations are not ours
        import diffusers
    scheduler = getattr(diffusers, kind)(
        num_train_timesteps=2000,
        beta_start=1e-6,
        beta_end=1e-2,
        beta_schedule="linear",
        prediction_type="sample",
        **settings,
    )
    # Its float32 table is several percent off in 1 - alpha_bar at the clean end.
    scheduler.alphas_cumprod = SCHEDULE.alpha_bar[1:].clone()
    return scheduler


def follow(scheduler, x: Tensor, **settings) -> list[Tensor]:
    """A scheduler's trajectory. It counts time steps from 0, we from 1."""
    path = [x]
    for t in scheduler.timesteps:
        x0 = curved(x, float(SCHEDULE.level(float(t) + 1)))
        x = scheduler.step(x0, t, x, **settings).prev_sample
        path.append(x)
    return path


def largest_gap(ours: tuple[list[Tensor], list[float], Tensor], theirs: list[Tensor]) -> float:
    pairs = zip([*ours[0], ours[2]], theirs, strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_ddim_follows_diffusers(eta):
    scheduler = diffusers_scheduler(
        "DDIMScheduler", clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(20)
    assert scheduler.timesteps.tolist() == list(range(1999, 0, -100))
    x = normal(*SHAPE)
    generator = torch.Generator().manual_seed(1)
    theirs = follow(scheduler, x, eta=eta, generator=generator)
    ours = drive(ddim(x, SCHEDULE.levels(20), noise=noise_from(1), eta=eta), curved)
    assert largest_gap(ours, theirs) < 1e-4


def test_ancestral_follows_diffusers_over_the_full_chain():
    scheduler = diffusers_scheduler(
        "DDPMScheduler", clip_sample=False, variance_type="fixed_small", timestep_spacing="trailing"
    )
    scheduler.set_timesteps(2000)
    x = normal(*SHAPE)
    theirs = follow(scheduler, x, generator=torch.Generator().manual_seed(1))
    ours = drive(ancestral(x, SCHEDULE.levels(2000), noise=noise_from(1)), curved)
    assert largest_gap(ours, theirs) < 1e-4


@pytest.mark.parametrize(
    "times",
    [
        list(range(2000, 0, -100)),
        [2000, 1600, 1300, 1000, 800, 600, 450, 300, 200, 120, 60, 20, 5],
        [2000, 1000, 300, 50],
        [900, 300],
    ],
    ids=["even", "dense-at-the-end", "four", "late-start"],
)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
def test_dpmpp_follows_diffusers(times):
    scheduler = diffusers_scheduler(
        "DPMSolverMultistepScheduler",
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        lower_order_final=False,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(timesteps=[t - 1 for t in times])
    x = normal(*SHAPE)
    theirs = follow(scheduler, x)
    levels = torch.cat([SCHEDULE.level(torch.tensor(times)), torch.ones(1, dtype=torch.float64)])
    assert largest_gap(drive(dpmpp(x, levels), curved), theirs) < 1e-4


# --------------------------------------------------------------------------------------- starting
def test_a_late_start_begins_from_the_noised_estimate():
    condition, eps = normal(*SHAPE), normal(*SHAPE, seed=1)
    found = start_point(condition, 0.6, lambda: eps, from_noise=False)
    assert float((found - (0.6 * condition + 0.8 * eps)).abs().max()) < 1e-12
    assert torch.equal(start_point(condition, 0.6, lambda: eps, from_noise=True), eps)


@pytest.mark.parametrize("method", ["ancestral", "ddim", "dpmpp"])
@pytest.mark.parametrize("start", [2000, 700])
def test_a_sampler_is_made_as_configured(method, start):
    config = SamplerConfig(method, steps=5, spacing="karras", start=start, end=9, eta=0.5)
    condition = normal(*SHAPE)
    asked, visited, result = drive(make_sampler(config, SCHEDULE, condition, noise_from(2)), curved)
    noise = noise_from(2)
    level = float(SCHEDULE.level(start))
    x = noise() if start == 2000 else level * condition + math.sqrt(1 - level**2) * noise()
    levels = SCHEDULE.levels(5, "karras", start, 9)
    by_hand = {
        "ancestral": lambda: ancestral(x, levels, noise=noise),
        "ddim": lambda: ddim(x, levels, noise=noise, eta=0.5),
        "dpmpp": lambda: dpmpp(x, levels),
    }[method]()
    assert float((result - drive(by_hand, curved)[2]).abs().max()) < 1e-12
    np.testing.assert_allclose(visited, levels[:-1].tolist(), rtol=1e-12)
    assert len(asked) == 5


@pytest.mark.parametrize("method", ["ancestral", "ddim", "dpmpp"])
@pytest.mark.parametrize("spacing", ["uniform", "log_snr", "karras"])
def test_one_step_is_the_estimate_itself(method, spacing):
    config = SamplerConfig(method, steps=1, spacing=spacing)
    x0 = normal(*SHAPE)
    *_, result = drive(make_sampler(config, SCHEDULE, x0, noise_from(0)), lambda *_: x0)
    assert float((result - x0).abs().max()) < 1e-12


@pytest.mark.parametrize("spacing", ["log_snr", "karras"])
def test_equal_start_and_end_still_give_an_image(spacing):
    config = SamplerConfig("dpmpp", steps=3, spacing=spacing, start=500, end=500)
    *_, result = drive(make_sampler(config, SCHEDULE, normal(*SHAPE), noise_from(0)), gaussian)
    assert bool(result.isfinite().all())


# ------------------------------------------------------------------------------------- refinement
def test_the_reduction_matrix_is_pillows_bicubic():
    image = np.random.default_rng(0).random((128, 128), dtype=np.float32)
    expected = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC))
    reduce = reduction_matrix(128, 16).numpy()
    np.testing.assert_allclose(reduce @ image @ reduce.T, expected, atol=2e-6)


def test_consistency_is_exact_and_the_smallest_change():
    x0 = 2 * normal(2, 3, 32, 32).float() / 3
    low = normal(2, 3, 8, 8, seed=1).float().clamp(-1, 1)
    refined = Refine(low, 32, clamp=False, consistency=True)(x0)
    one_axis = reduction_matrix(32, 8).numpy()
    both = np.kron(one_axis, one_axis)  # on the flattened image
    reduced = refined.double().reshape(6, -1).numpy() @ both.T
    assert np.abs(reduced - low.reshape(6, -1).double().numpy()).max() < 1e-5
    missing = low.double().reshape(6, -1).numpy() - x0.double().reshape(6, -1).numpy() @ both.T
    smallest = np.linalg.lstsq(both, missing.T, rcond=None)[0].T  # of all exact ones
    change = (refined.double() - x0.double()).reshape(6, -1).numpy()
    assert np.abs(change - smallest).max() < 1e-5


def test_consistency_agrees_with_pillow_at_full_size():
    low = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x0 = normal(1, 3, 128, 128).float()
    refined = Refine(low, 128, clamp=True, consistency=True)(x0)
    for channel in range(3):
        image = Image.fromarray(refined[0, channel].numpy())
        reduced = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC))
        assert np.abs(reduced - low[0, channel].numpy()).max() < 1e-5


def test_clamping_alone_holds_the_range_and_nothing_else():
    x0 = 3 * normal(1, 3, 16, 16).float()
    low = torch.zeros(1, 3, 2, 2)
    found = Refine(low, 16, clamp=True, consistency=False)(x0)
    np.testing.assert_array_equal(found.numpy(), np.clip(x0.numpy(), -1, 1))
    assert torch.equal(Refine(low, 16, clamp=False, consistency=False)(x0), x0)


def test_refinement_leaves_its_argument_alone():
    x0 = 3 * normal(1, 3, 16, 16).float()
    before = x0.clone()
    Refine(torch.zeros(1, 3, 2, 2), 16, clamp=True, consistency=True)(x0)
    assert torch.equal(x0, before)


# ------------------------------------------------------------------------------------------ noise
def test_noise_of_an_image_does_not_depend_on_its_batch():
    pairs = [(0, 0), (0, 1), (7, 0), (1, 0)]
    together = SeededNoise(pairs, (3, 4, 4))
    alone = [SeededNoise([pair], (3, 4, 4)) for pair in pairs]
    for _ in range(3):
        drawn = together()
        assert torch.equal(drawn, torch.cat([noise() for noise in alone]))
    assert drawn.dtype == torch.float32 and drawn.shape == (4, 3, 4, 4)


def test_each_seed_index_and_call_has_its_own_noise():
    pairs = [(seed, index) for seed in range(4) for index in range(4)] + [(2**40, 0), (0, 2**40)]
    noise = SeededNoise(pairs, (1, 8, 8))
    rows = torch.cat([noise(), noise()]).flatten(1)
    correlation = np.corrcoef(rows.numpy()) - np.eye(len(rows))
    assert np.abs(correlation).max() < 0.55  # 64 values each


def test_noise_is_standard_normal():
    values = SeededNoise([(3, 1)], (3, 128, 128))()
    assert float(values.mean()) == pytest.approx(0, abs=0.02)
    assert float(values.std()) == pytest.approx(1, abs=0.02)


# -------------------------------------------------------------------------------------- coroutines
def every_sampler(x: Tensor) -> list[Sampler]:
    levels = SCHEDULE.levels(6, "log_snr")
    return [
        ancestral(x, levels, noise=noise_from(0)),
        ddim(x, levels, noise=noise_from(0), eta=0.7),
        ddim(x, levels, noise=noise_from(0)),
        dpmpp(x, levels),
    ]


@pytest.mark.parametrize("which", range(4))
def test_nothing_yielded_or_sent_is_changed_later(which):
    sampler = every_sampler(normal(2, 3, 8, 8))[which]
    kept: list[tuple[Tensor, Tensor]] = []
    x, level = next(sampler)
    while True:
        x0 = curved(x, float(level[0]))
        assert level.shape == (2,) and level.dtype == torch.float64
        kept += [(tensor, tensor.clone()) for tensor in (x, level, x0)]
        try:
            x, level = sampler.send(x0)
        except StopIteration:
            break
    assert len(kept) == 18
    assert all(torch.equal(tensor, copy) for tensor, copy in kept)


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("enabled", [True, False])
def test_a_paused_sampler_leaves_grad_mode_alone(which, enabled):
    with torch.set_grad_enabled(enabled):
        sampler = every_sampler(normal(*SHAPE))[which]
        x, level = next(sampler)
        assert torch.is_grad_enabled() is enabled
        sampler.send(curved(x, float(level[0])))
        assert torch.is_grad_enabled() is enabled
        sampler.close()
        assert torch.is_grad_enabled() is enabled


def test_a_chain_in_float32_stays_near_one_in_float64():
    for exact, single in zip(
        every_sampler(normal(*SHAPE)), every_sampler(normal(*SHAPE).float()), strict=True
    ):
        expected, found = drive(exact, gaussian)[2], drive(single, gaussian)[2]
        assert float((found.double() - expected).abs().max()) < 1e-4
