"""About: what SR3 is, what this project asks, the terms of its parts, and what steps are worth."""

import streamlit as st

from sr3.ui import effort, words
from sr3.ui.frame import page

with page("About SR3 Lab", words.ABOUT_LEAD):
    with st.container(width=760):
        words.about()
    effort.section()
