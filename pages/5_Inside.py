"""Inside the chain: take the reverse diffusion apart, step by step and sample by sample."""

import streamlit as st

from sr3.ui import inside, keep, links
from sr3.ui.frame import alone, page
from sr3.ui.inputs import choose

LEAD = "What each step does, how sure the network is, and what the settings change."

with page("Inside the chain", LEAD):
    choice, view = st.columns([1, 2.5], gap="medium")
    with choice:
        face, recipe = choose()
    with view:
        tabs = st.tabs(list(inside.PARTS), on_change="rerun", key=links.PART)
        for tab, part in zip(tabs, inside.PARTS.values(), strict=True):
            if tab.open:
                with tab:
                    alone(part)(face, recipe)
        keep.past()
