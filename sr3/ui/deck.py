"""The stand: slides over the whole screen, driven by keys, that fall back to a loop.

Slide 0 is the attract loop, then come the questions, the last is the visitor's own. The component
holds the number of the slide; Streamlit draws charts and inputs under its head. Look and behaviour
are in `deck.css` and `deck.js`; no request leaves the page.

Invariant: a visitor is forgotten once their slide is left, and when nobody has touched the stand
for a while; whoever comes from another page is still there, with all that they made.
"""

from __future__ import annotations

import base64
import io
import ipaddress
import os
import urllib.parse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import segno
import streamlit as st

from sr3.report import QUESTION
from sr3.ui import links, live, measured, result
from sr3.ui.brought import forget_files
from sr3.ui.frame import small_print
from sr3.ui.inputs import choose
from sr3.ui.reels import reels

HOME_AFTER = float(os.environ.get("SR3_POSTER_HOME", "60"))  # seconds without a touch
KEY = "sr3_deck"
NOBODY = -1  # in place of a slide's number: the start, and nobody is there; as in `deck.js`
GONE = "sr3_gone"  # in the session until the visitor who has gone is forgotten
STAY = {KEY, "sr3_been_here"}  # what outlives a visitor: the slide, and that a first run was shown
# What Streamlit draws of a question, and of the visitor; `deck.js` enlarges it on a stand's screen.
SLIDE, MINE = "sr3_slide", "sr3_mine"
SCALES = (1, 1.3, 1.8, 2.6)  # as in `deck.js`
POLL = 2.0  # seconds, while the loop's runs are being made
ADDRESS = "SR3_PUBLIC_ADDRESS"  # what the QR code says; else the app's own, as it was reached
ALONE = f"This address works only on this machine: for phones, set {ADDRESS}."

_HERE = Path(__file__).parent
_deck = st.components.v2.component(
    "sr3_deck",
    css=(_HERE / "deck.css").read_text(encoding="utf-8"),
    js=(_HERE / "deck.js").read_text(encoding="utf-8"),
)


@dataclass(frozen=True)
class Slide:
    """The head of a slide."""

    kind: str  # loop, question or visitor
    title: str
    lines: tuple[str, ...] = ()


def show() -> None:
    """The slide that the visitor is at, with what belongs under its head."""
    told = measured.usual().answers
    slides = [
        Slide("loop", QUESTION),
        *(Slide("question", question, tuple(said[:2])) for question, said, _, _ in told),
        Slide("visitor", "Your face"),
    ]
    at = _at(slides)
    if st.session_state.pop(GONE, False):
        _forget()
    made = reels()
    poll = at == 0 and not made.done
    st.fragment(partial(_head, slides, at, poll), run_every=POLL if poll else None)()
    if slides[at].kind == "question":
        _, _, chart, which = told[at - 1]
        with st.container(key=SLIDE):
            if chart.figures:
                measured.plot(chart, which, _scale())
                small_print(chart.caption)
            else:
                st.info(chart.missing, icon=":material/hourglass_empty:")
    elif slides[at].kind == "visitor":
        with st.container(key=MINE):
            _visitor()


def _at(slides: Sequence[Slide]) -> int:
    at = int(st.session_state.get(KEY, {}).get("at") or 0)
    return min(max(at, 0), len(slides) - 1)


def _turned(kind: str) -> None:
    """A slide of this kind was left, or nobody is there. The visitor is forgotten in the next run
    of the page, which no longer has what they chose from."""
    if kind == "visitor" or st.session_state[KEY].get("at") == NOBODY:
        st.session_state[GONE] = True


def _scale() -> float:
    """How many times as large as usual the figures are drawn, for this screen."""
    told = st.session_state.get(KEY, {}).get("scale")
    return float(told) if told in SCALES else 1.0


def _busy() -> bool:
    """Whether the visitor's own run is under way."""
    run = st.session_state.get("sr3_run")
    return run is not None and not run.ended


def _head(slides: Sequence[Slide], at: int, poll: bool) -> None:
    made = reels()
    turned = at != _at(slides) or GONE in st.session_state
    if turned or (poll and made.done):  # a slide turned reruns this fragment alone
        st.rerun()
    address = os.environ.get(ADDRESS) or links.address()
    kind = slides[at].kind
    data: dict[str, Any] = {
        "slides": [asdict(slide) for slide in slides], "at": at, "home_after": HOME_AFTER,
        "reels": [asdict(reel) for reel in made.made] if at == 0 else [],
        "qr": _qr(address), "address": address, "note": ALONE if alone(address) else "",
        "meaning": measured.MEANT if kind == "question" else "",
        "busy": kind == "visitor" and _busy(),
    }  # fmt: skip
    _deck(
        key=KEY, data=data, default={"at": 0, "scale": 1}, on_at_change=partial(_turned, kind),
        on_scale_change=lambda: None,
    )  # fmt: skip


def alone(address: str) -> bool:
    """Whether an address means the machine itself, so that no phone can reach it."""
    host = urllib.parse.urlsplit(address).hostname or ""
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return number.is_loopback or number.is_unspecified


@st.cache_data(max_entries=4, show_spinner=False)
def _qr(address: str) -> str:
    """A QR code as a data URI, black on white."""
    out = io.BytesIO()
    segno.make(address, error="m").save(out, kind="png", scale=8, border=2)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def _visitor() -> None:
    """The visitor's own face, large, live."""
    choice, view = st.columns([1, 2.5], gap="medium")
    with choice:
        face, recipe = choose()
    with view:
        run = live.current(face)
        live.controls(face, recipe, run)
        live.watch(face, run)
        if run is not None and run.ended:
            result.show(run)


def _forget() -> None:
    """Nothing of the last visitor stays: runs, photographs, settings, the session's gallery."""
    live.stop()
    forget_files()
    for key in list(st.session_state):
        if str(key).startswith("sr3_") and key not in STAY:
            del st.session_state[key]
