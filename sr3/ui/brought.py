"""The pictures that a visitor brings: files, what is pasted, a photograph by the camera.

Invariants: Streamlit's uploader starts anew with its tab and its page, so the file that was looked
at last stays in the visitor's session, beside the last paste and the last photograph: one of each,
of at most `MOST` bytes, until the visitor removes or replaces it. What came last is looked at. An
upload is in no file at any time, not even while it is received.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import streamlit as st
from starlette.formparsers import MultiPartParser
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx

from sr3.ui.frame import small_print
from sr3.ui.paste import CLIPBOARD, MOST, PASTED, WHICH, pasted
from sr3.ui.settings import carry

FILE_TYPES = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "heic", "heif"]
FILES, CAMERA = "sr3_upload", "sr3_camera"  # keys of the widgets
SEEN = "sr3_seen"  # the marks of the uploader's files, when it was drawn last
FILE, SHOT = "sr3_file", "sr3_shot"  # what stays
STAYS = "in this server's memory until you remove it, replace it or close the tab"

# By default what is larger than a megabyte is spooled to a temporary file.
MultiPartParser.spool_max_size = MOST + (1 << 20)  # a part of a form is larger than its file


@dataclass(frozen=True)
class File:
    """An uploaded file that stays."""

    mark: str  # Streamlit's own, another for each upload
    name: str
    data: bytes


def upload(uploader: DeltaGenerator) -> bytes | None:
    """Of the visitor's files and what was pasted, the one that is looked at.

    Raises ImageError where the last paste was no picture.
    """
    files = uploader.file_uploader(
        "Photographs with a face", FILE_TYPES, accept_multiple_files=True, key=FILES,
        on_change=_files_changed, help=f"A picture stays {STAYS}. It is never stored.",
    )  # fmt: skip
    state, given = st.session_state, {file.file_id: file for file in files}
    _let_go(state.get(SEEN, set()) - set(given))
    state[SEEN] = set(given)
    clipboard = pasted()
    kept: File | None = state.get(FILE)
    titles = {CLIPBOARD: CLIPBOARD} if clipboard else {}
    if kept and kept.mark not in given:
        titles[kept.mark] = f"Earlier: {_short(kept.name)}"
    titles |= {file.file_id: f"{k}. {_short(file.name)}" for k, file in enumerate(files, 1)}
    if not titles:
        return None
    if (chosen := carry(WHICH, "")) not in titles:
        chosen = state[WHICH] = list(titles)[-1]
    if len(titles) > 1:
        st.selectbox(
            "Which picture?", list(titles), format_func=titles.__getitem__, key=WHICH,
            persist_state="session",
        )  # fmt: skip
    if chosen in given:
        return _looked_at(given[chosen])
    small_print(f"{titles[chosen]}.")
    _removable(PASTED if chosen == CLIPBOARD else FILE)
    return clipboard if chosen == CLIPBOARD or kept is None else kept.data


def camera() -> bytes | None:
    """The visitor's photograph. While there is one the camera stays off."""
    shot: bytes | None = st.session_state.get(SHOT)
    if shot is not None:
        small_print(f"Your photograph stays {STAYS}. Remove it to take another.")
        _removable(SHOT)
        return shot
    large = st.camera_input("A photograph of you", key=CAMERA, on_change=_photographed)
    small_print(f"It stays {STAYS}, and is not stored.")
    return large.getvalue() if large else None  # too large to stay: it is refused


def _looked_at(file: Any) -> bytes:
    """An uploaded file's bytes, which stay in place of the last ones."""
    data: bytes = file.getvalue()
    if len(data) <= MOST:
        st.session_state[FILE] = File(file.file_id, file.name, data)
    return data


def _files_changed() -> None:
    """Look at what is new; what the visitor took away does not stay."""
    state = st.session_state
    now, before = [file.file_id for file in state[FILES]], state.get(SEEN, set())
    if new := [mark for mark in now if mark not in before]:
        state[WHICH] = new[-1]
    if FILE in state and state[FILE].mark in before - set(now):
        del state[FILE]


def _photographed() -> None:
    """Keep what the camera took, once."""
    shot = st.session_state[CAMERA]
    if shot and len(shot.getvalue()) <= MOST:
        st.session_state[SHOT] = shot.getvalue()
        _let_go([shot.file_id])


def forget_files() -> None:
    """Let go of all that this session's visitor uploaded or photographed: Streamlit keeps it until
    the session ends, which at a stand is the evening."""
    context = get_script_run_ctx()
    if context is not None:
        context.uploaded_file_mgr.remove_session_files(context.session_id)


def _let_go(marks: Iterable[str]) -> None:
    """The same of some files."""
    context = get_script_run_ctx()
    if context is None or not isinstance(context.uploaded_file_mgr, MemoryUploadedFileManager):
        return
    for mark in marks:
        context.uploaded_file_mgr.remove_file(context.session_id, mark)


def _removable(key: str) -> None:
    """A button that lets go of what stays in the session under `key`."""
    st.button(
        "Remove this picture", on_click=st.session_state.pop, args=(key, None),
        icon=":material/delete:", key="sr3_remove",
    )  # fmt: skip


def _short(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:20]}…{name[-10:]}"
