"""Domains: how good each checkpoint is on each domain of faces, beside the baselines."""

import streamlit as st

from sr3.ui import measured, samples
from sr3.ui.frame import page

LEAD = (
    "A model that was trained on one domain of faces, measured on others: does it still beat the "
    "simple ways of enlarging? Each mark is a mean, its bar an interval."
)

with page("Quality across domains", LEAD):
    subject = measured.choose()
    story = subject.story
    shown = None
    if story.identities:
        shown = st.multiselect(
            "Checkpoints beside the baselines", measured.beside_baselines(story),
            measured.highlights(story), key="sr3_shown", placeholder="Choose checkpoints",
        )  # fmt: skip
    measured.explain()
    measured.show(subject.chart("quality", None if shown is None else tuple(shown)))
    samples.show()
