"""The faces that need no download: scikit-image's astronaut, people drawn by formula, and people
who do not exist, drawn by the networks and kept in `people/`; an empty folder is no shelf."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
import streamlit as st
from PIL import Image

from sr3 import people
from sr3.images import Pixels
from sr3.ui.portraits import PORTRAITS, draw
from sr3.ui.stage import webp
from sr3.ui.tiles import Tile

# FFHQ's square around her eyes and mouth: left, top, right, bottom.
ASTRONAUT = (132, 11, 316, 195)
THUMBNAIL = 176  # pixels a side
PEOPLE = Path(__file__).parent / "people"
SHELF = "People who do not exist"


@dataclass(frozen=True)
class GalleryFace:
    """A face of the gallery; `pixels` (h, w, 3) uint8, framed as in FFHQ."""

    name: str
    kind: str  # "photograph", "drawing" or "generated", which has no original
    credit: str
    pixels: Pixels
    title: str = ""  # on its tile; else its name


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
    return {face.name: face for face in (astronaut, *drawn, *generated())}


def generated() -> list[GalleryFace]:
    """The people of the folder; their names hold the seed and the index, for links."""
    return [
        GalleryFace(
            Path(each.origin.file).stem, "generated",
            f"Nobody: drawn by the networks {each.origin.first} and {each.origin.second} from "
            f"noise alone (seed {each.origin.seed}, face {each.origin.index}).",
            each.pixels, f"Nobody {number}",
        )
        for number, each in enumerate(people.read(PEOPLE), 1)
    ]  # fmt: skip


@st.cache_resource(max_entries=1, show_spinner=False)
def tiles() -> list[Tile]:
    """One tile a face."""
    return [
        Tile(name, face.title or name, webp(face.pixels, THUMBNAIL),
             SHELF if face.kind == "generated" else "")
        for name, face in faces().items()
    ]  # fmt: skip
