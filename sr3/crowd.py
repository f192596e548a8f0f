"""Visitors who press at once against the same visitors one after another, through one engine.

Invariants: both ways are the whole way of a visitor (submission, frames, the last picture) with the
same faces, seeds and settings, on an engine that has run before; the one is measured right after
the other, so that other work on the machine falls on both alike.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from sr3.engine import Engine
from sr3.errors import SR3Error
from sr3.images import Pixels
from sr3.jobs import Job
from sr3.pipeline import SuperResolver

POLL = 0.5  # seconds between two questions of a visitor: who asks no more has left
ALONE = 16  # visitors who are served one after another; more are taken to need as long each


@dataclass(frozen=True)
class Crowd:
    """One round. Times in seconds."""

    together: float  # from the first submission until the last one has the picture
    one_by_one: float  # the same, each submitted when the one before has the picture
    latencies: tuple[float, ...]  # of those together: submission to picture
    first_frames: tuple[float, ...]  # submission to first frame
    ticks: int  # the tick of its turn, from 1, in which the slowest one's first frame came
    pictures: Pixels  # (visitors, high, high, 3) uint8, of those together

    @property
    def gain(self) -> float:
        """How many times sooner all are served together."""
        return self.one_by_one / self.together

    def difference(self, alone: Pixels) -> float:
        """The greatest difference from pictures that were made alone, of 255 levels."""
        return float(np.abs(self.pictures.astype(np.int16) - alone).max())


def crowd(model: SuperResolver, faces: Pixels) -> Crowd:
    """A round with a visitor for each of (visitors, low, low, 3) uint8 `faces`.

    Raises SR3Error where a picture fails.
    """
    engine = Engine(max_waiting=len(faces))
    try:
        _served(engine, model, faces[:1])  # its thread has run
        few = faces[:ALONE]
        began = time.perf_counter()
        for face in few:
            _served(engine, model, face[None])
        one_by_one = (time.perf_counter() - began) * len(faces) / len(few)
        before, began = engine.ticks, time.perf_counter()
        jobs = _served(engine, model, faces)
        together = time.perf_counter() - began
    finally:
        engine.close()
    return Crowd(
        together, one_by_one,
        tuple(job.seconds for job in jobs),
        tuple(job.first_frame_seconds or together for job in jobs),
        _slowest(jobs, before, engine.max_batch),
        np.stack([job.result for job in jobs if job.result is not None]),
    )  # fmt: skip


def _served(engine: Engine, model: SuperResolver, faces: Pixels) -> list[Job]:
    jobs = [
        engine.submit(model, face, model.settings(), visitor=str(k)) for k, face in enumerate(faces)
    ]
    waiting = jobs
    while waiting:
        waiting[0].wait(POLL)
        waiting = [job for job in waiting if not job.wait(0)]  # each is asked after
    for job in jobs:
        if job.result is None:
            raise SR3Error(job.error or "A visitor left before the picture was there.")
    return jobs


def _slowest(jobs: list[Job], before: int, places: int) -> int:
    """Jobs of equal length take turns in groups of as many as there are places."""
    found = [(job.tick or 0) - before - (k // places) * job.total for k, job in enumerate(jobs)]
    return max(found)
