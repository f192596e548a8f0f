"""A run and how it is watched: start, poll, stop.

The engine works in its own thread; a fragment polls the job and hands new frames to the stage.
A visitor has one run at a time: starting another, choosing another face or closing the tab
cancels it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import streamlit as st

from sr3.engine import Frame, Job
from sr3.errors import SR3Error
from sr3.images import Pixels, enlarge
from sr3.jobs import ENDED
from sr3.ui import service
from sr3.ui.frame import quiet_notice
from sr3.ui.inputs import Face
from sr3.ui.polling import await_event, draw_again, follow
from sr3.ui.settings import Recipe
from sr3.ui.stage import Moment, Picture, Scene, png, show, webp

DOUBLE_CLICK = 0.3  # seconds
# The one primary button; it has one type, since another would be another button to the browser.
MAIN: dict[str, Any] = {"key": "sr3_main", "width": 200, "type": "primary"}
AT_ONCE = True  # whether a first visit starts with a run


@dataclass
class Run:
    """One job of a visitor, with what it was made from."""

    face: Face
    recipe: Recipe
    job: Job
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    moments: dict[int, Moment] = field(default_factory=dict)  # encoded once

    @property
    def ended(self) -> bool:
        return self.job.status in ENDED

    @property
    def begun(self) -> bool:
        """Whether there is a frame."""
        return self.job.newest is not None

    @property
    def position(self) -> int:
        """How many jobs are served before it."""
        return self.job.position

    @property
    def seconds_left(self) -> float | None:
        """Until the picture is there."""
        return self.job.seconds_left

    @cached_property
    def before(self) -> dict[str, Picture]:
        """The pictures from before the run, encoded once."""
        return _before(self.face, png)

    @cached_property
    def passing(self) -> dict[str, Picture]:
        """The same while it is under way, when they are sent again and again."""
        return _before(self.face, webp)

    @property
    def picture(self) -> Pixels | None:
        """The result, or the newest clean estimate of a run that was stopped."""
        newest = self.job.newest
        return newest.x0 if self.ended and newest is not None else None


def first_visit() -> bool:
    """Whether a run is to start by itself, once: a result is there to be looked at."""
    return AT_ONCE and not st.session_state.get("sr3_been_here")


def arrive(face: Face | None, recipe: Recipe) -> None:
    """Start by itself for a link, and on a first visit."""
    state, first = st.session_state, first_visit()
    state["sr3_been_here"] = True
    if (state.pop("sr3_arrived", None) or first) and face is not None:
        start(face, recipe)


def current(face: Face | None) -> Run | None:
    """The visitor's run on this face; a run on another face is cancelled."""
    run: Run | None = st.session_state.get("sr3_run")
    if run is not None and (face is None or run.face.identity != face.identity):
        stop()
        st.session_state.pop("sr3_run", None)
        return None
    return run


def start(face: Face, recipe: Recipe) -> None:
    """Submit a job in place of the visitor's earlier one; a refusal is kept for `refusal`."""
    seat = service.seat()
    seat.clear()
    try:
        job = service.engine().submit(
            recipe.resolver, face.low_res, recipe.sampling, seed=recipe.seed, visitor=seat.visitor
        )
    except SR3Error as error:
        st.session_state["sr3_refusal"] = str(error)
        return
    seat.take(job)
    st.session_state["sr3_run"] = Run(face, recipe, job)


def stop() -> None:
    """Cancel the visitor's job; its frames stay."""
    service.seat().clear()


def stop_on_purpose() -> None:
    """Stop, unless this is the second half of a double click on the start button."""
    run: Run | None = st.session_state.get("sr3_run")
    if run is not None and run.job.seconds > DOUBLE_CLICK:
        stop()


def start_again(face: Face, recipe: Recipe) -> None:
    """Start with the next seed, which `controls` then shows."""
    seed = recipe.seed + 1
    st.session_state["sr3_seed"] = seed
    start(face, Recipe(recipe.resolver, recipe.title, recipe.sampling, seed))


def controls(face: Face | None, recipe: Recipe, run: Run | None) -> None:
    """The one primary button, which is Stop while a run is under way; refusals and failures."""
    if st.session_state.get("sr3_seed", recipe.seed) != recipe.seed:
        st.rerun()  # the seed's field is in another part of the page
    going = run is not None and not run.ended
    # One key and type for both faces of the button: it stays in its place and keeps the focus.
    if going:
        st.button("Stop", on_click=stop_on_purpose, icon=":material/stop:", **MAIN)
    else:
        st.button(
            "Super-resolve", on_click=start, args=(face, recipe),
            icon=":material/auto_awesome:", disabled=face is None, **MAIN,
        )  # fmt: skip
    refusal = st.session_state.pop("sr3_refusal", None)
    if run is not None and run.job.status == "failed":
        refusal = run.job.error
    if refusal:
        st.error(refusal, icon=":material/error:")
    quiet_notice()


