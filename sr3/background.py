"""Work in a thread that ends with the program.

An executor's threads are waited for when the interpreter ends: a server that was told to stop would
first finish its download.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def in_background(name: str, work: Callable[[], T]) -> Future[T]:
    """What `work` gives or raises, from a new thread of that name."""
    future: Future[T] = Future()

    def fulfil() -> None:
        try:
            found = work()
        except BaseException as error:  # whoever asks for the result is told
            future.set_exception(error)
        else:
            future.set_result(found)

    threading.Thread(target=fulfil, name=name, daemon=True).start()
    return future
