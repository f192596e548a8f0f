"""Choose the square by hand, where the face that was found is not the one wanted.

A square on the photograph: drag it, or move it with the arrow keys; its size is a native slider.
The square is kept in shares of the photograph, so that it does not depend on how it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image

from sr3.faces import Face
from sr3.ui.stage import webp

SHOWN = 640  # most pixels of the longer side, as shown
Square = tuple[float, float, float]  # left, top, side; shares of width, height and shorter side


_HERE = Path(__file__).parent
_cropper = st.components.v2.component(
    "sr3_cropper",
    css=(_HERE / "cropper.css").read_text(encoding="utf-8"),
    js=(_HERE / "cropper.js").read_text(encoding="utf-8"),
)


def crop(photograph: Image.Image, faces: Sequence[Face], digest: str, choose: int) -> Image.Image:
    """The visitor's square of an RGB photograph; the found face's until it is moved."""
    key = f"sr3_square_{digest[:12]}_{choose}"
    kept: dict[str, tuple[str, Square]] = st.session_state.setdefault("sr3_squares", {})
    if key not in kept:
        kept.clear()  # one photograph a visitor
        small = photograph.copy()
        small.thumbnail((SHOWN, SHOWN))
        kept[key] = webp(np.asarray(small)), first_square(photograph, faces, choose)
    image, first = kept[key]
    moved = st.session_state.get(key) or first
    widget = f"{key}_widget"

    def take() -> None:  # Streamlit forgets what is a widget's with its page
        st.session_state[key] = st.session_state[widget].square

    _cropper(
        key=widget,
        data={"name": key, "image": image, "square": list(moved), "width": photograph.width,
              "height": photograph.height},
        default={"square": None}, on_square_change=take,
    )  # fmt: skip
    return cut(photograph, _checked(moved, first))


def first_square(photograph: Image.Image, faces: Sequence[Face], choose: int) -> Square:
    """Around the face that was found, inside the photograph; else the centre."""
    width, height = photograph.size
    least = min(width, height)
    if choose >= len(faces):
        return (width - least) / 2 / width, (height - least) / 2 / height, 1.0
    face = faces[choose]
    side = min(face.side, least)
    left = min(max(face.left, 0), width - side)
    top = min(max(face.top, 0), height - side)
    return left / width, top / height, side / least


def cut(photograph: Image.Image, square: Square) -> Image.Image:
    """The square in whole pixels, never outside the photograph."""
    width, height = photograph.size
    side = max(round(square[2] * min(width, height)), 1)
    left = min(round(square[0] * width), width - side)
    top = min(round(square[1] * height), height - side)
    return photograph.crop((left, top, left + side, top + side))


def _checked(found: object, first: Square) -> Square:
    """What the browser says, where it is three shares; else the first square."""
    if not isinstance(found, list | tuple) or len(found) != 3:
        return first
    if not all(isinstance(value, int | float) and -0.01 <= value <= 1.01 for value in found):
        return first
    left, top, side = (min(max(float(value), 0.0), 1.0) for value in found)
    return left, top, max(side, 0.05)
