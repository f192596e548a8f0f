"""What is said about a result: how it was made, its scores, and what can be taken home."""

from __future__ import annotations

import streamlit as st

from sr3.images import Pixels, enlarge
from sr3.takeaway import Shown
from sr3.ui import keep, links, live, scoreboard
from sr3.ui.frame import small_print
from sr3.ui.keep import Keepsake
from sr3.ui.live import Run
from sr3.ui.settings import describe


def show(run: Run) -> None:
    """Downloads, caption and scores under the stage. The run has ended with a picture."""
    picture = run.picture
    if picture is None:
        return
    recipe = run.recipe
    stopped = "" if run.job.status == "done" else ", stopped early"
    made = f"{describe(recipe)}{stopped}."
    bicubic = enlarge(run.face.low_res, picture.shape[0])
    keep.offer(_keepsake(run, picture, bicubic, made))
    st.button(
        "Try another seed", on_click=live.start_again, args=(run.face, recipe),
        icon=":material/casino:", key="sr3_again",
        help="The same face with other noise fills in other details.",
    )  # fmt: skip
    small_print(f"{made} One sample of one image.")
    scoreboard.show({"Bicubic": bicubic, "SR3": picture}, run.face)


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
    link = links.make("", face.identity, [name], recipe.sampling, recipe.seed)
    scores = scoreboard.measure([bicubic, picture], face)
    record = {
        "face": face.identity, "seed": recipe.seed, "sampling": vars(recipe.sampling),
        "link": link, "stopped": run.job.status != "done", "seconds": round(run.job.seconds, 3),
        "networks": [keep.describe_network(recipe.resolver, name, recipe.title)],
        "scores": dict(zip(("Bicubic", "SR3"), map(scoreboard.as_record, scores), strict=True)),
    }  # fmt: skip
    return Keepsake(
        run.name, f"sr3-{name}-seed{recipe.seed}", "SR3 Lab", (made,), tuple(shown), picture,
        lambda: [[frame.x_t, frame.x0] for frame in run.job.frames], record, link,
    )  # fmt: skip
