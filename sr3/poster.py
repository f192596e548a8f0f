"""The poster: the four answers on one A1 sheet, printed by an installed Chromium or Chrome.

Invariants: the page is whole in itself and asks for nothing over any network; its numbers are
read from the table; the sheet is A1 (594 x 841 mm), portrait, and one page.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from html import escape
from pathlib import Path

import plotly.graph_objects as go

from sr3 import answers, charts
from sr3.answers import Contrast
from sr3.charts import Chart
from sr3.errors import ReportError
from sr3.files import whole, write_text
from sr3.looks import Look, look
from sr3.markup import HERE, figure, items, page, prose
from sr3.observations import fadings, levels, main_metric
from sr3.report import LIMITS, NO_STUDY, QUESTION, TITLE, provenance
from sr3.views import Story

BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
    "microsoft-edge",
)  # fmt: skip
WIDTH, HEIGHT = 610, 370  # pixels of a figure, before the style sheet enlarges it
LONG, LONGEST = 15, 40  # characters: longer names stand two abreast, and are written smaller
PATIENCE = 180  # seconds for the browser
SCRIPTS = 20_000  # milliseconds of the page's own time for its figures
METHOD = (
    "A diffusion model starts from noise and, given the enlarged small face, takes the noise away "
    "step by step.",
    "It is fine-tuned on a few images of a new domain, for a few updates, on all time steps or "
    "only some of them.",
    "Every checkpoint resolves the same test faces from the same noise; means are compared in "
    "pairs, with bootstrap intervals.",
)


def html(story: Story) -> str:
    """The sheet."""
    colours = look("light")
    target = story.targets[0] if story.targets else "another domain"
    method = "".join(f"<p>{escape(line)}</p>" for line in METHOD)
    rows = [
        _panel(number, *answer) for number, answer in enumerate(answered(story, target, colours), 1)
    ]
    script = (HERE / "poster.js").read_text(encoding="utf-8")
    absent = "" if story.targets else f"{NO_STUDY} "
    body = (
        f'<header><h1>{escape(TITLE)}</h1><p class="question">{escape(QUESTION)}</p>'
        f'<div class="method">{method}</div></header><main>{"".join(rows)}</main>'
        f'<div class="limits"><p><b>Limits.</b> {prose(absent + " ".join(LIMITS))}</p></div>'
        f"<footer>{prose(charts.quality(story, colours).caption)} {prose(provenance(story))}"
        f"</footer><script>{script}</script>"
    )
    return page(TITLE, "poster.css", body, colours)


Answered = tuple[str, list[str], Chart, int]


def answered(story: Story, target: str, colours: Look) -> list[Answered]:
    """Each question with its headline sentences and a figure, as a chart and which of its own."""
    metric = main_metric(story)
    first = story.metrics.index(metric) if metric else 0
    grid = charts.grid(story, colours, target)
    ranges = charts.ranges(story, colours, target, target)
    trade = charts.trade(story, colours, target)
    known = levels(story, metric) if metric else []
    told = {story.source, target} if story.targets else {each.domain for each in known}
    generalizes = [each.sentence for each in known if each.domain in told]
    fading = [each.sentence for each in fadings(story) if each.domain == target]
    return [
        ("Does it generalize?", generalizes, charts.quality(story, colours), first),
        ("How little is enough?", [*grid.sentences], grid, first),
        ("Must all time steps be tuned?", [*_range_headlines(story, target), *fading],
         ranges, first),
        ("What does it cost?", [*trade.sentences], trade, first),
    ]  # fmt: skip


def _range_headlines(story: Story, target: str) -> list[str]:
    """The best range of each metric, with the most updates: they disagree."""
    best: list[Contrast] = []
    for metric in charts.told(story) if story.targets else ():
        found = answers.range_effects(story.study, metric, target, target)
        most = max((each.updates for each in found), default=0)
        ranked = sorted(found, key=lambda each: (each.updates == most, each.difference.mean))
        best += ranked[-1:]
    return [each.sentence for each in best]


def _panel(number: int, question: str, sentences: list[str], chart: Chart, which: int) -> str:
    drawn = f'<p class="missing">{prose(chart.missing)}</p>'
    if chart.figures:
        shown = figure(_fitted(chart.figures[which]), f"plot-{number}", interactive=False)
        drawn = f'<div class="plot">{shown}</div>'
    title = f"<h2><span>Question {number}</span>{escape(question)}</h2>"
    return f"<section>{title}{items(sentences)}{drawn}</section>"


def _fitted(drawn: go.Figure) -> go.Figure:
    """A figure of the poster's size, its legend in columns."""
    names = [trace.name for trace in drawn.data if trace.name]
    longest = max(map(len, names), default=0)
    columns = 2 if longest > LONG else 4
    room = 20 * (1 + -(-len(names) // columns))
    return go.Figure(drawn).update_layout(
        width=WIDTH, height=HEIGHT, margin={"b": 20 + room}, legend_orientation="h",
        legend_entrywidth=0.96 / columns, legend_entrywidthmode="fraction",
        legend_font_size=9 if longest > LONGEST else 11,
    )  # fmt: skip


def write(story: Story, out: Path) -> Path:
    """Write OUT/poster.html."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "poster.html"
    write_text(file, html(story))
    return file


def print_pdf(source: Path) -> Path:
    """Print a page beside itself as PDF. Raises ReportError, with what to do, where no browser is
    installed or it fails."""
    browser = find_browser()
    if browser is None:
        raise ReportError(
            f"No PDF was printed, since no Chromium or Chrome is on the PATH: install one, or open "
            f"{source} in a browser and print it."
        )
    file = source.with_suffix(".pdf")
    with tempfile.TemporaryDirectory(prefix="sr3-print-") as folder:
        made = Path(folder) / "made.pdf"
        command = [
            browser, "--headless", "--disable-gpu", "--no-first-run", "--no-pdf-header-footer",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-extensions", f"--user-data-dir={folder}/profile",
            f"--virtual-time-budget={SCRIPTS}", f"--print-to-pdf={made}",
            *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
            source.resolve().as_uri(),
        ]  # fmt: skip
        try:
            subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True)
            with whole(file) as partial:
                shutil.copyfile(made, partial)
        except (OSError, subprocess.SubprocessError) as error:
            raise ReportError(
                f"{browser} could not print the poster ({type(error).__name__}): open {source} in "
                "a browser and print it."
            ) from error
    return file


def find_browser() -> str | None:
    """SR3_CHROMIUM, or the first browser on the PATH that can print."""
    named = os.environ.get("SR3_CHROMIUM")
    return named or next((path for name in BROWSERS if (path := shutil.which(name))), None)
