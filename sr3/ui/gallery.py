"""The gallery: scikit-image's astronaut, people drawn by formula, and people who do not exist,
drawn by the networks and kept in `people/`, which need no download; and a shelf of each domain
that is here and may be shown (`sr3.ui.shelves`). An empty folder is no shelf."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
import streamlit as st
from PIL import Image

from sr3 import people
from sr3.errors import SR3Error
from sr3.images import Pixels
from sr3.ui import cartoons, shelves
from sr3.ui.portraits import PORTRAITS, draw
from sr3.ui.stage import webp
from sr3.ui.tiles import Tile

# FFHQ's square around her eyes and mouth: left, top, right, bottom.
ASTRONAUT = (132, 11, 316, 195)
THUMBNAIL = 176  # pixels a side
PEOPLE = Path(__file__).parent / "people"
SHELVES = {"cartoon": "Drawn in anime style", "generated": "People who do not exist"}


@dataclass(frozen=True)
class GalleryFace:
    """A face of the gallery; `pixels` (h, w, 3) uint8, framed as in FFHQ."""

    name: str
    kind: str  # "photograph", "drawing", "cartoon", "domain", or "generated": without an original
    credit: str
    pixels: Pixels
    title: str = ""  # on its tile; else its name
    shelf: str = ""  # the heading of its tile


def faces() -> dict[str, GalleryFace]:
    """The gallery by name, in its order; domains whose shelves have been read come last."""
    return _with(shelves.filled())


def find(name: str) -> GalleryFace | None:
    """A face by name, waiting for the shelf that it would be on; None where there is none."""
    domain = name.rpartition("-")[0]
    if name not in own() and domain in shelves.allowed():
        try:
            return _with({domain: shelves.shelf(domain)}).get(name)
        except SR3Error:
            return None
    return own().get(name)


def _with(filled: dict[str, Pixels]) -> dict[str, GalleryFace]:
    """The app's own faces, and those of some domains under names that no other has."""
    theirs = {
        f"{domain}-{number}": GalleryFace(
            f"{domain}-{number}", "domain", shelves.terms(domain), pixels,
            f"{domain} {number}", shelves.title(domain),
        )
        for domain, images in filled.items() for number, pixels in enumerate(images, 1)
    }  # fmt: skip
    return own() | {name: face for name, face in theirs.items() if name not in own()}


@st.cache_resource(max_entries=1, show_spinner=False)
def own() -> dict[str, GalleryFace]:
    """The faces that are always here, by name."""
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
    cartoons_ = [
        GalleryFace(each.name, "cartoon", "Drawn by this program in the manner of anime.",
                    np.asarray(cartoons.draw(each)), shelf=SHELVES["cartoon"])
        for each in cartoons.CARTOONS
    ]  # fmt: skip
    return {face.name: face for face in (astronaut, *drawn, *cartoons_, *generated())}


def generated() -> list[GalleryFace]:
    """The people of the folder; their names hold the seed and the index, for links."""
    return [
        GalleryFace(
            Path(each.origin.file).stem, "generated",
            f"Nobody: drawn by the networks {each.origin.first} and {each.origin.second} from "
            f"noise alone (seed {each.origin.seed}, face {each.origin.index}).",
            each.pixels, f"Nobody {number}", SHELVES["generated"],
        )
        for number, each in enumerate(people.read(PEOPLE), 1)
    ]  # fmt: skip


def tiles() -> list[Tile]:
    """One tile a face; the shelves of domains are folded."""
    return [
        Tile(name, face.title or name, _thumbnail(hashlib.sha256(face.pixels.tobytes()).hexdigest(),
             face.pixels), face.shelf, face.kind == "domain")
        for name, face in faces().items()
    ]  # fmt: skip


@st.cache_data(max_entries=200, show_spinner=False)
def _thumbnail(digest: str, _pixels: Pixels) -> str:
    return webp(_pixels, THUMBNAIL)
