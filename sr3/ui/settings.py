"""How to draw the picture: an expander whose defaults are the checkpoint's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import streamlit as st

from sr3.config import MOST_SEED, SAMPLERS, SamplerConfig
from sr3.pipeline import SuperResolver
from sr3.ui import service

NOISED = "the noised bicubic enlargement"  # what a short chain begins from
MOST_STEPS = 200
STEP_COUNTS = (1, 2, 5, 10, 20, 50, 100)  # side by side
MOST_SAMPLES = 12
T = TypeVar("T")


@dataclass(frozen=True)
class Recipe:
    """A checkpoint with everything that decides what it draws."""

    resolver: SuperResolver
    title: str  # the checkpoint's
    sampling: SamplerConfig
    seed: int


def choose_recipe(hurry: bool = False) -> Recipe:
    """The recipe, from the visitor's settings. Raises CheckpointError where there is none.

    In a `hurry` the widgets are left out until the page is drawn again, as it is when they are
    asked for: their scripts would load beside the first frames.
    """
    entries = service.offered()
    settings = st.expander(
        "Settings", icon=":material/tune:", key="sr3_settings", on_change="rerun"
    )
    drawn = settings.open or not hurry
    if carry("sr3_checkpoint", next(iter(entries))) not in entries:
        st.session_state["sr3_checkpoint"] = next(iter(entries))
    if drawn:
        settings.selectbox(
            "Checkpoint", list(entries), format_func=lambda name: entries[name].title,
            key="sr3_checkpoint", help="The trained network.", persist_state="session",
        )  # fmt: skip
    name = st.session_state["sr3_checkpoint"]
    resolver = service.resolver(name)  # outside: that it is being loaded is to be seen
    with settings:
        sampling = choose_sampling(resolver, drawn)
        seed = choose_seed(drawn)
    return Recipe(resolver, entries[name].title, sampling, seed)


def carry(key: str, first: T) -> T:
    """A widget's value, kept when the visitor goes to other pages; `first` until one is chosen.

    Streamlit forgets a widget's value with its page, but for one made with `persist_state`; and it
    shows what is set only where that is set again before the widget is made.
    """
    value: T = st.session_state.get(key, first)
    st.session_state[key] = value
    return value


def choose_sampling(resolver: SuperResolver, drawn: bool = True) -> SamplerConfig:
    """How to sample; the checkpoint's own way at first."""
    name, usual, last = resolver.name, resolver.config.sampling, resolver.schedule.steps
    first = {
        "sampler": usual.sampler,
        "steps": min(usual.steps, MOST_STEPS),
        "start": usual.start,
        "consistency": usual.consistency,
    }
    for what, value in first.items():
        carry(f"sr3_{what}_{name}", value)
    if drawn:
        _draw_sampling(name, usual.start if usual.start < last else last // 2, last)
    chosen = {what: st.session_state[f"sr3_{what}_{name}"] for what in first}
    return resolver.settings(**chosen)


def _draw_sampling(name: str, estimate: int, last: int) -> None:
    """The widgets of a checkpoint; a chain begins at `estimate` or at the `last` time step."""
    st.selectbox(
        "Sampler", list(SAMPLERS), format_func=SAMPLERS.__getitem__, key=f"sr3_sampler_{name}",
        help="The rule that turns each clean estimate into the next, less noisy image.",
        persist_state="session",
    )  # fmt: skip
    st.slider(
        "Steps", 1, MOST_STEPS, key=f"sr3_steps_{name}",
        help="How often the network is evaluated. More is slower.", persist_state="session",
    )  # fmt: skip
    st.radio(
        "Begin from", [estimate, last], key=f"sr3_start_{name}",
        format_func=lambda t: (  # in the label: the widget's captions reach only 4.1:1
            f"{'pure noise' if t == last else NOISED} (step {t} of {last})"
        ),
        help="The bicubic enlargement with noise on it is a head start: fewer steps suffice.",
        persist_state="session",
    )  # fmt: skip
    st.toggle(
        "Data consistency", key=f"sr3_consistency_{name}",
        help="After each step, make the estimate reduce to exactly the 16 × 16 input.",
        persist_state="session",
    )  # fmt: skip


def choose_seed(drawn: bool = True) -> int:
    """Which noise is drawn; one number for all pages."""
    carry("sr3_seed", 0)
    if drawn:
        st.number_input(
            "Seed", 0, MOST_SEED, key="sr3_seed",
            help="Which noise is drawn: another seed gives another possible face.",
            persist_state="session",
        )  # fmt: skip
    return int(st.session_state["sr3_seed"])


def step_count(count: int) -> str:
    """A number of steps in words."""
    return f"{count} step{'s' if count > 1 else ''}"


def describe_sampling(sampling: SamplerConfig, seed: int, last: int) -> str:
    """Sampler, steps, start, consistency and seed in one line; `last` is the noisiest time step."""
    return describe_chains([sampling], seed, last)


def describe_chains(chains: Sequence[SamplerConfig], seed: int, last: int) -> str:
    """The same of several chains, which differ in steps and consistency alone."""
    first = chains[0]
    begin = "pure noise" if first.start == last else NOISED
    *fewer, most = sorted({each.steps for each in chains})
    taken = f"{', '.join(map(str, fewer))} and {step_count(most)}" if fewer else step_count(most)
    kept = "with data consistency" if first.consistency else "without data consistency"
    if len({each.consistency for each in chains}) > 1:
        kept = "with and without data consistency"
    return (
        f"{SAMPLERS[first.sampler]}, {taken} from {begin} (t = {first.start}), {kept}, seed {seed}"
    )


def describe(recipe: Recipe) -> str:
    """The recipe in one line, for captions."""
    last = recipe.resolver.schedule.steps
    return f"{recipe.title}, {describe_sampling(recipe.sampling, recipe.seed, last)}"
