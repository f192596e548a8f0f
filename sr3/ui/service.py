"""What the server shares between its visitors: one engine, few loaded checkpoints, one LPIPS.

Invariants: every cache is bounded; nothing here holds a visitor's picture; workers never call
Streamlit, pages poll them.
"""

from __future__ import annotations

import gc
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import streamlit as st

from sr3.checkpoints import RegistryEntry, registry
from sr3.engine import Engine
from sr3.errors import CheckpointError
from sr3.metrics import Scorer
from sr3.mixtures import interpolated, spliced
from sr3.pipeline import SuperResolver, load

MAX_LOADED = 4  # checkpoints in memory
MAX_MIXED = 3  # mixtures of them


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


@st.cache_resource(max_entries=MAX_MIXED, show_spinner="Mixing the networks …")
def mixture(kind: str, parent: str, tuned: str, value: float) -> SuperResolver:
    """Two registered checkpoints as one: "interpolated" by a weight, "spliced" at a time step.

    Raises CheckpointError.
    """
    pair = resolver(parent), resolver(tuned)
    if kind == "interpolated":
        return interpolated(*pair, value)
    return spliced(*pair, round(value))


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


class Work(Protocol):
    """A job, or several together."""

    def cancel(self) -> None: ...


class Seat:
    """A visitor's place: at most one run in the making, cancelled when the visitor leaves."""

    def __init__(self) -> None:
        self.visitor = uuid.uuid4().hex
        self._job: Work | None = None

    def take(self, job: Work) -> None:
        """Make this the visitor's run; an earlier one is cancelled."""
        self.clear()
        self._job = job

    def clear(self) -> None:
        """Cancel the run, if it has not ended."""
        if self._job is not None:
            self._job.cancel()
        self._job = None


@st.cache_resource(
    scope="session", max_entries=1, show_spinner=False, on_release=lambda seat: seat.clear()
)
def seat() -> Seat:
    """This visitor's seat; Streamlit releases it when the tab is closed."""
    return Seat()
