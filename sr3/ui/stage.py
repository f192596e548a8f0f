"""The stage: where a face is seen before, while and after it is resolved; one component for all.

It is mounted once and only its data change, so nothing moves when frames arrive. Squares `a` and
`b` are large, `c` and `d` small; a picture with a `before` is a before/after slider. The look and
the behaviour are in `stage.css`, `player.js` and `stage.js`; no request leaves the page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st
from PIL import Image

from sr3.images import Pixels, encode_png

_HERE = Path(__file__).parent
PLAYER = (_HERE / "player.js").read_text(encoding="utf-8")  # before the script of each that plays
_stage = st.components.v2.component(
    "sr3_stage",
    css=(_HERE / "stage.css").read_text(encoding="utf-8"),
    js=PLAYER + (_HERE / "stage.js").read_text(encoding="utf-8"),
)


@dataclass(frozen=True)
class Picture:
    """One square with its caption. Images are data URIs; without one, `alt` is shown instead."""

    title: str
    note: str
    image: str = ""
    alt: str = ""
    crisp: bool = False  # enlarge without smoothing
    before: str = ""  # a second image, on the left of a slider
    before_title: str = ""


@dataclass(frozen=True)
class Moment:
    """One frame of a run, ready to be played."""

    index: int
    total: int
    status: str
    x0: str  # data URI
    x_t: str


@dataclass(frozen=True)
class Scene:
    """All that the stage shows: pictures by square (a, b, c, d) and what is written above them."""

    still: Mapping[str, Picture]  # none are needed of a run under way that has frames
    status: str
    left: str = ""  # at the right end of the status line
    announce: str = ""  # for screen readers
    run: str = ""  # another name: another run, whose frames are played from the start
    live: bool = False
    playing: Mapping[str, Picture] = field(default_factory=dict)  # captions while frames play
    frames: Sequence[Moment] = ()
    at: int = 0
    total: int = 1


def show(scene: Scene, key: str = "sr3_stage") -> None:
    """Draw the scene at this place of the page."""
    data: dict[str, Any] = asdict(scene)
    data["stamp"] = str(hash(repr(data)))  # what was settled once is not drawn again
    _stage(key=key, data=data)


def png(pixels: Pixels) -> str:
    """(h, w, 3) uint8 -> a data URI, exact."""
    return _uri("png", encode_png(pixels))


def webp(pixels: Pixels, size: int | None = None) -> str:
    """(h, w, 3) uint8 -> a data URI about a fifth as large: for pictures that pass by."""
    image = Image.fromarray(pixels)
    if size is not None:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=88, method=1)
    return _uri("webp", out.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
