"""Faces that may be shown, resolved by each checkpoint: the gallery's, and a domain's own where
its terms allow it and its images are here (`sr3.ui.shelves`)."""

from __future__ import annotations

import numpy as np
import streamlit as st

from sr3.images import Pixels, degrade, encode_png, enlarge, resize
from sr3.ui import gallery, service, shelves
from sr3.ui.frame import small_print

FACES = 4  # of each domain
SIDE = 128  # pixels, as shown
GALLERY = "the gallery's faces"
COMPARED = 3  # checkpoints side by side


def show() -> None:
    """Choose whose faces; one press resolves them with every checkpoint that is here."""
    st.subheader("Sample faces", anchor=False)
    names = [GALLERY, *shelves.allowed()]
    domain = GALLERY
    if len(names) > 1:
        domain = st.selectbox("Faces of", names, format_func=_title, key="sr3_samples_of")
    entries = service.offered()
    chosen = st.multiselect(
        "Checkpoints", list(entries), list(entries)[:1], max_selections=COMPARED,
        format_func=lambda name: entries[name].title, key="sr3_samples_by",
    )  # fmt: skip
    if not st.toggle("Super-resolve them", key="sr3_samples"):
        return
    high, low = faces(domain)
    drawn = {name: resolved(name, domain) for name in chosen}
    for number in range(len(high)):
        row = {"Input": np.repeat(np.repeat(low[number], 8, 0), 8, 1),
               "Bicubic": enlarge(low[number], SIDE)}  # fmt: skip
        row |= {name: images[number] for name, images in drawn.items()}
        row["Original"] = high[number]
        st.image([encode_png(each) for each in row.values()], list(row), width=SIDE)
    small_print(_terms(domain))


@st.cache_resource(max_entries=4, show_spinner="Reading the faces …")
def faces(domain: str) -> tuple[Pixels, Pixels]:
    """(n, 128, 128, 3) and (n, 16, 16, 3) uint8. Raises DomainError."""
    if domain == GALLERY:
        high = np.stack([resize(face.pixels, SIDE) for face in gallery.own().values()][:FACES])
    else:
        high = shelves.shelf(domain)[:FACES]
    return high, degrade(high, SIDE // 8)


@st.cache_resource(max_entries=12, show_spinner="Super-resolving …")
def resolved(checkpoint: str, domain: str) -> Pixels:
    """(n, 128, 128, 3) uint8, as the checkpoint recommends, seed 0."""
    _, low = faces(domain)
    return service.draw(service.resolver(checkpoint), low)


def _title(name: str) -> str:
    return name if name == GALLERY else shelves.title(name)


def _terms(domain: str) -> str:
    if domain == GALLERY:
        credits_ = [face.credit for face in gallery.own().values()][:FACES]
        return " ".join(dict.fromkeys(credits_)) + " Examples, not measurements."
    return f"{shelves.terms(domain)} Examples, not measurements."