def watch(face: Face | None, run: Run | None) -> None:
    """The stage, polling while a run is under way; the page is drawn again when it ends."""
    live = run is not None and not run.ended
    follow(partial(_watch, face, run, live), live)


def _watch(face: Face | None, run: Run | None, live: bool) -> None:
    if face is None:
        show(Scene(_nothing(), "Choose a face to begin."))
    elif run is None:
        ready = "Ready. One press, and the network fills in what is missing."
        show(Scene(_before(face, png), ready))
    elif live:
        await_event(run)
        going = not run.ended
        show(_scene(run, going))
        if not going:
            draw_again()
    else:
        show(_scene(run, False))


def _scene(run: Run, live: bool) -> Scene:
    """The stage of a run: of one under way only the frames since the last poll are sent, or the
    newest, since a page that has just got ready saw none before."""
    job = run.job
    frames = job.frames
    new = [frame for frame in frames if not live or frame.index not in run.moments]
    moments = [_moment(run, frame) for frame in new or frames[-1:]]
    playing = run.passing | {
        "a": Picture("Clean estimate", "what the network expects", alt="The clean estimate"),
        "b": Picture("Noisy image", "what the sampler works on", alt="The noisy image"),
    }
    if live:
        ahead, left = job.position, job.seconds_left
        status = f"Waiting: {ahead} ahead of you." if ahead and not frames else "Starting …"
        still = {} if frames else run.passing
        return Scene(
            still, status, f"about {left:.1f} s left" if left else "", "Started.", run=run.name,
            live=True, playing=playing, frames=moments, total=job.total,
        )  # fmt: skip
    status = _outcome(run)
    return Scene(
        _after(run), status, f"{job.seconds:.1f} s", status, run=run.name, playing=playing,
        frames=moments, at=frames[-1].index if frames else 0, total=job.total,
    )  # fmt: skip


def _outcome(run: Run) -> str:
    """How an ended run went, as the stage says it."""
    job = run.job
    low, high = run.face.low_res.shape[0], run.recipe.resolver.high_size
    if job.status == "done":
        steps = f"{job.total} step{'s' if job.total > 1 else ''}"
        return f"Done: {low} × {low} became {high} × {high} in {steps}."
    newest, verb = job.newest, "Failed" if job.status == "failed" else "Stopped"
    if newest is None:
        return f"{verb} before the first step."
    return f"{verb} at step {newest.index + 1} of {job.total}; what was there is kept."


def _moment(run: Run, frame: Frame) -> Moment:
    """A frame as the stage plays it."""
    if frame.index not in run.moments:
        status = step_line(frame.index, frame.total, frame.noise_level)
        run.moments[frame.index] = Moment(
            frame.index, frame.total, status, webp(frame.x0), webp(frame.x_t)
        )
    return run.moments[frame.index]


def step_line(index: int, total: int, noise_level: float) -> str:
    """Where a chain stands, for the status line."""
    noise = 100 * (1 - noise_level**2)  # share of the variance
    digits = 1 if noise < 10 else 0
    return f"Step {min(index + 1, total)} of {total} · {noise:.{digits}f} % noise"


def _nothing() -> dict[str, Picture]:
    """The stage without a face."""
    titles = {"a": "Reduced face", "b": "Bicubic", "c": "Original", "d": "Input"}
    return {slot: Picture(title, "", alt="–") for slot, title in titles.items()}


def _before(face: Face, encode: Callable[[Pixels], str]) -> dict[str, Picture]:
    """Before a run: what the network will be given, large, and the usual enlargement."""
    side = face.low_res.shape[0]
    low, given = f"{side} × {side} pixels", png(face.low_res)
    original = Picture("Original", "there is none", alt="–")
    if face.original is not None:
        high = f"{face.original.shape[0]} × {face.original.shape[0]}"
        original = Picture("Original", high, encode(face.original), "The original face")
    bicubic = encode(enlarge(face.low_res))
    return {
        "a": Picture("Reduced face", f"{low}: all that is given", given, "The reduced face", True),
        "b": Picture("Bicubic", "the usual enlargement", bicubic, "The bicubic enlargement"),
        "c": original,
        "d": Picture("Input", low, given, "The reduced face", True),
    }


def _after(run: Run) -> dict[str, Picture]:
    """After a run: a before/after slider, beside the original where there is one."""
    pictures, picture, original = dict(run.before), run.picture, run.before["c"]
    if picture is None:
        return pictures
    bicubic = pictures["b"]
    pictures["a"] = Picture(
        "Bicubic | SR3", "drag the line, or use the arrow keys", png(picture),
        "The super-resolved face", before=bicubic.image, before_title="bicubic",
    )  # fmt: skip
    if original.image:
        pictures["b"] = replace(original, note="the network never saw it")
        pictures["c"] = replace(bicubic, note="for comparison")
    return pictures
