"""The command `report`: the page and the poster of a table of measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sr3.terminal import say


def report(
    out: Annotated[Path, typer.Option(help="Folder for report.html and the poster.")] = Path(
        "runs/report"
    ),
    table: Annotated[
        Path | None, typer.Option(help="The table of measurements: a folder or a file.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="The parent, where the table has several.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="The parent's own domain, where it is not registered.")
    ] = None,
    pdf: Annotated[bool, typer.Option("--pdf/--no-pdf", help="Print the poster too.")] = True,
) -> None:
    """Write the answers and charts of a table: report.html, poster.html and poster.pdf (A1).

    The PDF needs a Chromium or Chrome; without one the rest is written all the same, one sentence
    says so, and the exit code is 0.
    """
    from sr3 import checkpoints, poster, results
    from sr3 import report as written
    from sr3.effort import effort_of
    from sr3.errors import ReportError
    from sr3.looks import look
    from sr3.views import Story, parents, source_of

    rows = results.read(table if table is not None else checkpoints.ROOT / "metrics")
    if table is not None and not table.exists():
        raise ReportError(f"There is no table at {table}: give a folder of parts or FILE.parquet.")
    known = parents(rows)
    if checkpoint is not None and checkpoint not in known:
        raise ReportError(
            f"The table has no checkpoint {checkpoint!r}: choose one of {', '.join(known) or '-'}."
        )
    parent = checkpoint or (known[0] if known else "")
    if source is not None and source not in set(rows["domain"]):
        domains = ", ".join(sorted(set(rows["domain"])))
        raise ReportError(f"The table has no domain {source!r}: choose one of {domains or '-'}.")
    story = Story(rows, parent, source or source_of(rows, parent))
    if not story.targets:
        say(written.NO_STUDY.replace("`", ""))
    also = effort_of(parent, look("light")) if parent in checkpoints.registry() else None
    say(f"The report is {written.write(story, out, also)}.")
    sheet = poster.write(story, out)
    if not pdf:
        say(f"The poster is {sheet}.")
        return
    try:
        say(f"The poster is {poster.print_pdf(sheet)}.")
    except ReportError as error:
        say(str(error))
