"""What README and cards say of the study is what the table in the repository holds."""

from __future__ import annotations

import re

import pytest

from benchmarks import findings, tables
from sr3 import results
from sr3.checkpoints import registry
from sr3.folder import CARD, weights_hash
from sr3.hub_card import filled_card, scores_of
from sr3.views import Story


@pytest.fixture(scope="module")
def story() -> Story:
    return findings.of_table(findings.TABLE)


def test_the_readme_holds_the_findings_of_the_table(story):
    """`python -m benchmarks.findings` renews them."""
    text = findings.README.read_text(encoding="utf-8")
    assert text.count(findings.BEGIN) == text.count(findings.END) == 1
    assert text.split(findings.BEGIN)[1].split(findings.END)[0] == findings.block(story)
    short = text.split(findings.SHORT_BEGIN)[1].split(findings.SHORT_END)[0]
    assert short == findings.short(story, story.targets[0])


def test_the_readme_s_tables_are_made_from_the_table(story):
    """`python -m benchmarks.tables` prints them."""
    text = findings.README.read_text(encoding="utf-8")
    rows, parent = tables.shown(story.table, story.parent), story.parent
    made = [tables.quality(results.summary(rows)), tables.against_bicubic(rows)]
    made += [tables.against(story.table, name, parent) for name in ("lite-2", "lite-1")]
    assert [each for each in made if each not in text] == []


def test_nothing_measured_is_typed_beside_them():
    text = findings.README.read_text(encoding="utf-8")
    section = text.split("## What the study found\n")[1].split("\n## ")[0]
    made = section.split(findings.BEGIN)[1].split(findings.END)[0]
    prose = re.sub(r"```.*?```|`[^`]*`", "", section.replace(made, ""), flags=re.S)
    assert not re.search(r"\d", prose)


def test_every_question_is_answered_from_the_table(story):
    found = findings.findings(story, story.targets[0])
    assert [len(sentences) > 2 for _, sentences in found] == [True] * 4
    told = "\n".join(sentence for _, sentences in found for sentence in sentences)
    for part in ("the gap fades with the noise", "over the time steps that it was trained on",
                 "on the Pareto front", "training from scratch"):  # fmt: skip
        assert part in told


@pytest.mark.parametrize("name", sorted(registry()))
def test_a_card_is_filled_in_from_the_table(name, story):
    """`python -m sr3 checkpoints cards` renews them."""
    path = registry()[name].path
    digest = weights_hash(path)
    card = (path / CARD).read_text(encoding="utf-8")
    assert filled_card(card, digest, story.table) == card
    assert "unmeasured" not in card or scores_of(digest, story.table).empty


def test_the_tables_are_of_one_way_of_sampling_and_of_what_they_show(story):
    """Rows of the gap and of the index, which have steps of their own, are in none of them."""
    rows = tables.shown(story.table, story.parent)
    assert set(rows["metric"]) == set(tables.SHOWN)
    assert set(rows["checkpoint"]) == {*tables.ORDER, story.parent}
    assert rows.groupby("checkpoint")["steps"].nunique().eq(1).all()
    text = tables.quality(results.summary(rows))
    assert len(text.splitlines()) == 2 + 3 * rows["domain"].nunique()
    assert "| 1 |" not in text and "not measured" not in text
    assert ", 10 steps |" in text and ", 1 steps" not in text


def test_what_is_gone_is_shown_nowhere(story):
    """A teacher that was not kept has rows in other numbers of steps: no chart is of it."""
    gone = set(story.study.others) - set(registry())
    shown = {*story.identities, *story.trades(story.targets[0])["checkpoint"]}
    assert not gone & shown
    gap = story.gap()
    assert not gone & set(gap["checkpoint"])
    # A name whose weights were others once is told of the newest alone.
    assert not gap.duplicated(["domain", "checkpoint", "time"]).any()
