"""Choose a face: from the gallery, from files, from the clipboard or with the camera.

Invariants: what a visitor gives is decoded here, on the server, whatever the browser let through;
it lives in that visitor's session alone and is neither stored nor logged. What is chosen on one
page is chosen on the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import streamlit as st
from PIL import Image

from sr3.errors import ImageError, SR3Error
from sr3.faces import Crop, crop_found, detect
from sr3.faces import Face as Found
from sr3.images import Pixels, decode, degrade, resize
from sr3.ui import brought, cropper, gallery
from sr3.ui.frame import small_print
from sr3.ui.paste import SOURCE, listen
from sr3.ui.settings import Recipe, carry, choose_recipe
from sr3.ui.stage import webp
from sr3.ui.tiles import Tile, pick

MAX_BYTES = 20_000_000  # as `maxUploadSize`, which the browser alone enforces
SOURCES, TABS = ("Gallery", "Upload", "Camera"), "sr3_source_tabs"  # the latter a widget's key
MAX_FACES = 6  # offered of one photograph
# Keys of the session for the one photograph, and how the keys of its widgets begin.
PHOTOGRAPH = ("sr3_photographs", "sr3_found", "sr3_squares")
WIDGETS = ("sr3_by_hand_", "sr3_face_", "sr3_square_")


@dataclass(frozen=True)
class Face:
    """A chosen face at both sizes; `original` is None where there is nothing to compare with."""

    identity: str  # another picture, another identity
    low_res: Pixels  # (low, low, 3) uint8
    original: Pixels | None  # (high, high, 3) uint8


class Photograph:
    """A visitor's picture, in which faces are looked for once and not at each run of the page."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image

    @cached_property
    def faces(self) -> list[Found] | None:
        """As `sr3.faces.detect` gives them."""
        return detect(self.image)

    def crop(self, choose: int) -> Crop:
        """The face of this number, 0 the largest; the centre where there is none."""
        return crop_found(self.image, self.faces, choose)


def choose(hurry: bool = False) -> tuple[Face | None, Recipe]:
    """A face and, under it, what is run on it; the recipe says of which size the face must be.
    `hurry`: see `choose_recipe`."""
    chooser = st.container()
    recipe = choose_recipe(hurry)
    with chooser:
        face = choose_face(recipe.resolver.low_size, recipe.resolver.high_size)
    return face, recipe


def choose_face(low: int, high: int) -> Face | None:
    """The visitor's face, reduced to `low` pixels a side; None while there is none."""
    st.session_state[TABS] = st.session_state.setdefault(SOURCE, SOURCES[0])
    chosen, upload, camera = st.tabs(SOURCES, on_change=_turned, key=TABS)
    with upload:  # on every page and with every tab, so that a paste is heard
        uploader = st.container()
        listen()
    if upload.open:
        with upload:
            return _from_visitor(lambda: brought.upload(uploader), low, high)
    if camera.open:
        with camera:
            return _from_visitor(brought.camera, low, high)
    with chosen:
        name = pick("Faces of the gallery", gallery.tiles(), "sr3_gallery")
        face = gallery.faces()[name]
        small_print(face.credit)
        if face.kind == "generated":  # its 128 x 128 are a network's own: nothing to compare with
            return Face(f"gallery-{name}", degrade(face.pixels, low), None)
        return _reduced(face.pixels, low, high, f"gallery-{name}")


def _turned() -> None:
    """Keep which source is open where Streamlit does not forget it with the page."""
    st.session_state[SOURCE] = st.session_state[TABS]


def _from_visitor(bring: Callable[[], bytes | None], low: int, high: int) -> Face | None:
    """What a visitor brings as a face; anything wrong with it becomes one box."""
    try:
        data = bring()
        if data is None:
            _forget_photograph()
        return _read(data, low, high) if data is not None else None
    except SR3Error as error:
        st.error(str(error), icon=":material/error:")
        return None


def _forget_photograph() -> None:
    """Let go of the one photograph, with all that was chosen of it."""
    for key in map(str, list(st.session_state)):
        if key in PHOTOGRAPH or key.startswith(WIDGETS):
            del st.session_state[key]


def _read(data: bytes, low: int, high: int) -> Face:
    if len(data) > MAX_BYTES:
        raise ImageError(
            f"This file has {len(data) / 1e6:.0f} MB; the most is {MAX_BYTES / 1e6:.0f} MB."
        )
    digest = hashlib.sha256(data).hexdigest()
    if digest not in st.session_state.get("sr3_photographs", {}):
        _forget_photograph()  # one photograph a visitor
        st.session_state["sr3_photographs"] = {digest: Photograph(decode(data))}
    photograph: Photograph = st.session_state["sr3_photographs"][digest]
    if photograph.image.size == (low, low):
        note = f"The picture has {low} × {low} pixels and was taken as the input itself."
        small_print(note)
        return Face(digest, np.asarray(photograph.image), None)
    crop = photograph.crop(0)
    choose = _which(photograph, crop.found, digest) if crop.found > 1 else 0
    if choose:
        crop = photograph.crop(choose)
    by_hand = f"sr3_by_hand_{digest[:12]}"
    carry(by_hand, False)
    if st.toggle("Choose the square myself", key=by_hand, persist_state="session"):
        square = np.asarray(cropper.crop(photograph.image, photograph.faces or [], digest, choose))
        mark = hashlib.sha256(square.tobytes()).hexdigest()[:12]
        return _reduced(square, low, high, f"{digest}-{choose}-{mark}")
    small_print(crop.note)
    return _reduced(np.asarray(crop.image), low, high, f"{digest}-{choose}")


def _which(photograph: Photograph, found: int, digest: str) -> int:
    """Which of several faces: the largest, until the visitor chooses another."""
    key = f"sr3_face_{digest[:12]}"
    made: dict[str, list[Tile]] = st.session_state.setdefault("sr3_found", {})
    if key not in made:
        made.clear()
        crops = [photograph.crop(k).image for k in range(min(found, MAX_FACES))]
        small = [crop.resize((gallery.THUMBNAIL, gallery.THUMBNAIL)) for crop in crops]
        made[key] = [
            Tile(str(k), "Largest" if k == 0 else f"Face {k + 1}", webp(np.asarray(face)))
            for k, face in enumerate(small)
        ]
    st.markdown(f"{found} faces were found. Which one?")
    return int(pick("Faces in the photograph", made[key], key))


def _reduced(pixels: Pixels, low: int, high: int, identity: str) -> Face:
    """A square picture at both sizes, reduced as in training: to `high`, and that to `low`."""
    if pixels.shape[0] < low:
        raise ImageError(
            f"The face has only {pixels.shape[0]} pixels a side; {low} are needed at least."
        )
    if pixels.shape[0] < high:
        small_print(f"The face has under {high} pixels a side, too few to compare the result with.")
        return Face(identity, degrade(pixels, low), None)
    original = resize(pixels, high)
    return Face(identity, degrade(original, low), original)
