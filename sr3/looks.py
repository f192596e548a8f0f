"""One visual language: the theme's colours, and a colour and a symbol for every checkpoint.

Invariants: colours are read from `.streamlit/config.toml` alone, so that app, charts, report and
poster agree; a checkpoint's colour and symbol follow from what it is, never from what is drawn
beside it; kinds differ in their symbol too, since colour alone tells some readers nothing.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache, cached_property
from math import log2
from pathlib import Path
from typing import Any, Literal

import plotly.graph_objects as go

Scheme = Literal["light", "dark"]
Kind = Literal[
    "bicubic", "regression", "parent", "plain", "range", "replay", "lora", "scratch", "spliced",
    "interpolated", "other",
]  # fmt: skip
THEME = Path(__file__).parent.parent / ".streamlit" / "config.toml"
FONT = '"Source Sans", "Source Sans 3", "Segoe UI", system-ui, "DejaVu Sans", sans-serif'
KINDS: dict[Kind, str] = {  # in the order of every legend
    "bicubic": "bicubic enlargement",
    "regression": "one-step regression",
    "parent": "parent, not fine-tuned",
    "plain": "fine-tuned, all time steps",
    "range": "fine-tuned, some time steps",
    "replay": "with replay",
    "lora": "LoRA",
    "spliced": "spliced",
    "interpolated": "interpolated",
    "scratch": "from scratch",
    "other": "another checkpoint",
}
SYMBOLS: dict[Kind, str] = {
    "bicubic": "square", "regression": "x", "parent": "star", "plain": "circle",
    "range": "triangle-up", "replay": "diamond", "lora": "cross", "spliced": "pentagon",
    "interpolated": "hexagon", "scratch": "triangle-down", "other": "hourglass",
}  # fmt: skip
LIGHT, DARK = "#FFFFFF", "#0B1118"  # on coloured grounds
GROWN = {"size", "thickness", "height", "standoff", "t", "b", "l", "r"}  # what `enlarged` grows
MOST = 4096  # images, at which the ramp ends


@dataclass(frozen=True)
class Look:
    """The colours of one scheme, as #RRGGBB."""

    background: str
    panel: str
    text: str
    muted: str
    grid: str
    palette: tuple[str, ...]  # blue, orange, green, vermillion, purple, sky, yellow
    diverging: tuple[str, ...]  # vermillion to blue through a neutral

    @cached_property
    def template(self) -> go.layout.Template:
        """What all figures share."""
        axis = {
            "gridcolor": self.grid, "linecolor": self.grid, "zerolinecolor": self.muted,
            "ticks": "outside", "tickcolor": self.grid, "automargin": True,
            "title": {"standoff": 8, "font": {"size": 13}}, "zerolinewidth": 1.5,
        }  # fmt: skip
        layout: dict[str, Any] = {
            # Never see-through, so that a picture that is saved can be read anywhere.
            "paper_bgcolor": self.background, "plot_bgcolor": self.background,
            "dragmode": False,  # a finger on a chart scrolls the page
            "font": {"family": FONT, "size": 13, "color": self.text},
            "title": {"font": {"size": 15}, "x": 0, "xref": "container", "y": 0.98,
                      "yanchor": "top"},
            "margin": {"l": 8, "r": 8, "t": 40, "b": 8}, "xaxis": axis, "yaxis": axis,
            "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom",
                       "x": 0, "font": {"size": 12}},
            "hoverlabel": {"bgcolor": self.panel, "bordercolor": self.muted, "align": "left",
                           "font": {"family": FONT, "color": self.text}},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": self.muted, "activecolor": self.text},
        }  # fmt: skip
        return go.layout.Template(layout=layout)

    def colour(self, kind: Kind, images: int | None = None) -> str:
        """A checkpoint's colour; plain fine-tuning's goes from vermillion to the text's colour
        with the number of its images (None: all)."""
        blue, orange, green, vermillion, purple, sky, yellow = self.palette
        if kind == "plain":
            share = 1.0 if images is None else min(log2(max(images, 1)) / log2(MOST), 1.0)
            return mixed(vermillion, self.text, 0.55 * share)
        known: dict[Kind, str] = {
            "bicubic": self.muted, "regression": self.text, "parent": blue, "range": purple,
            "replay": green, "lora": orange, "spliced": sky, "interpolated": yellow,
            "scratch": self.muted, "other": self.panel,
        }  # fmt: skip
        return known[kind]

    def marker(self, kind: Kind, images: int | None = None, size: float = 10) -> dict[str, Any]:
        """A checkpoint's marker, outlined so that light colours show on a light ground."""
        return {
            "color": self.colour(kind, images), "symbol": SYMBOLS[kind], "size": size,
            "line": {"color": self.text, "width": 1},
        }  # fmt: skip

    def readable(self, share: float) -> str:
        """White or near black, whichever reads better on the diverging scale at -1..1."""
        last = len(self.diverging) - 1
        place = min(max((share + 1) / 2, 0.0), 1.0) * last
        left = min(int(place), last - 1)
        ground = mixed(self.diverging[left], self.diverging[left + 1], place - left)
        return max((LIGHT, DARK), key=lambda ink: contrast(ink, ground))

    @property
    def colourscale(self) -> list[tuple[float, str]]:
        """The diverging scale as Plotly takes it."""
        last = len(self.diverging) - 1
        return [(k / last, colour) for k, colour in enumerate(self.diverging)]


@cache
def look(scheme: Scheme) -> Look:
    """The look of a scheme, from the app's theme."""
    theme = tomllib.loads(THEME.read_text(encoding="utf-8"))["theme"]
    part = theme[scheme]
    return Look(
        part["backgroundColor"], part["secondaryBackgroundColor"], part["textColor"],
        part["grayTextColor"], part["borderColor"], tuple(theme["chartCategoricalColors"]),
        tuple(theme["chartDivergingColors"]),
    )  # fmt: skip


def enlarged(figure: go.Figure, by: float) -> go.Figure:
    """A copy for a larger screen: letters, marks, lines, margins and height `by` times as large."""

    def grown(value: Any, key: str, parent: str) -> Any:
        if isinstance(value, dict):
            return {name: grown(each, name, key) for name, each in value.items()}
        if isinstance(value, list | tuple) and key != "size":
            return [grown(each, key, parent) for each in value]
        if not (key in GROWN or (key == "width" and parent in ("line", "error_x", "error_y"))):
            return value
        if isinstance(value, list | tuple):  # a size for each mark
            return [each * by for each in value]
        return value * by if isinstance(value, int | float) else value

    return figure if by == 1 else go.Figure(grown(figure.to_plotly_json(), "", ""))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(one: str, other: str, share: float) -> str:
    """`share` of another colour in one, both #RRGGBB."""
    pairs = [(int(one[k : k + 2], 16), int(other[k : k + 2], 16)) for k in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * share):02X}" for a, b in pairs)
