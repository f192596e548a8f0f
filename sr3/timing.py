"""Ways of doing the same thing, timed against each other on this machine.

A device's own work is counted: it is waited for before each call and after it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from time import perf_counter, process_time
from typing import NamedTuple, TypeVar

import torch

K = TypeVar("K", bound=Hashable)
CPU = torch.device("cpu")


class Took(NamedTuple):
    """Seconds of one call: of the clock, and of this process on all cores."""

    seconds: float
    processor: float


def took(run: Callable[[], object], device: torch.device = CPU) -> Took:
    """One call, timed."""
    _wait_for(device)
    began, used = perf_counter(), process_time()
    run()
    _wait_for(device)
    return Took(perf_counter() - began, process_time() - used)


def in_turn(
    ways: Mapping[K, Callable[[], object]], tries: int, device: torch.device = CPU
) -> dict[K, list[Took]]:
    """Each way's `tries`, taken in turn, so that a machine that slows down slows each alike."""
    times: dict[K, list[Took]] = {name: [] for name in ways}
    for _ in range(tries):
        for name, way in ways.items():
            times[name].append(took(way, device))
    return times


def shortest(
    ways: Mapping[K, Callable[[], object]], tries: int, device: torch.device = CPU
) -> dict[K, float]:
    """The shortest seconds of each way, in turn: other work on the machine only adds."""
    times = in_turn(ways, tries, device)
    return {name: min(each.seconds for each in times[name]) for name in ways}


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
