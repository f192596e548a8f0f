"""The README's findings of the study, from the table of measurements alone.

    python -m benchmarks.findings                # into README.md
    python -m benchmarks.findings --print        # to standard output, as with --table DIR

Invariant: what stands between the README's marks is `short` and `block` of the table in
checkpoints/metrics; tests/test_findings.py compares them, so no number there is typed by hand.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from benchmarks.speed import put_between
from benchmarks.tables import fine_tunes
from sr3 import answers
from sr3.answers import MAIN, PLAIN
from sr3.cells import Cell, images_label
from sr3.observations import drifts, fadings, flattenings, levels, shifts
from sr3.results import read
from sr3.views import Story, parents, source_of

ROOT = Path(__file__).parent.parent
README, TABLE = ROOT / "README.md", ROOT / "checkpoints" / "metrics"
BEGIN, END = "<!-- findings: python -m benchmarks.findings -->\n", "<!-- /findings -->\n"
SHORT_BEGIN, SHORT_END = "<!-- short: python -m benchmarks.findings -->\n", "<!-- /short -->\n"
METRIC = "lpips"  # of sentences that would be too many with every metric
DETAILS = (
    "<details><summary>Every fine-tune: gain on {target}, change on the source (more is better; "
    "95% intervals)</summary>\n\n{table}\n\nRows with a checkpoint's name are what is in "
    "`checkpoints/`: fine-tunes of seed 0 stored in 8 bits, and mixtures.\n\n</details>\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--print", action="store_true", dest="shown")
    parser.add_argument("--table", type=Path, default=TABLE)
    given = parser.parse_args()
    story = of_table(given.table)
    if given.shown or given.table != TABLE:  # the README is of the repository's own table
        print(short(story, story.targets[0]), block(story), sep="\n")
    else:
        put_between(README, SHORT_BEGIN, SHORT_END, short(story, story.targets[0]))
        put_between(README, BEGIN, END, block(story))


def of_table(folder: Path) -> Story:
    """What a table is about: the parent that was tuned most often."""
    table = read(folder)
    parent = parents(table)[0]
    return Story(table, parent, source_of(table, parent))


def short(story: Story, target: str) -> str:
    """The answer in three sentences."""
    known = {each.domain: each.value.mean for each in levels(story, METRIC)}
    others = [f"{known[each]:.3f} on {each}" for each in known if each != story.source]
    text = (
        f"**In short.** LPIPS of `{story.parent}` is {known[str(story.source)]:.3f} on its own "
        f"domain of faces, {', '.join(others[:-1])} and {others[-1]}."
    )
    least = answers.least_needed(story.study, METRIC, target)
    pixels = answers.least_needed(story.study, "psnr", target)
    assert least is not None and least.updates is not None and least.share is not None
    name = f"{images_label(least.images)}, {least.updates:,} updates"
    (trade,) = [
        each
        for each in answers.trades(story.study, METRIC, target, str(story.source))
        if each.name == name
    ]
    best = f"{images_label(least.best[0])} and {least.best[1]:,} updates"
    text += (
        f" Plain fine-tuning on {images_label(least.images)} for {least.updates:,} updates brings "
        f"{target} to {known[target] - trade.gain.mean:.3f}, {least.share.mean:.0%} of the best "
        f"gain of {PLAIN} ({best}), and costs the own domain {-trade.change.mean:.3f}."
    )
    if pixels is not None:
        text += f" PSNR on {target} gains at most {pixels.gain.mean:.2f} dB that way."
    return "\n".join(textwrap.wrap(text, 100)) + "\n"


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
    ways = [each for on in (source, target) for each in answers.spared(study, METRIC, target, on)]
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
        ("What does it cost on the source?", [each.sentence for each in (*told, *ways)]),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
