"""Super-resolve: choose a face, watch it being resolved, compare. Start with `make app`."""

import streamlit as st

from sr3.ui import keep, links, live, result, tour, words
from sr3.ui.frame import page
from sr3.ui.inputs import choose

LEAD = (
    "From 16 × 16 pixels to 128 × 128: a diffusion model starts from noise and takes the noise "
    "away, step by step."
)

with page("Super-resolve a face", LEAD):
    links.restore()
    choice, view = st.columns([1, 2.5], gap="medium")
    with choice:
        face, recipe = choose()
    with view:
        live.arrive(face, recipe)
        run = live.current(face)
        live.controls(face, recipe, run)
        live.watch(face, run)
        if run is not None and run.ended:
            result.show(run)
        keep.past()
        words.explain_chain()
    tour.show()
