"""A run and how it is watched: start, poll, stop.

The engine works in its own thread; a fragment polls the job and hands new frames to the stage. A
visitor has one run at a time: starting another, choosing another face or closing the tab cancels it.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from functools import partial

import streamlit as st

from sr3.engine import Frame, Job
from sr3.errors import SR3Error
from sr3.images import Pixels, enlarge
from sr3.ui import service
from sr3.ui.inputs import Face
from sr3.ui.settings import Recipe
from sr3.ui.stage import Moment, Picture, Scene, png, show, webp

POLL = 0.15  # seconds
ENDED = ("done", "cancelled", "failed")
EMPTY = Picture("Noisy image", "what the sampler works on", alt="Appears when the run starts.")


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
    def picture(self) -> Pixels | None:
        """The result, or the newest clean estimate of a run that was stopped."""
        newest = self.job.newest
        return newest.x0 if self.ended and newest is not None else None


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


def start_again(face: Face, recipe: Recipe) -> None:
    """Start with the next seed."""
    seed = recipe.seed + 1
    st.session_state["sr3_seed"] = seed
    start(face, Recipe(recipe.resolver, recipe.title, recipe.sampling, seed))


def controls(face: Face | None, recipe: Recipe, run: Run | None) -> None:
    """The one primary button, which is Stop while a run is under way; refusals and failures."""
    if run is not None and not run.ended:
        st.button("Stop", on_click=stop, icon=":material/stop:", key="sr3_stop", width=200)
    else:
        st.button(
            "Super-resolve", on_click=start, args=(face, recipe), type="primary",
            icon=":material/auto_awesome:", key="sr3_start", width=200, disabled=face is None,
        )  # fmt: skip
    refusal = st.session_state.pop("sr3_refusal", None)
    if run is not None and run.job.status == "failed":
        refusal = run.job.error
    if refusal:
        st.error(refusal, icon=":material/error:")


def watch(face: Face | None, run: Run | None) -> None:
    """The stage, polling while a run is under way; the page is drawn again when it ends."""
    live = run is not None and not run.ended
    st.fragment(partial(_watch, face, run, live), run_every=POLL if live else None)()


def _watch(face: Face | None, run: Run | None, live: bool) -> None:
    if face is None:
        show(Scene(_nothing(), "Choose a face to begin."))
    elif run is None:
        show(Scene(_before(face), "Ready. One press, and the network fills in what is missing."))
    elif live and run.ended:
        st.rerun()
    else:
        show(_scene(face, run, live))


def _scene(face: Face, run: Run, live: bool) -> Scene:
    job, low = run.job, run.face.low_res.shape[0]
    new = [frame for frame in job.frames if not live or frame.index not in run.moments]
    frames = [_moment(run, frame) for frame in new]
    newest = job.newest
    playing = _before(face) | {
        "a": Picture(
            "Clean estimate", "the network's guess of the finished face", alt="Clean estimate"
        ),
        "b": Picture("Noisy image", "what the sampler works on", alt="Noisy image"),
    }
    if live:
        ahead = job.position
        waiting = (
            f"Waiting: {ahead} ahead of you." if job.status == "waiting" and ahead else "Starting …"
        )
        left = job.seconds_left
        return Scene(
            _before(face), waiting, f"about {left:.1f} s left" if left else "", "Started.", run.name,
            True, playing, frames, 0, job.total,
        )  # fmt: skip
    at = newest.index if newest else 0
    if job.status == "done":
        status = f"Done: {low} × {low} became {face_size(run)} in {job.total} steps."
    elif newest is not None:
        status = f"Stopped after step {min(newest.index + 1, job.total)} of {job.total}; what was there is kept."
    else:
        status = "Stopped before the first step."
    return Scene(
        _after(face, run), status, f"{job.seconds:.1f} s", status, run.name, False, playing, frames,
        at, job.total,
    )  # fmt: skip


def face_size(run: Run) -> str:
    high = run.recipe.resolver.high_size
    return f"{high} × {high}"


def _moment(run: Run, frame: Frame) -> Moment:
    """A frame as the stage plays it."""
    if frame.index not in run.moments:
        noise = 100 * (1 - frame.noise_level**2)  # share of the variance
        step = min(frame.index + 1, frame.total)
        status = f"Step {step} of {frame.total} · {noise:.{1 if noise < 10 else 0}f} % noise"
        run.moments[frame.index] = Moment(
            frame.index, frame.total, status, webp(frame.x0), webp(frame.x_t)
        )
    return run.moments[frame.index]


def _nothing() -> dict[str, Picture]:
    hint = "Choose a face."
    return {
        "a": Picture("Network input", "", alt=hint),
        "b": Picture("Bicubic enlargement", "", alt=hint),
        "c": Picture("Original", ""),
        "d": Picture("Input", ""),
    }


def _before(face: Face) -> dict[str, Picture]:
    """Before a run: what the network will be given, large, and the usual enlargement."""
    low = f"{face.low_res.shape[0]} × {face.low_res.shape[0]} pixels"
    given = png(face.low_res)
    bicubic = png(enlarge(face.low_res))
    if face.original is None:
        small = Picture("Original", "not known", alt="none")
    else:
        high = f"{face.original.shape[0]} × {face.original.shape[0]}"
        small = Picture("Original", high, png(face.original), "The original face")
    return {
        "a": Picture(
            "Reduced face", f"all the network is given: {low}", given, "The reduced face", True
        ),
        "b": Picture("Bicubic", "the usual smooth enlargement", bicubic, "The bicubic enlargement"),
        "c": small,
        "d": Picture("Input", low, given, "The reduced face", True),
    }


def _after(face: Face, run: Run) -> dict[str, Picture]:
    """After a run: a before/after slider, beside the original where there is one."""
    scene = _before(face)
    picture = run.picture
    if picture is None:
        return scene
    bicubic = scene["b"]
    scene["a"] = Picture(
        "Bicubic | SR3", "drag the line, or use the arrow keys", png(picture), "The super-resolved face",
        before=bicubic.image, before_title="bicubic",
    )  # fmt: skip
    if face.original is not None:
        scene["b"] = Picture(
            "Original", "the network never saw it", png(face.original), "The original face"
        )
        scene["c"] = Picture("Bicubic", "for comparison", bicubic.image, bicubic.alt)
    return scene
