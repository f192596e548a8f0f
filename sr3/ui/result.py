"""What is said about a result: how it was made, its scores beside bicubic's, and a download."""

from __future__ import annotations

import streamlit as st

from sr3.images import encode_png, enlarge
from sr3.ui import live, scoreboard
from sr3.ui.frame import small_print
from sr3.ui.live import Run
from sr3.ui.settings import describe


def show(run: Run) -> None:
    """Download, caption and scores under the stage. The run has ended with a picture."""
    picture = run.picture
    if picture is None:
        return
    recipe = run.recipe
    with st.container(horizontal=True):
        st.download_button(
            "Download PNG", encode_png(picture),
            f"sr3-{recipe.resolver.name}-seed{recipe.seed}.png", "image/png",
            icon=":material/download:", on_click="ignore", key="sr3_download",
        )  # fmt: skip
        st.button(
            "Try another seed", on_click=live.start_again, args=(run.face, recipe),
            icon=":material/casino:", key="sr3_again",
            help="The same face with other noise fills in other details.",
        )  # fmt: skip
    stopped = "" if run.job.status == "done" else ", stopped early"
    small_print(f"{describe(recipe)}{stopped}. One sample of one image.")
    bicubic = enlarge(run.face.low_res, picture.shape[0])
    scoreboard.show({"Bicubic": bicubic, "SR3": picture}, run.face)
