"""Several chains of one face as one run: started, polled and stopped together.

Invariants: a visitor has one run at a time, alone or in a group; a group never has more jobs in
the engine than the engine allows a visitor, the rest follow as places come free; a frame is shown
only when every chain has it, so that all stay in step.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import streamlit as st

from sr3.config import SamplerConfig
from sr3.engine import MAX_FRAMES, EngineBusy, Frame, Job
from sr3.errors import SR3Error
from sr3.images import Pixels
from sr3.jobs import ENDED
from sr3.pipeline import SuperResolver
from sr3.ui import service
from sr3.ui.inputs import Face
from sr3.ui.settings import step_count
from sr3.ui.stage import webp


@dataclass(frozen=True)
class Task:
    """One chain to run."""

    key: str  # what the network is: another key, another network
    title: str
    resolver: SuperResolver = field(compare=False)
    sampling: SamplerConfig
    seed: int
    sample: int = 0
    keep: int = MAX_FRAMES  # frames of it that stay
    checkpoint: str = ""  # the network's title, where `title` is another


@dataclass
class Group:
    """Tasks on one face with their jobs, in the tasks' order."""

    face: Face
    tasks: tuple[Task, ...]
    jobs: dict[int, Job] = field(default_factory=dict)  # by the task's place
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    reused: frozenset[int] = frozenset()  # tasks whose chains are an earlier group's
    stopped: bool = False
    waiting: str = ""  # why nothing has begun
    error: str = ""
    encoded: dict[tuple[int, int, str], str] = field(default_factory=dict)  # -> data URI

    def pump(self) -> None:
        """Submit what has a place in the engine."""
        if not self.stopped and len(self.jobs) < len(self.tasks):
            with service.engine().together(service.seat().visitor):
                self._submit()

    def _submit(self) -> None:
        engine, seat = service.engine(), service.seat()
        for place, task in enumerate(self.tasks):
            if place in self.jobs:
                continue
            if sum(job.status not in ENDED for job in self.jobs.values()) >= engine.max_per_visitor:
                return
            try:
                self.jobs[place] = engine.submit(
                    task.resolver, self.face.low_res, task.sampling,
                    seed=task.seed, sample=task.sample, visitor=seat.visitor, keep=task.keep,
                )  # fmt: skip
                self.waiting = ""
            except EngineBusy as busy:  # full, or our last run has not quite ended
                self.waiting = str(busy)
                return
            except SR3Error as error:
                self.error, self.stopped = str(error), True
                return

    def cancel(self) -> None:
        """Stop every chain at its next tick; what was drawn stays."""
        self.stopped |= not self.ended
        for job in self.jobs.values():
            job.cancel()

    @property
    def ended(self) -> bool:
        statuses = [job.status for job in self.jobs.values()]  # reading them counts as a poll
        every = self.stopped or len(self.jobs) == len(self.tasks)
        return every and all(status in ENDED for status in statuses)

    @property
    def fresh(self) -> list[Job]:
        """The jobs that were submitted for this group."""
        return [job for place, job in self.jobs.items() if place not in self.reused]

    @property
    def begun(self) -> bool:
        """Whether every chain has a frame."""
        return all(self.newest(place) is not None for place in range(len(self.tasks)))

    @property
    def position(self) -> int:
        """How many jobs of others are served before its first one: its own are nobody ahead."""
        return min((job.position for job in self.fresh if not job.ended), default=0)

    @property
    def seconds_left(self) -> float | None:
        """Until the last of the submitted chains has its picture, where that is known."""
        known = [job.seconds_left for job in self.jobs.values()]
        return max((each for each in known if each is not None), default=None)

    @property
    def failure(self) -> str:
        """A sentence where a chain failed."""
        errors = [job.error for job in self.jobs.values() if job.error]
        return self.error or (errors[0] if errors else "")

    @property
    def done(self) -> int:
        """Network evaluations so far."""
        return sum(round(job.progress * job.total) for job in self.jobs.values())

    @property
    def work(self) -> int:
        """Network evaluations in all."""
        return sum(task.sampling.steps for task in self.tasks)

    @property
    def seconds(self) -> float:
        """From the first submission to the last end, of the chains that were run for this."""
        starts = [job.submitted for job in self.fresh]
        ends = [job.submitted + job.seconds for job in self.fresh]
        return max(ends) - min(starts) if starts else 0.0

    def newest(self, place: int) -> Frame | None:
        """The newest frame of a task."""
        job = self.jobs.get(place)
        return job.newest if job else None

    def picture(self, place: int) -> Pixels | None:
        """The result, or the newest clean estimate, of a task."""
        frame = self.newest(place)
        return frame.x0 if frame else None

    @property
    def steps(self) -> int:
        """Of the longest chain."""
        return max(task.sampling.steps for task in self.tasks)

    @property
    def early(self) -> str:
        """What a caption says of chains that did not go to their end; "" where all did."""
        newest = [frame for place in range(len(self.tasks)) if (frame := self.newest(place))]
        taken = [frame.evaluations for frame in newest if frame.index < frame.total]
        return stopped_after(taken) if self.stopped or taken else ""

    def frames(self) -> list[tuple[int, list[Frame | None]]]:
        """(index, a frame a task) of all moments that every chain has reached; one that has ended
        before the others stays at its result."""
        jobs = [self.jobs.get(place) for place in range(len(self.tasks))]
        through = [job is not None and job.status == "done" for job in jobs]  # before its frames
        kept = [{frame.index: frame for frame in job.frames} if job else {} for job in jobs]
        every = sorted(set().union(*kept))
        for task, ended, frames in zip(self.tasks, through, kept, strict=True):
            if ended:
                last = task.sampling.steps
                frames |= {index: frames[last] for index in every if index > last}
        alive = [
            set(frames)
            for job, frames in zip(jobs, kept, strict=True)
            if job is None or job.status != "failed"
        ]
        common = set.intersection(*alive) if alive else set()
        return [(index, [frames.get(index) for frames in kept]) for index in sorted(common)]

    def encode(self, place: int, frame: Frame | None, what: str = "x0") -> str:
        """The clean estimate, or `x_t`, of a task's frame as a data URI, made once."""
        if frame is None:
            return ""
        key = place, frame.index, what
        if key not in self.encoded:
            self.encoded[key] = webp(frame.x0 if what == "x0" else frame.x_t)
        return self.encoded[key]


