"""The table of measurements on a page: read it, choose what it is about, show its charts.

Invariants: the table is read again when a file of it changes, and only then; every cache is
bounded and shared, and what it holds is never changed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from sr3 import charts, checkpoints, results
from sr3.charts import Chart
from sr3.looks import Look, enlarged, look
from sr3.poster import Answered, answered
from sr3.ui.frame import small_print
from sr3.ui.scoreboard import MEANING
from sr3.views import BASELINES, Story, parents, source_of

Stamp = tuple[tuple[str, int, int], ...]
ABREAST = 3  # figures in a row; on a phone one is under another
CHARTS = 64  # drawn ones that are kept
MEANT = f"{MEANING} A gain is always better."
MADE: dict[str, Callable[..., Chart]] = {
    "quality": charts.quality, "grid": charts.grid, "curves": charts.curves,
    "ranges": charts.ranges, "chain": charts.chain, "index": charts.index,
    "trade": charts.trade, "scratch": charts.scratch,
}  # fmt: skip


# --------------------------------------------------------------------------------------- the table
class Subject:
    """What a page tells of: one parent's part of the table, as the visitor's theme shows it."""

    def __init__(self, folder: str, stamp: Stamp, parent: str, source: str | None) -> None:
        self._key = folder, stamp, parent, source

    @property
    def story(self) -> Story:
        return _story(*self._key)

    @property
    def answers(self) -> list[Answered]:
        """The four questions as the poster answers them, in the visitor's theme."""
        return _answers(*self._key, _scheme())

    def chart(self, name: str, *settings: Any) -> Chart:
        """A chart of `MADE`, with what its function takes after the look."""
        return _chart(*self._key, _scheme(), name, settings)


def choose() -> Subject:
    """The table's parent, or the visitor's choice of several; and its source, where not known."""
    folder = checkpoints.ROOT / "metrics"
    stamp = _stamp(folder)
    table = _table(str(folder), stamp)
    names = parents(table)
    parent = names[0] if names else ""
    if len(names) > 1:
        parent = st.selectbox("Parent checkpoint", names, key="sr3_parent")
    source = source_of(table, parent)
    if names and source is None:
        domains = sorted(set(table["domain"]))
        source = st.selectbox(
            "Source domain", domains, index=None, key="sr3_source_domain",
            help="Where the parent was trained; the list of checkpoints does not say.",
        )  # fmt: skip
    return Subject(str(folder), stamp, parent, source)


def usual() -> Subject:
    """What `choose` gives where nothing is chosen."""
    folder = checkpoints.ROOT / "metrics"
    stamp = _stamp(folder)
    table = _table(str(folder), stamp)
    parent = next(iter(parents(table)), "")
    return Subject(str(folder), stamp, parent, source_of(table, parent))


def beside_baselines(story: Story) -> list[str]:
    """Labels that a visitor may choose: the baselines are always shown."""
    return [name for name, each in story.identities.items() if each.kind not in BASELINES]


def highlights(story: Story) -> list[str]:
    """The labels that are chosen at first."""
    return [name for name in story.highlights if name in beside_baselines(story)]


def choose_target(story: Story) -> str:
    """The domain that was tuned on, or the visitor's choice of several."""
    if len(story.targets) > 1:
        return str(st.selectbox("Fine-tuned on", story.targets, key="sr3_target"))
    return story.targets[0] if story.targets else "another domain"


def choose_domain(story: Story, target: str, key: str) -> str:
    """The domain that a chart is measured on: the target at first."""
    domains = [target, *(name for name in story.domains if name != target)]
    if len(domains) == 1:
        return target
    if st.session_state.get(key) not in domains:  # of another table or target
        st.session_state.pop(key, None)
    # No segmented control: what is chosen there reaches only 4.2:1 in the dark scheme.
    return str(st.radio("Measured on", domains, horizontal=True, key=key))


def _stamp(folder: Path) -> Stamp:
    """Names, times and sizes of the table's files."""
    stamp = []
    for file in sorted(folder.glob("*.parquet")):
        try:
            state = file.stat()
        except FileNotFoundError:  # put together with others a moment ago
            continue
        stamp.append((file.name, state.st_mtime_ns, state.st_size))
    return tuple(stamp)


