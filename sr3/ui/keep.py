"""Take it home: PNG, card, GIF, MP4, JSON and a link; and the session's own gallery of past runs.

Invariants: films are made only when asked for; the gallery is bounded and lives in the visitor's
session alone; a visitor's own picture is in no link.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from sr3.background import in_background
from sr3.errors import SR3Error
from sr3.images import Pixels, encode_png
from sr3.takeaway import Shown, card, film_strip, gif, mp4, sheet
from sr3.ui.frame import small_print
from sr3.ui.stage import webp

PAST = "sr3_past"  # key of the session
MOST_PAST = 12  # runs kept in the session's gallery
THUMBNAIL = 160  # pixels
Film = Callable[[], Sequence[Sequence[Pixels]]]  # the rows of `film_strip`


@dataclass(frozen=True)
class Keepsake:
    """A finished run, as it can be taken home."""

    name: str  # of the run: another run, another name
    stem: str  # of the files
    title: str
    lines: tuple[str, ...]  # what made it, under the card
    shown: tuple[Shown, ...]  # the card's pictures
    result: Pixels  # the PNG, unless that is a sheet
    record: dict[str, Any]  # the JSON (`sr3.ui.records`)
    link: str | None
    film: Film | None = None  # without one there is no card either
    as_sheet: bool = False  # the PNG holds all of `shown`, labelled

    @property
    def png(self) -> bytes:
        return sheet(self.shown) if self.as_sheet else encode_png(self.result)


@dataclass(frozen=True)
class Past:
    """One entry of the session's gallery."""

    name: str
    title: str
    line: str
    thumbnail: str  # data URI
    png: bytes
    stem: str
    link: str | None


def offer(keepsake: Keepsake) -> None:
    """The downloads and the link of a run, which joins the session's gallery."""
    _remember(keepsake)
    trouble = film_trouble().result() if film_trouble().done() else ""
    with st.container(horizontal=True, vertical_alignment="center", key="sr3_keep"):
        for label, make, suffix, kind, icon in _files(keepsake):
            verb = "Download " if label == "PNG" else ""
            lacking = trouble if label == "MP4" else ""
            st.download_button(
                f"{verb}{label}", make, keepsake.stem + suffix, kind, icon=icon,
                on_click="ignore", key=f"sr3_keep_{label}", disabled=bool(lacking),
                help=lacking or None,
            )  # fmt: skip
        with st.popover("Link", icon=":material/link:"):
            if keepsake.link:
                st.markdown(
                    "This link restores the face, the checkpoints, the sampler and the noise."
                )
                st.code(keepsake.link, language=None, wrap_lines=True)
            elif keepsake.record["stopped"]:
                st.markdown(
                    "A link would restore the whole run, not where this one was stopped: run it to "
                    "its end to get one."
                )
            else:
                st.markdown(
                    "A link would have to hold your picture, and it is not stored: only faces of "
                    "the gallery have one."
                )


def _files(keepsake: Keepsake) -> list[tuple[str, Callable[[], bytes], str, str, str]]:
    """Label, maker, suffix, media type and icon of each download. They are made at the click, in a
    thread of its own; the closures live as long as the page shows them."""
    film, shown = keepsake.film, keepsake.shown
    moving: list[tuple[str, Callable[[], bytes], str, str, str]] = []
    if film is not None:
        moving = [
            ("Card", lambda: card(shown, keepsake.title, _signed(keepsake)), "-card.png",
             "image/png", ":material/badge:"),
            ("GIF", lambda: gif(list(film_strip(film(), 256))), ".gif", "image/gif",
             ":material/gif_box:"),
            ("MP4", lambda: _mp4(film), ".mp4", "video/mp4", ":material/movie:"),
        ]  # fmt: skip
    return [
        ("PNG", lambda: keepsake.png, ".png", "image/png", ":material/image:"),
        *moving,
        ("JSON", lambda: _json(keepsake.record), ".json", "application/json",
         ":material/data_object:"),
    ]  # fmt: skip


@st.cache_resource(max_entries=1, show_spinner=False)
def film_trouble() -> Future[str]:
    """Why no film can be made on this server, tried once in the background; "" where one can.

    Streamlit has one sentence for every download that fails: ours must be there before the click.
    """
    return in_background("sr3-film", _try_film)


def _try_film() -> str:
    try:
        mp4([np.zeros((16, 16, 3), np.uint8)] * 2, 2, 0.1)
    except SR3Error as error:
        return str(error)
    return ""


def past() -> None:
    """The session's gallery of past runs, newest first."""
    kept: deque[Past] = st.session_state.get(PAST, deque())
    if not kept:
        return
    with st.expander(f"Your runs ({len(kept)})", icon=":material/history:", key="sr3_past_open"):
        small_print(f"The last {MOST_PAST} of this visit; they are gone when you close the tab.")
        with st.container(horizontal=True):
            for number, each in enumerate(reversed(kept)):
                with st.container(width=THUMBNAIL):
                    st.image(each.thumbnail, width=THUMBNAIL, alt=each.line)
                    small_print(each.line)
                    st.download_button(
                        "PNG", each.png, f"{each.stem}.png", "image/png", on_click="ignore",
                        icon=":material/download:", key=f"sr3_past_{number}",
                    )  # fmt: skip
                    if each.link:
                        with st.popover("Link", icon=":material/link:"):
                            st.code(each.link, language=None, wrap_lines=True)


def _mp4(film: Film) -> bytes:
    rows = film()
    return mp4(film_strip(rows), len(rows))


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=2, allow_nan=False).encode()


def _signed(keepsake: Keepsake) -> list[str]:
    plausible = "One plausible face that fits the input, not the person photographed."
    return [*keepsake.lines, plausible]


def _remember(keepsake: Keepsake) -> None:
    kept: deque[Past] = st.session_state.setdefault(PAST, deque(maxlen=MOST_PAST))
    if any(each.name == keepsake.name for each in kept):
        return
    kept.append(
        Past(
            keepsake.name, keepsake.title, " ".join(keepsake.lines),
            webp(keepsake.result, THUMBNAIL), keepsake.png, keepsake.stem, keepsake.link,
        )
    )  # fmt: skip
