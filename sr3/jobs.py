"""A job: the chain of one image on its way through the engine, and the handle a visitor polls.

Invariants: a job ends exactly once (done, cancelled or failed with a sentence); its handle is safe
to read from any thread and never blocks on the network; what is kept of a chain is bounded, in
frames and in bytes. Only the engine's worker calls `begin` and `answer`.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from sr3.config import SamplerConfig
from sr3.images import Pixels, to_uint8
from sr3.pipeline import SuperResolver
from sr3.samplers import Refine, Sampler

Status = Literal["waiting", "running", "done", "cancelled", "failed"]
ENDED: tuple[Status, ...] = ("done", "cancelled", "failed")
MAX_FRAMES = 101  # kept a job: 100 steps, spread evenly over longer chains, and the result
KEPT_BYTES = 20 << 20  # and so many bytes of them: a chain of 10 steps at 512 x 512
ABANDONED = 20.0  # seconds without a poll after which a job is cancelled
_numbers = itertools.count()


class Queue(Protocol):
    """What a job asks the engine that it is in."""

    def position(self, job: Job) -> int: ...
    def forecast(self, job: Job) -> float | None: ...
    def wake(self) -> None: ...


@dataclass(frozen=True)
class Frame:
    """One moment of a chain as pictures; the last one (index == total) is the result."""

    index: int
    total: int
    noise_level: float  # sqrt(alpha_bar) of x_t; 1 for the result
    x_t: Pixels  # (h, w, 3) uint8, the noisy image clipped to what can be shown
    x0: Pixels  # (h, w, 3) uint8, the clean estimate
    evaluations: int


@dataclass(frozen=True)
class Request:
    """What a chain asks the network next, (1, 3, h, w) each and the level (1,)."""

    x_t: Tensor
    condition: Tensor
    noise_level: Tensor


class Job:
    """A handle on one chain, safe to poll from any thread. Made by `Engine.submit`."""

    def __init__(
        self,
        engine: Queue,
        resolver: SuperResolver,
        low_res: Pixels,
        settings: SamplerConfig,
        seed: tuple[int, int],
        visitor: str,
        keep: int = MAX_FRAMES,
    ) -> None:
        """`keep` bounds the frames that stay: 1 is the newest alone."""
        self.resolver, self.low_res, self.settings = resolver, low_res, settings
        self.seed, self.visitor = seed, visitor
        self.total = settings.steps
        self.error: str | None = None
        self.result: Pixels | None = None
        self.submitted = time.monotonic()
        self.ticket = next(_numbers)  # its place in the queue; a new one after each turn
        self.evaluations = 0
        self.network_seconds = 0.0  # its shares of the ticks so far
        self.tick: int | None = None  # the engine's tick that gave its first frame
        self.first_frame_seconds: float | None = None  # since submission
        self.noise_level = resolver.first_level(settings)  # of what it asks next
        # Whose forward it waits for: jobs with equal values can share one.
        self.network: Hashable = resolver.serving(self.noise_level)
        self._engine = engine
        self._status: Status = "waiting"
        self._frames: tuple[Frame, ...] = ()
        places = min(keep, KEPT_BYTES // (2 * 3 * resolver.high_size**2))
        self._stride = -(-self.total // (places - 1)) if places > 1 else 0  # 0: none but the newest
        self._ended = threading.Event()
        self._polled = self._finished = self.submitted
        self._cancelled = False
        self._chain: tuple[Sampler, Tensor, Refine] | None = None
        self._asked: tuple[Tensor, Tensor] | None = None  # x_t, noise level

    # ------------------------------------------------------------------------ what a visitor sees
    @property
    def status(self) -> Status:
        """Where the job stands; reading it counts as a poll."""
        self._polled = time.monotonic()
        return self._status

    @property
    def frames(self) -> tuple[Frame, ...]:
        """The frames so far, or evenly spread ones of them (`MAX_FRAMES`, `KEPT_BYTES`), the newest
        included."""
        self._polled = time.monotonic()
        return self._frames

    @property
    def newest(self) -> Frame | None:
        """The newest frame; it stays after a cancel."""
        frames = self.frames
        return frames[-1] if frames else None

    @property
    def progress(self) -> float:
        """The share of network evaluations that are done, in [0, 1]."""
        return self.evaluations / self.total

    @property
    def remaining(self) -> int:
        """Network evaluations that are left."""
        return self.total - self.evaluations

    @property
    def position(self) -> int:
        """How many waiting or running jobs are served before this one."""
        return self._engine.position(self)

    @property
    def seconds(self) -> float:
        """Since submission, up to the end of the job."""
        return (self._finished if self._ended.is_set() else time.monotonic()) - self.submitted

    @property
    def seconds_left(self) -> float | None:
        """A forecast from the engine's recent ticks; None before there are any."""
        if self._ended.is_set():
            return 0.0
        return self._engine.forecast(self)

    def cancel(self) -> None:
        """End at the next tick, keeping the frames so far; harmless on a job that has ended."""
        self._cancelled = True
        self._engine.wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the job has ended; False where `timeout` seconds pass first."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._polled = time.monotonic()
            left = 1.0 if deadline is None else deadline - self._polled
            if self._ended.wait(min(max(left, 0.0), 1.0)):
                return True
            if left <= 0:
                return False

    # --------------------------------------------------------------------------- for the engine
    @property
    def ended(self) -> bool:
        """Whether it is done, cancelled or failed; reading it is no poll."""
        return self._ended.is_set()

    def unwanted(self, now: float) -> bool:
        """Whether it was cancelled, or nobody has polled it for long."""
        return self._cancelled or now - self._polled > ABANDONED

    @torch.no_grad()
    def begin(self) -> None:
        """Prepare the chain up to its first question, if that has not been done."""
        if self._chain is None:
            self._chain = self.resolver.prepare(self.low_res[None], [self.seed], self.settings)
            self._asked = next(self._chain[0])
            self._status = "running"

    @property
    def request(self) -> Request:
        """What it asks. It must have begun."""
        assert self._chain is not None and self._asked is not None
        return Request(self._asked[0], self._chain[1], self._asked[1])

    @torch.no_grad()
    def answer(self, x0: Tensor) -> bool:
        """Send the network's clean estimate (1, 3, h, w) to the chain; whether it is through."""
        assert self._chain is not None and self._asked is not None
        sampler, _, refine = self._chain
        x0 = refine(x0)
        index = self.evaluations
        self.evaluations += 1
        self._keep(index, self.noise_level, self._asked[0], x0)
        if index == 0:
            self.first_frame_seconds = time.monotonic() - self.submitted
        try:
            self._asked = sampler.send(x0)
            self.noise_level = float(self._asked[1][0])
            self.network = self.resolver.serving(self.noise_level)
        except StopIteration as stop:
            self._keep(self.total, 1.0, stop.value, stop.value)
            self.result = self._frames[-1].x0
            return True
        return False

    def _keep(self, index: int, level: float, x_t: Tensor, x0: Tensor) -> None:
        noisy, clean = to_uint8(torch.cat([x_t, x0]))  # one copy from the device
        frame = Frame(index, self.total, level, noisy, clean, self.evaluations)
        kept = self._frames
        if kept and (not self._stride or kept[-1].index % self._stride):
            kept = kept[:-1]  # it was shown as the newest; its place is not on the grid
        self._frames = (*kept, frame)

    def again(self) -> None:
        """To the back of the queue: its turn is over."""
        self.ticket = next(_numbers)

    def end(self, status: Status, sentence: str | None = None) -> None:
        """End it; harmless on a job that has ended. Called under the engine's lock."""
        if self._ended.is_set():
            return
        self.error, self._status, self._finished = sentence, status, time.monotonic()
        self._chain = self._asked = None
        self._ended.set()


def network_of(jobs: Sequence[Job]) -> nn.Module:
    """The one that jobs with an equal `network` ask; it is loaded where it has left memory."""
    return jobs[0].resolver.network_at(jobs[0].noise_level)


def forward(network: nn.Module, jobs: Sequence[Job]) -> list[Tensor | None]:
    """Its clean estimate of each job, (1, 3, h, w); None where that has invalid numbers.

    A resolver of any of the jobs would do: what they share holds all that an estimate depends on.
    """
    asked = [job.request for job in jobs]
    x0 = jobs[0].resolver.estimate(
        torch.cat([request.x_t for request in asked]),
        torch.cat([request.condition for request in asked]),
        torch.cat([request.noise_level for request in asked]),
        network,
    )
    right = torch.isfinite(x0).flatten(1).all(dim=1).tolist()
    return [x0[k : k + 1] if right[k] else None for k in range(len(jobs))]
