"""A tour in four short steps on the first visit; dismissed once, it never comes back.

The browser remembers that (`localStorage`, no cookie): nothing of it reaches the server, and where
the browser remembers nothing the tour is simply not shown a second time in the session. It takes
its place at the foot of the window and hides nothing that it speaks of.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

_HERE = Path(__file__).parent
_tour = st.components.v2.component(
    "sr3_tour",
    css=(_HERE / "tour.css").read_text(encoding="utf-8"),
    js=(_HERE / "tour.js").read_text(encoding="utf-8"),
)

SHOWN = True  # whether there is a tour
STEPS = (
    ("Choose a face", "From the gallery, a file, the clipboard or your camera. It is reduced to "
     "16 × 16 pixels: that is all the network is given."),
    ("Watch it work", "Press Super-resolve. The noise goes away step by step; drag the timeline "
     "afterwards to see any step again."),
    ("Look twice", "Drag the line over the picture: bicubic on the left, the network on the right. "
     "Another seed gives another plausible face."),
    ("Go on", "Compare networks on the same noise, look inside the chain, read what was measured, "
     "and take your picture home."),
)  # fmt: skip


def show() -> None:
    """The tour, if this browser has not dismissed it."""
    if SHOWN:
        _tour(key="sr3_tour", data={"steps": [list(step) for step in STEPS]})
