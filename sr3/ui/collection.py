"""The registry as people read it: facts, measured scores, where it is, its card; two compared.

Invariants: every score is derived from the table of measurements of exactly that checkpoint's
hash, sampled in one way; where there is none, it says "unmeasured".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from sr3 import checkpoints
from sr3.checkpoints import RegistryEntry
from sr3.errors import CheckpointError
from sr3.folder import CARD, weights_hash
from sr3.gains import commonest_sampling
from sr3.hub_card import scores_of
from sr3.metrics import METRICS
from sr3.results import read
from sr3.ui import fetching
from sr3.ui.frame import small_print

UNMEASURED = "unmeasured"


@st.cache_data(max_entries=2, show_spinner=False)
def _table(state: tuple[tuple[str, int], ...]) -> pd.DataFrame:
    return read(checkpoints.ROOT / "metrics")


@st.cache_data(max_entries=256, show_spinner="Reading the measurements …")
def _scores(digest: str, state: tuple[tuple[str, int], ...]) -> pd.DataFrame:
    return scores_of(digest, _table(state))


def scores(entry: RegistryEntry) -> pd.DataFrame:
    """Summaries of one checkpoint, a row a domain and metric; empty if unmeasured."""
    parts = sorted((checkpoints.ROOT / "metrics").glob("*.parquet"))
    state = tuple((part.name, part.stat().st_size) for part in parts)
    return usual(_scores(_identity(entry), state))


def usual(found: pd.DataFrame) -> pd.DataFrame:
    """The summaries with the commonest sampling, over the longest list of images of each domain."""
    sampler, steps = commonest_sampling(found) or ("", 0)
    own = found[(found["sampler"] == sampler) & (found["steps"] == steps)]
    if own.empty:  # unmeasured: no summary, so none of its columns
        return own
    return own.sort_values("n", kind="stable").drop_duplicates(["domain", "metric"], keep="last")


def _identity(entry: RegistryEntry) -> str:
    try:
        return entry.sha256 or weights_hash(entry.path)
    except CheckpointError:
        return "not here"


def place(entry: RegistryEntry) -> str:
    """Where a checkpoint is, in a few words."""
    if entry.problem:
        return "broken entry"
    if entry.available:
        return "here"
    if entry.complete:
        return "here, without its parent"
    return "on the Hub" if entry.pin else "missing"


def facts(entry: RegistryEntry) -> dict[str, str]:
    """What is known of a checkpoint, as people read it."""
    return {
        "Trained on": entry.domain or "not known",
        "Images": f"{entry.images:,}" if entry.images else "not known",
        "Updates": f"{entry.updates:,}" if entry.updates else "not known",
        "Time steps": entry.range or "all",
        "Parent": entry.parent or "none",
        **tuning(entry),
        "Size": size(entry),
        "Licence": entry.licence or "not stated",
        "Where": place(entry),
    }


def tuning(entry: RegistryEntry) -> dict[str, str]:
    """How it was made of its parent."""
    rank = f" of rank {entry.rank}" if entry.rank else ""
    return {
        "Method": (entry.method or "not known") + rank,
        "Replay": _number(entry.replay, ".0%", " of each batch"),
        "Learning rate": _number(entry.rate, "g"),
    }


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "not known" if value is None else f"{value:{form}}{unit}" if value else "none"


def size(entry: RegistryEntry) -> str:
    """Of its files, as far as that is known without asking the Hub."""
    if entry.complete:
        return _size(sum(file.stat().st_size for file in entry.path.glob("*") if file.is_file()))
    if entry.size:
        return f"{_size(entry.size)} to fetch"
    return "size shown when fetched" if entry.pin else "not here"


def _size(count: int) -> str:
    """Bytes for people: a recipe of other checkpoints has a few kB."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.0f} kB"


