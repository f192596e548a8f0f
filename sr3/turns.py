"""Whose turn it is, and how long the others wait: the engine's queue as arithmetic.

Each visitor's first job comes before anyone's second, an older turn before a younger one. A turn
lasts `TURN` evaluations or until the job ends, then the job and all that the visitor has not begun
go to the back of the queue: a chain of the usual length is served in one piece, one of 2,000 steps
does not hold up the rest, nor does a visitor who asks for many.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

TURN = 20  # evaluations
RECOVERY = 50  # good ticks after which a batch that ran out of memory may double again
PATIENCE, LEAST = 20, 30.0  # a forward of so many recent ones' length, and seconds, hangs
ROUNDS = 5  # a forecast plays no more turns a job than these: longer turns stand for several


class Queued(Protocol):
    """What the queue looks at."""

    visitor: str
    ticket: int  # a younger turn has a higher one


Job = TypeVar("Job", bound=Queued)
Network = TypeVar("Network", bound=Hashable)


def in_order(jobs: Iterable[Job]) -> list[Job]:
    """Each visitor's first job before anyone's second, older turns first."""
    seen: Counter[str] = Counter()
    ranked = []
    for job in sorted(jobs, key=lambda job: job.ticket):
        ranked.append((seen[job.visitor], job.ticket, job))
        seen[job.visitor] += 1
    return [job for _, _, job in sorted(ranked, key=lambda item: item[:2])]


def longest_unserved(waiting: Iterable[Network], served: Mapping[Network, int]) -> Network:
    """Which network's tick is next: the one whose last tick is oldest, a new one first.

    `waiting` holds what each job waits for, in the jobs' order; `served` the number of each
    network's last tick.
    """
    return min(dict.fromkeys(waiting), key=lambda network: served.get(network, -1))


def ticks_to_end(remaining: Sequence[int], places: int) -> list[int]:
    """In how many ticks of `places` jobs each job ends, if nobody else comes.

    `remaining` holds the evaluations that each still needs, in the order of service.
    """
    free = [0] * max(places, 1)  # the tick at which each place is free
    turn = max(TURN, -(-max(remaining, default=0) // ROUNDS))
    ends = [0] * len(remaining)
    queue = list(enumerate(remaining))
    while queue:
        behind = []
        for index, left in queue:
            now = left if len(remaining) <= places else min(left, turn)
            ends[index] = heapq.heappop(free) + now
            heapq.heappush(free, ends[index])
            if left > now:
                behind.append((index, left - now))
        queue = behind
    return ends


class Pace:
    """How fast a network was of late, and how many images fit into its forward."""

    def __init__(self, room: int) -> None:
        self.tick = self.image = 0.0  # seconds, moving averages; 0 before any is known
        self.room, self.good, self._most = room, 0, room
        self._warm = False

    def note(self, seconds: float, batch: int) -> None:
        """Count a forward that went well; the first one's time, kernels made ready, is left out."""
        if self._warm:
            new = 1.0 if self.tick == 0 else 0.2
            self.tick += (seconds - self.tick) * new
            self.image += (seconds / batch - self.image) * new
        self._warm = True
        self.good += 1
        if self.good >= RECOVERY:
            self.room, self.good = min(2 * self.room, self._most), 0

    def patience(self, most: float) -> float:
        """Seconds after which a forward is taken to hang: `most`, and less where its pace is
        known."""
        return min(most, max(LEAST, PATIENCE * self.tick)) if self.tick else most


class Paces(Generic[Network]):
    """The paces of the networks that were in use of late."""

    def __init__(self, room: int, most: int = 32) -> None:
        """`room` images a forward, until memory runs out; `most` networks are remembered."""
        self._room, self._most = room, most
        self._known: dict[Network, Pace] = {}  # the newest last

    def get(self, network: Network) -> Pace:
        """That of a network; one without times where there is none."""
        return self._known.get(network) or Pace(self._room)

    def of(self, network: Network) -> Pace:
        """That of a network, to be changed: it is remembered from now on."""
        pace = self.get(network)
        self._known.pop(network, None)
        self._known[network] = pace
        while len(self._known) > self._most:
            del self._known[next(iter(self._known))]
        return pace
