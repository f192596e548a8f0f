"""The figures of app, report and poster, in Plotly: each from a table of `sr3.views`.

Invariants: a figure is a pure function of a table and a look, and holds one metric or one domain,
so that pages can place several side by side or one under another; every mark tells its mean, its
interval, n and seeds when pointed at; nothing is drawn for what was not measured.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sr3.axes import (
    bars,
    digits,
    framed,
    gain_title,
    hover_texts,
    interval_told,
    log_axis,
    name_places,
    parent_line,
    time_axis,
    two_bars,
    wrapped,
)
from sr3.looks import DARK, KINDS, SYMBOLS, Kind, Look
from sr3.metrics import METRICS
from sr3.verdicts import seeds_told

NARROW = 0.75  # of the room between two domains that their marks take
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MANY = 7  # columns of a grid from which its numbers are written smaller: three grids stand abreast


# -------------------------------------------------------------------------------------- question 1
def quality(
    view: pd.DataFrame, metric: str, images: dict[str, int | None], look: Look
) -> go.Figure:
    """One metric by domain, a mark a checkpoint; `images` by label, of plain fine-tunes."""
    view = view[view["metric"] == metric]
    domains, order = list(view["domain"].unique()), list(images)
    labels = sorted(view["checkpoint"].unique(), key=lambda k: order.index(k) if k in images else 0)
    figure = framed(METRICS[metric].label, look, labels)
    for number, label in enumerate(labels):
        rows = view[view["checkpoint"] == label]
        kind: Kind = rows["kind"].iloc[0]
        step = NARROW / max(len(labels) - 1, 1)
        places = rows["domain"].map(domains.index) + number * step - NARROW / 2
        figure.add_scatter(
            x=places, y=rows["mean"], name=label, mode="markers",
            marker=look.marker(kind, images.get(label)), error_y=bars(rows, "mean"),
            text=hover_texts(rows, "mean", label, rows["domain"]), hoverinfo="text",
        )  # fmt: skip
    for place in range(1, len(domains)):
        figure.add_vline(place - 0.5, line={"color": look.grid, "width": 1})
    name_places(figure.update_xaxes, [wrapped(name) for name in domains], tickangle=0)
    return figure


# -------------------------------------------------------------------------------------- question 2
def grid(
    view: pd.DataFrame, metric: str, look: Look, marks: dict[str, tuple[str, int]]
) -> go.Figure:
    """Gain by images (rows) and updates (columns); `marks` are cells to name."""
    view = view[view["metric"] == metric]
    images = list(dict.fromkeys(view["images"]))
    updates = sorted(set(view["updates"]))
    shape = (len(images), len(updates))
    values, texts = np.full(shape, np.nan), np.full(shape, "", object)
    hover = np.full(shape, "", object)
    for (_, row), text in zip(
        view.iterrows(), hover_texts(view, "gain", "", view["images"]), strict=True
    ):
        place = images.index(row["images"]), updates.index(row["updates"])
        values[place], texts[place] = row["gain"], f"{row['gain']:+.{digits(metric)}f}"
        hover[place] = f"{text}<br>{row['updates']:,} updates"
    figure = framed(gain_title(metric), look, list(marks))
    reach = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    figure.add_heatmap(
        z=values, x=list(range(len(updates))), y=list(range(len(images))),
        hovertext=hover, hoverinfo="text", hoverongaps=False,
        showscale=False, colorscale=look.colourscale, zmin=-reach, zmax=reach, xgap=2,
        ygap=2,
    )  # fmt: skip
    rows, columns = np.nonzero(np.isfinite(values))
    shades = [look.readable(values[place] / reach) for place in zip(rows, columns, strict=True)]
    figure.add_scatter(  # not the heat map's own text, which is too faint on middling blues
        x=columns, y=rows, text=texts[rows, columns], mode="text",
        textfont={"color": shades, "size": 12 if len(updates) < MANY else 10},
        hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    places = {
        name: (updates.index(k), images.index(n)) if n in images and k in updates else None
        for name, (n, k) in marks.items()
    }
    _name_cells(figure, look, places)
    name_places(figure.update_xaxes, [f"{k:,}" for k in updates], title="updates")
    name_places(figure.update_yaxes, images)
    return figure


def _name_cells(figure: go.Figure, look: Look, places: dict[str, tuple[int, int] | None]) -> None:
    """Mark cells of a grid, (column, row) by name, above the number that stands in each."""
    corners = (("star", 0.32), ("circle", -0.32))  # of a cell: both may be the same one
    for (name, place), (symbol, aside) in zip(places.items(), corners, strict=False):
        if place is not None:
            figure.add_scatter(
                x=[place[0] + aside], y=[place[1] + 0.32], name=name, mode="markers",
                hoverinfo="name",
                marker={
                    "symbol": symbol, "size": 12, "color": look.palette[-1],
                    "line": {"width": 1.5, "color": DARK},
                },
            )  # fmt: skip


def curves(view: pd.DataFrame, metric: str, domain: str, look: Look) -> go.Figure:
    """Gain over the updates, a line a number of images; the parent is the line at 0."""
    view = view[(view["metric"] == metric) & (view["domain"] == domain)]
    images = list(dict.fromkeys(view["images"]))
    figure = framed(gain_title(metric), look, images)
    for number, count in enumerate(images):
        rows = view[view["images"] == count].sort_values("updates")
        colour = look.colour("plain", _count(count))
        figure.add_scatter(
            x=rows["updates"], y=rows["gain"], name=count, mode="lines+markers",
            line={"color": colour, "dash": DASHES[number % len(DASHES)], "width": 2},
            marker=look.marker("plain", _count(count), 8), error_y=bars(rows, "gain", thin=True),
            text=hover_texts(rows, "gain", f"{domain}, {count}", _updates(rows)), hoverinfo="text",
        )  # fmt: skip
    parent_line(figure, look)
    log_axis(figure, "updates", view["updates"])
    return figure


# -------------------------------------------------------------------------------------- question 3
def ranges(view: pd.DataFrame, metric: str, domain: str, whole: str, look: Look) -> go.Figure:
    """Gain by the range of time steps that was trained on, a mark a number of updates."""
    view = view[(view["metric"] == metric) & (view["domain"] == domain)]
    spans = sorted(set(view["range"]), key=lambda span: (span != whole, *map(int, span.split(":"))))
    updates = sorted(set(view["updates"]))
    figure = framed(gain_title(metric), look, [f"{k:,} updates" for k in updates])
    for number, count in enumerate(updates):
        rows = view[view["updates"] == count]
        kinds: list[Kind] = ["plain" if span == whole else "range" for span in rows["range"]]
        step = NARROW / 2 / max(len(updates) - 1, 1)
        places = rows["range"].map(spans.index) + number * step - (NARROW / 4) * (len(updates) > 1)
        size = 8 + 5 * number / max(len(updates) - 1, 1)
        name = f"{count:,} updates"
        figure.add_scatter(
            x=places, y=rows["gain"], name=name, mode="markers",
            error_y=bars(rows, "gain") | {"color": look.muted},
            marker={
                "color": [look.colour(kind) for kind in kinds], "size": size, "opacity": 1,
                "symbol": [SYMBOLS[kind] for kind in kinds],
                "line": {"color": look.text, "width": 1},
            },
            text=hover_texts(rows, "gain", f"{domain}, {name}", "time steps " + rows["range"]),
            hoverinfo="text",
        )  # fmt: skip
    parent_line(figure, look)
    name_places(
        figure.update_xaxes, spans, title="time steps trained on",
        autotickangles=[0, -45],  # turned the other way, the last one is cut off on a phone
    )  # fmt: skip
    return figure


def chain(view: pd.DataFrame, domain: str, source: str, look: Look) -> go.Figure:
    """The error on a domain over that on the source, by time step, a line a checkpoint."""
    view = view[view["domain"] == domain]
    labels = list(dict.fromkeys(view["checkpoint"]))
    title = f"error on {domain} / on {source}"
    figure = framed(title, look, labels)
    for number, label in enumerate(labels):
        rows = view[view["checkpoint"] == label].sort_values("time")
        kind: Kind = rows["kind"].iloc[0]
        bars = {
            "type": "data", "array": rows["ratio_high"] - rows["ratio"],
            "arrayminus": rows["ratio"] - rows["ratio_low"], "thickness": 1, "width": 3,
        }  # fmt: skip
        texts = [
            f"{label}<br>time step {row['time']:,}<br>{row['ratio']:.3f} times "
            f"(95% interval {row['ratio_low']:.3f} to {row['ratio_high']:.3f})<br>difference "
            f"{row['gap']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})<br>"
            f"n = {row['n_domain']} and {row['n_reference']}"
            for _, row in rows.iterrows()
        ]
        figure.add_scatter(
            x=[f"{time:,}" for time in rows["time"]], y=rows["ratio"], name=label,
            mode="lines+markers", error_y=bars,
            line={"color": look.colour(kind), "dash": DASHES[number % len(DASHES)], "width": 2},
            marker=look.marker(kind, None, 8), text=texts, hoverinfo="text",
        )  # fmt: skip
    figure.add_hline(1, line={"color": look.muted, "dash": "dot", "width": 1.5})
    time_axis(figure, view["time"])
    return figure


def index(view: pd.DataFrame, label: str, look: Look) -> go.Figure:
    """The SRGA-style index by time step for one checkpoint, a line a domain."""
    view = view[view["checkpoint"] == label]
    domains = list(dict.fromkeys(view["domain"]))
    halves = [f"two halves of {name}" for name in domains]  # the longest that a name gets
    figure = framed("SRGA-style index (halves: the same)", look, halves)
    for number, domain in enumerate(domains):
        rows = view[view["domain"] == domain].sort_values("time")
        texts = [
            f"{domain}<br>time step {row['time']:,}<br>{row['index']:.3f} ({row['lowest']:.3f} to "
            f"{row['highest']:.3f} over {row['splits']} splits, n = {row['n']} images a side)"
            for _, row in rows.iterrows()
        ]
        figure.add_scatter(
            x=[f"{time:,}" for time in rows["time"]], y=rows["index"],
            name=f"two halves of {domain}" if (rows["reference"] == domain).all() else domain,
            mode="lines+markers",
            line={"color": look.text, "dash": DASHES[number % len(DASHES)], "width": 2},
            marker={"color": look.palette[number % len(look.palette)], "size": 9,
                    "symbol": list(SYMBOLS.values())[number % len(SYMBOLS)],
                    "line": {"color": look.text, "width": 1}},
            text=texts, hoverinfo="text",
        )  # fmt: skip
    time_axis(figure, view["time"])
    return figure


# -------------------------------------------------------------------------------------- question 4
def trade(
    view: pd.DataFrame, metric: str, target: str, source: str, look: Look,
    chosen: str | None = None,
) -> go.Figure:  # fmt: skip
    """Gain on the target against change on the source; the Pareto front is a line. A mark's
    `customdata` is its label."""
    view = view[view["metric"] == metric]
    kinds = [kind for kind in KINDS if kind in set(view["kind"])]
    known = METRICS[metric]
    title = f"{known.title} {known.arrow} gain on {source}"  # short: a phone has no room for more
    figure = framed(title, look, ["Pareto front", "parent", *(KINDS[kind] for kind in kinds)])
    front = view[view["front"]].sort_values("gain")
    figure.add_scatter(
        x=front["gain"], y=front["change"], name="Pareto front", mode="lines", hoverinfo="skip",
        line={"color": look.muted, "dash": "dot", "width": 2},
    )  # fmt: skip
    figure.add_scatter(
        x=[0], y=[0], name="parent", mode="markers", marker=look.marker("parent", None, 14),
        text=["the parent"], hoverinfo="text", customdata=[""],
    )  # fmt: skip
    for kind in kinds:
        rows = view[view["kind"] == kind]
        marker = look.marker(kind)
        marker["color"] = [look.colour(kind, _count(count)) for count in rows["images"]]
        marker["opacity"] = 1
        marker["size"] = [17 if label == chosen else 10 for label in rows["checkpoint"]]
        figure.add_scatter(
            x=rows["gain"], y=rows["change"], name=KINDS[kind], mode="markers", marker=marker,
            error_x=two_bars(rows, "gain", look), error_y=two_bars(rows, "change", look),
            text=_trade_hover(rows, target, source), hoverinfo="text",
            customdata=rows["checkpoint"],
        )  # fmt: skip
    for add in (figure.add_hline, figure.add_vline):
        add(0, line={"color": look.muted, "width": 1.5})
    figure.update_xaxes(title=f"gain on {target} (more is better)", zeroline=False)
    figure.update_yaxes(zeroline=False)
    return figure


# ---------------------------------------------------------------------------------------- baseline
def scratch(view: pd.DataFrame, base: pd.DataFrame, metric: str, look: Look) -> go.Figure:
    """One metric on the target over the updates: fine-tuned and from scratch; `base` holds the
    baselines' rows, drawn as lines across."""
    view, base = view[view["metric"] == metric], base[base["metric"] == metric]
    lines = list(dict.fromkeys(view["line"]))
    figure = framed(METRICS[metric].label, look, [*lines, *base["checkpoint"]])
    for number, line in enumerate(lines):
        rows = view[view["line"] == line]
        kind: Kind = rows["kind"].iloc[0]
        figure.add_scatter(
            x=rows["updates"], y=rows["mean"], name=line, mode="lines+markers",
            line={"color": look.colour(kind), "dash": DASHES[number % len(DASHES)], "width": 2},
            marker=look.marker(kind, None, 8), error_y=bars(rows, "mean", thin=True),
            text=hover_texts(rows, "mean", line, _updates(rows)), hoverinfo="text",
        )  # fmt: skip
    ends = [view["updates"].min(), view["updates"].max()] if len(view) else [1, 10]
    for number, (_, row) in enumerate(base.iterrows()):
        hover = hover_texts(base.iloc[[number]], "mean", row["checkpoint"], [row["domain"]])
        figure.add_scatter(
            x=ends, y=[row["mean"]] * 2, name=row["checkpoint"], mode="lines+markers",
            line={"color": look.colour(row["kind"]), "dash": "dot", "width": 1.5},
            marker=look.marker(row["kind"], None, 8), text=hover * 2, hoverinfo="text",
        )  # fmt: skip
    log_axis(figure, "updates", view["updates"])
    return figure


