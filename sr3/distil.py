"""Distillation: a student that goes the teacher's chain in a few long steps.

The teacher goes its deterministic chain (DDIM, eta 0, clamped and consistent as it samples) from
the very points at which sampling begins, in `substeps` steps for each of the student's. At each of
its own levels the student learns the clean estimate with which one DDIM step from the teacher's x
lands where the teacher lands, (a, s) being signal and noise at x and (a', s') at x':

    x' = a' x0 + (s' / s) (x - a x0)    =>    x0 = (x' - (s' / s) x) / (a' - (s' / s) a)

Invariants: those of `sr3.train`; the teacher is the network as it was when the run began.

Source: progressive distillation (2202.00512, algorithm 2), with the teacher's own chains in place
of diffused images, since these begin at the noised low-resolution estimate.
"""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor, nn

from sr3.batches import BatchSource
from sr3.config import ModelConfig, SamplerConfig, TrainConfig
from sr3.denoiser import Denoiser, signal_and_noise
from sr3.errors import ConfigError
from sr3.images import Pixels, degrade, enlarge, to_tensor
from sr3.parallel import Team
from sr3.samplers import Refine, ddim, start_point
from sr3.schedule import NoiseSchedule, level_device, level_of_log_noise, log_noise_of_level
from sr3.train import PRECISIONS, Trainer

TRAINING = TrainConfig(
    minutes=30, batch=4, learning_rate=2e-4, warmup=20, decay=0.6, ema=0.99, loss="l1",
    precision="float32",  # what a chain of rounded steps would add is not to be learnt
)  # fmt: skip


def student_of(model: ModelConfig, evaluations: int, start: int, end: int) -> ModelConfig:
    """The same network, sampled in `evaluations` deterministic steps between two time steps.

    Raises ConfigError where the chain would end past the teacher's, whose end is `sampling.end`.
    """
    if end < model.sampling.end:
        raise ConfigError(
            f"The student's last time step must be at least the teacher's, {model.sampling.end}; "
            f"got {end}."
        )
    sampling = dataclasses.replace(
        model.sampling, sampler="ddim", eta=0.0, spacing="log_snr", steps=evaluations, start=start,
        end=end,
    )  # fmt: skip
    NoiseSchedule(model.schedule).levels(evaluations, "log_snr", start, end)  # or ConfigError
    return dataclasses.replace(model, sampling=sampling)


def teacher_levels(
    schedule: NoiseSchedule, student: SamplerConfig, substeps: int, end: int
) -> Tensor:
    """The student's levels with `substeps` in each of its steps, even in log signal-to-noise; the
    last step's go on to time step `end`: (steps * substeps + 1,) float64, the last 1 (clean)."""
    levels = schedule.levels(student.steps, student.spacing, student.start, student.end)
    asked = log_noise_of_level(levels[:-1])
    count = torch.arange(substeps, dtype=torch.float64)
    parts = [
        asked[k] + (asked[k + 1] - asked[k]) * count / substeps for k in range(student.steps - 1)
    ]
    last = count / max(substeps - 1, 1)
    parts.append(asked[-1] + (schedule.log_noise(end) - asked[-1]) * last)
    return torch.cat([level_of_log_noise(torch.cat(parts)), torch.ones(1, dtype=torch.float64)])


class Distiller(Trainer):
    """A trainer whose network learns to go its own earlier chain in fewer steps."""

    def __init__(
        self,
        network: nn.Module,
        model: ModelConfig,
        config: TrainConfig,
        images: Pixels | BatchSource,
        device: torch.device | str = "cpu",
        team: Team | None = None,
        *,
        substeps: int,
        end: int,
    ) -> None:
        """`network` is the teacher's, `model` the student's (`student_of`), `end` the teacher's
        last time step. Raises ConfigError for substeps below 1 and for another sampler."""
        super().__init__(network, model, config, images, device, team)
        sampling = model.sampling
        if substeps < 1 or sampling.sampler != "ddim" or sampling.eta != 0:
            raise ConfigError(
                "Distillation needs at least 1 substep and deterministic ddim; got "
                f"{substeps} and {sampling.sampler}, eta {sampling.eta:g}."
            )
        frozen = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.teacher = Denoiser(frozen, model, PRECISIONS[config.precision])
        self.substeps = substeps
        self.levels = teacher_levels(self.schedule, sampling, substeps, end)

    def loss(self, generator: torch.Generator, dropout: int) -> Tensor:
        """The mean absolute error over all of the student's levels of the batch's chains (for
        "l2" the mean square), in units of what the network predicts."""
        low = degrade(self.pixels(generator), self.model.network.low_res)
        condition = to_tensor(enlarge(low, self.model.network.high_res))
        noise = torch.randn((self.config.batch, *condition.shape[1:]), generator=generator)
        condition, noise = condition.to(self.device), noise[self.mine].to(self.device)
        low_res = to_tensor(low).to(self.device)
        chain = self.chain(low_res, condition, noise)
        x = torch.cat(chain[:-1])
        now, after = (part.repeat_interleave(len(low)) for part in self._ends())
        target = landing(x, torch.cat(chain[1:]), now, after)
        torch.manual_seed(dropout)
        repeated = condition.repeat(self.model.sampling.steps, 1, 1, 1)
        student = self.denoiser()
        error = (student(x, repeated, now) - target) / student.scale
        return error.abs().mean() if self.config.loss == "l1" else error.square().mean()

    @torch.no_grad()
    def chain(self, low_res: Tensor, condition: Tensor, noise: Tensor) -> list[Tensor]:
        """The teacher's x at each of the student's levels, and its result: steps + 1 tensors."""
        sampling = self.model.sampling
        from_noise = sampling.start == self.schedule.steps
        start = start_point(condition, float(self.levels[0]), lambda: noise, from_noise=from_noise)
        refine = Refine(
            low_res, condition.shape[-1], clamp=sampling.clamp, consistency=sampling.consistency
        )
        steps = ddim(start, self.levels, noise=lambda: noise, eta=0.0)
        x, level = next(steps)
        seen = []
        for index in range(len(self.levels) - 1):
            if index % self.substeps == 0:
                seen.append(x)
            try:
                x, level = steps.send(refine(self.teacher(x, condition, level)))
            except StopIteration as stop:
                seen.append(stop.value)
        return seen

    def _ends(self) -> tuple[Tensor, Tensor]:
        """The levels from which and to which the student's steps go, (steps,) float64 each."""
        levels = self.levels.to(level_device(self.device))[:: self.substeps]
        return levels[:-1], levels[1:]


def landing(x: Tensor, after: Tensor, level: Tensor, level_after: Tensor) -> Tensor:
    """The x0 with which one DDIM step takes `x` at `level` to `after` at `level_after`; tensors
    (batch, 3, h, w), levels (batch,)."""
    (a, s), (a_after, s_after) = (signal_and_noise(each, x.device) for each in (level, level_after))
    ratio = s_after / s
    return (after - ratio * x) / (a_after - ratio * a)
