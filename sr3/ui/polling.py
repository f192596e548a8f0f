"""How a fragment watches a run: as often as pictures need, and at its ends sooner than that.

A poll is a message of the page and a run of the fragment, which costs the engine time; so polls are
few, and one that comes just before the first frame or the end waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NoReturn, Protocol

import streamlit as st

POLL = 0.2  # seconds, of one chain; several take longer for each picture that all of them have
MANY = 0.3  # seconds, of several
LONGEST = 0.3  # seconds that a poll waits
NAP = 0.01
SENT = 0.2  # seconds in which a page paints what it was sent


class Watched(Protocol):
    """A run of one chain or several."""

    @property
    def begun(self) -> bool:
        """Whether there is a frame to be shown."""

    @property
    def position(self) -> int:
        """How many of others are served before it."""

    @property
    def ended(self) -> bool: ...

    @property
    def seconds_left(self) -> float | None:
        """None: not known yet."""


def follow(draw: Callable[[], None], live: bool, every: float = POLL) -> None:
    """Draw now, and while `live` again and again, `every` so many seconds.

    Once it is not, there is no fragment any more: one that was drawn anew without a period would
    keep its earlier one where a part of the page is drawn alone.
    """
    if live:
        st.fragment(draw, run_every=every)()
    else:
        with st.container():  # as the fragment had: what is in it stays in its place
            draw()


def await_event(run: Watched, every: float = POLL) -> None:
    """Wait for the first frame, once it is its turn, or for an end that comes before the next
    poll, `every` so many seconds."""
    deadline, begun = time.monotonic() + LONGEST, run.begun
    while not run.ended and time.monotonic() < deadline:
        left = run.seconds_left
        near = left is not None and left <= every if begun else not (run.begun or run.position)
        if not near:
            return
        time.sleep(NAP)


def draw_again() -> NoReturn:
    """Run the whole script, once what the fragment has drawn is on its way: a result is seen before
    the rest of the page is."""
    time.sleep(SENT)
    st.rerun()
