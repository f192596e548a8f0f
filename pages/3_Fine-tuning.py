"""Fine-tuning: how little repairs a domain, which time steps matter, and what it costs."""

import streamlit as st

from sr3.ui import chosen, measured
from sr3.ui.frame import page

LEAD = (
    "How little fine-tuning does a new domain of faces need, must all time steps be tuned, and "
    "what is forgotten? Gains are over the parent on the same images and noise."
)

with page("Fine-tuning", LEAD):
    subject = measured.choose()
    target = measured.choose_target(subject.story)
    measured.explain()
    little, steps, cost = st.tabs(
        ["How little?", "Which time steps?", "What does it cost?"],
        on_change="rerun", key="sr3_question",
    )  # fmt: skip
    if little.open:
        with little:
            measured.show(subject.chart("grid", target))
            domain = measured.choose_domain(subject.story, target, "sr3_curves_on")
            measured.show(subject.chart("curves", target, domain))
            measured.show(subject.chart("scratch", target))
    if steps.open:
        with steps:
            domain = measured.choose_domain(subject.story, target, "sr3_ranges_on")
            measured.show(subject.chart("ranges", target, domain))
            measured.show(subject.chart("chain"))
            measured.show(subject.chart("index"))
    if cost.open:
        with cost:
            chosen.trade(subject, target)
