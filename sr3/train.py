"""Training as a generator: it yields a small record after each optimizer step.

Invariants: what update k does depends on the seed, k and the weights alone (batch, flips, noise
and levels are drawn anew from (seed, k)), so a run stopped after any update and resumed gives the
same losses, bit for bit on one CPU process, as one that was never stopped; the state file is
written atomically; the weights to use are the moving average (`Trainer.ema`).

Source: SR3 (2104.07636), algorithm 1 and section 4; deviations (targets, weights, draws of the
levels) are in `sr3.denoiser` and `sr3.schedule`.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sr3.batches import BatchSource, Epochs, mixed_seed
from sr3.config import ModelConfig, TrainConfig, name_changes, to_dict
from sr3.denoiser import Denoiser
from sr3.errors import TrainingError
from sr3.files import whole
from sr3.images import Pixels, degrade, enlarge, to_tensor
from sr3.optimizers import make_optimizers
from sr3.parallel import Team
from sr3.schedule import NoiseSchedule, level_device

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class TrainStep:
    """What happened in one optimizer step."""

    step: int  # counted from 1
    loss: float  # mean over the batch, before the update
    learning_rate: float
    gradient_norm: float  # before clipping
    seconds: float  # training time so far, over all resumptions
    remaining: float  # seconds that are expected to be left


class Trainer:
    """A network in training: its weights, their moving average, the optimizers and the count."""

    def __init__(
        self,
        network: nn.Module,
        model: ModelConfig,
        config: TrainConfig,
        images: Pixels | BatchSource,
        device: torch.device | str = "cpu",
        team: Team | None = None,
    ) -> None:
        """`images` are the high-resolution training images (n, h, w, 3) uint8, or give batches;
        `team`: the processes that share each batch (None: this one alone).

        Weights that require no gradient stay as they are. Raises TrainingError for no images,
        ConfigError for a batch that the team cannot share.
        """
        self.team = team or Team()
        self.mine = self.team.mine(config.batch)
        self.source = Epochs(images, config.seed) if isinstance(images, np.ndarray) else images
        self.device = torch.device(device)
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.model, self.config = model, config
        self.schedule = NoiseSchedule(model.schedule)
        self.optimizers = make_optimizers(self.network, config)
        self._shared = self.team.share(self.network)
        self.step = 0
        self.seconds = 0.0

    def run(self) -> Iterator[TrainStep]:
        """Train until the configured steps or minutes are spent, counted over all resumptions."""
        self.network.train()
        while self.progress < 1:
            began = time.perf_counter()
            rate = self.learning_rate()
            loss, norm = self._update(rate)
            self.step += 1
            self.seconds = self.team.mean(self.seconds + time.perf_counter() - began)
            remaining = self.seconds * (1 / max(self.progress, 1e-9) - 1)
            yield TrainStep(self.step, loss, rate, norm, self.seconds, max(remaining, 0.0))

    @property
    def progress(self) -> float:
        """The share of the run that is done, in [0, 1]."""
        if self.config.steps is not None:
            return min(self.step / self.config.steps, 1.0)
        assert self.config.minutes is not None
        return min(self.seconds / (60 * self.config.minutes), 1.0)

    def learning_rate(self) -> float:
        """Linear warm-up, constant, then linear to zero over the last share `decay`."""
        rise = min((self.step + 1) / max(self.config.warmup, 1), 1.0)
        left = 1 - self.progress
        fall = min(left / self.config.decay, 1.0) if self.config.decay > 0 else 1.0
        return self.config.learning_rate * rise * fall

    def _update(self, rate: float) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(mixed_seed(self.config.seed, 1, self.step))
        dropout = self.step * self.team.count + self.team.rank
        loss = self.loss(generator, mixed_seed(self.config.seed, 2, dropout))
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        value = self.team.mean(float(loss.detach()))
        if not np.isfinite(value) or not bool(torch.isfinite(norm)):
            raise TrainingError(
                f"The loss became {value} at update {self.step + 1}: lower the learning rate "
                f"({self.config.learning_rate}) or use precision float32."
            )
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._average()
        return value, float(norm)

    def loss(self, generator: torch.Generator, dropout: int) -> Tensor:
        """This process's share of an update's loss, from the draws of `generator` (the same in
        every process) and the seed of the dropout: a scalar with its graph."""
        x0, condition = self.batch(generator)
        count = self.config.batch  # the whole batch's draws, of which each process takes its own
        level = self.schedule.draw(count, generator, self.config.levels, self._time_range())
        eps = torch.randn((count, *x0.shape[1:]), generator=generator)
        level = level[self.mine].to(level_device(self.device))
        x0, condition, eps = (part.to(self.device) for part in (x0, condition, eps[self.mine]))
        torch.manual_seed(dropout)
        denoiser = self.denoiser()
        config = self.config
        return denoiser.loss(x0, condition, level, eps, config.loss, config.weight_cap).mean()

    def denoiser(self) -> Denoiser:
        """The network in training, shared with the team, behind the denoiser contract."""
        return Denoiser(self._shared, self.model, PRECISIONS[self.config.precision])

    def _time_range(self) -> tuple[int, int]:
        first, last = self.config.range
        return first, min(last, self.schedule.steps)

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """This process's images of this update and their conditions, (n, 3, h, w) in [-1, 1]."""
        images = self.pixels(generator)
        size = self.model.network
        condition = enlarge(degrade(images, size.low_res), size.high_res)
        return to_tensor(images), to_tensor(condition)

    def pixels(self, generator: torch.Generator) -> Pixels:
        """This process's images of this update, some of them mirrored: (n, h, w, 3) uint8."""
        images = self.source(self.step, self.config.batch)
        if self.config.flips:
            flip = (torch.rand(len(images), generator=generator) < 0.5).numpy()
            images = np.where(flip[:, None, None, None], images[:, :, ::-1], images)
        return images[self.mine]

    @torch.no_grad()
    def _average(self) -> None:
        # A short memory at first, so that the average forgets the initial weights.
        keep = min(self.config.ema, (1 + self.step) / (10 + self.step))
        ours, theirs = list(self.ema.parameters()), list(self.network.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - keep)

    def save(self, path: Path) -> None:
        """Write everything that resuming needs, atomically."""
        state = {
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "config": _identity(self.config),
        }
        with whole(path, alone=True) as partial:
            torch.save(state, partial)

    def resume(self, path: Path) -> None:
        """Continue from a saved state. Raises TrainingError where it is of another run."""
        state = read_state(path)
        ours = _identity(self.config)
        if (theirs := state.get("config")) != ours:
            changes = name_changes(theirs if isinstance(theirs, dict) else {}, ours)
            raise TrainingError(
                f"{path} belongs to a run with other settings ({changes}): give the same ones "
                "(steps and minutes may differ), or start afresh in another folder."
            )
        try:
            self.network.load_state_dict(state["network"])
            self.ema.load_state_dict(state["ema"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        except (RuntimeError, ValueError, KeyError) as error:
            raise TrainingError(f"{path} belongs to another network: {error}") from error
        self.step, self.seconds = int(state["step"]), float(state["seconds"])


def read_state(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """What `Trainer.save` wrote, on the CPU whatever device it was trained on; `mapped`: of
    gigabytes only what is asked for is read. Raises TrainingError."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        raise TrainingError(f"{path} cannot be read as a training state: {error}") from error
    return state


def _identity(config: TrainConfig) -> dict[str, Any]:
    """The settings that must agree on resuming: all but how long the run is."""
    values = to_dict(dataclasses.replace(config, steps=1, minutes=None))
    values["range"] = list(values["range"])
    return values