def overview(entries: Mapping[str, RegistryEntry]) -> None:
    """One row a checkpoint, with a small chart of its PSNR on each domain."""
    found = {name: scores(entry) for name, entry in entries.items()}
    domains = sorted({str(domain) for table in found.values() for domain in table["domain"]})
    rows = [
        {
            "Name": name, "Title": entry.title,
            "PSNR ↑ by domain": _bars(found[name], "psnr", domains),
            "LPIPS ↓ by domain": _bars(found[name], "lpips", domains),
            **{fact: told for fact, told in facts(entry).items() if fact not in tuning(entry)},
        }
        for name, entry in entries.items()
    ]  # fmt: skip
    chart = st.column_config.BarChartColumn
    st.dataframe(
        pd.DataFrame(rows), hide_index=True, width="stretch",
        column_config={
            "PSNR ↑ by domain": chart(help="dB, each domain that was measured", y_min=0, y_max=30),
            "LPIPS ↓ by domain": chart(help="each domain that was measured", y_min=0, y_max=0.6),
        },
    )  # fmt: skip
    order = ", ".join(domains) or UNMEASURED
    small_print(f"Bars, from left to right: {order}. No bar: {UNMEASURED}.")


def _bars(table: pd.DataFrame, metric: str, domains: list[str]) -> list[float]:
    """A mean a domain; 0, which draws nothing, where there is none."""
    means = table[table["metric"] == metric].groupby("domain")["mean"].mean()
    return [float(means.get(domain, 0.0)) for domain in domains]


def one(entries: Mapping[str, RegistryEntry]) -> None:
    """A checkpoint's facts, scores and card; fetched where it is not here."""
    name = st.selectbox("Checkpoint", list(entries), key="sr3_card_of")
    entry = entries[name]
    if entry.problem:
        st.error(entry.problem, icon=":material/error:")
        return
    if not entry.available and entry.pin:
        fetching.panel(name)
    elif not entry.available:
        st.warning(f"{name} is not in this copy of the app: its folder is missing.")
    left, right = st.columns([1, 1.4], gap="medium")
    with left:
        st.table(pd.Series(facts(entry), name=name).to_frame(), border="horizontal")
    with right:
        _score_table({name: scores(entry)})
    card = entry.path / CARD
    if card.is_file():
        with st.expander("The card", icon=":material/description:"):
            st.markdown(_body(card.read_text(encoding="utf-8")))


def compare(entries: Mapping[str, RegistryEntry]) -> None:
    """Two checkpoints side by side."""
    names = list(entries)
    if len(names) < 2:
        st.info("There is only one checkpoint: fine-tune one, or register one of the Hub.")
        return
    left, right = st.columns(2)
    first = left.selectbox("First", names, 0, key="sr3_first")
    second = right.selectbox("Second", names, 1, key="sr3_second")
    chosen = list(dict.fromkeys((first, second)))
    st.table(pd.DataFrame({name: facts(entries[name]) for name in chosen}), border="horizontal")
    _score_table({name: scores(entries[name]) for name in chosen})


def _score_table(found: Mapping[str, pd.DataFrame]) -> None:
    """Means with 95 % intervals: a row a domain and metric, a column a checkpoint."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for name, table in found.items():
        for _, row in table[table["metric"].isin(("psnr", "ssim", "lpips"))].iterrows():
            key = str(row["domain"]), METRICS[str(row["metric"])].label
            rows.setdefault(key, {})[name] = _value(row)
    if not rows:
        st.markdown(f"Scores: {UNMEASURED}.")
        return
    table = pd.DataFrame([
        {"Domain": domain, "Metric": metric} | {name: cells.get(name, UNMEASURED) for name in found}
        for (domain, metric), cells in sorted(rows.items())
    ])  # fmt: skip
    st.table(table, hide_index=True, border="horizontal")
    count = max(int(frame["n"].max()) for frame in found.values() if not frame.empty)
    ways = {
        way
        for frame in found.values()
        for way in zip(frame["sampler"], frame["steps"], strict=True)
    }
    sampled = ", ".join(f"{sampler} with {steps} steps" for sampler, steps in sorted(ways))
    small_print(
        f"Means over test images (at most {count} a domain), in brackets 95 % bootstrap intervals. "
        f"Sampled by {sampled}."
    )


def _value(row: Any) -> str:
    digits = 2 if row["metric"] == "psnr" else 3
    text = f"{row['mean']:.{digits}f}"
    return (
        text
        if pd.isna(row["low"])
        else f"{text} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
    )


def _body(card: str) -> str:
    """A card without its metadata, headings made smaller than the page's own."""
    text = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    return re.sub(r"(?m)^(#+) ", r"##\1 ", text)
