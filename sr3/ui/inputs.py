"""Choose a face: from the gallery, from files, from the clipboard or with the camera.

Invariants: what a visitor gives is decoded here, on the server, whatever the browser let through;
it lives in that visitor's session alone and is neither stored nor logged.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import streamlit as st
from PIL import Image
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.scriptrunner import get_script_run_ctx

from sr3.errors import ImageError, SR3Error
from sr3.faces import Crop, crop_found, detect
from sr3.faces import Face as Found
from sr3.images import Pixels, decode, degrade, resize
from sr3.ui import cropper, gallery
from sr3.ui.frame import small_print
from sr3.ui.paste import CLIPBOARD, SOURCE, WHICH, listen, pasted
from sr3.ui.settings import Recipe, choose_recipe
from sr3.ui.stage import webp
from sr3.ui.tiles import Tile, pick

FILE_TYPES = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "heic", "heif"]
MAX_BYTES = 20_000_000  # as `maxUploadSize`, which the browser alone enforces
MAX_FACES = 6  # offered of one photograph


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
    chosen, upload, camera = st.tabs(["Gallery", "Upload", "Camera"], on_change="rerun", key=SOURCE)
    with upload:  # on every page and with every tab, so that a paste is heard
        uploader = st.container()
        listen()
    if upload.open:
        with upload:
            return _uploaded(uploader, low, high)
    if camera.open:
        with camera:
            shot = st.camera_input("A photograph of you", key="sr3_camera")
            small_print("It stays in this server's memory while you look at it, and is not stored.")
            return _from_visitor(shot.getvalue(), low, high) if shot else None
    with chosen:
        name = pick("Faces of the gallery", gallery.tiles(), "sr3_gallery")
        face = gallery.faces()[name]
        small_print(face.credit)
        if face.kind == "generated":  # its 128 x 128 are a network's own: nothing to compare with
            return Face(f"gallery-{name}", degrade(face.pixels, low), None)
        return _reduced(face.pixels, low, high, f"gallery-{name}")


def forget_files() -> None:
    """Let go of all that this session's visitor uploaded or photographed: Streamlit keeps it until
    the session ends, which at a stand is the evening."""
    context = get_script_run_ctx()
    if context is not None:
        context.uploaded_file_mgr.remove_session_files(context.session_id)


def _uploaded(uploader: DeltaGenerator, low: int, high: int) -> Face | None:
    """A face of the visitor's files, one or several, or of the clipboard."""
    files = uploader.file_uploader(
        "Photographs with a face", FILE_TYPES, accept_multiple_files=True, key="sr3_upload",
        help="They stay in this server's memory while you look at them and are never stored.",
    )  # fmt: skip
    try:
        clipboard = pasted()
    except SR3Error as error:
        st.error(str(error), icon=":material/error:")
        return None
    choices = {f"{number}. {_short(file.name)}": file for number, file in enumerate(files, 1)}
    names = [*choices, *([CLIPBOARD] if clipboard else [])]
    if not names:
        return None
    chosen = names[-1]
    if len(names) > 1:
        if st.session_state.get(WHICH) not in names:
            st.session_state[WHICH] = chosen
        chosen = st.selectbox("Which picture?", names, key=WHICH)
    if chosen in choices:
        return _from_visitor(choices[chosen].getvalue(), low, high)
    assert clipboard is not None
    return _from_visitor(clipboard, low, high)


def _short(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:20]}…{name[-10:]}"


def _from_visitor(data: bytes, low: int, high: int) -> Face | None:
    """A visitor's bytes as a face; anything wrong with them becomes one box."""
    try:
        return _read(data, low, high)
    except SR3Error as error:
        st.error(str(error), icon=":material/error:")
        return None


def _read(data: bytes, low: int, high: int) -> Face:
    if len(data) > MAX_BYTES:
        raise ImageError(
            f"This file has {len(data) / 1e6:.0f} MB; the most is {MAX_BYTES / 1e6:.0f} MB."
        )
    digest = hashlib.sha256(data).hexdigest()
    kept: dict[str, Photograph] = st.session_state.setdefault("sr3_photographs", {})
    if digest not in kept:
        kept.clear()  # one photograph a visitor
        kept[digest] = Photograph(decode(data))
    photograph = kept[digest]
    if photograph.image.size == (low, low):
        note = f"The picture has {low} × {low} pixels and was taken as the input itself."
        small_print(note)
        return Face(digest, np.asarray(photograph.image), None)
    crop = photograph.crop(0)
    choose = _which(photograph, crop.found, digest) if crop.found > 1 else 0
    if choose:
        crop = photograph.crop(choose)
    if st.toggle("Choose the square myself", key=f"sr3_by_hand_{digest[:12]}"):
        square = np.asarray(cropper.crop(photograph.image, photograph.faces or [], digest, choose))
        mark = hashlib.sha256(square.tobytes()).hexdigest()[:12]
        return _reduced(square, low, high, f"{digest}-{choose}-{mark}")
    small_print(crop.note)
    return _reduced(np.asarray(crop.image), low, high, f"{digest}-{choose}")


def _which(photograph: Photograph, found: int, digest: str) -> int:
    """Which of several faces: the largest, until the visitor chooses another."""
    key = f"sr3_which_{digest[:12]}"
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
