"""Checkpoints on their way from the Hub, shared by all visitors: one worker a checkpoint.

Invariants: only registered names are fetched; workers never call Streamlit, pages poll them; a
failure is the sentence that the command line prints.
"""

from __future__ import annotations

import threading

import streamlit as st

from sr3.errors import SR3Error
from sr3.pins import Progress
from sr3.pull import pull

POLL = 0.5  # seconds


class Fetch:
    """One pull in the background."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.progress: Progress | None = None
        self.error = ""
        self.ended = False
        threading.Thread(target=self._run, daemon=True, name=f"sr3-pull-{name}").start()

    def _run(self) -> None:
        try:
            for progress in pull(self.name):
                self.progress = progress
        except SR3Error as error:
            self.error = str(error)
        except Exception as error:  # a worker that dies in silence would leave a bar for ever
            self.error = f"{self.name} could not be fetched: {type(error).__name__}."
        finally:
            self.ended = True


@st.cache_resource(max_entries=1, show_spinner=False)
def fetches() -> dict[str, Fetch]:
    """The latest fetch of each registered name."""
    return {}


def start(name: str) -> None:
    """Begin to fetch a checkpoint, unless it is on its way."""
    known = fetches()
    if name not in known or known[name].ended:
        known[name] = Fetch(name)


def panel(name: str) -> None:
    """The button, the bar or the sentence for a checkpoint that is not here."""
    fetch = fetches().get(name)
    running = fetch is not None and not fetch.ended
    if not running:
        if fetch is not None and fetch.error:
            st.error(fetch.error, icon=":material/error:")
        st.button(
            "Fetch it from the Hub", on_click=start, args=(name,), key=f"sr3_fetch_{name}",
            icon=":material/cloud_download:",
        )  # fmt: skip
        return
    _bar(name)


@st.fragment(run_every=POLL)
def _bar(name: str) -> None:
    fetch = fetches()[name]
    if fetch.ended:
        st.rerun()
    progress = fetch.progress
    text = progress.describe() if progress else "Asking the Hub …"
    st.progress(progress.share if progress else 0.0, text=text)