def stopped_after(taken: Sequence[int]) -> str:
    """What a caption says of chains that were stopped, from the steps that each has taken."""
    if not taken:
        return ", stopped early"
    least, most = min(taken), max(taken)
    return f", stopped early after {f'{least} to ' if least < most else ''}{step_count(most)}"


def start(slot: str, face: Face, tasks: Sequence[Task], *, reuse: bool = True) -> Group:
    """Start a group in place of the visitor's earlier run, kept in the session under `slot`.

    Finished chains of the earlier group of this slot that are the same are kept, not run again.
    """
    earlier: Group | None = st.session_state.get(slot)
    seat = service.seat()
    seat.clear()
    group = Group(face, tuple(tasks))
    if reuse and earlier is not None and earlier.face.identity == face.identity:
        old = {
            earlier.tasks[place]: job for place, job in earlier.jobs.items() if job.status == "done"
        }
        group.jobs = {k: old[task] for k, task in enumerate(group.tasks) if task in old}
        group.reused = frozenset(group.jobs)
    seat.take(group)
    group.pump()
    st.session_state[slot] = group
    return group


def begin(slot: str, face: Face, tasks: Sequence[Task]) -> None:
    """`start` anew, for a button."""
    start(slot, face, tasks, reuse=False)


def current(slot: str, face: Face | None) -> Group | None:
    """The group of a slot, if it is of this face; another one is stopped and let go."""
    group: Group | None = st.session_state.get(slot)
    if group is not None and (face is None or group.face.identity != face.identity):
        group.cancel()
        st.session_state.pop(slot, None)
        return None
    return group


def stop(slot: str) -> None:
    """Stop the group of a slot."""
    group: Group | None = st.session_state.get(slot)
    if group is not None:
        group.cancel()
