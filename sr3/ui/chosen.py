"""Gain against forgetting, with one checkpoint chosen: its settings, its numbers, where it is."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from sr3.cells import Cell, images_label
from sr3.checkpoints import registry
from sr3.ui import measured
from sr3.ui.frame import small_print
from sr3.ui.measured import Subject

KEY = "sr3_trade_choice"


def trade(subject: Subject, target: str) -> None:
    """The chart; a click on a mark, or the list under it, chooses a checkpoint."""
    view = subject.chart("trade", target, None).data
    labels = list(dict.fromkeys(view["checkpoint"]))
    if st.session_state.get(KEY) not in labels:
        st.session_state[KEY] = None
    chosen = st.session_state[KEY]
    measured.show(subject.chart("trade", target, chosen), _pick)
    if not labels:
        return
    st.selectbox(
        "Checkpoint", labels, key=KEY, placeholder="Choose one, here or with a click on its mark",
    )  # fmt: skip
    if chosen is not None:
        _tell(subject, view[view["checkpoint"] == chosen])


def _pick(label: str) -> None:
    st.session_state[KEY] = label


def _tell(subject: Subject, rows: pd.DataFrame) -> None:
    """All that is known of a checkpoint; `rows` has one a metric."""
    st.markdown("\n".join(f"- {sentence}" for sentence in rows["sentence"]))
    names = rows["names"].iloc[0].split("\n")
    cell = Cell.parse(names[0])
    if cell is not None:
        st.table(_settings(cell), border="horizontal")
    table = subject.story.table
    known = table[table["checkpoint"].isin(names)].drop_duplicates("checkpoint_hash")
    offered = {entry.sha256: entry for entry in registry().values() if entry.sha256}
    for row in known.to_dict("records"):
        entry = offered.get(row["checkpoint_hash"])
        again = "; the study makes it again" if Cell.parse(row["checkpoint"]) else ""
        where = f"not kept{again}" if entry is None else f"in the app: {entry.title}"
        small_print(f"`{row['checkpoint']}`, weights {row['checkpoint_hash'][:12]}, {where}.")


def _settings(cell: Cell) -> dict[str, str]:
    method = f"LoRA of rank {cell.lora}" if cell.lora else "every weight"
    return {
        "Parent": "untrained weights" if cell.scratch else cell.parent,
        "Target": cell.target,
        "Images": images_label(cell.images),
        "Updates": f"{cell.updates:,}",
        "Time steps": f"{cell.range[0]}:{cell.range[1]}",
        "Tuned": method,
        "Replay": f"{cell.replay:.0%} of each batch" if cell.replay else "none",
        "Learning rate": f"{cell.rate:g}" if cell.rate else "the method's own",
    }
