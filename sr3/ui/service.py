"""What the server shares between its visitors: one engine, few loaded checkpoints, one LPIPS.

Invariants: every cache is bounded; nothing here holds a visitor's picture; workers never call
Streamlit, pages poll them.
"""

from __future__ import annotations

import gc
import uuid
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import streamlit as st

from sr3.checkpoints import RegistryEntry, registry
from sr3.engine import Engine, Job
from sr3.errors import CheckpointError
from sr3.metrics import Scorer
from sr3.pipeline import SuperResolver, load

MAX_LOADED = 4  # checkpoints in memory


@st.cache_resource(max_entries=1, show_spinner=False, on_release=lambda engine: engine.close())
def engine() -> Engine:
    """The server's one engine."""
    return Engine()


@st.cache_resource(max_entries=MAX_LOADED, show_spinner="Loading the checkpoint …")
def resolver(name: str) -> SuperResolver:
    """A registered checkpoint, loaded and warmed up: a first step is slower than the rest.

    Raises CheckpointError where it is not here or is damaged.
    """
    loaded = load(name)
    grey = np.full((loaded.low_size, loaded.low_size, 3), 128, np.uint8)
    loaded.upscale([grey], steps=2)
    _settle()
    return loaded


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
    pool = ThreadPoolExecutor(1, thread_name_prefix="sr3-scorer")
    future = pool.submit(Scorer.load)
    future.add_done_callback(lambda _: _settle())
    pool.shutdown(wait=False)
    return future


def _settle() -> None:
    """Take what lives as long as the server out of the garbage collector's sight.

    Streamlit collects after each run of a fragment, that is, at each poll; with all of torch's
    modules to look through that took the interpreter from the engine for most of the time.
    """
    gc.collect()
    gc.freeze()


class Seat:
    """A visitor's place: at most one job in the making, cancelled when the visitor leaves."""

    def __init__(self) -> None:
        self.visitor = uuid.uuid4().hex
        self._job: Job | None = None

    def take(self, job: Job) -> None:
        """Make this the visitor's job; an earlier one is cancelled."""
        self.clear()
        self._job = job

    def clear(self) -> None:
        """Cancel the job, if it has not ended."""
        if self._job is not None:
            self._job.cancel()
        self._job = None


@st.cache_resource(
    scope="session", max_entries=1, show_spinner=False, on_release=lambda seat: seat.clear()
)
def seat() -> Seat:
    """This visitor's seat; Streamlit releases it when the tab is closed."""
    return Seat()
