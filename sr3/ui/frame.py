"""The frame around every page: browser tab, navigation, title. Call `page` first on each page.

Invariant: a page's errors of the project's own kind end in one box with one sentence, those of a
part that is drawn alone too.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec

import streamlit as st

from sr3.errors import SR3Error
from sr3.hub import silent
from sr3.ui import service

P = ParamSpec("P")

# The mark: a coarse pixel grid that dissolves into a smooth face-like disc.
MARK = """
<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32" viewBox="0 0 32 32">
<rect width="32" height="32" rx="6" fill="#0072B2"/>
<g fill="#fff"><rect x="5" y="5" width="5" height="5" opacity=".35"/>
<rect x="5" y="11" width="5" height="5" opacity=".8"/>
<rect x="5" y="17" width="5" height="5" opacity=".5"/>
<rect x="5" y="23" width="5" height="4" opacity=".25"/>
<rect x="11" y="5" width="5" height="5" opacity=".75"/>
<rect x="11" y="11" width="5" height="5" opacity=".95"/>
<rect x="11" y="17" width="5" height="5" opacity=".9"/>
<rect x="11" y="23" width="5" height="4" opacity=".6"/>
<path d="M17 5a11 11 0 0 1 0 22z"/></g></svg>
""".strip()

MARK_URI = "data:image/svg+xml;base64," + base64.b64encode(MARK.encode()).decode()

# A wall of pixels that does not say how dense they are is read from afar. Lengths are in rem, but
# for a main button's, which is Streamlit's in pixels.
LARGE = """<style>@media (min-width: 3000px) {
  html { font-size: 30px }
  .stElementContainer[class*="_main"] { width: 12.5rem !important }
}</style>"""

# File, label and icon of each page, in the order of the navigation.
PAGES = (
    ("app.py", "Super-resolve", ":material/face:"),
    ("pages/1_Compare.py", "Compare", ":material/compare:"),
    ("pages/2_Domains.py", "Domains", ":material/public:"),
    ("pages/3_Fine-tuning.py", "Fine-tuning", ":material/model_training:"),
    ("pages/4_Checkpoints.py", "Checkpoints", ":material/inventory_2:"),
    ("pages/5_Inside.py", "Inside", ":material/frame_inspect:"),
    ("pages/6_Poster.py", "Poster", ":material/slideshow:"),
    ("pages/9_About.py", "About", ":material/info:"),
)


@contextmanager
def page(title: str, lead: str, *, bare: bool = False) -> Iterator[None]:
    """Everything inside is the page's body; a `SR3Error` in it becomes one box.

    `bare`: the page brings its own title, and the way back stands at its end.
    """
    st.set_page_config(f"{title} · SR3 Lab", MARK, layout="wide")
    if not bare:
        st.html(LARGE)
        navigation()
        st.title(title, anchor=False)
        st.markdown(lead)
    with _told():
        yield
    if bare:
        st.page_link("app.py", label="Leave", icon=":material/logout:")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except SR3Error as error:
        st.error(str(error), icon=":material/error:")


def alone(part: Callable[P, None]) -> Callable[P, None]:
    """A part of a page that a click in it draws again without the rest: what takes time on two
    cores takes it from the network."""

    @wraps(part)
    def told(*arguments: P.args, **named: P.kwargs) -> None:
        with _told():
            part(*arguments, **named)

    return st.fragment(told)


def navigation() -> None:
    """The mark, the name and the pages, in one line that wraps on a phone."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"![]({MARK_URI}) **SR3 Lab**", width="content")
        for path, label, icon in PAGES:
            st.page_link(path, label=label, icon=icon)
        if silent():
            st.markdown(
                ":material/cloud_off: offline", width="content",
                help="No network is used or found. Everything that is on this machine works.",
            )  # fmt: skip


def quiet_notice() -> None:
    """What the engine's watchdog last did, where it had to do something."""
    if notice := service.engine().notice:
        small_print(f":material/info: {notice}")


def small_print(text: str) -> None:
    """Small print. `st.caption` reaches only 4.1:1 on the light ground; this passes 4.5:1."""
    safe = text.replace("[", "\\[").replace("]", "\\]")
    st.markdown(f":small[:gray[{safe}]]")
