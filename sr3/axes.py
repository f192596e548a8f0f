"""What the figures share: an empty figure, its axes, the bars of intervals and what marks tell.

Invariant: nothing here knows a question or a table's columns, but for `mean` or `gain` with its
`low`, `high`, `n` and `seeds`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sr3.looks import Look
from sr3.metrics import METRICS
from sr3.verdicts import seeds_told

ROW = 20  # pixels of a legend's row
SHORT = 15  # characters: shorter names stand three abreast
APART = 1 / 8  # of a logarithmic axis: how far its named ticks lie apart at least


def framed(title: str, look: Look, names: Sequence[str]) -> go.Figure:
    """An empty figure, its title above it, with room for a legend of these names."""
    figure = go.Figure(layout={"template": look.template, "title": {"text": title}})
    tall = max(map(len, names), default=0) > SHORT
    room = ROW * (1 + (len(names) if tall else (len(names) + 2) // 3))
    figure.update_layout(
        height=340 + room, margin={"b": 20 + room}, showlegend=bool(names),
        legend_orientation="v" if tall else "h",
    )  # fmt: skip
    return figure


def gain_title(metric: str) -> str:
    """The metric with its own arrow; a gain is signed, so what a fall means is said."""
    known = METRICS[metric]
    unit = f", {known.unit}" if known.unit else ""
    turned = " (a decrease)" if known.better == "lower" else ""
    return f"{known.title} {known.arrow} gain{unit}{turned}"


def digits(metric: str) -> int:
    """Decimals that a number of a metric is written with."""
    return 2 if METRICS[metric].unit == "dB" else 3


def bars(rows: pd.DataFrame, column: str, thin: bool = False) -> dict[str, Any]:
    """Plotly's error bars of an interval; none where there is none."""
    return {
        "type": "data", "array": rows["high"] - rows[column],
        "arrayminus": rows[column] - rows["low"], "thickness": 1 if thin else 1.5, "width": 3,
    }  # fmt: skip


def two_bars(rows: pd.DataFrame, column: str, look: Look) -> dict[str, Any]:
    """The same of a column with an interval of its own, where marks have two."""
    return {
        "type": "data", "array": rows[f"{column}_high"] - rows[column],
        "arrayminus": rows[column] - rows[f"{column}_low"], "thickness": 0.75, "width": 0,
        "color": look.muted,
    }  # fmt: skip


def hover_texts(rows: pd.DataFrame, column: str, head: str, second: Iterable[Any]) -> list[str]:
    """What a mark tells when pointed at."""
    lines = []
    for (_, row), note in zip(rows.iterrows(), second, strict=True):
        value = f"{METRICS[row['metric']].title} {'gain ' * (column == 'gain')}"
        value += (
            f"{row[column]:{'+' * (column == 'gain')}.4f}{interval_told(row['low'], row['high'])}"
        )
        n = f"n = {row['n']} images, {seeds_told(row['seeds'])}"
        lines.append("<br>".join(word for word in (head, str(note), value, n) if word))
    return lines


def interval_told(low: float, high: float) -> str:
    """An interval in parentheses, as it follows its mean."""
    return " (no interval)" if np.isnan(low) else f" (95% interval {low:.4f} to {high:.4f})"


def parent_line(figure: go.Figure, look: Look) -> None:
    """A level line at no gain."""
    figure.add_hline(
        0, line={"color": look.colour("parent"), "width": 1.5}, annotation_text="parent",
        annotation={"font": {"size": 11, "color": look.muted}},
        annotation_position="top left",
    )  # fmt: skip


def log_axis(figure: go.Figure, title: str, counts: pd.Series[int]) -> None:
    """Counts as measured; of those that crowd, the greatest is named."""
    ticks = sorted(set(counts), reverse=True)
    named, apart = ticks[:1], (ticks[0] / ticks[-1]) ** APART
    for count in ticks:
        if count * apart <= named[-1]:
            named.append(count)
    names = [f"{count:,}" if count in named else "" for count in ticks]
    figure.update_xaxes(title=title, type="log", tickvals=ticks, ticktext=names)


def time_axis(figure: go.Figure, times: pd.Series[int]) -> None:
    """Time steps as measured, evenly spaced: the ends of the chain matter as its middle does."""
    order = [f"{time:,}" for time in sorted(set(times))]
    figure.update_xaxes(
        title="time step (noise grows to the right)", type="category", categoryorder="array",
        categoryarray=order,
    )  # fmt: skip


def name_places(update: Callable[..., Any], texts: Sequence[str], **settings: Any) -> None:
    """Name the places 0, 1, ... of an axis."""
    update(
        tickvals=list(range(len(texts))), ticktext=list(texts), showgrid=False, zeroline=False,
        range=[-0.5, len(texts) - 0.5], **settings,
    )  # fmt: skip


def wrapped(name: str) -> str:
    """A long domain on several lines."""
    return name.replace("+", " +<br>").replace("-", "-<br>")
