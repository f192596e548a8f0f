"""One life of a worker thread, as a watchdog sees it: what it has in hand, and since when.

Invariants: what it does is told in one piece, so that the watchdog needs no lock to read it; one
that is over stops at its own next `check`, since no thread can be stopped from outside.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Superseded(Exception):
    """A worker that was replaced came back: nobody waits for what it brings."""


class Shift(Generic[Item]):
    """A thread that works until it is done, dies or is replaced."""

    def __init__(self, work: Callable[[Shift[Item]], None], name: str) -> None:
        self.hand: Sequence[Item] = ()
        self.over = False  # it was replaced
        self.error: BaseException | None = None  # what it died of
        self._task: tuple[float, float] | None = None  # when it began, how long it may take
        self._work = work
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def _run(self) -> None:
        try:
            self._work(self)
        except Superseded:
            pass
        except BaseException as error:
            self.error = error  # the watchdog logs it

    def allow(self, seconds: float) -> None:
        """What begins now is taken to hang after so many seconds."""
        self._task = time.monotonic(), seconds

    def rest(self) -> None:
        """It waits for something to do, however long."""
        self.hand, self._task = (), None

    def check(self) -> None:
        """Raises Superseded once it is over."""
        if self.over:
            raise Superseded

    @property
    def dead(self) -> bool:
        """Whether the thread is gone."""
        return not self.thread.is_alive()

    @property
    def hangs(self) -> float:
        """The seconds that what it does was allowed to take and has outlasted; else 0."""
        task = self._task
        return task[1] if task is not None and time.monotonic() - task[0] > task[1] else 0.0
