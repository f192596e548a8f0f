"""What is said about a result: how it was made, its scores, and what can be taken home."""

from __future__ import annotations

import streamlit as st

from sr3.images import Pixels, enlarge
from sr3.takeaway import Shown
from sr3.ui import keep, links, live, records, scoreboard
from sr3.ui.frame import small_print
from sr3.ui.group import stopped_after
from sr3.ui.keep import Keepsake
from sr3.ui.live import Run
from sr3.ui.settings import describe


def show(run: Run) -> None:
    """Downloads, caption and scores under the stage. The run has ended with a picture."""
    picture = run.picture
    if picture is None:
        return
    recipe = run.recipe
    made = f"{describe(recipe)}{_early(run)}."
    bicubic = enlarge(run.face.low_res, picture.shape[0])
    keep.offer(_keepsake(run, picture, bicubic, made))
    st.button(
        "Try another seed", on_click=live.start_again, args=(run.face, recipe),
        icon=":material/casino:", key="sr3_again",
        help="The same face with other noise fills in other details.",
    )  # fmt: skip
    small_print(f"{made} One sample of one image.")
    scoreboard.show({"Bicubic": bicubic, "SR3": picture}, run.face)


def _early(run: Run) -> str:
    newest = run.job.newest
    if newest is None or newest.index == newest.total:
        return ""
    return stopped_after([newest.evaluations])


def _keepsake(run: Run, picture: Pixels, bicubic: Pixels, made: str) -> Keepsake:
    """The run as it is taken home."""
    face, recipe, name = run.face, run.recipe, run.recipe.resolver.name
    side = face.low_res.shape[0]
    shown = [
        Shown("Input", face.low_res, f"{side} × {side} pixels", crisp=True),
        Shown("Bicubic", bicubic, "the usual enlargement"),
        Shown("SR3", picture, "a plausible face"),
    ]
    if face.original is not None:
        shown.append(Shown("Original", face.original, "the network never saw it"))
    stopped = bool(_early(run))
    link = None
    if not stopped:
        link = links.make("", face.identity, [name], recipe.sampling, recipe.seed)
    scores = scoreboard.measure([bicubic, picture], face)
    network = records.network(
        recipe.resolver, name, recipe.title, recipe.sampling, run.job.evaluations
    )
    record = records.record(
        face, recipe.seed, [network], link, stopped=stopped, seconds=run.job.seconds,
        scores=dict(zip(("Bicubic", "SR3"), scores, strict=True)),
    )  # fmt: skip
    return Keepsake(
        run.name, f"sr3-{name}-seed{recipe.seed}", "SR3 Lab", (made,), tuple(shown), picture,
        record, link, lambda: [[frame.x_t, frame.x0] for frame in run.job.frames],
    )  # fmt: skip
