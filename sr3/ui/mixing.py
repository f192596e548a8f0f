"""Who is compared: registered checkpoints, mixtures of two of them, and bicubic.

A contestant's key says what it is (`lite`, `interpolated:lite:anime:0.5`, `spliced:lite:anime:500`,
`bicubic`), so that a link can name it; the sliders of a mixture are live.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from sr3.checkpoints import RegistryEntry
from sr3.combine import same_chain, same_network
from sr3.config import ModelConfig
from sr3.folder import read_config
from sr3.pipeline import SuperResolver
from sr3.ui import service
from sr3.ui.frame import small_print
from sr3.ui.settings import carry

BICUBIC = "bicubic"
MIXED = {"interpolated": "Interpolated", "spliced": "Spliced"}
MOST = 4
MOST_WEIGHT = 1.5  # beyond 1 the change is exaggerated
RIVALS, PAIR = "sr3_rivals", "sr3_pair"  # keys of the session
WEIGHT, SPLICE = "sr3_weight", "sr3_splice"


@dataclass(frozen=True)
class Contestant:
    """One of those compared; `resolver` is None for bicubic."""

    key: str
    title: str
    resolver: SuperResolver | None


def choose() -> list[Contestant]:
    """Two to four contestants. Raises CheckpointError where there is no checkpoint."""
    entries = of_one_size(service.offered())
    pairs = _pairs(entries)
    options = [BICUBIC, *entries, *(MIXED if pairs else ())]
    rivals = carry(RIVALS, [BICUBIC, *introduced(entries)])
    st.session_state[RIVALS] = [each for each in rivals if each in options]
    names = {BICUBIC: "Bicubic", **MIXED} | {name: entry.title for name, entry in entries.items()}
    chosen = st.multiselect(
        "Compare", options, key=RIVALS, max_selections=MOST, format_func=names.__getitem__,
        placeholder="Two to four", help="All of them get the same input and the same noise.",
        persist_state="session",
    )  # fmt: skip
    parent = tuned = ""
    if set(chosen) & set(MIXED):
        parent, tuned = _pair(pairs, entries)
    return [_contestant(name, names, parent, tuned) for name in chosen]


def of_one_size(entries: dict[str, RegistryEntry]) -> dict[str, RegistryEntry]:
    """Those that the first one's face fits, and whose pictures can stand beside its own."""
    sizes = {name: entry.sizes for name, entry in entries.items()}
    return {name: entries[name] for name in entries if sizes[name] == next(iter(sizes.values()))}


def _contestant(name: str, names: dict[str, str], parent: str, tuned: str) -> Contestant:
    if name == BICUBIC:
        return Contestant(BICUBIC, "Bicubic", None)
    if name not in MIXED:
        return Contestant(name, names[name], service.resolver(name))
    value = _weight() if name == "interpolated" else float(_splice(service.resolver(parent)))
    title = (
        f"Interpolated, w = {value:g}" if name == "interpolated" else f"Spliced at t = {value:g}"
    )
    mixed = service.mixture(name, parent, tuned, value)
    return Contestant(f"{name}:{parent}:{tuned}:{value:g}", title, mixed)


def _weight() -> float:
    carry(WEIGHT, 0.5)
    return float(
        st.slider(
            "Interpolation weight w", 0.0, MOST_WEIGHT, step=0.05, key=WEIGHT,
            help="0 is the pretrained network, 1 the fine-tuned one; beyond 1 goes further.",
            persist_state="session",
        )
    )  # fmt: skip


def _splice(parent: SuperResolver) -> int:
    last = parent.schedule.steps
    carry(SPLICE, last // 4)
    return int(
        st.slider(
            "Splice at time step", 50, last - 50, step=50, key=SPLICE,
            help="The pretrained network works above it, where the image is noisier, and the "
            "fine-tuned one from it down to the finished image.",
            persist_state="session",
        )
    )  # fmt: skip


def _pair(pairs: Sequence[tuple[str, str]], entries: dict[str, RegistryEntry]) -> tuple[str, str]:
    """(parent, tuned) that a mixture is made of."""
    titles = {pair: f"{entries[pair[0]].title} + {entries[pair[1]].title}" for pair in pairs}
    if len(pairs) == 1:
        small_print(f"Mixture of {titles[pairs[0]]}.")
        return pairs[0]
    if carry(PAIR, pairs[0]) not in pairs:
        st.session_state[PAIR] = pairs[0]
    return st.selectbox(
        "Mixture of", pairs, key=PAIR, format_func=titles.__getitem__, persist_state="session"
    )


def _pairs(entries: dict[str, RegistryEntry]) -> list[tuple[str, str]]:
    """(parent, tuned) of one family, first those tuned on another domain; a mixture is not mixed
    again (it was tuned on no images), nor is a distilled network, which has another chain."""
    whole = {name: entry for name, entry in entries.items() if entry.images}
    known = [(e.parent, n) for n, e in whole.items() if e.parent in whole and e.parent is not None]
    fit = [pair for pair in known if _mixable(*(read_config(entries[n].path) for n in pair))]
    return sorted(fit, key=lambda pair: entries[pair[0]].domain == entries[pair[1]].domain)


def _mixable(parent: ModelConfig, tuned: ModelConfig) -> bool:
    return same_network(parent, tuned) and same_chain(parent, tuned)


def introduced(entries: dict[str, RegistryEntry]) -> list[str]:
    """Up to two networks that show what this is about: a parent and its fine-tune elsewhere."""
    pairs = _pairs(entries)
    return list(pairs[0] if pairs else entries)[:2]


# ------------------------------------------------------------------------------------------- links
def lead(key: str) -> str:
    """The registered checkpoint whose settings a contestant's key goes by."""
    return key.split(":")[1] if ":" in key else key


def restore(keys: Sequence[str]) -> list[str]:
    """Take the contestants of a link into the session; give those that are offered here."""
    entries, state = service.offered(), st.session_state
    pairs = _pairs(entries)
    fit, chosen = [], []
    for key in keys:
        kind, *parts = key.split(":")
        if not parts and (kind == BICUBIC or kind in entries):
            chosen.append(kind)
        elif kind in MIXED and len(parts) == 3 and (parts[0], parts[1]) in pairs:
            try:
                value = float(parts[2])
            except ValueError:
                continue
            last = service.resolver(parts[0]).schedule.steps
            if kind == "interpolated" and 0 <= value <= MOST_WEIGHT:
                state[WEIGHT] = round(value * 20) / 20
            elif kind == "spliced" and 50 <= value <= last - 50:
                state[SPLICE] = round(value / 50) * 50
            else:
                continue
            state[PAIR] = (parts[0], parts[1])
            chosen.append(kind)
        else:
            continue
        fit.append(key)
    if fit:
        state[RIVALS] = list(dict.fromkeys(chosen))
    return fit
