"""The charts: figures with the computed answer above them, a caption and the table under them.

App, report and poster show the same ones. Invariant: every number in a sentence or caption is
read from the table; where a chart's part of the table is empty, it has no figure and `missing`
says what was not measured yet and the command that does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import plotly.graph_objects as go

from sr3 import answers, figures
from sr3.answers import MAIN, Contrast
from sr3.cells import images_label
from sr3.config import SAMPLERS
from sr3.looks import Look
from sr3.observations import drifts, fadings, flattenings, main_metric, shifts, transfers
from sr3.views import BASELINES, Story

STUDY = "`python -m sr3 study --plan poster --resume` measures it"
GAP = (
    "`python -m sr3 gap --checkpoint NAME --domain SOURCE --domain OTHER --out "
    "checkpoints/metrics` measures it"
)


@dataclass(frozen=True)
class Chart:
    """One chart: small multiples that belong together."""

    name: str  # of its files
    title: str
    data: pd.DataFrame
    figures: tuple[go.Figure, ...] = ()
    sentences: tuple[str, ...] = ()  # the answer
    more: tuple[str, ...] = ()  # what else is known
    caption: str = ""
    missing: str = ""  # why there is no figure


# -------------------------------------------------------------------------------------- question 1
def quality(story: Story, look: Look, labels: Sequence[str] | None = None) -> Chart:
    """Quality across domains; the baselines always, and the checkpoints of some labels."""
    chosen = story.highlights if labels is None else list(labels)
    always = [k for k, each in story.identities.items() if each.kind in BASELINES]
    view = story.quality([*always, *chosen])
    chart = Chart("domains", "Does it generalize?", view)
    if view.empty:
        return _missing(chart, "No checkpoint was measured on any domain yet", STUDY)
    images = {label: each.images for label, each in story.identities.items()}
    said = {metric: [each.sentence for each in transfers(story, metric)] for metric in MAIN}
    main = main_metric(story) or ""
    return replace(
        chart,
        figures=tuple(figures.quality(view, m, images, look) for m in story.metrics),
        sentences=tuple(said.get(main, ())),
        more=tuple(sentence for metric in MAIN if metric != main for sentence in said[metric]),
        caption=_caption(story, view["n"], view["seeds"], "images and seeds"),
    )


# -------------------------------------------------------------------------------------- question 2
def grid(story: Story, look: Look, target: str) -> Chart:
    """Gain on the target by images and updates."""
    view = story.gains(target, [target])
    chart = Chart(f"least-{target}", f"How little is enough for {target}?", view)
    if view.empty:
        return _missing(chart, f"No fine-tuning on {target} was measured yet", STUDY)
    found = [answers.least_needed(story.study, metric, target) for metric in told(story)]
    least = {each.metric: each for each in found if each is not None}
    drawn = []
    for metric in story.metrics:
        marks = {}
        if (answer := least.get(metric)) is not None:
            marks["the best"] = images_label(answer.best[0]), answer.best[1]
            if answer.updates is not None:
                marks["the least that is enough"] = images_label(answer.images), answer.updates
        drawn.append(figures.grid(view, metric, look, marks))
    sentences = [each.sentence for each in least.values()]
    caption = _caption(story, view["n"], view["seeds"], "images and seeds")
    note = "Blue: better than the parent; vermilion: worse; empty: not measured. "
    return replace(
        chart, figures=tuple(drawn), sentences=tuple(sentences[:1]), more=tuple(sentences[1:]),
        caption=note + caption,
    )  # fmt: skip


def curves(story: Story, look: Look, target: str, domain: str) -> Chart:
    """Gain on a domain over the updates."""
    view = story.gains(target, [domain])
    chart = Chart(f"updates-{target}-on-{domain}", f"How many updates? Measured on {domain}", view)
    if view.empty:
        return _missing(chart, f"No fine-tuning on {target} was measured on {domain} yet", STUDY)
    said = [
        each.sentence
        for metric in told(story)
        for each in flattenings(story, metric, target, domain)
    ]
    return replace(
        chart,
        figures=tuple(figures.curves(view, m, domain, look) for m in story.metrics),
        sentences=tuple(said[:1]),
        more=tuple(said[1:]),
        caption=_caption(story, view["n"], view["seeds"], "images and seeds"),
    )


# -------------------------------------------------------------------------------------- question 3
def ranges(story: Story, look: Look, target: str, domain: str) -> Chart:
    """Gain on a domain by the time steps that were trained on."""
    view = story.gains(target, [domain], ranges=True)
    chart = Chart(f"ranges-{target}-on-{domain}", f"Which time steps? Measured on {domain}", view)
    if view.empty:
        missing = f"No range of time steps was measured on {domain} yet"
        return _missing(chart, missing, STUDY)
    whole = f"{story.whole[0]}:{story.whole[1]}"
    first, rest = _headlines(
        [answers.range_effects(story.study, m, target, domain) for m in told(story)]
    )
    caption = _caption(story, view["n"], view["seeds"], "images and seeds")
    return replace(
        chart,
        figures=tuple(figures.ranges(view, m, domain, whole, look) for m in story.metrics),
        sentences=first,
        more=rest,
        caption=f"Time steps count noise: the first ones are near the clean image. {caption}",
    )


def chain(story: Story, look: Look) -> Chart:
    """The gap along the chain: a figure a domain."""
    view = story.gap()
    chart = Chart("gap", "The gap along the chain", view)
    if view.empty:
        return _missing(chart, "The gap along the chain was not measured yet", GAP)
    domains = list(dict.fromkeys(view["domain"]))
    n = pd.concat([view["n_domain"], view["n_reference"]])
    return replace(
        chart,
        figures=tuple(figures.chain(view, d, str(story.source), look) for d in domains),
        sentences=tuple(each.sentence for each in fadings(story)),
        more=tuple(each.sentence for each in shifts(story)),
        caption=(
            "Mean absolute error of the clean estimate in one step, a domain's over the source's, "
            f"same noise on both. {_count('n', n)} images a domain; intervals: 95% bootstrap over "
            "the images of each."
        ),
    )


def index(story: Story, look: Look) -> Chart:
    """The generalization index: a figure a checkpoint."""
    view = story.index()
    chart = Chart("index", "The generalization index", view)
    if view.empty:
        return _missing(chart, "The generalization index was not measured yet", GAP)
    labels = list(dict.fromkeys(view["checkpoint"]))
    return replace(
        chart,
        figures=tuple(figures.index(view, label, look) for label in labels),
        sentences=tuple(each.sentence for each in drifts(view)),
        caption=(
            "SRGA-style: how far the features before the last convolution drift from the "
            f"reference's. Means over random splits of the images ({_count('', view['splits'])}, "
            f"{_count('', view['n'])} images a side); their spread is in the table. Two halves of "
            "the reference itself give the floor: with more images it falls, and nothing under it "
            "is a difference."
        ),
    )


# -------------------------------------------------------------------------------------- question 4
def trade(story: Story, look: Look, target: str, chosen: str | None = None) -> Chart:
    """Gain on the target against what the source pays."""
    view = story.trades(target)
    source = str(story.source)
    chart = Chart(f"forgetting-{target}", f"What does {target} cost on {source}?", view)
    if view.empty:
        missing = f"No fine-tune was measured on both {target} and its source yet"
        return _missing(chart, missing, STUDY)
    front = view[view["front"]]
    said = {m: list(front.loc[front["metric"] == m, "sentence"]) for m in told(story)}
    main = main_metric(story) or ""
    ways = [
        each.sentence
        for metric in told(story)
        for domain in (source, target)
        for each in answers.spared(story.study, metric, target, domain)
    ]
    n = pd.concat([view["n_target"], view["n_source"]])
    caption = _caption(story, n, view["seeds"], "images and seeds")
    return replace(
        chart,
        figures=tuple(figures.trade(view, m, target, source, look, chosen) for m in story.metrics),
        sentences=tuple(dict.fromkeys(s for s in (said[main][:1] + said[main][-1:]))),
        more=(*ways, *(s for m in said for s in (said[m][1:-1] if m == main else said[m]))),
        caption=(
            f"Right of the upright line {target} gains; below the level one {source} is "
            f"forgotten. {caption}"
        ),
    )


# ---------------------------------------------------------------------------------------- baseline
def scratch(story: Story, look: Look, target: str) -> Chart:
    """Fine-tuning against training from scratch."""
    view = story.scratch(target)
    chart = Chart(f"scratch-{target}", "From scratch, with as many updates", view)
    if view[view["kind"] == "scratch"].empty:
        return _missing(chart, f"Training from scratch on {target} was not measured yet", STUDY)
    labels = [k for k, each in story.identities.items() if each.kind in (*BASELINES, "parent")]
    base = story.quality(labels)
    base = base[base["domain"] == target]
    found = [answers.against_scratch(story.study, metric, target) for metric in told(story)]
    first, rest = _headlines(found)
    return replace(
        chart,
        figures=tuple(figures.scratch(view, base, m, look) for m in story.metrics),
        sentences=first,
        more=rest,
        caption=_caption(story, view["n"], view["seeds"], "images and seeds"),
    )


# ------------------------------------------------------------------------------------------- parts
def told(story: Story) -> list[str]:
    """The metrics with answers, the main one first."""
    return [metric for metric in MAIN if metric in story.study.metrics]


def _headlines(found: Sequence[list[Contrast]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sentences of the main metric with the most updates, and all the others."""
    every = [each for contrasts in found for each in contrasts]
    main = found[0] if found else []
    most = max((each.updates for each in main), default=0)
    first = [each for each in main if each.updates == most]
    return (
        tuple(each.sentence for each in first),
        tuple(each.sentence for each in every if each not in first),
    )


def _missing(chart: Chart, what: str, how: str) -> Chart:
    return replace(chart, missing=f"{what}: {how}.")


def _caption(story: Story, n: Iterable[int], seeds: Iterable[int], over: str) -> str:
    sampler, steps = story.sampling
    name, _, changed = sampler.partition(" ")  # as `sr3.evaluate.sampler_label` makes it
    method = f"{SAMPLERS.get(name, name)} {changed}".rstrip()
    left_out = story.study.older
    older = f" Of earlier plans, {left_out:,} fine-tunes are left out." if left_out else ""
    return (
        f"{_count('n', n)} test images, fine-tuning seeds: {_count('', seeds)}; intervals: 95% "
        f"bootstrap over {over}. Sampled with {method}, {steps} steps. LPIPS: "
        f"{story.backbone}.{older}"
    )


def _count(name: str, values: Iterable[int]) -> str:
    """`n = 60 to 200`."""
    low, high = min(values), max(values)
    text = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"{name} = {text}" if name else text
