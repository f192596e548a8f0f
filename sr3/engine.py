"""Many visitors, one network: jobs at different steps share one forward pass.

SR3 is conditioned on a continuous noise level an image, so a batch may hold any mixture of steps,
samplers and settings. One worker thread serves all jobs: at each tick it takes up to `max_batch`
of those that wait for the same network (each visitor's first job before anyone's second, older
first), runs one forward, and sends each its clean estimate.

Invariants: a job ends exactly once (done, cancelled or failed with a sentence); a tick that fails
is retried in halves and then fails only the jobs that fail alone; cancelling takes effect at the
next tick; a job that nobody polls is cancelled; what is kept of a job is bounded.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sr3.config import SamplerConfig
from sr3.errors import SR3Error
from sr3.images import Pixels, to_uint8
from sr3.pipeline import SuperResolver
from sr3.samplers import Refine, Sampler

Status = Literal["waiting", "running", "done", "cancelled", "failed"]
MAX_FRAMES = 100  # kept a job, spread evenly over longer chains: about 10 MB
ABANDONED = 20.0  # seconds without a poll after which a job is cancelled


class EngineBusy(SR3Error):
    """Too many jobs are waiting, or the visitor has too many."""


@dataclass(frozen=True)
class Frame:
    """One moment of a chain as pictures; the last one (index == total) is the result."""

    index: int
    total: int
    noise_level: float  # sqrt(alpha_bar) of x_t; 1 for the result
    x_t: Pixels  # (h, w, 3) uint8, the noisy image clipped to what can be shown
    x0: Pixels  # (h, w, 3) uint8, the clean estimate
    evaluations: int


class Job:
    """A handle on one chain, safe to poll from any thread. Made by `Engine.submit`."""

    def __init__(
        self,
        engine: Engine,
        resolver: SuperResolver,
        low_res: Pixels,
        settings: SamplerConfig,
        seed: tuple[int, int],
        visitor: str,
    ) -> None:
        self.resolver, self.low_res, self.settings = resolver, low_res, settings
        self.seed, self.visitor = seed, visitor
        self.total = settings.steps
        self.error: str | None = None
        self.result: Pixels | None = None
        self.submitted = time.monotonic()
        self._engine = engine
        self._status: Status = "waiting"
        self._frames: tuple[Frame, ...] = ()
        self._ended = threading.Event()
        self._cancelled = False
        self._polled = self._finished = self.submitted
        self._chain: tuple[Sampler, Tensor, Refine] | None = None
        self._asked: tuple[Tensor, Tensor] | None = None  # x_t, noise level
        self._evaluations = 0

    @property
    def status(self) -> Status:
        """Where the job stands; reading it counts as a poll."""
        self._polled = time.monotonic()
        return self._status

    @property
    def frames(self) -> tuple[Frame, ...]:
        """The frames so far, at most about `MAX_FRAMES`, evenly spread, the newest included."""
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
        return self._evaluations / self.total

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


class Engine:
    """One worker thread for all jobs. Close it to stop the thread and cancel what is left."""

    def __init__(
        self, *, max_batch: int = 8, max_waiting: int = 64, max_per_visitor: int = 4
    ) -> None:
        self.max_batch, self.max_waiting = max_batch, max_waiting
        self.max_per_visitor = max_per_visitor
        self._jobs: list[Job] = []  # in order of submission
        self._changed = threading.Condition()
        self._closed = False
        self._tick_seconds = 0.0  # moving average an image
        self._ticks = itertools.count(1)
        self.ticks = 0
        self._worker = threading.Thread(target=self._work, name="sr3-engine", daemon=True)
        self._worker.start()

    def submit(
        self,
        resolver: SuperResolver,
        low_res: Pixels,
        settings: SamplerConfig,
        *,
        seed: int = 0,
        sample: int = 0,
        visitor: str = "",
    ) -> Job:
        """Queue the chain of one (low, low, 3) uint8 image.

        Raises EngineBusy, with the wait to expect, where a bound is reached.
        """
        job = Job(self, resolver, low_res, settings, (seed, sample), visitor)
        with self._changed:
            if self._closed:
                raise EngineBusy("The engine has been closed: reload the page.")
            mine = sum(other.visitor == visitor for other in self._jobs)
            if mine >= self.max_per_visitor:
                raise EngineBusy(
                    f"You have {mine} pictures in the making; wait for one to end or stop it."
                )
            if len(self._jobs) >= self.max_waiting:
                wait = self._left(sum(j.total - j._evaluations for j in self._jobs))
                raise EngineBusy(
                    f"{len(self._jobs)} pictures are waiting already; try again in about "
                    f"{max(wait, 1):.0f} seconds."
                )
            self._jobs.append(job)
            self._changed.notify_all()
        return job

    def close(self) -> None:
        """Cancel all jobs and stop the worker."""
        with self._changed:
            self._closed = True
            for job in self._jobs:
                job._cancelled = True
            self._changed.notify_all()
        self._worker.join(timeout=30)

    def wake(self) -> None:
        """Let the worker look at its jobs anew."""
        with self._changed:
            self._changed.notify_all()

    def position(self, job: Job) -> int:
        """How many jobs are served before this one; 0 for a job that has ended."""
        with self._changed:
            order = self._order()
        return order.index(job) if job in order else 0

    def forecast(self, job: Job) -> float | None:
        """Seconds until a job ends if nobody else comes, from the recent speed."""
        if self._tick_seconds == 0:
            return None
        with self._changed:
            order = self._order()
        if job not in order:
            return 0.0
        ahead = order[: order.index(job)]
        own = job.total - job._evaluations
        shared = sum(min(other.total - other._evaluations, own) for other in ahead)
        return self._left(own + shared)

    def _left(self, evaluations: int) -> float:
        return self._tick_seconds * evaluations

    def _order(self) -> list[Job]:
        """Each visitor's first job before anyone's second, older first."""
        seen: Counter[str] = Counter()
        ranked = []
        for age, job in enumerate(self._jobs):
            ranked.append((seen[job.visitor], age, job))
            seen[job.visitor] += 1
        return [job for _, _, job in sorted(ranked, key=lambda item: item[:2])]

    def _work(self) -> None:
        while True:
            with self._changed:
                self._sweep()
                while not self._jobs and not self._closed:
                    self._changed.wait()
                    self._sweep()
                if self._closed and not self._jobs:
                    return
                order = self._order()
            network = order[0].resolver
            self._serve([job for job in order if job.resolver is network][: self.max_batch])
            self.ticks = next(self._ticks)

    def _sweep(self) -> None:
        """Drop the jobs that were cancelled or that nobody has polled for long."""
        now = time.monotonic()
        for job in list(self._jobs):
            if job._cancelled or now - job._polled > ABANDONED:
                self._end(job, "cancelled")

    def _serve(self, jobs: Sequence[Job]) -> None:
        """One forward for these jobs; in halves where it fails."""
        began = time.perf_counter()
        try:
            estimates = self._forward(jobs)
        except Exception as error:
            if len(jobs) > 1:
                half = len(jobs) // 2
                self._serve(jobs[:half])
                self._serve(jobs[half:])
            else:
                self._fail(jobs[0], _sentence(error))
            return
        share = (time.perf_counter() - began) / len(jobs)
        self._tick_seconds += (share - self._tick_seconds) * (0.2 if self._tick_seconds else 1.0)
        for job, x0 in zip(jobs, estimates, strict=True):
            try:
                self._advance(job, x0)
            except Exception as error:
                self._fail(job, _sentence(error))

    @torch.no_grad()
    def _forward(self, jobs: Sequence[Job]) -> list[Tensor]:
        """The refined clean estimate of each job, (1, 3, h, w)."""
        for job in jobs:
            if job._chain is None:
                job._chain = job.resolver.prepare(job.low_res[None], [job.seed], job.settings)
                job._asked = next(job._chain[0])
                job._status = "running"
        asked = [job._asked for job in jobs if job._asked is not None]
        chains = [job._chain for job in jobs if job._chain is not None]
        x0 = jobs[0].resolver.estimate(
            torch.cat([x_t for x_t, _ in asked]),
            torch.cat([condition for _, condition, _ in chains]),
            torch.cat([level for _, level in asked]),
        )
        return [refine(x0[k : k + 1]) for k, (_, _, refine) in enumerate(chains)]

    @torch.no_grad()
    def _advance(self, job: Job, x0: Tensor) -> None:
        assert job._chain is not None and job._asked is not None
        if not bool(torch.isfinite(x0).all()):
            raise SR3Error("The network gave a picture with invalid numbers; try another seed.")
        x_t, level = job._asked
        index = job._evaluations
        job._evaluations += 1
        self._keep(job, index, float(level[0]), x_t, x0)
        try:
            job._asked = job._chain[0].send(x0)
        except StopIteration as stop:
            self._keep(job, job.total, 1.0, stop.value, stop.value)
            job.result = job._frames[-1].x0
            self._finish(job, "done")

    def _keep(self, job: Job, index: int, level: float, x_t: Tensor, x0: Tensor) -> None:
        frame = Frame(index, job.total, level, to_uint8(x_t)[0], to_uint8(x0)[0], job._evaluations)
        stride = -(-job.total // MAX_FRAMES)
        kept = job._frames
        if kept and kept[-1].index % stride:
            kept = kept[:-1]  # it was shown as the newest; its place is not on the grid
        job._frames = (*kept, frame)

    def _fail(self, job: Job, sentence: str) -> None:
        job.error = sentence
        self._finish(job, "failed")

    def _finish(self, job: Job, status: Status) -> None:
        with self._changed:
            self._end(job, status)

    def _end(self, job: Job, status: Status) -> None:
        """Under the lock: the one place where a job ends."""
        self._jobs.remove(job)
        job._status = status
        job._finished = time.monotonic()
        job._chain = job._asked = None
        job._ended.set()


def _sentence(error: Exception) -> str:
    """What a visitor is told."""
    if isinstance(error, SR3Error):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "The device ran out of memory: try again with fewer pictures at once."
    return f"The network failed on this picture ({type(error).__name__}): try again."
