"""Many visitors, one device: jobs at different steps share one forward pass.

SR3 is conditioned on a continuous noise level an image, so a batch may hold any mixture of steps,
samplers and settings. One worker thread serves all jobs: at each tick it takes up to `max_batch`
of those that wait for the same network (`sr3.turns` says in which order), runs one forward, and
sends each its clean estimate. Networks take turns by the age of their last tick; a spliced
checkpoint's jobs ride with those of the parent that their noise level asks for.

Invariants: a job ends exactly once (done, cancelled or failed with a sentence); a tick that fails
is retried at half the batch, a job that fails alone a second time fails, and no other; a network
that ran out of memory is asked for smaller batches for a while; cancelling takes effect at the
next tick; a job that nobody polls is cancelled; a watchdog replaces a worker that died or hangs
(by its own recent pace), fails what it had in hand and says so. The noise of a job never depends on
others. Nor do its pixels on a CPU, where our layers give a picture the same bits in any batch
(`sr3.quick`) as far as the kernels of products do; elsewhere a batch may change the kernels, hence
a result by at most one of 255 levels in float32 (tests/test_engine.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sr3.config import SamplerConfig
from sr3.errors import ConfigError, ImageError, SR3Error
from sr3.images import Pixels
from sr3.jobs import ABANDONED, MAX_FRAMES, Frame, Job, Status, forward, network_of
from sr3.pipeline import SuperResolver
from sr3.shifts import Shift
from sr3.turns import TURN, Paces, in_order, longest_unserved, ticks_to_end

__all__ = ["ABANDONED", "MAX_FRAMES", "Engine", "EngineBusy", "Frame", "Job", "Status"]

NOTICE = 600.0  # seconds
WATCH = 0.5  # seconds between two looks of the watchdog at a worker that lives
BROKEN = "The network gave a picture with invalid numbers; try another seed."
RESTARTED = "The engine stopped in the middle of this picture and was restarted: try again."
_log = logging.getLogger("sr3.engine")


class EngineBusy(SR3Error):
    """A bound is reached; `wait` is the seconds after which to try again, where that helps."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class Engine:
    """One worker thread for all jobs. Close it to stop the threads and cancel what is left."""

    MAX_BATCH = 8

    def __init__(
        self,
        *,
        max_batch: int = MAX_BATCH,
        max_waiting: int = 64,
        max_per_visitor: int = 4,
        max_seconds: float = 300.0,
        stall: float = 600.0,
        clock: Callable[[], float] = time.perf_counter,
        rest: Callable[[], None] = lambda: None,
    ) -> None:
        """Bounds: jobs a forward, jobs in all, jobs a visitor, network seconds a job (its shares
        of the ticks), and the seconds after which a tick is taken to hang while it is not known
        how long they last (`Pace.patience`). `clock` times the forwards; `rest` is called by the
        worker each time that the last job has gone."""
        self.max_batch, self.max_waiting = max_batch, max_waiting
        self.max_per_visitor, self.max_seconds = max_per_visitor, max_seconds
        self.stall, self._clock, self._rest = stall, clock, rest
        self.ticks = self.restarts = 0
        self._notice, self._noticed = "", 0.0  # what the watchdog last did, and when
        self._jobs: list[Job] = []
        self._gathering: set[str] = set()  # visitors
        self._changed = threading.Condition()
        self._closed = False
        self._served: dict[Hashable, int] = {}  # network -> number of its last tick
        self._paces: Paces[Hashable] = Paces(max_batch)
        self._shift = self._start()
        self._watchdog = threading.Thread(target=self._watch, name="sr3-watchdog", daemon=True)
        self._watchdog.start()

    # ------------------------------------------------------------------------------- for visitors
    def submit(
        self,
        resolver: SuperResolver,
        low_res: Pixels,
        settings: SamplerConfig,
        *,
        seed: int = 0,
        sample: int = 0,
        visitor: str = "",
        keep: int = MAX_FRAMES,
    ) -> Job:
        """Queue the chain of one (low, low, 3) uint8 image, of which `keep` frames stay at most.

        Raises EngineBusy, with the wait to expect, where a bound is reached, ImageError for an
        image that the checkpoint does not take, ConfigError for a chain that would take longer
        than a picture may, and SR3Error once it is closed: to wait helps only with the first.
        """
        _check_image(resolver, low_res)
        with self._changed:
            self._check_room(visitor)  # before any weights are read
        job = Job(self, resolver, low_res, settings, (seed, sample), visitor, keep)
        with self._changed:
            self._check_room(visitor)  # somebody may have come meanwhile
            self._check_length(job)
            self._jobs.append(job)
            self._changed.notify_all()
        return job

    @contextmanager
    def together(self, visitor: str) -> Iterator[None]:
        """What a visitor submits within begins at its end, all in the same tick: a run of several
        chains goes through the same batches each time."""
        with self._changed:
            self._gathering.add(visitor)
        try:
            yield
        finally:
            with self._changed:
                self._gathering.discard(visitor)
                self._changed.notify_all()

    def _check_room(self, visitor: str) -> None:
        if self._closed:
            raise SR3Error("The engine has been closed: reload the page.")
        now = time.monotonic()
        queue = [other for other in self._jobs if not other.unwanted(now)]
        mine = [other for other in queue if other.visitor == visitor]
        if len(mine) >= self.max_per_visitor:
            wait = self._soonest(mine)
            raise EngineBusy(
                f"You have {len(mine)} pictures in the making; stop one, or wait for one to end"
                f"{_in_about(wait)}.",
                wait,
            )
        if len(queue) >= self.max_waiting:
            wait = self._soonest(queue)
            raise EngineBusy(
                f"{len(queue)} pictures are in the queue, and no more fit; try again"
                f"{_in_about(wait)}.",
                wait,
            )

    def _check_length(self, job: Job) -> None:
        pace = self._paces.get(job.network)
        if pace.image * job.total > self.max_seconds:
            most = int(self.max_seconds / pace.image)
            advice = f"at most {most:,} steps" if most > 1 else "a single step" if most else ""
            raise ConfigError(
                f"{job.total} step{'s' * (job.total != 1)} would take about "
                f"{pace.image * job.total:.0f} seconds of the network, and a picture may take "
                f"{self.max_seconds:.0f}: choose "
                f"{advice or 'a smaller checkpoint, of which a step takes less'}."
            )

    def close(self) -> None:
        """Cancel all jobs and stop the threads."""
        with self._changed:
            self._closed = True
            for job in self._jobs:
                job.cancel()
            self._changed.notify_all()
        self._shift.thread.join(timeout=30)
        self._watchdog.join(timeout=30)
        with self._changed:
            for job in list(self._jobs):
                self._end(job, "cancelled")

    @property
    def notice(self) -> str | None:
        """What the watchdog last did, for NOTICE seconds: who comes later has lost nothing."""
        return self._notice if self._notice and time.monotonic() - self._noticed < NOTICE else None

    def wake(self) -> None:
        """Let the worker look at its jobs anew."""
        with self._changed:
            self._changed.notify_all()

    def position(self, job: Job) -> int:
        """How many jobs are served before this one; 0 for a job that has ended."""
        with self._changed:
            order = in_order(self._jobs)
        return order.index(job) if job in order else 0

    def forecast(self, job: Job) -> float | None:
        """Seconds until a job ends if nobody else comes, from the recent speed; None before
        there is any."""
        with self._changed:
            return self._forecasts().get(job)

    def _forecasts(self) -> dict[Job, float | None]:
        """The forecast of each job. Under the lock."""
        groups: dict[Hashable, list[Job]] = {}
        for job in in_order(self._jobs):
            groups.setdefault(job.network, []).append(job)
        paces = [self._paces.get(network) for network in groups]
        cycle = sum(pace.tick for pace in paces)  # a tick of each network in turn
        found: dict[Job, float | None] = {}
        for pace, jobs in zip(paces, groups.values(), strict=True):
            ends = ticks_to_end([job.remaining for job in jobs], self.max_batch)
            found |= {
                job: cycle * end if pace.tick else None for job, end in zip(jobs, ends, strict=True)
            }
        return found

    def _soonest(self, jobs: Sequence[Job]) -> float | None:
        """When the first of these ends, seconds."""
        forecasts = self._forecasts()
        known = [seconds for job in jobs if (seconds := forecasts.get(job)) is not None]
        return min(known, default=None)

    # --------------------------------------------------------------------------------- the worker
    def _work(self, shift: Shift[Job]) -> None:
        while self._next(shift):
            self._serve(shift)
            if not self._jobs:
                self._rest()

    def _next(self, shift: Shift[Job]) -> bool:
        """Wait for jobs and take those of the next tick in hand; False when it is time to go."""
        with self._changed:
            while True:
                shift.rest()
                if shift.over:
                    return False
                self._sweep()
                order = [job for job in in_order(self._jobs) if job.visitor not in self._gathering]
                if order:
                    break
                if self._closed:
                    return False
                self._changed.wait()
            waiting = [job.network for job in order]
            network = longest_unserved(waiting, self._served)
            self.ticks += 1
            self._served = {key: at for key, at in self._served.items() if key in waiting}
            self._served[network] = self.ticks
            room = min(self.max_batch, self._paces.get(network).room)
            pairs = zip(order, waiting, strict=True)
            shift.hand = [job for job, key in pairs if key == network][:room]
            shift.allow(self.stall)
            return True

    def _sweep(self) -> None:
        """End the jobs that nobody wants any more, or that took too long. Under the lock."""
        now = time.monotonic()
        for job in list(self._jobs):
            if job.unwanted(now):
                self._end(job, "cancelled")
            elif job.network_seconds > self.max_seconds:
                self._end(
                    job, "failed",
                    f"This picture took more than {self.max_seconds:.0f} seconds of the network "
                    f"and was stopped at step {job.evaluations} of {job.total}: choose fewer "
                    "steps.",
                )  # fmt: skip

    def _serve(self, shift: Shift[Job]) -> None:
        """One tick for the jobs in hand, all of which wait for one network."""
        for job in shift.hand:
            self._try(job, shift, job.begin)
        self._estimate([job for job in shift.hand if not job.ended], shift, retry=True)

    def _estimate(self, jobs: Sequence[Job], shift: Shift[Job], retry: bool) -> None:
        """One forward; where it fails, or gives invalid numbers, again at half the batch."""
        if not jobs:
            return
        network = jobs[0].network
        try:
            estimates, seconds = self._forward(jobs, shift)
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError):
                self._shrink(network, len(jobs))
            self._again(jobs, shift, retry, error)
            return
        shift.check()
        self._measure(network, jobs, seconds)
        broken = []
        for job, x0 in zip(jobs, estimates, strict=True):
            if x0 is None:
                broken.append(job)
            else:
                self._try(job, shift, partial(self._advance, job, x0))
        if broken:
            self._again(broken, shift, retry, SR3Error(BROKEN))

    def _forward(self, jobs: Sequence[Job], shift: Shift[Job]) -> tuple[list[Tensor | None], float]:
        """The estimates and the seconds that they took: to load the network is not its pace."""
        network = network_of(jobs)
        with self._changed:
            shift.allow(self._paces.get(jobs[0].network).patience(self.stall))
        began = self._clock()
        try:
            return forward(network, jobs), self._clock() - began
        finally:
            shift.allow(self.stall)

    def _again(self, jobs: Sequence[Job], shift: Shift[Job], retry: bool, error: Exception) -> None:
        """Serve the jobs of a forward that failed in halves; a job alone once more."""
        shift.check()
        _log.warning("a forward of %d failed (%s)", len(jobs), type(error).__name__)
        if len(jobs) > 1:
            half = (len(jobs) + 1) // 2
            self._estimate(jobs[:half], shift, retry=True)
            self._estimate(jobs[half:], shift, retry=True)
        elif retry:
            self._estimate(jobs, shift, retry=False)
        else:
            self._finish(jobs[0], "failed", _sentence(error))

    def _advance(self, job: Job, x0: Tensor) -> None:
        if job.tick is None:
            job.tick = self.ticks
        through = job.answer(x0)
        with self._changed:
            if through:
                self._end(job, "done")
            if through or job.evaluations % TURN == 0:
                self._turn_over(job)

    def _turn_over(self, job: Job) -> None:
        """To the back with the jobs that the visitor has not begun, then with this one."""
        mine = [each for each in self._jobs if each.visitor == job.visitor and not each.evaluations]
        for each in (*sorted(mine, key=lambda each: each.ticket), job):
            each.again()

    def _try(self, job: Job, shift: Shift[Job], step: Callable[[], None]) -> None:
        """A step of one job, whose errors are its own."""
        shift.check()
        try:
            step()
        except Exception as error:
            self._finish(job, "failed", _sentence(error))

    def _finish(self, job: Job, status: Status, sentence: str | None = None) -> None:
        with self._changed:
            self._end(job, status, sentence)

    def _end(self, job: Job, status: Status, sentence: str | None = None) -> None:
        """Under the lock: the one place where a job leaves."""
        if job in self._jobs:
            self._jobs.remove(job)
        job.end(status, sentence)

    # ------------------------------------------------------------------------------------ measures
    def _measure(self, network: Hashable, jobs: Sequence[Job], seconds: float) -> None:
        with self._changed:
            self._paces.of(network).note(seconds, len(jobs))
        for job in jobs:
            job.network_seconds += seconds / len(jobs)

    def _shrink(self, network: Hashable, batch: int) -> None:
        """Ask for smaller batches after the memory ran out."""
        with self._changed:
            pace = self._paces.of(network)
            pace.room, pace.good = max(batch // 2, 1), 0
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # ------------------------------------------------------------------------------- the watchdog
    def _watch(self) -> None:
        """Replace a worker that died or hangs, until the engine is closed."""
        while True:
            shift = self._shift
            shift.thread.join(timeout=min(WATCH, self.stall / 2))
            with self._changed:
                if self._closed and (shift.dead or shift.over):
                    return
                if shift.dead:
                    self._replace(shift, f"died of {type(shift.error).__name__}")
                elif seconds := shift.hangs:
                    self._replace(shift, f"hung for {seconds:.0f} s")

    def _start(self) -> Shift[Job]:
        shift = Shift(self._work, f"sr3-engine-{self.restarts}")
        shift.thread.start()
        return shift

    def _replace(self, shift: Shift[Job], what: str) -> None:
        """Under the lock: fail what the worker had in hand, and start another one."""
        shift.over = True
        lost = list(shift.hand or self._jobs)  # with empty hands it died of the queue itself
        for job in lost:
            self._end(job, "failed", RESTARTED)
        self.restarts += 1
        self._noticed = time.monotonic()
        self._notice = (
            f"The engine's worker {what} and was restarted at {time.strftime('%H:%M:%S')}; "
            f"{len(lost)} pictures failed."
        )
        _log.error("%s", self._notice, exc_info=shift.error)
        self._shift = self._start()


def _check_image(resolver: SuperResolver, low_res: Pixels) -> None:
    shape = resolver.low_size, resolver.low_size, 3
    if low_res.dtype != np.uint8 or low_res.shape != shape:
        raise ImageError(
            f"The checkpoint takes a reduced image of shape {shape}, uint8; got {low_res.shape}, "
            f"{low_res.dtype}: reduce it first, as `low_res_of` does."
        )


def _in_about(wait: float | None) -> str:
    return " shortly" if wait is None else f" in about {max(wait, 1):.0f} seconds"


def _sentence(error: Exception) -> str:
    """What a visitor is told."""
    if isinstance(error, SR3Error):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "The device ran out of memory: try again when fewer pictures are in the making."
    return f"The network failed on this picture ({type(error).__name__}): try again."
