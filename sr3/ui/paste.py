"""A picture from the clipboard: Ctrl+V anywhere on the page, or the button.

Invariant: what is pasted is a stranger's bytes, bounded here and decoded as an upload is.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

import streamlit as st

from sr3.errors import ImageError

MOST = 20_000_000  # bytes
KEY, PASTED = "sr3_paste", "sr3_pasted"


_HERE = Path(__file__).parent
_paste = st.components.v2.component(
    "sr3_paste",
    css=(_HERE / "paste.css").read_text(encoding="utf-8"),
    js=(_HERE / "paste.js").read_text(encoding="utf-8"),
)


def pasted() -> bytes | None:
    """The picture that was pasted last, kept in the visitor's session alone."""
    found = _paste(key=KEY, data={"most": MOST}, on_picture_change=lambda: None)
    if text := found.picture:
        st.session_state[PASTED] = read(str(text))
    data: bytes | None = st.session_state.get(PASTED)
    return data


def read(text: str) -> bytes:
    """A data URI's bytes. Raises ImageError for anything else, or too much of it."""
    head, _, body = text[: 2 * MOST].partition(";base64,")
    if not head.startswith("data:image/") or len(body) > MOST * 4 // 3 + 4:
        raise ImageError("What was pasted is no picture of up to 20 MB: copy an image, then paste.")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ImageError("What was pasted arrived damaged: copy it again, then paste.") from error
