"""A picture from the clipboard: Ctrl+V anywhere on a page with inputs, or the button.

Invariants: what is pasted is a stranger's bytes, bounded here and decoded as an upload is; it
becomes the visitor's choice at once, whichever input was open.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

import streamlit as st

from sr3.errors import ImageError

MOST = 20_000_000  # bytes
KEY, PASTED, REFUSED = "sr3_paste", "sr3_pasted", "sr3_paste_refused"
SOURCE, UPLOAD = "sr3_source", "Upload"  # the tab of the inputs, and the one that shows it
WHICH, CLIPBOARD = "sr3_which_file", "From the clipboard"  # the choice among several pictures


_HERE = Path(__file__).parent
_paste = st.components.v2.component(
    "sr3_paste",
    css=(_HERE / "paste.css").read_text(encoding="utf-8"),
    js=(_HERE / "paste.js").read_text(encoding="utf-8"),
)


def listen() -> None:
    """The button, and an ear for Ctrl+V while it is on the page, be its tab open or not."""
    _paste(key=KEY, data={"most": MOST}, on_picture_change=_take)


def pasted() -> bytes | None:
    """The picture that was pasted last, kept in the visitor's session alone.

    Raises ImageError where the last paste was no picture.
    """
    if refused := st.session_state.pop(REFUSED, None):
        raise ImageError(refused)
    data: bytes | None = st.session_state.get(PASTED)
    return data


def _take() -> None:
    """Before the page is drawn anew: keep what was pasted, and choose it."""
    if text := st.session_state[KEY].picture:
        choose(str(text))


def choose(text: str) -> None:
    """Make a data URI the visitor's choice; a refusal is kept for `pasted`."""
    state = st.session_state
    state[SOURCE], state[WHICH] = UPLOAD, CLIPBOARD
    state.pop(REFUSED, None)
    try:
        state[PASTED] = read(text)
    except ImageError as error:
        state[REFUSED] = str(error)


def read(text: str) -> bytes:
    """A data URI's bytes. Raises ImageError for anything else, or too much of it."""
    head, _, body = text[: 2 * MOST].partition(";base64,")
    if not head.startswith("data:image/") or len(body) > MOST * 4 // 3 + 4:
        raise ImageError("What was pasted is no picture of up to 20 MB: copy an image, then paste.")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ImageError("What was pasted arrived damaged: copy it again, then paste.") from error
