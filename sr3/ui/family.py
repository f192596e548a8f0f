"""Whom a checkpoint descends from, as a drawing: fine-tunes, splices and blends under parents."""

from __future__ import annotations

import json
from collections.abc import Mapping

import streamlit as st

from sr3.checkpoints import RegistryEntry
from sr3.combine import Recipe
from sr3.errors import CheckpointError
from sr3.folder import read_settings
from sr3.ui.frame import small_print

# Okabe and Ito's colours; the label says the same as the colour.
STYLE = {
    "trained": ("#0072B2", "trained"), "delta": ("#009E73", "fine-tuned"),
    "spliced": ("#D55E00", "spliced"), "interpolated": ("#CC79A7", "interpolated"),
}  # fmt: skip


def tree(entries: Mapping[str, RegistryEntry]) -> None:
    """The drawing, and the same in words for those who cannot see it."""
    links = {name: parents_of(entry) for name, entry in entries.items()}
    st.graphviz_chart(dot(entries, links), width="content")
    lines = [
        f"{name}: {STYLE[kind][1]}" + (f" from {' and '.join(parents)}" if parents else "")
        for name, (kind, parents) in links.items()
    ]
    small_print(". ".join(lines) + ". A dashed frame: not here yet.")


def parents_of(entry: RegistryEntry) -> tuple[str, tuple[str, ...]]:
    """How a checkpoint was made, and of which others; from its settings, else the registry."""
    try:
        settings = read_settings(entry.path)
    except CheckpointError:
        settings = None
    if isinstance(settings, Recipe):
        return settings.kind, tuple(parent.name for parent in settings.parents)
    parents = (entry.parent,) if entry.parent else ()
    return ("delta" if parents else "trained"), parents


def dot(
    entries: Mapping[str, RegistryEntry], links: Mapping[str, tuple[str, tuple[str, ...]]]
) -> str:
    """Graphviz's own language; every name is a quoted string."""
    lines = [
        "digraph { rankdir=LR; bgcolor=transparent;",
        'node [shape=box, style="filled,rounded", fontname="sans-serif", fontcolor=white];',
        'edge [color="#888888"];',
    ]
    for name, (kind, parents) in links.items():
        colour, word = STYLE[kind]
        frame = "rounded,filled" if entries[name].available else "rounded,dashed"
        ink = ("white" if kind == "trained" else "black") if entries[name].available else "#777777"
        label = _quoted(f"{name}\n{word}")
        lines.append(
            f'{_quoted(name)} [label={label}, style="{frame}", fillcolor="{colour}", '
            f'color="{colour}", fontcolor="{ink}"];'
        )
        lines += [f"{_quoted(parent)} -> {_quoted(name)};" for parent in parents]
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
