"""Super-resolve: choose a face, watch it being resolved, compare. Start with `make app`."""

import streamlit as st

from sr3.ui import keep, links, live, result, tour, words
from sr3.ui.frame import alone, page
from sr3.ui.inputs import Face, choose
from sr3.ui.settings import Recipe

LEAD = (
    "From 16 × 16 pixels to 128 × 128: a diffusion model starts from noise and takes the noise "
    "away, step by step."
)


@alone
def resolve(face: Face | None, recipe: Recipe) -> None:
    run = live.current(face)
    live.controls(face, recipe, run)
    live.watch(face, run)
    if run is not None and run.ended:
        result.show(run)


with page("Super-resolve a face", LEAD):
    links.restore()
    choice, view = st.columns([1, 2.5], gap="medium")
    with choice:
        face, recipe = choose(hurry=live.first_visit())
    with view:
        live.arrive(face, recipe)
        resolve(face, recipe)
        keep.past()
        words.explain_chain()
    tour.show()
