"""How few network evaluations are enough, as a section of a page; read again when it changes."""

from __future__ import annotations

import streamlit as st

from sr3.charts import Chart
from sr3.checkpoints import registry
from sr3.curve import FOLDER
from sr3.effort import effort_of
from sr3.looks import look
from sr3.ui import measured

CHECKPOINT = "lite"  # the embedded one, whose curve the repository holds


def section() -> None:
    """The chart with its answer, caption and table; nothing where that checkpoint is not here."""
    if CHECKPOINT not in registry():
        return
    measured.show(_chart(measured._stamp(FOLDER), measured._scheme()))


@st.cache_resource(max_entries=4, show_spinner="Reading the measurements …")
def _chart(stamp: measured.Stamp, scheme: str) -> Chart:
    return effort_of(CHECKPOINT, look("dark" if scheme == "dark" else "light"))
