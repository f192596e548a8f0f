"""The faces that need no download: scikit-image's astronaut and people drawn by formula."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import skimage.data
import streamlit as st
from PIL import Image

from sr3.images import Pixels
from sr3.ui.portraits import PORTRAITS, draw
from sr3.ui.stage import webp
from sr3.ui.tiles import Tile

# FFHQ's square around her eyes and mouth: left, top, right, bottom.
ASTRONAUT = (132, 11, 316, 195)
THUMBNAIL = 176  # pixels a side


@dataclass(frozen=True)
class GalleryFace:
    """A face of the gallery; `pixels` (h, w, 3) uint8, framed as in FFHQ."""

    name: str
    kind: str  # "photograph" or "drawing"
    credit: str
    pixels: Pixels


@st.cache_resource(max_entries=1, show_spinner=False)
def faces() -> dict[str, GalleryFace]:
    """The gallery by name, in its order."""
    photograph = Image.fromarray(skimage.data.astronaut()).crop(ASTRONAUT)  # type: ignore[no-untyped-call]
    astronaut = GalleryFace(
        "Astronaut", "photograph", "Eileen Collins, photographed by NASA, public domain.",
        np.asarray(photograph),
    )  # fmt: skip
    drawn = [
        GalleryFace(person.name, "drawing", "Drawn by this program; not a real person.",
                    np.asarray(draw(person)))
        for person in PORTRAITS
    ]  # fmt: skip
    return {face.name: face for face in (astronaut, *drawn)}


@st.cache_resource(max_entries=1, show_spinner=False)
def tiles() -> list[Tile]:
    """One tile a face."""
    return [Tile(name, name, webp(face.pixels, THUMBNAIL)) for name, face in faces().items()]
