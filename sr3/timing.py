"""Ways of doing the same thing, timed against each other on this machine."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from time import perf_counter
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


def shortest(
    ways: Mapping[K, Callable[[], object]], tries: int, settle: Callable[[], object] | None = None
) -> dict[K, float]:
    """The shortest seconds of each way's `tries`, taken in turn, so that other work on the machine
    does not decide. `settle` waits for what a device still does, before and after each."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(tries):
        for name, way in ways.items():
            if settle is not None:
                settle()
            began = perf_counter()
            way()
            if settle is not None:
                settle()
            best[name] = min(best[name], perf_counter() - began)
    return best