# ------------------------------------------------------------------------------------ evaluations
def effort(view: pd.DataFrame, metric: str, look: Look) -> go.Figure:
    """One metric against network evaluations, a line a way to sample (`sr3.curve.curve`); the
    first is the recommended one."""
    order = list(dict.fromkeys(view["line"]))
    rows = view[view["metric"] == metric]
    figure = framed(METRICS[metric].label, look, order)
    symbols = list(SYMBOLS.values())
    for number, line in enumerate(order):
        mine = rows[rows["line"] == line].sort_values("steps")
        texts = [
            f"{line}<br>{row['steps']:,} evaluations<br>{METRICS[metric].title} "
            f"{row['mean']:.4f}{interval_told(row['low'], row['high'])}<br>n = {row['n']} images"
            for _, row in mine.iterrows()
        ]
        colour = look.text if number == 0 else look.palette[(number - 1) % len(look.palette)]
        figure.add_scatter(
            x=mine["steps"], y=mine["mean"], name=line, mode="lines+markers",
            line={"color": colour, "dash": DASHES[number % len(DASHES)],
                  "width": 3 if number == 0 else 1.5},
            marker={"color": colour, "symbol": symbols[number % len(symbols)], "size": 8,
                    "line": {"color": look.text, "width": 1}},
            error_y=bars(mine, "mean", thin=True), text=texts, hoverinfo="text",
        )  # fmt: skip
    log_axis(figure, "network evaluations", rows["steps"])
    return figure


# ------------------------------------------------------------------------------------------- parts
def _trade_hover(rows: pd.DataFrame, target: str, source: str) -> list[str]:
    return [
        f"{row['checkpoint']}<br>{target}: {row['gain']:+.4f}"
        f"{interval_told(row['gain_low'], row['gain_high'])}, n = {row['n_target']}<br>{source}: "
        f"{row['change']:+.4f}{interval_told(row['change_low'], row['change_high'])}, "
        f"n = {row['n_source']}<br>{seeds_told(row['seeds'])}"
        for _, row in rows.iterrows()
    ]


def _updates(rows: pd.DataFrame) -> list[str]:
    return [f"{count:,} updates" for count in rows["updates"]]


def _count(images: str) -> int | None:
    """The number in `images_label`'s text."""
    digits = images.split()[0].replace(",", "")
    return int(digits) if digits.isdigit() else None
