"""The one place with a network.

Invariants: a file counts as present only after its hash was verified; nothing waits longer than a
few seconds for a server that does not answer; importing this module opens no connection.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import queue
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from sr3.errors import DownloadError

PATIENCE = 3.0  # seconds to wait for a connection, or for more data
LONGEST_DOWNLOAD = 600.0  # seconds


def download(url: str, path: Path) -> None:
    """Fetch into `path` in one piece or not at all, checked against the hash in its name.

    As torchvision names its files, NAME-xxxxxxxx.pth: the SHA-256 begins with those digits.
    Raises DownloadError, within seconds where nothing answers.
    """
    try:
        _fetch(url, path)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError((str(error).splitlines() or [type(error).__name__])[0]) from error


def _fetch(url: str, path: Path) -> None:
    expected = path.stem.rsplit("-", 1)[1]  # torchvision's convention
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    deadline = time.monotonic() + LONGEST_DOWNLOAD
    digest = hashlib.sha256()
    try:
        with _open(url) as answer, part.open("wb") as file:
            while piece := answer.read(1 << 20):
                file.write(piece)
                digest.update(piece)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not done after {LONGEST_DOWNLOAD:.0f} s")
        if not digest.hexdigest().startswith(expected):
            raise OSError(f"the file from {url} has the wrong SHA-256")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _open(url: str) -> Any:
    """`urlopen` that gives up: looking up a name without a network obeys no timeout of a socket."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(url, timeout=PATIENCE))
        except (OSError, http.client.HTTPException) as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True, name="sr3-download").start()
    try:
        answer = answers.get(timeout=PATIENCE + 1)
    except queue.Empty:
        raise TimeoutError("no answer from the server") from None
    if isinstance(answer, Exception):
        raise answer
    return answer
