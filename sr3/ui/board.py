"""The board: any number of equal squares in step, with a timeline, a lens and a play button.

Like the stage it is mounted once and only its data change, so nothing moves when frames arrive. A
frame changes all squares at once; the lens shows the same place of each. Look and behaviour are in
`board.css`, `player.js` and `board.js`; no request leaves the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from sr3.ui.stage import PLAYER, Picture

_HERE = Path(__file__).parent
_board = st.components.v2.component(
    "sr3_board",
    css=(_HERE / "board.css").read_text(encoding="utf-8"),
    js=PLAYER + (_HERE / "board.js").read_text(encoding="utf-8"),
)


@dataclass(frozen=True)
class Beat:
    """One moment of all squares: an image each, "" for one that does not change."""

    index: int
    status: str
    images: tuple[str, ...]  # data URIs
    notes: tuple[str, ...] = ()  # captions; the pictures' own where there are none


@dataclass(frozen=True)
class Board:
    """All that the board shows. `pictures` is what is seen before and after the frames."""

    pictures: Sequence[Picture]
    status: str
    left: str = ""  # at the right end of the status line
    announce: str = ""  # for screen readers
    run: str = ""  # another name: another run, whose frames are played from the start
    live: bool = False
    frames: Sequence[Beat] = ()
    at: int = 0
    total: int = 1
    columns: int = 4  # on a wide screen; two on a phone
    timeline: bool = True
    lens: tuple[float, float] | None = None  # where it stands at first, in [0, 1]; None: no lens
    # (share of the run, share of noise) at each step, drawn under the timeline; None: no curve
    path: Sequence[tuple[float, float]] | None = None
    pace: int = 70  # shortest time a frame is shown, milliseconds
    label: str = "Pictures"


def show(board: Board, key: str) -> None:
    """Draw the board at this place of the page."""
    data: dict[str, Any] = asdict(board)
    data["stamp"] = str(hash(repr(data)))  # what was settled once is not drawn again
    _board(key=key, data=data)
