"""What the server shares between its visitors: one engine, one shelf of checkpoints, one LPIPS.

Invariants: every cache is bounded; a visitor's pictures live no longer than the run in the seat;
workers never call Streamlit, pages poll them; every chain of a visitor is drawn by the engine.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
import time
import uuid
from concurrent.futures import Future
from typing import Protocol

import numpy as np
import streamlit as st

from sr3.background import in_background
from sr3.checkpoints import RegistryEntry, registry
from sr3.engine import Engine, Job
from sr3.errors import CheckpointError, SR3Error
from sr3.images import Pixels
from sr3.jobs import ENDED
from sr3.metrics import Scorer
from sr3.pipeline import SuperResolver
from sr3.shelf import Shelf, room_for_weights

SWITCH = 0.0005  # seconds
POLL = 0.5  # seconds between two questions of `draw`: who asks no more has left
MAX_NAMED = 64  # resolvers of either kind; their weights are on the shelf


@st.cache_resource(max_entries=1, show_spinner=False, on_release=lambda engine: engine.close())
def engine() -> Engine:
    """The server's one engine.

    It gives the interpreter away at each operation of a network; what runs meanwhile, a page's
    script, keeps it for the switch interval, which by default is longer than the operation.
    """
    sys.setswitchinterval(SWITCH)
    return Engine(rest=Tidy().now_and_then)


class Tidy:
    """Gives free memory back to the system, at most once in PAUSE seconds.

    Each picture's tensors leave holes in the C library's heap, which it keeps: with nothing held by
    anybody, a stand's server grew by a megabyte or more a visitor. Done each time, the next
    visitor's first frame would wait for the memory to be fetched anew.
    """

    PAUSE = 60.0

    def __init__(self) -> None:
        library = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._trim = getattr(library, "malloc_trim", None)  # glibc's own
        self._last = time.monotonic()

    def now_and_then(self) -> None:
        if self._trim is not None and time.monotonic() - self._last >= self.PAUSE:
            self._trim(0)
            self._last = time.monotonic()


@st.cache_resource(max_entries=1, show_spinner=False)
def shelf() -> Shelf:
    """The checkpoints in memory: at most SR3_WEIGHTS_MB, or what suits the device."""
    limit = os.environ.get("SR3_WEIGHTS_MB", "")
    return Shelf(int(limit) << 20 if limit.isdecimal() else room_for_weights())


@st.cache_resource(max_entries=MAX_NAMED, show_spinner="Loading the checkpoint …")
def resolver(name: str) -> SuperResolver:
    """A registered checkpoint, warmed up: a first step is slower than the rest. Its weights leave
    memory when others need the room, and come back at its next use.

    Raises CheckpointError where it is not here or is damaged.
    """
    loaded = shelf().get(name)
    grey = np.full((loaded.low_size, loaded.low_size, 3), 128, np.uint8)
    loaded.upscale([grey], steps=2)
    _settle()
    return loaded


@st.cache_resource(max_entries=MAX_NAMED, show_spinner="Mixing the networks …")
def mixture(kind: str, parent: str, tuned: str, value: float) -> SuperResolver:
    """Two registered checkpoints as one: "interpolated" by a weight, "spliced" at a time step. Its
    weights are on the shelf too.

    Raises CheckpointError.
    """
    mixed = shelf().mixture(kind, parent, tuned, value)
    _ = mixed.network  # read here, not while everybody waits for the engine
    return mixed


def offered() -> dict[str, RegistryEntry]:
    """The checkpoints that are here, by name, in the registry's order.

    Raises CheckpointError, with what to do, where there is none.
    """
    here = {name: entry for name, entry in registry().items() if entry.available}
    if not here:
        raise CheckpointError(
            "No checkpoint is available here. Train one with `python -m sr3 train --preset lite "
            "--domain FOLDER --out checkpoints/lite`, list it in checkpoints/registry.toml, then "
            "reload this page."
        )
    return here


@st.cache_resource(max_entries=1, show_spinner=False)
def scorer() -> Future[Scorer]:
    """The metrics, loading in the background: LPIPS takes seconds, or a download, at first."""
    future = in_background("sr3-scorer", Scorer.load)
    future.add_done_callback(lambda _: _settle())
    return future


def _settle() -> None:
    """Take what lives as long as the server out of the garbage collector's sight.

    Streamlit collects after each run of a fragment, that is, at each poll; with all of torch's
    modules to look through that took the interpreter from the engine for most of the time.
    """
    gc.collect()
    gc.freeze()


class Work(Protocol):
    """A job, or several together."""

    def cancel(self) -> None: ...


class Seat:
    """A visitor's place: at most one run in the making, cancelled when the visitor leaves."""

    def __init__(self) -> None:
        self.visitor = uuid.uuid4().hex
        self._job: Work | None = None
        self._left = False
        self._lock = threading.Lock()  # a script may still run while its tab is being closed

    def take(self, job: Work) -> None:
        """Make this the visitor's run; an earlier one is cancelled, and this one too where the
        visitor has left meanwhile."""
        with self._lock:
            earlier, self._job = self._job, None if self._left else job
            gone = self._left
        if earlier is not None:
            earlier.cancel()
        if gone:
            job.cancel()

    def clear(self) -> None:
        """Cancel the run, if it has not ended."""
        with self._lock:
            job, self._job = self._job, None
        if job is not None:
            job.cancel()

    def leave(self) -> None:
        """The tab is closed: nothing is drawn for it any more."""
        with self._lock:
            self._left = True
        self.clear()


@st.cache_resource(
    scope="session", max_entries=1, show_spinner=False, on_release=lambda seat: seat.leave()
)
def seat() -> Seat:
    """This visitor's seat; Streamlit releases it when the tab is closed."""
    return Seat()


class _Pictures:
    """The jobs of `draw` as one run."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.stopped = False

    def cancel(self) -> None:
        self.stopped = True
        for job in self.jobs:
            job.cancel()

    def wait(self) -> list[Pixels]:
        """The results, once all are there; meanwhile every job is asked after, not only one.

        Raises SR3Error as soon as one failed or they were stopped.
        """
        while True:
            stood = [(job, job.status) for job in self.jobs]
            going = [job for job, status in stood if status not in ENDED]
            lost = [job for job, status in stood if status in ("failed", "cancelled")]
            if lost or (going and self.stopped):
                raise SR3Error(next((job.error for job in lost if job.error), "Stopped."))
            if not going:
                return [job.result for job in self.jobs if job.result is not None]
            going[0].wait(POLL)


def draw(model: SuperResolver, low_res: Pixels, seed: int = 0) -> Pixels:
    """The pictures of (n, low, low, 3) uint8 inputs, (n, high, high, 3), as the checkpoint
    recommends: by the engine, in this visitor's turn, waiting for the last.

    Raises EngineBusy, ConfigError where the chain is too long for the engine, and SR3Error where a
    picture failed or the visitor left.
    """
    work, at_once = _Pictures(), engine().max_per_visitor
    seat().take(work)
    results: list[Pixels] = []
    try:
        for begin in range(0, len(low_res), at_once):
            work.jobs = []
            for low in low_res[begin : begin + at_once]:  # one refused, those before it are known
                work.jobs.append(
                    engine().submit(
                        model, low, model.settings(), seed=seed, visitor=seat().visitor, keep=1
                    )
                )
            results += work.wait()
    finally:
        work.cancel()
    return np.stack(results)
