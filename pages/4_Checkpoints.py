"""Checkpoints: what there is, what it was trained on, how good it is, and whom it descends from."""

import streamlit as st

from sr3.checkpoints import registry
from sr3.devices import pick_device
from sr3.ui import collection, family
from sr3.ui.frame import page, small_print

LEAD = "The networks of this app: what each was trained on, how it did, and where it is kept."

with page("Checkpoints", LEAD):
    entries = registry()
    collection.overview(entries)
    one, two, tree = st.tabs(["One checkpoint", "Compare two", "Family"])
    with one:
        collection.one(entries)
    sound = {name: entry for name, entry in entries.items() if not entry.problem}
    with two:
        collection.compare(sound)
    with tree:
        family.tree(sound)
    small_print(f"Networks run here on {pick_device().reason}.")
