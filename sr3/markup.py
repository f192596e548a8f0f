"""HTML that needs no other file: pages, sentences, figures and tables, for report and poster.

Invariant: a page asks for nothing over any network: its styles, its data and Plotly's own script,
once, are inside it.
"""

from __future__ import annotations

import base64
import re
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from sr3.looks import Look

HERE = Path(__file__).parent
CONFIG: dict[str, Any] = {
    "displaylogo": False, "responsive": True, "modeBarButtons": [["toImage"]],
    "toImageButtonOptions": {"format": "png", "scale": 3},
}  # fmt: skip


def page(title: str, style: str, body: str, look: Look) -> str:
    """A whole page; `style` names a CSS file beside this module, which finds the look's colours
    as variables."""
    blue, orange, green, vermillion, *_ = look.palette
    colours = {
        "background": look.background, "panel": look.panel, "text": look.text,
        "muted": look.muted, "grid": look.grid, "blue": blue, "orange": orange, "green": green,
        "vermillion": vermillion,
    }  # fmt: skip
    variables = "".join(f"--{name}:{value};" for name, value in colours.items())
    css = (HERE / style).read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>:root{{{variables}}}\n{css}</style>"
        f"<script>{get_plotlyjs()}</script></head>\n<body>{body}</body></html>\n"
    )


def figure(figure: go.Figure, name: str, interactive: bool = True) -> str:
    """A figure's place and the script that draws it there; `name` is unique in the page."""
    config = CONFIG if interactive else {"staticPlot": True}
    drawn: str = figure.to_html(
        full_html=False, include_plotlyjs=False, config=config, div_id=name,
        default_height=f"{figure.layout.height}px",
    )  # fmt: skip
    return drawn


def prose(text: str) -> str:
    """Text with `code` in it."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def items(sentences: tuple[str, ...] | list[str]) -> str:
    """Sentences as a list."""
    return "<ul>" + "".join(f"<li>{prose(each)}</li>" for each in sentences) + "</ul>"


def table(data: pd.DataFrame, name: str) -> str:
    """A table that opens on demand, with its CSV."""
    csv = base64.b64encode(data.to_csv(index=False).encode()).decode()
    shown = data.to_html(index=False, border=0, float_format=lambda value: f"{value:.4f}")
    return (
        f"<details><summary>Table ({len(data):,} rows)</summary><p>"
        f'<a download="sr3-{escape(name)}.csv" href="data:text/csv;base64,{csv}">Download CSV</a>'
        f'</p><div class="scroll">{shown}</div></details>'
    )
