"""The README's findings of the study, from the table of measurements alone.

    python -m benchmarks.findings                # into README.md
    python -m benchmarks.findings --print        # to standard output

Invariant: what stands between the README's marks is `block` of the table in checkpoints/metrics;
tests/test_findings.py compares the two, so no number there is typed by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.speed import put_between
from benchmarks.tables import fine_tunes
from sr3 import answers
from sr3.answers import MAIN
from sr3.cells import Cell
from sr3.observations import drifts, fadings, flattenings, levels, shifts
from sr3.results import read
from sr3.views import Story, parents, source_of

ROOT = Path(__file__).parent.parent
README, TABLE = ROOT / "README.md", ROOT / "checkpoints" / "metrics"
BEGIN, END = "<!-- findings: python -m benchmarks.findings -->\n", "<!-- /findings -->\n"
METRIC = "lpips"  # of sentences that would be too many with every metric
DETAILS = (
    "<details><summary>Every fine-tune: gain on {target}, change on the source (more is better; "
    "95% intervals)</summary>\n\n{table}\n\nRows with a checkpoint's name are what is in "
    "`checkpoints/`: fine-tunes of seed 0 stored in 8 bits, and mixtures.\n\n</details>\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--print", action="store_true", dest="shown")
    text = block(of_table(TABLE))
    if parser.parse_args().shown:
        print(text)
    else:
        put_between(README, BEGIN, END, text)


def of_table(folder: Path) -> Story:
    """What a table is about: the parent that was tuned most often."""
    table = read(folder)
    parent = parents(table)[0]
    return Story(table, parent, source_of(table, parent))


def block(story: Story) -> str:
    """What stands between the marks."""
    target = story.targets[0]
    parts = [_measured(story, target)]
    for number, (question, sentences) in enumerate(findings(story, target), 1):
        lines = "\n".join(f"   - {sentence}" for sentence in sentences)
        parts.append(f"{number}. **{question}**\n{lines}\n")
    return "\n".join([*parts, DETAILS.format(target=target, table=fine_tunes(story, target))])


def _measured(story: Story, target: str) -> str:
    sizes = {domain: len(story.values(METRIC, domain)) for domain in story.domains}
    told = ", ".join(f"{count} of {domain}" for domain, count in sizes.items())
    cells = story.study.cells.values()
    runs = {found.digest for name in story.study.cells if (found := Cell.parse(name))}
    seeds = {cell.seed for cell in cells}
    return (
        f"{len(cells)} snapshots of {len(runs)} runs on {target} (up to {len(seeds)} seeds), "
        f"{sum(cell.scratch for cell in cells)} of them trained from scratch, the others "
        f"fine-tuned from `{story.parent}`, each measured on the same test images ({told}) in the "
        "same noise.\n"
    )


def findings(story: Story, target: str) -> list[tuple[str, list[str]]]:
    """The four questions, each with its sentences."""
    study, source = story.study, str(story.source)
    least = [answers.least_needed(study, metric, target) for metric in MAIN]
    curves = [each for metric in MAIN for each in flattenings(story, metric, target, target)]
    scratch = answers.against_scratch(study, METRIC, target)
    ranges = answers.range_effects(study, METRIC, target, target)
    spared = answers.range_effects(study, METRIC, target, source)
    most = max((each.seeds for each in spared), default=0)
    ranges += [each for each in spared if each.seeds == most]  # the table below has them all
    trades = answers.trades(study, METRIC, target, source)
    told = [each for each in trades if each.front or each.name in study.others]
    return [
        ("Does it generalize?", [
            *(each.sentence for each in levels(story, METRIC)),
            *(each.sentence for each in drifts(story.index())),
        ]),
        ("How little is enough?", [
            each.sentence for each in (*least, *curves, *scratch[-1:]) if each is not None
        ]),
        ("Must all time steps be tuned?", [
            *(each.sentence for each in ranges),
            *(each.sentence for each in fadings(story)),
            *(each.sentence for each in shifts(story) if each.domain == target),
        ]),
        ("What does it cost on the source?", [each.sentence for each in told]),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
