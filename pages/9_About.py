"""About: what SR3 is, what this project asks, and the terms of its parts."""

import streamlit as st

from sr3.ui import words
from sr3.ui.frame import page

with page("About SR3 Lab", words.ABOUT_LEAD), st.container(width=760):
    words.about()
