"""The report: every answer and every chart of the table on one page that needs no other file.

Invariant: no number is typed here; each is read from the table by `sr3.charts` and `sr3.answers`.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from sr3 import charts
from sr3.charts import Chart
from sr3.files import write_text
from sr3.looks import Look, look
from sr3.markup import figure, items, page, prose, table
from sr3.views import Story

TITLE = "How little fine-tuning does a face super-resolver need?"
QUESTION = (
    "Can a diffusion super-resolver that was trained on one domain of faces serve another, with "
    "very little fine-tuning?"
)
NO_STUDY = (
    "The table holds no study yet: no fine-tuned checkpoint was measured. "
    "`python -m sr3 study --plan poster --resume` measures them."
)
LIMITS = (
    "A resolved face is one plausible face that fits its input, not the face that was "
    "photographed: never use it to recognise a person.",
    "Intervals tell of the images and of the seeds that were drawn, not of other domains, "
    "networks or ways of sampling; where one seed was run, nothing of seeds is known, and where "
    "two or three were, a bootstrap over so few is narrower than the truth.",
    "A gain in PSNR may be blur and a gain in LPIPS invention: read the three metrics together.",
)
# A figure is drawn while its row is still being read, when there seems to be room for it alone.
FIT = "<script>document.querySelectorAll('.js-plotly-plot').forEach(Plotly.Plots.resize)</script>"
Section = tuple[str, list[Chart]]


def sections(story: Story, colours: Look) -> list[Section]:
    """The four questions with their charts, for every target."""
    targets = story.targets or ["another domain"]
    found: list[Section] = [("Does it generalize?", [charts.quality(story, colours)])]
    little, steps, cost = [], [], []
    for target in targets:
        little += [charts.grid(story, colours, target)]
        little += [charts.curves(story, colours, target, target)]
        little += [charts.scratch(story, colours, target)]
        for domain in dict.fromkeys([target, story.source or target]):
            steps.append(charts.ranges(story, colours, target, domain))
        cost.append(charts.trade(story, colours, target))
    steps += [charts.chain(story, colours), charts.index(story, colours)]
    return [
        *found,
        ("How little data, how few updates?", little),
        ("Must all time steps be tuned?", steps),
        ("What does it cost on the source?", cost),
    ]


def provenance(story: Story) -> str:
    """What the numbers were made with, in one line."""
    rows = story.table
    if rows.empty:
        return "No rows."
    commits = sorted(set(rows["code_commit"].str.slice(0, 12)))
    newest = rows["created"].max()
    return (
        f"{len(rows):,} measurements of {rows['checkpoint'].nunique():,} checkpoints on "
        f"{rows['domain'].nunique():,} domains, the newest of {newest:%Y-%m-%d}; code commits "
        f"{', '.join(commits)}. Nothing on this page was typed by hand: "
        "`python -m sr3 report` makes it again."
    )


def html(story: Story, also: Chart | None = None) -> str:
    """The whole report; `also` is a chart that is not of the study."""
    colours = look("light")
    parts = [f"<h1>{escape(TITLE)}</h1>", f'<p class="lead">{escape(QUESTION)}</p>']
    if not story.targets:
        parts.append(f'<p class="missing">{prose(NO_STUDY)}</p>')
    for number, (question, shown) in enumerate(sections(story, colours), 1):
        parts.append(f"<h2>{number}. {escape(question)}</h2>")
        parts += [_chart(chart, question) for chart in shown]
    if also is not None:
        parts += [f"<h2>{escape(also.title)}</h2>", _chart(also, also.title)]
    parts.append(f"<h2>Limits</h2>{items(LIMITS)}")
    parts.append(f"<footer>{prose(provenance(story))}</footer>{FIT}")
    return page(TITLE, "report.css", f"<main>{''.join(parts)}</main>", colours)


def _chart(chart: Chart, question: str) -> str:
    head = f"<h3>{escape(chart.title)}</h3>" if chart.title != question else ""
    if chart.missing:
        return f'{head}<p class="missing">{prose(chart.missing)}</p>'
    more = ""
    if chart.more:
        more = (
            f"<details><summary>{len(chart.more)} more answers</summary>{items(chart.more)}"
            "</details>"
        )
    drawn = "".join(
        f"<div>{figure(each, f'{chart.name}-{number}')}</div>"
        for number, each in enumerate(chart.figures)
    )
    return (
        f'{head}{items(chart.sentences)}{more}<div class="row">{drawn}</div>'
        f'<p class="caption">{escape(chart.caption)}</p>{table(chart.data, chart.name)}'
    )


def write(story: Story, out: Path, also: Chart | None = None) -> Path:
    """Write OUT/report.html, whole or not at all; `also` as in `html`."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "report.html"
    write_text(file, html(story, also))
    return file
