"""Compare: one face, two to four networks on the same noise, side by side and in step."""

from collections.abc import Sequence

import streamlit as st

from sr3.config import SamplerConfig
from sr3.ui import duel, keep, mixing, service, words
from sr3.ui.frame import alone, page
from sr3.ui.inputs import Face, choose_face
from sr3.ui.mixing import Contestant
from sr3.ui.settings import choose_sampling, choose_seed

LEAD = "One face, one noise, several networks: what differs between the pictures comes from them."


@alone
def compare(
    face: Face | None, rivals: Sequence[Contestant], sampling: SamplerConfig, seed: int
) -> None:
    found = duel.run(face, rivals, sampling, seed)
    if found is not None:
        duel.tell(found, rivals, seed)


with page("Compare", LEAD):
    choice, view = st.columns([1, 2.5], gap="medium")
    with choice:
        chooser = st.container()
        rivals = mixing.choose()
        first = next((rival.key for rival in rivals if rival.resolver), None)
        lead = service.resolver(mixing.lead(first) if first else next(iter(service.offered())))
        with st.expander("Settings", icon=":material/tune:"):
            sampling, seed = choose_sampling(lead), choose_seed()
        with chooser:
            face = choose_face(lead.low_size, lead.high_size)
    with view:
        compare(face, rivals, sampling, seed)
        keep.past()
        words.explain_comparison()
