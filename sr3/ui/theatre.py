"""A group of chains on a board: its one button, its polling, its end; the same for every page.

A page says which tasks there are and how they look; another set of tasks (a slider was moved)
starts again by itself once the visitor has started, and chains that are the same are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import streamlit as st

from sr3.ui import board, group
from sr3.ui.board import Board
from sr3.ui.frame import quiet_notice, small_print
from sr3.ui.group import Group, Task
from sr3.ui.inputs import Face
from sr3.ui.polling import MANY, await_event, draw_again, follow
from sr3.ui.stage import Picture

ARRIVED = "sr3_arrived"  # key of the session: a link asks for a run
Scene = Callable[[Face, Group | None, bool], Board]  # face, group, whether it is under way


def perform(
    slot: str, face: Face | None, tasks: Sequence[Task], scene: Scene, *, label: str, icon: str,
    lacking: str = "",
) -> Group | None:  # fmt: skip
    """The button and the board; gives the group once it has ended with something to show.

    `lacking`: a sentence that says what is to be chosen first, where something is.
    """
    found = group.current(slot, face)
    if face is not None and tasks and not lacking:
        moved = found is not None and set(found.tasks) != set(tasks)
        if moved or (found is None and st.session_state.pop(ARRIVED, None)):
            found = group.start(slot, face, tasks)
    live = found is not None and not found.ended
    # One key and type for both faces of the button: it stays in its place and keeps the focus.
    main: dict[str, Any] = {"key": f"{slot}_main", "width": 200, "type": "primary"}
    if live:
        st.button("Stop", on_click=group.stop, args=(slot,), icon=":material/stop:", **main)
    else:
        st.button(
            label, on_click=group.begin, args=(slot, face, tasks), icon=icon,
            disabled=face is None or not tasks or bool(lacking), **main,
        )  # fmt: skip
    if lacking:
        small_print(lacking)
    if found is not None and found.failure:
        st.error(found.failure, icon=":material/error:")
    quiet_notice()
    follow(partial(_watch, slot, face, found, live, scene), live, MANY)
    return found if found is not None and not live and found.newest(0) is not None else None


def _watch(slot: str, face: Face | None, found: Group | None, live: bool, scene: Scene) -> None:
    going = live and found is not None
    if going and found is not None:
        found.pump()
        await_event(found, MANY)
        going = not found.ended
    if face is None:
        shown = Board([Picture("Input", "", alt="–")], "Choose a face to begin.")
    else:
        shown = scene(face, found, going)
    board.show(shown, f"{slot}_board")
    if live and not going:
        draw_again()


def status(found: Group | None, live: bool, ready: str, done: str) -> tuple[str, str]:
    """The status line, and what stands at its right end."""
    if found is None:
        return ready, ""
    if not live:
        ended = "Failed" if found.failure else "Stopped" if found.early else ""
        said = f"{ended}; what was there is kept." if ended else done
        return said, f"{found.seconds:.1f} s"
    left = found.seconds_left
    time = f"about {left:.1f} s left" if left else ""
    if not any(job.evaluations for job in found.fresh):
        ahead = found.position
        place = f"Waiting: {ahead} ahead of you." if ahead else "Starting …"
        return found.waiting or place, time
    return f"Working: {found.done} of {found.work} evaluations.", time