@st.cache_resource(max_entries=2, show_spinner="Reading the measurements …")
def _table(folder: str, stamp: Stamp) -> pd.DataFrame:
    return results.read(folder)


@st.cache_resource(max_entries=4, show_spinner=False)
def _story(folder: str, stamp: Stamp, parent: str, source: str | None) -> Story:
    return Story(_table(folder, stamp), parent, source)


@st.cache_resource(max_entries=CHARTS, show_spinner="Drawing …")
def _chart(
    folder: str, stamp: Stamp, parent: str, source: str | None, scheme: str, name: str,
    settings: tuple[Any, ...],
) -> Chart:  # fmt: skip
    colours: Look = look("dark" if scheme == "dark" else "light")
    return MADE[name](_story(folder, stamp, parent, source), colours, *settings)


@st.cache_resource(max_entries=4, show_spinner="Reading the answers …")
def _answers(
    folder: str, stamp: Stamp, parent: str, source: str | None, scheme: str
) -> list[Answered]:
    story = _story(folder, stamp, parent, source)
    target = story.targets[0] if story.targets else "another domain"
    return answered(story, target, look("dark" if scheme == "dark" else "light"))


def _scheme() -> str:
    return str(st.context.theme.type or "light")


# ------------------------------------------------------------------------------------- show a chart
def show(chart: Chart, picked: Callable[[str], None] | None = None) -> None:
    """A chart's answer, figures, caption, table and download. `picked` is given the label of a
    mark that the visitor clicks on."""
    st.subheader(chart.title, anchor=False)
    if chart.missing:
        st.info(chart.missing, icon=":material/hourglass_empty:")
        return
    _say(chart.sentences)
    if chart.more:
        with st.expander(f"{len(chart.more)} more answers", icon=":material/format_quote:"):
            _say(chart.more)
    for start in range(0, len(chart.figures), ABREAST):
        row = chart.figures[start : start + ABREAST]
        for place, (column, figure) in enumerate(zip(st.columns(len(row)), row, strict=True)):
            with column:
                _plot(chart, figure, start + place, picked)
    small_print(chart.caption)
    with st.expander("Table", icon=":material/table:"):
        st.dataframe(chart.data, hide_index=True, key=f"sr3_table_{chart.name}")
        st.download_button(
            "Download CSV", chart.data.to_csv(index=False), f"sr3-{chart.name}.csv", "text/csv",
            icon=":material/download:", on_click="ignore", key=f"sr3_csv_{chart.name}",
        )  # fmt: skip


def explain() -> None:
    """What the metrics mean, in a line."""
    small_print(MEANT)


def plot(chart: Chart, number: int, scale: float = 1) -> None:
    """One figure of a chart alone, enlarged for a large screen."""
    _plot(chart, enlarged(chart.figures[number], scale), number, None)


def _say(sentences: tuple[str, ...]) -> None:
    st.markdown("\n".join(f"- {sentence}" for sentence in sentences))


def _plot(
    chart: Chart, figure: go.Figure, number: int, picked: Callable[[str], None] | None
) -> None:
    key = f"sr3_figure_{chart.name}_{number}"
    config = {
        "displaylogo": False, "displayModeBar": True, "modeBarButtons": [["toImage"]],
        "toImageButtonOptions": {"format": "png", "scale": 3, "filename": f"sr3-{chart.name}"},
    }  # fmt: skip
    title = str(figure.layout.title.text)
    if picked is None:
        st.plotly_chart(figure, theme=None, key=key, config=config, alt=f"{chart.title}: {title}")
        return

    def on_select() -> None:
        points = st.session_state[key].selection.points
        label = points[0].get("customdata") if points else None
        if label := label[0] if isinstance(label, list) else label:
            picked(label)

    st.plotly_chart(
        figure, theme=None, key=key, config=config, on_select=on_select,
        selection_mode="points", alt=f"{chart.title}: {title}",
    )  # fmt: skip
