"""Processes that train one network together, as `accelerate launch` starts them; usually one alone.

Each takes its slice of the one batch that all of them draw from the same seed; gradients are
averaged, so N processes do the updates of one at the same batch, up to rounding.

Invariants: what `Team.mean` and `Team.any` give is the same in every process, so that all of them
stop, slow down and fail at the same update; only the first one (`writes`) touches the disk.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from sr3.errors import ConfigError

_LAUNCHED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "WORLD_SIZE")  # what a launcher sets


class Team:
    """The processes of a training run, seen from one of them. `Team()` is one alone."""

    def __init__(self, accelerator: Any = None) -> None:
        self._accelerator = accelerator
        self.rank: int = accelerator.process_index if accelerator else 0
        self.count: int = accelerator.num_processes if accelerator else 1

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes files and lines of progress."""
        return self.rank == 0

    @property
    def title(self) -> str:
        """For a card, before the device: empty for one alone."""
        return f"{self.count} x " if self.count > 1 else ""

    def device(self, name: str) -> str:
        """The device of this process where `name` was asked for. Raises ConfigError."""
        if self._accelerator is None:
            return name
        mine: torch.device = self._accelerator.device
        if name not in ("auto", mine.type):
            raise ConfigError(
                f"Each launched process has a device of its own, here {mine}: leave --device out."
            )
        return str(mine) if mine.type != "cpu" else "cpu"  # there is no second one: never cpu:0

    def mine(self, batch: int) -> slice:
        """Which images of a batch are this process's. Raises ConfigError for an uneven share."""
        share, left = divmod(batch, self.count)
        if left:
            raise ConfigError(
                f"A batch of {batch} cannot be shared evenly by {self.count} processes: give a "
                f"--batch that is a multiple of {self.count}."
            )
        return slice(self.rank * share, (self.rank + 1) * share)

    def share(self, network: nn.Module) -> nn.Module:
        """The network to call, such that backward averages gradients over the processes."""
        if self._accelerator is None:
            return network
        shared: nn.Module = self._accelerator.prepare(network)
        return shared

    def mean(self, value: float) -> float:
        """A number's mean over the processes."""
        if self._accelerator is None:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self._accelerator.device)
        return float(self._accelerator.reduce(tensor, "mean"))

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return self.mean(float(flag)) > 0

    def leave(self) -> None:
        """Part in peace, at the end of a run."""
        if self._accelerator is not None:
            self._accelerator.end_training()


def launched() -> bool:
    """Whether this is one of several processes that a launcher started."""
    there = all(name in os.environ for name in _LAUNCHED)
    return there and int(os.environ["WORLD_SIZE"]) > 1


def join(device: str = "auto") -> Team:
    """This process's team; `device` "cpu" keeps it from GPUs. Raises ConfigError."""
    if not launched():
        return Team()
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise ConfigError(
            "Several processes need the package accelerate: pip install -r "
            "requirements-scale.txt, on every machine."
        ) from error
    # Precision is the run's own setting, whatever the launcher's.
    return Team(Accelerator(cpu=device == "cpu", mixed_precision="no"))
